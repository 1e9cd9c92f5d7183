"""`m2g-audit calibrate`: the K-sweep of the paper on a data set, and the calibration it yields."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from rich.console import Console

    from small_scale.lab import Lab
    from small_scale.settings import Settings


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
    from dataclasses import replace

    from m2g_audit.cli.bars import progress_on
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.errors import UsageError
    from small_scale.lab import SETTINGS_FILE, Lab
    from small_scale.report.whole_report import write_beside
    from small_scale.settings import PUBLISHED
    from small_scale.sweep import STAGES, Sweep, parse_stages

    stages = parse_stages(stage) if stage else STAGES
    if data not in PUBLISHED and (Path(data) / SETTINGS_FILE).is_file():
        folder = Path(data)
        settings = Lab.open(folder).settings
        own = (preset, out, sizes, size, width, metric, synthetic, sampler, spectrum)
        if any(value is not None for value in own):
            raise UsageError(
                f"{data} is a sweep with settings of its own: leave out --preset, --out, --sizes, "
                "--size, --width, --metric, --synthetic, --sampler and --spectrum to continue "
                f"it, or give its data ({settings.data}) and another --out."
            )
    else:
        preset = preset or "desk"
        folder = out or Path("runs") / f"{Path(data).name}-{preset}"
        settings = _settings(
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
    _check_given(delta_m, delta_s)
    weights = _weights(settings, metric_weights or [])
    others = _others(beside or [], folder)
    lab = replace(Lab.at(folder, settings), given=(delta_m, delta_s))
    accelerator = _accelerator(settings, folder, tracker, cpu)
    # Of several processes (accelerate launch) one speaks.
    console = Terminal(stderr=True, soft_wrap=True, quiet=not accelerator.is_main_process)
    progress = progress_on(console, keep=False)
    sweep = Sweep(lab, progress, accelerator=accelerator, weights=weights)
    left, _ = sweep.cost(stages)
    if left:
        _check_metrics(settings, weights)
        _tell_cost(lab, left, accelerator.device, console, yes)
    lab.begin()
    if tracker is not None:
        accelerator.init_trackers("m2g-audit")
    with progress:
        if left and "train" in stages:
            for remark in sweep.look_at_pictures():
                console.print(remark, highlight=False, markup=False)
        sweep.run(stages)
    accelerator.end_training()
    if accelerator.is_main_process:
        if others:
            write_beside(replace(lab), others)
        _summarise(replace(lab), others)


def _settings(
    data: str,
    preset: Literal["smoke", "desk", "lab", "paper"],
    *,
    sizes: str | None,
    side: int | None,
    width: int | None,
    metric: str | None,
    multiple: int | None,
    sampler: Literal["ddpm", "ddim"] | None,
    spectrum: Literal["fast", "exact-alg2"] | None,
) -> Settings:
    from small_scale.models.pictures import open_source
    from small_scale.settings import PUBLISHED, settings_for
    from small_scale.sizes import parse_sizes

    # The folder must mean the same wherever the sweep is gone on with.
    data = data if data in PUBLISHED else str(Path(data).resolve())
    source = open_source(data)
    return settings_for(
        preset,
        data,
        source.train,
        channels=source.channels,
        side=side,
        width=width,
        metric=metric,
        multiple=multiple,
        sampler=sampler,
        spectrum=spectrum,
        sizes=None if sizes is None else parse_sizes(sizes, source.train),
    )


def _check_given(delta_m: float | None, delta_s: float | None) -> None:
    from m2g_audit.errors import UsageError

    for name, value in (("--delta-m", delta_m), ("--delta-s", delta_s)):
        if value is not None and not value > 0:
            raise UsageError(
                f"{name} {value:g} is no threshold: no copy would be called one. Give a distance "
                "above 0."
            )


def _weights(settings: Settings, files: list[Path]) -> dict[str, Path]:
    """The weights files given for the sweep's distances, that of the states first."""
    from m2g_audit.errors import UsageError
    from m2g_audit.similarity import LEARNED

    learned = [name for name in _metrics(settings) if name in LEARNED]
    if len(files) > len(learned):
        raise UsageError(
            f"--metric-weights is given {len(files)} times, and the distances of this sweep that "
            f"have weights are: {', '.join(learned) or 'none'}. Leave out what is too much."
        )
    return dict(zip(learned, files, strict=False))


