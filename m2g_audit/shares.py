"""Shares of the states among a prompt's samples: intervals to print, and bounds to judge by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m2g_audit.intervals import LEVEL, Interval, clopper_pearson, share_intervals
from m2g_audit.states import State

WORD_ALPHA = 0.025
"""Error of the one-sided bound that a word needs. Shares sum to one, so two words can be wrong."""

DUPLICATED = (State.SPURIOUS, State.ATTRACTOR)


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
    chances: Sequence[float] | None = None,
    level: float = LEVEL,
    alpha: float = WORD_ALPHA,
) -> Shares:
    """Return the share of each state among the samples that did not fail.

    Only states that can occur are compared: without a reference those are `attractor` and
    `generalized`. A share that cannot be known ([0, 1]) or is zero by definition ([0, 0]) has the
    reason as its method. n_duplicates: of each sample (RepeatSeedCheck.n_duplicates); without it
    the samples are taken as independent of one another, which duplicates are not. chances: that
    each sample has a duplicate among |S'| - 1 others (states.duplicate_chances), by default 0 or 1
    as its state says: a sample counts as duplicated with that chance and as new with the rest.
    """
    possible = [State.GENERALIZED, State.ATTRACTOR]
    if has_reference:
        possible = [State.MEMORIZED, State.GENERALIZED]
        possible.append(State.SPURIOUS if reference_complete else State.ATTRACTOR)
    counts = _counts(states, chances, possible)
    n = sum(state != State.FAILED for state in states)
    unsure = float(sum(state == State.UNSURE for state in states))
    effects = dict.fromkeys(possible, 1.0)
    if n_duplicates is not None:
        effects = _design_effects(states, counts, n_duplicates)
    intervals = share_intervals(counts, n, level, design_effect=effects, unsure=unsure)
    unknown = Interval(0.0, 0.0, 1.0, level, "not measured: needs a complete reference")
    never = Interval(0.0, 0.0, 0.0, level, "none by definition: the reference is complete")
    absent = never if reference_complete else unknown
    low, high = {}, {}
    for state in possible:
        effect = effects[state]
        of = n / effect
        each = clopper_pearson(counts[state] / effect, of, 1 - 2 * alpha)
        low[state] = each.low
        more = min(of, (counts[state] + unsure) / effect)
        high[state] = clopper_pearson(more, of, 1 - 2 * alpha).high
    names = (State.MEMORIZED, State.SPURIOUS, State.ATTRACTOR, State.GENERALIZED)
    found = {state: intervals.get(state, absent) for state in names}
    return Shares(
        found,
        {state: low.get(state, found[state].low) for state in names},
        {state: high.get(state, found[state].high) for state in names},
    )


def _counts(
    states: Sequence[State], chances: Sequence[float] | None, possible: Sequence[State]
) -> dict[State, float]:
    counts = dict.fromkeys(possible, 0.0)
    duplicated = next(state for state in DUPLICATED if state in possible)
    for i, state in enumerate(states):
        if state in (State.GENERALIZED, *DUPLICATED):
            chance = float(state in DUPLICATED) if chances is None else float(chances[i])
            counts[duplicated] += chance
            counts[State.GENERALIZED] += 1 - chance
        elif state in counts:
            counts[state] += 1
    return counts


def _design_effects(
    states: Sequence[State], counts: Mapping[State, float], n_duplicates: Sequence[int]
) -> dict[State, float]:
    """Return by how much the variance of each share exceeds that of independent samples.

    A match in S is each sample's own affair. A duplicate that is a pair appears two samples at a
    time, so shares made of pairs have twice the binomial variance; hits of a frequent attractor are
    independent. Without any duplicate the next to appear would be a pair. The share that is new is
    one minus the others: its effect is theirs, by their weight.
    """
    own = [
        k
        for state, k in zip(states, n_duplicates, strict=True)
        if state in (State.GENERALIZED, *DUPLICATED) and k
    ]
    effect = 1 + sum(k == 1 for k in own) / len(own) if own else 2.0
    matched = counts.get(State.MEMORIZED, 0.0)
    repeated = max(1.0, sum(counts.get(state, 0.0) for state in DUPLICATED))
    new = (matched + effect * repeated) / (matched + repeated)
    effects = {State.MEMORIZED: 1.0, State.GENERALIZED: new, **dict.fromkeys(DUPLICATED, effect)}
    return {state: effects[state] for state in counts}
