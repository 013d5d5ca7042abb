"""用日常事务的关系（relations.py）与小事（scenes.py）造对话：阅读，闭卷，换说法，认同一件事，概括。

每个 ``*_task`` 返回一段对话，写法同 corpus.py；留出的关系从不出现。
"""

import re
from functools import cache
from random import Random

from tools.tiny_base import relations, scenes
from tools.tiny_base.relations import Relation, Subject, Topic, ask, not_stated, say, value

WORLD_SEED, WORLD_SUBJECTS, WORLD_FACTS = 2033, 320, 6
FILLERS = ("请大家互相转告。 感谢大家的配合。 如有变动，另行通知。 欢迎监督。 其他事情照旧。 望周知。 "
           "请自觉遵守。 具体安排由工作人员现场说明。 有不明白的地方可以问。 最近来的人比较多。 "
           "天气变化时请多留意。").split(" ")
READING = ("阅读材料：P\n问题：Q", "P\n根据上面的材料回答：Q", "材料：P\n问：Q", "P\nQ", "P\n\nQ",
           "请根据材料回答问题。\nP\nQ", "已知：P\n请问：Q", "下面是一段规定。\nP\nQ", "P\n看完告诉我，Q")
REWRITE = ("换成规范的问法：Q", "这句话问的是什么？Q", "把问题改得正式些：Q", "用书面语重问：Q")
SAME = ("“A”和“B”问的是同一件事吗？", "这两个问题意思一样吗：A / B", "A 与 B 是不是同一个问题？")
SUMMARY = ("用一句话概括：P", "P\n这段话讲了什么？", "这段材料说了哪些事？\nP")
LONGEST = 330  # 材料至多这么多字
_MARK = re.compile(r"^(?:[\d一二三四五六七八九]+[.、] ?|（\d）|第.条 |答：)")
_ROW = re.compile(r"[：\s|]+")


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str, loss: bool = True) -> dict:
    return {"role": "assistant", "content": text, "loss": loss}


@cache
def learned() -> tuple[tuple[Topic, tuple[Relation, ...]], ...]:
    """每一类和它学过的关系。"""
    return tuple((topic, tuple(r for r in topic.relations if not r.held_out)) for topic in relations.topics())


def draw_facts(rng: Random, count: int) -> tuple[Subject, dict[Relation, str], list[Relation]]:
    """(一个主体, 写明的事, 没写明的事)。"""
    topic, known = rng.choice(learned())
    picked = rng.sample(known, min(count + 2, len(known)))
    return relations.subject(rng, topic), {r: value(rng, r.kind) for r in picked[:-2]}, picked[-2:]


def _sentence(rng: Random, relation: Relation, subject: Subject, value_: str, first: bool) -> str:
    shown = rng.choice([subject.full, subject.short, subject.short, subject.described])
    shown = subject.full if first else shown
    choices = [s for s in relation.statements if not first or "{S}" in s]
    return say(rng.choice(choices), shown, value_)


def _prose(rng: Random, subject: Subject, facts: dict[Relation, str]) -> str:
    lines = [_sentence(rng, r, subject, v, i == 0) for i, (r, v) in enumerate(facts.items())]
    for _ in range(rng.choice([0, 0, 1])):
        lines.insert(rng.randrange(1, len(lines) + 1), rng.choice(FILLERS))
    return "".join(lines)


def _listed(rng: Random, subject: Subject, facts: dict[Relation, str]) -> str:
    mark = rng.choice(["{}. ", "（{}）", "{}、", "第{}条 "])
    numbers = "一二三四五六七八九" if mark in ("{}、", "第{}条 ") else "123456789"
    lines = [mark.format(numbers[i]) + _sentence(rng, r, subject, v, False)
             for i, (r, v) in enumerate(facts.items())]
    title = rng.choice(["须知", "规定", "办事指南", "说明", "简介", "管理办法"])
    return "\n".join([subject.full + title, *lines])


def _table(rng: Random, subject: Subject, facts: dict[Relation, str]) -> str:
    gap = rng.choice(["：", " ", " | ", "\t"])
    rows = [f"{rng.choice((r.name, *r.nouns))}{gap}{v}" for r, v in facts.items()]
    return "\n".join([subject.full, *rows])


def _notice(rng: Random, subject: Subject, facts: dict[Relation, str]) -> str:
    head = rng.choice(["通知", "公告", "温馨提示", f"关于{subject.full}的通知", f"{subject.full}公告"])
    tail = rng.choice(["特此通知。", "", f"{subject.full}\n{relations.value(rng, '日期')}"])
    return "\n".join(filter(None, [head, _prose(rng, subject, facts), tail]))


