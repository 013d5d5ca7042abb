"""对比中途停下（断电、关机、中断），已经答完的题留在文件里，重新运行时不再答第二遍

6B 模型在 CPU 上答一遍要几个小时。全部答完、结果写好之后，这个文件就删掉。
讲解见 notebooks/03_before_after。
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from labutils.base import whole_files
from labutils.base.system_errors import one_sentence
from labutils.models.inference import as_messages

NAME = "answers.partial.jsonl"
_SMALL = 1 << 16  # 基座只比元素不超过这么多的张量（各层的归一化等）：足以认出换了基座，又不必读完 12 GB


class KeptAnswers:
    """一个文件，一行一个回答；模型、适配器或生成参数变了，旧的回答就作废"""

    def __init__(self, folder: Path, model: Any, generation: dict):
        self.path = folder / NAME
        self._known: dict[tuple[str, str], str] = {}
        self._begin(fingerprint(model, generation))

    def __len__(self) -> int:
        return len(self._known)

    def get(self, stage: str, prompt: str | list[dict]) -> str | None:
        """这道题答过就给出回答，没有答过是 None"""
        return self._known.get((stage, _key(prompt)))

    @one_sentence()
    def add(self, stage: str, answered: list[tuple[str | list[dict], str]]) -> None:
        """记下一批 (问题, 回答)；磁盘满了等抛出 LabError"""
        with self.path.open("a", encoding="utf-8") as file:
            for prompt, reply in answered:
                self._known[stage, _key(prompt)] = reply
                file.write(_line({"stage": stage, "prompt": _key(prompt), "reply": reply}))

    @one_sentence()
    def forget(self) -> None:
        """结果已经写好，不再需要"""
        self.path.unlink(missing_ok=True)

    @one_sentence()
    def _begin(self, made_by: str) -> None:
        rows = _rows(self.path)
        if rows and rows[0].get("made_by") == made_by:
            self._known = {(row["stage"], row["prompt"]): row["reply"] for row in rows[1:]}
        head = _line({"made_by": made_by})
        kept = [_line({"stage": stage, "prompt": prompt, "reply": reply})
                for (stage, prompt), reply in self._known.items()]
        whole_files.write(self.path, head + "".join(kept))


def fingerprint(model: Any, generation: dict) -> str:
    """模型（基座的小张量与全部 LoRA 张量）、数值类型与生成参数的摘要

    batch_size 不算：显存不够、改小了再来，答过的仍然有效。
    """
    options = sorted((key, value) for key, value in generation.items() if key != "batch_size")
    digest = hashlib.sha256(repr(options).encode())
    for name, tensor in model.named_parameters():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if "lora_" in name or tensor.numel() <= _SMALL:
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _rows(path: Path) -> list[dict]:
    """读回完整的行；断在半行上的，那一行不要"""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            rows.append(json.loads(line))
        except ValueError:  # 写到一半的行，或文件末尾的空行
            break
    return rows


def _key(prompt: str | list[dict]) -> str:
    return json.dumps(as_messages(prompt), ensure_ascii=False)


def _line(row: dict) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
