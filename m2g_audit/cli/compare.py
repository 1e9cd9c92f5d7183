"""`m2g-audit compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from m2g_audit.cli.options import Format


def compare(
    before: Annotated[Path, typer.Argument(help="The folder of a run.", show_default=False)],
    after: Annotated[
        Path, typer.Argument(help="The folder of another one, such as a later release's.")
    ],
    output_format: Format = "text",
) -> None:
    """Tell which prompts got worse or better from one run to another, and which may be chance.

    Prompts are matched by their text. Fisher's exact test for each, Benjamini-Hochberg over all.

    Example: m2g-audit compare runs/release-2 runs/release-3
    """
    from m2g_audit.cli.options import print_json
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.review.compare import compare as compared
    from m2g_audit.store.stored_run import StoredRun

    with Terminal(stderr=True).status("comparing"):
        found = compared(StoredRun.read(before), StoredRun.read(after))
    if output_format == "json":
        print_json(found.model_dump_json(indent=1))
        return
    from m2g_audit.reports.changes import show

    show(found, Terminal())