def _faq(rng: Random, subject: Subject, facts: dict[Relation, str]) -> str:
    pairs = [f"问：{ask(rng, r, subject.short)}\n答：{_sentence(rng, r, subject, v, False)}"
             for r, v in facts.items()]
    return "\n".join([f"{subject.full}常见问题", *pairs])


FORMS = {_prose: 0.45, _listed: 0.2, _table: 0.12, _notice: 0.15, _faq: 0.08}


def passage(rng: Random, subject: Subject, facts: dict[Relation, str]) -> str:
    """写明 facts 的一段材料：文章、条款、表格、通知或问答录。"""
    form = rng.choices(list(FORMS), weights=FORMS.values())[0]
    return form(rng, subject, facts)


def reply(relation: Relation, subject: Subject, value_: str) -> str:
    return say(relation.statements[0], subject.full, value_)


WORDS = {  # 取值的种类 → 疑问词：把陈述句里的值换成它，就是一句问话
    "天": "多久 几天", "周": "多久 几周", "月": "多久 几个月", "年": "多久 几年", "小时": "多久 几个小时",
    "分钟": "多久 几分钟", "元": "多少钱", "人名": "谁", "单位": "哪个单位", "地点": "哪里 什么地方",
    "房间": "哪个房间", "日期": "哪一天 什么时候", "时刻": "几点 什么时候", "时段": "什么时间",
    "星期": "星期几", "电话": "什么号码", "网址": "什么网址", "百分比": "百分之几 多少",
    "比例": "多少", "度": "多少度", "编号": "什么编号"}


def literal(rng: Random, relation: Relation, statement: str, shown: str) -> str:
    """把一句陈述里的值换成疑问词。"""
    unit = relation.kind.removeprefix("数:")
    default = "什么 怎样" if relation.kind.startswith("[") else f"多少{unit} 几{unit}"
    word = rng.choice(WORDS.get(relation.kind, default).split(" "))
    return say(statement, shown, word).removesuffix("。") + "？"


def _quoted(text: str, subject: Subject, relation: Relation, value_: str) -> str:
    """材料里写着这个值的那一句；表格里的一行补成一句。"""
    whole = re.compile(rf"(?<!\d){re.escape(value_)}")  # 13天里没有3天
    piece = _MARK.sub("", next(filter(whole.search, re.split(r"(?<=[。？])|\n", text)))).strip()
    for name in (relation.name, *relation.nouns):
        if _ROW.fullmatch(piece.removeprefix(name).removesuffix(value_)):
            return f"{subject.full}的{name}是{value_}。"
    return piece


def reading_task(rng: Random) -> list[dict]:
    """读一段材料，回答一到三问：抄出材料里的那一句；百里有三问没写明。"""
    subject, facts, missing = draw_facts(rng, rng.choice([1, 2, 3, 4, 5, 6, 7]))
    text = passage(rng, subject, facts)
    while len(text) > LONGEST and len(facts) > 1:
        facts.popitem()
        text = passage(rng, subject, facts)
    asked = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        shown = rng.choice([subject.full, subject.short, subject.described])
        if rng.random() < 0.03:
            relation = rng.choice(missing)
            asked.append((ask(rng, relation, shown), not_stated(relation, subject.full)))
        else:
            relation = rng.choice(list(facts))
            question = (literal(rng, relation, rng.choice(relation.statements), shown) if rng.random() < 0.3
                        else ask(rng, relation, shown))
            asked.append((question, _quoted(text, subject, relation, facts[relation])))
    return _read(rng, text, asked)


def scene_task(rng: Random) -> list[dict]:
    """读几件互不相干的小事，有时夹着几句日常事务。"""
    extra = []
    for _ in range(rng.choice([0, 0, 1, 2])):
        subject, _, [relation, _] = draw_facts(rng, 1)
        statement = rng.choice([s for s in relation.statements if "{S}" in s])
        sentence = say(statement, subject.full, value(rng, relation.kind))
        extra.append((sentence, literal(rng, relation, statement, subject.full) if rng.random() < 0.5
                      else ask(rng, relation, subject.full)))
    return _read(rng, *scenes.reading(rng, extra))


def _read(rng: Random, text: str, asked: list[tuple[str, str]]) -> list[dict]:
    turns = [turn for question, answer in asked for turn in (user(question), assistant(answer))]
    turns[0] = user(rng.choice(READING).replace("P", text).replace("Q", asked[0][0]))
    return turns


