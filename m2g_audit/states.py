"""States of samples (Eq. 9-11), thresholds, and the verdict on a prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from m2g_audit.errors import NumericsError, UsageError
from m2g_audit.intervals import LEVEL, Interval, share_intervals

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

ALPHA = 0.01
UNDETECTED_LIMIT = 0.3


class State(StrEnum):
    """State of one sample; it belongs to a distance, its thresholds, S, and the size of S'."""

    MEMORIZED = "memorized"  # within delta_m of a training picture (Eq. 9)
    SPURIOUS = "spurious"  # duplicated, and in no part of a complete training set (Eq. 10)
    GENERALIZED = "generalized"  # neither (Eq. 11)
    ATTRACTOR = "attractor"  # duplicated; whether from the training set is not known
    FAILED = "failed"  # flat or non-finite picture: left out of all shares


class Verdict(StrEnum):
    """Verdict on a prompt; `verdict` gives the rule."""

    MEMORIZED = "memorized"
    SPURIOUS = "spurious"
    GENERALIZED = "generalized"
    ATTRACTOR = "attractor"
    MIXED = "mixed"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Thresholds:
    """delta_m and delta_s of Eq. 9 and 10 with the distance they belong to.

    None where there is no such threshold. source: one sentence on where they come from;
    n_controls: prompts or pictures they were taken from; calibrated: whether they were measured for
    this model and distance (else the record says `uncalibrated`).
    """

    metric: str
    delta_m: float | None
    delta_s: float | None
    source: str
    n_controls: int
    calibrated: bool

    def scaled(self, factor: float) -> Thresholds:
        """Return the thresholds times `factor`, for the results at half and at twice of them."""
        return Thresholds(
            metric=self.metric,
            delta_m=None if self.delta_m is None else factor * self.delta_m,
            delta_s=None if self.delta_s is None else factor * self.delta_s,
            source=f"{factor:g} x ({self.source})",
            n_controls=self.n_controls,
            calibrated=self.calibrated,
        )


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
            f"{math.ceil(1 / alpha - 1e-9) - 1}."
        )
    return float(ordered[rank - 1])


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
    )


def classify(
    nearest_reference: FloatArray | None,
    nearest_sample: FloatArray,
    thresholds: Thresholds,
    *,
    reference_complete: bool = False,
    failed: BoolArray | None = None,
) -> list[State]:
    """Return the state of every sample (Eq. 9-11).

    nearest_reference: [n] distance to the nearest picture of S, None without one; nearest_sample:
    [n] distance to the nearest other sample of S'. Both thresholds are closed. A duplicate without
    a match is `spurious` only if S is known to be complete, else `attractor`.
    """
    if thresholds.delta_s is None:
        raise UsageError("There is no delta_s: calibrate, or give the threshold.")
    n = len(nearest_sample)
    failed = np.zeros(n, dtype=bool) if failed is None else failed
    matched = np.zeros(n, dtype=bool)
    if nearest_reference is not None:
        if thresholds.delta_m is None:
            raise UsageError("There is a reference but no delta_m: calibrate, or give it.")
        matched = nearest_reference <= thresholds.delta_m
    duplicated = nearest_sample <= thresholds.delta_s
    complete = reference_complete and nearest_reference is not None
    unmatched = State.SPURIOUS if complete else State.ATTRACTOR
    states = []
    for i in range(n):
        if failed[i]:
            states.append(State.FAILED)
        elif matched[i]:
            states.append(State.MEMORIZED)
        else:
            states.append(unmatched if duplicated[i] else State.GENERALIZED)
    return states


def fractions(
    states: Sequence[State],
    *,
    has_reference: bool,
    reference_complete: bool = False,
    n_duplicates: Sequence[int] | None = None,
    level: float = LEVEL,
) -> dict[State, Interval]:
    """Return the share of each state among the samples that did not fail, intervals simultaneous.

    Only states that can occur are compared: without a reference those are `attractor` and
    `generalized`. A share that cannot be known ([0, 1]) or is zero by definition ([0, 0]) has the
    reason as its method. n_duplicates: of each sample (RepeatSeedCheck.n_duplicates); without it
    the samples are taken as independent of one another, which duplicates are not.
    """
    possible = [State.GENERALIZED, State.ATTRACTOR]
    if has_reference:
        possible = [State.MEMORIZED, State.GENERALIZED]
        possible.append(State.SPURIOUS if reference_complete else State.ATTRACTOR)
    counts = {state: sum(s == state for s in states) for state in possible}
    effects = {} if n_duplicates is None else _design_effects(states, n_duplicates)
    shares = share_intervals(counts, level, design_effect=effects)
    unknown = Interval(0.0, 0.0, 1.0, level, "not measured: needs a complete reference")
    never = Interval(0.0, 0.0, 0.0, level, "none by definition: the reference is complete")
    names = (State.MEMORIZED, State.SPURIOUS, State.ATTRACTOR, State.GENERALIZED)
    absent = never if reference_complete else unknown
    return {state: shares.get(state, absent) for state in names}


