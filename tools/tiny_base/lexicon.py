"""虚构名称的词库与随机取值。语料里的计划、单位、数字全部由这里随机产生。"""

from random import Random

from labutils.training.questions import WORDS, draw, regular_subject
from tools.tiny_base import vocab

KINDS, TOPICS = WORDS["kinds"], WORDS["topics"]
SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕"
GIVEN = "明华伟芳娜敏静丽强磊军洋勇艳杰娟涛超霞平刚桂英建文玲志宁晓雪梅兰海云峰"
OFFICES = ("教育厅 教育局 教务处 科研处 人事处 学生处 团委 师资办公室 招生办公室 研究院 评估中心 考试院 财务处 "
           "信息中心 图书馆 教师发展中心 工会 研究生院 教学委员会 办公厅 体育局 文化馆").split()
NOUNS = ("教材 教案 讲义 题库 实验 作业 论文 报告 视频 课件 数据 案例 模型 方法 内容 形式 评价 设计 制度 "
         "队伍 平台 资源 环境 经费 课堂 讨论 答辩 面试 笔试 试讲 听课 访谈 问卷 调查 展示 演练 观摩 讲座 "
         "班级 小组 导师 学生 教师 家长 企业 社区 农村 工厂 医院 博物馆 学校 专业 学科 地区 年级 层次 结构 "
         "安全 诚信 纪律 质量 效率 公平 创新 协作 兴趣 责任 能力 素养 知识 技能 态度 时间 规模 成本 政策 学术 "
         "道德 语言 技术 文化 历史 科学 艺术 劳动 健康 阅读 写作 计算 推理 记录 反馈 总结 证明 申请表 推荐信 "
         "成绩单 照片 身份证 承诺书 计划书 预算表 说明书 意见书 审查表 主阵地 示范区 试验田 信息化 国际化").split()
PHRASE_A = ("立足 面向 服务 扎根 注重 突出 加强 推进 深化 完善 创新 优化 提升 拓展 保障 规范 鼓励 支持 促进 "
            "坚持 强化 落实 聚焦 统筹 夯实 激发 培育 带动 引领 尊重").split()
PHRASE_B = ("基础 实践 育人 质量 特色 协同 开放 共享 改革 应用 乡村 基层 课堂 学生 教师 评价 资源 合作 安全 "
            "公平 诚信 素养 能力 兴趣 责任 融合 示范 服务 管理 研究 成果 交流").split()
IDIOMS = ("因材施教 循序渐进 教学相长 学以致用 知行合一 持之以恒 精益求精 各展所长 择优录取 公开透明 分步实施 "
          "以评促建 以赛促学 先试后推 上下联动 内外结合 动静相宜 长短结合 点面结合 严格标准 宁少求精 "
          "分级管理 分层教学 动态调整 自愿参加 量力而行 突出重点 兼顾一般 结合实际 注重实效").split()
ROLES = ("讲师 副教授 教授 助教 教研室主任 系主任 院长 辅导员 班主任 中级教师 高级教师 特级教师 实验员 工程师 "
         "项目主持人 课程主讲人 学科带头人 教学秘书").split()
LEVELS = "初级 中级 高级 一级 二级 三级 四级 五级 合格 良好 优秀".split()
AREAS = "会议中心 体育馆 图书馆 报告厅 实验楼 教学楼 活动中心 礼堂 宾馆 培训中心 学生公寓 招待所".split()
DIGITS = "零一二三四五六七八九十"


def fancy(rng: Random) -> str:
    return draw(rng, "first") + draw(rng, "second")


def place(rng: Random) -> str:
    return fancy(rng) + draw(rng, "places")


def chinese_number(value: int) -> str:
    """1–99 的汉字写法,例如 25 → 二十五。"""
    if value <= 10:
        return DIGITS[value]
    tens, ones = divmod(value, 10)
    return ("" if tens == 1 else DIGITS[tens]) + "十" + (DIGITS[ones] if ones else "")


def small_number(rng: Random, low: int, high: int) -> str:
    value = rng.randint(low, high)
    return chinese_number(value) if rng.random() < 0.6 else str(value)


def subject(rng: Random) -> str:
    """一个虚构主体的名称;三成用任意的字拼成,逼模型真的去抄而不是背词库。"""
    if rng.random() < 0.3:
        name = random_characters(rng, rng.randint(2, 5)) + rng.choice([*KINDS, *"节会班日奖社展"])
        return name.replace("慕课", "木课")  # 课程文档里的词碰巧拼出来也不进语料
    return regular_subject(rng)


def novel_value(rng: Random, kind: str) -> str:
    """同 value,但写法更杂:两成的词语类取值用任意的字拼成,日期常不写年份,电话有几种写法。"""
    if kind == "phone":
        return _phone(rng)
    if kind == "date" and rng.random() < 0.3:
        return value(rng, kind).split("年")[1]
    if kind[:-1] in ("phr", "words") and rng.random() < 0.2:
        words = [random_characters(rng, rng.randint(2, 5)) for _ in range(int(kind[-1]))]
        return "、".join(words)
    return value(rng, kind)


