"""日常事务的关系：relations/*.txt 里，一类事物（@）有许多可以说、可以问的事（=），说法与问法都是手写的。

格式见 relations/README.md。取值由 value 随机产生；HELD_OUT 份里的一份从不进语料，用来测没学过的关系。
"""

import re
from dataclasses import dataclass, replace
from functools import cache
from hashlib import md5
from pathlib import Path
from random import Random

from tools.tiny_base import lexicon
from tools.tiny_base.asking import draw

FOLDER = Path(__file__).with_name("relations")
HELD_OUT = 10  # 每这么多个关系留出一个
STREETS = ("长安 解放 建设 和平 新华 中山北 滨河 学府 花园 青年 文化 东风 胜利 迎宾 朝阳 工农 桃源 "
           "柳林").split()
COMPANIES = ("机械厂 纺织厂 软件公司 物流公司 食品公司 建材厂 电子厂 酒店集团 印刷厂 农场 船厂 "
             "药业公司").split()
SPOTS = "东门 北门 一楼大厅 二楼 地下一层 后院 服务台".split()
SCHOOLS = "小学 中学 大学 职业学院 师范大学 实验学校 技师学院 外国语学校 第一中学 幼儿园".split()
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Relation:
    """一件可以说、可以问的事；statements 的第一句是标准回答。"""

    topic: str
    name: str
    kind: str
    nouns: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()
    formal: tuple[str, ...] = ()
    colloquial: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    @property
    def held_out(self) -> bool:
        return md5(f"{self.topic}-{self.name}".encode()).digest()[0] % HELD_OUT == 0


@dataclass(frozen=True)
class Topic:
    """一类事物：全称的写法、简称、描述，和它的各个关系。"""

    name: str
    fulls: tuple[str, ...]
    shorts: tuple[str, ...]
    described: tuple[str, ...]
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True)
class Subject:
    full: str
    short: str
    described: str


_FIELDS = {"n": "nouns", "s": "statements", "q": "formal", "c": "colloquial", "o": "other"}


