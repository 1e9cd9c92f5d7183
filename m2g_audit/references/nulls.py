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

from m2g_audit.progress import OnProgress
from m2g_audit.references.reference import ReferenceSet
from m2g_audit.similarity import Metric, distances, nearest, within
from m2g_audit.verdict.states import S_PRIME
from m2g_audit.verdict.thresholds import least_values

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MOST = 2000
"""A null takes at most so many pictures, a seeded sample of a larger set."""
RATIO_NEIGHBOURS, RATIO_LEAST = 50, 20
"""The ratio divides by the mean distance of the next 50 pictures, and is not used under 20."""
MOST_RATIOS = 500
"""Ratios cost more neighbours each, so that fewer are taken; their 1% quantile needs 99."""

_NEAR, _FOR_RATIO = 8, 80
_ROUNDING = 1e-6


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


@dataclass(frozen=True)
class Nulls:
    """All that thresholds of one reference are quantiles of.

    within: nearest-neighbour distances among |S'| pictures of one caption, None where too few have
    one; among: the same, [m], of whatever |S'| pictures where `within` is None.
    """

    left_out: Null
    of_unseen: Null | None
    within: FloatArray | None
    among: FloatArray

    @property
    def used(self) -> Null:
        """Return the null that thresholds are taken from: of unseen pictures, if there are some."""
        return self.left_out if self.of_unseen is None else self.of_unseen


def find_nulls(
    reference: ReferenceSet,
    unseen: ReferenceSet | None,
    metric: Metric,
    cut: float,
    on_progress: OnProgress | None = None,
) -> Nulls:
    """Return the nulls of S; cut: up to which distance two pictures are near-duplicates."""
    left_out = leave_one_out(reference, metric, cut, on_progress=on_progress)
    null, pictures, of_others, within = left_out, reference, None, None
    if unseen is not None:
        null = of_others = of_unseen(unseen, reference, metric, cut, on_progress=on_progress)
        pictures, within = unseen, among_captions(unseen, metric, cut)
    within = among_captions(reference, metric, cut) if within is None else within
    among = among_all(pictures, metric, null.kept) if within is None else within
    return Nulls(left_out, of_others, within, among)


