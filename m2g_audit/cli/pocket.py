"""`m2g-audit pocket`: the model that ships with the project, its captions, and how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from m2g_audit.cli.options import Format

if TYPE_CHECKING:
    from rich.table import Table

    from m2g_audit.pocket.truth_table import TruthTable

app = typer.Typer(
    help="The text-to-image model that ships with the program, and the world it was trained on.",
    no_args_is_help=True,
)


@app.command()
def prompts(
    truth: Annotated[
        Path | None,
        typer.Option(help="The truth table of another training (pocket measure), as a file."),
    ] = None,
    output_format: Format = "text",
) -> None:
    """List captions, their number K of training pictures, and what the model does with them.

    The shares are of 256 samples against the whole training set (Eq. 9-11 of the paper); K is 0 for
    captions that were never trained. Example: m2g-audit pocket prompts --format json
    """
    import json
    from dataclasses import asdict

    from m2g_audit.cli.options import print_json
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.pocket.truth_table import TABLE, load_table

    table = load_table(truth or TABLE)
    if output_format == "json":
        print_json(json.dumps([asdict(row) for row in table.captions], indent=1))
        return
    Terminal().print(_table(table))


def _table(table: TruthTable) -> Table:
    from dataclasses import astuple

    from rich import box
    from rich.table import Table

    shown = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        caption=(
            f"Shares of memorized, spurious and generalized samples among 16, averaged over "
            f"{table.samples}, by thresholds of each caption's own; control is the share near "
            "pictures that were never trained on, K 0 is a caption that never was. "
            f"{table.steps} steps, guidance {table.guidance:g}; {table.metric}. --format json has "
            "more."
        ),
    )
    shown.add_column("caption", no_wrap=True)
    for name in ("K", "mem.", "spur.", "gen.", "control"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in table.captions:
        shares = (*astuple(row.truth), row.false_memorized)
        shown.add_row(row.caption, str(row.k), *(f"{share:.0%}" for share in shares))
    return shown


@app.command()
def train(
    out: Annotated[
        Path, typer.Option(help="Where checkpoints, log and weights go; continued if there.")
    ],
    preset: Annotated[
        Literal["full", "smoke", "flow", "flow-smoke"],
        typer.Option(
            help="full: the shipped recipe, 75 minutes on two cores; flow: pocket-flow, a flow-"
            "matching transformer of the same world, as long; smoke and flow-smoke: seconds."
        ),
    ] = "full",
    seed: Annotated[int, typer.Option(help="Of the weights and of every batch.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
) -> None:
    """Train the pocket model again by the recipe that made the shipped one.

    Ctrl-C loses the steps since the last checkpoint; the same command continues.
    Example: m2g-audit pocket train --out runs/pocket --seed 1
    """
    from dataclasses import replace

    from m2g_audit.cli.bars import loading, progress_on
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.pocket.recipe import FLOW_PRESETS, PRESETS

    console = Terminal(stderr=True)
    with loading(console):
        from m2g_audit.pocket.flow_training import train_flow
        from m2g_audit.pocket.training import train as train_pocket
    with progress_on(console) as progress:
        if preset in FLOW_PRESETS:
            recipe = replace(FLOW_PRESETS[preset], seed=seed)
            folder = train_flow(out, recipe, device=device, on_step=progress)
        else:
            folder = train_pocket(
                out, replace(PRESETS[preset], seed=seed), device=device, on_step=progress
            )
    print(folder)


@app.command()
def measure(
    out: Annotated[Path, typer.Argument(help="The folder that pocket train wrote.")],
) -> None:
    """Measure the truth of every caption of a trained pocket, and index its training pictures.

    Writes training-index.npy and truth.json into weights/. Half an hour on two cores; the same
    command continues. Example: m2g-audit pocket measure runs/pocket
    """
    from m2g_audit.cli.bars import loading, progress_on
    from m2g_audit.cli.terminal import Terminal

    console = Terminal(stderr=True)
    with loading(console):
        from m2g_audit.models.loading import load_model
        from m2g_audit.pocket import truth
        from m2g_audit.pocket.training_pictures import INDEX_FILE, TrainingPictures, build_index
        from m2g_audit.pocket.truth_table import TRUTH_FILE, save_table
    weights = out / "weights"
    pipeline = load_model(weights)
    training = TrainingPictures(pipeline)
    with progress_on(console) as progress:
        table = truth.measure(pipeline, training, out / "samples", on_progress=progress)
    build_index(training, weights / INDEX_FILE)
    save_table(table, weights / TRUTH_FILE)
    print(weights / TRUTH_FILE)
