"""模型卡:由测得的数字生成,不手写任何指标。``python -m tools.tiny_base measure OUT``。"""

import json
from pathlib import Path

from tools.tiny_base import corpus, measure

TEMPLATE = """# 自带小模型

课程实验的默认底座:结构、对话格式与 ChatGLM3 相同(transformers 原生 `GlmForCausalLM`),只是尺寸小得多。
权重由本仓库的配方从零训练,语料全部由程序现造(虚构的教育通知、闲聊、照抄),不含课程文档的内容。
它只适合教学演示,不能当知识来源。

- 参数量:{parameters}
- 分词:逐字,词表事先定好(GB2312 一级汉字、ASCII、中文标点、字节退回)
- 训练:{steps} 步,每步约 {tokens_per_step} 个词元({rows} 行 × {length} 词元 × {processes} 个进程),CPU
- 许可:Apache-2.0,与仓库相同

## 实测

| 项目 | 结果 |
|---|---|
| 照抄 8 个随机汉字(500 次) | {echo_8_characters:.1%} |
| 读一段没见过的虚构通知并回答(500 题,整句一致才算对) | {reading_500_questions:.1%} |
| 闭卷回答固定虚构世界的事实(500 题,随机问法) | {fictional_world_closed_book:.1%} |
| 闲聊与常识,语料里没有的问法(100 个话题) | {general_talk_unseen_wording:.1%} |

## 重建

```
{command} train OUT --steps {steps} --rows {rows}
python -m tools.tiny_base measure OUT
```

这份权重是分六段练成的:在 2940、5200、7700、9000 与 12000 步处学习率降到零,后一段用 `--init_from`
从前一段的权重接着练。前四段的语料一段比一段广(更多属性、更多问法、更杂的名称与写法);第五段语料没变,
只是练得更久;第六段把意思重叠的属性合并,一个意思只有一个名字。用现在的语料从头重建,数字会略有出入。

闲聊与常识共 {topics} 个话题,固定虚构世界共 {subjects} 个主体。数字由 `measure` 命令测得并写入本文件与 `measured.json`。
"""


def write(folder: str | Path, model, tokenizer) -> dict[str, float]:
    """测一遍指标,写 measured.json 和 README.md;返回指标。"""
    folder = Path(folder)
    figures = measure.full(model, tokenizer)
    text = json.dumps(figures, ensure_ascii=False, indent=2)
    (folder / "measured.json").write_text(text + "\n", encoding="utf-8")
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    processes = recipe.get("processes", 1)
    launcher = "python -m tools.tiny_base" if processes == 1 else (
        f"python -m torch.distributed.run --standalone --nproc_per_node {processes} "
        "-m tools.tiny_base")
    card = TEMPLATE.format(
        **figures, steps=recipe["trained_steps"], rows=recipe["rows"], length=recipe["length"],
        processes=processes, tokens_per_step=recipe["rows"] * recipe["length"] * processes,
        topics=len(corpus.talk()), subjects=len(corpus.world()), command=launcher)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return figures
