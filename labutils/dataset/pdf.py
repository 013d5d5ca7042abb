"""用 PDFium 读 PDF：打得开的逐页取出文字，打不开、读不出的说清楚为什么、怎么办。讲解见 notebook 01。

PDFium 给出一页上每个字和它的位置；怎样排成行、分不分栏，见 layout.py。
"""

import ctypes
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pypdfium2 as pdfium
import pypdfium2.raw as api

from labutils.base.errors import LabError
from labutils.dataset import ocr
from labutils.dataset.clean import SYMBOL, Page, join_pages, page_list
from labutils.dataset.layout import Run, page_text
from labutils.dataset.margins import without_margins

LONG = 50  # 超过这么多页，每读一成报一次进度


@dataclass
class Found:
    """读的时候发现的事：页码从 1 开始。"""

    raw: list[str] = field(default_factory=list)  # 每页的文字
    images: list[int] = field(default_factory=list)  # 只有图片的页
    garbled: list[int] = field(default_factory=list)  # 字体没有文字对照表的页
    recognised: list[int] = field(default_factory=list)  # 从图上认出字来的页，不再算在上面两样里
    unsure: list[int] = field(default_factory=list)  # 其中认得不准、有看不清的地方的页
    damaged: list[int] = field(default_factory=list)  # 内容坏了的页
    filled: list[int] = field(default_factory=list)  # 有表单项、文本框批注的页
    reordered: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # 版式 → 重排过的页
    taken: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # 去掉的页眉页脚 → 页


def read_pdf(path: Path, name: str) -> list[Page]:
    """读出每一页，已去掉页眉页脚页码、接好断句。name 是报错时用的短路径。

    整份都读不出（扫描件、空白、加密、截断、乱码、不是 PDF）时抛 LabError；
    只有个别页读不出时打印一行提醒，那一页的文字留空，页码不乱。每页的 note 是读的时候发现的事。
    """
    found = Found()
    with _open(path, name) as document:
        for number in range(1, len(document) + 1):
            found.raw.append(_read(document, number, found))
            _tell_progress(name, number, len(document))
        empty = [number for number, (kept, _) in enumerate(without_margins(found.raw), 1) if not kept]
        found.images = [n for n in empty if n not in found.garbled + found.damaged
                        and _has_image(document[n - 1])]
        _recognise(document, found, path, name)
        texts = _cleaned(found)
    if not any(texts):
        raise LabError(_no_text(found, name))
    notes = _remind(found, name)
    return [Page(number, text, "；".join(notes[number])) for number, text in enumerate(texts, 1)]


def _recognise(document: pdfium.PdfDocument, found: Found, path: Path, name: str) -> None:
    """没有可读文字的页，装了认字的包就从图上认。"""
    numbers = sorted(found.images + found.garbled)
    pages = ocr.recognise(document, numbers, path, name) if numbers and ocr.installed() else {}
    for number, (runs, confidence, lost) in pages.items():
        if runs:
            found.raw[number - 1], _ = page_text(runs)
            found.recognised.append(number)
        if lost or (runs and confidence < ocr.UNSURE):
            found.unsure.append(number)
    for kind in (found.images, found.garbled):
        kind[:] = [number for number in kind if number not in found.recognised]


def _tell_progress(name: str, number: int, count: int) -> None:
    if count > LONG and number % math.ceil(count / 10) == 0:
        print(f"{name}：读到第 {number} 页，共 {count} 页。", flush=True)


def _cleaned(found: Found) -> list[str]:
    """每页整理好的文字；去掉的页眉页脚记在 found 里，只差数字（页码）的算一种。"""
    margins = without_margins(found.raw)
    like: dict[str, str] = {}
    for number, (_, taken) in enumerate(margins, 1):
        for line in taken:
            shown = like.setdefault(re.sub(r"\d+", "#", line), line.strip().replace("\t", " "))
            found.taken[shown].append(number)
    return join_pages([kept for kept, _ in margins])


_WHY = {
    api.FPDF_ERR_PASSWORD: "设了打开密码，请在 PDF 阅读器里输入密码打开，"
                           "再用“打印/导出为 PDF”另存一份没有密码的。",
    api.FPDF_ERR_SECURITY: "的加密方式（如证书加密）这里读不了，"
                           "请用 PDF 阅读器打开，再“打印/导出为 PDF”另存一份。",
}


def _open(path: Path, name: str) -> pdfium.PdfDocument:
    """打开 PDF；打不开的说清楚为什么、怎么办。"""
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


