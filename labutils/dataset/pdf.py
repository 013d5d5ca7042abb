"""用 PDFium 读 PDF：打得开的逐页取出文字，打不开、读不出的说清楚为什么、怎么办。讲解见 notebook 01。

PDFium 给出一页上每个字和它的位置；怎样排成行、分不分栏，见 layout.py。
"""

import ctypes
import math
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pypdfium2 as pdfium
import pypdfium2.raw as api

from labutils.base.errors import LabError
from labutils.dataset import ocr
from labutils.dataset.clean import SYMBOL, Page, join_pages, page_list, without_margins
from labutils.dataset.layout import Run, page_text

_SPACES = {9, 10, 13, 32, 160}
_HYPHEN = 2  # PDFium 用它表示行末断开的词的连字符
_TYPED = (api.FPDF_FORMFIELD_TEXTFIELD, api.FPDF_FORMFIELD_COMBOBOX, api.FPDF_FORMFIELD_LISTBOX)
LONG = 50  # 超过这么多页，每读一成报一次进度

# 读的时候可能发现的事；第一个逗号之前的写进 Page.note
IMAGE = "只有图片，没有可读的文字，已跳过"
GARBLED = "的字体没有文字对照表，取出来是乱码，已跳过"
DAMAGED = "已损坏，读不出来，已跳过；需要的话请重新下载，或用阅读器打开后另存一份再试"
FILLED = "有表单项或文本框批注，填的字按位置放进了正文，请抽看一页"
REORDERED = "是{}，画的先后和读的先后不同，已按位置重排，请抽看一页"
RECOGNISED = "的文字是从图上认出来的，会有错字，请抽看几处"
UNSURE = "认得不准，或有看不清没有收的地方，请对照原文"
Notes = list[list[str]]  # 各页发现的事


def read_pdf(path: Path, name: str) -> list[Page]:
    """读出每一页，已去掉页眉页脚页码、接好断句。name 是报错时用的短路径。

    整份都读不出（扫描件、空白、加密、截断、乱码、不是 PDF）时抛 LabError；
    只有个别页读不出时打印一行提醒，那一页的文字留空，页码不乱。每页的 note 是读的时候发现的事。
    """
    raw, notes = [], []
    with _open(path, name) as document:
        for number in range(1, len(document) + 1):
            text, found = _read(document, number)
            raw.append(text)
            notes.append(found)
            if len(document) > LONG and number % math.ceil(len(document) / 10) == 0:
                print(f"{name}：读到第 {number} 页，共 {len(document)} 页。", flush=True)
        margins = without_margins(raw)
        _find_images(document, margins, notes)
        unread = [number for number, found in enumerate(notes, 1) if found in ([IMAGE], [GARBLED])]
        if unread and ocr.installed():
            _recognise(document, unread, raw, notes, path, name)
            margins = without_margins(raw)
    kept, taken = zip(*margins, strict=True)
    texts, heads = join_pages(kept), _heads(taken)
    if not any(texts):
        raise LabError(_no_text(raw, notes, name))
    _remind(notes, heads, name)
    return list(map(Page, count(1), texts, map(_note, notes, heads)))


def _find_images(document: pdfium.PdfDocument, margins: list[tuple[list, list]], notes: Notes) -> None:
    for index, (kept, _) in enumerate(margins):
        unexplained = not (kept or notes[index])
        if unexplained and any(document[index].get_objects(filter=[api.FPDF_PAGEOBJ_IMAGE])):
            notes[index].append(IMAGE)


def _recognise(document: pdfium.PdfDocument, numbers: list[int], raw: list[str], notes: Notes, path: Path,
               name: str) -> None:
    for number, (runs, confidence, lost) in ocr.recognise(document, numbers, path, name).items():
        if runs:
            raw[number - 1], _ = page_text(runs)
            notes[number - 1] = [RECOGNISED] + [UNSURE] * bool(lost or confidence < ocr.UNSURE)


def _heads(taken: Iterable[list[str]]) -> Notes:
    """各页去掉的页眉页脚，只差数字（页码）的写成一样。"""
    like: dict[str, str] = {}
    return [[like.setdefault(re.sub(r"\d+", "#", line), line.strip().replace("\t", " ")) for line in lines]
            for lines in taken]


def _note(found: list[str], heads: list[str]) -> str:
    return "；".join([what.split("，")[0] for what in found] + [f"去掉了页眉页脚“{head}”" for head in heads])


def _where(notes: Notes) -> dict[str, list[int]]:
    """{发现的事: 哪几页}。"""
    pages: dict[str, list[int]] = defaultdict(list)
    for number, found in enumerate(notes, 1):
        for what in found:
            pages[what].append(number)
    return pages


