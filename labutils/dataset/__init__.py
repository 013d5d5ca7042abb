"""数据：文档 → 文字块 → 问答对 → 训练集与验证集（notebook 01）。"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={
    "build": ["apply_review", "build_dataset", "export_review", "from_file", "is_course_document",
              "load_rows"],
    "checks": ["validate"], "clean": ["Page", "join_lines"],
    "formats": ["read_pages"],
    "generation": ["Progress", "generate"],
    "prompts": ["chunks", "load_prompts", "messages_for", "qa_requests"],
    "replies": ["parse_response"],
    "report": ["funnel_plot", "overview_plot"],
    "review": ["review_table"],
    "rows": ["NEAR_DUPLICATE", "check_no_leak", "drop_near_duplicates", "load_conversations", "load_qa",
             "save_conversations", "similarity", "split"],
    "service": ["estimate_cost", "find_service", "load_presets", "spending_cap"],
})
