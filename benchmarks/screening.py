"""What does `--screen` save, and which findings does it miss, against the full audit of 16 seeds?

All captions of pocket, with thresholds from fresh pictures of captions of the other fold. Audited
are 16 seeds that nothing else uses (one audit a caption) and, for narrower intervals, the truth's
256 samples in groups of 16. A finding is a full audit that says memorized, spurious, attractor or
mixed; it is missed where the screened audit, its margins and levels included, says undecided or
generalized. Margins are those of `m2g_audit.screening`, and beside them those that another fold's
captions would choose: of a grid, the pair that saves most among those that miss at most 1% there.
Counted are pictures, which are most of an audit; spectra, which a screened-out prompt does not get
either, are left out.

    python benchmarks/screening.py runs/pocket      # a folder that `pocket measure` finished
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from m2g_audit.screening import looks
from pocket_verdicts import BENCHMARK_SEED, SEEDS, judged, other_fold
from resumable import Result, in_words, machine

from m2g_audit import states
from m2g_audit.attractors import find_attractors, is_failed
from m2g_audit.intervals import LEVEL, clopper_pearson
from m2g_audit.pipelines import TextToImage
from m2g_audit.pocket.captions import Caption, all_captions, trained_captions
from m2g_audit.pocket.reference import TrainingPictures, load_index, nearest_training
from m2g_audit.pocket.truth import (
    DISTANCES_FILE,
    FRESH_FILE,
    SAMPLES,
    TRUTH_SEED,
    FreshDistances,
    sample,
)
from m2g_audit.pocket.truth_table import load_table
from m2g_audit.runs import write_atomically
from m2g_audit.similarity import distances, load_metric
from m2g_audit.states import Thresholds, Verdict

FINDINGS = frozenset({Verdict.MEMORIZED, Verdict.SPURIOUS, Verdict.ATTRACTOR, Verdict.MIXED})
ALLOWED = 0.01
GRID = ((1.0, 1.25, 1.5, 1.75, 2.0, 2.5), (1.0, 1.25, 1.5, 1.75, 2.0, 2.5))
EARLY = tuple(look.seeds for look in looks(SEEDS)[:-1])
DEFAULT = tuple(look.margin or 0.0 for look in looks(SEEDS)[:-1])
RESULTS = Path(__file__).parent / "results"
NAME = "screening"

Margins = tuple[float, ...]


@dataclass(frozen=True)
class Audited:
    """One audit of 16 seeds.

    full, last: the words with and without the reference, of the full audit and of the last look of
    a screened one. near: at each early look, the smallest distance over its threshold, likewise.
    """

    caption: Caption
    fold: int
    truth: Verdict
    full: tuple[Verdict, Verdict]
    last: tuple[Verdict, Verdict]
    near: tuple[tuple[float, ...], tuple[float, ...]]

    def ends(self, way: int, margins: Margins) -> int:
        """After how many seeds a screened audit ends."""
        early = zip(EARLY, self.near[way], margins, strict=True)
        return next((seeds for seeds, near, margin in early if near > margin), SEEDS)

    def word(self, way: int, margins: Margins) -> Verdict:
        """What a screened audit says."""
        ended = self.ends(way, margins) < SEEDS
        return Verdict.UNDECIDED if ended else self.last[way]


def main() -> None:
    """Writes results/screening.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `m2g-audit pocket measure` worked in")
    folder = parser.parse_args().folder
    table = load_table(folder / "truth.json")
    pipeline = TextToImage.load(folder / "weights")
    new, grouped = audit_all(pipeline, folder)
    found = {
        way: {name: measure(audits, row) for name, audits in (("new", new), ("grouped", grouped))}
        for row, way in enumerate(("with the reference", "without"))
    }
    content = {
        "found": found,
        "margins": DEFAULT,
        "looks": EARLY,
        "findings": sorted(FINDINGS),
        "model": table.model_sha256,
        "machine": machine(),
    }
    write_atomically(RESULTS / f"{NAME}.json", f"{json.dumps(content, indent=1)}\n".encode())
    text = report(found, len(new), len(grouped), table.model_sha256)
    write_atomically(RESULTS / f"{NAME}.md", text.encode())
    print(text)


