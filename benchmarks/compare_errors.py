"""How often does `m2g-audit compare` say that a prompt changed although nothing did?

Of each caption of pocket the truth has 256 samples. Two disjoint sets of them are two runs of a
model that did not change, so that a test with p <= 5% errs. Compared are Fisher's exact test of
duplicated seeds as if they did not depend on each other (the reference), the one at the sample size
that their dependence leaves (m2g_audit.review.compare), that of memorized seeds, and both together.
Then over lists of all captions, with Benjamini and Hochberg's procedure: how many lists have a
false change. The interval of the change should hold 0 in 95%. Power: of ten captions, drawn anew
for each list, the second run is another caption's. And in worlds of equally or unequally (1/rank)
likely pictures beside new ones, simulated: how often p is under 5% and under smaller limits.

    python benchmarks/compare_errors.py runs/pocket      # a folder that `pocket measure` finished

Writes results/compare_errors.{md,json}.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from resumable import in_words, machine
from scipy.stats import false_discovery_control
from torch import from_numpy

from m2g_audit.pictures.tensors import is_failed
from m2g_audit.pocket.captions import all_captions
from m2g_audit.pocket.truth import DISTANCES_FILE, TRUTH_SEED
from m2g_audit.pocket.truth_table import load_table
from m2g_audit.review.compare import Side, difference, fisher_exact, p_values
from m2g_audit.similarity import distances, load_metric
from m2g_audit.verdict.attractors import find_attractors
from m2g_audit.verdict.states import S_PRIME, duplicate_chances
from m2g_audit.verdict.thresholds import Thresholds

RESULTS = Path(__file__).parent / "results"
ALPHA = 0.05
SMALL = 0.001
CHANGED = 10
LIMITS = (0.05, 0.01, 0.001, 0.0001)
PICTURES = (1, 2, 3, 4, 8, 16, 30, 60, 120, 300)
NEW = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9)
DRAWS = 10_000
NAMES = ("duplicated, as if independent", "duplicated", "memorized", "both together")


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `m2g-audit pocket measure` worked in")
    parser.add_argument("--lists", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[8, 16, 32])
    options = parser.parse_args()
    results = {"machine": machine(), "lists": options.lists, "seeds": {}}
    for n in options.seeds:
        pairs = runs_without_a_change(options.folder, n, options.lists)
        results["seeds"][str(n)] = measure(pairs)
        print(n, {k: v for k, v in results["seeds"][str(n)].items() if k != "captions"}, flush=True)
    results["worlds"] = {str(n): worst_worlds(n) for n in options.seeds}
    (RESULTS / "compare_errors.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "compare_errors.md").write_text(report(results))


Pairs = dict[str, list[tuple[Side, Side]]]


def runs_without_a_change(folder: Path, n: int, lists: int) -> Pairs:
    """Two disjoint runs of n seeds, drawn `lists` times, by caption."""
    table = load_table(folder / "weights" / "truth.json")
    with np.load(folder / "samples" / DISTANCES_FILE) as kept:
        to_training = kept["to_training"]
    metric = load_metric(table.metric)
    found: Pairs = {}
    for caption, to_known in zip(all_captions(), to_training, strict=True):
        name = f"{caption.text.replace(' ', '-')}-{TRUTH_SEED}-{table.samples}.npz"
        with np.load(folder / "samples" / name) as kept:
            images = from_numpy(kept["images"]) / 255
        embedded = metric.embed(images)
        apart, failed = distances(metric, embedded, embedded), is_failed(images)
        thresholds = table.thresholds_for(caption.text)
        rng = np.random.default_rng([n, caption.k or 0, len(found)])
        drawn = (rng.permutation(table.samples)[: 2 * n].reshape(2, n) for _ in range(lists))
        found[caption.text] = [
            (
                side(thresholds, apart, to_known, failed, first),
                side(thresholds, apart, to_known, failed, second),
            )
            for first, second in drawn
        ]
    return found


def side(
    thresholds: Thresholds,
    apart: np.ndarray,
    to_known: np.ndarray,
    failed: np.ndarray,
    rows: np.ndarray,
) -> Side:
    """What a run of these samples says."""
    assert thresholds.delta_s is not None
    check = find_attractors(apart[np.ix_(rows, rows)], thresholds.delta_s, failed=failed[rows])
    chances = duplicate_chances(check.n_duplicates, check.n_valid)
    return Side(
        verdict="undecided",
        severity=1,
        seeds=check.n_valid,
        states={},
        memorized=int((to_known[rows][~failed[rows]] <= thresholds.delta_m).sum()),
        among=min(check.n_valid, S_PRIME),
        duplicated=float(chances.sum()),
        paired=float(chances[check.n_duplicates == 1].sum()),
    )


def tests(before: Side, after: Side) -> dict[str, float]:
    """The p of each test."""
    new = p_values(before, after)
    assert new.memorized is not None
    counts = (round(before.duplicated), before.seeds, round(after.duplicated), after.seeds)
    p = (fisher_exact(*counts), new.duplicated, new.memorized, new.both)
    return dict(zip(NAMES, p, strict=True))


def measure(pairs: Pairs) -> dict[str, Any]:
    """Shares of errors, by test; of prompts and of whole lists, and what is found of a change."""
    p = {caption: [tests(*pair) for pair in some] for caption, some in pairs.items()}
    captions, lists = list(pairs), len(next(iter(pairs.values())))
    rates = {
        name: {one: float(np.mean([t[name] <= ALPHA for t in p[one]])) for one in captions}
        for name in NAMES
    }
    held = [
        low <= 0 <= high
        for some in pairs.values()
        for low, high in (difference(before, after) for before, after in some)
    ]
    false_lists, found, false_found = defaultdict(int), defaultdict(int), defaultdict(int)
    rng = np.random.default_rng(0)
    for i in range(lists):
        changed = set(rng.choice(len(captions), CHANGED, replace=False).tolist())
        # Each of them takes the second run of the next one's caption.
        ring = dict(zip(changed, [*list(changed)[1:], *list(changed)[:1]], strict=True))
        moved = [
            tests(pairs[one][i][0], pairs[captions[ring[k]]][i][1]) if k in ring else p[one][i]
            for k, one in enumerate(captions)
        ]
        for name in NAMES:
            q = false_discovery_control([p[one][i][name] for one in captions])
            false_lists[name] += bool((q <= ALPHA).any())
            said = np.flatnonzero(false_discovery_control([t[name] for t in moved]) <= ALPHA)
            right = sum(int(k) in changed for k in said)
            found[name] += right / CHANGED
            false_found[name] += (len(said) - right) / max(1, len(said))
    return {
        "tests": {
            name: {
                "errors": float(np.mean(list(rates[name].values()))),
                "worst caption": max(rates[name], key=rates[name].__getitem__),
                "worst errors": max(rates[name].values()),
                "p under 0.001": float(
                    np.mean([t[name] <= SMALL for some in p.values() for t in some])
                ),
                "lists with a false change": false_lists[name] / lists,
                "changes found": found[name] / lists,
                "false among those found": false_found[name] / lists,
            }
            for name in NAMES
        },
        "interval holds 0": float(np.mean(held)),
        "captions": rates,
    }


def worst_worlds(n: int) -> dict[str, dict[str, float]]:
    """For each test the highest rate of p under each limit, over limit, of all worlds."""
    worst = {name: dict.fromkeys(map(str, LIMITS), 0.0) for name in NAMES[:2]}
    for pictures in PICTURES:
        for new in NEW:
            for equal in (True, False):
                rank = np.ones(pictures) if equal else np.arange(1, pictures + 1)
                mass = (1 - new) / rank / (1 / rank).sum()
                for name, rates in rates_in_world(n, mass).items():
                    for limit, rate in rates.items():
                        worst[name][limit] = max(worst[name][limit], rate)
    return worst


def rates_in_world(n: int, mass: np.ndarray) -> dict[str, dict[str, float]]:
    """Rates of p under each limit, over the limit, where pictures have these masses."""
    rng = np.random.default_rng(len(mass))
    left_over = max(0.0, 1 - float(mass.sum()))
    seen = rng.multinomial(n, [*mass, left_over], size=DRAWS)[:, :-1]
    duplicated, paired = (seen * (seen > 1)).sum(axis=1), 2 * (seen == 2).sum(axis=1)
    drawn = Counter(zip(duplicated.tolist(), paired.tolist(), strict=True))
    rates = {name: dict.fromkeys(map(str, LIMITS), 0.0) for name in NAMES[:2]}
    for (a, paired_a), times_a in drawn.items():
        for (b, paired_b), times_b in drawn.items():
            sides = (counted(n, a, paired_a), counted(n, b, paired_b))
            p = (fisher_exact(a, n, b, n), p_values(*sides).duplicated)
            for name, found in zip(NAMES, p, strict=False):
                for limit in LIMITS:
                    if found <= limit:
                        rates[name][str(limit)] += times_a * times_b / DRAWS**2 / limit
    return rates


@cache
def counted(n: int, duplicated: int, paired: int) -> Side:
    """What a run without a reference says."""
    return Side(
        verdict="undecided",
        severity=1,
        seeds=n,
        states={},
        memorized=None,
        among=n,
        duplicated=duplicated,
        paired=paired,
    )


def report(results: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# How often `compare` errs",
        "",
        f"{results['lists']} lists of pocket's 94 captions, each in two runs of disjoint samples "
        "of the same model. Errors: p <= 0.05 though nothing changed, over all captions and of the "
        "worst one; p under 0.001 likewise. Lists: with Benjamini and Hochberg's procedure at 5%, "
        "those with any change said. Found: of ten captions whose second run is another caption's "
        "(not all of which differ in their shares), and how many of those said are false.",
        "",
        "| seeds | Fisher's test of | errors | worst caption | p under 0.001 | lists | found "
        "| false |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for n, one in results["seeds"].items():
        for name, r in one["tests"].items():
            lines.append(
                f"| {n} | {name} | {r['errors']:.1%} | {r['worst errors']:.1%} | "
                f"{r['p under 0.001']:.3%} | {r['lists with a false change']:.1%} | "
                f"{r['changes found']:.0%} | {r['false among those found']:.1%} |"
            )
    held = ", ".join(
        f"{v['interval holds 0']:.1%} ({n} seeds)" for n, v in results["seeds"].items()
    )
    lines += ["", f"The interval of the change holds 0 in {held}; it should in at least 95%.", ""]
    lines += [
        f"In the worst of {2 * len(PICTURES) * len(NEW)} simulated worlds, how many times the "
        "limit's share has p under it:",
        "",
        f"| seeds | Fisher's test of | {' | '.join(f'p under {limit:g}' for limit in LIMITS)} |",
        f"| --- | --- |{' --- |' * len(LIMITS)}",
    ]
    for n, worst in results["worlds"].items():
        for name, rates in worst.items():
            lines.append(f"| {n} | {name} | {' | '.join(f'{r:.2g}' for r in rates.values())} |")
    lines.append("")
    return "\n".join([*lines, in_words(results["machine"]), ""])


if __name__ == "__main__":
    main()
