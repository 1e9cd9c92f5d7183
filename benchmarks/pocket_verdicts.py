"""Does an audit of 16 seeds say what 256 samples show? All pocket captions, none dropped.

Each caption gets 16 seeds that nothing else uses, and thresholds from fresh pictures of captions of
the other fold. Verdicts and scores are compared with the truth table; every interval's coverage is
counted over 200 subsamples of the truth's own samples.

    python benchmarks/pocket_verdicts.py runs/pocket      # a folder that `pocket measure` finished
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from m2g_audit import states
from m2g_audit.attractors import RepeatSeedCheck, find_attractors, is_failed
from m2g_audit.intervals import LEVEL, Interval
from m2g_audit.numerics import seed_for
from m2g_audit.pipelines import TextToImage
from m2g_audit.pocket.captions import Caption, all_captions, trained_captions
from m2g_audit.pocket.reference import (
    TrainingPictures,
    load_index,
    nearest_training,
    seen_pictures,
)
from m2g_audit.pocket.truth import (
    DISTANCES_FILE,
    FRESH_FILE,
    SAMPLES,
    TRUTH_SEED,
    FreshDistances,
    sample,
)
from m2g_audit.pocket.truth_table import CaptionTruth, TruthTable, load_table
from m2g_audit.similarity import distances, load_metric, nearest
from m2g_audit.states import State, Thresholds, Verdict

SEEDS = 16
BENCHMARK_SEED = 16_000
SUBSAMPLES = 200
RESAMPLES = 2000
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Audited:
    """What 16 seeds of a caption showed."""

    caption: Caption
    truth: CaptionTruth
    with_reference: Verdict
    without_reference: Verdict
    scores: dict[str, float]


def main() -> None:
    """Writes results/pocket_verdicts.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `m2g-audit pocket measure` worked in")
    folder = parser.parse_args().folder
    table = load_table(folder / "truth.json")
    fresh = FreshDistances.load(folder / "samples" / FRESH_FILE, table.metric)
    pipeline = TextToImage.load(folder / "weights")
    audited = audit_all(pipeline, folder, table, fresh)
    covered = coverage(pipeline, folder, table)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pocket_verdicts.md").write_text(report(audited, covered, table))
    rows = [
        {
            "caption": a.caption.text,
            "k": a.caption.k,
            "truth": states.label(*_shares(a.truth)).value,
            "with_reference": a.with_reference.value,
            "without_reference": a.without_reference.value,
            **a.scores,
        }
        for a in audited
    ]
    (RESULTS / "pocket_verdicts.json").write_text(json.dumps(rows, indent=1) + "\n")
    print((RESULTS / "pocket_verdicts.md").read_text())


def audit_all(
    pipeline: TextToImage, folder: Path, table: TruthTable, fresh: FreshDistances
) -> list[Audited]:
    """One audit of each caption with 16 seeds and cross-fitted thresholds."""
    l2, tiled = load_metric("l2"), load_metric("tiled_l2")
    tiled_fresh = fresh_tiled(pipeline)
    pictures, index = TrainingPictures(pipeline), load_index(folder / "weights")
    truths = {row.caption: row for row in table.captions}
    trained = [caption.text for caption in trained_captions()]
    audited = []
    for caption in all_captions():
        others = other_fold(caption, trained)
        thresholds = fresh.thresholds(others)
        images = sample(pipeline, caption, BENCHMARK_SEED, SEEDS, folder / "samples")[0] / 255
        failed = is_failed(images)
        pairs = distances(l2, l2.embed(images), l2.embed(images))
        check = _check(pairs, thresholds, failed)
        to_training = np.array(nearest_training(l2, images, pictures, index)[0])
        verdicts = [
            judged(check, thresholds, failed, to_training)[0],
            judged(check, thresholds, failed, None)[0],
        ]
        tiled_pairs = distances(tiled, tiled.embed(images), tiled.embed(images))
        tiled_delta = states.low_quantile(tiled_fresh[others].ravel())
        tiled_check = find_attractors(tiled_pairs, tiled_delta, failed=failed)
        seeds = [seed_for(BENCHMARK_SEED, caption.text, i) for i in range(SEEDS)]
        gap = pipeline.noise_difference_at_first_step(caption.text, seeds)
        audited.append(
            Audited(
                caption,
                truths[caption.text],
                *verdicts,
                scores={
                    "share within delta_m of S": float((to_training <= thresholds.delta_m).mean()),
                    "duplicated share, l2": float(check.duplicated.mean()),
                    "duplicated share, tiled_l2": float(tiled_check.duplicated.mean()),
                    "median nearest-neighbour distance, l2": -float(np.median(check.nearest)),
                    "median nearest-neighbour distance, tiled_l2": -float(
                        np.median(tiled_check.nearest)
                    ),
                    "|eps_c - eps_u| at the first step": float(gap.mean()),
                    "K alone": -float(np.log(caption.k)) if caption.k else float("nan"),
                },
            )
        )
        print(f"{caption.text}: {audited[-1].with_reference.value}", flush=True)
    return audited


