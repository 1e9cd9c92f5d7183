"""Does curvature tell memorized from spurious samples within a caption? And Fig. 5B on pocket.

For captions whose samples in the truth show several states, the exact Jacobian's spectrum of a few
samples of each. AUROC is computed within captions, so that differences between them can't help.

    python benchmarks/pocket_curvature.py runs/pocket      # a folder that `pocket measure` finished
"""

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from m2g_audit.curvature import exact_jacobian, point_mass_curve
from m2g_audit.numerics import seed_for
from m2g_audit.pipelines import TextToImage
from m2g_audit.pocket.captions import Caption, all_captions
from m2g_audit.pocket.truth import DISTANCES_FILE, SAMPLES, TRUTH_SEED, sample
from m2g_audit.pocket.truth_table import TruthTable, load_table
from m2g_audit.report.colours import STATE_COLOURS
from m2g_audit.similarity import distances, load_metric
from m2g_audit.states import State, classify

STATES = (State.MEMORIZED, State.SPURIOUS, State.GENERALIZED)
T0 = 5
RESAMPLES = 2000
RESULTS = Path(__file__).parent / "results"

READ_OUTS: dict[str, Callable[[np.ndarray], float]] = {
    "median": lambda curve: float(np.median(curve)),
    "mean": lambda curve: float(curve.mean()),
    "quantile 0.9": lambda curve: float(np.quantile(curve, 0.9)),
    "quantile 0.1": lambda curve: float(np.quantile(curve, 0.1)),
    "share above one half": lambda curve: float((curve > 0.5).mean()),
}


@dataclass(frozen=True)
class Measured:
    """The spectrum of one sample."""

    caption: str
    state: State
    curve: np.ndarray


def main() -> None:
    """Writes results/pocket_curvature.{md,json,png}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `m2g-audit pocket measure` worked in")
    parser.add_argument("--captions", type=int, default=6)
    parser.add_argument("--samples", type=int, default=8, help="of each state and caption")
    asked = parser.parse_args()
    table = load_table(asked.folder / "truth.json")
    pipeline = TextToImage.load(asked.folder / "weights")
    measured = []
    for caption, chosen in choose(pipeline, asked.folder, table, asked.captions, asked.samples):
        measured += measure(pipeline, asked.folder, caption, chosen)
        print(caption.text, len(measured), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pocket_curvature.md").write_text(report(measured, table))
    (RESULTS / "pocket_curvature.png").write_bytes(figure(measured))
    rows = [
        {
            "caption": m.caption,
            "state": m.state.value,
            **{name: round(read(m.curve), 6) for name, read in READ_OUTS.items()},
        }
        for m in measured
    ]
    (RESULTS / "pocket_curvature.json").write_text(json.dumps(rows, indent=1) + "\n")
    print((RESULTS / "pocket_curvature.md").read_text())


def sample_states(
    pipeline: TextToImage, folder: Path, table: TruthTable, row: int, caption: Caption
) -> np.ndarray:
    """The state of each of the truth's samples of a caption [samples]."""
    metric = load_metric(table.metric)
    with np.load(folder / "samples" / DISTANCES_FILE) as kept:
        to_training = kept["to_training"][row]
    embedded = metric.embed(sample(pipeline, caption, TRUTH_SEED, SAMPLES, folder / "samples")[0])
    pairs = distances(metric, embedded, embedded)
    np.fill_diagonal(pairs, np.inf)
    found = classify(to_training, pairs.min(1), table.thresholds, reference_complete=True)
    return np.array([state.value for state in found])


def choose(
    pipeline: TextToImage, folder: Path, table: TruthTable, n_captions: int, n_samples: int
) -> list[tuple[Caption, dict[State, np.ndarray]]]:
    """Captions with most samples in the rarer of memorized and spurious, and which samples."""
    candidates = []
    for row, caption in enumerate(all_captions()):
        truth = table.captions[row].truth
        if min(truth.memorized, truth.spurious) * SAMPLES >= n_samples:
            candidates.append((min(truth.memorized, truth.spurious), row, caption))
    chosen = sorted(candidates, key=lambda c: -c[0])[:n_captions]
    picked = []
    for _, row, caption in chosen:
        found = sample_states(pipeline, folder, table, row, caption)
        rng = np.random.default_rng(row)
        picked.append(
            (
                caption,
                {
                    state: rng.permutation(np.flatnonzero(found == state.value))[:n_samples]
                    for state in STATES
                },
            )
        )
    return picked


