"""Runs as they lie on the disk, of one prompt or of many, for what only looks at them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2g_audit.errors import OutputError
from m2g_audit.prompts import Listed, prompt_id
from m2g_audit.store.batch_directory import RECORDS_FILE, BatchDirectory, BatchRecord
from m2g_audit.store.run_directory import IDENTITY_FILE, RECORD_FILE, read_json, read_record


@dataclass(frozen=True)
class StoredRun:
    """A run's folder; `prompts`: how many were asked for, `identity`: what made its numbers."""

    path: Path
    prompts: int
    identity: dict[str, Any]
    batch: BatchDirectory | None

    @classmethod
    def read(cls, path: Path) -> StoredRun:
        """Return the run at `path`, a batch or one prompt; OutputError where there is none."""
        if (path / RECORD_FILE).exists():
            marker = path / IDENTITY_FILE
            identity = read_json(marker) if marker.exists() else {}
            return cls(path, 1, {k: v for k, v in identity.items() if k != "prompt"}, None)
        if not path.is_dir():
            raise OutputError(f"There is no folder {path}: give that of a run, such as runs/NAME.")
        batch = BatchDirectory.read(path)
        left_out = ("kind", "prompts")
        identity = read_json(path / IDENTITY_FILE)
        whole = {k: v for k, v in identity.items() if k not in left_out}
        return cls(path, len(batch.entries), whole, batch)

    @property
    def name(self) -> str:
        """Return the folder's own name."""
        return self.path.resolve().name

    @property
    def notices(self) -> list[str]:
        """Return sentences about what could not be read while `records` was gone through."""
        lines = 0 if self.batch is None else self.batch.log.unreadable
        if not lines:
            return []
        return [
            f"{lines:,} lines of {self.path / RECORDS_FILE} are no records and were passed over; "
            "the m2g-audit batch that made the folder takes them out and does their prompts again."
        ]

    def records(self) -> Iterator[BatchRecord]:
        """Yield the record of each prompt that has one, in the order of the list."""
        if self.batch is not None:
            yield from self.batch.records()
            return
        record = read_record(self.path)
        fields = {name: getattr(record, name) for name in type(record).model_fields}
        listed = Listed(index=0, id=prompt_id(record.prompt, record.negative_prompt), rows=[1])
        yield BatchRecord(**fields, listed=listed, folder=".", evaluations={})
