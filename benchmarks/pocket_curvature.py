"""Does curvature tell memorized from spurious samples within a caption? And Fig. 5B on pocket.

For captions whose samples in the truth show both states, fast spectra of samples of each state, at
several t0 and by several scores, and what can be read off them. AUROC is computed within captions,
so that differences between them can't help. The read-out is chosen on all captions but one and
judged on that one (cross-fitted), with an interval over captions and samples.

    python benchmarks/pocket_curvature.py runs/pocket      # a folder that `pocket measure` finished

Finished captions stay in --work, and an interrupted run continues from them.
"""

import argparse
import io
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from resumable import Pieces, Result

from m2g_audit.diagnostics import fast_spectrum, krylov, operators
from m2g_audit.diagnostics.fast_spectrum import FIRST_SHELLS, FastSpectrum, fast_spectra
from m2g_audit.diagnostics.free_probability import point_mass_curve
from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.models.loading import load_model
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pocket.captions import Caption, all_captions
from m2g_audit.pocket.truth import DISTANCES_FILE, SAMPLES, TRUTH_SEED, sample
from m2g_audit.pocket.truth_table import TruthTable, load_table
from m2g_audit.records.vocabulary import ScoreKind
from m2g_audit.reports.colours import STATE_COLOURS
from m2g_audit.similarity import distances, load_metric
from m2g_audit.verdict.states import State, classify

STATES = (State.MEMORIZED, State.SPURIOUS, State.GENERALIZED)
TIMES = (2, 5, 20, 50, 100)
SCORES: tuple[ScoreKind, ...] = ("conditional", "guided", "unconditional")
DIFFERENCE = "conditional - unconditional"
TOLERANCE = 0.05
FIGURE_TIME, FIGURE_SCORE = 5, "conditional"
LEAST_SAMPLES, LEAST_CAPTIONS = 4, 3
RESAMPLES = 1000
RESULTS = Path(__file__).parent / "results"

READ_OUTS: dict[str, Callable[[FastSpectrum], float]] = {
    "median": lambda s: s.median,
    "mean": lambda s: float(s.singular_values.mean()),
    "quantile 0.9": lambda s: float(np.quantile(s.singular_values, 0.9)),
    "quantile 0.1": lambda s: float(np.quantile(s.singular_values, 0.1)),
    "rank": lambda s: float(s.rank),
    "trace": lambda s: -s.intrinsic_dimension,
    "largest": lambda s: float(s.top[0]),
}

Condition = tuple[int, str, str]
"""t0, score and read-out."""


@dataclass(frozen=True)
class Measured:
    """What was read off the spectra of one sample, and the curve that the figure shows."""

    caption: str
    state: State
    readings: dict[Condition, float]
    curve: np.ndarray
    evaluations: int