def audit_all(pipeline: TextToImage, folder: Path) -> tuple[list[Audited], list[Audited]]:
    """The audits of seeds that nothing else uses, and of the truth's samples in groups."""
    table = load_table(folder / "truth.json")
    fresh = FreshDistances.load(folder / "samples" / FRESH_FILE, table.metric)
    truths = {row.caption: row.truth for row in table.captions}
    with np.load(folder / "samples" / DISTANCES_FILE) as kept:
        to_training = kept["to_training"]
    metric = load_metric(table.metric)
    pictures, index = TrainingPictures(pipeline), load_index(folder / "weights")
    trained = [caption.text for caption in trained_captions()]
    new, grouped = [], []
    for row, caption in enumerate(all_captions()):
        shares = truths[caption.text]
        truth = states.label(shares.memorized, shares.spurious, shares.generalized)
        others = other_fold(caption, trained)
        thresholds = fresh.thresholds(others)
        fold = 1 - others[0] % 2
        for seed, n, into in ((BENCHMARK_SEED, SEEDS, new), (TRUTH_SEED, SAMPLES, grouped)):
            images = sample(pipeline, caption, seed, n, folder / "samples")[0] / 255
            embedded = metric.embed(images)
            pairs = distances(metric, embedded, embedded)
            if seed == TRUTH_SEED:
                matches = to_training[row]
            else:
                matches = np.array(nearest_training(metric, images, pictures, index)[0])
            failed = is_failed(images)
            for rows in np.split(np.arange(n), n // SEEDS):
                block = pairs[np.ix_(rows, rows)]
                into.append(
                    Audited(
                        caption,
                        fold,
                        truth,
                        _words(block, matches[rows], failed[rows], thresholds, LEVEL),
                        _words(
                            block, matches[rows], failed[rows], thresholds, looks(SEEDS)[-1].level
                        ),
                        _nearness(block, matches[rows], failed[rows], thresholds),
                    )
                )
    return new, grouped


def _words(
    pairs: np.ndarray, matches: np.ndarray, failed: np.ndarray, thresholds: Thresholds, level: float
) -> tuple[Verdict, Verdict]:
    delta_s = thresholds.delta_s
    assert delta_s is not None
    check = find_attractors(pairs, delta_s, failed=failed, level=level)
    with_s, _ = judged(check, thresholds, failed, matches, level)
    without, _ = judged(check, thresholds, failed, None, level)
    return with_s, without


def _nearness(
    pairs: np.ndarray, matches: np.ndarray, failed: np.ndarray, thresholds: Thresholds
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    apart = np.where(np.eye(len(pairs), dtype=bool), np.inf, pairs)
    among, with_s = [], []
    for n in EARLY:
        # Where a picture failed, nothing ends.
        among.append(0.0 if failed[:n].any() else float(apart[:n, :n].min()) / thresholds.delta_s)
        with_s.append(min(among[-1], float(matches[:n].min()) / thresholds.delta_m))
    return tuple(with_s), tuple(among)


# -- what it comes to


def measure(audits: Sequence[Audited], way: int) -> dict[str, dict[str, object]]:
    """What the margins of the program and those chosen on the other fold save and miss."""
    chosen = {fold: choose([a for a in audits if a.fold != fold], way) for fold in (0, 1)}
    ways: dict[str, Callable[[Audited], Margins]] = {
        "the program's margins": lambda a: DEFAULT,
        "margins of the other fold": lambda a: chosen[a.fold],
    }
    return {
        name: {
            "margins": [DEFAULT] if margins(audits[0]) == DEFAULT else list(chosen.values()),
            **count(audits, way, margins),
        }
        for name, margins in ways.items()
    }


def choose(audits: Sequence[Audited], way: int) -> Margins:
    """Of the grid, the margins that save most among those that miss at most 1% of findings."""
    found = [a for a in audits if a.full[way] in FINDINGS]

    def missed(margins: Margins) -> float:
        return float(np.mean([a.word(way, margins) not in FINDINGS for a in found]))

    def made(margins: Margins) -> int:
        return sum(a.ends(way, margins) for a in audits)

    possible = [margins for margins in product(*GRID) if missed(margins) <= ALLOWED]
    return min(possible, key=made)


def count(
    audits: Sequence[Audited], way: int, margins: Callable[[Audited], Margins]
) -> dict[str, object]:
    """What is missed, of the full audit's findings and of the truth's, and the pictures made."""
    found = [a for a in audits if a.full[way] in FINDINGS]
    missed = [a for a in found if a.word(way, margins(a)) not in FINDINGS]
    true = [a for a in audits if a.truth in FINDINGS]
    interval = clopper_pearson(len(missed), len(found))
    by_truth = {}
    for word in Verdict:
        of_word = [a for a in audits if a.truth is word]
        if of_word:
            ends = [a.ends(way, margins(a)) for a in of_word]
            by_truth[word.value] = {
                "audits": len(of_word),
                "pictures": float(np.mean(ends)),
                "ends": {n: ends.count(n) for n in (*EARLY, SEEDS)},
            }
    return {
        "findings": len(found),
        "missed": len(missed),
        "missed_share": [interval.estimate, interval.low, interval.high],
        "missed_captions": sorted({a.caption.text for a in missed}),
        "of_true": {
            "audits": len(true),
            "found_in_full": sum(a.full[way] in FINDINGS for a in true),
            "found_screened": sum(a.word(way, margins(a)) in FINDINGS for a in true),
        },
        "pictures": float(np.mean([a.ends(way, margins(a)) for a in audits])),
        "by_truth": by_truth,
    }


def report(found: dict[str, Result], new: int, grouped: int, model: str) -> str:
    """The results as Markdown."""
    early = " and ".join(map(str, EARLY))
    lines = [
        "# What screening saves and misses",
        "",
        f"94 captions of pocket, {SEEDS} seeds an audit, looks after {early}; thresholds from "
        f"captions of the other fold. New seeds: {new} audits, one a caption; grouped: {grouped:,} "
        "audits of the truth's samples. Margins of the program: "
        f"{' and '.join(f'{m:g}' for m in DEFAULT)} thresholds. Intervals: 95%, Clopper-Pearson "
        f"(of grouped audits as if all were of different captions). Weights {model[:12]}.",
        "",
        "| reference | seeds | margins | findings of the full audit | missed by screening "
        "| pictures of 16, mean | of generalized captions | of memorized ones |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for way, audits in found.items():
        for name, margins in audits.items():
            for whose, row in margins.items():
                share, low, high = row["missed_share"]
                values = " / ".join(" and ".join(f"{m:g}" for m in pair) for pair in row["margins"])
                made = {word: row["by_truth"][word] for word in ("generalized", "memorized")}
                lines.append(
                    f"| {way} | {name} | {whose} ({values}) | {row['findings']} | {row['missed']} "
                    f"({share:.1%}, {low:.1%} to {high:.1%}) | {row['pictures']:.1f} | "
                    f"{made['generalized']['pictures']:.1f} | {made['memorized']['pictures']:.1f} |"
                )
    lines += [
        "",
        "| reference | seeds | audits of captions not generalized | findings in full | "
        "screened | generalized captions that end after "
        + ", ".join(map(str, (*EARLY, SEEDS)))
        + " |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for way, audits in found.items():
        for name, margins in audits.items():
            row = margins["the program's margins"]
            true, ends = row["of_true"], row["by_truth"]["generalized"]
            shares = ", ".join(f"{n / ends['audits']:.0%}" for n in ends["ends"].values())
            lines.append(
                f"| {way} | {name} | {true['audits']} | {true['found_in_full']} | "
                f"{true['found_screened']} | {shares} |"
            )
    missed = {
        caption
        for audits in found.values()
        for margins in audits.values()
        for caption in margins["the program's margins"]["missed_captions"]
    }
    lines += [
        "",
        f"Captions with a missed finding, by the program's margins: {'; '.join(sorted(missed))}."
        if missed
        else "No finding was missed by the program's margins.",
        "",
        f"{in_words(machine())}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
