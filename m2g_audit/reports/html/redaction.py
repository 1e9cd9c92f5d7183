"""What a redacted report leaves out of a run's texts: where things lie on somebody's machine."""

from __future__ import annotations

import json
import re
from typing import Any

from m2g_audit.store.batch_directory import BatchRecord

# Not taken for paths: what the list says.
_KEPT = frozenset({"prompt", "negative_prompt", "listed"})
_START = r"(?:~|[A-Za-z]:)?[/\\]"
_WHOLE = re.compile(rf"{_START}.*[/\\]", re.DOTALL)
_WITHIN = re.compile(rf"(?<![\w.~…/\\-]){_START}(?:[^/\\\s“”\"'()<>|]+[/\\])+")


def without_folders(record: BatchRecord) -> BatchRecord:
    """Return a record in whose texts, its prompt aside, absolute paths keep their last part."""
    content = record.model_dump(mode="json")
    changed = {key: value if key in _KEPT else _short(value) for key, value in content.items()}
    return BatchRecord.model_validate_json(json.dumps(changed))


def _short(value: Any) -> Any:
    if isinstance(value, str):
        whole = _WHOLE.match(value)
        return f"…/{value[whole.end() :]}" if whole else _WITHIN.sub("…/", value)
    if isinstance(value, dict):
        return {key: _short(one) for key, one in value.items()}
    return [_short(one) for one in value] if isinstance(value, list) else value
