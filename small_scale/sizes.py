"""Which training sizes K a sweep has (App. B.1)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from m2g_audit.errors import UsageError

SPARSE_START = 500
WITHIN, OUTSIDE = 30, 5
MEMORIZING, MEMORIZED_NO_MORE = 0.9, 0.1


def sparse_sizes(total: int, start: int = SPARSE_START) -> list[int]:
    """The doubling search: start, 2 start, 4 start, ... and `total` itself (App. B.1)."""
    sizes = []
    while start < total:
        sizes.append(start)
        start *= 2
    return [*sizes, total]


def dense_sizes(A: int, B: int, total: int) -> list[int]:
    """The 38 sizes around a transition between A and B, of a data set of `total` (App. B.1).

    linspace(2, A, 5), linspace(A, B, 30) and linspace(B, total, 5), rounded down, their shared ends
    once; fewer where the range is so short that some of them coincide. Raises ValueError unless
    2 <= A <= B <= total.
    """
    if not 2 <= A <= B <= total:
        raise ValueError(f"need 2 <= A <= B <= |S|, got A = {A}, B = {B}, |S| = {total}")
    spaced = [(2, A, OUTSIDE), (A, B, WITHIN), (B, total, OUTSIDE)]
    return sorted({int(K) for part in spaced for K in np.linspace(*part)})


def parse_sizes(asked: str, total: int) -> tuple[int, ...]:
    """The sizes that a user writes: "2,16,128", "sparse", or "A-B" for the 38 around a transition.

    Raises UsageError for anything else.
    """
    try:
        if asked == "sparse":
            return tuple(sparse_sizes(total))
        if "-" in asked:
            A, B = (int(number) for number in asked.split("-"))
            return tuple(dense_sizes(A, B, total))
        return tuple(sorted({int(K) for K in asked.split(",")}))
    except ValueError as error:
        raise UsageError(
            f"--sizes {asked} is not possible for {total:,} training pictures: give numbers with "
            "commas (2,16,128), `sparse`, or a transition (2000-16000) from 2 up to their number."
        ) from error


def transition(memorized: Mapping[int, float]) -> tuple[int, int]:
    """The critical points A and B that a sparse search shows, from its memorized share at each K.

    The paper reads them off a plot: A is where memorization first drops, B where it has come down.
    Here A is the largest size up to which every share is at least 0.9, the smallest size where none
    is; B the smallest from which on every share is at most 0.1, the largest size where none is.
    """
    sizes = sorted(memorized)
    A, B = sizes[0], sizes[-1]
    for K in sizes:
        if memorized[K] < MEMORIZING:
            break
        A = K
    for K in reversed(sizes):
        if memorized[K] > MEMORIZED_NO_MORE:
            break
        B = K
    return A, max(A, B)
