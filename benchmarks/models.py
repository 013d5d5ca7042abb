"""哪些模型能用：``python benchmarks/models.py [--templates 文件夹] [--out 文件夹] [--write]``。

四张表：公开的对话模板（--templates 里的 .jinja 与 tokenizer_config.json）、transformers 自带的语言模型结构、
peft 的适配器、容易出错的设置。结构与适配器都造一个随机权重的小模型（models_cases.py），真的训练、载入、
回答、合并，再与 transformers、peft 自己算的比。每项一个进程，有时限，崩溃也不影响别的；结果逐项记在
--out 里，再运行就接着做（--again 重做没有全对的）。只用 CPU。
"""

import argparse
import json
import multiprocessing
import os
import re
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import labutils  # noqa: F401  先设好环境变量

HERE = Path(__file__).parent
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # 网上的名字一律连不上
sys.path.insert(0, str(HERE.parent / "tests"))

import models_cases as cases  # noqa: E402
import torch  # noqa: E402
from fakes.chat_fakes import build_tokenizer  # noqa: E402
from models_cases import Steps, Wrong  # noqa: E402
from tokenizers import AddedToken  # noqa: E402
from transformers.utils import chat_template_utils  # noqa: E402

from labutils.models import chat  # noqa: E402
from labutils.models.generate import clean  # noqa: E402

VERDICTS = ("正确", "拒绝", "错", "崩溃")
TITLES = {"templates": "对话模板", "architectures": "结构", "adapters": "适配器", "settings": "设置"}
SECONDS = 240  # 一项最多这么久
# ---- 对话模板 ----

# 模板里写的控制符：<|…|>、<｜…｜>、<s>、[INST] 一类
CONTROL = re.compile(r"<[|｜][^<>|｜\s{}'\"+]+[|｜]>|</?s>|<(?:bos|eos|pad|sep|unk|sop|step|\w+_token)>|"
                     r"<(?:start|end)_of_\w+>|\[/?[A-Z][A-Z_]+\]|<[\u4e00-\u9fff]+>|\[gMASK\]|"
                     r"<[|]?(?:turn|channel|tool)[|]?>|\[\|\w+\|\]|<SPECIAL_\d+>|<seed:\w+>")
ROLES = [f"<|{role}|>" for role in ("system", "user", "assistant")]  # 有的模板把角色拼在 <| 与 |> 之间
ENDS = ("<|im_end|>", "<|eot_id|>", "<|eot|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|END_OF_TURN_TOKEN|>",
        "<|return|>", "<｜end▁of▁sentence｜>", "<|end_of_text|>", "[|endofturn|]", "<seed:eos>",
        "<|endoftext|>", "[EOS]")
STARTS = ("<|begin_of_text|>", "<｜begin▁of▁sentence｜>", "<bos>", "<|startoftext|>", "[BOS]")
SYSTEM = {"role": "system", "content": "You are a Teacher of 课程《A & B》，回答要简短。"}
FIRST = [{"role": "user", "content": "第一问：What is 'x < 10' or \"Y > 2\"？请用一句话说明白。"},
         {"role": "assistant", "content": "It means x is small；Y 大于二。"}]
REST = [{"role": "user", "content": "第二问：认定的有效期是几年？"},
        {"role": "assistant", "content": "有效期五年。"},
        {"role": "user", "content": "第三问：谢谢"}, {"role": "assistant", "content": "不客气 ^_^"}]
TALKS = {"单轮": FIRST, "系统": [SYSTEM, *FIRST], "三轮": FIRST + REST}


class NewYear(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 1)


def read_templates(folder: Path) -> dict[str, str]:
    """文件夹里各不相同的模板；名字是文件名。"""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "tokenizer_config.json":
            given = json.loads(path.read_text("utf-8")).get("chat_template") or []
            given = {"": given} if isinstance(given, str) else {t["name"]: t["template"] for t in given}
            found |= {f"{path.parent.name} {name}".strip(): text for name, text in given.items()}
        elif path.suffix == ".jinja":
            found[path.relative_to(folder).with_suffix("").as_posix()] = path.read_text("utf-8")
    different = {text: name for name, text in reversed(found.items())}
    return dict(sorted((name, text) for text, name in different.items()))