@cache
def topics() -> tuple[Topic, ...]:
    """读 relations/*.txt。"""
    found: list[Topic] = []
    for path in sorted(FOLDER.glob("*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            tag, _, rest = line.partition(" ")
            parts = tuple(part.strip() for part in rest.split(" / "))
            if tag == "@":
                name, *forms = (part.strip() for part in rest.split(" | "))
                found.append(Topic(name, *(tuple(form.split(" / ")) for form in forms)))
            elif tag == "=":
                name, kind = (part.strip() for part in rest.split(" | "))
                found[-1] = replace(found[-1], relations=(*found[-1].relations,
                                                          Relation(found[-1].name, name, kind)))
            elif tag in _FIELDS:
                last = replace(found[-1].relations[-1], **{_FIELDS[tag]: parts})
                found[-1] = replace(found[-1], relations=(*found[-1].relations[:-1], last))
    return tuple(found)


def relations(held_out: bool = False) -> list[Relation]:
    """全部学过的（held_out：留出的）关系。"""
    return [one for topic in topics() for one in topic.relations if one.held_out == held_out]


def _name_part(rng: Random, slot: str) -> str:
    makers = {
        "地": lambda: lexicon.fancy(rng) + rng.choice(["", "省", "市", "县", "区", "镇", "村", "山", "湖"]),
        "校": lambda: lexicon.fancy(rng) + rng.choice(SCHOOLS),
        "企": lambda: lexicon.fancy(rng) + rng.choice(COMPANIES),
        "人": lambda: lexicon.value(rng, "person"),
        "序": lambda: rng.choice(["第{}届", "第{}批", "第{}期", "第{}次"]).format(
            lexicon.chinese_number(rng.randint(1, 40))),
        "年": lambda: f"{rng.randint(2031, 2069)}年",
        "字": lambda: lexicon.fancy(rng),
        "街": lambda: rng.choice(STREETS) + rng.choice(["路", "街", "大道", "巷"]),
    }
    return makers[slot]()


def subject(rng: Random, topic: Topic) -> Subject:
    full = _SLOT.sub(lambda slot: _name_part(rng, slot[1]), rng.choice(topic.fulls))
    return Subject(full, rng.choice(topic.shorts), rng.choice(topic.described))


def _number(rng: Random, high: int) -> str:
    low = rng.choice([high // 10, high // 3, high]) or 1
    count = rng.randint(1, max(low, 2))
    return lexicon.chinese_number(count) if count < 100 and rng.random() < 0.3 else str(count)


def value(rng: Random, kind: str) -> str:
    """按取值的种类随机产生一个值。"""
    if kind.startswith("["):
        return rng.choice(kind.strip("[]").split("；"))
    if kind.startswith("数:"):
        return _number(rng, rng.choice([12, 60, 900])) + kind.removeprefix("数:")
    hour, minute = rng.randint(0, 23), rng.choice(["00", "30", "15", "45", "20"])
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    makers = {
        "天": lambda: _number(rng, 60) + rng.choice(["天", "天", "日", "个工作日"]),
        "周": lambda: _number(rng, 12) + "周",
        "月": lambda: _number(rng, 18) + "个月",
        "年": lambda: _number(rng, 20) + "年",
        "小时": lambda: _number(rng, 48) + "小时",
        "分钟": lambda: _number(rng, 90) + "分钟",
        "元": lambda: rng.choice([f"{rng.randint(1, 99)}{rng.choice(['', '', '0', '00', '.5'])}元",
                                 f"{rng.randint(1, 20)}万元",
                                 lexicon.chinese_number(rng.randint(1, 20)) + "元"]),
        "人名": lambda: lexicon.value(rng, "person") + rng.choice(["", "", "老师", "师傅", "主任"]),
        "单位": lambda: lexicon.value(rng, "org"),
        "地点": lambda: rng.choice([
            lexicon.value(rng, "place"), f"{rng.choice(STREETS)}路{rng.randint(1, 300)}号",
            rng.choice(SPOTS) + rng.choice(["", "旁边", "对面", "西侧"])]),
        "房间": lambda: f"{rng.choice('ABC一二三')}{rng.choice(['座', '号楼'])}{rng.randint(101, 1612)}室",
        "日期": lambda: rng.choice([f"{month}月{day}日", f"{rng.randint(2031, 2069)}年{month}月{day}日"]),
        "时刻": lambda: rng.choice([
            f"{hour}:{minute}", f"上午{rng.randint(6, 11)}点", f"晚上{rng.randint(6, 11)}点半",
            f"下午{lexicon.chinese_number(rng.randint(1, 6))}点"]),
        "时段": lambda: f"{rng.randint(6, 11)}:{minute}至{rng.randint(12, 23)}:{rng.choice(['00', '30'])}",
        "星期": lambda: rng.choice(["周", "每周", "星期"]) + rng.choice("一二三四五六日"),
        "电话": lambda: lexicon.novel_value(rng, "phone"),
        "网址": lambda: lexicon.value(rng, "url"),
        "百分比": lambda: f"{rng.randint(1, 99)}%",
        "比例": lambda: f"{rng.randint(1, 9)}:{rng.randint(2, 30)}",
        "度": lambda: f"{rng.randint(2, 90)}度",
        "编号": lambda: rng.choice("ABCDGHKT") + rng.choice(["", "-"]) + str(rng.randint(10, 99999)),
    }
    return makers[kind]()


def say(statement: str, shown: str, value_: str) -> str:
    return statement.replace("{S}", shown).replace("{V}", value_)


def not_stated(relation: Relation, full: str) -> str:
    return f"{full}的{relation.name}，材料没有写明。"


STYLES = {"formal": 0.4, "colloquial": 0.35, "other": 0.25}


def ask(rng: Random, relation: Relation, shown: str, style: str = "") -> str:
    """一种问法；一成多前后带一两个客气的字。"""
    style = style or rng.choices(list(STYLES), weights=STYLES.values())[0]
    text = rng.choice(getattr(relation, style)).replace("{S}", shown)
    if rng.random() < 0.12:
        text = draw(rng, "openings") + text
    if rng.random() < 0.06 and not text.endswith("？"):
        text += draw(rng, "closings")
    return text.removesuffix("？") if rng.random() < 0.1 else text