def measure(
    pipeline: TextToImage, folder: Path, caption: Caption, chosen: dict[State, np.ndarray]
) -> list[Measured]:
    """Exact spectra of the chosen samples at their own final latents, conditional score."""
    latents = sample(pipeline, caption, TRUTH_SEED, SAMPLES, folder / "samples")[1]
    model = pipeline.bind(caption.text)
    return [
        Measured(
            caption.text,
            state,
            exact_jacobian(
                model, latents[i], T0, seed=seed_for(0, caption.text, int(i))
            ).singular_values,
        )
        for state, indices in chosen.items()
        for i in indices
    ]


def within_captions(
    measured: list[Measured], high: State, low: State, read: Callable[[np.ndarray], float]
) -> tuple[float, float, float, int]:
    """Mean AUROC over captions (high against low), a 95% interval, and the number of captions.

    Captions and, within each, samples of each state are drawn again for the interval.
    """
    groups = []
    for text in dict.fromkeys(m.caption for m in measured):
        pair = [
            np.array([read(m.curve) for m in measured if m.caption == text and m.state == state])
            for state in (high, low)
        ]
        if min(len(values) for values in pair) >= 3:
            groups.append(pair)
    if not groups:
        return (float("nan"), float("nan"), float("nan"), 0)

    def area(a: np.ndarray, b: np.ndarray) -> float:
        # The Mann-Whitney form, for thousands of small resamples.
        return float((a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean())

    rng = np.random.default_rng(0)
    drawn = [
        np.mean(
            [
                area(*(rng.choice(values, len(values)) for values in groups[g]))
                for g in rng.integers(len(groups), size=len(groups))
            ]
        )
        for _ in range(RESAMPLES)
    ]
    estimate = float(np.mean([area(*pair) for pair in groups]))
    return (estimate, *(float(q) for q in np.quantile(drawn, [0.025, 0.975])), len(groups))


def report(measured: list[Measured], table: TruthTable) -> str:
    """The result as Markdown."""
    counts = {state: sum(m.state == state for m in measured) for state in STATES}
    lines = [
        "# Curvature of memorized, spurious and generalized samples on pocket",
        "",
        f"Exact Jacobian of the conditional score on the noise shell, t0 = {T0}, one shell, at the "
        f"samples' own latents; states from {table.samples} samples a caption. "
        + ", ".join(f"{n} {state.value}" for state, n in counts.items())
        + f". Weights {table.model_sha256[:12]}.",
        "",
        "AUROC within captions, averaged; in brackets a 95% bootstrap interval over captions and "
        "samples, then the number of captions with at least 3 samples of both states.",
        "",
        "| read-out | memorized > spurious | memorized > generalized | spurious > generalized |",
        "| --- | --- | --- | --- |",
    ]
    for name, read in READ_OUTS.items():
        cells = [
            "{:.3f} ({:.3f} to {:.3f}; {})".format(*within_captions(measured, a, b, read))
            for a, b in ((STATES[0], STATES[1]), (STATES[0], STATES[2]), (STATES[1], STATES[2]))
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(measured: list[Measured]) -> bytes:
    """Mean spectrum of each state with the spread of its samples, as PNG."""
    drawn = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.add_subplot()
    for state in STATES:
        curves = np.array([m.curve for m in measured if m.state == state])
        if not len(curves):
            continue
        middle, low, high = curves.mean(0), *np.quantile(curves, [0.16, 0.84], axis=0)
        colour = STATE_COLOURS[state.value]
        axes.plot(middle, color=colour, label=f"{state.value} ({len(curves)} samples)")
        axes.fill_between(np.arange(len(middle)), low, high, color=colour, alpha=0.18, lw=0)
    axes.plot(
        point_mass_curve("jacobian", measured[0].curve.size), "k:", lw=1, label="a point mass"
    )
    axes.set(
        xlabel="index of the singular value",
        ylabel=r"singular value of $\partial s/\partial x$, times $\sigma_t^2$",
        ylim=(0, None),
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    return buffer.getvalue()


if __name__ == "__main__":
    main()
