"""Shares of the states among a prompt's samples: intervals to print, and bounds to judge by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2g_audit.verdict.intervals import CLOPPER_PEARSON, LEVEL, Interval, lower_bound, upper_bound
from m2g_audit.verdict.states import State, duplicate_chances

FloatArray = NDArray[np.float64]

WORD_ALPHA = 0.025
"""Error of the one-sided bound that a word needs. Shares sum to one, so two words can be wrong."""

DUPLICATED = (State.SPURIOUS, State.ATTRACTOR)

# Half-way between Clopper-Pearson and Jeffreys: what three comparisons that cannot all err leave.
_SHIFT = 0.25


@dataclass(frozen=True)
class Shares:
    """Shares of the states among samples that did not fail.

    intervals: simultaneous, at `level`; low, high: one-sided bounds of each share by itself.
    Samples that are `unsure` count against each share in `low`, and for it in `high`.
    """

    intervals: Mapping[State, Interval]
    low: Mapping[State, float]
    high: Mapping[State, float]

    @classmethod
    def exact(cls, shares: Mapping[State, float]) -> Shares:
        """Return shares that are known, with intervals of no width."""
        intervals = {s: Interval(p, p, p, 1.0, "exact") for s, p in shares.items()}
        return cls(intervals, dict(shares), dict(shares))


def find_shares(
    states: Sequence[State],
    *,
    has_reference: bool,
    reference_complete: bool = False,
    n_duplicates: Sequence[int] | None = None,
    size: int | None = None,
    level: float = LEVEL,
    alpha: float = WORD_ALPHA,
) -> Shares:
    """Return the share of each state among the samples that did not fail.

    Only states that can occur are compared: without a reference those are `attractor` and
    `generalized`. A share that cannot be known ([0, 1]) or is zero by definition ([0, 0]) has the
    reason as its method. n_duplicates: of each sample (RepeatSeedCheck.n_duplicates); without it
    the samples are taken as independent of one another, which duplicates are not. size: the shares
    are those among |S'| = size samples, by default among as many as there are. Of more samples each
    then counts as duplicated with its chance of a duplicate among size - 1 others
    (states.duplicate_chances) and as new with the rest; of fewer the estimates are those among
    them, and the bounds allow for what would repeat among more.

    Bounds are Clopper-Pearson's at the sample size n / effect (`_effects`). Where three shares are
    printed at once they take a third of 1 - level each and lie half-way to Jeffreys's: for
    independent samples all three are covered with a chance of at least `level`, which is measured
    (benchmarks/interval_coverage.py), as is all that concerns duplicates.
    """
    n = sum(state != State.FAILED for state in states)
    unsure = sum(state == State.UNSURE for state in states)
    own = sum(state == State.MEMORIZED for state in states) * np.ones(3)
    repeated, pair = _repeated(states, n, n_duplicates, size)
    duplicated = State.SPURIOUS if has_reference and reference_complete else State.ATTRACTOR
    found = [
        _Share(duplicated, repeated, repeated + pair),
        _Share(State.GENERALIZED, own + repeated, own + repeated + pair),
    ]
    if has_reference:
        found.insert(0, _Share(State.MEMORIZED, own, own))
    names = (State.MEMORIZED, State.SPURIOUS, State.ATTRACTOR, State.GENERALIZED)
    absent = Interval(0.0, 0.0, 1.0, level, "not measured: needs a complete reference")
    if reference_complete:
        absent = Interval(0.0, 0.0, 0.0, level, "none by definition: the reference is complete")
    intervals = dict.fromkeys(names, absent)
    low, high = dict.fromkeys(names, absent.low), dict.fromkeys(names, absent.high)
    together = len(found) > 2
    tail = (1 - level) / 2 / (len(found) if together else 1)
    method = _method(together)
    for share in found:
        ends = share.bounds(n, unsure, tail, size, _SHIFT if together else 0.0)
        intervals[share.state] = Interval(share.estimate(n, unsure), *ends, level, method)
        low[share.state], high[share.state] = share.bounds(n, unsure, alpha, size)
    return Shares(intervals, low, high)


def _method(together: bool) -> str:
    pairs = "at the sample size that duplicates leave"
    if together:
        return f"bonferroni, half-way from {CLOPPER_PEARSON} to jeffreys, {pairs}"
    return f"{CLOPPER_PEARSON} {pairs}"


@dataclass(frozen=True)
class _Share:
    """A state with the tally of its samples; that of `generalized` is of all other states.

    A tally holds three sums over samples: how much each counts, its part of the variance of that
    count, and its influence, by how much the count would fall without it. allowed_for: the tally
    with what may be there and was not seen.
    """

    state: State
    tally: FloatArray
    allowed_for: FloatArray

    @property
    def is_rest(self) -> bool:
        return self.state is State.GENERALIZED

    def estimate(self, n: int, unsure: int) -> float:
        count = float(self.tally[0])
        share = (n - unsure - count if self.is_rest else count) / max(n, 1)
        return min(max(share, 0.0), 1.0)

    def bounds(
        self, n: int, unsure: int, tail: float, size: int | None, shift: float = 0.0
    ) -> tuple[float, float]:
        count = min(float(self.tally[0]), float(n))
        most = min(count + unsure, float(n))
        rare, seen = _effects(self.allowed_for, n)
        low = lower_bound(count / rare, n / rare, tail, shift)
        high = upper_bound(most / seen, n / seen, tail, shift)
        if self.state != State.MEMORIZED:
            high = _among_more(high, n, size)
        return (1 - high, 1 - low) if self.is_rest else (low, high)


def _effects(tally: FloatArray, n: int) -> tuple[float, float]:
    """Return the design effects of the lower and of the upper bound of a share, in 1 to 2.

    By how much the variance of the count exceeds that of as many independent samples: in the limit
    of a small share, which the lower bound asks about, and at the share that was seen, where a
    fixed n takes (sum of influences)^2 / n off both.
    """
    count, variance, influence = map(float, tally)
    independent = count * (1 - count / n) if n else 0.0
    rare = variance / count if count else 1.0
    seen = (variance - influence**2 / n) / independent if independent > 0 else 1.0
    return min(max(rare, 1.0), 2.0), min(max(seen, 1.0), 2.0)


def _among_more(high: float, n: int, size: int | None) -> float:
    """Return the largest share among `size` samples if among n < size it is at most `high`.

    A sample of an attractor of mass p repeats with chance y = 1 - (1 - p)^(n - 1) among n, and
    1 - (1 - y)^((size - 1) / (n - 1)) among `size`: a concave function, so that by Jensen's
    inequality the share is at most that function of the share among n.
    """
    if size is None or n >= size:
        return high
    return 1 - (1 - high) ** ((size - 1) / (n - 1) if n > 1 else math.inf)


def _repeated(
    states: Sequence[State], n: int, n_duplicates: Sequence[int] | None, size: int | None
) -> tuple[FloatArray, FloatArray]:
    """Return the tallies of samples that repeat each other, and of the pair that may come next."""
    if n_duplicates is None:
        return sum(state in DUPLICATED for state in states) * np.ones(3), np.zeros(3)
    counted = DUPLICATED if size is None else (State.GENERALIZED, *DUPLICATED)
    others = [k for state, k in zip(states, n_duplicates, strict=True) if state in counted]
    among = n if size is None else size
    return _tally(others, n, among), _tally([1, 1], n, among)


def _tally(n_duplicates: Sequence[int], n: int, size: int) -> FloatArray:
    """Return count, variance and influence of samples by their numbers of duplicates, summed.

    For k duplicates that have a chance f(k) the influence is (k + 1) f(k) - k f(k - 1); squared it
    is the sample's part of the variance (the infinitesimal jackknife) if there are many. A pair may
    be what was seen of a frequent attractor, or a rare event that comes two samples at a time, with
    a variance of 2 f^2 a sample: f (1 + f) lies between.
    """
    k = np.asarray(n_duplicates, dtype=np.int64)
    chance = duplicate_chances(k, n, size)
    influence = (k + 1) * chance - k * duplicate_chances(k - 1, n, size)
    variance = np.where(k == 1, chance * (1 + chance), influence**2)
    return np.array([chance.sum(), variance.sum(), influence.sum()])