def _design_effects(states: Sequence[State], n_duplicates: Sequence[int]) -> dict[State, float]:
    """Return by how much the variance of each share exceeds that of independent samples.

    A match in S is each sample's own affair. A duplicate that is a pair appears two samples at a
    time, so shares made of pairs have twice the binomial variance; hits of a frequent attractor are
    independent. Without any duplicate the next to appear would be a pair.
    """
    own = [
        k
        for state, k in zip(states, n_duplicates, strict=True)
        if state in (State.SPURIOUS, State.ATTRACTOR)
    ]
    effect = 1 + sum(k == 1 for k in own) / len(own) if own else 2.0
    return {State.SPURIOUS: effect, State.ATTRACTOR: effect, State.GENERALIZED: effect}


def verdict(
    states: Sequence[State],
    *,
    undetected_mass: float,
    has_reference: bool,
    reference_complete: bool = False,
    n_duplicates: Sequence[int] | None = None,
    understood: bool = True,
    limit: float = UNDETECTED_LIMIT,
    level: float = LEVEL,
) -> tuple[Verdict, dict[State, Interval]]:
    """Return the verdict on a prompt and the shares it rests on (see `decide`, `fractions`).

    undetected_mass: of RepeatSeedCheck; understood: whether the model knows the prompt's words.
    Fewer than two samples that did not fail are `undecided`.
    """
    shares = fractions(
        states,
        has_reference=has_reference,
        reference_complete=reference_complete,
        n_duplicates=n_duplicates,
        level=level,
    )
    n_valid = sum(state != State.FAILED for state in states)
    if not understood or n_valid < 2:
        return Verdict.UNDECIDED, shares
    told_apart = has_reference and reference_complete
    return decide(shares, undetected_mass, told_apart=told_apart, limit=limit), shares


def decide(
    shares: Mapping[State, Interval],
    undetected_mass: float,
    *,
    told_apart: bool,
    limit: float = UNDETECTED_LIMIT,
) -> Verdict:
    """Return the verdict that intervals of the shares allow. The first rule that applies counts.

    1. `memorized`: the lower bound of that share exceeds one half.
    2. `spurious`: likewise.
    3. `generalized`: likewise, and no attractor of more than `limit` can have been missed; if one
       can, `undecided`.
    4. `mixed`: states are told apart (complete reference) and the upper bound of every share is at
       most one half: none prevails, so at least half of the samples are duplicated or memorized.
    5. `attractor`: the upper bound of `generalized` is under one half, so memorized, spurious and
       attractor samples together prevail, but which of them is not known: for lack of a complete
       reference, or because the intervals of memorized and spurious allow either.
    6. `undecided`: the intervals allow both `generalized` and something else.

    Exact shares (`label`) follow the same rule with intervals of no width.
    """
    for state, word in (
        (State.MEMORIZED, Verdict.MEMORIZED),
        (State.SPURIOUS, Verdict.SPURIOUS),
    ):
        if shares[state].low > 0.5:
            return word
    if shares[State.GENERALIZED].low > 0.5:
        return Verdict.GENERALIZED if undetected_mass <= limit else Verdict.UNDECIDED
    if told_apart and all(share.high <= 0.5 for share in shares.values()):
        return Verdict.MIXED
    if shares[State.GENERALIZED].high < 0.5:
        return Verdict.ATTRACTOR
    return Verdict.UNDECIDED


def verdict_of_named(
    named: Sequence[State],
    measured: Sequence[State],
    n_duplicates: Sequence[int],
    *,
    level: float = LEVEL,
) -> Verdict:
    """Return the word for a prompt that is `attractor` once some samples of that state are named.

    named: states after naming; measured: before; n_duplicates: of each sample. The rule is that of
    `decide`: the lower bound of a share exceeds one half. Else the word stays `attractor`.
    """
    effect = _design_effects(measured, n_duplicates)[State.ATTRACTOR]
    possible = (State.MEMORIZED, State.SPURIOUS, State.ATTRACTOR, State.GENERALIZED)
    counts = {state: sum(s == state for s in named) for state in possible}
    shares = share_intervals(counts, level, design_effect=dict.fromkeys(counts, effect))
    told = (state for state in (State.MEMORIZED, State.SPURIOUS) if shares[state].low > 0.5)
    return Verdict(next(told, State.ATTRACTOR).value)


def label(memorized: float, spurious: float, generalized: float) -> Verdict:
    """Return the verdict for shares that are known exactly, as those of a truth table."""
    shares = {
        State.MEMORIZED: memorized,
        State.SPURIOUS: spurious,
        State.GENERALIZED: generalized,
    }
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"shares must be positive and sum to one, got {shares}")
    exact = {state: Interval(p, p, p, 1.0, "exact") for state, p in shares.items()}
    return decide(exact, 0.0, told_apart=True)
