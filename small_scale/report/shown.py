"""What a sweep found, printed: the states at each K, and where the transition is."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from small_scale.classification import STATES
from small_scale.lab import Lab
from small_scale.report.summaries import possible_peaks, spurious_range
from small_scale.report.whole_report import BESIDE
from small_scale.sizes import transition


def show(lab: Lab, others: Sequence[Lab], console: Console) -> None:
    """Prints what became of the samples at each K, and where the sweep lies."""
    classified = lab.classified["per-K"]
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
        console.print(str(lab.path / "figures" / f"{BESIDE}.png"))
    console.print(str(lab.path))