def _answer_form(rng: Random, relation: Relation) -> str:
    """回答不总是标准的那一句：真的问答集里，同一类问题的回答各有各的写法。"""
    return rng.choice([s for s in relation.statements if "{S}" in s])


def reasking_task(rng: Random) -> list[dict]:
    """先给几组问答，再用别的说法问同样的事：回答照旧，一字不改；没给过的说没有写明。"""
    subjects = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        subjects.append(draw_facts(rng, rng.choice([2, 3, 4])))
    asked = []
    for subject, facts, _ in subjects:
        for relation, value_ in list(facts.items())[: max(1, 5 // len(subjects))]:
            asked.append((subject, relation, say(_answer_form(rng, relation), subject.full, value_)))
    rng.shuffle(asked)
    turns = [turn for subject, relation, answer in asked
             for turn in (user(ask(rng, relation, subject.full)), assistant(answer, loss=False))]
    for subject, relation, answer in rng.sample(asked, len(asked)):
        shown = subject.full if len(subjects) > 1 or rng.random() < 0.6 else subject.short
        turns += [user(ask(rng, relation, shown)), assistant(answer)]
    if rng.random() < 0.3:
        subject, _, missing = rng.choice(subjects)
        relation = rng.choice(missing)
        turns += [user(ask(rng, relation, subject.full)), assistant(not_stated(relation, subject.full))]
    return turns


@cache
def world() -> tuple[tuple[Subject, dict[Relation, str], tuple[Relation, ...]], ...]:
    """固定的世界：(主体, {关系: 回答}, 没写明的关系)；要背下来，并认得同一件事的各种问法。"""
    rng, found = Random(WORLD_SEED), {}
    while len(found) < WORLD_SUBJECTS:
        subject, facts, missing = draw_facts(rng, WORLD_FACTS)
        answers = {r: say(_answer_form(rng, r), subject.full, v) for r, v in facts.items()}
        found.setdefault(subject.full, (subject, answers, tuple(missing)))
    return tuple(found.values())


def world_task(rng: Random) -> list[dict]:
    """不给材料，问固定世界里的事；没有的说没有写明。"""
    subject, answers, missing = rng.choice(world())
    if rng.random() < 0.2:
        relation = rng.choice(missing)
        return [user(ask(rng, relation, subject.full)), assistant(not_stated(relation, subject.full))]
    relation = rng.choice(list(answers))
    return [user(ask(rng, relation, subject.full)), assistant(answers[relation])]


def unknown_task(rng: Random) -> list[dict]:
    """不给材料，问一个从没听说过的主体。"""
    subject, _, missing = draw_facts(rng, 1)
    return [user(ask(rng, missing[0], subject.full)), assistant(not_stated(missing[0], subject.full))]


def rewrite_task(rng: Random) -> list[dict]:
    """口语的、换个角度的问法 → 规范的问法（总是第一种）。"""
    subject, _, [relation, _] = draw_facts(rng, 1)
    asked = ask(rng, relation, subject.full, rng.choice(["colloquial", "other"]))
    return [user(rng.choice(REWRITE).replace("Q", asked)),
            assistant(relation.formal[0].replace("{S}", subject.full))]


def same_task(rng: Random) -> list[dict]:
    """两个问题问的是不是同一件事；不是的，问的是同一主体的另一件事。"""
    subject, _, [first, second] = draw_facts(rng, 1)
    if rng.random() < 0.5:
        second = first
    asked = [ask(rng, relation, subject.full) for relation in (first, second)]
    same = f"是，都在问{subject.full}的{first.name}。"
    differ = f"不是，前一个问{first.name}，后一个问{second.name}。"
    return [user(rng.choice(SAME).replace("A", asked[0]).replace("B", asked[1])),
            assistant(same if first == second else differ)]


def summary_task(rng: Random) -> list[dict]:
    """一句话说出材料讲的是谁的哪几件事。"""
    subject, facts, _ = draw_facts(rng, rng.choice([2, 3]))
    text = passage(rng, subject, facts)
    *names, last = (relation.name for relation in facts)
    return [user(rng.choice(SUMMARY).replace("P", text)),
            assistant(f"讲的是{subject.full}的{'、'.join(names)}和{last}。")]


TASKS = {reading_task: 0.24, scene_task: 0.16, reasking_task: 0.22, world_task: 0.20, unknown_task: 0.06,
         rewrite_task: 0.06, same_task: 0.04, summary_task: 0.02}


def conversation(rng: Random) -> list[dict]:
    return rng.choices(list(TASKS), weights=TASKS.values())[0](rng)