def leave_one_out(
    reference: ReferenceSet,
    metric: Metric,
    cut: float,
    *,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Null:
    """Return the null of S's own pictures: each against S without it and its near-duplicates.

    cut: up to which distance two pictures are near-duplicates. A picture's mirror goes with it. Of
    pictures that near-duplicate each other one is kept.
    """
    numbers = _sample(len(reference.names) // reference.copies, seed) * reference.copies
    found, neighbours = _nearest(reference, reference, numbers, metric, _NEAR, on_progress)
    own = _same_picture(reference, numbers, neighbours)
    near = (found <= cut) & ~own
    kept = _one_of_each(numbers, neighbours // reference.copies * reference.copies, near)
    _thin(reference, metric, numbers, cut, kept, np.logical_and.reduce(own | near, axis=1))
    to_reference = np.where(own | near, np.inf, found).min(axis=1)
    short = np.flatnonzero(np.isinf(to_reference) & kept)
    if len(short):  # more near-duplicates than were looked at
        to_reference[short] = _beyond(reference, metric, numbers[short], cut)
    rows = np.flatnonzero(kept & np.isfinite(to_reference))
    return Null(
        to_reference[rows],
        _some_ratios(reference, reference, metric, numbers[rows], cut),
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
    on_progress: OnProgress | None = None,
) -> Null:
    """Return the null of pictures that the model never saw, against S.

    Those within `cut` of S are left out and named as its overlap: somebody saw them after all.
    """
    numbers = _sample(len(unseen.names) // unseen.copies, seed) * unseen.copies
    found = _nearest(reference, unseen, numbers, metric, 1, on_progress)[0][:, 0]
    overlap = found <= cut
    kept = np.zeros(len(numbers), dtype=bool)
    kept[_distinct(unseen, metric, numbers, cut)] = True
    kept &= ~overlap
    return Null(
        found[kept],
        _some_ratios(reference, unseen, metric, numbers[kept], cut),
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
    there = np.isfinite(found)
    first = there.argmax(axis=1)
    like_first = _like_first(reference, metric, found, neighbours, first, cut)
    for i, (row, numbers) in enumerate(zip(found, neighbours, strict=True)):
        if there[i].sum() <= RATIO_LEAST:
            continue
        mirror = numbers // reference.copies == numbers[first[i]] // reference.copies
        rest = row[there[i] & ~like_first[i] & ~mirror][:RATIO_NEIGHBOURS]
        if len(rest) >= RATIO_LEAST and rest.mean() > 0:
            ratios[i] = row[first[i]] / rest.mean()
    return ratios


def _like_first(
    reference: ReferenceSet,
    metric: Metric,
    found: FloatArray,
    neighbours: IntArray,
    first: IntArray,
    cut: float,
) -> NDArray[np.bool_]:
    """Which neighbours [n, k] near-duplicate that at the place `first` [n] of their row.

    By the triangle inequality (of the distance, not of its square) none that is further than the
    first by more than the cut can be.
    """
    far, bound = (found, cut) if not metric.squared else (np.sqrt(found), cut**0.5)
    nearest = np.take_along_axis(far, first[:, None], axis=1)
    like = far <= (nearest + bound) * (1 + _ROUNDING)
    firsts = np.take_along_axis(neighbours, first[:, None], axis=1)
    some, others = np.unique(firsts), np.unique(neighbours[like])
    near = _near(reference, metric, some, others, cut)
    rows, columns = like.nonzero()
    among = np.searchsorted(some, firsts[rows, 0])
    like[rows, columns] = near[among, np.searchsorted(others, neighbours[rows, columns])]
    return like


def nearest_and_ratios(
    reference: ReferenceSet,
    metric: Metric,
    queries: Tensor,
    cut: float,
    on_progress: OnProgress | None = None,
) -> tuple[FloatArray, IntArray, FloatArray]:
    """Return distance and number of the nearest picture, and `find_ratios`, of embeddings; all [n].

    queries: [n, parts, d].
    """
    found, neighbours = reference.neighbours(metric, queries, _FOR_RATIO, on_progress)
    ratios = find_ratios(reference, metric, found, neighbours, cut)
    return found[:, 0], neighbours[:, 0], ratios


def _some_ratios(
    reference: ReferenceSet, pictures: ReferenceSet, metric: Metric, numbers: IntArray, cut: float
) -> FloatArray:
    """Ratios of at most MOST_RATIOS of the numbered pictures, evenly over their order.

    For pictures of S these, their mirrors and near-duplicates are left out.
    """
    if not len(numbers):
        return np.empty(0)
    chosen = numbers[np.unique(np.linspace(0, len(numbers) - 1, MOST_RATIOS).astype(int))]
    found, neighbours = _nearest(reference, pictures, chosen, metric, _FOR_RATIO)
    if pictures is reference:
        left_out = _same_picture(reference, chosen, neighbours) | (found <= cut)
        found = np.where(left_out, np.inf, found)
    return find_ratios(reference, metric, found, neighbours, cut)


def _nearest(
    reference: ReferenceSet,
    pictures: ReferenceSet,
    numbers: IntArray,
    metric: Metric,
    k: int,
    on_progress: OnProgress | None = None,
) -> tuple[FloatArray, IntArray]:
    """Distances and numbers [n, k] of the pictures of S nearest to numbered ones, in blocks."""
    size = len(reference.names)
    k = min(k, size)
    found, neighbours = np.empty((len(numbers), k)), np.empty((len(numbers), k), dtype=np.int64)
    for rows, block in pictures.blocks(metric, numbers):

        def report(done: int, _: int, before: int = rows.start, own: int = len(block)) -> None:
            if on_progress is not None:
                on_progress(before * size + done * own, len(numbers) * size)

        found[rows], neighbours[rows] = reference.neighbours(metric, block, k, report)
    return found, neighbours


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
    return _within_groups(pictures, metric, order)


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
        mixed = rng.permutation(numbers)[:MOST]
        alone = mixed[_distinct(pictures, metric, mixed, cut)]
        if len(alone) >= S_PRIME:
            found.append(_within_groups(pictures, metric, alone))
        if sum(map(len, found)) >= MOST:
            break
    if sum(map(len, found)) < least_values():
        return None
    return np.concatenate(found)


def _within_groups(pictures: ReferenceSet, metric: Metric, numbers: IntArray) -> FloatArray:
    """Nearest-neighbour distances in groups of |S'|; the last group borrows what it lacks."""
    found = []
    for start in range(0, len(numbers), S_PRIME):
        own = len(numbers[start : start + S_PRIME])
        first = max(0, min(start, len(numbers) - S_PRIME))
        group = pictures.embedded(metric, numbers[first : first + S_PRIME])
        if len(group) > 1:
            within = nearest(metric, group, group, exclude_self=True)[0][:, 0]
            found.append(within[len(group) - own :])
    return np.concatenate(found) if found else np.empty(0)


def _distinct(pictures: ReferenceSet, metric: Metric, numbers: IntArray, cut: float) -> IntArray:
    """Rows of numbered pictures of which no two are near-duplicates, the first of each."""
    near = _near(pictures, metric, numbers, numbers, cut)
    kept: list[int] = []
    for i in range(len(numbers)):
        if not near[i, kept].any():
            kept.append(i)
    return np.array(kept, dtype=np.int64)


def _near(
    pictures: ReferenceSet, metric: Metric, numbers: IntArray, others: IntArray, cut: float
) -> NDArray[np.bool_]:
    """Which numbered pictures near-duplicate which others, [n, m]."""
    near = np.zeros((len(numbers), len(others)), dtype=bool)
    for rows, block in pictures.blocks(metric, numbers):
        for columns, other in pictures.blocks(metric, others):
            near[rows, columns] = within(metric, block, other, cut)
    return near


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
    pictures: ReferenceSet,
    metric: Metric,
    numbers: IntArray,
    cut: float,
    kept: NDArray[np.bool_],
    full: NDArray[np.bool_],
) -> None:
    """Drop of what is kept what near-duplicates more pictures than were looked at hide."""
    rows = np.flatnonzero(kept)
    if full[rows].any():
        kept[rows] = False
        kept[rows[_distinct(pictures, metric, numbers[rows], cut)]] = True


def _beyond(reference: ReferenceSet, metric: Metric, numbers: IntArray, cut: float) -> FloatArray:
    """The nearest distance above `cut` of numbered pictures of S to all of it without their own."""
    best = np.full(len(numbers), np.inf)
    every = np.arange(len(reference.names))
    for rows, queries in reference.blocks(metric, numbers):
        for others, part in reference.blocks(metric, every):
            found = distances(metric, queries, part)
            own = _same_picture(reference, numbers[rows], every[None, others])
            found[own | (found <= cut)] = np.inf
            best[rows] = np.minimum(best[rows], found.min(axis=1))
    return best
