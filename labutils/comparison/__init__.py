"""对比：微调前后各答一遍、打分、图与网页（notebook 03）。"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "evaluate": ["compare", "load_groups", "wilson_interval"],
    "metrics": ["LexicalSearch", "bleu_4", "fact_correct", "lexical_answers", "ngrams", "rouge_l", "tokens"],
    "results": ["accuracy_bars", "answer_table", "fact_strip", "group_name"],
})
