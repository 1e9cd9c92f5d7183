"""States, thresholds, and the rule that gives a prompt its word."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.interval_coverage import Draws, three_state_worlds, verdict_coverage
from m2g_audit.errors import NumericsError, UsageError
from m2g_audit.intervals import undetected_mass
from m2g_audit.states import (
    State,
    Thresholds,
    Verdict,
    classify,
    fractions,
    fresh_thresholds,
    label,
    low_quantile,
    verdict,
)

M, S, G, A, F = State.MEMORIZED, State.SPURIOUS, State.GENERALIZED, State.ATTRACTOR, State.FAILED
THRESHOLDS = Thresholds("l2", 1.0, 2.0, "a test", 100, True)


def word(
    memorized: int = 0,
    spurious: int = 0,
    generalized: int = 0,
    attractor: int = 0,
    *,
    reference: str = "complete",
    copies: int = 2,
    understood: bool = True,
    limit: float = 0.3,
) -> Verdict:
    """Return the verdict on counts of states; duplicated samples have `copies` duplicates each."""
    states = [M] * memorized + [S] * spurious + [G] * generalized + [A] * attractor
    duplicates = [copies if s in (S, A) else 0 for s in states]
    return verdict(
        states,
        undetected_mass=undetected_mass(len(states)),
        has_reference=reference != "none",
        reference_complete=reference == "complete",
        n_duplicates=duplicates,
        understood=understood,
        limit=limit,
    )[0]


# --- Eq. 9-11 ---------------------------------------------------------------------------------


def test_states_follow_the_equations_and_their_thresholds_are_closed() -> None:
    to_reference = np.array([1.0, 1.1, 1.1, 0.5, 9.0])
    to_sample = np.array([9.0, 2.0, 2.1, 0.1, np.inf])
    found = classify(to_reference, to_sample, THRESHOLDS, reference_complete=True)
    assert found == [M, S, G, M, G]


def test_spurious_needs_a_complete_reference() -> None:
    to_sample = np.array([0.0, 5.0])
    far = np.array([9.0, 9.0])
    assert classify(far, to_sample, THRESHOLDS) == [A, G]
    assert classify(None, to_sample, THRESHOLDS) == [A, G]
    assert classify(None, to_sample, THRESHOLDS, reference_complete=True) == [A, G]


def test_failed_pictures_have_their_own_state() -> None:
    zeros = np.zeros(2)
    assert classify(zeros, zeros, THRESHOLDS, failed=np.array([True, False])) == [F, M]


def test_missing_thresholds_are_said() -> None:
    without = Thresholds("l2", None, None, "none", 0, False)
    with pytest.raises(UsageError, match="delta_s"):
        classify(None, np.zeros(2), without)
    with pytest.raises(UsageError, match="delta_m"):
        classify(np.zeros(2), np.zeros(2), Thresholds("l2", None, 1.0, "half", 0, False))


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=20))
def test_larger_thresholds_only_add_memorized_and_remove_generalized(
    points: list[tuple[float, float]],
) -> None:
    to_reference, to_sample = (np.array(column) for column in zip(*points, strict=True))
    half, twice = (
        classify(to_reference, to_sample, THRESHOLDS.scaled(f), reference_complete=True)
        for f in (0.5, 2)
    )
    for small, large in zip(half, twice, strict=True):
        assert large == M if small == M else True
        assert small == G if large == G else True


def test_scaled_thresholds_say_so() -> None:
    half = THRESHOLDS.scaled(0.5)
    assert (half.delta_m, half.delta_s, half.source) == (0.5, 1.0, "0.5 x (a test)")
    assert Thresholds("l2", None, 1.0, "", 0, True).scaled(2).delta_m is None


def test_the_spurious_share_grows_with_the_number_of_samples() -> None:
    """So each share belongs to the size of the set in which duplicates were looked for."""
    masses = np.full(100, 0.01)
    shares = []
    for n in (4, 16, 64, 256):
        draws = Draws.of(masses, n, 500, np.random.default_rng(0))
        shares.append(float(1 - (draws.sizes == 1).sum() / draws.sizes.sum()))
        assert shares[-1] == pytest.approx(1 - 0.99 ** (n - 1), abs=0.02)
    assert shares == sorted(shares)
    assert shares[0] < 0.05
    assert shares[-1] > 0.9


# --- thresholds -------------------------------------------------------------------------------


def test_a_quantile_is_the_conformal_one() -> None:
    values = np.arange(1.0, 100.0)  # 1..99
    assert low_quantile(values[::-1], 0.01) == 1
    assert low_quantile(values, 0.05) == 5
    with pytest.raises(UsageError, match="at least 99"):
        low_quantile(values[:98], 0.01)
    with pytest.raises(NumericsError, match="non-finite"):
        low_quantile([1.0, math.nan], 0.5)


@given(st.integers(19, 400))
def test_a_new_value_falls_under_the_quantile_no_more_often_than_said(n: int) -> None:
    """Exact: a new value is equally likely to have any rank among n + 1."""
    rank = low_quantile(np.arange(1.0, n + 1), 0.05)
    assert rank / (n + 1) <= 0.05 < (rank + 1) / (n + 1) + 1e-12


def test_fresh_pictures_give_both_thresholds() -> None:
    found = fresh_thresholds(
        "l2", np.arange(1.0, 200.0), np.arange(100.0, 300.0), source="fresh pictures"
    )
    assert (found.delta_m, found.delta_s, found.n_controls) == (2.0, 101.0, 199)
    assert found.calibrated


# --- verdicts ---------------------------------------------------------------------------------


def test_a_share_that_surely_exceeds_one_half_gives_its_word() -> None:
    assert word(memorized=16) == Verdict.MEMORIZED
    assert word(memorized=14, generalized=2) == Verdict.MEMORIZED
    assert word(spurious=15, generalized=1) == Verdict.SPURIOUS
    assert word(generalized=16) == Verdict.GENERALIZED
    assert word(generalized=16, reference="none") == Verdict.GENERALIZED


def test_generalized_needs_enough_seeds_to_have_seen_an_attractor() -> None:
    assert word(generalized=13, reference="none") == Verdict.UNDECIDED  # 0.32 may be missed
    assert word(generalized=13, reference="none", limit=0.5) == Verdict.GENERALIZED
    assert word(memorized=13) == Verdict.MEMORIZED  # what was seen needs no such thing


def test_duplicates_that_cannot_be_told_apart_are_an_attractor() -> None:
    assert word(attractor=16, reference="none") == Verdict.ATTRACTOR
    assert word(attractor=16, reference="partial") == Verdict.ATTRACTOR
    assert word(memorized=8, attractor=8, reference="partial") == Verdict.ATTRACTOR
    assert word(memorized=8, spurious=8) == Verdict.ATTRACTOR  # the intervals allow either


def test_a_partial_reference_can_show_memorization() -> None:
    assert word(memorized=16, reference="partial") == Verdict.MEMORIZED


def test_no_share_prevailing_for_sure_is_mixed() -> None:
    assert word(memorized=80, spurious=80, generalized=96) == Verdict.MIXED
    assert word(memorized=80, attractor=80, generalized=96, reference="partial") != Verdict.MIXED


def test_intervals_that_allow_two_words_are_undecided() -> None:
    assert word(memorized=8, generalized=8) == Verdict.UNDECIDED
    assert word(attractor=8, generalized=8, reference="none") == Verdict.UNDECIDED
    assert word(memorized=5, spurious=5, generalized=6) == Verdict.UNDECIDED


def test_a_prompt_that_is_not_understood_is_undecided() -> None:
    assert word(memorized=16, understood=False) == Verdict.UNDECIDED


def test_too_few_pictures_are_undecided() -> None:
    for states in ([], [M], [F, F, F, M]):
        found, shares = verdict(
            states,
            undetected_mass=1.0,
            has_reference=True,
            reference_complete=True,
            n_duplicates=[0] * len(states),
        )
        assert found == Verdict.UNDECIDED
        assert all(0 <= x.low <= x.high <= 1 for x in shares.values())


def test_duplicates_in_pairs_weigh_less_than_hits_of_one_attractor() -> None:
    assert word(attractor=13, generalized=3, reference="none", copies=12) == Verdict.ATTRACTOR
    assert word(attractor=12, generalized=4, reference="none", copies=1) == Verdict.UNDECIDED


def test_shares_that_cannot_be_known_or_cannot_occur_say_so() -> None:
    shares = fractions([A, G, G], has_reference=False)
    assert set(shares) == {M, S, A, G}
    assert (shares[M].low, shares[M].high) == (0, 1)
    assert "not measured" in shares[M].method
    shares = fractions([M, S, G], has_reference=True, reference_complete=True)
    assert (shares[A].low, shares[A].high) == (0, 0)
    assert "by definition" in shares[A].method
    shares = fractions([M, A, G], has_reference=True)
    assert (shares[S].low, shares[S].high) == (0, 1)


def test_failed_pictures_are_left_out_of_shares() -> None:
    with_failed = fractions([M, M, G, F, F], has_reference=True, reference_complete=True)
    assert with_failed == fractions([M, M, G], has_reference=True, reference_complete=True)


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
    factor = 40_000 // total
    assert word(m * factor, s * factor, g * factor) == exact


@pytest.mark.parametrize("name", sorted(three_state_worlds())[::12])
def test_shares_are_covered_and_wrong_words_are_rare(name: str) -> None:
    reps = 1000
    masses, trained = three_state_worlds()[name]
    covered, words, truth = verdict_coverage(masses, trained, 16, reps)
    assert covered >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / reps)
    definite = {Verdict.MEMORIZED, Verdict.SPURIOUS, Verdict.GENERALIZED, Verdict.MIXED}
    assert sum(words[w] for w in definite - {truth}) <= 0.05
