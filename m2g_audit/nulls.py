"""Distances where nothing is copied, from real pictures: what thresholds are quantiles of.

Pictures that the model never saw stand in for samples; where there are none, pictures of S, each
compared with S without it (leave-one-out). Near-duplicates would be copies of each other, so they
count as one picture (DEFINITIONS: Thresholds).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from m2g_audit.reference import Progress, ReferenceSet
from m2g_audit.similarity import Metric, distances, nearest
from m2g_audit.states import S_PRIME
from m2g_audit.thresholds import least_values

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MOST = 2000
"""A null takes at most so many pictures, a seeded sample of a larger set."""
RATIO_NEIGHBOURS, RATIO_LEAST = 50, 20
"""The ratio divides by the mean distance of the next 50 pictures, and is not used under 20."""
MOST_RATIOS = 500
"""Ratios cost more neighbours each, so that fewer are taken; their 1% quantile needs 99."""

_NEAR, _FOR_RATIO = 16, 80


@dataclass(frozen=True)
class Null:
    """Distances of pictures that are no copies.

    to_reference: [m] to the nearest picture of S that is none of their near-duplicates; ratios: of
    some of them, see `find_ratios`; kept: their numbers in the set that they come from; dropped:
    how many of the `sampled` pictures were left out as near-duplicates; overlap: names of unseen
    pictures that near-duplicate S.
    """

    to_reference: FloatArray
    ratios: FloatArray
    kept: IntArray
    dropped: int
    sampled: int
    overlap: tuple[str, ...] = ()


def leave_one_out(
    reference: ReferenceSet,
    metric: Metric,
    cut: float,
    *,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Null:
    """Return the null of S's own pictures: each against S without it and its near-duplicates.

    cut: up to which distance two pictures are near-duplicates. A picture's mirror goes with it. Of
    pictures that near-duplicate each other one is kept.
    """
    numbers = _sample(len(reference.names) // reference.copies, seed) * reference.copies
    queries = reference.embedded(metric, numbers)
    found, neighbours = reference.neighbours(
        metric, queries, min(_NEAR, len(reference.names)), on_progress
    )
    own = _same_picture(reference, numbers, neighbours)
    near = (found <= cut) & ~own
    kept = _one_of_each(numbers, neighbours // reference.copies * reference.copies, near)
    _thin(metric, queries, cut, kept, np.logical_and.reduce(own | near, axis=1))
    to_reference = np.where(own | near, np.inf, found).min(axis=1)
    short = np.flatnonzero(np.isinf(to_reference) & kept)
    if len(short):  # more near-duplicates than were looked at
        to_reference[short] = _beyond(reference, metric, queries[short], numbers[short], cut)
    rows = np.flatnonzero(kept & np.isfinite(to_reference))
    return Null(
        to_reference[rows],
        _some_ratios(reference, metric, queries[rows], cut, numbers[rows]),
        numbers[rows],
        dropped=int((~kept).sum()),
        sampled=len(numbers),
    )


def of_unseen(
    unseen: ReferenceSet,
    reference: ReferenceSet,
    metric: Metric,
    cut: float,
    *,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Null:
    """Return the null of pictures that the model never saw, against S.

    Those within `cut` of S are left out and named as its overlap: somebody saw them after all.
    """
    numbers = _sample(len(unseen.names) // unseen.copies, seed) * unseen.copies
    queries = unseen.embedded(metric, numbers)
    found = reference.neighbours(metric, queries, 1, on_progress)[0][:, 0]
    overlap = found <= cut
    among, others = nearest(metric, queries, queries, min(_NEAR, len(queries)))
    twice = (among <= cut) & (others != np.arange(len(queries))[:, None])
    kept = _one_of_each(numbers, numbers[others], twice)
    _thin(metric, queries, cut, kept, np.logical_and.reduce(among <= cut, axis=1))
    kept &= ~overlap
    return Null(
        found[kept],
        _some_ratios(reference, metric, queries[np.flatnonzero(kept).tolist()], cut),
        numbers[kept],
        dropped=int((~kept & ~overlap).sum()),
        sampled=len(numbers),
        overlap=tuple(unseen.names[int(i)] for i in numbers[overlap]),
    )


def find_ratios(
    reference: ReferenceSet,
    metric: Metric,
    found: FloatArray,
    neighbours: IntArray,
    cut: float,
) -> FloatArray:
    """Return the distance to the nearest picture over the mean of that to the next ones, [n].

    found, neighbours: [n, k] distances, ascending but for those that are infinite, which are left
    out, and numbers of pictures of S. Near-duplicates of the nearest and its mirror are dropped
    before the next are taken, at most RATIO_NEIGHBOURS; NaN where under RATIO_LEAST are left
    (Carlini et al. 2023, Sec. 5.1; Yoon et al. 2023).
    """
    ratios = np.full(len(found), np.nan)
    for i, (row, numbers) in enumerate(zip(found, neighbours, strict=True)):
        there = np.isfinite(row)
        row, numbers = row[there], numbers[there]
        if len(row) <= RATIO_LEAST:
            continue
        embedded = reference.embedded(metric, numbers)
        like_nearest = distances(metric, embedded[:1], embedded[1:])[0] <= cut
        mirror = numbers[1:] // reference.copies == numbers[0] // reference.copies
        rest = row[1:][~like_nearest & ~mirror][:RATIO_NEIGHBOURS]
        if len(rest) >= RATIO_LEAST and rest.mean() > 0:
            ratios[i] = row[0] / rest.mean()
    return ratios


def ratios_of(
    reference: ReferenceSet,
    metric: Metric,
    queries: Tensor,
    cut: float,
    own: IntArray | None = None,
) -> FloatArray:
    """Return `find_ratios` of embeddings [n, parts, d].

    own: their numbers, if they are pictures of S; these, their mirrors and near-duplicates are then
    left out.
    """
    k = min(_FOR_RATIO, len(reference.names))
    found, neighbours = reference.neighbours(metric, queries, k)
    if own is not None:
        left_out = _same_picture(reference, own, neighbours) | (found <= cut)
        found = np.where(left_out, np.inf, found)
    return find_ratios(reference, metric, found, neighbours, cut)


def _some_ratios(
    reference: ReferenceSet,
    metric: Metric,
    queries: Tensor,
    cut: float,
    own: IntArray | None = None,
) -> FloatArray:
    """Ratios of at most MOST_RATIOS of the pictures, evenly over their order."""
    rows = np.unique(np.linspace(0, len(queries) - 1, MOST_RATIOS).astype(int))
    if not len(queries):
        return np.empty(0)
    chosen = None if own is None else own[rows]
    return ratios_of(reference, metric, queries[rows.tolist()], cut, chosen)


def _same_picture(
    reference: ReferenceSet, numbers: IntArray, neighbours: IntArray
) -> NDArray[np.bool_]:
    """Which neighbours [n, k] of numbered pictures [n] are they themselves, or their mirrors."""
    return neighbours // reference.copies == (numbers // reference.copies)[:, None]


def among_all(
    pictures: ReferenceSet, metric: Metric, numbers: IntArray, *, seed: int = 0
) -> FloatArray:
    """Return the nearest-neighbour distances of pictures within random groups of |S'|, [m]."""
    order = np.random.default_rng(seed).permutation(numbers)
    return _within_groups(metric, pictures.embedded(metric, order))


