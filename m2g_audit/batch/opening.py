"""The folder of a batch, opened for a setup and a list, and the records that go into it."""

from __future__ import annotations

from pathlib import Path

from m2g_audit.audits.setup import Setup
from m2g_audit.files import write_atomically
from m2g_audit.prompts.entries import Entry, Listed, PromptList
from m2g_audit.records.record import AuditRecord
from m2g_audit.store.batch_directory import BatchDirectory, BatchRecord
from m2g_audit.store.run_directory import CALIBRATION_FILE, default_folder


def open_directory(
    setup: Setup, prompts: PromptList, name: str, out: Path | None = None
) -> BatchDirectory:
    """Return the batch's folder, at `out`, else below runs/ and named after `name`.

    UsageError where it holds another batch, OutputError where it can't be written.
    """
    for entry in prompts:
        setup.check_negative_prompt(entry.negative_prompt)
    folder = batch_folder(setup, prompts, name, out)
    directory = BatchDirectory.open(folder, setup.identity, prompts)
    if setup.calibration is not None:
        write_atomically(folder / CALIBRATION_FILE, setup.calibration.content)
    return directory


def batch_folder(setup: Setup, prompts: PromptList, name: str, out: Path | None = None) -> Path:
    """Return where a batch lies: at `out`, else below runs/ and named after `name`."""
    return out or default_folder(name, {**setup.identity, "prompts": prompts.sha256})


def to_batch_record(
    record: AuditRecord, entry: Entry, folder: str, evaluations_of_a_picture: int
) -> BatchRecord:
    """Return a prompt's record as it stands among those of its batch."""
    spectra = [c.model_copy(update={"singular_values": None}) for c in record.curvature]
    evaluations = {
        "images": len(record.seeds) * evaluations_of_a_picture,
        "curvature": sum(entry.evaluations for entry in spectra),
        "read-outs": sum(a.read_outs.evaluations for a in record.attractors if a.read_outs),
        "basins": sum((a.basin and a.basin.evaluations) or 0 for a in record.attractors),
    }
    fields = {name: getattr(record, name) for name in AuditRecord.model_fields}
    return BatchRecord(
        **{**fields, "curvature": spectra},
        listed=Listed(**entry.model_dump(exclude={"prompt", "negative_prompt"})),
        folder=folder,
        evaluations={stage: count for stage, count in evaluations.items() if count},
    )
