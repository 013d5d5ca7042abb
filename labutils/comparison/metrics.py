"""给回答打分：要点对不对、ROUGE-L、BLEU-4，以及几条不用模型的字面检索基线。讲解见 notebook 03。

两个指标各十几行，写在这里看得见每一步，不必装几十 MB 的包；test_metrics.py 与 sacrebleu 的 zh 切分对过。
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict

import numpy as np
from rapidfuzz.distance import LCSseq

from labutils.base.errors import LabError
from labutils.base.text import contains, normalize

GROUPS = {"train": "训练过的问法", "unseen": "没见过的问法", "general": "通用能力",
          "unanswerable": "材料没写的问题"}
_TOKEN = re.compile(r"[a-z]+|\d+(?:\.\d+)?|\S")


def tokens(text: str) -> list[str]:
    """切成打分单位：一个汉字或标点一个，连着的字母或数字合成一个（2023 是一个数，不是四个字）"""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())


def fact_correct(answer: str, key_points: list[str]) -> bool:
    """回答里有全部要点才算对；一个要点里用 | 隔开的写法有一种就行

    比较前先统一全半角、数字写法和标点。key_points 为空会让任何回答都算对，所以抛出 LabError。
    """
    if not key_points:
        raise LabError("没有要点就没法判对错：请给这道题的 key_points 至少写一条。")
    return all(contains(answer, point) for point in key_points)


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L 的 F1，0–1：最长公共子序列占回答的比例（准）与占标准答案的比例（全）的调和平均

    算法：Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004。任一边为空时得 0。
    """
    hypothesis, target = tokens(answer), tokens(reference)
    common = LCSseq.similarity(hypothesis, target)
    return 2 * common / (len(hypothesis) + len(target)) if common else 0.0


def ngrams(items: list[str], n: int) -> Counter:
    """连续 n 个单位的片段各出现几次"""
    return Counter(tuple(items[i : i + n]) for i in range(len(items) - n + 1))


def bleu_4(answer: str, reference: str) -> float:
    """句子级 BLEU-4，0–1：1 到 4 连片段命中率的几何平均，再乘过短惩罚

    算法：Papineni et al., "BLEU", 2002。一句话常常没有一个 4 连片段命中，直接取几何平均会归零，
    所以用 Chen & Cherry 2014 的第 3 种平滑：第 k 次遇到零命中时按 1/2^k 个命中算。
    回答短于 4 个单位时只用它有的那几阶。空回答或一字不中得 0。
    """
    hypothesis, target = tokens(answer), tokens(reference)
    orders = range(1, min(4, len(hypothesis)) + 1)
    hits = [(ngrams(hypothesis, n) & ngrams(target, n)).total() for n in orders]
    if not any(hits):
        return 0.0
    zeros, logs = 0, []
    for n, hit in zip(orders, hits, strict=True):
        zeros += hit == 0
        logs.append(math.log((hit or 0.5**zeros) / (len(hypothesis) - n + 1)))
    brevity = min(1.0, math.exp(1 - len(target) / len(hypothesis)))
    return brevity * math.exp(sum(logs) / len(logs))


class LexicalSearch:
    """按字面比较：1–3 个字的片段，TF-IDF 加权，余弦相似度；不懂意思，只数相同的片段

    texts 为空时抛出 LabError。
    """

    def __init__(self, texts: list[str]):
        if not texts:
            raise LabError("字面检索没有可查的文字：训练集是空的，请检查 train.json。")
        pieces = [_pieces(text) for text in texts]
        seen_in = Counter(piece for counts in pieces for piece in counts)
        # 平滑的逆文档频率：只在一句里出现的片段最能说明问题，句句都有的几乎不算数
        self.idf = {p: math.log((1 + len(texts)) / (1 + n)) + 1 for p, n in seen_in.items()}
        postings = defaultdict(list)
        for row, counts in enumerate(pieces):
            for piece, weight in self._unit_weights(counts).items():
                postings[piece].append((row, weight))
        self.postings = {p: tuple(map(np.array, zip(*v, strict=True))) for p, v in postings.items()}
        self.size = len(texts)

    def _unit_weights(self, counts: Counter) -> dict[str, float]:
        """每个片段的 TF-IDF 权重，缩放到长度 1；没在训练问题里见过的片段查不到，不算"""
        weights = {p: n * self.idf[p] for p, n in counts.items() if p in self.idf}
        length = math.sqrt(sum(w * w for w in weights.values()))
        return {p: w / length for p, w in weights.items()}

    def scores(self, text: str) -> np.ndarray:
        """与每一句的余弦相似度，形状 (句数,)，0–1"""
        result = np.zeros(self.size)
        for piece, weight in self._unit_weights(_pieces(text)).items():
            rows, weights = self.postings[piece]
            result[rows] += weight * weights
        return result


def _pieces(text: str) -> Counter:
    clean = normalize(text)
    return Counter(clean[i : i + n] for n in (1, 2, 3) for i in range(len(clean) - n + 1))


def lexical_answers(train_rows: list[dict], questions: list[str]) -> dict[str, list[str]]:
    """不用模型的几条基线：每个问题抄最像的训练题的答案，返回 {拿什么比: 与 questions 等长的答案}

    一样像（包括全都不像）时取靠前的。train_rows 为空时抛出 LabError。
    """
    asked, told = ([row[key] for row in train_rows] for key in ("question", "answer"))
    searches = [LexicalSearch(texts) for texts in (asked, told, list(map(str.__add__, asked, told)))]
    copied = {"问题": [], "答案": [], "问题连着答案": [], "问题三成、答案七成": []}
    for question in questions:
        found = [search.scores(question) for search in searches]
        for replies, scores in zip(copied.values(), [*found, 0.3 * found[0] + 0.7 * found[1]], strict=True):
            replies.append(told[int(scores.argmax())])
    return copied
