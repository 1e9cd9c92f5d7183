"""Two runs of the same prompts: what got worse, what got better, and what may be chance.

Prompts are matched by their text. Fisher's exact test asks of each one whether its share of
duplicated seeds differs and, where both runs have a reference, its share of memorized ones; the two
together give one p (Bonferroni). Among more seeds more are duplicated, so a seed counts with its
chance of a duplicate among |S'| = 16 seeds, or as many as the run with fewer has of the prompt.
Over prompts, Benjamini and Hochberg's procedure (1995) keeps the share of prompts that are said to
have changed although they did not under 1 - level, on average.

Memorized seeds don't depend on each other, so of them the test is exact. Duplicated ones do: two
seeds become duplicates together, and their number varies up to twice as much. The test is put at
the sample size that takes this out, an approximation. On prompts of pocket that did not change it
errs (p <= 0.05) in 0.2%, 2.5% of the worst caption, with 16 seeds, and said no false change in 200
lists of all of them; as if seeds were independent it was 1.4%, 12%, and 5% of the lists. In the
worst of 120 simulated worlds it errs in 5.9%, and p under 0.0001 come 4 times too often (11% and 20
times as if independent; benchmarks/results/compare_errors.md). Runs with the same --seed share
their noise, so that they differ less, and the tests err less.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from m2g_audit.errors import UsageError
from m2g_audit.records.part import Part
from m2g_audit.records.record import AuditRecord, SeedRecord, ThresholdRecord
from m2g_audit.records.vocabulary import StateWord, VerdictWord
from m2g_audit.review.gate import severity
from m2g_audit.store.batch_directory import BatchRecord
from m2g_audit.store.run_directory import differences
from m2g_audit.store.stored_run import StoredRun
from m2g_audit.verdict.states import S_PRIME, duplicate_chances

LEVEL = 0.95
_ROUNDING = 1e-9
Direction = Literal["worse", "better", "same"]


class Side(Part):
    """What one run says of a prompt; failed pictures are left out."""

    verdict: VerdictWord
    """The word."""
    severity: int
    """The worst that it may be (gate.py), as a number."""
    seeds: int
    """How many pictures."""
    states: dict[StateWord, int]
    """Pictures by state."""
    memorized: int | None
    """How many are memorized; null without a reference."""
    among: int
    """Duplicates are counted among so many seeds, as the run with fewer has."""
    duplicated: float
    """The sum of each seed's chance to have a duplicate among them, a whole number where there
    are no more."""
    paired: float
    """That of the seeds with one duplicate in all."""

    @property
    def share(self) -> float:
        """Return the share of duplicated seeds, 0 where there is no picture."""
        return self.duplicated / self.seeds if self.seeds else 0.0


class Change(Part):
    """One prompt in both runs."""

    prompt: str
    """The prompt."""
    id: str
    """Its id."""
    before: Side
    """What the first run says."""
    after: Side
    """What the second run says."""
    direction: Direction
    """By severity, then by the shares that are not new, duplicated and memorized."""
    change: float
    """Of the share of duplicated seeds, after minus before."""
    low: float
    """The lower end of its interval."""
    high: float
    """The upper end of its interval."""
    p_duplicated: float
    """Fisher's exact test of duplicated seeds."""
    p_memorized: float | None
    """Fisher's exact test of memorized seeds; null without a reference."""
    p: float
    """Both together."""
    q: float
    """The same over all prompts (Benjamini and Hochberg)."""
    significant: bool
    """Whether q is at most 1 - level."""


class Comparison(Part):
    """Two runs side by side."""

    schema_version: str = "2.0"
    """Of this schema."""
    before: str
    """The folder of the first run."""
    after: str
    """The folder of the second run."""
    level: float
    """Of intervals and tests."""
    notices: list[str]
    """What makes the runs unlike each other."""
    changes: list[Change]
    """Every prompt of both, the significant and worse first."""
    only_before: list[str]
    """Prompts of the first run alone."""
    only_after: list[str]
    """Prompts of the second run alone."""
    failed: list[str]
    """Prompts that failed in one of the two."""

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
class _Seen:
    """What is kept of a record: of each picture that did not fail its state and its duplicates."""

    verdict: VerdictWord
    severity: int
    has_reference: bool
    states: tuple[StateWord, ...]
    n_duplicates: tuple[int, ...]
    thresholds: ThresholdRecord | None

    def side(self, among: int) -> Side:
        """Return the counts, of duplicates among so many seeds."""
        n, counts = len(self.states), Counter(self.states)
        k = np.array(self.n_duplicates, dtype=np.int64)
        chances = duplicate_chances(k, n, among)
        return Side(
            verdict=self.verdict,
            severity=self.severity,
            seeds=n,
            states=dict(counts),
            memorized=counts["memorized"] if self.has_reference else None,
            among=min(n, among),
            duplicated=float(chances.sum()),
            paired=float(chances[k == 1].sum()),
        )