def _remind(notes: Notes, heads: Notes, name: str) -> None:
    """个别页有问题不挡路，但要让人知道。"""
    for what, numbers in _where(notes).items():
        print(f"提醒：{name} 第 {page_list(numbers)} 页{what}{_advice(what)}。")
    taken = [f"“{head}”（第 {page_list(numbers)} 页）" for head, numbers in _where(heads).items()]
    if taken:
        more = f" 等 {len(taken)} 种" if len(taken) > 5 else ""
        print(f"提醒：{name} 去掉了一再出现的页眉页脚{'、'.join(taken[:5])}{more}。")


def _no_text(raw: list[str], notes: Notes, name: str) -> str:
    where = _where(notes)
    for what, kind in ((GARBLED, ""), (IMAGE, "是扫描件："), (DAMAGED, "")):
        if what in where:
            return f"{name} {kind}第 {page_list(where[what])} 页{what}{_advice(what)}。"
    if any(map(str.strip, raw)):
        return f"{name} 共 {len(raw)} 页，除了每页重复的页眉页脚没有别的文字，请换一份 PDF。"
    return f"{name} 共 {len(raw)} 页，全是空白或内容已损坏，没有可用的文字，请用阅读器打开看看，换一份 PDF。"


def _advice(what: str) -> str:
    if what not in (IMAGE, GARBLED):
        return ""
    return "；OCR 也没有认出字来，请换一份清楚些的" if ocr.installed() else f"；{ocr.INSTALL}"


_WHY = {
    api.FPDF_ERR_PASSWORD: "设了打开密码，请在 PDF 阅读器里输入密码打开，"
                           "再用“打印/导出为 PDF”另存一份没有密码的。",
    api.FPDF_ERR_SECURITY: "的加密方式（如证书加密）这里读不了，"
                           "请用 PDF 阅读器打开，再“打印/导出为 PDF”另存一份。",
}


def _open(path: Path, name: str) -> pdfium.PdfDocument:
    data = path.read_bytes()
    if b"%PDF-" not in data[:1024]:
        raise LabError(f"{name} 不是 PDF（开头没有 PDF 标记），请确认下载到的不是网页或别的格式。")
    # PDFium 会尽量救活截断的文件，但会悄悄少掉几页，所以先看结尾标记
    if b"%%EOF" not in data.rstrip(b"\0\r\n\t ")[-1024:]:
        raise LabError(f"{name} 不完整（结尾缺失，可能没有下载完），请重新下载。")
    # 不用 PdfDocument(path)：它把一页也没有的 PDF 也当成打不开，报的是上一次的错
    handle = api.FPDF_LoadDocument(bytes(path.resolve()) + b"\0", None)
    if not handle:
        why = "已损坏，读不出来，请重新下载，或用阅读器打开后另存一份再试。"
        raise LabError(f"{name} {_WHY.get(api.FPDF_GetLastError(), why)}")
    document = pdfium.PdfDocument(handle)
    if not len(document):
        raise LabError(f"{name} 里一页也没有，请换一份 PDF。")
    document.init_forms()
    return document


def _read(document: pdfium.PdfDocument, number: int) -> tuple[str, list[str]]:
    """一页的文字，按读的先后，和发现的事；读不出的页文字是空的。"""
    try:
        page = document[number - 1]
        text_page = page.get_textpage()
    except pdfium.PdfiumError:
        return "", [DAMAGED]
    runs = _runs(text_page.raw)
    if _is_garbled(runs):
        return "", [GARBLED]
    filled = list(_filled_in(page, document.formenv))
    for value in filled:  # 填的字接在同一行的字后面
        place = next((i for i, run in enumerate(runs) if run.y < value.y - value.size / 2), len(runs))
        runs.insert(place, value)
    text, layout = page_text(runs)
    notes = [FILLED] * bool(filled) + [REORDERED.format(layout)] * bool(layout)
    # 基本平面以外的字，PDFium 给的是两个代理码
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), notes


def _runs(handle: api.FPDF_TEXTPAGE) -> list[Run]:
    """一页上的字，照画的先后，紧挨着的连在一起。

    每个字都要问 PDFium，是读一份文档里最费时间的，所以基线、字号、方向、有没有对照只在不连着的地方问。
    """
    runs: list[Run] = []
    box, space = api.FS_RECTF(), 0
    at_box, get_code, get_box = ctypes.byref(box), api.FPDFText_GetUnicode, api.FPDFText_GetLooseCharBox
    right = bottom = near = -math.inf
    for i in range(api.FPDFText_CountChars(handle)):
        code = get_code(handle, i)
        get_box(handle, i, at_box)
        close = -near < box.bottom - bottom < near and -near < box.left - right < near
        if code in _SPACES:
            kind = 1 if api.FPDFText_IsGenerated(handle, i) else 2
            if close and kind > 1 > space:
                runs[-1].right = right = box.right  # 一个空格不管多宽都不算空隙
            space = max(space, kind)
            continue
        if (close and not space) or (runs and 0xDC00 <= code < 0xE000):  # 代理对的后一半
            runs[-1].text += _character(handle, i, code)
            runs[-1].right = box.right
        else:
            runs.append(_start(handle, i, code, box, space))
            bottom, near, space = box.bottom, 0.1 * runs[-1].size, 0
        right = box.right
    return runs


