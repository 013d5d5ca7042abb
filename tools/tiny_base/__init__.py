"""自带小模型的预训练:词表、语料生成器与配方；权重在 labutils/models/tiny。讲解见 notebook 00。"""
