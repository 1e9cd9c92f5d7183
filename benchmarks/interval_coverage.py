"""Measure the coverage of every interval in m2g_audit.intervals, and of the candidates it beat.

    python benchmarks/interval_coverage.py            # a few minutes on one core
    python benchmarks/interval_coverage.py --reps 400 # a quick look

Writes benchmarks/results/interval_coverage.md. Multinomial coverage is exact (all outcomes are
enumerated) up to 64 samples; the rest is a seeded simulation.

A *world* is a list of attractor masses; what is left of mass 1 is a continuum, whose samples never
repeat. Two samples are duplicates if they come from the same attractor.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.stats import multinomial
from statsmodels.stats.proportion import multinomial_proportions_confint

from m2g_audit import intervals
from m2g_audit.intervals import Interval
from m2g_audit.states import State, Verdict, fractions, label, verdict

SIZES = (4, 8, 16, 32, 64, 128, 256)
RESULT = Path(__file__).parent / "results" / "interval_coverage.md"
EPS = 1e-9


# --- shares of independent samples: the candidates over the simplex ---------------------------


def bonferroni(counts: tuple[int, ...]) -> np.ndarray:
    names = [str(i) for i in range(len(counts))]
    found = intervals.share_intervals(dict(zip(names, counts, strict=True)))
    return np.array([[found[name].low, found[name].high] for name in names])


def sison_glaz(counts: tuple[int, ...]) -> np.ndarray:
    return multinomial_proportions_confint(list(counts), 0.05, "sison-glaz")


def goodman(counts: tuple[int, ...]) -> np.ndarray:
    return multinomial_proportions_confint(list(counts), 0.05, "goodman")


def simplex_points() -> np.ndarray:
    """Return shares p1 >= p2 >= p3 on a grid of 0.05, and points near the corners and edges."""
    grid = [
        (a / 20, b / 20, (20 - a - b) / 20)
        for a in range(21)
        for b in range(21 - a)
        if a >= b >= 20 - a - b
    ]
    near = [(0.99, 0.01, 0), (0.99, 0.005, 0.005), (0.97, 0.02, 0.01), (0.98, 0.02, 0)]
    return np.array(sorted({*grid, *near, (1 / 3, 1 / 3, 1 / 3)}, reverse=True))


def multinomial_coverage(
    method: Callable[[tuple[int, ...]], np.ndarray], n: int, points: np.ndarray, reps: int
) -> np.ndarray:
    """Return, for each point of the simplex, the chance that all three shares are covered."""
    cached = cache(method)

    def bounds(outcome: np.ndarray) -> np.ndarray:
        order = np.argsort(-outcome)
        result = np.empty((3, 2))
        result[order] = cached(tuple(int(x) for x in outcome[order]))
        return result

    rng = np.random.default_rng(0)
    covered = []
    for p in points:
        if n <= 64:
            outcomes = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
            weights = multinomial(n, p).pmf(outcomes)
            outcomes, weights = outcomes[weights > 1e-9], weights[weights > 1e-9]
        else:
            outcomes, weights = np.unique(rng.multinomial(n, p, reps), axis=0, return_counts=True)
            weights = weights / reps
        box = np.array([bounds(outcome) for outcome in outcomes])
        inside = ((box[:, :, 0] - EPS <= p) & (p <= box[:, :, 1] + EPS)).all(axis=1)
        covered.append(1 - weights[~inside].sum())
    return np.array(covered)


# --- worlds with attractors ------------------------------------------------------------------


def worlds() -> dict[str, np.ndarray]:
    result = {f"one of {p}": np.array([p]) for p in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)}
    for k in (1, 2, 3, 4, 8, 16, 25, 34, 64, 100, 300, 1000, 4000, 100_000):
        result[f"{k} equal"] = np.full(k, 1 / k)
    for k in (2, 8, 34, 100, 300, 1000):
        result[f"{k} equal share 0.5"] = np.full(k, 0.5 / k)
    zipf = 1 / np.arange(1, 2001)
    result["geometric 0.5"] = 0.5 ** np.arange(1, 40)
    result["geometric 0.8"] = 0.2 * 0.8 ** np.arange(100)
    result["zipf of 2000"] = zipf / zipf.sum()
    result["0.5 and 100 of 0.005"] = np.r_[0.5, np.full(100, 0.005)]
    result["0.3 and 50 of 0.008"] = np.r_[0.3, np.full(50, 0.008)]
    return result


@dataclass(frozen=True)
class Draws:
    """Groups of equal samples in each of many draws of n: sizes and masses, [reps, n], 0-padded."""

    sizes: np.ndarray
    masses: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, masses: np.ndarray, n: int, reps: int, rng: np.random.Generator) -> Draws:
        edges = np.cumsum(masses)
        if edges[-1] > 1 - EPS:  # no continuum: rounding must not make one
            edges[-1] = 1
        items = np.searchsorted(edges, rng.random((reps, n)), side="right")
        lone = items >= len(masses)
        items[lone] = len(masses) + np.arange(reps * n).reshape(reps, n)[lone]
        items.sort(axis=1)
        first = np.ones_like(items, dtype=bool)
        first[:, 1:] = items[:, 1:] != items[:, :-1]
        group = np.cumsum(first, axis=1) - 1
        sizes = np.zeros((reps, n), dtype=np.int64)
        np.add.at(sizes, (np.arange(reps)[:, None], group), 1)
        labels = np.full((reps, n), len(masses))
        rows, columns = np.nonzero(first)
        labels[rows, group[rows, columns]] = items[rows, columns]
        labels = np.minimum(labels, len(masses))
        return cls(sizes, np.r_[masses, 0.0][labels], labels)


def misses(
    method: Callable[..., Interval], keys: np.ndarray, truth: np.ndarray | float
) -> tuple[float, float, float]:
    """Return how often the truth lies below and above the interval, and the mean width."""
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    found = [method(*(int(x) for x in key)) for key in unique]
    low = np.array([x.low for x in found])[inverse.ravel()]
    high = np.array([x.high for x in found])[inverse.ravel()]
    return (
        float((truth < low - EPS).mean()),
        float((truth > high + EPS).mean()),
        float((high - low).mean()),
    )


def duplicated_share(masses: np.ndarray, n: int) -> float:
    """Return the expected share of duplicated samples among n."""
    return float((masses * (1 - (1 - masses) ** (n - 1))).sum())


def share_with_effect(duplicated: int, in_pairs: int, n: int) -> Interval:
    """Return the duplicated share's interval as `states.fractions` makes it."""
    copies = [1] * in_pairs + [2] * (duplicated - in_pairs) + [0] * (n - duplicated)
    states = [State.ATTRACTOR] * duplicated + [State.GENERALIZED] * (n - duplicated)
    return fractions(states, has_reference=False, n_duplicates=copies)[State.ATTRACTOR]


