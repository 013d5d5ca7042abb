"""编出来的中文：给定种子就一字不差。每句话带一个编号（K0001），查得到它在哪一页、次序对不对。"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

WHO = """各学院 教务处 学生工作部 图书馆 后勤集团 任课教师 辅导员 毕业班学生 实验室管理员 课程负责人
教学督导组 校医院 档案馆 信息中心 研究生院 留学生公寓 体育教研室 财务处 招生办公室 校友会 教材科
评审专家 助教 班主任""".split()
DO = """提交 核对 公布 修订 登记 汇总 评议 归还 更换 检修 借阅 申报 抽查 批准 备案 通报 撤销 补办 保存 复核
推荐 编制 宣读 移交 验收 发放 预约 统计""".split()
WHAT = """课程大纲 实习报告 期末试卷 教室钥匙 显微镜 借书证 奖学金名单 选课结果 毕业设计题目 缓考申请 听课记录
安全承诺书 校园网账号 体检表 学籍档案 竞赛获奖证书 危险化学品清单 教学日历 成绩更正单 宿舍床位
设备维修单 论文查重结果 会议纪要 志愿服务时长 助学贷款合同 科研经费决算 灭火器 投影仪 舞蹈房
游泳馆门票""".split()
WHEN = """每学期开学后两周内 寒假前 考试结束之日起五个工作日内 每月最后一个星期五 接到通知以后
遇到台风、暴雨等特殊天气时 答辩通过后 军训期间 周末和法定节假日 夜间十一点以后 新生报到当天
疫情结束后""".split()
WHERE = """行政楼三层 南校区东门 线上办事大厅 实验中心二〇四室 梧桐路校区 学术报告厅 长江路食堂 青年公寓
飞鸟剧场 龙腾馆""".split()
WHY = """不得委托他人代为办理 逾期的视为自动放弃 费用由学校承担 所需表格可以自行下载 确有困难的可以申请延长
并当面说明理由 同时抄送纪检监察部门 结果在网上公示三天 凭校园卡入场 须有两名见证人签字 严禁私自转借
违者取消当年评优资格""".split()
HOW = """按照先后次序 采用无记名投票的办法 通过电子邮件 以书面形式 在监督下 会同有关单位
逐项 及时 如实 统一""".split()
# 人名用的字：各种部首、笔画都有一些
GIVEN = "".join("""
赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦尤许何吕施张孔曹严华金魏陶姜戚谢邹喻柏水窦章云苏潘葛奚范彭郎
鲁韦昌马苗凤花方俞任袁柳酆鲍史唐费廉岑薛雷贺倪汤滕殷罗毕郝邬安常乐于时傅皮卞齐康伍余元卜顾孟平黄
和穆萧尹姚邵湛汪祁毛禹狄米贝明臧计伏成戴谈宋茅庞熊纪舒屈项祝董梁杜阮蓝闵席季麻强贾路娄危江童颜郭
梅盛林刁钟徐邱骆高夏蔡田樊胡凌霍虞万支柯昝管卢莫经房裘缪干解应宗丁宣贲邓郁单杭洪包诸左石崔吉钮龚
程嵇邢滑裴陆荣翁荀羊於惠甄家封芮羿储靳汲邴糜松井段富巫乌焦巴弓牧隗山谷车侯宓蓬全郗班仰""".split())
ARTICLE_DIGITS = "零一二三四五六七八九"
EN = "Python 3.11,MOOC,A4,Wi-Fi,PDF,ISO 9001,GPA,C++".split(",")


@dataclass
class Paragraph:
    """一段话。kind：prose 正文；title 标题；row 表格的一行；note 脚注、文本框，放在哪里都算对；
    again 再出现的标题、表头，有没有都算对。"""

    text: str
    sentences: list[str] = field(default_factory=list)
    kind: str = "prose"
    pages: dict[str, int] = field(default_factory=dict)  # 编号 → 印在哪一页，用 pdftotext 查
    page: int | None = None  # 页由我们自己定的才写


class Writer:
    """编一份文档的文字；编号从 K0001 起，同一份里不重复。换 more 就换一批文字。"""

    more = 0

    def __init__(self, seed: int):
        self.random = random.Random(seed + 1000 * self.more)
        self.count = 0

    def serial(self) -> str:
        self.count += 1
        return f"K{self.count:04d}"

    def name(self) -> str:
        return "".join(self.random.sample(GIVEN, 3))

    def sentence(self) -> str:
        pick, r = self.random.choice, self.random.randint
        number = self.serial()
        who, what, do = pick(WHO), pick(WHAT), pick(DO)
        people = "、".join(self.name() for _ in range(3))
        return pick((
            f"{pick(WHEN)}，{who}应当{pick(HOW)}{do}{what}（{number}），{pick(WHY)}。",
            f"{number}号{what}由{who}的{self.name()}保管，{pick(WHO)}可以{do}，每次不超过{r(2, 90)}天。",
            f"{who}{do}的{what}共{r(3, 3000)}份，其中{r(2, 99)}.{r(1, 9)}%存放在{pick(WHERE)}，"
            f"清单编号{number}；{pick(WHY)}。",
            f"“{what}”一栏（代号{number}）由{people}{pick(HOW)}填写，{pick(WHEN)}交到{pick(WHERE)}。",
            f"20{r(10, 29)}年{r(1, 12)}月{r(1, 28)}日{r(7, 20)}:{r(10, 59)}，{who}在{pick(WHERE)}{do}{what}，"
            f"用到 {pick(EN)} 等工具，记为{number}。",
        ))

    def prose(self, low: int = 1, high: int = 5, kind: str = "prose", start: str = "") -> Paragraph:
        """low 到 high 句的一段；start 是段首的“第一条　”之类。"""
        sentences = [self.sentence() for _ in range(self.random.randint(low, high))]
        return Paragraph(start + "".join(sentences), sentences, kind)

    def title(self, start: str = "") -> Paragraph:
        pick = self.random.choice
        text = f"{start}{pick(WHAT)}的{pick(DO)}与{pick(DO)}"
        return Paragraph(text, [], "title")

    def row(self, cells: list[str]) -> Paragraph:
        return Paragraph(" | ".join(cells), ["".join(cells)], "row")

    def chapters(self, count: int, sections: int, paragraphs: int) -> Iterator[Paragraph]:
        """手册那样的一章章、一节节。"""
        for chapter in range(1, count + 1):
            yield self.title(f"第{chinese(chapter)}章 ")
            for section in range(1, sections + 1):
                yield self.title(f"{chapter}.{section} ")
                for _ in range(paragraphs):
                    yield self.prose()

    def regulation(self, chapters: int, articles: int, gaps: str = "\u3000 ") -> Iterator[Paragraph]:
        """“第一章”“第一条　……”，有的条下面分（一）（二）；条号后面轮流用 gaps 里的空白。"""
        number = 0
        for chapter in range(1, chapters + 1):
            yield self.title(f"第{chinese(chapter)}章\u3000")
            for _ in range(articles):
                number += 1
                yield self.prose(1, 3, start=f"第{chinese(number)}条{gaps[number % len(gaps)]}")
                if number % 4 == 0:
                    for item in range(1, 4):
                        yield self.prose(1, 1, start=f"（{chinese(item)}）")


def chinese(number: int) -> str:
    """1 到 999 的汉字写法。"""
    hundreds, tens, ones = number // 100, number // 10 % 10, number % 10
    text = f"{ARTICLE_DIGITS[hundreds]}百" if hundreds else ""
    if tens:
        text += ("" if tens == 1 and not hundreds else ARTICLE_DIGITS[tens]) + "十"
    elif hundreds and ones:
        text += "零"
    return text + (ARTICLE_DIGITS[ones] if ones else "")
