"""Does an audit of 16 seeds, or of as many as it asks for, say what 256 samples show?

All pocket captions, none dropped. Each gets seeds that nothing else uses, and the thresholds that
an audit of pocket takes: the caption's own, from fresh pictures of it. Verdicts and scores are
compared with the truth table; every interval's coverage is counted over 200 subsamples of the
truth's own samples.

    python benchmarks/pocket_verdicts.py runs/pocket      # a folder that `pocket measure` finished
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.models.loading import load_model
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.pocket.captions import Caption, all_captions
from m2g_audit.pocket.training_pictures import TrainingPictures, load_index, nearest_training
from m2g_audit.pocket.truth import DISTANCES_FILE, SAMPLES, TRUTH_SEED, sample
from m2g_audit.pocket.truth_table import CaptionTruth, TruthTable, load_table
from m2g_audit.references.power import power_of
from m2g_audit.similarity import distances, load_metric
from m2g_audit.verdict.intervals import Interval
from m2g_audit.verdict.looks import AUTO, Look, looks
from m2g_audit.verdict.rule import Grounds, Judgement, Samples, Verdict, judge, label, read, settles
from m2g_audit.verdict.states import State
from m2g_audit.verdict.thresholds import Thresholds

SEEDS = 16
MOST_SEEDS = AUTO[-1].seeds
BENCHMARK_SEED = 16_000
SUBSAMPLES = 200
RESAMPLES = 2000
HARD = range(8, 49)
RESULTS = Path(__file__).parent / "results"

MODES = {
    "with the reference, 16 seeds": (True, False),
    "with the reference, --seeds auto": (True, True),
    "without it, 16 seeds": (False, False),
    "without it, --seeds auto": (False, True),
}
"""Whether S is known, and whether seeds are taken until the word is settled."""


@dataclass(frozen=True)
class Said:
    """What an audit said of a caption, after so many seeds."""

    word: Verdict
    seeds: int


@dataclass(frozen=True)
class Audited:
    """What audits of a caption said, by mode, and scores of its first 16 seeds."""

    caption: Caption
    truth: CaptionTruth
    said: dict[str, Said]
    scores: dict[str, float]

    @property
    def word(self) -> Verdict:
        """The truth's own word."""
        shares = self.truth.truth
        return label(shares.memorized, shares.spurious, shares.generalized)


