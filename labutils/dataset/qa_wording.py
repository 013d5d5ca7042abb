"""问答的用语：是不是文档的语言，离开原文还看不看得懂。

在 notebooks/01_build_dataset.ipynb 讲解。训练和答题时都没有原文在手边，
“本文的文号是什么”这样的题谁也答不了，学了只会乱猜。
"""

from __future__ import annotations

import re
import unicodedata

CHINESE_SHARE = 0.5  # 一个汉字、一个外文单词各算一个，汉字占到一半就算中文

_UNIT = re.compile(r"[\u3400-\u9fff]|[^\W\d_\u3400-\u9fff]+")
# “资本文化”“日本文学”里也有“本文”两个字，前后要看一眼
_SELF = re.compile(
    r"(?<![基版副样脚剧课读成资日根标原抄])本(?:文件|文档|文(?![化字学明艺书本])|段|章|节|条|页|表"
    r"|通知|办法|规定|意见|材料)"
    r"|[上下前后]文(?!化|件|字|学)|[上前下]述|如[上下]所[述示]|文[中内里](?=[提说写列所的，])|(?<=[据从在])文[中内里]"
    r"|以上(?:内容|材料|文字|文件|规定|各项|所述)|上面(?:的|提到|所)"
    r"|(?:以下|下列)(?:哪|选项|各项|内容|说法)|第[一二三四五六七八九十\d]+页"
)
_POINTING = re.compile(
    r"(?:(?<!应)该|此|这[一份个篇段条项]?)"
    r"(文件|文档|文章|通知|材料|办法|规定|意见|政策|段落|内容|条款|条|段话|表格|句话)"
)


def is_chinese(text: str) -> bool:
    """这段文字是不是中文；一个字母、汉字都没有（如“4000”）时算是。"""
    units = _UNIT.findall(text)
    han = sum("\u3400" <= unit <= "\u9fff" for unit in units)
    return han >= CHINESE_SHARE * len(units)


def foreign_words(text: str) -> set[str]:
    """外文单词的集合，不分大小写和全半角。"""
    units = _UNIT.findall(unicodedata.normalize("NFKC", text).casefold())
    return {unit for unit in units if not "\u3400" <= unit <= "\u9fff"}


def outside_reference(text: str, known: str = "") -> str:
    """找出离开原文就不知所指的词，如“本文”“上述”；没有就是空串。

    “该通知”“这份文件”前面说过是哪个通知、哪份文件的不算；known 是读者已经看到的话。
    """
    if found := _SELF.search(text):
        return found[0]
    for found in _POINTING.finditer(text):
        if found[1] not in known + text[: found.start()]:
            return found[0]
    return ""
