"""同义词替换：把问题换一种说法,意思不变。讲解见 notebook 02 的数据增强。

预训练语料(tiny_base)和微调时的问题改写用的是同一张表 synonyms.txt。
做法同 EDA(Wei 与 Zou,2019,arXiv:1901.11196)中的同义词替换。


问法的组合文法:同一个属性可以有成百上千种问法,答案的句式却固定。

小模型微调之后能不能听懂没见过的问法,取决于它在预训练时见过多少“不同说法、同一意思”。
讲解见 notebook 02。
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random


@cache
def synonym_table() -> dict[str, tuple[str, ...]]:
    """词 → 可以换成的词;一个词出现在几组里时合在一起。"""
    found: dict[str, list[str]] = {}
    for line in Path(__file__).with_name("synonyms.txt").read_text(encoding="utf-8").splitlines():
        words = [] if line.startswith("#") else line.split()
        for word in words:
            found.setdefault(word, []).extend(other for other in words if other != word)
    return {word: tuple(dict.fromkeys(others)) for word, others in found.items()}


@cache
def _longest() -> int:
    return max(map(len, synonym_table()))


def _word_at(text: str, start: int, shortest: int) -> str:
    """从 start 开始能在表里找到的最长的词(至少 shortest 个字);没有就是空串。"""
    for length in range(min(_longest(), len(text) - start), shortest - 1, -1):
        if text[start : start + length] in synonym_table():
            return text[start : start + length]
    return ""


def replace(text: str, rng: Random, probability: float = 0.4, shortest: int = 1) -> str:
    """从左到右找表里的词(先找长的),每个以 probability 的概率换成同组的另一个。

    少于 shortest 个字的词不换:单字常是别的词的一部分,如“创新”里的“新”。
    """
    pieces, place = [], 0
    while place < len(text):
        word = _word_at(text, place, shortest)
        swap = word and rng.random() < probability
        pieces.append(rng.choice(synonym_table()[word]) if swap else word or text[place])
        place += len(word) or 1
    return "".join(pieces)


NOUN_FRAMES = (
    "S的N是W S的N为W SN是W S的N是W来着 S规定的N是W S的N有什么规定 说说S的N S里N写的是W "
    "N是W，我问的是S 我想知道S的N S的N，你知道吗 关于N，S怎么说 查一下S的N S在N方面怎么规定 "
    "S对N的规定是W S的N具体是W S中N是W 介绍一下S的N S明确的N是W S里提到的N有W S的N应当是W "
    "对于S，N是W N方面S有什么要求 S这边N是W 按照S，N是W S的“N”是W S讲的“N”，指的是W"
).split()
OPENINGS = "请问 请问一下， 你好， 您好，请问 麻烦问下， 想问问 老师， 我想问一下， 同学问： 帮我看看， 打听一下， 请回答：".split()
CLOSINGS = "呢 呀 啊 ，谢谢 ，麻烦了 ，急 来着 ？我不太清楚 ，请说明".split()
SUBJECT_FORMS = ("S",) * 6 + ("《S》", "“S”", "S里", "S文件里", "S这个", "S中")
FILLERS = "听说 按规定 到底 究竟 一般来说 通知里讲 申报的时候 有人问 按文件 现在 具体来讲 从材料看 这次".split()
ASIDES = "按O的说法， O里讲到， 照O来看， O提到的 看了O， 对照O， O给 在O当中，".split()
MODIFIERS = ("今年的 新发的 最近公布的 大家都在问的 上面发的 数量最多的 规模最小的 名单里的 文件里说的 学校转发的 "
             "教育厅的 老师们常说的 这次的 网上查到的 前面提过的 大家熟悉的 Y年公布的 Y年的 Y年启动的").split()
DISTRACTIONS = "N我知道了， 先不管N， 除了N， N就不说了， 不问N， N已经查到，再问一句，".split()
ALIAS_TAILS = ("", "", "那个", "那份文件", "那份通知", "的文件", "这一类", "这边", "那个事", "的通知", "这种")
LIST_UNITS = "个 种 项 类 点 条 样 方面".split()
QUESTION_WORDS = {
    "date": "哪天 哪一天 什么时候 何时 几月几号", "month": "几月 什么时候 何时 哪个月",
    "yearrange": "哪几年 哪年到哪年 什么时候", "years": "几年 多少年 多久 多长时间",
    "months": "几个月 多久 多长时间", "days": "几天 多少天 多久", "times": "几次 多少次",
    "pct": "多少 百分之几 多大比例", "pctrange": "多少 百分之几到百分之几 什么范围",
    "org": "谁 哪个单位 哪家 哪个部门", "orgs": "谁 哪些单位 哪些部门", "person": "谁 哪位",
    "docno": "什么 多少 几号", "title": "什么 哪个 哪份文件", "money": "多少 多少钱 几块",
    "place": "哪里 哪儿 什么地方", "platform": "哪个 哪里 什么", "role": "谁 什么 哪种",
    "score": "多少 几分", "age": "多少 多少岁 几岁", "time": "几点 什么时候", "phone": "多少 几号",
    "url": "什么 哪个", "level": "什么 几级", "permit": "什么 怎样 怎么定", "need": "什么 怎样 怎么定",
}


@dataclass(frozen=True)
class Attribute:
    """一种可以问的属性:规范名称、取值类型、同义名词、动词性问法、陈述句(首句是标准回答)。"""

    name: str
    kind: str
    nouns: tuple[str, ...]
    questions: tuple[str, ...]
    statements: tuple[str, ...]


@cache
def attributes() -> tuple[Attribute, ...]:
    """读 attributes_*.txt;一行一个属性,字段用竖线分隔。"""
    found = []
    for path in sorted(Path(__file__).parent.glob("attributes_*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            name, kind, nouns, asks, says = line.split("|")
            found.append(Attribute(name, kind, (name, *nouns.split()),
                                   tuple(asks.split("；")), tuple(says.split("；"))))
    return tuple(found)


def pick(rng: Random, count: int) -> list[Attribute]:
    """随机取 count 个属性;三成取同一取值类型的,看上去都像答案,只能靠听懂问句来分辨。"""
    if rng.random() < 0.3:
        kind = rng.choice(attributes()).kind
        alike = [a for a in attributes() if a.kind.split(":")[0] == kind.split(":")[0]]
        if len(alike) >= count:
            return rng.sample(alike, count)
    return rng.sample(attributes(), count)


def _question_word(rng: Random, kind: str) -> str:
    if kind.startswith("count:"):
        unit = kind.removeprefix("count:")
        return rng.choice(["多少", "多少" + unit, "几" + unit])
    if kind[:-1] in ("phr", "words") and rng.random() < 0.4:
        return "哪" + "一两三四"[int(kind[-1]) - 1] + rng.choice(LIST_UNITS)
    return rng.choice(QUESTION_WORDS.get(kind, "什么 哪些 啥 哪几个").split())


def alias(rng: Random, subject: str) -> str:
    """主体的另一种叫法:去掉后缀、换成“那个”“那份文件”。人们提到同一份文件时很少用全称。"""
    short = subject.removesuffix(subject[-2:]) if len(subject) > 4 else subject
    return rng.choice([subject, short]) + rng.choice(ALIAS_TAILS)


def _shown(rng: Random, subject: str, nickname: bool) -> str:
    """问句里的主语:全称、简称,有时前面带一个不影响意思的修饰。"""
    shown = rng.choice(SUBJECT_FORMS).replace("S", subject)
    if nickname and rng.random() < 0.35:
        shown = alias(rng, subject)
    if rng.random() < 0.12:
        shown = rng.choice(MODIFIERS).replace("Y", str(rng.randint(2031, 2069))) + shown
    return shown


def _core(rng: Random, attribute: Attribute) -> str:
    """还没有填主语的问句。"""
    if rng.random() < 0.4:
        frame = rng.choice(NOUN_FRAMES).replace("W", _question_word(rng, attribute.kind))
        return frame.replace("N", rng.choice(attribute.nouns))
    core = rng.choice(attribute.questions)
    if rng.random() < 0.25:
        core = "S，" + (core.removeprefix("S") if core.startswith("S") else core.replace("S", "它"))
    return core


def ask(rng: Random, attribute: Attribute, subject: str, pronoun: bool = False,
        nickname: bool = True) -> str:
    """随机的一种问法。pronoun=True 时用代词或省略主语(只能用在已经说清主语的对话里);
    nickname=False 时不用简称(只看问句猜不出全称)。"""
    core = _core(rng, attribute)
    if rng.random() < 0.3:
        core = replace(core, rng)
    if pronoun:
        text = core.replace("S，", "").replace("S的", rng.choice(["它的", "这个的", ""]))
        text = text.replace("S", rng.choice(["它", "这个", "该" + subject[-2:], ""]))
    else:
        text = core.replace("S", _shown(rng, subject, nickname), 1)
    if rng.random() < 0.12:
        text = rng.choice(FILLERS) + rng.choice(["", "，"]) + text
    elif not pronoun and rng.random() < 0.1:  # 顺口提到另一份文件，问的还是原来的主语
        text = rng.choice(ASIDES).replace("O", regular_subject(rng)) + text
    elif rng.random() < 0.06:  # 顺口提到另一个属性，问的还是原来的属性
        other = rng.choice(attributes())
        text = rng.choice(DISTRACTIONS).replace("N", other.name) + text if other != attribute else text
    if rng.random() < 0.3:
        text = rng.choice(OPENINGS) + text
    if rng.random() < 0.2:
        text += rng.choice(CLOSINGS)
    return text + rng.choice(["？", "？", "？", "?", ""])


def formal(attribute: Attribute, subject: str) -> str:
    """规范问法,改写任务以它为目标。"""
    word = "多少" if attribute.kind.startswith("count:") else "什么"
    if attribute.kind in QUESTION_WORDS:
        word = QUESTION_WORDS[attribute.kind].split()[0]
    return f"{subject}的{attribute.name}是{word}？"


def answer(attribute: Attribute, subject: str, value: str) -> str:
    """标准回答:先重述主语和属性,再给值。"""
    return attribute.statements[0].replace("S", subject).replace("V", value) + "。"


def restated(attribute: Attribute, subject: str) -> str:
    """回答的开头,到“是”为止:重述主语和属性。"""
    return attribute.statements[0].removesuffix("是V").replace("S", subject)


def not_stated(attribute: Attribute, subject: str) -> str:
    """没写明时的开头与标准回答一字不差:先听懂问的是什么,再判断知不知道。"""
    return f"{restated(attribute, subject)}，材料没有写明。"


def state(rng: Random, attribute: Attribute, subject: str, value: str) -> str:
    """材料里的一句陈述,说法随机。"""
    frames = (*attribute.statements, *attribute.statements, "S的N为V", "S明确，N是V", "S的N：V")
    text = rng.choice(frames).replace("N", rng.choice(attribute.nouns))
    return text.replace("S", subject).replace("V", value) + "。"


FIRST = "晨青远星海云松春秋江湖金玉明华安永长新兰竹梅紫石林泉雪雨风阳月文思启立致雅和清朗景嘉瑞宏博"
SECOND = "光禾山河川岭涛辰帆舟桥杉枫桐荷露霞岩溪原野亭园泽洲港湾峰谷城塔灯苗木叶"
KINDS = ("计划 项目 通知 办法 工程 行动 评选 大赛 基地 课程 奖学金 培训班 意见 方案 细则 试点 研修班 "
         "工作坊 夏令营 论坛 教材 专业 认定 申报 课 竞赛 规划 规定 管理办法 推荐工作 认定工作").split()
GROUPS = ("教师组 学生组 线上类 线下类 高职组 中学组 小学组 理科类 文科类 工科类 初级班 高级班 青年组 "
          "团体组 个人组 周末班 暑期班 夜间班 一类 二类 三类 甲类 乙类 重点类 一般类 省级 市级 校级").split()
TOPICS = ("双语 实验 短期 远程 艺术 体育 劳动 阅读 写作 编程 口语 田野 工坊 校园 数字 心理 健康 法律 生态 "
          "摄影 音乐 书法 历史 地理 统计 机器人 航模 农艺 护理 财会 旅游 室外 社区 实习 创业").split()
BATCHES = "首批 第二批 第三批 第四批 第五批 第六批 首届 第二届 第三届 第四届 首轮 第二轮 第一期 第二期".split()
PLACES = "省 市 县 区 大学 学院 中学 师范大学 职业学院".split()


def fancy(rng: Random) -> str:
    return rng.choice(FIRST) + rng.choice(SECOND)


def place(rng: Random) -> str:
    return fancy(rng) + rng.choice(PLACES)


def regular_subject(rng: Random) -> str:
    """由词库拼成的主体名称,例如“第二批晨光计划”“星河省写作课程教师组”。"""
    topic = rng.choice(TOPICS)
    forms = [
        lambda: fancy(rng) + rng.choice(KINDS),
        lambda: rng.choice(BATCHES) + fancy(rng) + rng.choice(KINDS),
        lambda: place(rng) + topic + rng.choice(KINDS),
        lambda: fancy(rng) + rng.choice(KINDS) + rng.choice(GROUPS),
        lambda: topic + rng.choice(["课程", "课", "类课程", "班", "项目", "大赛"]),
        lambda: fancy(rng) + topic + rng.choice(["课程", "课", "项目", "计划", "通知"]),
        lambda: rng.choice(BATCHES) + topic + rng.choice(["课程", "项目", "评选", "认定", "通知"]),
        lambda: f"{rng.randint(2031, 2069)}年{fancy(rng)}{rng.choice(KINDS)}",
        lambda: f"{fancy(rng)}{rng.choice(KINDS)}的{topic}{rng.choice(['课程', '项目', '部分'])}",
    ]
    return rng.choice(forms)()