def world_coverage(masses: np.ndarray, n: int, reps: int) -> dict[str, tuple[float, float, float]]:
    """Return (misses below, misses above, mean width) of every interval in one world."""
    draws = Draws.of(masses, n, reps, np.random.default_rng(n))
    sizes, size = draws.sizes, np.full(reps, n)
    single, pairs = (sizes == 1).sum(1), (sizes == 2).sum(1)
    largest = sizes.argmax(1)
    top, top_mass = sizes.max(1), draws.masses[np.arange(reps), largest]
    repeats = top >= 2  # where nothing repeats, no attractor is reported and none can be missed

    def chosen(method: Callable[..., Interval]) -> tuple[float, float, float]:
        if not repeats.any():
            return 0.0, 0.0, 0.0
        below, above, width = misses(method, np.c_[top[repeats], size[repeats]], top_mass[repeats])
        return below * repeats.mean(), above * repeats.mean(), width

    share = duplicated_share(masses, n)
    unseen = 1 - draws.masses.sum(1)
    return {
        "duplicated share, as if independent": misses(
            intervals.clopper_pearson, np.c_[n - single, size], share
        ),
        "**duplicated share, pairs allowed for**": misses(
            share_with_effect, np.c_[n - single, 2 * pairs, size], share
        ),
        "largest mass, Clopper-Pearson alone": chosen(intervals.clopper_pearson),
        "largest mass, Bonferroni over n/2 clusters": chosen(
            lambda k, m: intervals.clopper_pearson(k, m, 1 - 0.05 / (m // 2))
        ),
        "**largest mass, mass-weighted union bound**": chosen(intervals.attractor_mass),
        "unseen, Esty's normal interval": misses(esty, np.c_[single, pairs, size], unseen),
        "unseen, McAllester-Schapire": misses(
            mcallester_schapire, np.c_[single, pairs, size], unseen
        ),
        "**unseen, Clopper-Pearson at Esty's variance**": misses(
            intervals.unseen_mass, np.c_[single, pairs, size], unseen
        ),
        "collisions, Hoeffding for U-statistics": misses(
            hoeffding, np.c_[(sizes * (sizes - 1) // 2).sum(1), size], float((masses**2).sum())
        ),
        "**collisions, one attractor**": misses(
            intervals.collision_probability,
            np.c_[(sizes * (sizes - 1) // 2).sum(1), size],
            float((masses**2).sum()),
        ),
    }


def esty(singletons: int, pairs: int, n: int) -> Interval:
    half = 1.96 * math.sqrt(singletons * (1 - singletons / n) + 2 * pairs) / n
    estimate = singletons / n
    return Interval(estimate, max(0.0, estimate - half), min(1.0, estimate + half), 0.95, "esty")


def mcallester_schapire(singletons: int, pairs: int, n: int) -> Interval:
    """McAllester and Schapire (2000), Theorem 1: an upper bound only."""
    half = (2 * math.sqrt(2) + math.sqrt(3)) * math.sqrt(math.log(3 / 0.05) / n)
    estimate = singletons / n
    return Interval(estimate, 0.0, min(1.0, estimate + half), 0.95, "mcallester-schapire")


def hoeffding(duplicate_pairs: int, n: int) -> Interval:
    half = math.sqrt(math.log(2 / 0.05) / (2 * (n // 2)))
    estimate = duplicate_pairs / (n * (n - 1) / 2)
    return Interval(estimate, max(0.0, estimate - half), min(1.0, estimate + half), 0.95, "u")


# --- the three shares and the verdict, with a complete reference -------------------------------


def three_state_worlds() -> dict[str, tuple[np.ndarray, int]]:
    """Return attractor masses with how many of them, from the first, are training pictures."""
    result = {}
    shares = (0.0, 0.1, 0.3, 0.45, 0.6, 0.75, 0.95)
    for memorized, spurious in itertools.product(shares, repeat=2):
        if memorized + spurious > 1 + EPS:
            continue
        for k in (1, 8, 100):
            masses = np.r_[np.full(4, memorized / 4), np.full(k, spurious / k)]
            result[f"memorized {memorized}, spurious {spurious} in {k}"] = (masses, 4)
    return result


@cache
def judge(n: int, hits: int, pairs: int, more: int) -> tuple[Verdict, dict[State, Interval]]:
    """Return the verdict on n samples: memorized, spurious as lone pairs, other spurious ones."""
    states = [State.MEMORIZED] * hits + [State.SPURIOUS] * (pairs + more)
    states += [State.GENERALIZED] * (n - len(states))
    copies = [0] * hits + [1] * pairs + [2] * more + [0] * (n - hits - pairs - more)
    return verdict(
        states,
        undetected_mass=intervals.undetected_mass(n),
        has_reference=True,
        reference_complete=True,
        n_duplicates=copies,
    )


def verdict_coverage(
    masses: np.ndarray, trained: int, n: int, reps: int
) -> tuple[float, dict[Verdict, float], Verdict]:
    """Return simultaneous coverage of the shares, how often each word comes, and the truth."""
    draws = Draws.of(masses, n, reps, np.random.default_rng(n))
    p = masses[trained:]
    memorized = float(masses[:trained].sum())
    spurious = float((p * (1 - (1 - p) ** (n - 1))).sum())
    truth = {
        State.MEMORIZED: memorized,
        State.SPURIOUS: spurious,
        State.GENERALIZED: 1 - memorized - spurious,
    }
    in_s = (draws.labels < trained) & (draws.sizes > 0)
    hits = (draws.sizes * in_s).sum(1)
    pairs = 2 * ((draws.sizes == 2) & ~in_s).sum(1)
    more = (draws.sizes * ((draws.sizes > 2) & ~in_s)).sum(1)
    keys, inverse = np.unique(np.c_[hits, pairs, more], axis=0, return_inverse=True)
    chance = np.bincount(inverse.ravel()) / reps
    found = [judge(n, *(int(x) for x in key)) for key in keys]
    words = {w: sum(c for c, (v, _) in zip(chance, found, strict=True) if v == w) for w in Verdict}
    covered = sum(
        c
        for c, (_, box) in zip(chance, found, strict=True)
        if all(box[s].low - EPS <= v <= box[s].high + EPS for s, v in truth.items())
    )
    shares = [max(0.0, truth[s]) for s in (State.MEMORIZED, State.SPURIOUS, State.GENERALIZED)]
    return covered, words, label(*shares)


# --- report ----------------------------------------------------------------------------------


def percent(x: float) -> str:
    return f"{100 * x:.1f}"


def report(reps: int) -> str:
    error = math.sqrt(0.95 * 0.05 / reps)
    lines = [
        "# Coverage of the intervals",
        "",
        f"`python benchmarks/interval_coverage.py --reps {reps}`. Nominal 95%. Simulated figures "
        f"have a standard error of {100 * error:.2f} points at 95%, and each minimum is the "
        "smallest of many, so it reads up to three of them too low. Methods in bold are used.",
        "",
        *multinomial_section(reps),
        *world_section(reps),
        *verdict_section(reps),
    ]
    return "\n".join(lines) + "\n"


def multinomial_section(reps: int) -> list[str]:
    points = simplex_points()
    methods = {
        "Sison-Glaz": sison_glaz,
        "Goodman": goodman,
        "**Clopper-Pearson, Bonferroni**": bonferroni,
    }
    lines = [
        "## Three shares of independent samples, at once",
        "",
        f"Smallest (and mean) coverage in percent over {len(points)} points of the simplex with "
        "its corners and edges; exact up to n = 64.",
        "",
        "| n | " + " | ".join(methods) + " |",
        "| ---: |" + " ---: |" * len(methods),
    ]
    for n in SIZES:
        cells = []
        for method in methods.values():
            coverage = multinomial_coverage(method, n, points, reps)
            cells.append(f"{percent(coverage.min())} ({percent(coverage.mean())})")
        lines.append(f"| {n} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def world_section(reps: int) -> list[str]:
    all_worlds = worlds()
    lines = [
        "## Shares of duplicates, masses, unseen mass, collisions",
        "",
        f"Over {len(all_worlds)} worlds: smallest coverage in percent, the world that has it with "
        "its misses (truth below / above the interval), and mean width. The truth is: the expected "
        "share of duplicated samples among n; the mass of the attractor hit most often; the mass "
        "of what was not seen; the sum of squared masses. The largest mass counts as missed only "
        "in draws in which something repeats: given a pair from a world of thousands of tiny "
        "attractors, no lower bound above zero is right.",
        "",
        "| n | interval | smallest coverage | world | below / above | mean width |",
        "| ---: | --- | ---: | --- | ---: | ---: |",
    ]
    for n in SIZES:
        rows: dict[str, list[tuple[float, str, float, float, float]]] = {}
        for name, masses in all_worlds.items():
            for method, (below, above, width) in world_coverage(masses, n, reps).items():
                rows.setdefault(method, []).append((1 - below - above, name, below, above, width))
        for method, found in rows.items():
            coverage, name, below, above, _ = min(found)
            width = float(np.mean([row[4] for row in found]))
            lines.append(
                f"| {n} | {method} | {percent(coverage)} | {name} "
                f"| {percent(below)} / {percent(above)} | {width:.2f} |"
            )
    return [*lines, ""]


def verdict_section(reps: int) -> list[str]:
    all_worlds = three_state_worlds()
    lines = [
        "## Shares of the three states with a complete reference, and the verdict",
        "",
        f"Over {len(all_worlds)} worlds with four memorized pictures, k equal spurious attractors "
        "and a continuum. A wrong word is `memorized`, `spurious`, `generalized` or `mixed` where "
        "the expected shares give another; the largest chance of one in any world. Definite: mean "
        "share of draws that give one of those words.",
        "",
        "| n | smallest coverage | mean coverage | largest chance of a wrong word | definite |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for n in SIZES:
        coverage, wrong, definite = [], [], []
        for masses, trained in all_worlds.values():
            covered, words, truth = verdict_coverage(masses, trained, n, reps)
            vague = words[Verdict.UNDECIDED] + words[Verdict.ATTRACTOR]
            coverage.append(covered)
            definite.append(1 - vague)
            wrong.append(1 - vague - (words[truth] if truth != Verdict.ATTRACTOR else 0))
        lines.append(
            f"| {n} | {percent(min(coverage))} | {percent(float(np.mean(coverage)))} "
            f"| {percent(max(wrong))} | {percent(float(np.mean(definite)))} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reps", type=int, default=4000)
    text = report(parser.parse_args().reps)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(text)
    print(text)
