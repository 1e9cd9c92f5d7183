"""`m2g-audit prompt`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2g_audit.audits.options import AuditOptions
from m2g_audit.cli.asking import ASK_ABOVE_SECONDS, ask, ask_for_download
from m2g_audit.cli.options import OUTPUT, Format, Yes, with_audit_options

if TYPE_CHECKING:
    from rich.console import Console

    from m2g_audit.audits.job import Job
    from m2g_audit.reports import Report
    from m2g_audit.store.run_directory import RunDirectory


@with_audit_options()
def prompt(
    text: Annotated[str, typer.Argument(help="The prompt to audit.", show_default=False)],
    options: dict[str, Any],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder; runs/PROMPT-HASH if left out. The same command continues or "
            "shows what is there.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output_format: Format = "text",
    yes: Yes = False,
) -> None:
    """Audit one prompt: does it give back training pictures, repeat itself, or make new ones?

    Pictures from many seeds are compared with each other and, if given, with training pictures.

    Ctrl-C loses nothing: the same command continues.

    Example: m2g-audit prompt "a print of the old harbour" --model pocket
    """
    from m2g_audit.errors import Interrupted
    from m2g_audit.store.asked import fingerprint

    where: list[Path] = []
    try:
        asked = AuditOptions.of(**options)
        question = fingerprint(text, asked.named())
        if question is None or not _show_finished(text, question, out, output_format):
            _run(text, asked, question, out, output_format, yes, where)
    except KeyboardInterrupt as error:
        kept = f"What is finished is kept in {where[0]}; the" if where else "The"
        raise Interrupted(f"interrupted. {kept} same command continues.") from error


def _show_finished(text: str, question: str, out: Path | None, output_format: str) -> bool:
    """Show the audit of this very command where it was finished; no model is loaded for that."""
    from m2g_audit import reports
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.store.asked import find_finished

    finished = find_finished(text, question, out)
    if finished is None:
        return False
    folder, _ = finished
    Terminal(stderr=True).print(f"Already done: {folder} holds this audit.", soft_wrap=True)
    _show(reports.last_made(folder), folder, output_format)
    return True


def _run(
    text: str,
    options: AuditOptions,
    question: str | None,
    out: Path | None,
    output_format: str,
    yes: bool,
    where: list[Path],
) -> None:
    from m2g_audit import reports
    from m2g_audit.cli.bars import loading, progress_on
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.files import check_writable
    from m2g_audit.store.asked import keep_asked
    from m2g_audit.store.run_directory import RunDirectory, default_folder, default_parent

    console = Terminal(stderr=True)
    with loading(console):
        from m2g_audit.audits.job import check_prompt, make_job
        from m2g_audit.audits.setup import set_up
    check_prompt(text, options.negative_prompt)
    check_writable(out or default_parent())
    ask_for_download(options, yes, console)
    started = time.perf_counter()
    with progress_on(console) as progress:
        setup = set_up(options, out=out, on_progress=progress)
    seconds = {"loading": time.perf_counter() - started}
    job = make_job(setup, text, options.away_from, seconds)
    where.append(out or default_folder(text, job.identity))
    run = RunDirectory.open(where[0], job.identity)
    if run.finished() is None:
        _execute(job, run, yes, console)
        made = reports.rebuild(run.path)
    else:
        made = reports.last_made(run.path)
        console.print(f"Already done: {run.path} holds this audit.", soft_wrap=True)
    if question is not None:
        keep_asked(run.path, question)
    _show(made, run.path, output_format)


def _execute(job: Job, run: RunDirectory, yes: bool, console: Console) -> None:
    from m2g_audit.audits import audit
    from m2g_audit.audits.estimates import estimate
    from m2g_audit.cli.bars import progress_on, waiting

    with waiting(console, "measuring a few steps"):
        cost = estimate(job, run)
    cost.check()
    at_most = "at most " if job.setup.settings.auto else ""
    console.print(f"{run.path}: {at_most}{cost}", soft_wrap=True)
    if cost.total > ASK_ABOVE_SECONDS:
        ask(f"This audit takes {cost}", yes)
    with progress_on(console) as progress:
        audit.execute(job, run, progress)


def _show(made: Report, folder: Path, output_format: str) -> None:
    from m2g_audit.cli.options import print_json
    from m2g_audit.records.record import format_record

    if output_format == "json":
        print_json(format_record(made.record))
        return
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.reports.verdict_text import show

    show(made, folder, Terminal())
