"""Measure the coverage of every interval in m2g_audit.verdict.intervals, and of candidates it beat.

    python benchmarks/interval_coverage.py            # a few minutes on one core
    python benchmarks/interval_coverage.py --reps 400 # a quick look

Writes benchmarks/results/interval_coverage.md. Multinomial coverage is exact (all outcomes are
enumerated); the rest is a seeded simulation.

A *world* is a list of attractor masses; what is left of mass 1 is a continuum, whose samples never
repeat. Two samples are duplicates if they come from the same attractor. Shares are those among
|S'| = 16, however many samples there are.
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
from scipy.special import betaincinv
from scipy.stats import multinomial
from statsmodels.stats.proportion import multinomial_proportions_confint

from m2g_audit.verdict import intervals
from m2g_audit.verdict.intervals import Interval
from m2g_audit.verdict.looks import AUTO, Look
from m2g_audit.verdict.rule import UNDETECTED_LIMIT, Verdict, decide, label
from m2g_audit.verdict.shares import Shares, find_shares
from m2g_audit.verdict.states import S_PRIME, State

SIZES = (4, 8, 16, 32, 64)
RESULT = Path(__file__).parent / "results" / "interval_coverage.md"
EPS = 1e-9
TOLD_APART = (State.MEMORIZED, State.SPURIOUS, State.GENERALIZED)
ONE_ATTRACTOR = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6, 0.75, 0.95)
VAGUE = (Verdict.UNDECIDED, Verdict.ATTRACTOR)


# --- shares of independent samples: the candidates over the simplex ---------------------------


def bonferroni(counts: tuple[int, ...]) -> np.ndarray:
    names = [str(i) for i in range(len(counts))]
    found = intervals.share_intervals(dict(zip(names, counts, strict=True)))
    return np.array([[found[name].low, found[name].high] for name in names])


def half_way(counts: tuple[int, ...]) -> np.ndarray:
    """Return the intervals of shares.find_shares, which takes two of three shares of `counts`."""
    states = [State.MEMORIZED] * counts[0] + [State.SPURIOUS] * counts[1]
    states += [State.GENERALIZED] * counts[2]
    found = find_shares(states, has_reference=True, reference_complete=True).intervals
    return np.array([[found[state].low, found[state].high] for state in TOLD_APART])


def jeffreys(counts: tuple[int, ...]) -> np.ndarray:
    x, n, tail = np.array(counts), sum(counts), 0.05 / 6
    low = np.where(x > 0, betaincinv(x + 0.5, n - x + 0.5, tail), 0.0)
    return np.c_[low, np.where(x < n, betaincinv(x + 0.5, n - x + 0.5, 1 - tail), 1.0)]


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
    method: Callable[[tuple[int, ...]], np.ndarray], n: int, points: np.ndarray
) -> np.ndarray:
    """Return, for each point of the simplex, the chance that all three shares are covered."""
    cached = cache(method)

    def bounds(outcome: np.ndarray) -> np.ndarray:
        order = np.argsort(-outcome)
        result = np.empty((3, 2))
        result[order] = cached(tuple(int(x) for x in outcome[order]))
        return result

    covered = []
    for p in points:
        counts = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
        weights = multinomial(n, p).pmf(counts)
        counts, weights = counts[weights > 1e-9], weights[weights > 1e-9]
        box = np.array([bounds(outcome) for outcome in counts])
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


def draw(masses: np.ndarray, n: int, reps: int, rng: np.random.Generator) -> np.ndarray:
    """Return [reps, n] the attractor of each sample, or a number that no other sample has."""
    edges = np.cumsum(masses)
    if edges[-1] > 1 - EPS:  # no continuum: rounding must not make one
        edges[-1] = 1
    items = np.searchsorted(edges, rng.random((reps, n)), side="right")
    lone = items >= len(masses)
    items[lone] = len(masses) + np.arange(reps * n).reshape(reps, n)[lone]
    return items


@dataclass(frozen=True)
class Draws:
    """Groups of equal samples in each of many draws of n: sizes and masses, [reps, n], 0-padded."""

    sizes: np.ndarray
    masses: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, masses: np.ndarray, n: int, reps: int, rng: np.random.Generator) -> Draws:
        return cls.group(masses, draw(masses, n, reps, rng))

    @classmethod
    def group(cls, masses: np.ndarray, items: np.ndarray) -> Draws:
        reps, n = items.shape
        items = np.sort(items, axis=1)
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


def duplicated_share(masses: np.ndarray, size: int = S_PRIME) -> float:
    """Return the expected share of duplicated samples among `size`."""
    return float((masses * (1 - (1 - masses) ** (size - 1))).sum())


def repeats(*sizes: int) -> tuple[list[State], list[int]]:
    """Return states and numbers of duplicates of samples in groups of these sizes, 0 for none."""
    copies = [size - 1 for size in sizes for _ in range(size)]
    return [State.ATTRACTOR if k else State.GENERALIZED for k in copies], copies


def share_with_effect(*sizes: int) -> Interval:
    states, copies = repeats(*sizes)
    found = find_shares(states, has_reference=False, n_duplicates=copies, size=S_PRIME)
    return found.intervals[State.ATTRACTOR]


def share_as_if_independent(*sizes: int) -> Interval:
    n = sum(sizes)
    return intervals.clopper_pearson(share_with_effect(*sizes).estimate * n, n)


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

    share, groups = duplicated_share(masses), -np.sort(-sizes, axis=1)
    unseen = 1 - draws.masses.sum(1)
    return {
        "duplicated share, as if independent": misses(share_as_if_independent, groups, share),
        "**duplicated share, pairs allowed for**": misses(share_with_effect, groups, share),
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


def critical_worlds() -> dict[str, tuple[np.ndarray, int]]:
    """Return worlds whose new or duplicated share among |S'| is near one half."""
    result = {}
    for k in (16, 22, 30):
        result[f"{k} equal"] = (np.full(k, 1 / k), 0)
        for memorized in (0.1, 0.3, 0.45):
            own = np.full(4, memorized / 4)
            result[f"memorized {memorized}, the rest in {k}"] = (
                np.r_[own, np.full(k, (1 - memorized) / k)],
                4,
            )
            result[f"memorized {memorized}, spurious 0.5 in {k}"] = (
                np.r_[own, np.full(k, 0.5 / k)],
                4,
            )
    return result


