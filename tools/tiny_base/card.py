"""模型卡：由测得的数字和语料的代码生成，不手写任何指标。``python -m tools.tiny_base measure OUT``。"""

import json
from dataclasses import fields
from pathlib import Path

from labutils.training import questions
from tools.tiny_base import corpus, everyday, measure, relations
from tools.tiny_base.recipe import Recipe

SEGMENTS = (2940, 5200, 7700, 9000, 12000, 14400)  # 前六段各练到第几步，每步约 8192 个词元
MEASURED = {
    "echo_8_characters": "照抄 8 个随机汉字（500 次）",
    "reading_500_questions": "读一段没见过的虚构教育通知并回答（500 题，整句一致才算对）",
    "fictional_world_closed_book": "闭卷回答固定虚构世界的教育事实（500 题，随机问法，整句一致）",
    "everyday_reading": "读一段没见过的日常事务材料并回答（500 题，百里有三问没写明，整句一致）",
    "everyday_world_closed_book": "闭卷回答固定虚构世界的日常事务（500 题，两成没写明，整句一致）",
    "learned_relations_reading": "读材料回答学过的关系（500 题，都写明，回答里有那个值就算对）",
    "held_out_relations_reading": "读材料回答**没学过**的关系（500 题，都写明，回答里有那个值就算对）",
    "general_talk_unseen_wording": "闲聊与常识，语料里没有的问法（{topics_of_talk} 个话题）",
}
TEMPLATE = """# 自带小模型

课程实验的默认底座：结构、对话格式与 ChatGLM3 相同（transformers 原生 `GlmForCausalLM`），只是尺寸小得多。
权重由本仓库的配方从零训练，语料全部由程序现造，不含课程文档的内容。它只适合教学演示，不能当知识来源。

- 参数量：{parameters}，{num_hidden_layers} 层，宽 {hidden_size}；权重文件 {megabytes:.1f} MB（bf16）
- 分词：逐字，词表事先定好（GB2312 一级汉字、ASCII、中文标点、字节退回）
- 训练：共 {trained_steps} 步，{begun}，最后一段 {steps_now} 步，每步约 {tokens_a_step} 个词元\
（{processes} 个进程，每个约 {tokens}），先后共约 {tokens_seen:.2f} 亿个词元，CPU
- 许可：Apache-2.0，与仓库相同

## 读过什么

语料没有一句真实的文章：说法与问法逐条写成，名称、数字、日期、人名都随机产生。分两半：

- 日常事务（{everyday_share:.0%}）：{topics} 类事物的 {relations} 个关系，其中 {held_out} 个留出，从不进语料，\
只用来测没学过的关系（有 {elsewhere} 个的名称在别类事物里学过）。通知、条款、表格、问答录都有，每个关系平均有\
 {statements_mean:.1f} 种说法（至少 {statements_least} 种）、{asked_mean:.1f} 种问法（至少 {asked_least} 种，正式、\
口语、换个角度都有）；取值与主体遮去以后，互不相同的说法共 {statements} 种，问法共 {asked} 种，\
相连四个字的组合共 {grams} 种。固定要背的有 {everyday_world} 个主体
- 教育通知与闲聊（{other_share:.0%}）：{attributes} 个属性的文法，按取值种类套句式产生问法；\
固定要背的有 {world} 个主体；闲聊与常识 {topics_of_talk} 个话题

| 任务 | 占对话的份额 |
|---|---|
{tasks}

## 实测

| 项目 | 结果 |
|---|---|
{results}

## 不会什么

- 世界知识只有那 {topics_of_talk} 个闲聊话题；别的真人真事一概不知道，问了不是说没有写明，就是编造。
- 只会找出材料里照样写着的一件事。要算术、比大小、换算、推理、把几处合起来看的问题答不了；不会写文章、翻译、编程。
- 训练时一段对话至多 {longest} 个词元（大致一字一个），更长的没有练过，材料和对话再长就靠不住。
- 问到没学过的关系，可能答成材料里的另一件事，也可能把写明的说成没有写明（差多少见上表）。
- 语料里没有的文体（小说、诗、代码、外文）只能照抄几个字，谈不上读懂。

## 重建

```
{command} train OUT{options}
python -m tools.tiny_base measure OUT
```

{history}数字由 `measure` 命令测得并写入本文件与 `measured.json`。
"""
HISTORY = """这份权重是分七段练成的：在 {ends} 步处学习率降到零，后一段用 `--init_from`
从前一段的权重接着练。前四段的语料一段比一段广（更多属性、更多问法、更杂的名称与写法）；第五段语料没变，
只是练得更久；第六段把意思重叠的属性合并，一个意思只有一个名字；第七段加深到 {num_hidden_layers} 层（添的层起初不改变
结果），语料添了日常事务的关系，约 17000 步起阅读的回答改成照抄原句，并添了小事；20000、20400 步处学习率也
降到零过，20000 步起少问没写明的事。上面的命令用现在的语料一次从头重建，数字会略有出入。
"""


