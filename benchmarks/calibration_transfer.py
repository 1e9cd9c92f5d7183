"""Does a threshold on spectra, learned where the training set is known, hold on another model?

From each sweep: of the read-outs of a calibration (mean, median and two quantiles of the normalised
"jacobian" spectrum at t0 = 5) the one that tells memorized from spurious samples best *there*, and
the threshold that is best there, both within the sweep's own models. Then both, unchanged, on
pocket's samples (results/pocket_curvature.json): the AUROC of the read-out within captions, and how
often the threshold gives the right word. Intervals: captions drawn again with replacement, and
samples within them.

Models in pixels do not fit one in latents (DEFINITIONS: Curvature), so no audit of pocket takes
these calibrations; the numbers say whether it could.

    python benchmarks/calibration_transfer.py runs/mnist runs/cifar10    # finished sweeps

Writes results/calibration_transfer.{md,json}, and each transfer into its sweep's calibration.json.
"""

import argparse
import datetime
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from named_by_curvature import CALIBRATION
from resumable import Result, in_words, machine
from sklearn.metrics import roc_auc_score

from m2g_audit.calibration.calibration_record import Readout, Transfer, load, read_out
from m2g_audit.files import write_atomically
from m2g_audit.pocket.truth_table import load_table
from m2g_audit.records.record import IntervalRecord
from m2g_audit.verdict.intervals import LEVEL
from small_scale.calibration_file import FILE
from small_scale.lab import Lab

READOUTS: tuple[Readout, ...] = get_args(Readout)
FEWEST, T0, RESAMPLES = 4, 5, 2000
RESULTS = Path(__file__).parent / "results"
NAME = "calibration_transfer"

Group = tuple[np.ndarray, np.ndarray]
"""Readings of memorized and of spurious samples of one model, or of one caption."""


def main() -> None:
    """Writes results/calibration_transfer.md and .json, and the transfers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", type=Path, nargs="+", help="folders of finished sweeps")
    asked = parser.parse_args()
    rows = [transfer(Lab.open(folder)) for folder in asked.sweeps]
    for folder, row in zip(asked.sweeps, rows, strict=True):
        if "why" not in row:
            record(folder / FILE, row)
    found = {"machine": machine(), "resamples": RESAMPLES, "transfers": rows}
    RESULTS.mkdir(exist_ok=True)
    write_atomically(RESULTS / f"{NAME}.json", (json.dumps(found, indent=1) + "\n").encode())
    write_atomically(RESULTS / f"{NAME}.md", report(found).encode())
    print(report(found))


def transfer(lab: Lab) -> Result:
    """What the best read-out of a sweep shows on itself and on pocket."""
    source = {name: of_sweep(lab, name) for name in READOUTS}
    data = Path(lab.settings.data).name
    if not any(source.values()):
        return {"from": data, "why": f"no model with {FEWEST} spectra of both states"}
    own = {name: auroc(groups) for name, groups in source.items()}
    best = max(own, key=lambda name: own[name])
    threshold = best_threshold(source[best])
    target = of_pocket(best)
    return {
        "from": data,
        "models": len(source[best]),
        "samples": [sum(len(group[state]) for group in source[best]) for state in (0, 1)],
        "readout": best,
        "threshold": threshold,
        "there": {**own},
        "there_interval": interval(source[best], auroc),
        "there_right": balanced(source[best], threshold),
        "pocket": auroc(target),
        "pocket_interval": interval(target, auroc),
        "pocket_right": balanced(target, threshold),
        "pocket_samples": [sum(len(group[state]) for group in target) for state in (0, 1)],
    }


def record(path: Path, row: Result) -> None:
    """Puts the transfer into a sweep's calibration, so that an audit can say what it showed."""
    pocket = load(CALIBRATION).transfers[-1]
    low, high = row["pocket_interval"]
    memorized, spurious = row["pocket_samples"]
    measured = Transfer(
        name="samples of pocket",
        to=pocket.to,
        sha256=load_table().model_sha256,
        readout=row["readout"],
        threshold=row["threshold"],
        auroc=IntervalRecord(
            estimate=row["pocket"],
            low=low,
            high=high,
            level=LEVEL,
            method="bootstrap over captions and samples",
        ),
        memorized=memorized,
        spurious=spurious,
        date=datetime.date.today(),
    )
    load(path).model_copy(update={"transfers": [measured]}).save(path)


