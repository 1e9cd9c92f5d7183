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
            "in the hub's layout; or the folder of a sweep, to go on with it.",
            show_default=False,
        ),
    ],
    preset: Annotated[
        Literal["smoke", "desk", "lab", "paper"],
        typer.Option(
            help="smoke: a minute, means nothing; desk: two CPU cores, an hour; lab: one GPU, half "
            "an hour; paper: Table 3 to the letter, weeks of GPUs."
        ),
    ] = "desk",
    out: Annotated[
        Path | None,
        typer.Option(help="The sweep's folder.  [default: runs/DATA-PRESET]", show_default=False),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(help="Training sizes K with commas: 2,16,128.", show_default=False),
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
    synthetic: Annotated[
        int | None,
        typer.Option(help="|S'| over K; the paper has 4, and 8 in Fig. 9.", show_default=False),
    ] = None,
    sampler: Annotated[
        Literal["ddpm", "ddim"] | None,
        typer.Option(help="ddpm: 1000 ancestral steps; ddim: 50.", show_default=False),
    ] = None,
    delta_m: Annotated[
        float | None, typer.Option(help="Set delta_m by hand, for all K.", show_default=False)
    ] = None,
    delta_s: Annotated[
        float | None, typer.Option(help="Set delta_s by hand, for all K.", show_default=False)
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this stage, may be repeated: train, synthesise, neighbours, basin, spectra, "
            "energy, mixture, report.",
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
    goes on, and two of them at once share the work. Every stage that is done is not done again.
    Example: m2g-audit calibrate cifar10 --preset desk --out runs/cifar10
    """
    from rich.console import Console

    from m2g_audit.cli.progress import progress_on
    from small_scale.lab import SETTINGS_FILE, Lab
    from small_scale.settings import PUBLISHED
    from small_scale.sweep import STAGES, Sweep, parse_stages

    stages = parse_stages(stage) if stage else STAGES
    console = Console(stderr=True, soft_wrap=True)
    given = (delta_m, delta_s)
    if data not in PUBLISHED and (Path(data) / SETTINGS_FILE).is_file():
        lab = Lab.open(Path(data))
    else:
        settings = _settings(
            data,
            preset,
            sizes=sizes,
            side=size,
            width=width,
            metric=metric,
            multiple=synthetic,
            sampler=sampler,
        )
        lab = Lab.create(out or Path("runs") / f"{Path(data).name}-{preset}", settings)
    lab = Lab(lab.folder, lab.settings, given)
    accelerator = _accelerator(lab, tracker, cpu)
    if any(name != "report" for name in stages):
        _tell_cost(lab, accelerator.device, console, yes)
    with progress_on(console, keep=False) as progress:
        Sweep(lab, progress, accelerator=accelerator).run(stages)
    if tracker is not None:
        accelerator.end_training()
    print(lab.folder)


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
) -> Settings:
    from m2g_audit.errors import UsageError
    from small_scale.pictures import open_source
    from small_scale.settings import PUBLISHED, settings_for

    # The folder must mean the same wherever the sweep is gone on with.
    data = data if data in PUBLISHED else str(Path(data).resolve())
    source = open_source(data)
    try:
        parsed = None if sizes is None else tuple(int(K) for K in sizes.split(","))
    except ValueError as error:
        raise UsageError(
            f"--sizes takes whole numbers with commas, such as 2,16,128; got {sizes!r}."
        ) from error
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
        sizes=parsed,
    )


def _accelerator(lab: Lab, tracker: str | None, cpu: bool) -> Accelerator:
    from accelerate import Accelerator

    from m2g_audit.errors import UsageError

    try:
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=lab.settings.training.mixed_precision,
            log_with=tracker,
            project_dir=lab.folder,
        )
        if tracker is not None:
            accelerator.init_trackers("m2g-audit")
    except (ValueError, ImportError) as error:
        raise UsageError(f"{error} Leave out --tracker, or install it.") from error
    preset = lab.settings.preset
    if preset in ("lab", "paper") and accelerator.device.type == "cpu" and not cpu:
        raise UsageError(
            f"The preset {preset} is made for a GPU, and there is none here. Take --preset desk, "
            "or add --cpu to run it all the same."
        )
    return accelerator


def _tell_cost(lab: Lab, device: torch.device, console: Console, yes: bool) -> None:
    """Says what the sweep is and takes, and asks where that is long."""
    from m2g_audit.cli.asking import ASK_ABOVE_SECONDS, ask
    from m2g_audit.words import duration
    from small_scale.sweep import estimate_seconds

    settings = lab.settings
    seconds = estimate_seconds(settings, device)
    sizes = settings.sizes
    console.print(
        f"{settings.data}: {len(sizes)} sizes from K = {sizes[0]:,} to {sizes[-1]:,}, pictures of "
        f"{settings.side} x {settings.side}, {settings.training.iterations:,} steps each, on "
        f"{device.type}: about {duration(seconds)} in all, less what is done. {lab.folder}",
        highlight=False,
    )
    if seconds > ASK_ABOVE_SECONDS:
        ask(f"This sweep takes about {duration(seconds)}", yes)
