"""Records of a batch that no model made."""

from __future__ import annotations

from m2g_audit.prompts import Listed, prompt_id
from m2g_audit.records.record import ErrorRecord
from m2g_audit.store.batch_directory import (
    BatchRecord,
)
from tests.support.samples import sample_record

IDENTITY = {"model": "pocket", "seeds": 16, "guidance": 3.0}


def record(prompt: str, *, failed: bool = False, seed: int = 0) -> BatchRecord:
    one = sample_record()
    fields = {name: getattr(one, name) for name in type(one).model_fields}
    fields["prompt"] = prompt
    fields["settings"] = one.settings.model_copy(update={"seed": seed})
    if failed:
        fields["error"] = ErrorRecord(kind="NumericsError", message="NaN", exit_code=5)
    listed = Listed(index=0, id=prompt_id(prompt), rows=[1])
    return BatchRecord(**fields, listed=listed, folder="prompts/x", evaluations={"images": 10})