def among_captions(
    pictures: ReferenceSet, metric: Metric, cut: float, *, seed: int = 0
) -> FloatArray | None:
    """Return the nearest-neighbour distances within groups of |S'| pictures of one caption, [m].

    From captions with at least |S'| pictures that do not near-duplicate each other, in a seeded
    order, until MOST pictures are in; None where they hold under 99 pictures in all.
    """
    by_caption: dict[str, list[int]] = {}
    for number in range(0, len(pictures.captions), pictures.copies):
        caption = pictures.captions[number]
        if caption is not None:
            by_caption.setdefault(caption, []).append(number)
    rng = np.random.default_rng(seed)
    found: list[FloatArray] = []
    for caption in rng.permutation(sorted(by_caption)):
        numbers = by_caption[str(caption)]
        if len(numbers) < S_PRIME:
            continue
        embedded = pictures.embedded(metric, rng.permutation(numbers)[:MOST])
        alone = _distinct(metric, embedded, cut)
        if len(alone) >= S_PRIME:
            found.append(_within_groups(metric, embedded[alone.tolist()]))
        if sum(map(len, found)) >= MOST:
            break
    if sum(map(len, found)) < least_values():
        return None
    return np.concatenate(found)


def _within_groups(metric: Metric, embedded: Tensor) -> FloatArray:
    """Nearest-neighbour distances in groups of |S'|; the last group borrows what it lacks."""
    found = []
    for start in range(0, len(embedded), S_PRIME):
        own = len(embedded[start : start + S_PRIME])
        first = max(0, min(start, len(embedded) - S_PRIME))
        group = embedded[first : first + S_PRIME]
        if len(group) > 1:
            within = nearest(metric, group, group, exclude_self=True)[0][:, 0]
            found.append(within[len(group) - own :])
    return np.concatenate(found) if found else np.empty(0)


def _distinct(metric: Metric, embedded: Tensor, cut: float) -> IntArray:
    """Rows of which no two are near-duplicates, the first of each."""
    near = distances(metric, embedded, embedded) <= cut
    kept: list[int] = []
    for i in range(len(embedded)):
        if not near[i, kept].any():
            kept.append(i)
    return np.array(kept, dtype=np.int64)


def _sample(n: int, seed: int) -> IntArray:
    if n <= MOST:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, MOST, replace=False))


def _one_of_each(
    numbers: IntArray, neighbours: IntArray, near: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which of the numbered pictures stay: none that near-duplicates one that stays."""
    staying: set[int] = set()
    kept = np.zeros(len(numbers), dtype=bool)
    for i, number in enumerate(numbers):
        kept[i] = staying.isdisjoint(neighbours[i, near[i]].tolist())
        if kept[i]:
            staying.add(int(number))
    return kept


def _thin(
    metric: Metric,
    queries: Tensor,
    cut: float,
    kept: NDArray[np.bool_],
    full: NDArray[np.bool_],
) -> None:
    """Drop of what is kept what near-duplicates more pictures than were looked at hide."""
    rows = np.flatnonzero(kept)
    if full[rows].any():
        kept[rows] = False
        kept[rows[_distinct(metric, queries[rows.tolist()], cut)]] = True


def _beyond(
    reference: ReferenceSet, metric: Metric, queries: Tensor, numbers: IntArray, cut: float
) -> FloatArray:
    """The nearest distance above `cut` to all of S without the queries' own entries."""
    best = np.full(len(queries), np.inf)
    every = np.arange(len(reference.names))
    for part in np.array_split(every, max(1, len(every) // 1024)):
        found = distances(metric, queries, reference.embedded(metric, part))
        own = _same_picture(reference, numbers, part[None, :])
        best = np.minimum(best, np.where(own | (found <= cut), np.inf, found).min(axis=1))
    return best