def _start(handle: api.FPDF_TEXTPAGE, i: int, code: int, box: api.FS_RECTF, space: int) -> Run:
    """第 i 个字另起一串；坐标按字的方向转正，歪一两度的扫描件按正的算。"""
    matrix, x, y = api.FS_MATRIX(), ctypes.c_double(), ctypes.c_double()
    api.FPDFText_GetMatrix(handle, i, matrix)
    api.FPDFText_GetCharOrigin(handle, i, x, y)
    font = api.FPDFText_GetFontSize(handle, i)  # 可以是负的：字倒过来画
    size = abs(font * math.hypot(matrix.c, matrix.d)) or 1.0
    angle = round(math.degrees(math.atan2(font * matrix.b, font * matrix.a))) % 360
    angle *= 2 < angle < 358
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    across = max(abs(cos) * (box.right - box.left), abs(sin) * (box.top - box.bottom))
    start = x.value * cos + y.value * sin
    known = api.FPDFText_HasUnicodeMapError(handle, i) != 1
    return Run(_character(handle, i, code), start, start + across,
               y.value * cos - x.value * sin, size, angle, space, known)


def _character(handle: api.FPDF_TEXTPAGE, i: int, code: int) -> str:
    """第 i 个字；字体里没有对照的，code 是它的编码，可以大得不是字。"""
    if code in SYMBOL:
        font = api.FPDFTextObj_GetFont(api.FPDFText_GetTextObject(handle, i))
        return SYMBOL[code] if "symbol" in pdfium.PdfFont(font).get_base_name().lower() else chr(code)
    return "-" if code == _HYPHEN else chr(code if code <= sys.maxunicode else 0xFFFD)


def _filled_in(page: pdfium.PdfPage, form: pdfium.PdfFormEnv | None) -> Iterator[Run]:
    """填在表单里的字、写在文本框批注里的字，各当成一个长长的“字”；它们不在页面的内容里。"""
    for index in range(api.FPDFPage_GetAnnotCount(page)):
        note, rect, text = api.FPDFPage_GetAnnot(page, index), api.FS_RECTF(), ""
        if api.FPDFAnnot_GetSubtype(note) == api.FPDF_ANNOT_FREETEXT:
            text = _string(partial(api.FPDFAnnot_GetStringValue, note, b"Contents"))
        elif api.FPDFAnnot_GetFormFieldType(form, note) in _TYPED:
            text = _string(partial(api.FPDFAnnot_GetFormFieldValue, form, note))
        api.FPDFAnnot_GetRect(note, rect)
        api.FPDFPage_CloseAnnot(note)
        if text:
            size = max(1.0, min(12.0, 0.8 * (rect.top - rect.bottom)))
            yield Run(text, rect.left, rect.right, rect.top - 1.1 * size, size, 0, 1)


def _string(get: Callable[..., int]) -> str:
    """PDFium 的字符串：先问多长，再取；几行并成一行。"""
    buffer = (ctypes.c_ushort * (get(None, 0) // 2 + 1))()
    get(buffer, ctypes.sizeof(buffer))
    return " ".join(bytes(buffer).decode("utf-16-le", "replace").split("\0")[0].split())


# 方正排的国家标准把西文字母记成这些汉字：“犌犅／犜”是“GB/T”
_FOUNDER = re.compile("[犃犅犆犇犈犉犌犎犐犑犓犔犕犖犗犘犙犚犛犜犝犞犠犡犢犣"
                      "犪犫犮犱犲犳犵犺犻犼犽犾犿狀狅狆狇狉狊狋狌狏狑狓狔狕]")
_HAN, _LATIN = re.compile("[\u3400-\u9fff]"), re.compile("[\u00a1-\u00ff]")
_PLAIN = re.compile("[0-9A-Za-z\u3001-\u30ff\u4e00-\u9fa5，；：（）]")


def _is_garbled(runs: list[Run]) -> bool:
    """三成以上的字查不到，或是替换符、控制符、私有区字符（汉字都好的页不算），或像按西文读了汉字的编码。

    字体里没有对照的字，PDFium 只好猜；猜出来的八成是字母、数字、假名、常用汉字的，就是猜对了。
    """
    unknown = "".join(run.text for run in runs if not run.known)
    visible = re.sub(r"[\s.…·]+", "", "".join(run.text for run in runs))  # 目录里的点线不算
    kinds, han = Counter(map(unicodedata.category, visible)), len(_HAN.findall(visible))
    unreadable = len(unknown) * (len(_PLAIN.findall(unknown)) < 0.8 * len(unknown))
    private = kinds["Co"] * (han < 0.1 * len(visible))
    strange = visible.count("\ufffd") + kinds["Cc"] + kinds["Cn"] + private + len(_FOUNDER.findall(visible))
    latin = len(_LATIN.findall(visible)) * (not han)  # 法文、德文里这样的字不到一成
    return max(unreadable, strange, latin) > 0.3 * len(visible)
