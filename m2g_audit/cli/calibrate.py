"""`m2g-audit calibrate`: the K-sweep of the paper on a data set, and the calibration it yields."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from rich.console import Console

    from small_scale.lab_folder import LabFolder
    from small_scale.settings import SweepSettings


def calibrate(
    data: Annotated[
        str,
        typer.Argument(
            help="mnist, fashion-mnist, cifar10, lsun-church; a folder of pictures; a parquet file "
            "in the hub's layout; a tar archive or a list of paths; or the folder of a sweep, to "
            "continue it.",
            show_default=False,
        ),
    ],
    preset: Annotated[
        Literal["smoke", "desk", "lab", "paper"] | None,
        typer.Option(
            help="smoke: a minute, means nothing; desk: two CPU cores, an hour; lab: one GPU, half "
            "an hour; paper: Table 3 to the letter, weeks of GPUs.",
            show_default="desk",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The sweep's folder.", show_default="runs/DATA-PRESET"),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Training sizes K: 2,16,128; `sparse`, the doubling search; or 2000-16000, the 38 "
            "sizes around a transition between these.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of the pictures in pixels.", show_default=False)
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="Initial width of the network.", show_default=False)
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Distance of the states: l2, lpips-alex, ...", show_default=False),
    ] = None,
    metric_weights: Annotated[
        list[Path] | None,
        typer.Option(
            help="The distance's weights file; a second one is of Alg. 1's distance where that is "
            "another (paper: lpips-vgg).",
            show_default=False,
        ),
    ] = None,
    synthetic: Annotated[
        int | None,
        typer.Option(help="|S'| over K; the paper has 4, and 8 in Fig. 9.", show_default=False),
    ] = None,
    sampler: Annotated[
        Literal["ddpm", "ddim"] | None,
        typer.Option(help="ddpm: 1000 ancestral steps; ddim: 50.", show_default=False),
    ] = None,
    spectrum: Annotated[
        Literal["fast", "exact-alg2"] | None,
        typer.Option(
            help="fast: the estimator that an audit takes; exact-alg2: the paper's Alg. 2.",
            show_default=False,
        ),
    ] = None,
    delta_m: Annotated[
        float | None,
        typer.Option(
            help="Set delta_m by hand, for all K. States, tables and figures follow; samples whose "
            "basin, curvature or energy is known are sorted anew, no others are measured.",
            show_default=False,
        ),
    ] = None,
    delta_s: Annotated[
        float | None,
        typer.Option(help="Set delta_s by hand, for all K, likewise.", show_default=False),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            help="Compare with the finished sweep in this folder, may be repeated (Fig. 7 to 9): "
            "figures/beside.png and tables/beside.csv.",
            show_default=False,
        ),
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this stage, may be repeated: train, synthesise, neighbours, basin, spectra, "
            "energy, mixture, sheet, report.",
            show_default=False,
        ),
    ] = None,
    tracker: Annotated[
        str | None,
        typer.Option(help="Send losses to tensorboard, wandb, ...", show_default=False),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Leave a GPU alone.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
) -> None:
    """Train models on ever more pictures and see memorization turn into generalization.

    One folder holds the models, the synthetic sets, the states of their samples, tables, figures
    and calibration.json. Ctrl-C loses little: the same command, or `m2g-audit calibrate FOLDER`,
    continues, and two of them at once share the work. Every stage that is done is not done again.
    Example: m2g-audit calibrate cifar10 --preset desk --out runs/cifar10
    """
    from m2g_audit.cli.bars import loading, progress_on
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.store.run_directory import default_parent

    # Of several processes (accelerate launch) one speaks.
    with loading(Terminal(stderr=True, quiet=os.environ.get("RANK", "0") != "0")):
        from small_scale import planning
        from small_scale.lab import Lab
        from small_scale.lab_folder import LabFolder
        from small_scale.report import shown
        from small_scale.report.whole_report import write_beside
        from small_scale.stages import NAMES
        from small_scale.sweep import Sweep, parse_stages
    stages = parse_stages(stage) if stage else NAMES
    if planning.is_sweep(data):
        folder, settings = Path(data), LabFolder.open(Path(data)).settings
        own = (preset, out, sizes, size, width, metric, synthetic, sampler, spectrum)
        planning.check_no_settings(data, settings, own)
    else:
        preset = preset or "desk"
        folder = out or default_parent() / f"{Path(data).name}-{preset}"
        settings = planning.settings_of(
            data,
            preset,
            sizes=sizes,
            side=size,
            width=width,
            metric=metric,
            multiple=synthetic,
            sampler=sampler,
            spectrum=spectrum,
        )
    planning.check_given(delta_m, delta_s)
    weights = planning.weights_by_name(settings, metric_weights or [])
    others = planning.others_beside(beside or [], folder)
    lab_folder = LabFolder.at(folder, settings)
    accelerator = _accelerator(settings, folder, tracker, cpu)
    console = Terminal(stderr=True, soft_wrap=True, quiet=not accelerator.is_main_process)
    progress = progress_on(console, keep=False)
    given = (delta_m, delta_s)
    sweep = Sweep(lab_folder, progress, given=given, accelerator=accelerator, weights=weights)
    left, _ = sweep.cost(stages)
    if left:
        planning.check_metrics(settings, weights)
        if left_out := planning.sizes_left_out(settings):
            console.print(left_out, highlight=False)
        _tell_cost(lab_folder, left, accelerator.device, console, yes)
    lab_folder.begin()
    if tracker is not None:
        accelerator.init_trackers("m2g-audit")
    with progress:
        if left and "train" in stages:
            for remark in sweep.look_at_pictures():
                console.print(remark, highlight=False, markup=False)
        sweep.run(stages)
    accelerator.end_training()
    if accelerator.is_main_process:
        lab = Lab(lab_folder, given)
        if others:
            write_beside(lab, others)
        shown.show(lab, others, Terminal(soft_wrap=True, highlight=False))


def _accelerator(
    settings: SweepSettings, folder: Path, tracker: str | None, cpu: bool
) -> Accelerator:
    from accelerate import Accelerator

    from m2g_audit.errors import UsageError

    try:
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=settings.training.mixed_precision,
            log_with=tracker,
            project_dir=folder,
        )
    except ValueError as error:
        if tracker is None:
            raise
        raise UsageError(f"{error} Give another --tracker, or none.") from error
    if tracker is not None and not accelerator.log_with:
        raise UsageError(f"{tracker} is not installed: pip install {tracker}, or no --tracker.")
    preset = settings.preset
    if preset in ("lab", "paper") and accelerator.device.type == "cpu" and not cpu:
        raise UsageError(
            f"The preset {preset} is made for a GPU, and there is none here. Take --preset desk, "
            "or add --cpu to run it all the same."
        )
    return accelerator


def _tell_cost(
    folder: LabFolder, left: int, device: torch.device, console: Console, yes: bool
) -> None:
    """Says what the sweep is and what `left` forward passes take, and asks where that is long."""
    from m2g_audit.cli.asking import ASK_ABOVE_SECONDS, ask
    from m2g_audit.text import duration
    from small_scale.sweep import seconds_per_pass

    settings = folder.settings
    seconds = left * seconds_per_pass(settings, device)
    sizes = settings.sizes
    console.print(
        f"{settings.data}: {len(sizes)} sizes from K = {sizes[0]:,} to {sizes[-1]:,}, pictures of "
        f"{settings.side} x {settings.side}, {settings.training.iterations:,} steps each, on "
        f"{device.type}. What is left takes about {duration(seconds)}. {folder.path}",
        highlight=False,
    )
    if seconds > ASK_ABOVE_SECONDS:
        ask(f"What is left of this sweep takes about {duration(seconds)}", yes)
