"""Two runs of the same prompts: what got worse, what got better, and what may be chance.

Prompts are matched by their text. For each one two questions are put to Fisher's exact test: does
the share of duplicated seeds differ, and do the counts of states? Over prompts, Benjamini and
Hochberg's procedure (1995) keeps the expected share of false answers to each question under
1 - level. The test takes seeds for independent draws, but duplicates come in pairs: of prompts with
many rare attractors, which don't change, 5% to 10% get p <= 0.05 (16 and 32 seeds, measured in
tests/test_compare.py); of prompts with one or a few attractors less than 5%.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.special import gammaln
from scipy.stats import binomtest, false_discovery_control

from m2g_audit.batch_directory import BatchRecord
from m2g_audit.errors import UsageError
from m2g_audit.gate import severity
from m2g_audit.records import AuditRecord, StateWord, VerdictWord
from m2g_audit.runs import differences
from m2g_audit.stored_runs import StoredRun

LEVEL = 0.95
STATES: tuple[StateWord, ...] = ("memorized", "attractor", "spurious", "generalized")
Direction = Literal["worse", "better", "same"]
# Tables as probable as the one seen, up to rounding, count as equally probable.
_TIES = 1 + 1e-9


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Side(_Part):
    """What one run says of a prompt: its verdict, and how many of `seeds` pictures are what.

    `duplicated`: seeds that another one repeats; failed pictures are not among the `seeds`.
    """

    verdict: VerdictWord
    severity: int
    seeds: int
    duplicated: int
    states: dict[StateWord, int]

    @property
    def share(self) -> float:
        """Return the share of duplicated seeds, 0 where there is no picture."""
        return self.duplicated / self.seeds if self.seeds else 0.0


class Change(_Part):
    """One prompt in both runs.

    `change` of the share of duplicated seeds, after minus before, with Newcombe's interval
    (1998, method 10) from `low` to `high`. `p_` are Fisher's exact tests of duplicated seeds and of
    the counts of states, `q_` the same over all prompts (Benjamini and Hochberg). `significant`:
    one of the q is at most 1 - level. `direction`: by severity, then by the share that is not new,
    then by that of duplicated seeds.
    """

    prompt: str
    id: str
    before: Side
    after: Side
    direction: Direction
    change: float
    low: float
    high: float
    p_duplicated: float
    q_duplicated: float
    p_states: float
    q_states: float
    significant: bool


class Comparison(_Part):
    """Two runs side by side; `changes` has every prompt of both, the significant and worse first.

    `only_before`, `only_after` and `failed` (in one of the two) are prompts that can't be compared.
    """

    schema_version: str = "1.0"
    before: str
    after: str
    level: float
    notices: list[str]
    changes: list[Change]
    only_before: list[str]
    only_after: list[str]
    failed: list[str]

    def significant(self, direction: Direction) -> list[Change]:
        """Return the significant changes in one direction."""
        return [one for one in self.changes if one.significant and one.direction == direction]

    @property
    def within_chance(self) -> list[Change]:
        """Return prompts with another verdict whose difference may be chance."""
        return [
            one
            for one in self.changes
            if not one.significant and one.before.verdict != one.after.verdict
        ]


@dataclass(frozen=True)
class _Read:
    """A run's prompts, reduced to what is compared; None for one that failed."""

    sides: dict[str, Side | None]
    first: BatchRecord | None


def compare(before: StoredRun, after: StoredRun, level: float = LEVEL) -> Comparison:
    """Return what changed from one run to the other.

    UsageError where the two don't count the same: another number of seeds (with more seeds more of
    them are duplicated) or another distance. Other settings that differ are said in the notices.
    """
    old, new = _read(before), _read(after)
    if old.first is not None and new.first is not None:
        _refuse_unlike(old.first, new.first)
    both = [prompt for prompt in new.sides if prompt in old.sides]
    pairs = [
        (prompt, a, b)
        for prompt in both
        if (a := old.sides[prompt]) is not None and (b := new.sides[prompt]) is not None
    ]
    matched = {prompt for prompt, _, _ in pairs}
    return Comparison(
        before=str(before.path),
        after=str(after.path),
        level=level,
        notices=list(_notices(before, after, old.first, new.first)),
        changes=_changes(pairs, level),
        only_before=[prompt for prompt in old.sides if prompt not in new.sides],
        only_after=[prompt for prompt in new.sides if prompt not in old.sides],
        failed=[prompt for prompt in both if prompt not in matched],
    )


def _read(run: StoredRun) -> _Read:
    sides: dict[str, Side | None] = {}
    first = None
    for record in run.records():
        failed = record.error is not None
        sides[record.prompt] = None if failed else side(record)
        if first is None and not failed:
            first = record
    return _Read(sides, first)


def side(record: AuditRecord) -> Side:
    """Return what a record says, as counts of seeds."""
    states = Counter[StateWord](s.state for s in record.seeds if s.state != "failed")
    loose = set(record.loose)
    repeated = [s for s in record.seeds if s.attractor is not None or s.index in loose]
    return Side(
        verdict=record.verdict.state,
        severity=int(severity(record)),
        seeds=states.total(),
        duplicated=len(repeated),
        states={state: states[state] for state in STATES if states[state]},
    )


