"""States of samples (Eq. 9-11)."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from m2g_audit.errors import UsageError
from m2g_audit.verdict.thresholds import BAND, Thresholds

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

S_PRIME = 16
"""|S'| of an audit: a duplicate is looked for among this many samples, however many there are."""


class State(StrEnum):
    """State of one sample; it belongs to a distance, its thresholds, S, and the size of S'."""

    MEMORIZED = "memorized"  # within delta_m of a training picture (Eq. 9)
    SPURIOUS = "spurious"  # duplicated, and in no part of a complete training set (Eq. 10)
    GENERALIZED = "generalized"  # neither (Eq. 11)
    ATTRACTOR = "attractor"  # duplicated; whether from the training set is not known
    UNSURE = "unsure"  # near delta_m, where distance and ratio disagree: counts against each word
    FAILED = "failed"  # flat or non-finite picture: left out of all shares


def classify(
    nearest_reference: FloatArray | None,
    nearest_sample: FloatArray,
    thresholds: Thresholds,
    *,
    ratios: FloatArray | None = None,
    reference_complete: bool = False,
    failed: BoolArray | None = None,
) -> list[State]:
    """Return the state of every sample (Eq. 9-11).

    nearest_reference: [n] distance to the nearest picture of S, None without one; nearest_sample:
    [n] distance to the nearest other sample of S'; ratios: [n] of the nearest distance to S over
    the mean of the next ones (NaN where there is none), looked at if the thresholds have a cut for
    it. Thresholds are closed. A duplicate without a match is `spurious` only if S is known to be
    complete, else `attractor`.
    """
    if thresholds.delta_s is None:
        raise UsageError("There is no delta_s: calibrate, or give the threshold.")
    n = len(nearest_sample)
    failed = np.zeros(n, dtype=bool) if failed is None else failed
    matched = unsure = np.zeros(n, dtype=bool)
    if nearest_reference is not None:
        if thresholds.delta_m is None:
            raise UsageError("There is a reference but no delta_m: calibrate, or give it.")
        matched = nearest_reference <= thresholds.delta_m
        unsure = _disagree(nearest_reference, ratios, thresholds)
    duplicated = nearest_sample <= thresholds.delta_s
    complete = reference_complete and nearest_reference is not None
    unmatched = State.SPURIOUS if complete else State.ATTRACTOR
    states = []
    for i in range(n):
        if failed[i]:
            states.append(State.FAILED)
        elif unsure[i]:
            states.append(State.UNSURE)
        elif matched[i]:
            states.append(State.MEMORIZED)
        else:
            states.append(unmatched if duplicated[i] else State.GENERALIZED)
    return states


def _disagree(nearest: FloatArray, ratios: FloatArray | None, thresholds: Thresholds) -> BoolArray:
    """Whether distance and ratio say different things where delta_m is near."""
    delta_m = thresholds.delta_m
    if thresholds.ratio is None or ratios is None or not delta_m:
        return np.zeros(len(nearest), dtype=bool)
    close = (nearest >= delta_m / BAND) & (nearest <= delta_m * BAND) & np.isfinite(ratios)
    return close & ((nearest <= delta_m) != (ratios <= thresholds.ratio))


def duplicate_chances(
    n_duplicates: NDArray[np.int64], n_valid: int, size: int = S_PRIME
) -> FloatArray:
    """Return the chance that each sample has a duplicate among size - 1 others, drawn at random.

    n_duplicates: of each sample among the n_valid - 1 others. With at most `size` samples it is 0
    or 1. Of k duplicates none is drawn with chance C(n - 1 - k, m) / C(n - 1, m), m = size - 1. The
    mean over samples estimates the share of duplicated samples among `size` (a U-statistic).

    >>> duplicate_chances(np.array([0, 1, 255]), 256).round(4).tolist()  # 15 of 255 are drawn
    [0.0, 0.0588, 1.0]
    """
    k, others, drawn = n_duplicates.astype(np.float64), n_valid - 1, size - 1
    if others <= drawn:
        return (k > 0).astype(np.float64)
    possible = others - k >= drawn
    missed = np.zeros(len(k))
    missed[possible] = np.exp(
        _log_choose(others - k[possible], drawn) - _log_choose(np.array(float(others)), drawn)
    )
    return np.where(k > 0, 1 - missed, 0.0)


def _log_choose(n: FloatArray, k: int) -> FloatArray:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