def _check_metrics(settings: Settings, weights: dict[str, Path]) -> None:
    """Raises now, not after weeks of training, where a distance lacks weights or pixels."""
    import torch

    from m2g_audit.similarity import load_metric

    for name in _metrics(settings):
        blank = torch.zeros(1, 3, settings.side, settings.side)
        load_metric(name, weights=weights.get(name)).embed(blank)


def _metrics(settings: Settings) -> list[str]:
    """The distances of states and of Alg. 1, once where they are one."""
    return list(dict.fromkeys((settings.metric, settings.geometry.basin_metric or settings.metric)))


def _others(folders: list[Path], own: Path) -> list[Lab]:
    """The finished sweeps in these folders; an error now, not after hours, where one is none."""
    from m2g_audit.errors import UsageError
    from small_scale.lab import Lab

    others = [Lab.open(folder) for folder in folders]
    for each in others:
        if each.folder.resolve() == own.resolve():
            raise UsageError(f"--beside {each.folder} is this sweep itself: give another one's.")
        each.check_measured()
    return others


def _accelerator(settings: Settings, folder: Path, tracker: str | None, cpu: bool) -> Accelerator:
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


def _tell_cost(lab: Lab, left: int, device: torch.device, console: Console, yes: bool) -> None:
    """Says what the sweep is and what `left` forward passes take, and asks where that is long."""
    from m2g_audit.cli.asking import ASK_ABOVE_SECONDS, ask
    from m2g_audit.text import duration
    from small_scale.sweep import seconds_per_pass

    settings = lab.settings
    seconds = left * seconds_per_pass(settings, device)
    sizes = settings.sizes
    console.print(
        f"{settings.data}: {len(sizes)} sizes from K = {sizes[0]:,} to {sizes[-1]:,}, pictures of "
        f"{settings.side} x {settings.side}, {settings.training.iterations:,} steps each, on "
        f"{device.type}. What is left takes about {duration(seconds)}. {lab.folder}",
        highlight=False,
    )
    if seconds > ASK_ABOVE_SECONDS:
        ask(f"What is left of this sweep takes about {duration(seconds)}", yes)


def _summarise(lab: Lab, others: list[Lab]) -> None:
    """Prints what became of the samples at each K, and where the sweep lies."""
    from rich import box
    from rich.table import Table

    from m2g_audit.cli.terminal import Terminal
    from small_scale.classification import STATES
    from small_scale.report.summaries import possible_peaks, spurious_range
    from small_scale.report.whole_report import BESIDE
    from small_scale.sizes import transition

    classified = lab.classified["per-K"]
    console = Terminal(soft_wrap=True, highlight=False)
    if classified:
        table = Table(
            box=box.SIMPLE_HEAD,
            padding=(0, 1),
            title=f"Shares of samples by state, {lab.settings.metric}",
            caption="control: within delta_m of as many pictures that the model never saw",
        )
        for name in ("K", "seed", "|S'|", "memorized", "spurious", "generalized", "control"):
            table.add_column(name, justify="right", no_wrap=True)
        for cell, each in sorted(classified.items()):
            shares = (each.shares[state] for state in STATES)
            table.add_row(
                f"{cell.K:,}",
                str(cell.seed),
                f"{each.n:,}",
                *(f"{share.estimate:.1%}" for share in shares),
                f"{each.false_memorized:.1%}",
            )
        console.print(table)
    peak = lab.peak()
    if peak is not None and not possible_peaks(lab):
        console.print("No sample is spurious.")
    elif peak is not None:
        share, (low, high) = classified[peak].shares[STATES[1]], spurious_range(lab, peak.K)
        first = {
            cell.K: each.shares[STATES[0]]
            for cell, each in classified.items()
            if cell.seed == peak.seed
        }
        A, B = transition({K: share.estimate for K, share in first.items()})
        console.print(
            f"The spurious share is largest at K = {peak.K:,}: {share.estimate:.1%} ({low:.1%} to "
            f"{high:.1%} over all trainings). Memorization drops after K = {A:,} and is down "
            f"at K = {B:,}; a sweep with --sizes {A}-{B} looks closer."
        )
    if lab.given != (None, None):
        console.print(
            "Thresholds by hand: basins, curvature and energies are those of the samples measured "
            "before, sorted anew; how many there are of each state says tables/geometry.csv."
        )
    if others:
        console.print(str(lab.folder / "figures" / f"{BESIDE}.png"))
    console.print(str(lab.folder))
