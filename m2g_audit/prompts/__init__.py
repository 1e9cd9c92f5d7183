"""Lists of prompts: read from whatever people have, one entry a prompt."""

from m2g_audit.prompts.columns import LABEL_COLUMNS, PROMPT_COLUMNS
from m2g_audit.prompts.entries import (
    MAX_PROMPT,
    Entry,
    Listed,
    PromptList,
    parse_list,
    prompt_id,
)
from m2g_audit.prompts.list_files import STDIN
from m2g_audit.prompts.reading import from_python, read_prompts

__all__ = [
    "LABEL_COLUMNS",
    "MAX_PROMPT",
    "PROMPT_COLUMNS",
    "STDIN",
    "Entry",
    "Listed",
    "PromptList",
    "from_python",
    "parse_list",
    "prompt_id",
    "read_prompts",
]