def tokenizer_of(template: str):
    """词表里有模板的控制符的字节级分词器；结束符与开头的控制符取模板里写的那个。"""
    words = dict.fromkeys([*CONTROL.findall(template), *(ROLES if re.search(r"<\|['\"]", template) else ())])
    tokenizer = build_tokenizer("Llama 3")
    tokenizer.add_tokens([AddedToken(word, special=True, normalized=False)
                          for word in [*words, "<s>", "</s>", "<unk>"]])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in ("<think>", "</think>")
                          if word in template])
    tokenizer.bos_token = next((word for word in STARTS if word in template), "<s>")
    usual = "<|endoftext|>" if "[gMASK]" in template else "</s>"
    tokenizer.eos_token = next((word for word in ENDS if word in template), usual)
    tokenizer.pad_token, tokenizer.unk_token, tokenizer.chat_template = tokenizer.eos_token, "<unk>", template
    return tokenizer


def squeezed(text: str) -> str:
    return "".join(text.split())


def check_talk(tokenizer, talk: list[dict]) -> None:
    """提示词与 apply_chat_template 的相同，什么也没有漏；每个回答学的就是它自己和一个会停下的结束符。"""
    for part in chat.turns(talk):
        def render(messages, **options):
            return tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, **options)

        prompt = chat.prompt_ids(tokenizer, part[:-1])
        sample = chat.encode(tokenizer, part)
        with mock.patch.object(chat_template_utils, "datetime", NewYear):
            asked, whole = render(part[:-1], add_generation_prompt=True), render(part)
        if prompt != tokenizer.encode(asked, add_special_tokens=False):
            raise Wrong(f"提示词与 apply_chat_template 的不同：{tokenizer.decode(prompt)[-60:]!r}")
        if lost := [m["role"] for m in part[:-1] if squeezed(m["content"]) not in squeezed(asked)]:
            raise Wrong(f"提示词里没有 {lost} 的内容")
        learned = [label for label in sample["labels"] if label != chat.IGNORE]
        if sample["input_ids"] != prompt + learned or learned[-1] not in chat.stop_ids(tokenizer):
            raise Wrong("样本不是提示词加回答加结束符")
        shown = clean(tokenizer, learned[:-1], chat.header(tokenizer))
        if shown != part[-1]["content"]:
            raise Wrong(f"学到的回答显示成 {shown!r}")
        # 模板自己接在这段提示词后面的：学的应当一字不差，只有末尾的结束符可以是补的
        text, rest = tokenizer.decode(learned[:-1]), whole.removeprefix(asked)
        if whole.startswith(asked) and squeezed(text) and not rest.startswith(text):
            raise Wrong(f"模板写的是 {rest[:60]!r}，学的是 {text[:60]!r}")


def check_template(template: str, folder: Path) -> Steps:
    steps, tokenizer = Steps(), tokenizer_of(template)
    for name, talk in TALKS.items():
        with steps(name):
            check_talk(tokenizer, talk)
    return steps


# ---- 一项一个进程 ----

def verdict(steps: dict[str, str]) -> str:
    """最坏的一步。"""
    return max((what.partition("：")[0] for what in steps.values()), key=VERDICTS.index, default="崩溃")


def _child(pipe, check, given, folder: Path, log: Path) -> None:
    with log.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        steps = Steps()
        with steps("准备"):
            steps = check(given, folder)
        pipe.send(dict(steps))


def one(check, given, folder: Path, log: Path) -> dict[str, str]:
    """另开一个进程做这一项，返回 {步骤: 结果}；进程死了、超时都算崩溃。"""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, check, given, folder, log))
    child.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(SECONDS) else {"时间": f"崩溃：{SECONDS} 秒还没有做完"}
    except EOFError:
        child.join()
        return {"进程": f"崩溃：退出码 {child.exitcode}"}
    finally:
        child.kill()
        child.join()


