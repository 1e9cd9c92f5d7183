"""Shares of states: what can be known, chances of a duplicate, samples that are unsure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.verdict.intervals import clopper_pearson
from m2g_audit.verdict.shares import WORD_ALPHA, Shares, find_shares
from m2g_audit.verdict.states import S_PRIME, State, duplicate_chances

M, S, G, A, F = State.MEMORIZED, State.SPURIOUS, State.GENERALIZED, State.ATTRACTOR, State.FAILED
U = State.UNSURE
KNOWN = {"has_reference": True, "reference_complete": True}


def test_shares_that_cannot_be_known_or_cannot_occur_say_so() -> None:
    shares = find_shares([A, G, G], has_reference=False).intervals
    assert set(shares) == {M, S, A, G}
    assert (shares[M].low, shares[M].high) == (0, 1)
    assert "not measured" in shares[M].method
    shares = find_shares([M, S, G], **KNOWN).intervals
    assert (shares[A].low, shares[A].high) == (0, 0)
    assert "by definition" in shares[A].method
    shares = find_shares([M, A, G], has_reference=True).intervals
    assert (shares[S].low, shares[S].high) == (0, 1)


def test_bounds_of_what_cannot_be_known_decide_nothing() -> None:
    found = find_shares([A, G, G], has_reference=False)
    assert (found.low[M], found.high[M]) == (0, 1)
    found = find_shares([M, S, G], **KNOWN)
    assert (found.low[A], found.high[A]) == (0, 0)


def test_failed_pictures_are_left_out_of_shares() -> None:
    assert find_shares([M, M, G, F, F], **KNOWN) == find_shares([M, M, G], **KNOWN)


def test_a_bound_is_one_sided_and_the_interval_simultaneous() -> None:
    found = find_shares([M] * 13 + [G] * 3, **KNOWN)
    bound = clopper_pearson(13, 16, 1 - 2 * WORD_ALPHA)
    assert (found.low[M], found.high[M]) == (bound.low, bound.high)
    assert found.intervals[M].low < found.low[M]
    assert found.intervals[M].high > found.high[M]


@given(st.lists(st.sampled_from([M, S, G, U]), min_size=2, max_size=40))
def test_unsure_samples_count_against_each_share_below_and_for_it_above(
    states: list[State],
) -> None:
    found = find_shares(states, **KNOWN)
    for state in (M, S, G):
        other = G if state is M else M
        against = find_shares([other if s is U else s for s in states], **KNOWN)
        for_it = find_shares([state if s is U else s for s in states], **KNOWN)
        assert found.low[state] == pytest.approx(against.low[state])
        assert found.high[state] == pytest.approx(for_it.high[state])
        assert found.intervals[state].low <= found.intervals[state].high
        assert found.intervals[state].high == pytest.approx(for_it.intervals[state].high)


def test_a_sample_is_duplicated_with_its_chance_and_new_with_the_rest() -> None:
    states, copies = [S] * 3 + [G] * 29, [2] * 3 + [0] * 29
    [chance, *_] = duplicate_chances(np.array(copies), 32)
    assert 0.7 < chance < 0.8
    found = find_shares(states, **KNOWN, n_duplicates=copies, size=S_PRIME)
    assert found.intervals[S].estimate == pytest.approx(3 * chance / 32)
    assert found.intervals[G].estimate == pytest.approx(1 - 3 * chance / 32)
    among_all = find_shares(states, **KNOWN, n_duplicates=copies)
    assert among_all.intervals[S].estimate == pytest.approx(3 / 32)


def test_duplicates_of_copies_and_of_unsure_samples_do_not_matter() -> None:
    states = [M] * 4 + [U] * 4 + [G] * 8
    plain = find_shares(states, **KNOWN, n_duplicates=[0] * 16, size=S_PRIME)
    repeating = [7] * 8 + [0] * 8
    assert find_shares(states, **KNOWN, n_duplicates=repeating, size=S_PRIME) == plain


def test_duplicates_in_pairs_leave_wider_bounds_than_hits_of_one_attractor() -> None:
    states = [A] * 12 + [G] * 4
    one = find_shares(states, has_reference=False, n_duplicates=[11] * 12 + [0] * 4)
    pairs = find_shares(states, has_reference=False, n_duplicates=[1] * 12 + [0] * 4)
    assert pairs.low[A] <= one.low[A]
    assert pairs.high[A] >= one.high[A]
    assert pairs.high[A] - pairs.low[A] > one.high[A] - one.low[A]


def test_copies_are_each_its_own_affair() -> None:
    """That copies of one picture are also each other's duplicates widens no bound."""
    states = [M] * 14 + [G] * 2
    duplicates = [13] * 14 + [0] * 2
    found = find_shares(states, **KNOWN, n_duplicates=duplicates)
    assert found.low[M] == find_shares(states, **KNOWN).low[M]


def test_known_shares_have_no_width() -> None:
    exact = Shares.exact({M: 0.2, S: 0.3, G: 0.5})
    assert exact.low == exact.high == {M: 0.2, S: 0.3, G: 0.5}
    assert (exact.intervals[S].low, exact.intervals[S].high) == (0.3, 0.3)


def test_without_samples_nothing_is_known() -> None:
    for states in ([], [F, F]):
        found = find_shares(states, **KNOWN)
        assert all(found.low[s] == 0 and found.high[s] == 1 for s in (M, S, G))
