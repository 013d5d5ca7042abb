"""读得准不准：``python benchmarks/documents.py --out 文件夹 [--peers 另一个环境的 python] [--write]``。

现做一批中文文档（LibreOffice、XeLaTeX、Chromium、fpdf2 等真的软件写出来，文字事先知道），用 read_pages
读回来，与原文比：字的相似度、次序、断句、页码、少字多字、时间与内存；PDF 再用 pypdfium2、PyMuPDF、
pdftotext 各读一遍（--peers）。
只比字母、数字、汉字，页眉页脚不在原文里；脚注、文本框放在哪里都算对。页码要有 pdftotext 才查。
缺哪个软件就跳过它的文件，说一声；Debian 里都有：libreoffice-writer libreoffice-impress texlive-xetex
texlive-lang-chinese texlive-latex-recommended texlive-fonts-recommended chromium fonts-noto-cjk
poppler-utils。
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path

import made_office
import made_print
import psutil
from made_text import Paragraph, Writer
from rapidfuzz.distance import Indel
from read_one import READERS, pdftotext

import labutils  # noqa: F401  先设好环境变量
from labutils.dataset.clean import Page, tidy
from labutils.dataset.prompts import chunks

HERE = Path(__file__).parent
# 文件: (做法, 需要的软件)
FILES = {
    "regulations.pdf": (made_office.regulations, "soffice"),
    "handbook.pdf": (made_office.handbook, "soffice"),
    "prose.pdf": (made_office.long_handbook, "soffice"),
    "bulletin.pdf": (made_office.bulletin, "soffice"),
    "register.pdf": (made_office.register, "soffice"),
    "vertical.pdf": (made_office.vertical, "soffice"),
    "form.pdf": (made_office.form, "soffice"),
    "word.pdf": (made_office.word_pdf, "soffice"),
    "slides.pdf": (made_office.slides_pdf, "soffice"),
    "paper.pdf": (made_print.paper, "xelatex"),
    "essay.pdf": (made_print.essay, "xelatex"),
    "thesis.pdf": (made_print.thesis, "xelatex"),
    "lecture.pdf": (made_print.lecture, "xelatex"),
    "web_handbook.pdf": (made_print.web_handbook, "chromium"),
    "plan.pdf": (made_print.plan, "chromium"),
    "report.pdf": (made_print.report, "Noto Sans CJK"),
    "bold.pdf": (made_print.bold, ""),
    "notice.pdf": (made_print.notice, ""),
    "scan.pdf": (made_print.scan, ""),
    "slides.pptx": (made_office.slides, ""),
    "word.docx": (made_office.word, ""),
    "notice.ofd": (made_office.ofd, ""),
}
HERE_IS = {"": True, "soffice": shutil.which("soffice"), "xelatex": shutil.which("xelatex"),
           "chromium": made_print.CHROMIUM, "Noto Sans CJK": made_print.NOTO.exists()}
WITH_FORMULAS = ("thesis.pdf", "word.pdf")  # 只比汉字与编号：公式没有唯一的写法
TEXT_GOAL, SCAN_GOAL = 0.995, 0.97
TIME_GOAL, SECONDS_GOAL, MIB_GOAL = 6, 4, 150  # 时间是 pypdfium2 的几倍；prose.pdf 用几秒
SERIAL = re.compile(r"K\d{4}")
NOTE_MARK = re.compile(r"[\u2460-\u2473\u00b2\u00b3\u00b9\u2070-\u2079]|\[\d{1,2}\]|\^\{?\d+\}?")
SPACE = re.compile("(?<=[\u3400-\u9fff])[ \u3000]+(?=[\u3400-\u9fff])")
ODD_LETTERS = re.compile("[\u2e80-\u2fdf\uf900-\ufaff\ue000-\uf8ff\ufffd]")


@dataclass
class Score:
    """一种读法读一份文档的结果；error 不空时其余都没有意义。"""

    error: str = ""
    pages: int = 0
    similarity: float = 0
    disorder: int = 0  # 编号比前一个编号还靠前的句子
    cut: int = 0  # 一字不少、却被换行断开的句子
    broken: int = 0  # 找不到整句的句子：少了字，或中间夹了别的
    rows: int = 0  # 没有完整地在一行里的表格行
    wrong_page: int = 0
    lost: int = 0
    invented: int = 0
    gaps: int = 0  # 句子里汉字之间多出的空格
    odd: int = 0  # 部首、兼容汉字、私有区、替换符
    seconds: float = 0
    mib: float = 0
    version: str = ""
    examples: list[str] = field(default_factory=list)


def fold(text: str) -> str:
    """只留字母、数字、汉字，同形的部首并成汉字；脚注的角标不算。"""
    text = unicodedata.normalize("NFKC", tidy(NOTE_MARK.sub("", text)))
    return "".join(filter(str.isalnum, text))


def strict(text: str) -> str:
    return "".join(re.findall("[\u3400-\u9fff]|K\\d{4}", text))


def build(folder: Path, names: list[str]) -> dict[str, list[Paragraph]]:
    """在 folder 里做出这些文档；返回各自的文字，正文都标好在哪一页。"""
    truth = {}
    for name in names:
        make, need = FILES[name]
        if not HERE_IS[need]:
            print(f"没有 {need}，跳过 {name}。", flush=True)
            continue
        truth[name] = make(folder / name)
        if name.endswith(".pdf") and shutil.which("pdftotext"):
            find_pages(truth[name], pdftotext(str(folder / name), "-raw"))
    return truth


def find_pages(paragraphs: list[Paragraph], pages: list[tuple[int, str]]) -> None:
    """记下每个编号印在哪一页；一句跨两页时，编号在哪一页就算哪一页。"""
    where = {serial: number for number, text in pages for serial in SERIAL.findall(fold(text))}
    for item in paragraphs:
        item.pages = {serial: where[serial] for serial in SERIAL.findall(item.text) if serial in where}


def measure(python: str, reader: str, path: Path) -> dict:
    """在单独的进程里读一份：每页的文字、秒数、内存峰值（连同它开的进程）。"""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([python, str(HERE / "read_one.py"), reader, str(path)], stdout=output,
                                   stderr=errors)
        most = 0
        while process.poll() is None:
            most = max(most, together(process.pid))
            time.sleep(0.02)
        output.seek(0)
        errors.seek(0)
        result = json.loads(output.read() or json.dumps({"error": errors.read().strip().split("\n")[-1]}))
    return result | {"mib": max(most, result.get("mib", 0))}


def together(pid: int) -> float:
    """一个进程和它开的进程一共占的内存，MiB；只有它自己时内核记的峰值更准，返回 0。"""
    try:
        mine = psutil.Process(pid)
        family = mine.children(recursive=True)
        return sum(one.memory_full_info().pss for one in [mine, *family]) / 2**20 if family else 0
    except psutil.Error:
        return 0


def score(paragraphs: list[Paragraph], result: dict, ours: bool, formulas: bool = False) -> Score:
    if "error" in result:
        return Score(result["error"], version=result.get("version", ""))
    pages = [Page(number, text) for number, text in result["pages"]]
    text = whole(pages) if ours else "\n".join(page.text for page in pages)
    got = fold(text)
    expected, rest = map(strict if formulas else str, without_loose(paragraphs, got))
    letters, found = Counter(expected), Counter(rest)
    # 别的读法不负责接断行，全文当成一行
    faults = sentences(paragraphs, got, [fold(line) for line in text.splitlines()] if ours else [got])
    wrong, jumps = wrong_pages(paragraphs, pages), disorder(paragraphs, got)
    details = [f"{what}：{seen(one, pages)}" for what, found in faults.items() for one in found]
    return Score(
        pages=len(pages), similarity=Indel.normalized_similarity(expected, rest),
        disorder=len(jumps), cut=len(faults["断句"]), broken=len(faults["缺句"]),
        rows=len(faults["表格行"]), wrong_page=len(wrong), lost=(letters - found).total(),
        invented=(found - letters).total(), gaps=gaps(paragraphs, text),
        odd=len(ODD_LETTERS.findall(text)), seconds=result["seconds"],
        mib=result["mib"], version=result["version"],
        examples=[*details, *wrong, *jumps, *differences(expected, rest)] if ours else [])


def disorder(paragraphs: list[Paragraph], got: str) -> list[str]:
    """正文和表格里，比前一个编号还靠前的编号。"""
    serials = [serial for item in paragraphs if item.kind in ("prose", "row")
               for serial in SERIAL.findall(item.text)]
    places = [(got.find(serial), serial) for serial in serials if serial in got]
    return [f"次序：{serial} 跑到 {other} 前面" for (before, other), (after, serial) in pairwise(places)
            if after < before]


def seen(sentence: str, pages: list[Page]) -> str:
    """一句原文，和读到的编号前后的字。"""
    serial = SERIAL.search(sentence)
    for page in pages:
        if serial and (place := page.text.find(serial[0])) >= 0:
            around = page.text[max(0, place - 50) : place + 50]
            return f"第 {page.number} 页，原文 {sentence!r}，读到 {around!r}"
    return f"原文 {sentence!r}"


def differences(expected: str, got: str) -> list[str]:
    """少了、多了哪几段字，各带前面几个字。"""
    places = [("少字", expected, op.src_start, op.src_end) if op.tag == "delete" else
              ("多字", got, op.dest_start, op.dest_end)
              for op in Indel.opcodes(expected, got) if op.tag != "equal"]
    return [f"{what}：{text[max(0, start - 8) : start]}【{text[start:end]}】"
            for what, text, start, end in places]


def whole(pages: list[Page]) -> str:
    """切块之前连成的一篇。"""
    return "\n".join(chunk.text for chunk in chunks(pages, 10**9, 0))


def without_loose(paragraphs: list[Paragraph], got: str) -> tuple[str, str]:
    """去掉放在哪里都对的（脚注、文本框）和可有可无的（一再出现的标题、表头），返回 (原文, 读到的)。"""
    expected = "".join(fold(item.text) for item in paragraphs if item.kind not in ("note", "again"))
    for item in paragraphs:
        if item.kind in ("note", "again"):
            body = fold(item.text)
            place = got.rfind(body)
            if place >= 0 and (item.kind == "note" or place > got.find(body)):
                got = got[:place] + got[place + len(body):]
            elif item.kind == "note":
                expected += body
    return expected, got


def sentences(paragraphs: list[Paragraph], got: str, lines: list[str]) -> dict[str, list[str]]:
    """断开的句子、找不到的句子、不完整的表格行；分号也算一句完，切块时就是这样分的。"""
    faults: dict[str, list[str]] = {"断句": [], "缺句": [], "表格行": []}
    joined = "\n".join(lines)
    for item in paragraphs:
        for sentence in chain.from_iterable(re.split("(?<=；)", one) for one in item.sentences):
            body = fold(sentence)
            if body not in joined:
                what = "表格行" if item.kind == "row" else "断句" if body in got else "缺句"
                faults[what].append(sentence)
    return faults


def gaps(paragraphs: list[Paragraph], text: str) -> int:
    """句子里汉字之间有几个空格；出的题里没有这样的空格。"""
    count = 0
    for sentence in chain.from_iterable(item.sentences for item in paragraphs if item.kind == "prose"):
        serial = SERIAL.search(sentence)[0]
        around = text[max(0, text.find(serial) - 200) : text.find(serial) + 200]
        if found := re.search(r"\s*".join(map(re.escape, sentence.replace(" ", ""))), around):
            count += len(SPACE.findall(found[0]))
    return count


def wrong_pages(paragraphs: list[Paragraph], pages: list[Page]) -> list[str]:
    where = {serial: page.number for page in pages for serial in SERIAL.findall(fold(page.text))}
    wrong = []
    for item in paragraphs:
        right = dict.fromkeys(SERIAL.findall(item.text), item.page) if item.page else item.pages
        wrong += [f"页码：{serial} 应在第 {page} 页，读到第 {where[serial]} 页"
                  for serial, page in right.items() if where.get(serial, page) != page]
    return wrong


def run(folder: Path, truth: dict, peers: str, repeat: int) -> dict[str, dict[str, Score]]:
    """每份文档各种读法都读，与原文比。"""
    scores: dict[str, dict[str, Score]] = {}
    for name, paragraphs in truth.items():
        compare = peers and name.endswith(".pdf") and name != "scan.pdf"
        best = quickest(folder / name, READERS if compare else ["labutils"], peers, repeat if compare else 1)
        scores[name] = {reader: score(paragraphs, result, reader == "labutils", name in WITH_FORMULAS)
                        for reader, result in best.items()}
        ours = scores[name]["labutils"]
        print(name, ours.error or f"{ours.similarity:.4f}", flush=True)
    return scores


def quickest(path: Path, readers: Iterable[str], peers: str, repeat: int) -> dict[str, dict]:
    """几种读法轮流读 repeat 遍，各取最快的一遍。"""
    rounds = [{reader: measure(sys.executable if reader == "labutils" else peers, reader, path)
               for reader in readers} for _ in range(repeat)]
    return {reader: min((one[reader] for one in rounds), key=lambda result: result.get("seconds", 0))
            for reader in readers}


OURS = {"页": "pages", "次序错": "disorder", "断句": "cut", "缺句": "broken", "表格行": "rows",
        "页码错": "wrong_page", "少字": "lost", "多字": "invented", "空格": "gaps", "怪字": "odd"}


def table(scores: dict[str, dict[str, Score]]) -> str:
    lines = ["| 文件 | 相似 | " + " | ".join(OURS) + " | 毫秒/页 | MiB |", "|---|" + "---|" * (len(OURS) + 3)]
    for name, each in scores.items():
        own = each["labutils"]
        cells = [own.error[:60]] + [""] * (len(OURS) + 2) if own.error else [
            f"{own.similarity:.4f}", *(str(getattr(own, key)) for key in OURS.values()),
            f"{1000 * own.seconds / own.pages:.1f}", f"{own.mib:.0f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "断句：字都在，却断在两行；缺句：找不到整句；表格行：没有完整地在一行里；"
              "空格：句子里汉字之间的；怪字：部首、兼容汉字、私有区字符。", "",
              *(f"- {name}：{FILES[name][0].__doc__}" for name in scores)]
    if any(len(each) > 1 for each in scores.values()):
        lines += ["", "同一批 PDF 的几种读法：相似 / 次序错 / 缺句 / 怪字；时间是 pypdfium2 的几倍。", "",
                  "| 文件 | " + " | ".join(READERS) + " | 时间 |", "|---|" + "---|" * (len(READERS) + 1)]
        lines += [f"| {name} | " + " | ".join(_short(each.get(reader)) for reader in READERS)
                  + f" | {_ratio(each):.1f} 倍 |" for name, each in scores.items() if len(each) > 1]
    return "\n".join(lines)


def _short(one: Score | None) -> str:
    if not one or one.error:
        return "读不了"
    return f"{one.similarity:.4f} / {one.disorder} / {one.broken + one.cut} / {one.odd}"


def _ratio(each: dict[str, Score]) -> float:
    other = each.get("pypdfium2", Score()).seconds
    return each["labutils"].seconds / other if other else 0


def shortfalls(scores: dict[str, dict[str, Score]]) -> list[str]:
    """没有达到的目标，一条一句。"""
    return [f"{name}：{what}" for name, each in scores.items() for what in _missed(name, each)]


def _missed(name: str, each: dict[str, Score]) -> list[str]:
    own, scanned = each["labutils"], name == "scan.pdf"
    if own.error:
        return [f"读不了（{own.error}）"]
    goal = SCAN_GOAL if scanned else TEXT_GOAL
    best = max((one.similarity for reader, one in each.items() if reader != "labutils"), default=0)
    said = {
        f"相似度 {own.similarity:.4f} 不到 {goal}": own.similarity < goal,
        f"相似度不如别的读法（{best:.4f}）": own.similarity < best,
        f"{own.disorder} 处次序不对": own.disorder,
        f"{own.cut + own.broken} 句不完整": own.cut + own.broken and not scanned,
        f"{own.wrong_page} 句的页码不对": own.wrong_page,
        f"时间是 pypdfium2 的 {_ratio(each):.1f} 倍": _ratio(each) > TIME_GOAL,
        f"用了 {own.seconds:.1f} 秒": name == "prose.pdf" and own.seconds > SECONDS_GOAL,
        f"内存 {own.mib:.0f} MiB": own.mib > MIB_GOAL and not scanned,
    }
    return [what for what, missed in said.items() if missed]


def machine(scores: dict[str, dict[str, Score]]) -> str:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "")
    versions = {reader: one.version for each in scores.values() for reader, one in each.items()}
    pages = sum(each["labutils"].pages for each in scores.values())
    return (f"{len(scores)} 份文档、{pages} 页；{os.cpu_count()} 个核（{model}），"
            f"{'，'.join(f'{reader} {version}' for reader, version in versions.items())}。")


def text_of(scores: dict[str, dict[str, Score]]) -> str:
    missed = shortfalls(scores)
    lines = ["# 读文档：与事先知道的文字相比", "", machine(scores),
             "由 `python benchmarks/documents.py --write` 写出；文档是它现做的。", "", table(scores), "",
             "没有达到的目标：" if missed else "目标都达到了。", "", *(f"- {one}" for one in missed)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="文档放在哪个文件夹；不给就用临时文件夹，用完删掉")
    parser.add_argument("--peers", default="", help="装了 pypdfium2 与 pymupdf 的 python")
    parser.add_argument("--only", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--no-scan", action="store_true", help="不做扫描件")
    parser.add_argument("--seed", type=int, default=0, help="换一个数，就换一批文字")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="把表写进 benchmarks/documents.md")
    options = parser.parse_args()
    Writer.more = options.seed
    names = [name for name in options.only if not (options.no_scan and name == "scan.pdf")]
    with tempfile.TemporaryDirectory() as spare:
        folder = options.out or Path(spare)
        folder.mkdir(parents=True, exist_ok=True)
        scores = run(folder, build(folder, names), options.peers, options.repeat)
        details = [f"{name} {line}" for name, each in scores.items() for line in each["labutils"].examples]
        (folder / "details.txt").write_text("\n".join(details), "utf-8")
    print(text := text_of(scores))
    if options.write:
        (HERE / "documents.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