def main() -> None:
    """Writes results/pocket_verdicts.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `m2g-audit pocket measure` worked in")
    folder = parser.parse_args().folder
    table = load_table(folder / "weights" / "truth.json")
    pipeline = load_model(folder / "weights")
    audited = audit_all(pipeline, folder, table)
    covered = coverage(pipeline, folder, table)
    (RESULTS / "pocket_verdicts.md").write_text(report(audited, covered, table))
    rows = [
        {
            "caption": a.caption.text,
            "k": a.caption.k,
            "truth": a.word.value,
            **{mode: [said.word.value, said.seeds] for mode, said in a.said.items()},
            **a.scores,
        }
        for a in audited
    ]
    (RESULTS / "pocket_verdicts.json").write_text(json.dumps(rows, indent=1) + "\n")
    print((RESULTS / "pocket_verdicts.md").read_text())


def audit_all(pipeline: TextToImage, folder: Path, table: TruthTable) -> list[Audited]:
    """The audits of every caption."""
    l2, tiled = load_metric("l2"), load_metric("tiled_l2")
    pictures, index = TrainingPictures(pipeline), load_index(folder / "weights")
    truths = {row.caption: row for row in table.captions}
    audited = []
    for caption in all_captions():
        row = truths[caption.text]
        images = sample(pipeline, caption, BENCHMARK_SEED, MOST_SEEDS, folder / "samples")[0] / 255
        pairs, tiled_pairs = (distances(m, m.embed(images), m.embed(images)) for m in (l2, tiled))
        to_training = np.array(nearest_training(l2, images, pictures, index)[0])
        seen = Samples(pairs, to_training, is_failed(images))
        thresholds = table.thresholds_of(row)
        power = power_of(table.plants, thresholds).suffices
        said = {
            mode: say(seen if known else hidden(seen), thresholds, known, auto, power)
            for mode, (known, auto) in MODES.items()
        }
        seeds = [seed_for(BENCHMARK_SEED, caption.text, i) for i in range(SEEDS)]
        gap = pipeline.noise_difference_at_first_step(caption.text, seeds)
        near, tiled_near = (nearest_of(p[:SEEDS, :SEEDS]) for p in (pairs, tiled_pairs))
        scores = {
            "share within delta_m of S": float(
                (to_training[:SEEDS] <= thresholds.delta_m).mean()  # type: ignore[operator]
            ),
            "duplicated share": float((near <= thresholds.delta_s).mean()),
            "median nearest-neighbour distance, l2": -float(np.median(near)),
            "median nearest-neighbour distance, tiled_l2": -float(np.median(tiled_near)),
            "|eps_c - eps_u| at the first step": float(gap.mean()),
            "K alone": -float(np.log(caption.k)) if caption.k else float("nan"),
        }
        audited.append(Audited(caption, row, said, scores))
        print(caption.text, {mode: s.word.value for mode, s in said.items()}, flush=True)
    return audited


def hidden(samples: Samples) -> Samples:
    """The same samples where S is not known."""
    return Samples(samples.pairs, None, samples.failed)


def say(samples: Samples, thresholds: Thresholds, complete: bool, auto: bool, power: bool) -> Said:
    """The word of an audit, at 16 seeds or at the look at which it is settled."""
    grounds = Grounds(reference_complete=complete, power=power)
    found: Judgement | None = None
    for look in looks(None if auto else SEEDS):
        found = judge(samples.first(look.seeds), thresholds, look, grounds)
        if settles(found, grounds):
            break
    assert found is not None
    return Said(found.word, look.seeds)


def nearest_of(pairs: np.ndarray) -> np.ndarray:
    """Distance of each sample to the nearest other one."""
    return np.where(np.eye(len(pairs), dtype=bool), np.inf, pairs).min(axis=1)


def coverage(pipeline: TextToImage, folder: Path, table: TruthTable) -> dict[str, float]:
    """Share of (caption, subsample of 16) in which each interval holds its target, by name."""
    metric = load_metric(table.metric)
    with np.load(folder / "samples" / DISTANCES_FILE) as kept:
        to_training = kept["to_training"]
    rng = np.random.default_rng(0)
    hits: dict[str, list[bool]] = {}
    for caption, row, known in zip(all_captions(), table.captions, to_training, strict=True):
        images = sample(pipeline, caption, TRUTH_SEED, SAMPLES, folder / "samples")[0]
        embedded = metric.embed(images)
        seen = Samples(distances(metric, embedded, embedded), known, is_failed(images / 255))
        _count_coverage(hits, seen, table.thresholds_of(row), row, rng)
    return {name: float(np.mean(found)) for name, found in hits.items()}


def _count_coverage(
    hits: dict[str, list[bool]],
    seen: Samples,
    thresholds: Thresholds,
    row: CaptionTruth,
    rng: np.random.Generator,
) -> None:
    n = len(seen.pairs)
    duplicate = (seen.pairs <= thresholds.delta_s) & ~np.eye(n, dtype=bool)
    targets = {state: getattr(row.truth, state.value) for state in _STATES}
    collision = duplicate.sum() / (n * (n - 1))

    def count(name: str, interval: Interval, target: float) -> None:
        inside = interval.low - 1e-12 <= target <= interval.high + 1e-12
        hits.setdefault(name, []).append(inside)

    for _ in range(SUBSAMPLES):
        pick = rng.choice(n, SEEDS, replace=False)
        assert seen.nearest_reference is not None
        part = Samples(
            seen.pairs[np.ix_(pick, pick)], seen.nearest_reference[pick], seen.failed[pick]
        )
        reading = read(part, thresholds, Look(SEEDS), reference_complete=True)
        check, shares = reading.check, reading.shares.intervals
        together = all(
            shares[state].low - 1e-12 <= target <= shares[state].high + 1e-12
            for state, target in targets.items()
        )
        hits.setdefault("shares of the three states (together)", []).append(together)
        count("collision probability", check.collision, collision)
        rest = np.setdiff1d(np.arange(n), pick)
        new = 1 - duplicate[np.ix_(rest, pick)].any(axis=1).mean()
        count("chance of something unseen (Good-Turing)", check.unseen, float(new))
        heaviest = (duplicate.sum(1).max() + 1) / n
        if check.attractors:
            largest = check.attractors[0]
            mass = (duplicate[pick[largest.medoid]].sum() + 1) / n
            count("mass of the largest attractor", largest.mass, float(mass))
        else:
            name = "no attractor above the undetected mass, where none was found"
            hits.setdefault(name, []).append(heaviest <= check.undetected_mass)


_STATES = (State.MEMORIZED, State.SPURIOUS, State.GENERALIZED)


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


@dataclass(frozen=True)
class Agreement:
    """Captions whose verdict is the truth's word, `attractor` for it, `undecided`, or another."""

    same: int
    wider: int
    undecided: int
    wrong: int

    @property
    def total(self) -> int:
        """How many captions."""
        return self.same + self.wider + self.undecided + self.wrong


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