def _read(document: pdfium.PdfDocument, number: int, found: Found) -> str:
    """一页的文字，按读的先后；读不出的页记在 found 里，返回空。"""
    try:
        page = document[number - 1]
        text_page = page.get_textpage()
    except pdfium.PdfiumError:
        found.damaged.append(number)
        return ""
    runs, unknown = _runs(text_page.raw)
    filled = list(_filled_in(page, document.formenv))
    text_page.close()
    page.close()
    if _is_garbled("".join(run.text for run in runs), unknown):
        found.garbled.append(number)
        return ""
    for value in filled:  # 填的字接在同一行的字后面
        place = next((i for i, run in enumerate(runs) if run.y < value.y - value.size / 2), len(runs))
        runs.insert(place, value)
    found.filled += [number] if filled else []
    text, layout = page_text(runs)
    if layout:
        found.reordered[layout].append(number)
    # 基本平面以外的字，PDFium 给的是两个代理码
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _runs(handle: api.FPDF_TEXTPAGE) -> tuple[list[Run], str]:
    """一页上的字，照画的先后，紧挨着的连在一起；还有其中在字体里查不到对照的字。

    每个字都要问 PDFium，是读一份文档里最费时间的，所以基线、字号、方向、有没有对照只在不连着的地方问。
    """
    runs: list[Run] = []
    box, unknown, space = api.FS_RECTF(), "", 0
    at_box, get_code, get_box = ctypes.byref(box), api.FPDFText_GetUnicode, api.FPDFText_GetLooseCharBox
    right = bottom = near = -math.inf
    for i in range(api.FPDFText_CountChars(handle)):
        code = get_code(handle, i)
        get_box(handle, i, at_box)
        gap, level = box.left - right, -near < box.bottom - bottom < near
        if code in _SPACES:
            real = not api.FPDFText_IsGenerated(handle, i)
            if real and not space and level and -near < gap < near:
                runs[-1].right = right = box.right  # 一个空格不管多宽都不算空隙
            space = max(space, _SPACES[code] if real else 1)
            continue
        text, right = _character(handle, i, code), box.right
        if level and -near < gap < near and not space:
            runs[-1].text += text
            runs[-1].right = right
        else:
            last = runs[-1] if level and 0 < gap < 10 * near else None
            runs.append(_start(handle, i, box, text, space, last))
            bottom, near, space = box.bottom, 0.1 * runs[-1].size, 0
            missing = api.FPDFText_HasUnicodeMapError(handle, i) == 1
        unknown += text if missing else ""
    return runs, unknown


_SPACES = {10: 1, 13: 1, 9: 2, 32: 2, 160: 2}  # 空白：1 是换行，2 是空格
_HYPHEN = 2  # PDFium 用它表示行末断开的词的连字符


def _start(
    handle: api.FPDF_TEXTPAGE, i: int, box: api.FS_RECTF, text: str, space: int, last: Run | None,
) -> Run:
    """第 i 个字另起一串；坐标按字的方向转正，歪一两度的扫描件按正的算。last 是同一行里紧前面的一串。"""
    if last and not last.angle:
        return Run(text, box.left, box.right, last.y, last.size, 0, space)
    matrix, x, y = api.FS_MATRIX(), ctypes.c_double(), ctypes.c_double()
    api.FPDFText_GetMatrix(handle, i, matrix)
    api.FPDFText_GetCharOrigin(handle, i, x, y)
    size = abs(api.FPDFText_GetFontSize(handle, i) * math.hypot(matrix.c, matrix.d)) or 1.0
    angle = round(math.degrees(math.atan2(matrix.b, matrix.a))) % 360
    if not 2 < angle < 358:
        return Run(text, box.left, box.right, y.value, size, 0, space)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    across = max(abs(cos) * (box.right - box.left), abs(sin) * (box.top - box.bottom))
    start = x.value * cos + y.value * sin
    return Run(text, start, start + across, y.value * cos - x.value * sin, size, angle, space)


def _character(handle: api.FPDF_TEXTPAGE, i: int, code: int) -> str:
    if code == _HYPHEN:
        return "-"
    if code in SYMBOL and "symbol" in _font_name(handle, i):
        return SYMBOL[code]
    return chr(code)


def _font_name(handle: api.FPDF_TEXTPAGE, i: int) -> str:
    font = api.FPDFTextObj_GetFont(api.FPDFText_GetTextObject(handle, i))
    name = ctypes.create_string_buffer(200)
    api.FPDFFont_GetBaseFontName(font, name, len(name))
    return name.value.decode("latin-1").lower()


_TYPED = (api.FPDF_FORMFIELD_TEXTFIELD, api.FPDF_FORMFIELD_COMBOBOX, api.FPDF_FORMFIELD_LISTBOX)


def _filled_in(page: pdfium.PdfPage, form: pdfium.PdfFormEnv | None) -> Iterator[Run]:
    """填在表单里的字、写在文本框批注里的字，各当成一个长长的“字”；它们不在页面的内容里。"""
    for index in range(api.FPDFPage_GetAnnotCount(page)):
        note = api.FPDFPage_GetAnnot(page, index)
        kind, rect, text = api.FPDFAnnot_GetSubtype(note), api.FS_RECTF(), ""
        if kind == api.FPDF_ANNOT_FREETEXT:
            text = _string(partial(api.FPDFAnnot_GetStringValue, note, b"Contents"))
        elif kind == api.FPDF_ANNOT_WIDGET and form and api.FPDFAnnot_GetFormFieldType(form, note) in _TYPED:
            text = _string(partial(api.FPDFAnnot_GetFormFieldValue, form, note))
        api.FPDFAnnot_GetRect(note, rect)
        api.FPDFPage_CloseAnnot(note)
        if text := " ".join(text.split()):
            size = max(1.0, min(12.0, 0.8 * (rect.top - rect.bottom)))
            yield Run(text, rect.left, rect.right, rect.top - 1.1 * size, size, 0, 1)