def fresh_tiled(pipeline: TextToImage, n: int = 64) -> np.ndarray:
    """Tiled nearest-neighbour distances among groups of 16 fresh pictures [captions, n]."""
    metric = load_metric("tiled_l2")
    rows = []
    for caption in trained_captions():
        embedded = metric.embed(seen_pictures(pipeline, caption, "fresh", range(n)))
        groups = [nearest(metric, g, g, exclude_self=True)[0][:, 0] for g in embedded.split(SEEDS)]
        rows.append(np.concatenate(groups))
    return np.stack(rows)


def other_fold(caption: Caption, trained: Sequence[str]) -> list[int]:
    """Numbers of the trained captions that are not in the fold of this caption."""
    # Untrained captions gave no threshold, so that any fold is another for them.
    fold = trained.index(caption.text) % 2 if caption.text in trained else 0
    return [i for i in range(len(trained)) if i % 2 != fold]


def _check(pairs: np.ndarray, thresholds: Thresholds, failed: np.ndarray) -> RepeatSeedCheck:
    assert thresholds.delta_s is not None
    return find_attractors(pairs, thresholds.delta_s, failed=failed)


def judged(
    check: RepeatSeedCheck,
    thresholds: Thresholds,
    failed: np.ndarray,
    to_training: np.ndarray | None,
    level: float = LEVEL,
) -> tuple[Verdict, list[State]]:
    """The verdict on a caption and the states of its samples; `to_training`: None hides S."""
    found = states.classify(
        to_training,
        check.nearest,
        thresholds,
        reference_complete=to_training is not None,
        failed=failed,
    )
    word, _ = states.verdict(
        found,
        undetected_mass=check.undetected_mass,
        has_reference=to_training is not None,
        reference_complete=to_training is not None,
        n_duplicates=check.n_duplicates.tolist(),
        level=level,
    )
    return word, found


def coverage(pipeline: TextToImage, folder: Path, table: TruthTable) -> dict[str, float]:
    """Share of (caption, subsample of 16) in which each interval holds its target, by name."""
    metric = load_metric(table.metric)
    with np.load(folder / "samples" / DISTANCES_FILE) as kept:
        to_training = kept["to_training"]
    rng = np.random.default_rng(0)
    hits: dict[str, list[bool]] = {}
    for row, caption in enumerate(all_captions()):
        images = sample(pipeline, caption, TRUTH_SEED, SAMPLES, folder / "samples")[0]
        embedded = metric.embed(images)
        pairs = distances(metric, embedded, embedded)
        _count_coverage(hits, pairs, to_training[row], table.thresholds, rng)
    return {name: float(np.mean(found)) for name, found in hits.items()}


def _count_coverage(
    hits: dict[str, list[bool]],
    pairs: np.ndarray,
    to_training: np.ndarray,
    thresholds: Thresholds,
    rng: np.random.Generator,
) -> None:
    delta_s = thresholds.delta_s
    assert delta_s is not None
    n = len(pairs)
    duplicate = (pairs <= delta_s) & ~np.eye(n, dtype=bool)
    picks = [rng.choice(n, SEEDS, replace=False) for _ in range(SUBSAMPLES)]
    found = []
    for pick in picks:
        check = find_attractors(pairs[np.ix_(pick, pick)], delta_s)
        given = states.classify(
            to_training[pick], check.nearest, thresholds, reference_complete=True
        )
        found.append((pick, check, given))
    expected = {
        state: float(np.mean([[g == state for g in given] for _, _, given in found]))
        for state in (State.MEMORIZED, State.SPURIOUS, State.GENERALIZED)
    }
    collision = duplicate.sum() / (n * (n - 1))

    def count(name: str, interval: Interval, target: float) -> None:
        inside = interval.low - 1e-12 <= target <= interval.high + 1e-12
        hits.setdefault(name, []).append(inside)

    for pick, check, given in found:
        shares = states.fractions(
            given,
            has_reference=True,
            reference_complete=True,
            n_duplicates=check.n_duplicates.tolist(),
        )
        together = all(
            shares[state].low - 1e-12 <= target <= shares[state].high + 1e-12
            for state, target in expected.items()
        )
        hits.setdefault("shares of the three states (together)", []).append(together)
        count("collision probability", check.collision, collision)
        rest = np.setdiff1d(np.arange(n), pick)
        new = 1 - duplicate[np.ix_(rest, pick)].any(axis=1).mean()
        count("chance of something unseen (Good-Turing)", check.unseen, float(new))
        if check.attractors:
            largest = check.attractors[0]
            medoid = pick[largest.medoid]
            mass = (duplicate[medoid].sum() + 1) / n
            count("mass of the largest attractor", largest.mass, float(mass))
        heaviest = (duplicate.sum(1).max() + 1) / n
        hits.setdefault("no attractor above the undetected mass, where none was found", [])
        if not check.attractors:
            name = "no attractor above the undetected mass, where none was found"
            hits[name].append(heaviest <= check.undetected_mass)


