"""`m2g-audit report`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from m2g_audit.cli.options import OUTPUT

_FEW = 100  # prompts whose figures are drawn sooner than another process has started


def report(
    run: Annotated[
        Path, typer.Argument(help="The folder of a batch, or of one prompt.", show_default=False)
    ],
    redact: Annotated[
        bool, typer.Option("--redact", help="Blur all pictures: memorized ones may show people.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            help="The folder of an earlier run: a section tells what changed since.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The HTML file; report.html in the run's folder if left out.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Make the HTML report of a run, which opens from disk and needs no network.

    Example: m2g-audit report runs/release
    """
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.reports.html.page import write_report
    from m2g_audit.store.stored_run import StoredRun

    with Terminal(stderr=True).status("making the report") as status:
        stored = StoredRun.read(run)
        page = write_report(
            stored,
            out,
            redact=redact,
            against=None if against is None else StoredRun.read(against),
            processes=(os.cpu_count() or 1) if stored.prompts > _FEW else 1,
            on_progress=lambda done: status.update(
                f"making the report: {done:,} of {stored.prompts:,} prompts"
            ),
        )
    for notice in stored.notices:
        Terminal(stderr=True).print(f"Note: {notice}", soft_wrap=True)
    console = Terminal()
    console.print(str(page.path), soft_wrap=True, highlight=False)
    if page.details is not None:
        console.print(
            f"The run is large: prompts' details lie in {page.details}, which belongs to it.",
            soft_wrap=True,
            highlight=False,
        )
