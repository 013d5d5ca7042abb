"""自带的小模型:词表、语料生成器、预训练配方与随包发布的权重。讲解见 notebook 00。"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
