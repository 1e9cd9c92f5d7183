"""The repeat-seed check: which generations of one prompt repeat each other, and what that shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2g_audit.errors import NumericsError
from m2g_audit.verdict.intervals import (
    LEVEL,
    Interval,
    attractor_mass,
    collision_probability,
    undetected_mass,
    unseen_mass,
)

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Attractor:
    """Generations that are all within delta_s of each other (at least two).

    members: ascending indices of the samples; mass: their share of the seeds, with an interval that
    holds for all attractors at once; medoid: the member nearest to the others (of equals
    the first); diameter: largest distance of two members.
    """

    members: tuple[int, ...]
    mass: Interval
    medoid: int
    diameter: float


@dataclass(frozen=True)
class RepeatSeedCheck:
    """What n seeds of one prompt show. Arrays have one entry per seed, failed ones included.

    n_valid: seeds whose picture did not fail; all shares are shares of these.
    nearest: distance to the nearest other sample (infinite for a failed or an only one).
    n_duplicates: how many other samples lie within delta_s; duplicated: at least one does.
    attractors: largest first; loose: duplicated samples that fall into no attractor.
    unseen: chance that one more seed shows something new; undetected_mass: an attractor of less
    mass than this may have been missed; collision: chance that two seeds give one picture.
    """

    delta_s: float
    n_valid: int
    failed: BoolArray
    nearest: FloatArray
    n_duplicates: IntArray
    attractors: tuple[Attractor, ...]
    loose: tuple[int, ...]
    unseen: Interval
    undetected_mass: float
    collision: Interval

    @property
    def duplicated(self) -> BoolArray:
        """Return, for each seed, whether another sample lies within delta_s (Eq. 10)."""
        return self.n_duplicates > 0


def find_attractors(
    distances: FloatArray,
    delta_s: float,
    *,
    failed: BoolArray | None = None,
    level: float = LEVEL,
    missed: float = 1 - LEVEL,
) -> RepeatSeedCheck:
    """Return duplicates, attractors, their masses and what may have been missed.

    distances: symmetric [n, n] of the generations of one prompt; delta_s in the same units (closed:
    a pair at exactly delta_s is a duplicate). Attractors are complete-link clusters cut at delta_s,
    so that a chain of neighbours on a continuous manifold does not count as one. Rows of failed
    pictures are ignored. level: of the intervals; missed: chance that an attractor of more than the
    undetected mass was missed. NumericsError if another distance is not finite.

    >>> distances = np.array([[0, 0.1, 1], [0.1, 0, 1], [1, 1, 0]])
    >>> [attractor.members for attractor in find_attractors(distances, 0.2).attractors]
    [(0, 1)]
    """
    n = len(distances)
    failed = np.zeros(n, dtype=bool) if failed is None else np.asarray(failed, dtype=bool)
    valid = np.flatnonzero(~failed)
    pairwise = distances[np.ix_(valid, valid)].astype(np.float64)
    if not np.isfinite(pairwise).all():
        raise NumericsError(
            "Distances between generated images are not finite although the images are. "
            "Choose another --metric, or full precision."
        )
    np.fill_diagonal(pairwise, np.inf)
    nearest = np.full(n, np.inf)
    n_duplicates = np.zeros(n, dtype=np.int64)
    if len(valid):
        nearest[valid] = pairwise.min(axis=1)
        n_duplicates[valid] = (pairwise <= delta_s).sum(axis=1)
    attractors = _attractors(pairwise, valid, delta_s, level)
    in_attractor = {member for attractor in attractors for member in attractor.members}
    alone = int((n_duplicates[valid] == 0).sum())
    return RepeatSeedCheck(
        delta_s=delta_s,
        n_valid=len(valid),
        failed=failed,
        nearest=nearest,
        n_duplicates=n_duplicates,
        attractors=attractors,
        loose=tuple(int(i) for i in np.flatnonzero(n_duplicates) if int(i) not in in_attractor),
        unseen=unseen_mass(alone, _isolated_pairs(pairwise, delta_s), len(valid), level),
        undetected_mass=undetected_mass(len(valid), 1 - missed),
        collision=collision_probability(int(n_duplicates.sum()) // 2, len(valid), level),
    )


def _attractors(
    pairwise: FloatArray, valid: IntArray, delta_s: float, level: float
) -> tuple[Attractor, ...]:
    n = len(valid)
    if n < 2:
        return ()
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    zero_diagonal = np.where(np.eye(n, dtype=bool), 0.0, pairwise)
    tree = linkage(squareform(zero_diagonal, checks=False), method="complete")
    labels = fcluster(tree, t=delta_s, criterion="distance")
    found = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            continue
        inside = zero_diagonal[np.ix_(members, members)]
        found.append(
            Attractor(
                members=tuple(int(i) for i in valid[members]),
                mass=attractor_mass(len(members), n, level),
                medoid=int(valid[members[inside.sum(axis=1).argmin()]]),
                diameter=float(inside.max()),
            )
        )
    return tuple(sorted(found, key=lambda a: (-len(a.members), a.diameter, a.members)))


def _isolated_pairs(pairwise: FloatArray, delta_s: float) -> int:
    """Count the pairs of samples that are each other's only duplicate (the doubletons)."""
    duplicates = pairwise <= delta_s
    single = duplicates.sum(axis=1) == 1
    return int((duplicates & single[:, None] & single[None, :]).sum()) // 2
