"""Confidence intervals for what n seeds of one prompt can show.

Each says what it covers and whether that is proved or measured; the measurement is
`benchmarks/interval_coverage.py`. None of them resamples: a bootstrap with replacement would draw
the same picture twice and take it for a duplicate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TypeVar

from scipy.special import betainc, betaincinv

LEVEL = 0.95
Name = TypeVar("Name", bound=str)
_GOOD_TURING_SEEDS = 16
_ROUNDING = 1e-9
CLOPPER_PEARSON = "clopper-pearson"


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; `method` names how the interval was made."""

    estimate: float
    low: float
    high: float
    level: float
    method: str


def clopper_pearson(count: float, n: float, level: float = LEVEL) -> Interval:
    """Return the exact interval of a binomial share, `count` of `n` (Clopper and Pearson 1934).

    Counts need not be whole: shares.find_shares passes effective sample sizes. With n = 0 the
    interval is [0, 1].

    >>> round(clopper_pearson(0, 16).high, 3)  # 1 - 0.025^(1/16): none of 16 seen
    0.206
    """
    tail = (1 - level) / 2
    low, high = lower_bound(count, n, tail), upper_bound(count, n, tail)
    return Interval(min(max(count / n, 0.0), 1.0) if n else 0.0, low, high, level, CLOPPER_PEARSON)


def lower_bound(count: float, n: float, tail: float, shift: float = 0.0) -> float:
    """Return the lower bound of a share, `count` of `n`, that errs with a chance of `tail`.

    The quantile of a beta distribution: Clopper and Pearson's at shift 0, which errs no more often
    than that; Jeffreys's at one half, which errs about as often on average over shares.
    """
    # Sums of chances miss whole numbers by rounding.
    if not -_ROUNDING <= count <= n + _ROUNDING:
        raise ValueError(f"count must lie in 0..n, got {count} of {n}")
    count = min(count, n)
    return float(betaincinv(count + shift, n - count + 1 - shift, tail)) if count > 0 else 0.0


def upper_bound(count: float, n: float, tail: float, shift: float = 0.0) -> float:
    """Return the upper bound of a share; see `lower_bound`."""
    return 1 - lower_bound(n - count, n, tail, shift)


def share_intervals(counts: Mapping[Name, int], level: float = LEVEL) -> dict[Name, Interval]:
    """Return simultaneous intervals for the shares of all categories, by name.

    Clopper-Pearson with Bonferroni's correction; two categories are one share and its complement,
    which need no correction. Coverage is at least `level` for a multinomial (proved); that of
    Goodman's and of Sison and Glaz's intervals is not where a share is near 0 or 1. Seeds of one
    prompt are not independent: their shares are those of shares.find_shares.
    """
    n = sum(counts.values())
    comparisons = 1 if len(counts) <= 2 else len(counts)
    each = 1 - (1 - level) / comparisons
    return {
        name: replace(
            clopper_pearson(count, n, each), level=level, method=f"bonferroni-{CLOPPER_PEARSON}"
        )
        for name, count in counts.items()
    }


def attractor_mass(count: int, n: int, level: float = LEVEL) -> Interval:
    """Return an interval for the mass of an attractor hit `count` times, chosen after looking.

    Holds for all attractors of a prompt at once, however many there are, hence for the largest.
    The error that an attractor of mass p may make is limited to (1 - level) p; as masses sum to at
    most one, so do the errors (a union bound weighted by mass; Bonferroni over the clusters *seen*
    is not valid, for they are seen because they were hit). So the ends solve
    P(Bin(n, p) >= count) = (1 - level) p / 2 and P(Bin(n, p) <= count) = (1 - level) p / 2.
    """
    if not 0 <= count <= n:
        raise ValueError(f"count must lie in 0..n, got {count} of {n}")
    half = (1 - level) / 2
    low, high = 0.0, 1.0
    if count >= 2:  # below, P(Bin >= 1) / p tends to n as p tends to 0: no positive bound
        low = _root(lambda p: _at_least(count, n, p) - half * p)
    if count < n:
        high = _root(lambda p: 1 - _at_least(count + 1, n, p) - half * p)
    return Interval(count / n if n else 0.0, low, high, level, "mass-weighted union bound")


