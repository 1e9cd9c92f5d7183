"""Which cheap read-out of curvature tells copies from the model's own repeats, without S?

Captions of a pocket, 16 seeds each that nothing else uses. A sample counts where it has a duplicate
within the caption's delta_s; its distance to S, over the caption's delta_m, is what a read-out has
to predict: without S, from the model alone. Judged: Spearman's rank correlation within captions,
averaged over those where it can be seen, with an interval over captions; all samples at once; and
the words of a fixed threshold.

    python benchmarks/naming_read_outs.py m2g_audit/pocket/weights            # the rule was chosen
    python benchmarks/naming_read_outs.py runs/second/weights --judge         # and is judged once

Without --judge every read-out is measured on captions with both states, and results/
naming_read_outs.{md,json} are written; with it the rule of m2g_audit/diagnostics/read_outs.py and
what stands beside it, on all captions with duplicates, for results/naming_judged.{md,json}.
Finished captions stay in --work, and an interrupted run continues from them.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from resumable import Pieces, Result, in_words, machine
from scipy.stats import spearmanr

from m2g_audit.diagnostics import read_outs, trajectory
from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.diagnostics.read_outs import (
    ERROR_LEVEL,
    MEMORIZED_UP_TO,
    NOISES,
    SPREAD_LEVEL,
    curvature_towards,
    denoising_error,
    freedom,
    return_distance,
    time_at,
)
from m2g_audit.files import write_atomically
from m2g_audit.models.loading import load_model
from m2g_audit.models.protocol import Generations, TextToImage
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.pocket.captions import Caption, all_captions
from m2g_audit.pocket.training_pictures import TrainingPictures, load_index, nearest_training
from m2g_audit.pocket.truth_table import CaptionShares, TruthTable, load_table
from m2g_audit.similarity import distances, load_metric

RUN_SEED = 14_000
SEEDS = 16
LEVELS = (0.25, 0.6, 1.16)
RULE = "the rule: spread times error"
BOTH = 0.05
"""Captions where either state has at least this share, by the truth table, have both."""
LEAST = 3
"""Within captions one counts with so many duplicated samples on either side of delta_m."""
RESAMPLES = 2000
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measures, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a pocket: weights with truth.json")
    parser.add_argument("--judge", action="store_true", help="the rule alone, on all captions")
    parser.add_argument("--work", type=Path, default=Path("runs/naming_read_outs"))
    asked = parser.parse_args()
    table = load_table(asked.folder / "truth.json")
    rows = measure_all(asked.folder, table, asked.work, judge=asked.judge)
    name = "naming_judged" if asked.judge else "naming_read_outs"
    text = report(rows, table, judge=asked.judge)
    content = {"model": table.model_sha256, "rows": rows, "machine": machine()}
    write_atomically(RESULTS / f"{name}.json", f"{json.dumps(content, indent=0)}\n".encode())
    write_atomically(RESULTS / f"{name}.md", text.encode())
    print(text)


# --- measures --------------------------------------------------------------------------------


def measure_all(folder: Path, table: TruthTable, work: Path, *, judge: bool) -> list[Result]:
    """The read-outs of every duplicated sample; captions with both states come first."""
    pipeline = load_model(folder)
    pictures, index = TrainingPictures(pipeline), load_index(folder)
    settings = {"model": table.model_sha256, "judge": judge}
    pieces = Pieces(work, settings, (read_outs, trajectory, measure, model_read_outs))
    shares = {row.caption: row.truth for row in table.captions}
    captions = [c for c in all_captions() if both(shares[c.text])]
    if judge:
        captions += [c for c in all_captions() if c not in captions]
    rows: list[Result] = []
    for caption in captions:
        made = partial(measure, pipeline, table, pictures, index, caption, judge=judge)
        rows += pieces.get(caption.text.replace(" ", "-"), lambda: {"rows": made()})["rows"]  # noqa: B023
        print(caption.text, len(rows), flush=True)
    return rows


def both(shares: CaptionShares) -> bool:
    """Whether a caption's samples have both states."""
    return min(shares.memorized, shares.spurious) >= BOTH


def measure(
    pipeline: TextToImage,
    table: TruthTable,
    pictures: TrainingPictures,
    index: np.ndarray,
    caption: Caption,
    *,
    judge: bool,
) -> list[Result]:
    """One caption: its duplicated samples with their distance to S over delta_m."""
    seeds = [seed_for(RUN_SEED, caption.text, i) for i in range(SEEDS)]
    made = pipeline.generate(caption.text, seeds, batch_size=SEEDS)
    metric, thresholds = load_metric(table.metric), table.thresholds_for(caption.text)
    embedded = metric.embed(made.images)
    pairs = distances(metric, embedded, embedded)
    near = (pairs <= thresholds.delta_s) & ~np.eye(SEEDS, dtype=bool)
    near[:, is_failed(made.images)] = False
    chosen = np.flatnonzero(near.any(axis=1) & ~is_failed(made.images))
    if not len(chosen):
        return []
    to_s = np.array(nearest_training(metric, made.images[chosen], pictures, index)[0])
    found = model_read_outs(pipeline, caption, made, near, chosen, judge=judge)
    found["own duplicates, mean distance"] = [float(pairs[i][near[i]].mean()) for i in chosen]
    found["own duplicates, number"] = [-float(near[i].sum()) for i in chosen]
    return [
        {
            "caption": caption.text,
            "k": caption.k,
            "distance": float(distance / thresholds.delta_m),
            "duplicates": np.flatnonzero(near[i]).tolist(),
            **{name: values[row] for name, values in found.items()},
        }
        for row, (i, distance) in enumerate(zip(chosen, to_s, strict=True))
    ]