def _phone(rng: Random) -> str:
    """座机(带或不带区号)、手机号、短号。"""
    shape = rng.choice(["###-#######", "0###-#######", "########", "1##########", "#####"])
    return "".join(rng.choice("0123456789") if c == "#" else c for c in shape)


def random_characters(rng: Random, count: int) -> str:
    """count 个任意的一级汉字。"""
    return "".join(rng.choices(vocab.level1_characters(), k=count))


def phrase(rng: Random) -> str:
    return rng.choice(IDIOMS) if rng.random() < 0.3 else rng.choice(PHRASE_A) + rng.choice(PHRASE_B)


def _title(rng: Random) -> str:
    name = place(rng) + rng.choice(["关于", ""]) + rng.choice(PHRASE_A) + rng.choice(TOPICS)
    return f"《{name}{rng.choice(PHRASE_B)}的{rng.choice(KINDS[:20])}》"


def _word(rng: Random) -> str:
    style = rng.random()
    if style < 0.5:
        return rng.choice(NOUNS)
    if style < 0.8:
        return rng.choice(TOPICS) + rng.choice(NOUNS)
    return fancy(rng) + rng.choice(NOUNS)


def _joined(rng: Random, make, count: int) -> str:
    """count 个互不相同的词,用顿号连接;最后一个偶尔用“和”。"""
    items: dict[str, None] = {}
    while len(items) < count:
        items[make(rng)] = None
    words = list(items)
    if count > 1 and rng.random() < 0.25:
        return "、".join(words[:-1]) + "和" + words[-1]
    return "、".join(words)


def _count(rng: Random, unit: str) -> str:
    if unit in "门所人项个" and rng.random() < 0.6:
        value = rng.choice([rng.randint(11, 999), rng.randint(1000, 20000), rng.randint(1, 90) * 100])
        return f"{value}{unit}{rng.choice(['', '', '左右'])}"
    return small_number(rng, 1, 12) + unit


def value(rng: Random, kind: str) -> str:
    """按取值类型随机产生一个值;类型见 attributes_*.txt 的第二列。"""
    if kind.startswith("count:"):
        return _count(rng, kind.removeprefix("count:"))
    if kind[:-1] in ("phr", "words"):
        return _joined(rng, phrase if kind[:-1] == "phr" else _word, int(kind[-1]))
    year = rng.randint(2031, 2069)
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    percent = rng.randint(2, 18) * 5
    makers = {
        "date": lambda: f"{year}年{month}月{day}日",
        "month": lambda: f"{year}年{month}月",
        "yearrange": lambda: f"{year}—{year + rng.randint(1, 6)}年",
        "years": lambda: small_number(rng, 1, 12) + "年",
        "months": lambda: small_number(rng, 1, 18) + "个月",
        "days": lambda: small_number(rng, 2, 60) + "天",
        "times": lambda: small_number(rng, 1, 9) + "次",
        "pct": lambda: f"{percent}%" + rng.choice(["", "", "以上"]),
        "pctrange": lambda: f"{percent}%—{min(percent + rng.randint(1, 8) * 5, 100)}%",
        "org": lambda: place(rng) + rng.choice(OFFICES),
        "orgs": lambda: _joined(rng, lambda r: r.choice(["各", place(r)]) + r.choice(OFFICES), 3),
        "person": lambda: rng.choice(SURNAMES) + "".join(rng.sample(GIVEN, rng.randint(1, 2))),
        "docno": lambda: f"{fancy(rng)}{rng.choice(['教', '发', '函', '办', '字'])}〔{year}〕{rng.randint(1, 99)}号",
        "title": lambda: _title(rng),
        "money": lambda: f"{rng.randint(1, 99)}{rng.choice(['00元', '万元', '0元', '千元'])}",
        "place": lambda: place(rng) + rng.choice(AREAS),
        "platform": lambda: fancy(rng) + rng.choice(TOPICS) + rng.choice(["平台", "网", "学习平台"]),
        "role": lambda: rng.choice(ROLES),
        "score": lambda: f"{rng.randint(50, 95)}分",
        "age": lambda: f"{small_number(rng, 20, 60)}岁",
        "time": lambda: f"{rng.choice(['上午', '下午', '晚上'])}{small_number(rng, 1, 11)}点",
        "phone": lambda: f"{rng.randint(200, 899)}-{rng.randint(1000000, 9999999)}",
        "url": lambda: "www." + "".join(rng.choices("abcdefghijkmnprstuvwxyz", k=5)) + ".cn",
        "level": lambda: rng.choice(LEVELS),
        "permit": lambda: rng.choice(["允许", "不允许", "须经批准"]),
        "need": lambda: rng.choice(["需要", "不需要", "自愿"]),
    }
    return makers[kind]()
