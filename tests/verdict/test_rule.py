"""The rule that gives a prompt its word, and all that keeps a prompt from being cleared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.verdict.intervals import Interval
from m2g_audit.verdict.looks import Look
from m2g_audit.verdict.rule import (
    Doubt,
    Grounds,
    Judgement,
    Samples,
    Verdict,
    decide,
    judge,
    label,
    verdict_of_named,
)
from m2g_audit.verdict.shares import find_shares
from m2g_audit.verdict.states import State
from m2g_audit.verdict.thresholds import LOOSE_ALPHA, STRICT_ALPHA, Thresholds

M, S, G, A, F = State.MEMORIZED, State.SPURIOUS, State.GENERALIZED, State.ATTRACTOR, State.FAILED
THRESHOLDS = Thresholds("l2", 1.0, 1.0, "a test", 100, True)
THUMB = replace(THRESHOLDS, delta_m=2.0, delta_s=2.0, calibrated=False)
COMPLETE = Grounds(reference_complete=True, power=True)
OPEN = Grounds(power=True)


def samples(
    groups: Sequence[object],
    to_reference: Sequence[float] | None = None,
    *,
    within: float = 0.0,
    apart: float = 9.0,
    failed: Sequence[int] = (),
    ratios: Sequence[float] | None = None,
) -> Samples:
    """Return samples that are `within` of each other in a group and `apart` otherwise."""
    numbers = [list(dict.fromkeys(groups)).index(group) for group in groups]
    same = np.equal.outer(numbers, numbers)
    pairs = np.where(same, within, apart)
    np.fill_diagonal(pairs, 0.0)
    return Samples(
        pairs,
        None if to_reference is None else np.array(to_reference, dtype=float),
        np.isin(np.arange(len(groups)), failed),
        None if ratios is None else np.array(ratios, dtype=float),
    )


def prompt(
    memorized: int = 0,
    spurious: int = 0,
    generalized: int = 0,
    *,
    reference: bool = True,
    pairs: bool = False,
) -> Samples:
    """Return samples of which so many are each state; those that repeat are one picture, or pairs.

    Memorized ones are copies of different pictures. Without a reference, both kinds of repeats are
    what repeats.
    """
    repeating = [f"pair {i // 2}" if pairs else "one" for i in range(spurious)]
    groups = [
        *(f"copy {i}" for i in range(memorized)),
        *repeating,
        *(f"new {i}" for i in range(generalized)),
    ]
    to_reference = [0.0] * memorized + [9.0] * (spurious + generalized)
    return samples(groups, to_reference if reference else None)


def judged(
    made: Samples,
    grounds: Grounds = COMPLETE,
    thresholds: Thresholds = THRESHOLDS,
    look: Look | None = None,
) -> Judgement:
    return judge(made, thresholds, look or Look(len(made.failed)), grounds)


def word(*counts: int, grounds: Grounds = COMPLETE, **kind: bool) -> Verdict:
    return judged(prompt(*counts, **kind), grounds).word


# --- words -------------------------------------------------------------------------------------


def test_a_share_that_surely_exceeds_one_half_gives_its_word() -> None:
    assert word(16) == Verdict.MEMORIZED
    assert word(14, 0, 2) == Verdict.MEMORIZED
    assert word(0, 15, 1) == Verdict.SPURIOUS
    assert word(0, 0, 16) == Verdict.GENERALIZED
    assert word(0, 0, 16, reference=False, grounds=OPEN) == Verdict.GENERALIZED


def test_a_word_needs_13_of_16() -> None:
    """The one-sided bound of 13 of 16 is 0.54, that of 12 of 16 is 0.48."""
    assert word(13, 0, 3) == Verdict.MEMORIZED
    assert word(12, 0, 4) == Verdict.UNDECIDED
    assert word(0, 13, 3) == Verdict.SPURIOUS
    assert word(0, 12, 4) == Verdict.UNDECIDED
    assert word(0, 13, 3, reference=False, grounds=OPEN) == Verdict.ATTRACTOR


def test_duplicates_that_cannot_be_told_apart_are_an_attractor() -> None:
    assert word(0, 16, reference=False, grounds=OPEN) == Verdict.ATTRACTOR
    assert word(0, 16, grounds=OPEN) == Verdict.ATTRACTOR
    assert word(8, 8, grounds=OPEN) == Verdict.ATTRACTOR
    assert word(8, 8) == Verdict.ATTRACTOR  # the intervals allow either


def test_a_partial_reference_can_show_memorization() -> None:
    assert word(16, grounds=OPEN) == Verdict.MEMORIZED


def test_no_share_prevailing_for_sure_is_mixed() -> None:
    assert word(80, 80, 96) == Verdict.MIXED
    assert word(80, 80, 96, grounds=OPEN) != Verdict.MIXED


def test_intervals_that_allow_two_words_are_undecided() -> None:
    assert word(8, 0, 8) == Verdict.UNDECIDED
    assert word(0, 8, 8, reference=False, grounds=OPEN) == Verdict.UNDECIDED
    assert word(5, 5, 6) == Verdict.UNDECIDED


def test_duplicates_in_pairs_weigh_less_than_hits_of_one_attractor() -> None:
    one = {"reference": False, "grounds": OPEN}
    assert word(0, 14, 2, **one) == Verdict.ATTRACTOR  # type: ignore[arg-type]
    assert word(0, 14, 2, **one, pairs=True) == Verdict.UNDECIDED  # type: ignore[arg-type]


def test_with_many_samples_a_duplicate_counts_as_among_16() -> None:
    """Of 64 samples all have a duplicate, but among 16 only one in four would."""
    found = judged(prompt(0, 64, reference=False, pairs=True), OPEN)
    assert found.reading.chances == pytest.approx(15 / 63)
    assert set(found.reading.states) == {G}
    assert found.reading.shares.intervals[A].estimate == pytest.approx(15 / 63)
    assert found.word == Verdict.GENERALIZED
    few = judged(prompt(0, 16, reference=False, pairs=True), OPEN)
    assert set(few.reading.states) == {A}


def test_a_prompt_that_is_not_understood_is_undecided() -> None:
    assert word(16, grounds=replace(COMPLETE, understood=False)) == Verdict.UNDECIDED
    assert word(0, 0, 16, grounds=replace(COMPLETE, understood=False)) == Verdict.UNDECIDED


@pytest.mark.parametrize("failed", [[0, 1, 2], [0, 1, 2, 3]])
def test_too_few_pictures_are_undecided(failed: list[int]) -> None:
    found = judged(samples("aaaa", [0.0] * 4, failed=failed))
    assert found.word == Verdict.UNDECIDED
    assert all(0 <= x.low <= x.high <= 1 for x in found.reading.shares.intervals.values())


def test_failed_pictures_are_left_out() -> None:
    groups, far = [*"abcdefghijklmnop", *"zzzz"], [9.0] * 16 + [0.0] * 4
    found = judged(samples(groups, far, failed=range(16, 20)))
    assert found.word == Verdict.GENERALIZED
    assert found.reading.states == [G] * 16 + [F] * 4


# --- what keeps new pictures from being cleared ---------------------------------------------


def test_few_seeds_may_miss_an_attractor() -> None:
    found = judged(prompt(0, 0, 13))  # 0.32 may be missed
    assert (found.word, found.withheld) == (Verdict.UNDECIDED, (Doubt.MASS,))
    assert word(0, 0, 13, grounds=replace(COMPLETE, limit=0.5)) == Verdict.GENERALIZED
    assert word(13) == Verdict.MEMORIZED  # what was seen needs no such thing


@pytest.mark.parametrize(
    ("power", "doubt"), [(None, Doubt.NO_POWER), (False, Doubt.POWER), (True, None)]
)
@pytest.mark.parametrize("reference", [True, False])
def test_without_power_nothing_is_cleared(
    power: bool | None, doubt: Doubt | None, reference: bool
) -> None:
    found = judged(prompt(0, 0, 64, reference=reference), Grounds(power=power))
    assert found.withheld == (() if doubt is None else (doubt,))
    assert found.word == (Verdict.GENERALIZED if doubt is None else Verdict.UNDECIDED)


@pytest.mark.parametrize("power", [None, False])
def test_what_was_found_needs_no_power(power: bool | None) -> None:
    grounds = Grounds(reference_complete=True, power=power)
    assert word(16, grounds=grounds) == Verdict.MEMORIZED
    assert word(0, 16, grounds=grounds) == Verdict.SPURIOUS
    assert word(0, 16, reference=False, grounds=Grounds(power=power)) == Verdict.ATTRACTOR


def test_a_calibration_never_clears_what_the_rule_of_thumb_calls_a_copy() -> None:
    grounds = replace(COMPLETE, thumb=THUMB)
    near_s = samples(list(range(16)), [1.5] * 16)
    found = judged(near_s, grounds)
    assert (found.word, found.withheld) == (Verdict.UNDECIDED, (Doubt.RULE_OF_THUMB,))
    near_each_other = samples(["one"] * 16, [9.0] * 16, within=1.5)
    assert judged(near_each_other, grounds).withheld == (Doubt.RULE_OF_THUMB,)
    no_reference = samples(["one"] * 16, within=1.5)
    assert judged(no_reference, replace(OPEN, thumb=THUMB)).withheld == (Doubt.RULE_OF_THUMB,)


def test_the_rule_of_thumb_withholds_nothing_where_it_is_undecided_or_agrees() -> None:
    grounds = replace(COMPLETE, thumb=THUMB)
    half = samples(list(range(16)), [1.5] * 8 + [9.0] * 8)
    assert judged(half, grounds).word == Verdict.GENERALIZED
    assert judged(prompt(0, 0, 16), grounds).word == Verdict.GENERALIZED


def test_the_rule_of_thumb_gives_no_word_of_its_own() -> None:
    strict = replace(THUMB, delta_m=0.1, delta_s=0.1)
    near = samples(list(range(16)), [0.5] * 16)
    assert judged(near, replace(COMPLETE, thumb=strict)).word == Verdict.MEMORIZED


def test_all_that_is_doubtful_is_said() -> None:
    grounds = Grounds(power=False, thumb=THUMB)
    found = judged(samples(list(range(12)), [1.5] * 12), grounds)
    assert found.withheld == (Doubt.MASS, Doubt.POWER, Doubt.RULE_OF_THUMB)


# --- collapsed models -------------------------------------------------------------------------

COLLAPSE = Interval(0.9, 0.6, 0.99, 0.98, "a test")


def test_what_repeats_as_control_prompts_do_is_collapsed() -> None:
    grounds = replace(COMPLETE, collapse=COLLAPSE)
    assert word(0, 16, grounds=grounds) == Verdict.COLLAPSED
    assert word(0, 8, 8, grounds=grounds) == Verdict.COLLAPSED
    assert word(8, 8, grounds=grounds) == Verdict.COLLAPSED
    alone = replace(OPEN, collapse=COLLAPSE)
    assert word(0, 16, reference=False, grounds=alone) == Verdict.COLLAPSED


def test_in_a_collapsed_model_copies_are_memorized_and_new_pictures_new() -> None:
    grounds = replace(COMPLETE, collapse=COLLAPSE)
    assert word(16, grounds=grounds) == Verdict.MEMORIZED
    copies_of_one = samples(["one"] * 16, [0.0] * 16)
    assert judged(copies_of_one, grounds).word == Verdict.MEMORIZED
    assert word(0, 0, 16, grounds=grounds) == Verdict.GENERALIZED
    unpowered = replace(grounds, power=False)
    assert judged(prompt(0, 0, 16), unpowered).withheld == (Doubt.POWER,)


def test_copies_of_one_picture_are_no_repeats_that_say_nothing() -> None:
    made = samples(["one"] * 7 + [f"new {i}" for i in range(9)], [0.0] * 7 + [9.0] * 9)
    assert judged(made, replace(COMPLETE, collapse=COLLAPSE)).word == Verdict.UNDECIDED


def test_what_repeats_more_than_control_prompts_keeps_its_word() -> None:
    some = Interval(0.6, 0.51, 0.7, 0.98, "a test")
    assert word(0, 16, grounds=replace(COMPLETE, collapse=some)) == Verdict.SPURIOUS
    # 16 of 16 are at least 0.79; controls may do as much.
    more = replace(some, high=0.8)
    assert word(0, 16, grounds=replace(COMPLETE, collapse=more)) == Verdict.COLLAPSED


def test_nothing_that_repeats_in_a_collapsed_model_is_cleared() -> None:
    for repeating in range(2, 64, 6):
        made = prompt(0, repeating, 64 - repeating)
        assert judged(made, replace(COMPLETE, collapse=COLLAPSE)).word == Verdict.COLLAPSED


# --- samples near the threshold ---------------------------------------------------------------


def near_threshold(copies: int, new: int, unsure: int) -> Judgement:
    """Judge samples of which `unsure` are near delta_m with a ratio that disagrees."""
    thresholds = replace(THRESHOLDS, ratio=0.5)
    n = copies + new + unsure
    to_reference = [0.1] * copies + [9.0] * new + [0.9] * unsure
    return judged(
        samples(list(range(n)), to_reference, ratios=[0.1] * copies + [0.9] * (new + unsure)),
        thresholds=thresholds,
    )


def test_unsure_samples_count_against_each_word() -> None:
    assert near_threshold(13, 0, 3).word == Verdict.MEMORIZED
    assert near_threshold(12, 0, 4).word == Verdict.UNDECIDED
    assert near_threshold(0, 16, 0).word == Verdict.GENERALIZED
    assert near_threshold(0, 10, 6).word == Verdict.UNDECIDED
    assert near_threshold(0, 0, 16).word == Verdict.UNDECIDED


def test_a_word_is_marked_where_another_quantile_would_give_another() -> None:
    null = replace(THRESHOLDS, others={STRICT_ALPHA: (0.8, 0.8), LOOSE_ALPHA: (1.5, 1.5)})
    far = judged(prompt(0, 0, 16), thresholds=null)
    assert (far.strict, far.loose) == (Verdict.GENERALIZED, Verdict.GENERALIZED)
    assert not far.hangs_on_threshold
    near = judged(samples(list(range(16)), [1.2] * 16), thresholds=null)
    assert (near.strict, near.word, near.loose) == (
        Verdict.GENERALIZED,
        Verdict.GENERALIZED,
        Verdict.MEMORIZED,
    )
    assert near.hangs_on_threshold
    copies = judged(samples(list(range(16)), [0.9] * 16), thresholds=null)
    assert (copies.word, copies.strict) == (Verdict.MEMORIZED, Verdict.GENERALIZED)
    assert copies.hangs_on_threshold


def test_without_a_null_nothing_is_said_to_hang_on_it() -> None:
    found = judged(prompt(16))
    assert (found.strict, found.loose, found.hangs_on_threshold) == (None, None, False)


# --- words of known shares, and of named samples ---------------------------------------------


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((1, 0, 0), Verdict.MEMORIZED),
        ((0.51, 0.49, 0), Verdict.MEMORIZED),
        ((0.1, 0.6, 0.3), Verdict.SPURIOUS),
        ((0.2, 0.2, 0.6), Verdict.GENERALIZED),
        ((0.4, 0.3, 0.3), Verdict.MIXED),
        ((0.5, 0, 0.5), Verdict.MIXED),
    ],
)
def test_exact_shares_follow_the_same_rule(
    shares: tuple[float, float, float], expected: Verdict
) -> None:
    assert label(*shares) == expected


def test_shares_must_be_shares() -> None:
    with pytest.raises(ValueError, match="sum to one"):
        label(0.5, 0.5, 0.5)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_many_samples_lead_to_the_word_of_their_shares(m: int, s: int, g: int) -> None:
    total = m + s + g
    if total == 0 or any(abs(x / total - 0.5) < 0.03 for x in (m, s, g)):
        return  # at one half, no number of samples decides
    exact = label(m / total, s / total, g / total)
    factor = 8_000 // total
    states = [M] * (m * factor) + [S] * (s * factor) + [G] * (g * factor)
    duplicates = [2 if state is S else 0 for state in states]
    found = find_shares(
        states, has_reference=True, reference_complete=True, n_duplicates=duplicates
    )
    assert decide(found, told_apart=True) == exact


def test_named_samples_give_a_word_where_they_surely_prevail() -> None:
    measured = [A] * 16

    def named(memorized: int, spurious: int) -> Verdict:
        states = [M] * memorized + [S] * spurious + [A] * (16 - memorized - spurious)
        return verdict_of_named(states, measured, [15] * 16, look=Look(16))

    assert named(16, 0) == Verdict.MEMORIZED
    assert named(13, 3) == Verdict.MEMORIZED
    assert named(12, 4) == Verdict.ATTRACTOR
    assert named(0, 16) == Verdict.SPURIOUS
    assert named(0, 0) == Verdict.ATTRACTOR