def true_shares(masses: np.ndarray, trained: int, size: int = S_PRIME) -> dict[State, float]:
    memorized, spurious = float(masses[:trained].sum()), duplicated_share(masses[trained:], size)
    return {
        State.MEMORIZED: memorized,
        State.SPURIOUS: spurious,
        State.GENERALIZED: max(0.0, 1 - memorized - spurious),
    }


def outcomes(masses: np.ndarray, trained: int, items: np.ndarray) -> np.ndarray:
    """Return, for each draw, the hits of training pictures and the sizes of all other groups."""
    draws = Draws.group(masses, items)
    own = (draws.labels < trained) & (draws.sizes > 0)
    others = np.where(own, 0, draws.sizes)
    return np.c_[(draws.sizes * own).sum(1), -np.sort(-others, axis=1)]


def states_of(outcome: tuple[int, ...]) -> tuple[list[State], list[int]]:
    hits, *sizes = outcome
    states, copies = repeats(*sizes)
    own = [State.SPURIOUS if state is State.ATTRACTOR else state for state in states]
    return [State.MEMORIZED] * hits + own, [0] * hits + copies


@dataclass(frozen=True)
class Answer:
    """What one outcome leads to: the printed intervals, in the order of TOLD_APART, and a word."""

    box: np.ndarray
    word: Verdict


Method = Callable[[tuple[int, ...], Look], Answer]


@cache
def used(outcome: tuple[int, ...], look: Look) -> Answer:
    """Return the answer of the audit."""
    states, copies = states_of(outcome)
    shares = find_shares(
        states,
        has_reference=True,
        reference_complete=True,
        n_duplicates=copies,
        size=S_PRIME,
        level=look.level,
        alpha=look.word,
    )
    return answer(shares, look)


@cache
def before(outcome: tuple[int, ...], look: Look) -> Answer:
    """Return the answer of version 2: of shares among n, by the printed intervals."""
    states, copies = states_of(outcome)
    n, duplicated = len(states), [k for k in copies if k]
    effect = 1 + sum(k == 1 for k in duplicated) / len(duplicated) if duplicated else 2.0
    found = {}
    for state in TOLD_APART:
        of = 1.0 if state is State.MEMORIZED else effect
        found[state] = intervals.clopper_pearson(states.count(state) / of, n / of, 1 - 0.05 / 3)
    low, high = ({s: getattr(x, end) for s, x in found.items()} for end in ("low", "high"))
    return answer(Shares(found, low, high), look)


def answer(shares: Shares, look: Look) -> Answer:
    word = decide(shares, told_apart=True)
    missed = intervals.undetected_mass(look.seeds, 1 - look.mass)
    if word is Verdict.GENERALIZED and missed > UNDETECTED_LIMIT:
        word = Verdict.UNDECIDED
    box = np.array([[shares.intervals[s].low, shares.intervals[s].high] for s in TOLD_APART])
    return Answer(box, word)


