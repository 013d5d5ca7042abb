"""每个学生自己的一份文档与问答：照学号编，问法来自 training/questions.py；抄别人的答案就答不对。"""

from itertools import filterfalse
from pathlib import Path
from random import Random

from labutils.base.files import place, write, write_json_lines
from labutils.dataset.checks import outside_reference
from labutils.training.questions import Attribute, attributes, draw, regular_subject

SUBJECTS, FACTS, WORDINGS = 10, 4, 3  # 几个主语，每个几条事实，每条几种问法
_NOTE = "这份文件里的名称、日期、数字都是程序按学号编出来的，只用来做练习，请不要当真。"


def write_student(student: str, out_dir: str | Path) -> tuple[Path, Path]:
    """写出 out_dir/document.md 与 out_dir/data/qa.jsonl，返回这两个文件，可以直接交给 build_dataset。"""
    rng, rows, text = Random(f"student {student}"), [], f"# 练习文件（学号 {student}）\n\n{_NOTE}\n"
    usable = [attribute for attribute in attributes() if _value(rng, attribute.kind)]
    subjects = dict.fromkeys(regular_subject(rng) for _ in range(3 * SUBJECTS))  # 多取几个，重名的只留一个
    for page, subject in enumerate([*subjects][:SUBJECTS], 2):  # 一节是一“页”，开头的说明是第一页
        made = [_ask(rng, subject, attribute, page) for attribute in rng.sample(usable, FACTS)]
        text += f"\n## {subject}\n\n" + "".join(f"{same[0]['evidence']}。" for same in made) + "\n"
        rows += sum(made, [])
    document, qa = place(out_dir) / "document.md", place(out_dir) / "data" / "qa.jsonl"
    write_json_lines(rows, qa)
    write(document, text)
    return document, qa


def _ask(rng: Random, subject: str, attribute: Attribute, page: int) -> list[dict]:
    """一条事实的几种问法；离开原文就看不懂的问法不用。"""
    value = _value(rng, attribute.kind)
    said = [text.replace("S", subject).replace("V", value) for text in attribute.statements]
    fact = {"answer": f"{said[0]}。", "key_points": [value], "evidence": rng.choice(said), "page": page}
    asked = (text.replace("S", subject) + "？" for text in attribute.questions)
    clear = list(filterfalse(outside_reference, asked))
    return [{"question": question, **fact} for question in rng.sample(clear, WORDINGS)]


def _value(rng: Random, kind: str) -> str:
    """这一类取值的一个，例如 "count:人" 的 “37人”；编不出的类是空串。"""
    number, day = rng.randint(11, 99), f"{rng.randint(1, 12)}月{rng.randint(1, 28)}日"
    kind, _, unit = kind.partition(":")
    unit = {"days": "天", "months": "个月", "pct": "%", "money": "元", "score": "分"}.get(kind, unit)
    made = {"date": f"{draw(rng, 'years')}年{day}", "docno": f"教函〔{draw(rng, 'years')}〕{number}号",
            "org": draw(rng, "first") + draw(rng, "second") + draw(rng, "places")}
    return made.get(kind, unit and f"{number}{unit}")