def of_sweep(lab: Lab, name: Readout) -> list[Group]:
    """Readings of the models of a sweep whose spectra show both states."""
    groups = []
    for cell in lab.measured:
        spectra = lab.geometry(cell, "spectra") or {}
        pair = [spectra.get(f"{state}/values") for state in ("memorized", "spurious")]
        if all(curves is not None and len(curves) >= FEWEST for curves in pair):
            groups.append(
                tuple(np.array([read_out(name, curve) for curve in curves]) for curves in pair)
            )
    return groups


def of_pocket(name: Readout) -> list[Group]:
    """Readings of pocket's captions, conditional score."""
    rows = json.loads((RESULTS / "pocket_curvature.json").read_text())
    key = f"{T0}; conditional; {name}"
    captions = sorted({row["caption"] for row in rows})
    return [
        tuple(
            np.array(
                [row[key] for row in rows if (row["caption"], row["state"]) == (caption, state)]
            )
            for state in ("memorized", "spurious")
        )
        for caption in captions
    ]


def auroc(groups: Sequence[Group]) -> float:
    """The mean AUROC, memorized above spurious, within groups."""
    each = [
        roc_auc_score([1] * len(first) + [0] * len(second), np.concatenate([first, second]))
        for first, second in groups
    ]
    return float(np.mean(each))


def best_threshold(groups: Sequence[Group]) -> float:
    """The middle of the range where the balanced share of right words is largest."""
    values = np.unique(np.concatenate([part for group in groups for part in group]))
    middles = (values[1:] + values[:-1]) / 2
    right = np.array([balanced(groups, at) for at in middles])
    return float(np.median(middles[right == right.max()]))


def balanced(groups: Sequence[Group], threshold: float) -> float:
    """The mean of the shares of memorized samples at or above it and of spurious ones below."""
    first, second = (np.concatenate([group[state] for group in groups]) for state in (0, 1))
    return float(((first >= threshold).mean() + (second < threshold).mean()) / 2)


def interval(groups: Sequence[Group], statistic: Callable[[Sequence[Group]], float]) -> list[float]:
    """The 95% interval over groups, and samples within them."""
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        chosen = [groups[i] for i in random.integers(len(groups), size=len(groups))]
        again = [tuple(random.choice(part, len(part)) for part in group) for group in chosen]
        drawn.append(statistic(again))
    return np.quantile(drawn, [0.025, 0.975]).tolist()


def report(found: Result) -> str:
    """The result as Markdown."""
    lines = [
        "# Thresholds on spectra from sweeps, tried on pocket",
        "",
        f'Memorized against spurious samples by a read-out of "jacobian" spectra at t0 = {T0}; '
        "read-out and threshold are chosen on the sweep's own models alone. AUROC within models of "
        "the sweep, and within captions of pocket (conditional score), with 95% intervals. Right: "
        "mean of both states' shares of right words; 50% is chance.",
        "",
        "| from | models | samples | read-out | AUROC there | right there | AUROC on pocket "
        "| right on pocket |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in found["transfers"]:
        if "why" in row:
            lines.append(f"| {row['from']} | {row['why']} | | | | | | |")
            continue
        low, high = row["there_interval"]
        pocket_low, pocket_high = row["pocket_interval"]
        lines.append(
            f"| {row['from']} | {row['models']} | {row['samples'][0]} and {row['samples'][1]} "
            f"| {row['readout']} at {row['threshold']:.3f} "
            f"| {row['there'][row['readout']]:.2f} ({low:.2f} to {high:.2f}) "
            f"| {row['there_right']:.0%} | {row['pocket']:.2f} ({pocket_low:.2f} to "
            f"{pocket_high:.2f}) | {row['pocket_right']:.0%} |"
        )
    return "\n".join([*lines, "", f"{in_words(found['machine'])}.", ""])


if __name__ == "__main__":
    main()