def _string(get: Callable[..., int]) -> str:
    """PDFium 的字符串：先问多长，再取。"""
    buffer = (ctypes.c_ushort * (get(None, 0) // 2 + 1))()
    get(buffer, ctypes.sizeof(buffer))
    return bytes(buffer).decode("utf-16-le", "replace").split("\0")[0]


def _is_garbled(text: str, unknown: str) -> bool:
    """三成以上的字查不到，或是替换符、控制符、私有区字符（汉字都好的页不算），或像按西文读了汉字的编码。

    unknown 是字体里没有对照的字，PDFium 只好猜；猜出来的八成是字母、数字、常用汉字的，就是猜对了。
    """
    unreadable = len(unknown) if len(_PLAIN.findall(unknown)) < 0.8 * len(unknown) else 0
    visible = re.sub(r"[\s.…·]+", "", text)  # 目录里的点线不算
    kinds = Counter("\ufffd" if c == "\ufffd" else unicodedata.category(c) for c in visible)
    han = len(_HAN.findall(visible))
    private = kinds["Co"] if han < 0.1 * len(visible) else 0
    latin = len(_LATIN.findall(visible)) if not han else 0  # 法文、德文里这样的字不到一成
    strange = kinds["\ufffd"] + kinds["Cc"] + kinds["Cn"] + private + len(_FOUNDER.findall(visible))
    return max(unreadable, strange, latin) > 0.3 * len(visible)


_HAN, _LATIN = re.compile("[\u3400-\u9fff]"), re.compile("[\u00a1-\u00ff]")
# 方正排的国家标准把西文字母记成这些汉字：“犌犅／犜”是“GB/T”
_FOUNDER = re.compile("[犃犅犆犇犈犉犌犎犐犑犓犔犕犖犗犘犙犚犛犜犝犞犠犡犢犣"
                      "犪犫犮犱犲犳犵犺犻犼犽犾犿狀狅狆狇狉狊狋狌狏狑狓狔狕]")
_PLAIN = re.compile("[0-9A-Za-z\u4e00-\u9fa5，。、；：（）]")


def _has_image(page: pdfium.PdfPage) -> bool:
    return any(page.get_objects(filter=[api.FPDF_PAGEOBJ_IMAGE]))


def _no_text(found: Found, name: str) -> str:
    if found.garbled:
        return (f"{name} 第 {page_list(found.garbled)} 页的字体没有文字对照表，取出来是乱码，"
                f"{_advice()}。")
    if found.images:
        return (f"{name} 是扫描件：第 {page_list(found.images)} 页只有图片、没有文字，"
                f"{_advice()}。")
    if any(map(str.strip, found.raw)):
        return f"{name} 共 {len(found.raw)} 页，除了每页重复的页眉页脚没有别的文字，请换一份 PDF。"
    if found.damaged:
        return (f"{name} 第 {page_list(found.damaged)} 页已损坏，读不出来，"
                "请重新下载，或用阅读器打开后另存一份再试。")
    return (f"{name} 共 {len(found.raw)} 页，全是空白或内容已损坏，没有可用的文字，"
            "请用阅读器打开看看，换一份 PDF。")


def _advice() -> str:
    return "OCR 也没有认出字来，请换一份清楚些的" if ocr.installed() else ocr.INSTALL


def _remind(found: Found, name: str) -> dict[int, list[str]]:
    """个别页有问题不挡路，但要让人知道：打印出来，也返回 页码 → 发现的事。"""
    notes: dict[int, list[str]] = defaultdict(list)
    for numbers, what in (
        (found.images, f"只有图片，没有可读的文字，已跳过；{_advice()}"),
        (found.garbled, f"的字体没有文字对照表，取出来是乱码，已跳过；{_advice()}"),
        (found.recognised, "的文字是从图上认出来的，会有错字，请抽看几处"),
        (found.unsure, "认得不准，或有看不清没有收的地方，请对照原文"),
        (found.damaged, "已损坏，读不出来，已跳过；需要的话请用阅读器打开后另存一份再试"),
        (found.filled, "有表单项或文本框批注，填的字按位置放进了正文，请抽看一页"),
        *((numbers, f"是{layout}，画的先后和读的先后不同，已按位置重排，请抽看一页")
          for layout, numbers in found.reordered.items()),
    ):
        if numbers:
            print(f"提醒：{name} 第 {page_list(numbers)} 页{what}。")
        for number in numbers:
            notes[number].append(what.split("，")[0])
    heads = [f"“{line}”（第 {page_list(numbers)} 页）" for line, numbers in found.taken.items()]
    if heads:
        more = f" 等 {len(heads)} 种" if len(heads) > 5 else ""
        print(f"提醒：{name} 去掉了一再出现的页眉页脚{'、'.join(heads[:5])}{more}。")
    for line, numbers in found.taken.items():
        for number in numbers:
            notes[number].append(f"去掉了页眉页脚“{line}”")
    return notes
