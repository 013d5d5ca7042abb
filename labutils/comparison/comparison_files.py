"""把一次对比写成文件：JSON 给程序，CSV 给表格软件，HTML 与 PNG 给人看

讲解见 notebooks/03_before_after。
"""

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from labutils.base import plots, whole_files
from labutils.base.system_errors import one_sentence
from labutils.comparison import comparison_html
from labutils.dataset.csv_cells import is_formula

COLUMNS = {
    "id": "编号",
    "fact_id": "事实",
    "group": "问题组",
    "question": "问题",
    "reference": "标准答案",
    "key_points": "要点",
    "page": "页码",
    "before": "微调前回答",
    "before_correct": "微调前",
    "after": "微调后回答",
    "after_correct": "微调后",
    "before_rouge_l": "微调前 ROUGE-L",
    "after_rouge_l": "微调后 ROUGE-L",
    "before_bleu_4": "微调前 BLEU-4",
    "after_bleu_4": "微调后 BLEU-4",
    "baseline": "字面检索基线的回答",
    "baseline_correct": "字面检索基线",
}


@one_sentence()
def check_folder(out_dir: Path) -> None:
    """写不进去就引发 LabError：全部问题要答很久，不能答完才知道。"""
    out_dir.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=out_dir).close()


@one_sentence()
def write_all(comparison: Any, out_dir: Path) -> dict[str, Path]:
    """写出 comparison.json、.csv、.html 与 PNG，返回 {名字: 文件}

    comparison 是 evaluation.Comparison。HTML 最后写，里面内嵌了那些图。
    """
    files = {name: out_dir / f"comparison.{name}" for name in ("json", "csv", "html")}
    _write_json(comparison, files["json"])
    _write_csv(comparison.rows, files["csv"])
    images = {"正确率": out_dir / "accuracy.png"}
    filled = {g: s for g, s in comparison.before.items() if s["n"]}
    plots.accuracy_bars(filled, comparison.after, comparison.lexical_baseline, images["正确率"])
    if any(row["fact_id"] for row in comparison.rows):
        images["逐个事实的对错"] = out_dir / "facts.png"
        plots.fact_strip(comparison.rows, images["逐个事实的对错"])
    whole_files.write(files["html"], comparison_html.page(comparison, images))
    return files | images


def _write_json(comparison: Any, path: Path) -> None:
    content = {
        "before": comparison.before,
        "after": comparison.after,
        "lexical_baseline": comparison.lexical_baseline,
        "notes": comparison.notes,
        "worse": [row["id"] for row in comparison.worse],
        "rows": comparison.rows,
    }
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
    whole_files.write(path, text + "\n")


def _write_csv(rows: list[dict], path: Path) -> None:
    """带 BOM 的 UTF-8：Excel 没有 BOM 就会把中文当成 GBK 读成乱码"""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS.values())
    writer.writerows([_cell(row.get(key)) for key in COLUMNS] for row in rows)
    whole_files.write(path, text.getvalue().encode("utf-8-sig"))


def _cell(value: Any) -> Any:
    """一格的内容；模型答出 “=1+1” 这样的文字时前面加单引号，表格软件就不会当公式执行"""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "✓" if value else "✗"
    if isinstance(value, list):
        value = "；".join(value)
    if isinstance(value, str) and is_formula(value):
        return "'" + value
    return value