@dataclass(frozen=True)
class Row:
    """Of one world: how often all shares are covered, a word is wrong, or definite; mean width."""

    covered: float
    wrong: float
    definite: float
    width: float


def world_row(truth: dict[State, float], answers: list[Answer]) -> Row:
    right = label(*truth.values())
    values = np.array(list(truth.values()))
    boxes = np.array([x.box for x in answers])
    inside = (boxes[:, :, 0] <= values + EPS) & (values <= boxes[:, :, 1] + EPS)
    return Row(
        covered=float(inside.all(axis=1).mean()),
        wrong=float(np.mean([is_wrong(x.word, right) for x in answers])),
        definite=float(np.mean([x.word not in VAGUE for x in answers])),
        width=float(np.mean(boxes[:, :, 1] - boxes[:, :, 0])),
    )


def is_wrong(word: Verdict, right: Verdict) -> bool:
    """Whether a word says what is not so; `attractor` says that new pictures do not prevail."""
    if word is Verdict.ATTRACTOR:
        return right is Verdict.GENERALIZED
    return word is not Verdict.UNDECIDED and word is not right


def verdict_coverage(
    masses: np.ndarray, trained: int, n: int, reps: int, method: Method = used
) -> Row:
    """Return what `method` makes of one world at a fixed n."""
    items = draw(masses, n, reps, np.random.default_rng(n))
    found = [
        method(tuple(map(int, outcome)), Look(n)) for outcome in outcomes(masses, trained, items)
    ]
    # What was meant before were shares among n.
    return world_row(true_shares(masses, trained, n if method is before else S_PRIME), found)


def one_attractor_coverage(n: int) -> dict[str, float]:
    """Return the exact coverage of the three shares in worlds with one spurious attractor."""
    counts = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
    boxes = np.array([used((a, b, *[1] * c), Look(n)).box for a, b, c in counts.tolist()])
    found = {}
    for memorized, spurious in itertools.product(ONE_ATTRACTOR, repeat=2):
        if memorized + spurious > 1 + EPS:
            continue
        masses = np.array([memorized, spurious])
        truth = np.array(list(true_shares(masses, 1).values()))
        inside = (boxes[:, :, 0] <= truth + EPS) & (truth <= boxes[:, :, 1] + EPS)
        chance = multinomial(n, [*masses, max(0.0, 1 - masses.sum())]).pmf(counts)
        name = f"memorized {memorized}, spurious {spurious} in 1"
        found[name] = float(chance[inside.all(axis=1)].sum())
    return found


def auto_coverage(masses: np.ndarray, trained: int, reps: int) -> tuple[Row, float, float]:
    """Return what `--seeds auto` makes of one world, the mean of seeds, and how often it misses.

    Missed is an attractor of more mass than the bound of the look at which a prompt ends that was
    hit fewer than twice.
    """
    items = draw(masses, AUTO[-1].seeds, reps, np.random.default_rng(1))
    open_, answers, seeds, missed = np.arange(reps), [], 0, 0
    for look in AUTO:
        seen = items[open_, : look.seeds]
        found = [
            used(tuple(map(int, outcome)), look) for outcome in outcomes(masses, trained, seen)
        ]
        last = look is AUTO[-1]
        ends = np.array([last or x.word not in VAGUE for x in found], dtype=bool)
        answers += [x for x, end in zip(found, ends, strict=True) if end]
        seeds += look.seeds * int(ends.sum())
        bound = intervals.undetected_mass(look.seeds, 1 - look.mass)
        heavy = np.flatnonzero(masses > bound + EPS)
        hits = (seen[ends][:, :, None] == heavy).sum(axis=1)
        missed += int((hits < 2).any(axis=1).sum())
        open_ = open_[~ends]
    return world_row(true_shares(masses, trained), answers), seeds / reps, missed / reps


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
        *multinomial_section(),
        *world_section(reps),
        *verdict_section(reps),
    ]
    return "\n".join(lines) + "\n"