def _at_least(count: int, n: int, p: float) -> float:
    """Return P(Bin(n, p) >= count) for count in 1..n."""
    return float(betainc(count, n - count + 1, p))


def _root(function: Callable[[float], float]) -> float:
    from scipy.optimize import brentq

    return float(brentq(function, 1e-12, 1.0, xtol=1e-12))


def undetected_mass(n: int, level: float = LEVEL) -> float:
    """Return the largest mass an attractor can have and still go unseen among n seeds.

    Unseen is: hit fewer than twice, with a chance of at least 1 - level. The exact root of
    (1 - p)^n + n p (1 - p)^(n - 1) = 1 - level; 1 for fewer than two seeds, or to be quite sure.

    >>> round(undetected_mass(16), 3)  # 16 seeds can miss an attractor of a quarter of the mass
    0.264
    """
    if n < 2 or level >= 1:
        return 1.0
    from scipy.optimize import brentq

    return float(brentq(lambda p: level - _at_least(2, n, p), 0.0, 1.0, xtol=1e-14))


def unseen_mass(singletons: int, pairs: int, n: int, level: float = LEVEL) -> Interval:
    """Return the chance that one more seed shows something not seen among n (Good-Turing).

    singletons: samples without a duplicate; pairs: groups of exactly two. The estimate is
    singletons / n; the variance of its error is singletons (1 - singletons / n) + 2 pairs, over n^2
    (Esty 1983). The interval is Clopper-Pearson at the sample size that has this variance, its
    lower end not above the normal one's; under 16 seeds the lower end is 0, because all there is
    may have been seen although nothing repeated enough to show it. Coverage is measured.

    >>> found = unseen_mass(16, 0, 16)  # 16 different pictures: the next one is new, most likely
    >>> found.estimate, found.high
    (1.0, 1.0)
    """
    method = "good-turing, clopper-pearson at esty's variance"
    if n == 0:
        return Interval(1.0, 0.0, 1.0, level, method)
    binomial = singletons * (1 - singletons / n)
    variance = binomial + 2 * pairs
    # With no or only singletons the variance says nothing; the next duplicate would be a pair.
    effect = variance / binomial if binomial else 2.0
    raw = clopper_pearson(singletons / effect, n / effect, level)
    normal = (singletons - NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)) / n
    low = 0.0 if n < _GOOD_TURING_SEEDS else max(0.0, min(raw.low, normal))
    return Interval(singletons / n, low, raw.high, level, method)


def collision_probability(duplicate_pairs: int, n: int, level: float = LEVEL) -> Interval:
    """Return the chance that two seeds give the same picture, sum p_i^2, from pairs within n seeds.

    The estimate is the share of duplicate pairs, an unbiased U-statistic. Pairs share seeds, so
    they are not n (n - 1) / 2 independent trials. For a given collision probability the share
    spreads most where one attractor makes all collisions; the interval inverts that case:
    X (X - 1) = 2 pairs gives the hits X, Clopper-Pearson the mass p, and p^2 the collisions
    (measured coverage).

    >>> collision_probability(120, 16).estimate  # all pairs of 16 seeds are duplicates
    1.0
    """
    if n < 2:
        return Interval(0.0, 0.0, 1.0, level, "one-attractor clopper-pearson")
    hits = (1 + math.sqrt(1 + 8 * duplicate_pairs)) / 2
    mass = clopper_pearson(hits, n, level)
    low = mass.low**2 if duplicate_pairs else 0.0
    estimate = duplicate_pairs / (n * (n - 1) / 2)
    return Interval(estimate, low, mass.high**2, level, "one-attractor clopper-pearson")
