"""`m2g-audit prompt`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2g_audit.cli.asking import ASK_ABOVE_SECONDS, ask, ask_for_download
from m2g_audit.cli.options import (
    OUTPUT,
    T0,
    AllowPickle,
    Base,
    Basin,
    BasinExact,
    BatchSize,
    Calibration,
    ControlPrompts,
    Controls,
    DeltaM,
    DeltaS,
    Device,
    Dtype,
    Format,
    Guidance,
    Metric,
    MetricWeights,
    Model,
    NegativePrompt,
    Reference,
    ReferenceAlpha,
    ReferenceComplete,
    ReferenceExif,
    ReferenceFlipped,
    ReferencePages,
    Revision,
    Scheduler,
    Seed,
    Seeds,
    Spectrum,
    SpectrumSamples,
    SpectrumScore,
    SpectrumTolerance,
    Steps,
    Trust,
    Unseen,
    Yes,
    chosen,
)

if TYPE_CHECKING:
    from rich.console import Console

    from m2g_audit.audits.request import Job, Request
    from m2g_audit.records.record import AuditRecord
    from m2g_audit.store.run_directory import RunDirectory


def prompt(
    text: Annotated[str, typer.Argument(help="The prompt to audit.", show_default=False)],
    seeds: Seeds = "16",
    negative_prompt: NegativePrompt = None,
    model: Model = "CompVis/stable-diffusion-v1-4",
    revision: Revision = None,
    dtype: Dtype = None,
    device: Device = None,
    allow_pickle: AllowPickle = False,
    reference: Reference = None,
    reference_complete: ReferenceComplete = False,
    reference_flipped: ReferenceFlipped = False,
    unseen: Unseen = None,
    base: Base = None,
    reference_exif: ReferenceExif = "turn",
    reference_alpha: ReferenceAlpha = "drop",
    reference_pages: ReferencePages = None,
    metric: Metric = "auto",
    metric_weights: MetricWeights = None,
    trust: Trust = False,
    controls: Controls = False,
    control_prompts: ControlPrompts = None,
    delta_m: DeltaM = None,
    delta_s: DeltaS = None,
    steps: Steps = None,
    guidance: Guidance = None,
    scheduler: Scheduler = "ddim",
    seed: Seed = 0,
    batch_size: BatchSize = None,
    spectrum: Spectrum = "fast",
    spectrum_tolerance: SpectrumTolerance = 0.03,
    t0: T0 = 5,
    spectrum_samples: SpectrumSamples = 3,
    spectrum_score: SpectrumScore = "conditional",
    calibration: Calibration = None,
    basin: Basin = False,
    basin_exact: BasinExact = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder; runs/PROMPT-HASH if left away. The same command continues or "
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
    arguments = locals()
    from m2g_audit.errors import Interrupted

    where: list[Path] = []
    try:
        from m2g_audit.audits.request import Request

        request = Request(prompt=text, **chosen(arguments))
        _run(request, output_format, yes, where)
    except KeyboardInterrupt as error:
        kept = f"What is finished is kept in {where[0]}; the" if where else "The"
        raise Interrupted(f"interrupted. {kept} same command continues.") from error


def _run(request: Request, output_format: str, yes: bool, where: list[Path]) -> None:
    from m2g_audit.audits import request as requests
    from m2g_audit.cli.bars import progress_on
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.files import check_writable
    from m2g_audit.store.run_directory import RunDirectory

    console = Terminal(stderr=True)
    request.check()
    check_writable(request.out or Path("runs"))
    ask_for_download(request, yes, console)
    with progress_on(console) as progress:
        job = requests.prepare(request, progress)
    where.append(job.folder)
    run = RunDirectory.open(job.folder, job.identity)
    record = run.finished()
    if record is None:
        record = _execute(job, run, yes, console)
    else:
        console.print(f"Already done: {run.path} holds this audit.", soft_wrap=True)
    _show(record, run, output_format)


def _execute(job: Job, run: RunDirectory, yes: bool, console: Console) -> AuditRecord:
    from m2g_audit.audits import audit
    from m2g_audit.audits.estimates import estimate
    from m2g_audit.cli.bars import progress_on, waiting

    with waiting(console, "measuring a few steps"):
        cost = estimate(job, run)
    cost.check()
    at_most = "at most " if job.settings.auto else ""
    console.print(f"{run.path}: {at_most}{cost}", soft_wrap=True)
    if cost.total > ASK_ABOVE_SECONDS:
        ask(f"This audit takes {cost}", yes)
    with progress_on(console) as progress:
        return audit.execute(job, run, progress)


def _show(record: AuditRecord, run: RunDirectory, output_format: str) -> None:
    from m2g_audit import reports
    from m2g_audit.cli.options import print_json
    from m2g_audit.records.record import format_record

    made = reports.rebuild(run.path)
    if output_format == "json":
        print_json(format_record(record))
        return
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.reports.verdict_text import show

    show(made, run.path, Terminal())
