"""States of samples: Eq. 9-11, the ratio beside the distance, and chances of a duplicate."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.errors import UsageError
from m2g_audit.verdict.states import State, classify, duplicate_chances
from m2g_audit.verdict.thresholds import BAND, Thresholds

M, S, G, A, F = State.MEMORIZED, State.SPURIOUS, State.GENERALIZED, State.ATTRACTOR, State.FAILED
U = State.UNSURE
THRESHOLDS = Thresholds("l2", 1.0, 2.0, "a test", 100, True)
WITH_RATIO = replace(THRESHOLDS, ratio=0.4)


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


# --- the ratio --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "ratio", "state"),
    [
        (0.9, 0.3, M),  # both say copy
        (0.9, 0.4, M),  # the cut is closed
        (0.9, 0.5, U),
        (1.1, 0.3, U),
        (1.1, 0.5, G),  # both say new
        (1.0, 0.5, U),
        (1 / BAND, 0.5, U),  # the band is closed
        (1 / BAND - 1e-6, 0.5, M),  # too near for the ratio to matter
        (BAND, 0.3, U),
        (BAND + 1e-6, 0.3, G),
        (0.9, math.nan, M),  # too few neighbours for a ratio
        (1.1, math.nan, G),
    ],
)
def test_a_sample_is_unsure_where_distance_and_ratio_disagree_near_the_threshold(
    distance: float, ratio: float, state: State
) -> None:
    far = np.array([9.0])
    assert classify(np.array([distance]), far, WITH_RATIO, ratios=np.array([ratio])) == [state]


def test_without_a_cut_ratios_are_not_looked_at() -> None:
    one = np.array([1.0])
    assert classify(one, 9 * one, THRESHOLDS, ratios=one) == [M]
    assert classify(one, 9 * one, WITH_RATIO) == [M]


def test_an_unsure_sample_is_unsure_whether_it_repeats_or_not() -> None:
    near, zeros, ratios = np.full(2, 1.1), np.array([0.0, 9.0]), np.full(2, 0.3)
    assert classify(near, zeros, WITH_RATIO, ratios=ratios, reference_complete=True) == [U, U]
    failed = np.array([True, False])
    assert classify(near, zeros, WITH_RATIO, ratios=ratios, failed=failed) == [F, U]


# --- chances of a duplicate -------------------------------------------------------------------


def by_enumeration(duplicates: int, others: int, drawn: int) -> float:
    """Return the share of all choices of `drawn` others that hold a duplicate."""
    choices = list(itertools.combinations(range(others), drawn))
    return sum(min(choice) < duplicates for choice in choices) / len(choices)


@pytest.mark.parametrize(("n", "size"), [(5, 4), (8, 4), (9, 2), (12, 6), (18, 16)])
def test_chances_are_those_of_all_choices_of_others(n: int, size: int) -> None:
    counts = np.arange(n)
    found = duplicate_chances(counts, n, size)
    expected = [by_enumeration(int(k), n - 1, size - 1) for k in counts]
    assert found == pytest.approx(expected, abs=1e-12)
    assert found[0] == 0
    assert found[-1] == 1


@pytest.mark.parametrize("n", [1, 2, 9, 16])
def test_among_no_more_than_16_a_duplicate_is_there_or_not(n: int) -> None:
    assert duplicate_chances(np.array([0, 1, 5]), n).tolist() == [0, 1, 1]


def of_a_hundred(n: int, reps: int) -> list[np.ndarray]:
    """Return how many duplicates each of n samples of 100 equal masses has, in many draws."""
    drawn = np.random.default_rng(0).integers(100, size=(reps, n))
    return [(labels[:, None] == labels).sum(1) - 1 for labels in drawn]


@pytest.mark.parametrize("n", [17, 32, 64, 256])
def test_the_mean_chance_is_the_share_among_16_whatever_the_number_of_samples(n: int) -> None:
    """Unbiased: with 100 equal masses a sample repeats among 16 with 1 - 0.99^15."""
    reps = 800
    means = [duplicate_chances(counts, n).mean() for counts in of_a_hundred(n, reps)]
    error = np.std(means) / math.sqrt(reps)
    assert np.mean(means) == pytest.approx(1 - 0.99**15, abs=4 * error)
    assert error < 0.01


def test_the_spurious_share_grows_with_the_number_of_samples() -> None:
    """So each share belongs to the size of the set in which duplicates were looked for."""
    shares = []
    for n in (4, 16, 64, 256):
        shares.append(float(np.mean(np.array(of_a_hundred(n, 500)) > 0)))
        assert shares[-1] == pytest.approx(1 - 0.99 ** (n - 1), abs=0.02)
    assert shares == sorted(shares)
    assert shares[0] < 0.05
    assert shares[-1] > 0.9