def run(part: str, check, items: dict, out: Path, again: bool) -> dict[str, dict[str, str]]:
    path = out / f"{part}.json"
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    done = {name: known[name] for name in items
            if name in known and not (again and verdict(known[name]) != "正确")}
    for name, given in items.items():
        if name not in done:
            log = out / "logs" / f"{part}-{name.replace('/', '_')}.txt"
            log.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory() as folder:
                done[name] = one(check, given, Path(folder), log)
            print(f"{TITLES[part]} {name}：{verdict(done[name])} {_not_right(done[name])}", flush=True)
            path.write_text(json.dumps(known | done, ensure_ascii=False, indent=1), "utf-8")
    return {name: done[name] for name in items}


def _not_right(steps: dict[str, str]) -> str:
    """不对的几步，同样的话只说一遍。"""
    said: dict[str, list[str]] = {}
    for step, what in steps.items():
        if what != "正确":
            said.setdefault(what, []).append(step)
    return "；".join(f"{'、'.join(names)} {what}" for what, names in said.items())


# ---- 表 ----

def machine(parts: dict[str, dict]) -> str:
    names = ("transformers", "peft", "tokenizers", "torch")
    libraries = "，".join(f"{name} {version(name)}" for name in names)
    count = "、".join(f"{TITLES[part]} {len(rows)}" for part, rows in parts.items())
    return f"{libraries}，{os.cpu_count()} 个核，CPU、fp32；{count}。"


def text_of(parts: dict[str, dict]) -> str:
    lines = ["# 哪些模型能用", "", machine(parts), "由 `python benchmarks/models.py --write` 写出；结构与"
             "适配器都是随机权重的小模型，模板只取它的文字。“拒绝”是训练或使用之前的一句话。", "",
             f"| | 共 | {' | '.join(VERDICTS)} |", "|---" * (len(VERDICTS) + 2) + "|"]
    for part, rows in parts.items():
        counts = Counter(map(verdict, rows.values()))
        lines.append(f"| {TITLES[part]} | {len(rows)} | {' | '.join(str(counts[v]) for v in VERDICTS)} |")
    for part, rows in parts.items():
        lines += ["", f"## {TITLES[part]}", ""]
        right = [name for name, steps in rows.items() if verdict(steps) == "正确"]
        if part != "templates":
            lines += [f"每一步都对：{'、'.join(right)}。", ""]
        reasons: dict[str, list[str]] = {}
        for name, steps in rows.items():
            if name not in right:
                reasons.setdefault(_short(_not_right(steps)), []).append(name)
        lines += [f"- {'、'.join(names)}：{why}" for why, names in reasons.items()]
    return "\n".join(lines) + "\n"


def _short(why: str) -> str:
    """去掉临时文件夹的名字，同样的原因才归到一起。"""
    why = re.sub(r"(/\S*/|\btmp\w+/)", "", why)
    return why if len(why) <= 300 else why[:300] + "…"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--templates", type=Path, help="放着公开对话模板的文件夹")
    parser.add_argument("--parts", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--only", nargs="+", help="只做这几项")
    parser.add_argument("--out", type=Path, default=HERE.parent / "output" / "models_benchmark")
    parser.add_argument("--again", action="store_true", help="没有全对的重做一遍")
    parser.add_argument("--write", action="store_true", help="把表写进 benchmarks/models.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    folder = options.templates
    todo = {"templates": (check_template, lambda: read_templates(folder) if folder else {}),
            "architectures": (cases.check_architecture, cases.architectures),
            "adapters": (cases.check_adapter, lambda: cases.ADAPTERS),
            "settings": (lambda case, folder: case(folder), lambda: cases.SETTINGS)}
    parts = {}
    for part in options.parts:
        check, items = todo[part][0], todo[part][1]()
        items = {name: items[name] for name in items if not options.only or name in options.only}
        if items:
            parts[part] = run(part, check, items, options.out, options.again)
    print(text := text_of(parts))
    if options.write:
        (HERE / "models.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
