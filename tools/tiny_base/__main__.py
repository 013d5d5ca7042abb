"""命令行:``python -m tools.tiny_base train|measure|probes|sample``。"""

import argparse
import json
from dataclasses import fields
from random import Random

import labutils  # noqa: F401  先设好环境变量


def _arguments() -> argparse.Namespace:
    from tools.tiny_base.recipe import Recipe

    parser = argparse.ArgumentParser(prog="python -m tools.tiny_base", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="预训练(可中断,再次运行会接着练)")
    train.add_argument("folder")
    for field in fields(Recipe):
        train.add_argument(f"--{field.name}", type=field.type, default=field.default)
    measure = commands.add_parser("measure", help="测照抄、阅读、闲聊等指标,写模型卡")
    measure.add_argument("folder")
    commands.add_parser("probes", help="重写一般能力探针与混入训练的一般对话")
    sample = commands.add_parser("sample", help="看几段语料")
    sample.add_argument("--count", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    if arguments.command == "train":
        from tools.tiny_base.recipe import Recipe, train

        train(arguments.folder, Recipe(**{f.name: getattr(arguments, f.name)
                                          for f in fields(Recipe)}))
    elif arguments.command == "measure":
        from labutils.models import loader
        from tools.tiny_base import card

        figures = card.write(arguments.folder, *loader.load(arguments.folder))
        print(json.dumps(figures, ensure_ascii=False, indent=2))
    elif arguments.command == "probes":
        from tools.tiny_base import probes

        probes.write()
    else:
        from tools.tiny_base.corpus import conversation

        for index in range(arguments.count):
            print(json.dumps(conversation(Random(index)), ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