def _refuse_unlike(before: AuditRecord, after: AuditRecord) -> None:
    seeds = (before.settings.seeds, after.settings.seeds)
    if seeds[0] != seeds[1]:
        raise UsageError(
            f"The runs have {seeds[0]} and {seeds[1]} seeds a prompt: among more seeds more are "
            "duplicated, so that their shares can't be compared. Audit again with the same --seeds."
        )
    metrics = (before.settings.metric, after.settings.metric)
    if metrics[0] != metrics[1]:
        raise UsageError(
            f"The runs take pictures for the same by different distances, {metrics[0]} and "
            f"{metrics[1]}. Audit again with the same --metric."
        )


def _notices(
    before: StoredRun,
    after: StoredRun,
    old: AuditRecord | None,
    new: AuditRecord | None,
) -> Iterator[str]:
    if changed := differences(before.identity, after.identity):
        yield f"The runs differ in {changed.replace(' there', ' before')}."
    if old is None or new is None:
        return
    thresholds = [record.thresholds and record.thresholds.delta_s for record in (old, new)]
    if thresholds[0] != thresholds[1]:
        shown = [f"{limit:.3g}" if limit is not None else "none" for limit in thresholds]
        yield (
            f"delta_s is {shown[0]} before and {shown[1]} now: what counts as a duplicate differs."
        )
    if (old.reference and old.reference.sha256) != (new.reference and new.reference.sha256):
        yield "The reference pictures differ: so may what counts as memorized."


def _changes(pairs: Sequence[tuple[str, Side, Side]], level: float) -> list[Change]:
    from m2g_audit.prompt_list import prompt_id

    if not pairs:
        return []
    p_duplicated = [
        fisher_exact((a.duplicated, a.seeds - a.duplicated), (b.duplicated, b.seeds - b.duplicated))
        for _, a, b in pairs
    ]
    p_states = [fisher_exact(_counts(a), _counts(b)) for _, a, b in pairs]
    q_duplicated, q_states = (false_discovery_control(p) for p in (p_duplicated, p_states))
    changes = []
    for i, (prompt, a, b) in enumerate(pairs):
        low, high = newcombe(a.duplicated, a.seeds, b.duplicated, b.seeds, level)
        changes.append(
            Change(
                prompt=prompt,
                id=prompt_id(prompt),
                before=a,
                after=b,
                direction=_direction(a, b),
                change=b.share - a.share,
                low=low,
                high=high,
                p_duplicated=p_duplicated[i],
                q_duplicated=float(q_duplicated[i]),
                p_states=p_states[i],
                q_states=float(q_states[i]),
                significant=bool(min(q_duplicated[i], q_states[i]) <= 1 - level),
            )
        )
    return sorted(changes, key=_rank)


def _counts(one: Side) -> tuple[int, ...]:
    return tuple(one.states.get(state, 0) for state in STATES)


def _direction(before: Side, after: Side) -> Direction:
    old, new = (
        (one.severity, one.seeds and 1 - one.states.get("generalized", 0) / one.seeds, one.share)
        for one in (before, after)
    )
    if new == old:
        return "same"
    return "worse" if new > old else "better"


def _rank(change: Change) -> tuple[bool, bool, float, float]:
    q = min(change.q_duplicated, change.q_states)
    return (not change.significant, change.direction != "worse", q, -abs(change.change))


# -- the tests


@cache
def fisher_exact(before: tuple[int, ...], after: tuple[int, ...]) -> float:
    """Return the p-value of Fisher's exact test of two rows of counts over the same categories.

    For more than two categories it is Freeman and Halton's (1951): the probability, given the sums
    of rows and columns, of all tables that are at most as probable as this one. 1 where a row is
    empty.
    """
    columns = [a + b for a, b in zip(before, after, strict=True) if a + b]
    n = sum(before)
    if not n or not sum(after):
        return 1.0
    seen = np.array([a for a, b in zip(before, after, strict=True) if a + b])
    logs = _log_choices(_tables(columns, n), columns)
    here = float(_log_choices(seen[None], columns)[0])
    total = _log_choose(np.array(sum(columns)), np.array(n))
    chosen = logs[logs <= here + math.log(_TIES)]
    return min(1.0, float(np.exp(chosen - total).sum()))


def _tables(columns: Sequence[int], n: int) -> NDArray[np.int64]:
    """All first rows [t, k] of sum n, whose entries are at most the columns' sums."""
    rows = np.zeros((1, 0), dtype=np.int64)
    for i, size in enumerate(columns):
        room = sum(columns[i + 1 :])
        left = n - rows.sum(axis=1)
        parts = []
        for value in range(size + 1):
            kept = (left >= value) & (left - value <= room)
            column = np.full((int(kept.sum()), 1), value)
            parts.append(np.hstack([rows[kept], column]))
        rows = np.concatenate(parts)
    return rows


def _log_choices(rows: NDArray[np.int64], columns: Sequence[int]) -> NDArray[np.float64]:
    return _log_choose(np.array(columns), rows).sum(axis=1)


def _log_choose(n: NDArray[np.int64], k: NDArray[np.int64]) -> NDArray[np.float64]:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


@cache
def newcombe(
    count_before: int, n_before: int, count_after: int, n_after: int, level: float = LEVEL
) -> tuple[float, float]:
    """Return Newcombe's interval (1998, method 10) for a difference of shares, after - before.

    It puts Wilson's intervals of the two together; [-1, 1] where one has no seeds.
    """
    if not n_before or not n_after:
        return -1.0, 1.0
    p, q = count_before / n_before, count_after / n_after
    old = binomtest(count_before, n_before).proportion_ci(level, "wilson")
    new = binomtest(count_after, n_after).proportion_ci(level, "wilson")
    low = q - p - math.hypot(q - new.low, old.high - p)
    high = q - p + math.hypot(new.high - q, p - old.low)
    return low, high