def auroc(positive: np.ndarray, score: np.ndarray) -> tuple[float, float, float]:
    """AUROC with its 95% interval: percentile bootstrap over captions, stratified by label."""
    known = np.isfinite(score)
    positive, score = positive[known], score[known]
    if positive.all() or not positive.any():
        return (float("nan"),) * 3
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(positive), np.flatnonzero(~positive)]
    drawn = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        drawn.append(roc_auc_score(positive[rows], score[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(roc_auc_score(positive, score)), float(low), float(high)


def _shares(truth: CaptionTruth) -> tuple[float, float, float]:
    return truth.truth.memorized, truth.truth.spurious, truth.truth.generalized


def report(audited: Sequence[Audited], covered: dict[str, float], table: TruthTable) -> str:
    """The result as Markdown."""
    lines = [
        "# Verdicts on pocket against its truth",
        "",
        f"{len(audited)} captions, {SEEDS} seeds each (run seed {BENCHMARK_SEED}), thresholds from "
        f"captions of the other fold; truth from {table.samples} other samples, guidance "
        f"{table.guidance:g}, {table.steps} steps. Weights {table.model_sha256[:12]}.",
        "",
    ]
    for title, chosen in (
        ("with the reference", lambda a: a.with_reference),
        ("without the reference", lambda a: a.without_reference),
    ):
        lines += _confusion(title, audited, chosen)
    lines += _aurocs(audited)
    lines += ["## Coverage of 95% intervals", ""]
    lines += [f"{SUBSAMPLES} subsamples of {SEEDS} from the truth's samples of each caption.", ""]
    lines += ["| interval | coverage |", "| --- | --- |"]
    lines += [f"| {name} | {share:.1%} |" for name, share in covered.items()]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Agreement:
    """Captions whose verdict is the truth's word, `attractor` for it, `undecided`, or another."""

    same: int
    wider: int
    undecided: int
    wrong: int


def agreement(pairs: Mapping[tuple[Verdict, Verdict], int]) -> Agreement:
    """How often verdicts agree with the truth, from the counts of (truth, verdict)."""
    duplicated = (Verdict.MEMORIZED, Verdict.SPURIOUS, Verdict.MIXED)
    found = Counter[str]()
    for (truth, said), count in pairs.items():
        if said == truth:
            found["same"] += count
        elif said == Verdict.ATTRACTOR and truth in duplicated:
            found["wider"] += count
        else:
            found["undecided" if said == Verdict.UNDECIDED else "wrong"] += count
    return Agreement(found["same"], found["wider"], found["undecided"], found["wrong"])


def _confusion(
    title: str, audited: Sequence[Audited], chosen: Callable[[Audited], Verdict]
) -> list[str]:
    pairs = Counter((states.label(*_shares(a.truth)), chosen(a)) for a in audited)
    truths = [v for v in Verdict if any(t == v for t, _ in pairs)]
    columns = list(Verdict)
    n, found = len(audited), agreement(pairs)
    rows = [
        f"| **{truth.value}** | " + " | ".join(str(pairs[truth, c]) for c in columns) + " |"
        for truth in truths
    ]
    return [
        f"## Verdict {title}",
        "",
        f"The truth's own word: {found.same} of {n} ({found.same / n:.1%}). `attractor`, the wider "
        f"word for memorized, spurious or mixed: {found.wider} "
        f"({(found.same + found.wider) / n:.1%} together). `undecided`: {found.undecided}. A word "
        f"that contradicts the truth: {found.wrong}.",
        "",
        "| truth \\ verdict | " + " | ".join(c.value for c in columns) + " |",
        "| --- |" + " --- |" * len(columns),
        *rows,
        "",
    ]


def _aurocs(audited: Sequence[Audited]) -> list[str]:
    duplicated = np.array([a.truth.truth.generalized < 0.5 for a in audited])
    memorized = np.array([a.truth.truth.memorized > 0.5 for a in audited])
    lines = [
        "## AUROC over captions",
        "",
        f"{duplicated.sum()} captions are duplicated (generalized share under one half), "
        f"{memorized.sum()} memorized. 95% intervals by a stratified bootstrap over captions.",
        "",
        "| score of 16 seeds | duplicated against generalized | memorized against the rest |",
        "| --- | --- | --- |",
    ]
    for name in audited[0].scores:
        score = np.array([a.scores[name] for a in audited])
        cells = [
            "{:.3f} ({:.3f} to {:.3f})".format(*auroc(label, score))
            for label in (duplicated, memorized)
        ]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