@dataclass(frozen=True)
class _Read:
    """A run's prompts, reduced to what is compared; None for one that failed."""

    prompts: dict[str, _Seen | None]
    ids: dict[str, str]
    first: BatchRecord | None


def compare(before: StoredRun, after: StoredRun, level: float = LEVEL) -> Comparison:
    """Return what changed from one run to the other.

    Prompts may have another number of seeds in each run, as with --seeds auto. UsageError where the
    runs measure by different distances. Other settings that differ are said in the notices, and
    so are thresholds, and the rule that gave them.
    """
    old, new = _read(before), _read(after)
    if old.first is not None and new.first is not None:
        _refuse_unlike(old.first, new.first)
    both = [prompt for prompt in new.prompts if prompt in old.prompts]
    matched = {
        prompt: (a, b)
        for prompt in both
        if (a := old.prompts[prompt]) is not None and (b := new.prompts[prompt]) is not None
    }
    pairs = [(prompt, *_alike(a, b)) for prompt, (a, b) in matched.items()]
    return Comparison(
        before=str(before.path),
        after=str(after.path),
        level=level,
        notices=[
            *before.notices,
            *after.notices,
            *_notices(before, after, old.first, new.first),
            *_notices_of_seeds([(a, b) for _, a, b in pairs]),
            *_notices_of_thresholds([*matched.values()]),
        ],
        changes=_changes(pairs, new.ids, level),
        only_before=[prompt for prompt in old.prompts if prompt not in new.prompts],
        only_after=[prompt for prompt in new.prompts if prompt not in old.prompts],
        failed=[prompt for prompt in both if prompt not in matched],
    )


def _alike(a: _Seen, b: _Seen) -> tuple[Side, Side]:
    among = min(S_PRIME, len(a.states), len(b.states))
    return a.side(among), b.side(among)


def _read(run: StoredRun) -> _Read:
    prompts: dict[str, _Seen | None] = {}
    ids: dict[str, str] = {}
    first = None
    for record in run.records():
        failed = record.error is not None
        prompts[record.texts] = None if failed else _seen(record)
        ids[record.texts] = record.listed.id
        if first is None and not failed:
            first = record
    return _Read(prompts, ids, first)


def _seen(record: AuditRecord) -> _Seen:
    valid = [seed for seed in record.seeds if seed.state != "failed"]
    return _Seen(
        verdict=record.verdict.state,
        severity=int(severity(record)),
        has_reference=record.reference is not None,
        states=tuple(seed.state for seed in valid),
        n_duplicates=tuple(_n_duplicates(record, valid)),
        thresholds=record.thresholds,
    )


def _n_duplicates(record: AuditRecord, valid: Sequence[SeedRecord]) -> Iterator[int]:
    """Yield how many others each seed repeats: those of its attractor, or what its chance says."""
    n, loose = len(valid), set(record.loose)
    by_number = duplicate_chances(np.arange(n), n)
    for seed in valid:
        known = int(seed.index in loose)
        if seed.attractor is not None:
            known = len(record.attractors[seed.attractor].seeds) - 1
        chance = min(seed.chance or 0.0, by_number[-1]) - _ROUNDING
        yield max(known, int(np.searchsorted(by_number, chance)))


def _refuse_unlike(before: AuditRecord, after: AuditRecord) -> None:
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
    identities = _identity(before, old), _identity(after, new)
    if any("configuration" not in identity for identity in identities):
        # An older version did not keep it: that tells nothing about the models.
        for identity in identities:
            identity.pop("configuration", None)
    if changed := differences(*identities, there="before"):
        yield f"The runs differ in {changed}."
    if old is None or new is None:
        return
    if (old.reference and old.reference.sha256) != (new.reference and new.reference.sha256):
        yield "The reference pictures differ: so may what counts as memorized."


def _identity(run: StoredRun, record: AuditRecord | None) -> dict[str, Any]:
    """A run's identity, with the name of its model, which is no part of it."""
    return run.identity | ({} if record is None else {"model": record.model.id})


def _notices_of_seeds(pairs: Sequence[tuple[Side, Side]]) -> Iterator[str]:
    numbers = {side.seeds for pair in pairs for side in pair}
    if (
        any(before.seeds != after.seeds for before, after in pairs)
        or max(numbers, default=0) > S_PRIME
    ):
        few, many = min(numbers), max(numbers)
        yield (
            f"Prompts have {few} to {many} seeds: a seed counts as duplicated with its chance of a "
            f"duplicate among {S_PRIME} seeds, or among as many as the run with fewer has."
        )


def _notices_of_thresholds(pairs: Sequence[tuple[_Seen, _Seen]]) -> Iterator[str]:
    rules = {(_rule(before), _rule(after)) for before, after in pairs}
    for before, after in sorted(rules):
        if before != after:
            yield (
                f"Thresholds come from another rule, {before} before and {after} now: a change of "
                "a verdict may be one of the thresholds."
            )
    for name, what in (("delta_s", "a duplicate"), ("delta_m", "memorized")):
        limits = [tuple(_limit(seen, name) for seen in pair) for pair in pairs]
        others = [pair for pair in limits if pair[0] != pair[1]]
        if others:
            yield (
                f"{name} is {others[0][0]} before and {others[0][1]} now for "
                f"{len(others):,} of {len(pairs):,} prompts: what counts as {what} differs."
            )