def multinomial_section() -> list[str]:
    points = simplex_points()
    methods = {
        "Sison-Glaz": sison_glaz,
        "Goodman": goodman,
        "Jeffreys, Bonferroni": jeffreys,
        "Clopper-Pearson, Bonferroni": bonferroni,
        "**half-way between the two**": half_way,
    }
    lines = [
        "## Three shares of independent samples, at once",
        "",
        f"Smallest (and mean) coverage in percent over {len(points)} points of the simplex with "
        "its corners and edges; exact.",
        "",
        "| n | " + " | ".join(methods) + " |",
        "| ---: |" + " ---: |" * len(methods),
    ]
    for n in SIZES:
        cells = []
        for method in methods.values():
            coverage = multinomial_coverage(method, n, points)
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
        "share of duplicated samples among |S'| = 16; the mass of the attractor hit most often; "
        "the mass of what was not seen; the sum of squared masses. The largest counts as missed "
        "only in draws in which something repeats: given a pair from a world of thousands of tiny "
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
    usual, critical = three_state_worlds(), critical_worlds()
    lines = [
        "## Shares of the three states with a complete reference, and the verdict",
        "",
        f"Over {len(usual)} worlds with four memorized pictures, k equal spurious attractors and a "
        f"continuum, and {len(critical)} with k = 16, 22, 30 around the half. The truth is the "
        "expected shares among |S'| = 16; before, those among n were meant, and that row is held "
        "to those, which fewer than 16 samples tell more easily. A wrong word is `memorized`, "
        "`spurious`, `generalized` or `mixed` where the truth has another, or `attractor` where it "
        "is `generalized`; the largest chance of one in any world. Definite: mean share of draws "
        "that give one of the first four. Definite and width: means over the "
        f"{len(usual)} worlds.",
        "",
        "| n | intervals | smallest coverage | world | mean | wrong word | world | definite "
        "| mean width |",
        "| ---: | --- | ---: | --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for n in SIZES:
        for name, method in (("before", before), ("**used**", used)):
            rows = {
                world: verdict_coverage(masses, trained, n, reps, method)
                for world, (masses, trained) in {**usual, **critical}.items()
            }
            method.cache_clear()
            lines.append(f"| {n} | {name} | {summary(rows, set(usual))} |")
    return [*lines, "", *one_attractor_section(), *auto_section(usual, critical, reps)]


def one_attractor_section() -> list[str]:
    """Return lines on the worlds in which coverage is least, computed without simulation."""
    lines = [
        "Worlds with one spurious attractor are among the worst and can be enumerated: coverage of "
        "the intervals used, exact.",
        "",
        "| n | worlds | smallest coverage | world | mean |",
        "| ---: | ---: | ---: | --- | ---: |",
    ]
    for n in SIZES:
        found = one_attractor_coverage(n)
        low = min(found, key=lambda world: found[world])
        mean = float(np.mean(list(found.values())))
        lines.append(f"| {n} | {len(found)} | {percent(found[low])} | {low} | {percent(mean)} |")
    used.cache_clear()
    return [*lines, ""]


def summary(rows: dict[str, Row], usual: set[str]) -> str:
    low = min(rows, key=lambda world: rows[world].covered)
    bad = max(rows, key=lambda world: rows[world].wrong)
    mean = [row for world, row in rows.items() if world in usual]
    return " | ".join(
        [
            percent(rows[low].covered),
            low,
            percent(float(np.mean([row.covered for row in rows.values()]))),
            percent(rows[bad].wrong),
            bad,
            percent(float(np.mean([row.definite for row in mean]))),
            f"{np.mean([row.width for row in mean]):.3f}",
        ]
    )


def auto_section(
    usual: dict[str, tuple[np.ndarray, int]], critical: dict[str, tuple[np.ndarray, int]], reps: int
) -> list[str]:
    found = {
        world: auto_coverage(masses, trained, reps)
        for world, (masses, trained) in {**usual, **critical}.items()
    }
    used.cache_clear()
    missed = max(found, key=lambda world: found[world][2])
    seeds = [found[world][1] for world in usual]
    return [
        "## `--seeds auto`",
        "",
        f"Looks at {', '.join(str(look.seeds) for look in AUTO)} seeds in the same worlds, ended "
        "by the first word other than `undecided` and `attractor`, as with a complete reference; "
        "intervals are those of the look that ends it.",
        "",
        "| smallest coverage | world | mean | wrong word | world | definite | mean width |",
        "| ---: | --- | ---: | ---: | --- | ---: | ---: |",
        f"| {summary({world: row for world, (row, _, _) in found.items()}, set(usual))} |",
        "",
        f"Mean of seeds over the {len(usual)} worlds: {np.mean(seeds):.1f} "
        f"({min(seeds):.1f} to {max(seeds):.1f}). An attractor above the mass bound was missed in "
        f"at most {percent(found[missed][2])}% of draws ({missed}).",
        "",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reps", type=int, default=2000)
    text = report(parser.parse_args().reps)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(text)
    print(text)
