"""The rule that gives a prompt its word: from distances to states, from states to a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from m2g_audit.verdict.attractors import RepeatSeedCheck, find_attractors
from m2g_audit.verdict.intervals import Interval
from m2g_audit.verdict.limits import UNDETECTED_LIMIT
from m2g_audit.verdict.looks import Look
from m2g_audit.verdict.shares import DUPLICATED, Shares, find_shares
from m2g_audit.verdict.states import S_PRIME, State, classify, duplicate_chances
from m2g_audit.verdict.thresholds import LOOSE_ALPHA, STRICT_ALPHA, Thresholds

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


class Verdict(StrEnum):
    """Verdict on a prompt; `judge` gives the rule."""

    MEMORIZED = "memorized"
    SPURIOUS = "spurious"
    GENERALIZED = "generalized"
    ATTRACTOR = "attractor"
    MIXED = "mixed"
    COLLAPSED = "collapsed"
    UNDECIDED = "undecided"


class Doubt(StrEnum):
    """Why new pictures do not make a prompt `generalized`."""

    MASS = "an attractor may have been missed"
    POWER = "the distance does not find planted copies"
    NO_POWER = "power was not measured"
    RULE_OF_THUMB = "the published rule of thumb says otherwise"


@dataclass(frozen=True)
class Samples:
    """How far the n samples of a prompt are from each other and from S.

    pairs: symmetric [n, n]; nearest_reference, ratios: [n] to S, None without one (ratios are NaN
    where there is none); failed: [n], flat or non-finite pictures.
    """

    pairs: FloatArray
    nearest_reference: FloatArray | None
    failed: BoolArray
    ratios: FloatArray | None = None

    def first(self, count: int) -> Samples:
        """Return those of the first `count` samples."""
        return Samples(
            self.pairs[:count, :count],
            None if self.nearest_reference is None else self.nearest_reference[:count],
            self.failed[:count],
            None if self.ratios is None else self.ratios[:count],
        )


@dataclass(frozen=True)
class Reading:
    """Samples read by one pair of thresholds.

    chances: of each sample to have a duplicate among |S'| - 1 others (states.duplicate_chances);
    states: a sample counts as duplicated where that is at least one half.
    """

    check: RepeatSeedCheck
    chances: FloatArray
    states: list[State]
    shares: Shares

    @property
    def repeats(self) -> bool:
        """Whether any sample that is no copy has a duplicate."""
        copies = np.array([state is State.MEMORIZED for state in self.states])
        return bool(((self.check.n_duplicates > 0) & ~copies).any())


@dataclass(frozen=True)
class Grounds:
    """What a verdict rests on besides the prompt's own samples.

    power: whether planted copies are found, None where that was not measured; collapse: of a model
    whose seeds do little for any prompt, the share of control pictures that repeat; thumb: the
    published rule of thumb, which a calibration must not contradict to clear a prompt; understood:
    whether the model knows the prompt's words.
    """

    reference_complete: bool = False
    power: bool | None = None
    collapse: Interval | None = None
    thumb: Thresholds | None = None
    understood: bool = True
    limit: float = UNDETECTED_LIMIT


@dataclass(frozen=True)
class Judgement:
    """A prompt's word and what it rests on.

    withheld: why it is not `generalized` although its pictures are new; strict, loose: the words
    under the null's 0.3% and 3% quantiles, None where the thresholds have no null.
    """

    word: Verdict
    reading: Reading
    withheld: tuple[Doubt, ...] = ()
    strict: Verdict | None = None
    loose: Verdict | None = None

    @property
    def hangs_on_threshold(self) -> bool:
        """Whether another quantile of the null would give another word."""
        return any(word not in (None, self.word) for word in (self.strict, self.loose))


def read(
    samples: Samples, thresholds: Thresholds, look: Look, *, reference_complete: bool = False
) -> Reading:
    """Return states, attractors and shares of samples by one pair of thresholds."""
    assert thresholds.delta_s is not None
    check = find_attractors(
        samples.pairs,
        thresholds.delta_s,
        failed=samples.failed,
        level=look.level,
        missed=look.mass,
    )
    chances = duplicate_chances(check.n_duplicates, check.n_valid)
    states = classify(
        samples.nearest_reference,
        # Duplicated is a sample that would more likely than not be so among |S'|.
        np.where(chances >= 0.5, check.nearest, np.inf),
        thresholds,
        ratios=samples.ratios,
        reference_complete=reference_complete,
        failed=samples.failed,
    )
    shares = find_shares(
        states,
        has_reference=samples.nearest_reference is not None,
        reference_complete=reference_complete,
        n_duplicates=check.n_duplicates.tolist(),
        size=S_PRIME,
        level=look.level,
        alpha=look.word,
    )
    return Reading(check, chances, states, shares)


def judge(samples: Samples, thresholds: Thresholds, look: Look, grounds: Grounds) -> Judgement:
    """Return the verdict on a prompt.

    Fewer than two samples that did not fail, or words that the model does not know, are
    `undecided`. In a collapsed model a prompt that repeats, no more than control prompts do, is
    `collapsed` unless it is `memorized`. Else `decide` gives the word; `generalized` is given only
    where nothing of `Doubt` applies.
    """
    reading = read(samples, thresholds, look, reference_complete=grounds.reference_complete)
    word, withheld = _word(samples, reading, look, grounds)
    others = [thresholds.at(alpha) for alpha in (STRICT_ALPHA, LOOSE_ALPHA)]
    strict, loose = (
        None
        if other is None
        else _word(samples, _reread(samples, other, look, grounds), look, grounds)[0]
        for other in others
    )
    return Judgement(word, reading, withheld, strict, loose)


def _reread(samples: Samples, thresholds: Thresholds, look: Look, grounds: Grounds) -> Reading:
    return read(samples, thresholds, look, reference_complete=grounds.reference_complete)


def _word(
    samples: Samples, reading: Reading, look: Look, grounds: Grounds
) -> tuple[Verdict, tuple[Doubt, ...]]:
    if not grounds.understood or reading.check.n_valid < 2:
        return Verdict.UNDECIDED, ()
    told_apart = samples.nearest_reference is not None and grounds.reference_complete
    word = decide(reading.shares, told_apart=told_apart)
    if word is not Verdict.MEMORIZED and _is_collapsed(reading, grounds.collapse):
        return Verdict.COLLAPSED, ()
    if word is Verdict.GENERALIZED:
        withheld = tuple(_doubts(samples, reading, look, grounds))
        return (Verdict.UNDECIDED if withheld else word), withheld
    return word, ()


def _is_collapsed(reading: Reading, collapse: Interval | None) -> bool:
    """Whether a prompt repeats, and the control prompts of a collapsed model do as much."""
    if collapse is None or not reading.repeats:
        return False
    repeating = max(reading.shares.low[state] for state in DUPLICATED)
    return repeating <= collapse.high


def _doubts(samples: Samples, reading: Reading, look: Look, grounds: Grounds) -> list[Doubt]:
    doubts = []
    if reading.check.undetected_mass > grounds.limit:
        doubts.append(Doubt.MASS)
    if grounds.power is None:
        doubts.append(Doubt.NO_POWER)
    elif not grounds.power:
        doubts.append(Doubt.POWER)
    if grounds.thumb is not None:
        by_thumb = _reread(samples, grounds.thumb, look, grounds)
        told_apart = samples.nearest_reference is not None and grounds.reference_complete
        word = decide(by_thumb.shares, told_apart=told_apart)
        if word not in (Verdict.GENERALIZED, Verdict.UNDECIDED):
            doubts.append(Doubt.RULE_OF_THUMB)
    return doubts


def settles(judgement: Judgement, grounds: Grounds) -> bool:
    """Return whether more seeds would not change what a prompt is called."""
    if not grounds.understood:
        return True
    if judgement.word is Verdict.UNDECIDED:
        # What is withheld for other reasons than few seeds stays withheld.
        return bool(judgement.withheld) and Doubt.MASS not in judgement.withheld
    if judgement.word is Verdict.COLLAPSED:
        # Where some are copies, more seeds may show that most are.
        return not {State.MEMORIZED, State.UNSURE} & set(judgement.reading.states)
    # With a complete reference more seeds tell memorized from spurious.
    return judgement.word is not Verdict.ATTRACTOR or not grounds.reference_complete


def decide(shares: Shares, *, told_apart: bool) -> Verdict:
    """Return the word that the shares allow by their one-sided bounds. The first rule that applies.

    1. `memorized`, `spurious`, `generalized`: the lower bound of that share exceeds one half.
    2. `mixed`: states are told apart (complete reference) and the upper bound of every share is at
       most one half: none prevails, so at least half of the samples are duplicated or memorized.
    3. `attractor`: the upper bound of `generalized` is under one half, so memorized, spurious and
       attractor samples together prevail, but which of them is not known: for lack of a complete
       reference, or because the bounds of memorized and spurious allow either.
    4. `undecided`: the bounds allow both `generalized` and something else.

    Exact shares (`label`) follow the same rule with bounds of no width.
    """
    for state, word in (
        (State.MEMORIZED, Verdict.MEMORIZED),
        (State.SPURIOUS, Verdict.SPURIOUS),
        (State.GENERALIZED, Verdict.GENERALIZED),
    ):
        if shares.low[state] > 0.5:
            return word
    if told_apart and all(high <= 0.5 for high in shares.high.values()):
        return Verdict.MIXED
    if shares.high[State.GENERALIZED] < 0.5:
        return Verdict.ATTRACTOR
    return Verdict.UNDECIDED


def verdict_of_named(
    named: Sequence[State],
    measured: Sequence[State],
    n_duplicates: Sequence[int],
    *,
    look: Look,
) -> Verdict:
    """Return the word for a prompt that is `attractor` once some samples of that state are named.

    named: states after naming; measured: before; n_duplicates: of each sample. The rule is that of
    `decide`: the lower bound of a share exceeds one half. Else the word stays `attractor`.
    """
    for state in (State.MEMORIZED, State.SPURIOUS):
        # Those of this state as one kind of duplicate, whose dependence they keep.
        alone = [
            was if was is State.FAILED else State.ATTRACTOR if one is state else State.GENERALIZED
            for one, was in zip(named, measured, strict=True)
        ]
        shares = find_shares(alone, has_reference=False, n_duplicates=n_duplicates, alpha=look.word)
        if shares.low[State.ATTRACTOR] > 0.5:
            return Verdict(state.value)
    return Verdict.ATTRACTOR


def label(memorized: float, spurious: float, generalized: float) -> Verdict:
    """Return the verdict for shares that are known exactly, as those of a truth table."""
    shares = {
        State.MEMORIZED: memorized,
        State.SPURIOUS: spurious,
        State.GENERALIZED: generalized,
    }
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"shares must be positive and sum to one, got {shares}")
    return decide(Shares.exact(shares), told_apart=True)