def model_read_outs(
    pipeline: TextToImage,
    caption: Caption,
    made: Generations,
    near: np.ndarray,
    chosen: np.ndarray,
    *,
    judge: bool,
) -> dict[str, list[float]]:
    """What the model says of the chosen samples; all signed so that more means further from S."""
    clean = made.clean[torch.from_numpy(chosen)]
    conditional = pipeline.bind(caption.text)
    unconditional = pipeline.bind(caption.text, kind="unconditional")
    schedule, found = pipeline.schedule, dict[str, torch.Tensor]()

    def seeds(what: str, k: int = 0) -> list[int]:
        return [seed_for(RUN_SEED, f"{what} {caption.text} {i}", k) for i in chosen.tolist()]

    for level in (SPREAD_LEVEL, ERROR_LEVEL) if judge else LEVELS:
        t = time_at(schedule, level)
        noises = list(zip(*(seeds("error", k) for k in range(NOISES)), strict=True))
        error, spread = denoising_error(conditional, clean, t, noises)
        found |= {f"error at {level:g}": error, f"spread at {level:g}": spread}
        if judge:
            continue
        without, _ = denoising_error(unconditional, clean, t, [row[:4] for row in noises])
        found |= {
            f"error at {level:g}, less unconditional": error - without,
            f"error at {level:g}, over unconditional": error / without,
            f"return from {level:g}": return_distance(conditional, clean, t, seeds("return")),
        }
    found[RULE] = freedom(found[f"spread at {SPREAD_LEVEL:g}"], found[f"error at {ERROR_LEVEL:g}"])
    others = made.clean[torch.from_numpy(farther(made.clean, near, chosen))]
    for level in (0.07,) if judge else (0.07, *LEVELS):
        t = time_at(schedule, level)
        found[f"curvature towards, at {level:g}"] = -curvature_towards(
            conditional, clean, others, t, seeds("line")
        )
    followed = [made.trajectories[i] for i in chosen]
    for back in (1, 2, 3, 5):
        norms = torch.stack([f.noise_norms[-back] for f in followed if f is not None])
        found[f"|eps_c|^2 / N, {back} from last"] = -norms
    late = torch.stack([f.noise_norms[-5:].mean() for f in followed if f is not None])
    found["|eps_c|^2 / N, last five"] = -late
    found["|eps_c - eps_u| at the first step"] = -torch.stack(
        [f.differences[0] for f in followed if f is not None]
    )
    return {name: values.double().tolist() for name, values in found.items()}


