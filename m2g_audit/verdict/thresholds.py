"""delta_m and delta_s of Eq. 9 and 10: what they are, which rule gave them, what they rest on.

A threshold comes from a null, distances where nothing is copied; it is the null's 1% quantile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from m2g_audit.errors import NumericsError, UsageError
from m2g_audit.records.distances import DISTANCES

FloatArray = NDArray[np.float64]

ALPHA = 0.01
STRICT_ALPHA, LOOSE_ALPHA = 0.003, 0.03
"""Quantiles between which a verdict that changes is said to hang on its threshold."""

BAND = 1.5
"""The ratio rule decides between delta_m / BAND and BAND delta_m only."""


class Rule(StrEnum):
    """Where thresholds come from; DEFINITIONS order them."""

    UNSEEN = "unseen pictures"
    LEAVE_ONE_OUT = "leave-one-out"
    BASE = "base"
    CONTROLS = "own controls"
    RULE_OF_THUMB = "rule of thumb"
    BY_HAND = "by hand"
    TRUTH = "truth"


@dataclass(frozen=True)
class Thresholds:
    """delta_m and delta_s of Eq. 9 and 10 with the distance they belong to.

    None where there is no such threshold. source: one sentence on where they come from; n_controls:
    prompts or pictures that they were taken from; calibrated: whether they were measured for this
    model and distance (else the record says `uncalibrated`); ratio: the cut under which the nearest
    distance over the mean of the next ones also says "copy", None where it is not used; others: the
    same thresholds at other quantiles of the null, by alpha.
    """

    metric: str
    delta_m: float | None
    delta_s: float | None
    source: str
    n_controls: int
    calibrated: bool
    rule: Rule = Rule.TRUTH
    ratio: float | None = None
    others: Mapping[float, tuple[float | None, float | None]] = field(default_factory=dict)

    def scaled(self, factor: float) -> Thresholds:
        """Return the thresholds times `factor`, for the results at half and at twice of them."""
        return replace(
            self,
            delta_m=None if self.delta_m is None else factor * self.delta_m,
            delta_s=None if self.delta_s is None else factor * self.delta_s,
            source=f"{factor:g} x ({self.source})",
            others={},
        )

    def at(self, alpha: float) -> Thresholds | None:
        """Return the thresholds at another quantile of their null, None where there is none."""
        if alpha not in self.others:
            return None
        delta_m, delta_s = self.others[alpha]
        source = f"{alpha:.1%} quantile instead of {ALPHA:.0%}: {self.source}"
        return replace(self, delta_m=delta_m, delta_s=delta_s, source=source, others={})


def published_rule(metric: str) -> Thresholds | None:
    """Return the published rule of thumb of a metric, uncalibrated; None where there is none."""
    declared = DISTANCES.get(metric)
    if declared is None or declared.rule is None:
        return None
    value, source = declared.rule
    return Thresholds(
        metric=metric,
        delta_m=value,
        delta_s=value,
        source=f"a rule of thumb ({source})",
        n_controls=0,
        calibrated=False,
        rule=Rule.RULE_OF_THUMB,
    )


def rule_of_thumb(metric: str) -> Thresholds:
    """Return uncalibrated thresholds of a metric; UsageError where no rule has been published."""
    found = published_rule(metric)
    if found is None:
        known = ", ".join(sorted(name for name, one in DISTANCES.items() if one.rule is not None))
        raise UsageError(
            f"Nobody has published a distance at which {metric} calls pictures copies. Measure it "
            "with pictures that the model never saw (--reference with 99 or more pictures, "
            f"--unseen) or with --base, give --delta-m and --delta-s, or use one of {known}."
        )
    return found


def low_quantile(values: Sequence[float] | FloatArray, alpha: float = ALPHA) -> float:
    """Return the threshold that one more such value is at or under with chance at most alpha.

    The floor(alpha (n + 1))-th smallest of n values: the conformal form of the alpha quantile,
    valid for any distribution. UsageError if n is too small to have one (99 values for 1%).
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    if not np.isfinite(ordered).all():
        raise NumericsError("A threshold cannot be taken from non-finite distances.")
    # The small number undoes the rounding of products such as 0.01 x 100.
    rank = math.floor(alpha * (len(ordered) + 1) + 1e-9)
    if rank < 1:
        raise UsageError(
            f"{len(ordered)} controls cannot hold a rate of {alpha:g}: give at least "
            f"{least_values(alpha)}."
        )
    return float(ordered[rank - 1])


def least_values(alpha: float = ALPHA) -> int:
    """Return how many values an alpha quantile needs: 99 for 1%."""
    return math.ceil(1 / alpha - 1e-9) - 1


def quantile_or_smallest(values: Sequence[float] | FloatArray, alpha: float) -> float:
    """Return `low_quantile`, or where values are too few for it the smallest of them."""
    if len(values) < least_values(alpha):
        return float(np.min(values))
    return low_quantile(values, alpha)


def fresh_thresholds(
    metric: str,
    to_training: FloatArray,
    among_fresh: FloatArray,
    *,
    source: str,
    alpha: float = ALPHA,
) -> Thresholds:
    """Return thresholds where the training set S is known, from pictures the model never saw.

    to_training: distance of each fresh picture to S, gives delta_m; among_fresh: nearest-neighbour
    distance within a set of as many fresh pictures as S' has, gives delta_s.
    """
    return Thresholds(
        metric=metric,
        delta_m=low_quantile(to_training, alpha),
        delta_s=low_quantile(among_fresh, alpha),
        source=source,
        n_controls=len(to_training),
        calibrated=True,
        others={
            other: (
                quantile_or_smallest(to_training, other),
                quantile_or_smallest(among_fresh, other),
            )
            for other in (STRICT_ALPHA, LOOSE_ALPHA)
        },
    )
