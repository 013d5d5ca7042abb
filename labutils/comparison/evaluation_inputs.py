"""对比要用的东西：四组问题，和训练好的适配器文件夹。讲解见 notebooks/03_before_after"""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from labutils.base.errors import LabError
from labutils.base.paths import rel
from labutils.dataset import qa_dataset
from labutils.training import checkpoints

PROBES = ("general", "unanswerable")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def load_groups(
    qa_file: str | Path, data_dir: str | Path, probes_dir: str | Path
) -> dict[str, list[dict]]:
    """四组题：train（训练过的问法）、unseen（没见过的问法）、general、unanswerable

    train.json 与 dev.json 只有对话，没有要点和页码，所以按问题文字去 qa_file 里找回来；
    找不到时抛出 LabError，说明哪个文件第几条。探针文件缺失或格式不对时也抛出 LabError。
    """
    known = _by_question(qa_file)
    files = {"train": Path(data_dir) / "train.json", "unseen": Path(data_dir) / "dev.json"}
    groups = {name: _rejoin(path, known, qa_file) for name, path in files.items()}
    return groups | {name: load_probes(Path(probes_dir) / f"{name}.jsonl") for name in PROBES}


def _by_question(qa_file: str | Path) -> dict[str, dict]:
    known = {}
    for number, row in enumerate(qa_dataset.load_qa(qa_file), 1):
        question = row.get("question", "")
        if not isinstance(question, str):
            raise LabError(f"{rel(qa_file)} 第 {number} 条的 question 不是文字，请改成一句问题。")
        known[question.strip()] = row
    return known


def _rejoin(path: Path, known: dict[str, dict], qa_file: str | Path) -> list[dict]:
    rows = []
    for number, item in enumerate(qa_dataset.load_conversations(path), 1):
        asked = [m["content"] for m in item["conversations"] if m["role"] == "user"]
        row = known.get("\n".join(asked).strip())
        if row is None:
            raise LabError(
                f"{rel(path)} 第 {number} 条的问题“{asked[0]}”不在 {rel(qa_file)} 里，"
                "请用同一次 notebook 01 的 qa.jsonl、train.json 和 dev.json。"
            )
        rows.append(row)
    return rows


def load_probes(path: str | Path) -> list[dict]:
    """读探针题：每行有 id、question 或 messages、answer、key_points；缺项由 compare 指出"""
    rows = []
    for where, item in qa_dataset.read_json(path):
        if not isinstance(item, dict):
            raise LabError(f'{rel(path)} {where}不是 JSON 对象，应形如 {{"question": …}}。')
        rows.append(item)
    return rows


def find_adapter(folder: str | Path) -> Path:
    """找到可用的适配器：folder 自己就是，或它里面步数最大的一个完整的 checkpoint-N

    没有可用的时抛出 LabError，说明缺哪个文件、下一步做什么。
    """
    folder = Path(folder)
    candidates = [folder] if (folder / CONFIG).is_file() else []
    candidates += reversed(checkpoints.checkpoints(folder))
    reasons = []
    for candidate in candidates:
        reason = adapter_problem(candidate)
        if not reason:
            return candidate
        reasons.append(f"{rel(candidate)} {reason}")
    why = "；".join(reasons) or f"{rel(folder)} 里没有 checkpoint-N，也没有 {CONFIG}"
    raise LabError(f"找不到可用的适配器：{why}。请先运行 notebook 02，或指定正确的适配器文件夹。")


def adapter_problem(folder: Path) -> str:
    """适配器文件夹缺什么、坏在哪里；完好时是空字符串"""
    try:
        json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"缺少 {CONFIG}"
    except ValueError:
        return f"的 {CONFIG} 只写了一半"
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as tensors:
            return "" if list(tensors.keys()) else f"的 {WEIGHTS} 里没有权重"
    except FileNotFoundError:
        return f"缺少 {WEIGHTS}"
    except (OSError, SafetensorError):
        return f"的 {WEIGHTS} 已损坏或只写了一半"
