"""`m2g-audit prompt`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from m2g_audit.cli.options import Format

if TYPE_CHECKING:
    from rich.console import Console

    from m2g_audit.records import AuditRecord
    from m2g_audit.request import Job, Request
    from m2g_audit.runs import RunDirectory

ASK_ABOVE_SECONDS = 600

_MODEL, _REFERENCE, _SAMPLING = "Model", "Reference and thresholds", "Sampling"
_MEASURES, _OUTPUT = "Measures", "Output"
# Many choices as a type would leave no room for the options' names in 80 columns.
_NAME = "<name>"


def prompt(
    text: Annotated[str, typer.Argument(help="The prompt to audit.", show_default=False)],
    seeds: Annotated[
        int, typer.Option(help="How many pictures to make, each from its own seed; 2 or more.")
    ] = 16,
    model: Annotated[
        str,
        typer.Option(
            help="A hub id, a diffusers folder, or pocket, which ships with the program.",
            rich_help_panel=_MODEL,
        ),
    ] = "CompVis/stable-diffusion-v1-4",
    revision: Annotated[
        str | None, typer.Option(help="The hub's revision of the model.", rich_help_panel=_MODEL)
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"] | None,
        typer.Option(
            metavar=_NAME,
            help="Precision of sampling: float32, float16 or bfloat16. Without it float32 on a "
            "CPU, else float16. Curvature is float32.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda or mps. Without it the fastest at hand.", rich_help_panel=_MODEL
        ),
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Load weights from pickle files, which can run any code.",
            rich_help_panel=_MODEL,
        ),
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The folder of training pictures, or none. The pocket model knows its own.",
            rich_help_panel=_REFERENCE,
        ),
    ] = None,
    reference_complete: Annotated[
        bool,
        typer.Option(
            "--reference-complete",
            help="The reference is all that the model saw: repeats outside of it are spurious.",
            rich_help_panel=_REFERENCE,
        ),
    ] = False,
    reference_flipped: Annotated[
        bool,
        typer.Option(
            "--reference-flipped",
            help="Training mirrored pictures at random: compare with mirrored ones as well.",
            rich_help_panel=_REFERENCE,
        ),
    ] = False,
    metric: Annotated[
        Literal["auto", "l2", "tiled_l2", "lpips-alex", "lpips-vgg", "clip", "sscd"],
        typer.Option(
            metavar=_NAME,
            help="The image distance: l2, tiled_l2, lpips-alex, lpips-vgg, clip or sscd. auto: the "
            "model's own, else sscd if its file is at hand, else tiled_l2.",
            rich_help_panel=_REFERENCE,
        ),
    ] = "auto",
    metric_weights: Annotated[
        Path | None,
        typer.Option(help="The metric's weights file.", rich_help_panel=_REFERENCE),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Load a TorchScript metric file whose SHA-256 is not known; it can run any code.",
            rich_help_panel=_REFERENCE,
        ),
    ] = False,
    controls: Annotated[
        bool | None,
        typer.Option(
            "--controls/--no-controls",
            help="Measure thresholds on control prompts. Without either: use them where an earlier "
            "run left them.",
            rich_help_panel=_REFERENCE,
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Sampling steps; the model's own, else 50.", rich_help_panel=_SAMPLING),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Guidance scale; the model's own, else 7.5.", rich_help_panel=_SAMPLING),
    ] = None,
    scheduler: Annotated[
        Literal["ddim", "keep"],
        typer.Option(help="DDIM with eta 0, or the model's own.", rich_help_panel=_SAMPLING),
    ] = "ddim",
    seed: Annotated[
        int,
        typer.Option(
            help="The run's seed, from which all others follow.", rich_help_panel=_SAMPLING
        ),
    ] = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Pictures made at once; changes time and memory only.", rich_help_panel=_SAMPLING
        ),
    ] = None,
    spectrum: Annotated[
        Literal["fast", "exact-alg2", "exact-alg3", "exact-jacobian", "none"],
        typer.Option(
            "--spectrum",
            "--curvature",
            metavar=_NAME,
            help="The curvature spectrum. fast: estimated with a stated error; exact-alg2, "
            "exact-alg3: by the paper's Alg. 2 or 3 (8N and 4N network evaluations); "
            "exact-jacobian: of the Jacobian itself; or none.",
            rich_help_panel=_MEASURES,
        ),
    ] = "fast",
    spectrum_tolerance: Annotated[
        float,
        typer.Option(
            help="The relative error at which a fast spectrum stops.", rich_help_panel=_MEASURES
        ),
    ] = 0.02,
    t0: Annotated[
        int,
        typer.Option(
            help="Where curvature is taken: an early step of the noise schedule.",
            rich_help_panel=_MEASURES,
        ),
    ] = 5,
    spectrum_samples: Annotated[
        int, typer.Option(help="How many pictures get a spectrum.", rich_help_panel=_MEASURES)
    ] = 3,
    spectrum_score: Annotated[
        Literal["conditional", "guided", "unconditional"],
        typer.Option(
            metavar=_NAME,
            help="Which of the model's scores: conditional, guided or unconditional.",
            rich_help_panel=_MEASURES,
        ),
    ] = "conditional",
    basin: Annotated[
        bool,
        typer.Option(
            "--basin",
            help="Measure from how much noise the model falls back into each attractor: its "
            "critical time, by bisection.",
            rich_help_panel=_MEASURES,
        ),
    ] = False,
    basin_exact: Annotated[
        bool,
        typer.Option(
            "--exact",
            help="With --basin: the paper's Alg. 1 as printed, several times as long.",
            rich_help_panel=_MEASURES,
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder; runs/PROMPT-HASH if left away. The same command continues or "
            "shows what is there.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    output_format: Format = "text",
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            "-y",
            help="Start without asking, however long it takes.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
) -> None:
    """Audit one prompt: does it give back training pictures, repeat itself, or make new ones?

    Pictures from many seeds are compared with each other and, if given, with training pictures.

    Ctrl-C loses nothing: the same command continues.

    Example: m2g-audit prompt "a print of the old harbour" --model pocket
    """
    from m2g_audit.errors import Interrupted

    where: list[Path] = []
    try:
        from m2g_audit.request import Request

        request = Request(
            prompt=text,
            model=model,
            revision=revision,
            seeds=seeds,
            seed=seed,
            reference=reference,
            reference_complete=reference_complete,
            reference_flipped=reference_flipped,
            out=out,
            metric=metric,
            metric_weights=metric_weights,
            trust=trust,
            steps=steps,
            guidance=guidance,
            scheduler=scheduler,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            spectrum=spectrum,
            spectrum_tolerance=spectrum_tolerance,
            t0=t0,
            spectrum_samples=spectrum_samples,
            spectrum_score=spectrum_score,
            basin=basin,
            basin_exact=basin_exact,
            controls=controls,
            allow_pickle=allow_pickle,
        )
        _run(request, output_format, yes, where)
    except KeyboardInterrupt as error:
        kept = f"What is finished is kept in {where[0]}; the" if where else "The"
        raise Interrupted(f"interrupted. {kept} same command continues.") from error


def _run(request: Request, output_format: str, yes: bool, where: list[Path]) -> None:
    from rich.console import Console

    from m2g_audit import request as requests
    from m2g_audit.cli.progress import progress_on
    from m2g_audit.runs import RunDirectory, check_writable

    console = Console(stderr=True)
    request.check()
    check_writable(request.out or Path("runs"))
    _ask_for_download(request, yes, console)
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


def _ask_for_download(request: Request, yes: bool, console: Console) -> None:
    from m2g_audit.downloads import BYTES_PER_SECOND, pending_bytes

    size = pending_bytes(request.model, request.revision, allow_pickle=request.allow_pickle)
    if not size:
        return
    seconds = size / BYTES_PER_SECOND
    what = f"{request.model} has to be downloaded first: {size / 1e9:.1f} GB"
    console.print(f"{what}.", soft_wrap=True)
    if seconds > ASK_ABOVE_SECONDS:
        _ask(what, yes)


def _execute(job: Job, run: RunDirectory, yes: bool, console: Console) -> AuditRecord:
    from m2g_audit import audit
    from m2g_audit.cli.progress import progress_on, waiting
    from m2g_audit.estimates import estimate

    with waiting(console, "measuring a few steps"):
        cost = estimate(job, run)
    cost.check()
    console.print(f"{run.path}: {cost}", soft_wrap=True)
    if cost.total > ASK_ABOVE_SECONDS:
        _ask(f"This audit takes {cost}", yes)
    with progress_on(console) as progress:
        return audit.execute(job, run, progress)


def _ask(what: str, yes: bool) -> None:
    from m2g_audit.errors import Interrupted, UsageError

    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{what}. That is more than 10 minutes: say --yes to start it.")
    if not typer.confirm(f"{what}. Start?", err=True):
        raise Interrupted("not started.")


def _show(record: AuditRecord, run: RunDirectory, output_format: str) -> None:
    from m2g_audit import report
    from m2g_audit.cli.options import print_json
    from m2g_audit.records import format_record

    made = report.rebuild(run.path)
    if output_format == "json":
        print_json(format_record(record))
        return
    from rich.console import Console

    from m2g_audit.report.text import show

    show(made, run.path, Console())
