"""Word：老师手里的文件各种各样，读出来的要和打开看到的一样。文件都在测试里现做。"""

import docx
import pytest
from fakes.documents import rewritten, strict, zipped

from labutils.dataset.formats import read_pages

OPEN = "http://schemas.openxmlformats.org"
WORD = f'xmlns:w="{OPEN}/wordprocessingml/2006/main"'
SPACES = (f'{WORD} xmlns:m="{OPEN}/officeDocument/2006/math" xmlns:v="urn:v" xmlns:wps="urn:wps" '
          f'xmlns:mc="{OPEN}/markup-compatibility/2006" xmlns:o="urn:o"')
LINKS = f'xmlns="{OPEN}/package/2006/relationships"'
TYPE = f"{OPEN}/officeDocument/2006/relationships"


def links(targets):
    return f"<Relationships {LINKS}>" + "".join(
        f'<Relationship Id="r{i}" Type="{TYPE}/{kind}" Target="{target}"/>'
        for i, (kind, target) in enumerate(targets.items())) + "</Relationships>"


def word(tmp_path, body, **parts):
    """只有这几个部件的 .docx；返回读出的全文，节与节之间空一行。"""
    files = {"_rels/.rels": links({"officeDocument": "word/document.xml"}),
             "word/_rels/document.xml.rels": links({kind: f"{kind}.xml" for kind in parts}),
             "word/document.xml": f"<w:document {SPACES}><w:body>{body}</w:body></w:document>"}
    files |= {f"word/{kind}.xml": f"<w:{kind} {SPACES}>{text}</w:{kind}>" for kind, text in parts.items()}
    return "\n\n".join(page.text for page in read_pages(zipped(tmp_path / "a.docx", files)))


def p(content, style=""):
    return f"<w:p><w:pPr>{style}</w:pPr>{content}</w:p>"


def r(text, style=""):
    return f"<w:r><w:rPr>{style}</w:rPr><w:t>{text}</w:t></w:r>"


# —— Word：文件的种类 ——


@pytest.mark.parametrize("suffix, change", [
    (".docx", lambda text: text),
    (".docx", strict),
    *((suffix, lambda text, kind=kind: text.replace(
        "vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml", kind))
      for suffix, kind in [(".docx", "vnd.ms-word.document.macroEnabled.main+xml"),
                           (".docm", "vnd.ms-word.document.macroEnabled.main+xml"),
                           (".dotx", "vnd.openxmlformats-officedocument.wordprocessingml.template.main+xml"),
                           (".dotm", "vnd.ms-word.template.macroEnabledTemplate.main+xml")])])
def test_every_kind_of_word_file(tmp_path, suffix, change):
    document = docx.Document()
    document.add_heading("借书", 1)
    document.add_paragraph("借书期限是三十天。")
    document.add_paragraph("每人五册", style="List Number")
    document.add_table(1, 2).cell(0, 1).text = "续借"
    path = tmp_path / f"a{suffix}"
    document.save(path)
    page, = read_pages(rewritten(path, change))
    assert page.text == "借书\n借书期限是三十天。\n1. 每人五册\n| 续借"


def test_main_part_may_have_another_name(tmp_path):
    """网页版 Word 存的主文档叫 document2.xml。"""
    path = zipped(tmp_path / "a.docx", {
        "_rels/.rels": links({"officeDocument": "/word/document2.xml"}),
        "word/document2.xml": f"<w:document {WORD}><w:body>{p(r('开馆时间。'))}</w:body></w:document>"})
    assert read_pages(path)[0].text == "开馆时间。"


def test_sections_by_outline_and_by_chinese_style_names(tmp_path):
    styles = ('<w:style w:styleId="1"><w:name w:val="heading 1"/></w:style>'
              '<w:style w:styleId="a"><w:name w:val="标题 2"/></w:style>'
              '<w:style w:styleId="b"><w:name w:val="章"/><w:pPr><w:outlineLvl w:val="0"/></w:pPr></w:style>'
              '<w:style w:styleId="c"><w:name w:val="我的章"/><w:basedOn w:val="b"/></w:style>'
              '<w:style w:styleId="3"><w:name w:val="heading 3"/><w:basedOn w:val="1"/>'
              '<w:pPr><w:outlineLvl w:val="2"/></w:pPr></w:style>')
    body = "".join(p(r(f"{name}题"), f'<w:pStyle w:val="{name}"/>') + p(r("文。")) for name in "1abc3")
    body += p(r("大纲"), '<w:outlineLvl w:val="1"/>') + p(r("文。"))
    assert word(tmp_path, body, styles=styles).split("\n\n") == [
        "1题\n文。", "a题\n文。", "b题\n文。", "c题\n文。\n3题\n文。", "大纲\n文。"]