def farther(clean: torch.Tensor, near: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The nearest sample in latents that is no duplicate; of all duplicates the farthest."""
    apart = torch.cdist(clean.flatten(1)[None], clean.flatten(1)[None])[0].numpy()
    rows = []
    for i in chosen:
        others = np.flatnonzero(~near[i] & (np.arange(len(near)) != i))
        rows.append(others[apart[i, others].argmin()] if len(others) else apart[i].argmax())
    return np.array(rows)


# --- judging ---------------------------------------------------------------------------------


def judged(rows: Sequence[Result], name: str) -> list[float]:
    """Spearman within captions with its interval, captions, and at once."""
    within = [rank(group, name) for group in by_caption(rows).values() if seen(group)]
    rng = np.random.default_rng(0)
    drawn = [np.mean(rng.choice(within, len(within))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return [float(np.mean(within)), float(low), float(high), len(within), rank(rows, name)]


def words(groups: Sequence[Sequence[Result]], *, samples: bool) -> dict[str, float]:
    """Balanced accuracy of the rule's words and the base rate, by sample or by caption.

    A caption is memorized where most of its duplicated samples are; its freedom is their mean.
    """
    pairs = [
        (row[RULE] <= MEMORIZED_UP_TO, row["distance"] <= 1) for group in groups for row in group
    ]
    if not samples:
        pairs = [
            (
                np.mean([row[RULE] for row in group]) <= MEMORIZED_UP_TO,
                np.mean([row["distance"] <= 1 for row in group]) > 0.5,
            )
            for group in groups
        ]
    counts = Counter((bool(said), bool(true)) for said, true in pairs)
    memorized, spurious = (sum(counts[said, true] for said in (True, False)) for true in (1, 0))
    right = [counts[True, True] / max(1, memorized), counts[False, False] / max(1, spurious)]
    return {
        "memorized": memorized,
        "spurious": spurious,
        "balanced accuracy": float(np.mean(right)),
        "of memorized": right[0],
        "of spurious": right[1],
        "base rate": max(memorized, spurious) / max(1, len(pairs)),
        "right": (counts[True, True] + counts[False, False]) / max(1, len(pairs)),
    }


def words_with_interval(rows: Sequence[Result], *, samples: bool) -> dict[str, float]:
    """`words`, and the middle 95% of the balanced accuracy with captions drawn again."""
    groups, rng = list(by_caption(rows).values()), np.random.default_rng(0)
    drawn = [
        words([groups[g] for g in rng.integers(len(groups), size=len(groups))], samples=samples)
        for _ in range(RESAMPLES)
    ]
    known = [d["balanced accuracy"] for d in drawn if min(d["memorized"], d["spurious"])]
    low, high = np.quantile(known, [0.025, 0.975])
    return {**words(groups, samples=samples), "low": float(low), "high": float(high)}


def text_alone(rows: Sequence[Result]) -> list[Result]:
    """Rows with the distance that the words of other captions tell, weighted by words shared."""
    groups = by_caption(rows)
    means = {text: float(np.mean([r["distance"] for r in group])) for text, group in groups.items()}
    told = {}
    for text in groups:
        others = [other for other in groups if other != text]
        shared = [3.0 ** len(set(text.split()) & set(other.split())) for other in others]
        told[text] = float(np.average([means[other] for other in others], weights=shared))
    return [{**row, "the caption's words alone": told[row["caption"]]} for row in rows]


def by_caption(rows: Sequence[Result]) -> dict[str, list[Result]]:
    """Rows of each caption."""
    groups: dict[str, list[Result]] = {}
    for row in rows:
        groups.setdefault(row["caption"], []).append(row)
    return groups


def seen(group: Sequence[Result]) -> bool:
    """Whether a caption has duplicated samples enough on both sides of delta_m."""
    copies = sum(row["distance"] <= 1 for row in group)
    return min(copies, len(group) - copies) >= LEAST


def rank(rows: Sequence[Result], name: str) -> float:
    """Spearman's correlation of a read-out and the distance to S."""
    return float(spearmanr([r[name] for r in rows], [r["distance"] for r in rows]).statistic)


# --- report ----------------------------------------------------------------------------------


def report(rows: Sequence[Result], table: TruthTable, *, judge: bool) -> str:
    """The result as Markdown."""
    rows = text_alone(rows)
    names = [n for n in rows[0] if n not in ("caption", "k", "distance", "duplicates")]
    told = sorted((judged(rows, name), name) for name in names if "alone" not in name)[::-1]
    lines = [
        "# Naming attractors without S: " + ("the rule, judged" if judge else "chosen on pocket"),
        "",
        f"{len(rows)} duplicated samples of {len(by_caption(rows))} captions, 16 seeds each, "
        f"guidance {table.guidance:g}, {table.steps} steps; weights {table.model_sha256[:12]}. "
        f"{NOISES} noises a level. Spearman's correlation of a read-out with the distance to S "
        f"over delta_m, within captions with at least {LEAST} samples on either side, mean and 95% "
        f"bootstrap over captions ({told[0][0][3]} of them); and of all samples at once, where the "
        f"words of the caption alone reach {rank(rows, names[-1]):.2f}.",
        "",
        "| read-out | within captions | at once |",
        "| --- | --- | ---: |",
    ]
    for (mean, low, high, _, once), name in told:
        shown = name.replace("|", "\\|")
        lines.append(f"| {shown} | {mean:.3f} ({low:.3f} to {high:.3f}) | {once:.3f} |")
    lines += [
        "",
        f"The rule: log of the spread at sigma / alpha {SPREAD_LEVEL:g} times the error at "
        f"{ERROR_LEVEL:g}, {2 * NOISES} evaluations; memorized up to {MEMORIZED_UP_TO:g}.",
        "",
        "| words | memorized | spurious | balanced accuracy | right of each | right | base rate |",
        "| --- | ---: | ---: | --- | --- | ---: | ---: |",
    ]
    for what, samples in (("by sample", True), ("by caption", False)):
        w = words_with_interval(rows, samples=samples)
        lines.append(
            f"| {what} | {w['memorized']} | {w['spurious']} | {w['balanced accuracy']:.2f} "
            f"({w['low']:.2f} to {w['high']:.2f}) "
            f"| {w['of memorized']:.0%}, {w['of spurious']:.0%} "
            f"| {w['right']:.0%} | {w['base rate']:.0%} |"
        )
    return "\n".join([*lines, "", f"{in_words(machine())}.", ""])


if __name__ == "__main__":
    main()
