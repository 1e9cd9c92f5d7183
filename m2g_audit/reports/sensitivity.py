"""How a prompt's shares move with its thresholds: from half of both to twice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2g_audit.records.record import AuditRecord, ThresholdRecord
from m2g_audit.verdict.shares import find_shares
from m2g_audit.verdict.states import S_PRIME, State, classify, duplicate_chances
from m2g_audit.verdict.thresholds import Thresholds

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

FACTORS: FloatArray = 2 ** np.linspace(-1, 1, 41)
_STACKED = (
    State.MEMORIZED,
    State.SPURIOUS,
    State.ATTRACTOR,
    State.UNSURE,
    State.GENERALIZED,
)


@dataclass(frozen=True)
class _Distances:
    """Of n generations: [n, n] among each other, [n] to S and their ratios; None without S."""

    pairs: FloatArray
    to_reference: FloatArray | None
    ratios: FloatArray | None
    failed: BoolArray


def shares_by_factor(record: AuditRecord, pairs: FloatArray) -> dict[State, FloatArray] | None:
    """Return the share of each state that occurs, for both thresholds times each of FACTORS.

    pairs: [n, n] distances between the record's generations. Shares sum to one; those at a factor
    of 1 are the record's. None where the record has no thresholds, or distances are missing.
    """
    distances = _distances(record, pairs)
    if distances is None or record.thresholds is None:
        return None
    thresholds = _thresholds(record.thresholds)
    complete = record.reference is not None and record.reference.complete
    each = [_shares(distances, thresholds.scaled(float(f)), complete) for f in FACTORS]
    found = {state: np.array([shares[state] for shares in each]) for state in _STACKED}
    return {state: shares for state, shares in found.items() if shares.any()}


def _distances(record: AuditRecord, pairs: FloatArray) -> _Distances | None:
    n, limits = len(record.seeds), record.thresholds
    failed = np.array([seed.state == "failed" for seed in record.seeds], dtype=bool)
    if limits is None or limits.delta_s is None or pairs.shape != (n, n) or (~failed).sum() < 2:
        return None
    if record.reference is None:
        return _Distances(pairs, None, None, failed)
    if limits.delta_m is None:
        return None
    nearest = [seed.nearest_reference for seed in record.seeds]
    if any(one is None for one, out in zip(nearest, failed, strict=True) if not out):
        return None
    ratios = [np.nan if one is None or one.ratio is None else one.ratio for one in nearest]
    to_reference = [np.inf if one is None else one.distance for one in nearest]
    return _Distances(pairs, np.array(to_reference), np.array(ratios), failed)


def _thresholds(limits: ThresholdRecord) -> Thresholds:
    return Thresholds(
        metric=limits.metric,
        delta_m=limits.delta_m,
        delta_s=limits.delta_s,
        source=limits.source,
        n_controls=limits.controls or 0,
        calibrated=limits.calibrated,
        ratio=limits.ratio,
    )


def _shares(found: _Distances, thresholds: Thresholds, complete: bool) -> dict[State, float]:
    """The shares as `rule.read` finds them, which loads torch."""
    assert thresholds.delta_s is not None
    valid = ~found.failed
    near = (found.pairs <= thresholds.delta_s) & valid[:, None] & valid[None, :]
    np.fill_diagonal(near, False)
    chances = duplicate_chances(near.sum(axis=1), int(valid.sum()))
    states = classify(
        found.to_reference,
        np.where(chances >= 0.5, 0.0, np.inf),
        thresholds,
        ratios=found.ratios,
        reference_complete=complete,
        failed=found.failed,
    )
    shares = find_shares(
        states,
        has_reference=found.to_reference is not None,
        reference_complete=complete,
        n_duplicates=near.sum(axis=1).tolist(),
        size=S_PRIME,
    )
    unsure = states.count(State.UNSURE) / int(valid.sum())
    return {s: i.estimate for s, i in shares.intervals.items()} | {State.UNSURE: unsure}