def _rule(seen: _Seen) -> str:
    return "none" if seen.thresholds is None else seen.thresholds.rule


def _limit(seen: _Seen, name: str) -> str:
    limit = None if seen.thresholds is None else getattr(seen.thresholds, name)
    return "none" if limit is None else f"{limit:.3g}"


def _changes(
    pairs: Sequence[tuple[str, Side, Side]], ids: Mapping[str, str], level: float
) -> list[Change]:
    if not pairs:
        return []
    from scipy import stats

    tests = [p_values(a, b) for _, a, b in pairs]
    q = stats.false_discovery_control([p.both for p in tests])
    changes = []
    for i, (prompt, a, b) in enumerate(pairs):
        low, high = difference(a, b, level)
        changes.append(
            Change(
                prompt=prompt,
                id=ids[prompt],
                before=a,
                after=b,
                direction=_direction(a, b),
                change=b.share - a.share,
                low=low,
                high=high,
                p_duplicated=tests[i].duplicated,
                p_memorized=tests[i].memorized,
                p=tests[i].both,
                q=float(q[i]),
                significant=bool(q[i] <= 1 - level),
            )
        )
    return sorted(changes, key=_rank)


def _direction(before: Side, after: Side) -> Direction:
    old, new = _badness(before), _badness(after)
    if new == old:
        return "same"
    return "worse" if new > old else "better"


def _badness(side: Side) -> tuple[float, ...]:
    n = side.seeds or 1
    new, memorized = side.states.get("generalized", 0), side.memorized or 0
    return (side.severity, -new / n, side.share, memorized / n)


def _rank(change: Change) -> tuple[bool, bool, float, float]:
    return (not change.significant, change.direction != "worse", change.q, -abs(change.change))


# -- the tests


@dataclass(frozen=True)
class PValues:
    """Of duplicated seeds, and of memorized ones where both sides know them."""

    duplicated: float
    memorized: float | None

    @property
    def both(self) -> float:
        """Return the p of both questions together (Bonferroni)."""
        if self.memorized is None:
            return self.duplicated
        return min(1.0, 2 * min(self.duplicated, self.memorized))


def p_values(before: Side, after: Side) -> PValues:
    """Return Fisher's exact tests of the shares of duplicated and of memorized seeds.

    That of duplicated ones is at the sample sizes that their dependence leaves, rounded.
    """
    effect = _design_effect(before, after)
    duplicated = fisher_exact(*_effective(before, effect), *_effective(after, effect))
    if before.memorized is None or after.memorized is None:
        return PValues(duplicated, None)
    memorized = fisher_exact(before.memorized, before.seeds, after.memorized, after.seeds)
    return PValues(duplicated, memorized)


def _design_effect(*sides: Side) -> float:
    """The variance of the duplicated seeds' number over that of independent ones, from 1 to 2.

    For X hits of an attractor, Poisson with mean m, the variance of X 1[X >= 2] is its mean, plus
    twice the mean of X 1[X = 2], minus m^2 e^(-2m). Without the last term the ratio is not too
    small, and 2 is what it is where attractors are rare, as where nothing repeated.
    """
    duplicated = sum(side.duplicated for side in sides)
    paired = sum(side.paired for side in sides)
    return min(2.0, 1 + 2 * paired / duplicated) if duplicated else 2.0


def _effective(side: Side, effect: float) -> tuple[int, int]:
    n = round(side.seeds / effect)
    return min(n, round(side.duplicated / effect)), n


@cache
def fisher_exact(count_before: int, n_before: int, count_after: int, n_after: int) -> float:
    """Return the p-value of Fisher's exact test of two shares, 1 where one has no seeds."""
    from scipy import stats

    table = [[count_before, n_before - count_before], [count_after, n_after - count_after]]
    return float(stats.fisher_exact(table).pvalue) if n_before and n_after else 1.0


def difference(before: Side, after: Side, level: float = LEVEL) -> tuple[float, float]:
    """Return an interval for the change of the share of duplicated seeds.

    Newcombe's (1998, method 10), which puts Wilson's intervals of the two together, each at the
    sample size that the dependence of duplicates leaves; [-1, 1] where one has no seeds.
    """
    if not before.seeds or not after.seeds:
        return -1.0, 1.0
    p, q = before.share, after.share
    old = wilson(p, before.seeds / _design_effect(before), level)
    new = wilson(q, after.seeds / _design_effect(after), level)
    low = q - p - math.hypot(q - new[0], old[1] - p)
    high = q - p + math.hypot(new[1] - q, p - old[0])
    return low, high


def wilson(share: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval (1927) of a share among n, which need not be whole."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)