@pytest.mark.parametrize("inside", [
    '<!DOCTYPE w [<!ENTITY a "哈"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>',
    '<!DOCTYPE w [<!ENTITY c SYSTEM "secret.txt">]>'])
def test_entities_are_not_expanded(tmp_path, inside, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text("秘密", encoding="utf-8")
    body = f"<w:document {WORD}><w:body>{p(r('前&c;'))}{p(r('后'))}</w:body></w:document>"
    page, = read_pages(zipped(tmp_path / "a.docx", {"word/document.xml": inside + body}))
    assert page.text == "前\n后"


# —— Word：自动编号 ——


def level(number, form, text, start=1, more=""):
    return (f'<w:lvl w:ilvl="{number}"><w:start w:val="{start}"/><w:numFmt w:val="{form}"/>{more}'
            f'<w:lvlText w:val="{text}"/></w:lvl>')


def lists(*definitions, more=""):
    """每个定义一个列表，编号都从 1 起。"""
    return "".join(f'<w:abstractNum w:abstractNumId="{i}">{text}</w:abstractNum>'
                   for i, text in enumerate(definitions, 1)) + "".join(
        f'<w:num w:numId="{i}"><w:abstractNumId w:val="{i}"/></w:num>'
        for i in range(1, len(definitions) + 1)) + more


def item(text, number=1, ilvl=0):
    style = f'<w:numPr><w:ilvl w:val="{ilvl}"/><w:numId w:val="{number}"/></w:numPr>'
    return p(r(text) if text else "", style)


@pytest.mark.parametrize("case", """
    chineseCountingThousand  %1、     1    一、甲
    chineseCountingThousand  第%1条   29   第二十九条 甲
    chineseCountingThousand  第%1条   101  第一百零一条 甲
    chineseCountingThousand  第%1条   110  第一百一十条 甲
    chineseCounting          （%1）   10   （十）甲
    japaneseCounting         %1、     20   二十、甲
    chineseLegalSimplified   %1、     12   壹拾贰、甲
    ideographTraditional     %1．     3    丙．甲
    ideographZodiac          %1       1    子 甲
    decimal                  (%1)     7    (7) 甲
    decimal                  图%1-    2    图2- 甲
    decimalZero              %1.      3    03. 甲
    upperLetter              %1.      28   BB. 甲
    lowerLetter              %1)      3    c) 甲
    upperRoman               %1.      49   XLIX. 甲
    lowerRoman               %1.      4    iv. 甲
    decimalEnclosedCircle    %1       3    ③ 甲
    decimalEnclosedCircleChinese %1   21   ㉑ 甲
    none                     附录     1    附录 甲
    bullet                   \uf06c  1    • 甲
    aFormatOfTheFuture       %1.      5    5. 甲""".strip().splitlines())
def test_automatic_numbers(tmp_path, case):
    form, text, start, shown = case.split(maxsplit=3)
    assert word(tmp_path, item("甲"), numbering=lists(level(0, form, text, start))) == shown


def test_empty_number_and_number_set_tight(tmp_path):
    tight = level(0, "decimal", "%1", more='<w:suff w:val="nothing"/>')
    body = item("甲") + item("乙", 2)
    assert word(tmp_path, body, numbering=lists(level(0, "none", ""), tight)) == "甲\n1乙"


def test_numbers_of_several_levels(tmp_path):
    levels = {"总则": 0, "目的": 1, "依据": 1, "细": 2, "附则": 0, "施行": 1}
    body = "".join(item(text, 1, ilvl) for text, ilvl in levels.items())
    numbering = lists(level(0, "chineseCounting", "第%1章") + level(1, "decimal", "%1.%2", more="<w:isLgl/>")
                      + level(2, "lowerLetter", "%3)"))
    assert word(tmp_path, body, numbering=numbering).split("\n") == [
        "第一章 总则", "1.1 目的", "1.2 依据", "a) 细", "第二章 附则", "2.1 施行"]


def test_level_that_never_restarts_and_level_skipped(tmp_path):
    one = level(0, "decimal", "%1") + level(1, "decimal", "%1.%2", more='<w:lvlRestart w:val="0"/>')
    body = item("甲", 1, 1) + item("乙") + item("丙", 1, 1)
    assert word(tmp_path, body, numbering=lists(one)) == "1.1 甲\n2 乙\n2.2 丙"


def test_lists_of_one_definition_go_on_unless_restarted(tmp_path):
    more = ('<w:num w:numId="7"><w:abstractNumId w:val="1"/></w:num>'
            '<w:num w:numId="8"><w:abstractNumId w:val="1"/><w:lvlOverride w:ilvl="0">'
            '<w:startOverride w:val="5"/></w:lvlOverride></w:num>'
            '<w:num w:numId="9"><w:abstractNumId w:val="1"/><w:lvlOverride w:ilvl="0">'
            f'{level(0, "upperLetter", "%1)")}</w:lvlOverride></w:num>')
    body = item("甲") + p(r("隔开")) + item("乙") + item("丙", 7)
    body += item("丁", 8) + item("戊", 8) + item("己", 9)
    assert word(tmp_path, body, numbering=lists(level(0, "decimal", "%1."), more=more)).split("\n") == [
        "1. 甲", "隔开", "2. 乙", "3. 丙", "5. 丁", "6. 戊", "G) 己"]


def test_numbers_of_styles(tmp_path):
    """编号写在样式里：自己写，或从依据的样式来；numId 0 是不编号。"""
    based = '<w:basedOn w:val="a"/>'
    styles = "".join(
        f'<w:style w:styleId="{name}">{above}<w:pPr><w:numPr>{number}</w:numPr></w:pPr></w:style>'
        for name, above, number in [
            ("a", "", '<w:numId w:val="1"/>'), ("b", based, '<w:ilvl w:val="1"/>'),
            ("d", based, '<w:numId w:val="0"/>')])
    numbering = lists(level(0, "decimal", "%1") + level(1, "decimal", "%1.%2"))
    body = "".join(p(r("题"), f'<w:pStyle w:val="{name}"/>') for name in "abda")
    body += p(r("题"), '<w:pStyle w:val="a"/><w:numPr><w:numId w:val="0"/></w:numPr>')
    assert word(tmp_path, body, styles=styles, numbering=numbering).split("\n") == [
        "1 题", "1.1 题", "题", "2 题", "题"]


def test_list_style_empty_items_and_number_cells(tmp_path):
    numbering = lists('<w:numStyleLink w:val="L"/>', f'<w:styleLink w:val="L"/>{level(0, "decimal", "[%1]")}')
    row = f"<w:tr><w:tc>{item('')}</w:tc><w:tc>{p(r('甲'))}</w:tc></w:tr>"
    body = item("文献") + item("") + item("文献", 2) + f"<w:tbl>{row * 2}</w:tbl>" + item("没有这个列表", 9)
    assert word(tmp_path, body, numbering=numbering).split("\n") == [
        "[1] 文献", "[3] 文献", "[4] | 甲", "[5] | 甲", "没有这个列表"]


# —— Word：公式与域 ——


def m(text):
    return f"<m:r><m:t>{text}</m:t></m:r>"


def omml(tag, more="", **parts):
    return f"<m:{tag}>{more}" + "".join(f"<m:{k}>{v}</m:{k}>" for k, v in parts.items()) + f"</m:{tag}>"


def marks(tag, **values):
    return f"<m:{tag}Pr>" + "".join(f'<m:{k} m:val="{v}"/>' for k, v in values.items()) + f"</m:{tag}Pr>"


def rows(tag, *texts):
    return f"<m:{tag}>" + "".join(f"<m:e>{m(text)}</m:e>" for text in texts) + f"</m:{tag}>"


HALF = omml("f", num=m("1"), den=m("2"))
CHOOSE = omml("f", marks("f", type="noBar"), num=m("n"), den=m("k"))
LIMIT = omml("limLow", e=m("lim"), lim=m("x→0"))


@pytest.mark.parametrize("formula, shown", [
    (omml("f", num=m("a+b"), den=m("2")), "(a+b)/2"),
    (m("y=") + HALF + m("x"), "y=(1/2)x"), (m("2") + HALF, "2(1/2)"), (HALF + HALF, "(1/2)(1/2)"),
    (omml("f", marks("f", type="bar"), num=m("1"), den=m("2a")), "1/(2a)"),
    (omml("f", num=HALF, den=m("3")), "(1/2)/3"),
    (omml("sSup", e=m("x"), sup=m("2")), "x^2"), (omml("sSup", e=m("e"), sup=m("-x")), "e^(-x)"),
    (omml("sSub", e=m("x"), sub=m("1")), "x_1"), (omml("sSup", e=HALF, sup=m("n")), "(1/2)^n"),
    (omml("sSubSup", e=m("x"), sub=m("i"), sup=m("2")), "x_i^2"),
    (omml("sPre", sub=m("6"), sup=m("12"), e=m("C")), "_6^12C"),
    (omml("rad", deg="", e=m("x")), "√(x)"), (omml("rad", deg=m("3"), e=m("x+1")), "√[3](x+1)"),
    (omml("nary", marks("nary", chr="∑"), sub=m("i=1"), sup=m("n"), e=m("i")), "∑_(i=1)^n i"),
    (omml("nary", sub=m("0"), sup=m("1"), e=m("xdx")), "∫_0^1 xdx"), (omml("d", e=CHOOSE), "(n¦k)"),
    (omml("d", marks("d", begChr="{", endChr=""), e=rows("eqArr", "x&amp;=1", "y&amp;=2")), "{x=1; y=2"),
    (f"<m:m><m:mPr/>{rows('mr', 'a', 'b')}{rows('mr', 'c', 'd')}</m:m>", "[a, b; c, d]"),
    (omml("func", fName=m("sin"), e=m("x")), "sin(x)"), (omml("func", fName=LIMIT, e=m("x")), "lim_(x→0)(x)"),
    (omml("acc", e=m("y")), "y\u0302"), (omml("bar", e=m("x")), "x\u0305"), (omml("box", e=m("z")), "z"),
    (omml("groupChr", marks("groupChr", chr="→"), e=m("加热")), "→加热"), (m("𝑥𝛼\u2061"), "xα"),
    (omml("sSup", e=m("x"), sup=m("k")) + m("a=") + HALF, "x^k a=1/2"),
    (m("a=b") + "</m:oMath><m:oMath>" + m("c=d"), "a=b c=d"), (omml("thingOfTheFuture", e=m("q")), "q")])
def test_formulas_in_a_sentence(tmp_path, formula, shown):
    assert word(tmp_path, p(r("设") + f"<m:oMath>{formula}</m:oMath>" + r("成立。"))) == f"设{shown}成立。"


def mark(kind):
    return f'<w:r><w:fldChar w:fldCharType="{kind}"/></w:r>'


def code(text):
    """代码常被 Word 分成几截。"""
    return "".join(f"<w:r><w:instrText>{half}</w:instrText></w:r>" for half in (text[:4], text[4:]))


@pytest.mark.parametrize("text, shown", [
    (r"EQ \f(a+b,\r(,2))", r"\f(a+b,\r(,2))"), (r"eq \o\ac(○,3)", "(3)"), ("PAGE ", "")])
def test_equation_fields(tmp_path, text, shown):
    assert word(tmp_path, p(r("式") + mark("begin") + code(text) + mark("end") + r("尾"))) == f"式{shown}尾"


def test_fields_show_results_not_codes(tmp_path):
    def field(inside, result):
        return mark("begin") + inside + mark("separate") + r(result) + mark("end")

    nested = field(code("IF 1") + field(code("REF a"), "值"), "结果")
    simple = f'<w:fldSimple w:instr="PAGE">{r("7")}</w:fldSimple>'
    body = p(r("见") + field(code("REF b"), "图1") + simple + nested)
    broken = p(r("坏域") + mark("begin") + code("IF 2")) + p(r("下一段") + mark("separate") + mark("end"))
    assert word(tmp_path, body + broken + p(mark("end") + r("完"))) == "见图17结果\n坏域\n下一段\n完"


def test_mathtype_formula_is_reminded_of(tmp_path, capsys):
    picture = '<w:r><w:object><o:OLEObject ProgID="Equation.DSMT4"/></w:object></w:r>'
    word(tmp_path, p(r("设") + picture + r("成立。")))
    assert "1 个公式是 MathType" in capsys.readouterr().out


# —— Word：文字的细处 ——


RAISED, LOWERED = (f'<w:vertAlign w:val="{place}"/>' for place in ("superscript", "subscript"))
RUBY = f"<w:ruby><w:rubyPr/><w:rt>{r('hàn')}</w:rt><w:rubyBase>{r('汉')}</w:rubyBase></w:ruby>"


@pytest.mark.parametrize("content, shown", [
    (r("010") + "<w:r><w:noBreakHyphen/></w:r>" + r("66090000"), "010-66090000"),
    (r("2023") + "<w:r><w:noBreakHyphen/><w:t>2024</w:t></w:r>", "2023-2024"),
    ("<w:r><w:t>软</w:t><w:softHyphen/><w:t>连</w:t><w:tab/><w:t>左</w:t><w:br/><w:t>右</w:t></w:r>",
     "软连 左 右"),
    (f"<w:r>{RUBY}</w:r>" + r("字"), "汉字"),
    (f"<w:smartTag>{r('北京')}</w:smartTag><w:hyperlink>{r('官网')}</w:hyperlink>", "北京官网"),
    (f"<w:sdt><w:sdtContent>{r('控件')}</w:sdtContent></w:sdt>", "控件"),
    ('<w:r><w:sym w:font="Symbol" w:char="F061"/><w:sym w:font="Wingdings" w:char="F0FE"/>'
     '<w:sym w:font="Wingdings 2" w:char="00A3"/><w:sym w:font="Wingdings 3" w:char="F0D8"/>'
     '<w:sym w:font="MS Gothic" w:char="2610"/></w:r>', "α☑□•☐"),
    (r("\uf062=\uf070", '<w:rFonts w:ascii="Symbol"/>'), "β=π"),
    (r("约10") + r("4", RAISED) + r("米，10") + r("-", RAISED) + r("3", RAISED) + r("克"), "约10⁴米，10⁻³克"),
    (r("CO") + r("2", LOWERED) + r("，2") + r("n+1", RAISED) + r("，") + r("[1]", RAISED),
     "CO₂，2^(n+1)，[1]"),
    (r("平", '<w:vertAlign w:val="baseline"/>') + r("注①", RAISED), "平注①"),
    (r("显") + r("隐", "<w:vanish/>") + r("露", '<w:vanish w:val="0"/>'), "显露"),
    (r("文") + '<w:r><w:commentReference w:id="0"/></w:r>' + r("。"), "文。")])
def test_small_things_in_a_paragraph(tmp_path, content, shown):
    assert word(tmp_path, p(content)) == shown


def test_blocks_in_other_blocks_and_hidden_styles(tmp_path):
    styles = '<w:style w:styleId="z"><w:rPr><w:vanish/></w:rPr></w:style>'
    body = (f"<w:customXml><w:customXmlPr/>{p(r('甲'))}</w:customXml><w:sdt><w:sdtContent>{p(r('乙'))}"
            f"</w:sdtContent></w:sdt><w:moveTo>{p(r('丙'))}</w:moveTo>")
    hidden = p(r("窗体顶端"), '<w:pStyle w:val="z"/>') + p(r("丁") + r("隐", '<w:rStyle w:val="z"/>'))
    assert word(tmp_path, body + hidden, styles=styles) == "甲\n乙\n丙\n丁"


def test_text_boxes_are_read_once_after_their_paragraph(tmp_path):
    def old(content):
        return f"<w:pict><v:textbox><w:txbxContent>{content}</w:txbxContent></v:textbox></w:pict>"

    def box(content):
        new = f"<wps:txbx><w:txbxContent>{content}</w:txbxContent></wps:txbx>"
        both = f"<mc:Choice>{new}</mc:Choice><mc:Fallback>{old(content)}</mc:Fallback>"
        return f"<w:r><mc:AlternateContent>{both}</mc:AlternateContent></w:r>"

    cell = f"<w:tbl><w:tr><w:tc>{p(r('格') + box(p(r('格中框'))))}</w:tc></w:tr></w:tbl>"
    body = p(r("前") + box(p(r("框") + box(p(r("框中框")))) + cell) + r("后"))
    assert word(tmp_path, body + p(f"<w:r>{old(p(r('旧框')))}</w:r>") + cell).split() == [
        "前后", "框", "框中框", "格", "格中框", "旧框", "格", "格中框"]


def test_notes_follow_their_paragraph(tmp_path):
    def note(kind, number, *texts):
        return f'<w:{kind} w:id="{number}">{"".join(p(r(text)) for text in texts)}</w:{kind}>'

    mark = f'<w:r><w:rPr>{RAISED}</w:rPr><w:{{}}Reference w:id="2"/></w:r>'
    body = p(r("全校120") + mark.format("footnote") + r("门课。") + mark.format("endnote")) + p(r("下一段。"))
    text = word(tmp_path, body, footnotes=note("footnote", 0, "分隔") + note("footnote", 2, "不含选修课。"),
                endnotes=note("endnote", 2, "两段", "尾注。"))
    assert text.split("\n") == ["全校120门课。", "〔注：不含选修课。〕", "〔注：两段 尾注。〕", "下一段。"]


def test_smartart_and_charts_in_word(tmp_path):
    """图形的字在别的部件里。"""
    body = p(r("组织机构") + '<w:r><o:relIds r:dm="r0"/><o:chart r:id="r1"/></w:r>')
    path = zipped(tmp_path / "a.docx", {
        "word/document.xml": f'<w:document {SPACES} xmlns:r="{TYPE}"><w:body>{body}</w:body></w:document>',
        "word/_rels/document.xml.rels": links({"diagramData": "d.xml", "chart": "c.xml"}),
        "word/d.xml": f"<o:data {SPACES}>{p(r('校长'))}{p('')}{p(r('教务处'))}</o:data>",
        "word/c.xml": '<o:c xmlns:o="urn:o"><o:ser><o:tx><o:v>人数</o:v></o:tx><o:cat><o:v>甲班</o:v></o:cat>'
        "<o:val><o:v>30</o:v></o:val></o:ser></o:c>"})
    assert read_pages(path)[0].text == "组织机构\n校长\n教务处\n人数 甲班 30"


def test_revisions_are_accepted(tmp_path):
    gone = "<w:rPr><w:del/></w:rPr>"
    table = (f"<w:tbl><w:tr><w:trPr><w:del/></w:trPr><w:tc>{p(r('删掉的行'))}</w:tc></w:tr>"
             f"<w:tr><w:trPr><w:ins/></w:trPr><w:tc>{p(r('加上的行'))}</w:tc></w:tr></w:tbl>")
    body = (p(r("前半"), gone) + p(r("后半")) + p("<w:del>" + r("删") + "</w:del>", gone)
            + p(r("留") + "<w:moveFrom>" + r("移走") + "</w:moveFrom><w:ins>" + r("加") + "</w:ins>"))
    body += p(r("首"), '<w:framePr w:dropCap="drop"/>') + p(r("字下沉。"))
    assert word(tmp_path, body + table) == "前半后半\n留加\n首字下沉。\n加上的行"


def test_merged_cells_make_readable_rows(tmp_path):
    def cell(text, style=""):
        return f"<w:tc><w:tcPr>{style}</w:tcPr>{p(r(text))}</w:tc>"

    start, more = '<w:vMerge w:val="restart"/>', "<w:vMerge/>"
    rows = [cell("姓名", start) + cell("成绩", '<w:gridSpan w:val="2"/>') + cell("备注", start),
            cell("", more) + cell("平时") + cell("期末") + cell("", more),
            "<w:trPr><w:gridBefore w:val=\"1\"/></w:trPr>" + cell("八十") + cell("九十") + cell("", more),
            cell("合计", '<w:hMerge w:val="restart"/>') + cell("", "<w:hMerge/>") + cell("甲")]
    text = word(tmp_path, "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in rows) + "</w:tbl>")
    assert text.split("\n") == [
        "姓名 | 成绩 | 备注", "姓名 | 平时 | 期末 | 备注", "八十 | 九十 | 备注", "合计 | 甲"]
