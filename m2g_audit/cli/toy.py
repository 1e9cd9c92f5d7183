"""`m2g-audit toy`: the paper's example on a circle, trained and computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def toy(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where networks, numbers and pictures go; continued if there. Default: a folder "
            "under runs/ for each preset and seed."
        ),
    ] = None,
    preset: Annotated[
        Literal["desk", "paper", "smoke"],
        typer.Option(
            help="desk: smaller networks and fewer iterations, on one core; paper: App. A to the "
            "letter, days on a CPU; smoke: seconds."
        ),
    ] = "desk",
    seed: Annotated[int, typer.Option(min=0, help="Of points, weights, batches and noise.")] = 0,
) -> None:
    """Show memorized, spurious and generalized samples on a circle (the paper's Fig. 2).

    Trains a score network on K = 2, 9 and 1,000 points, draws its energy, its samples and their
    clusters, and counts the minima of the exact energy over K and the inverse temperature. Ctrl-C
    loses the steps since the last checkpoint; the same command continues.
    Example: m2g-audit toy --preset desk --out runs/circle
    """
    from dataclasses import replace

    from m2g_audit.cli.bars import loading, progress_on, waiting
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.current_folder import import_matplotlib
    from m2g_audit.store.run_directory import default_folder
    from m2g_audit.text import duration

    console = Terminal(stderr=True)
    with loading(console):
        import_matplotlib()
        from small_scale.circle.cost import seconds_left
        from small_scale.circle.recipe import PRESETS
        from small_scale.circle.toy import RESULTS, open_run, run
    recipe = replace(PRESETS[preset], seed=seed)
    folder = open_run(out or default_folder(f"circle {preset}", recipe.identity()), recipe)
    with waiting(console, "measuring what it will take"):
        seconds = seconds_left(folder, recipe)
    console.print(f"This will take about {duration(seconds)}.")
    with progress_on(console) as progress:
        run(folder, recipe, progress)
    for name in RESULTS:
        print(folder.path / name)