def main() -> None:
    """Writes results/pocket_curvature.{md,json,png}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `m2g-audit pocket measure` worked in")
    parser.add_argument("--captions", type=int, default=8)
    parser.add_argument("--samples", type=int, default=10, help="of each state and caption")
    parser.add_argument("--work", type=Path, default=Path("runs/pocket_curvature"))
    asked = parser.parse_args()
    table = load_table(asked.folder / "weights" / "truth.json")
    pipeline = load_model(asked.folder / "weights")
    settings = {"model": table.model_sha256, "tolerance": TOLERANCE, "samples": asked.samples}
    pieces = Pieces(asked.work, settings, (fast_spectrum, krylov, operators))
    measured = []
    for caption, chosen in choose(pipeline, asked.folder, table, asked.captions, asked.samples):
        name = caption.text.replace(" ", "-")
        kept = pieces.get(name, lambda: measure(pipeline, asked.folder, caption, chosen))  # noqa: B023
        measured += [from_json(row) for row in kept["rows"]]
        print(caption.text, len(measured), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pocket_curvature.md").write_text(report(measured, table))
    (RESULTS / "pocket_curvature.png").write_bytes(figure(measured))
    rows = [
        {
            "caption": m.caption,
            "state": m.state.value,
            **{"; ".join(map(str, c)): round(value, 5) for c, value in m.readings.items()},
        }
        for m in measured
    ]
    (RESULTS / "pocket_curvature.json").write_text(
        "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    )
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
    found = classify(
        to_training, pairs.min(1), table.thresholds_of(table.captions[row]), reference_complete=True
    )
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
        picked.append((caption, draw(found, n_samples, row)))
    return picked


def draw(found: np.ndarray, n_samples: int, seed: int) -> dict[State, np.ndarray]:
    """At most so many samples of each state, drawn from those `found` in it."""
    rng = np.random.default_rng(seed)
    return {
        state: rng.permutation(np.flatnonzero(found == state.value))[:n_samples] for state in STATES
    }


def measure(
    pipeline: TextToImage, folder: Path, caption: Caption, chosen: dict[State, np.ndarray]
) -> Result:
    """Fast spectra of the chosen samples at their own final latents, two shells each."""
    latents = sample(pipeline, caption, TRUTH_SEED, SAMPLES, folder / "samples")[1]
    which = np.concatenate(list(chosen.values()))
    states = [state for state, indices in chosen.items() for _ in indices]
    readings: list[dict[Condition, float]] = [{} for _ in which]
    curves, evaluations = [], 0
    for t0, score in itertools.product(TIMES, SCORES):
        found = fast_spectra(
            pipeline.bind(caption.text, guidance=pipeline.default_guidance, kind=score),
            latents[torch.from_numpy(which)],
            t0,
            seeds=[seed_for(0, caption.text, int(i)) for i in which],
            tolerance=TOLERANCE,
            most_shells=FIRST_SHELLS,
        )
        for values, spectrum in zip(readings, found, strict=True):
            for name, read in READ_OUTS.items():
                values[t0, score, name] = read(spectrum)
        if (t0, score) == (FIGURE_TIME, FIGURE_SCORE):
            curves = [spectrum.singular_values for spectrum in found]
            evaluations = max(spectrum.evaluations for spectrum in found)
    for values, t0, name in itertools.product(readings, TIMES, READ_OUTS):
        values[t0, DIFFERENCE, name] = (
            values[t0, "conditional", name] - values[t0, "unconditional", name]
        )
    rows = [
        {
            "caption": caption.text,
            "state": state.value,
            "readings": [[*condition, value] for condition, value in values.items()],
            "curve": np.round(curve, 5).tolist(),
            "evaluations": evaluations,
        }
        for state, values, curve in zip(states, readings, curves, strict=True)
    ]
    return {"rows": rows}


def from_json(row: Result) -> Measured:
    """One row of `measure` as it was kept."""
    readings = {(int(t0), score, name): value for t0, score, name, value in row["readings"]}
    curve = np.array(row["curve"])
    return Measured(row["caption"], State(row["state"]), readings, curve, row["evaluations"])


Groups = list[tuple[np.ndarray, np.ndarray]]
"""Readings of the samples of two states, [samples, conditions] each, one pair for each caption."""


def groups_of(measured: list[Measured], high: State, low: State) -> Groups:
    """The readings of two states in captions that have enough samples of both."""
    groups = []
    for text in dict.fromkeys(m.caption for m in measured):
        pair = tuple(
            np.array([list(m.readings.values()) for m in measured if (m.caption, m.state) == key])
            for key in ((text, high), (text, low))
        )
        if min(len(values) for values in pair) >= LEAST_SAMPLES:
            groups.append(pair)
    return groups


def areas(groups: Groups) -> np.ndarray:
    """AUROC of the first against the second state [captions, conditions]."""
    return np.array(
        [(a[:, None] > b).mean((0, 1)) + 0.5 * (a[:, None] == b).mean((0, 1)) for a, b in groups]
    )


def cross_fitted(by_caption: np.ndarray, names: np.ndarray) -> tuple[float, list[int]]:
    """Mean AUROC of the condition (and its sign) that is best on the other captions.

    by_caption: [captions, conditions]; names: of the captions, of which one may have been drawn
    several times and is then left out as a whole. Also returns the condition chosen for each.
    """
    judged, chosen = [], []
    for held_out, name in enumerate(names):
        others = by_caption[names != name].mean(0)
        best = int(np.abs(others - 0.5).argmax())
        area = by_caption[held_out, best]
        judged.append(area if others[best] > 0.5 else 1 - area)
        chosen.append(best)
    return float(np.mean(judged)), chosen


def interval(
    groups: Groups, statistic: Callable[[np.ndarray, np.ndarray], np.ndarray | float]
) -> tuple[np.ndarray, np.ndarray]:
    """95% bootstrap interval of statistic(areas, captions): captions, then samples, drawn again."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        names = rng.integers(len(groups), size=len(groups))
        if len(set(names)) == 1:
            continue
        again = [
            tuple(values[rng.integers(len(values), size=len(values))] for values in groups[g])
            for g in names
        ]
        drawn.append(statistic(areas(again), names))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def report(measured: list[Measured], table: TruthTable) -> str:
    """The result as Markdown."""
    counts = {state: sum(m.state == state for m in measured) for state in STATES}
    captions = len({m.caption for m in measured})
    conditions = list(measured[0].readings)
    lines = [
        "# Curvature of memorized, spurious and generalized samples on pocket",
        "",
        f"Fast spectra (two shells, tolerance {TOLERANCE:g}, about {measured[0].evaluations} "
        f"network evaluations each) at the samples' own latents, in {captions} captions; states "
        f"from {table.samples} samples a caption: "
        + ", ".join(f"{n} {state.value}" for state, n in counts.items())
        + f". t0 = {', '.join(map(str, TIMES))}; score {', '.join((*SCORES, DIFFERENCE))}; "
        f"read-outs {', '.join(READ_OUTS)}: {len(conditions)} conditions. "
        f"Weights {table.model_sha256[:12]}.",
        "",
        "AUROC within captions, averaged over captions; in brackets a 95% bootstrap interval over "
        f"captions and samples. Captions count that have {LEAST_SAMPLES} samples of both states.",
        "",
        "## Cross-fitted: the condition is chosen on the other captions",
        "",
        "| | captions | AUROC | chosen |",
        "| --- | --- | --- | --- |",
    ]
    pairs = ((STATES[0], STATES[1]), (STATES[0], STATES[2]), (STATES[1], STATES[2]))
    for high, low in pairs:
        groups = groups_of(measured, high, low)
        if len(groups) < LEAST_CAPTIONS:
            lines.append(f"| {high.value} > {low.value} | {len(groups)} | too few | |")
            continue
        area, chosen = cross_fitted(areas(groups), np.arange(len(groups)))
        least, most = interval(groups, lambda *drawn: cross_fitted(*drawn)[0])
        names = {_name(conditions[c]): chosen.count(c) for c in chosen}
        lines.append(
            f"| {high.value} > {low.value} | {len(groups)} | {area:.3f} ({least:.3f} to "
            f"{most:.3f}) | " + "; ".join(f"{n} x {name}" for name, n in names.items()) + " |"
        )
    for high, low in pairs:
        groups = groups_of(measured, high, low)
        if len(groups) < LEAST_CAPTIONS:
            continue
        estimate = areas(groups).mean(0)
        least, most = interval(groups, lambda by_caption, _: by_caption.mean(0))
        lines += [
            "",
            f"## {high.value} over {low.value}, every condition by itself",
            "",
            "| t0 | score | " + " | ".join(READ_OUTS) + " |",
            "| --- | --- |" + " --- |" * len(READ_OUTS),
        ]
        for t0, score in itertools.product(TIMES, (*SCORES, DIFFERENCE)):
            cells = []
            for name in READ_OUTS:
                c = conditions.index((t0, score, name))
                cells.append(f"{estimate[c]:.2f} ({least[c]:.2f} to {most[c]:.2f})")
            lines.append(f"| {t0} | {score} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _name(condition: Condition) -> str:
    t0, score, read_out = condition
    return f"{read_out}, {score}, t0 = {t0}"


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