def report(audited: Sequence[Audited], covered: dict[str, float], table: TruthTable) -> str:
    """The result as Markdown."""
    lines = [
        "# Verdicts on pocket against its truth",
        "",
        f"{len(audited)} captions (run seed {BENCHMARK_SEED}), thresholds of each caption's own "
        f"fresh pictures; truth from {table.samples} other samples, duplicates among 16, guidance "
        f"{table.guidance:g}, {table.steps} steps. Weights {table.model_sha256[:12]}. Wider: "
        "`attractor` for memorized, spurious or mixed. Hard: captions of K from 8 to 48.",
        "",
        "| audit | seeds a prompt | truth's word | wider | undecided | wrong "
        "| hard: truth's word |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for mode in MODES:
        all_of, hard = (
            agreement(Counter((a.word, a.said[mode].word) for a in group))
            for group in (audited, [a for a in audited if a.caption.k in HARD])
        )
        seeds = np.mean([a.said[mode].seeds for a in audited])
        lines.append(
            f"| {mode} | {seeds:.1f} | {all_of.same} of {all_of.total} "
            f"({all_of.same / all_of.total:.0%}) | {all_of.wider} | {all_of.undecided} "
            f"| {all_of.wrong} | {hard.same} of {hard.total} ({hard.same / hard.total:.0%}) |"
        )
    lines.append("")
    for mode in MODES:
        lines += _confusion(mode, audited)
    lines += _aurocs(audited)
    lines += ["## Coverage of 95% intervals", ""]
    lines += [f"{SUBSAMPLES} subsamples of {SEEDS} from the truth's samples of each caption.", ""]
    lines += ["| interval | coverage |", "| --- | --- |"]
    lines += [f"| {name} | {share:.1%} |" for name, share in covered.items()]
    return "\n".join(lines) + "\n"


def _confusion(mode: str, audited: Sequence[Audited]) -> list[str]:
    pairs = Counter((a.word, a.said[mode].word) for a in audited)
    truths = [v for v in Verdict if any(t == v for t, _ in pairs)]
    columns = list(Verdict)
    rows = [
        f"| **{truth.value}** | " + " | ".join(str(pairs[truth, c]) for c in columns) + " |"
        for truth in truths
    ]
    return [
        f"## {mode[0].upper()}{mode[1:]}",
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
