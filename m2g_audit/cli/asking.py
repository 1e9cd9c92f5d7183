"""What is asked before something long starts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from m2g_audit.audits.options import AuditOptions

ASK_ABOVE_SECONDS = 600


def ask(what: str, yes: bool) -> None:
    """Ask whether to start what takes long; raises UsageError where nobody can answer."""
    from m2g_audit.errors import Interrupted, UsageError

    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{what}. That is more than 10 minutes: say --yes to start it.")
    if not typer.confirm(f"{what}. Start?", err=True):
        raise Interrupted("not started.")


def ask_for_download(options: AuditOptions, yes: bool, console: Console) -> None:
    """Say what has to be downloaded first, and ask if it is much."""
    from m2g_audit.models.downloads import BYTES_PER_SECOND, pending_bytes

    size = pending_bytes(options.model, **options.which)
    if not size:
        return
    seconds = size / BYTES_PER_SECOND
    what = f"{options.config_from or options.model} has to be downloaded first: {size / 1e9:.1f} GB"
    console.print(f"{what}.", soft_wrap=True)
    if seconds > ASK_ABOVE_SECONDS:
        ask(what, yes)