def _corpus_facts() -> dict[str, float]:
    """语料有多广：从代码与 relations/*.txt 数出来。"""
    learned, held_out = relations.relations(), relations.relations(True)
    every, names = [*learned, *held_out], {relation.name for relation in learned}
    said = [set(r.statements) for r in every]
    asked = [{*r.formal, *r.colloquial, *r.other} for r in every]
    lines = set().union(*said, *asked)
    return {
        "topics": len(relations.topics()), "relations": len(every), "held_out": len(held_out),
        "elsewhere": sum(relation.name in names for relation in held_out),
        "statements": len(set().union(*said)), "asked": len(set().union(*asked)),
        "statements_least": min(map(len, said)), "statements_mean": sum(map(len, said)) / len(said),
        "asked_least": min(map(len, asked)), "asked_mean": sum(map(len, asked)) / len(asked),
        "grams": len({line[i : i + 4] for line in lines for i in range(len(line) - 3)}),
        "everyday_share": corpus.EVERYDAY_SHARE, "other_share": 1 - corpus.EVERYDAY_SHARE,
        "attributes": len(questions.attributes()), "topics_of_talk": len(corpus.talk()),
        "world": len(corpus.world()), "everyday_world": len(everyday.world()),
    }


def _tasks() -> str:
    halves = {"日常": (everyday.TASKS, corpus.EVERYDAY_SHARE), "教育": (corpus.TASKS, 1 - corpus.EVERYDAY_SHARE)}
    return "\n".join(f"| {half}：{task.__doc__.splitlines()[0]} | {weight * share:.1%} |"
                     for half, (tasks, share) in halves.items() for task, weight in tasks.items())


def _training_facts(recipe: dict) -> dict:
    """recipe.json 里的训练经过；没有 init_from 的是从随机权重一次练成的。"""
    before, processes = SEGMENTS[-1] if recipe["init_from"] else 0, recipe["processes"]
    launcher = "python -m tools.tiny_base" if processes == 1 else (
        f"python -m torch.distributed.run --standalone --nproc_per_node {processes} -m tools.tiny_base")
    steps, a_step = recipe["trained_steps"] - before, recipe["tokens"] * processes
    changed = [f.name for f in fields(Recipe) if f.name != "init_from" and recipe[f.name] != f.default]
    ends = "、".join(map(str, SEGMENTS))
    return recipe | {
        "begun": f"其中前 {before} 步还没有日常事务" if before else "从随机权重开始",
        "steps_now": steps, "tokens_a_step": a_step, "command": launcher,
        "tokens_seen": (before * 8192 + steps * a_step) / 1e8,
        "options": "".join(f" --{name} {recipe[name]}" for name in changed),
        "history": HISTORY.format(ends=ends, **recipe) if before else "",
    }


def render(recipe: dict, figures: dict[str, float], size: int) -> str:
    """模型卡的全文；size 是权重文件的字节数。"""
    facts = _corpus_facts()
    results = "\n".join(f"| {name.format(**facts)} | {figures[key]:.1%} |" for key, name in MEASURED.items())
    return TEMPLATE.format(**facts, **_training_facts(recipe), parameters=figures["parameters"],
                           megabytes=size / 1e6, tasks=_tasks(), results=results)


def write(folder: str | Path, model, tokenizer) -> dict[str, float]:
    """测一遍指标，写 measured.json 和 README.md；返回指标。"""
    folder = Path(folder)
    figures = measure.full(model, tokenizer)
    text = json.dumps(figures, ensure_ascii=False, indent=2)
    (folder / "measured.json").write_text(text + "\n", encoding="utf-8")
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    size = (folder / "model.safetensors").stat().st_size
    (folder / "README.md").write_text(render(recipe, figures, size), encoding="utf-8")
    return figures
