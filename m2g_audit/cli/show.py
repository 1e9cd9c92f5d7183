"""`m2g-audit show`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2g_audit.cli.options import Format

if TYPE_CHECKING:
    from m2g_audit.store.batch_directory import BatchRecord
    from m2g_audit.store.stored_run import StoredRun


def show(
    run: Annotated[
        Path, typer.Argument(help="The folder of a batch, or of one prompt.", show_default=False)
    ],
    prompt: Annotated[
        int | None,
        typer.Option(help="Of a batch: the record of the prompt with this number in the list."),
    ] = None,
    output_format: Format = "text",
) -> None:
    """Print what a run found: the record of one prompt, or what a batch or a fine-tune came to.

    Nothing is computed, and no model is loaded.

    Example: m2g-audit show runs/release --prompt 3
    """
    from m2g_audit.cli.options import print_json
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.records.record import format_record
    from m2g_audit.store.stored_run import StoredRun

    stored = StoredRun.read(run)
    if stored.batch is not None and prompt is None:
        _show_batch(stored, output_format)
        return
    record = _record(stored, prompt)
    if output_format == "json":
        print_json(format_record(record))
        return
    from m2g_audit.reports.verdict_text import verdict_panel

    Terminal().print(verdict_panel(record))


def _record(stored: StoredRun, prompt: int | None) -> BatchRecord:
    from m2g_audit.errors import UsageError

    number = 1 if prompt is None else prompt
    for record in stored.records():
        if record.listed.index + 1 == number:
            return record
    raise UsageError(
        f"{stored.path} has no record of prompt {number}: its list has {stored.prompts:,}."
    )


def _show_batch(stored: StoredRun, output_format: str) -> None:
    from m2g_audit.cli import batch_progress
    from m2g_audit.cli.options import print_json
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.review.finetune import read_finetune
    from m2g_audit.review.summary import summarise

    assert stored.batch is not None
    finetune = read_finetune(stored.path)
    if finetune is not None:
        if output_format == "json":
            print_json(finetune.model_dump_json(indent=1))
            return
        from m2g_audit.cli import finetune_text

        finetune_text.show(finetune, Terminal())
    summary = summarise(stored.batch, notices=stored.notices)
    if output_format == "json":
        print_json(summary.model_dump_json(indent=1))
        return
    batch_progress.show(summary, Terminal())
