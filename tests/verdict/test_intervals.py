"""Intervals: closed forms, exact coverage where outcomes can be enumerated, simulated elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from benchmarks.interval_coverage import (
    auto_coverage,
    before,
    bonferroni,
    critical_worlds,
    half_way,
    multinomial_coverage,
    one_attractor_coverage,
    share_with_effect,
    simplex_points,
    three_state_worlds,
    used,
    verdict_coverage,
    world_coverage,
    worlds,
)
from m2g_audit.verdict.intervals import (
    Interval,
    attractor_mass,
    clopper_pearson,
    collision_probability,
    share_intervals,
    undetected_mass,
    unseen_mass,
)
from m2g_audit.verdict.looks import Look

REPS = 1000
# Three standard errors of a simulated coverage at 95%.
TOLERANCE = 3 * math.sqrt(0.95 * 0.05 / REPS)


@given(st.integers(1, 300), st.data(), st.floats(0.5, 0.999))
def test_clopper_pearson_equals_scipys_exact_interval(
    n: int, data: st.DataObject, level: float
) -> None:
    count = data.draw(st.integers(0, n))
    found = clopper_pearson(count, n, level)
    expected = binomtest(count, n).proportion_ci(level, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.estimate == count / n


def test_without_samples_anything_is_possible() -> None:
    for found in (
        clopper_pearson(0, 0),
        unseen_mass(0, 0, 0),
        collision_probability(0, 1),
        attractor_mass(0, 0),
    ):
        assert (found.low, found.high) == (0, 1)


def test_a_count_outside_its_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="3 of 2"):
        clopper_pearson(3, 2)
    with pytest.raises(ValueError, match="-1 of 2"):
        attractor_mass(-1, 2)


@given(st.integers(2, 256), st.data())
def test_every_interval_holds_its_estimate_and_lies_in_the_unit_interval(
    n: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, n))
    pairs = data.draw(st.integers(0, (n - count) // 2))
    shares = share_intervals({"a": count, "b": n - count, "c": 0})
    found = [
        *shares.values(),
        attractor_mass(count, n),
        unseen_mass(count, pairs, n),
        collision_probability(pairs, n),
        collision_probability(n * (n - 1) // 2, n),
    ]
    for x in found:
        assert 0 <= x.low <= x.estimate <= x.high <= 1
        assert x.level == 0.95
        assert x.method


@given(st.integers(2, 100), st.data())
def test_more_confidence_takes_a_wider_interval(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))

    def both(level: float) -> list[Interval]:
        return [
            clopper_pearson(count, n, level),
            attractor_mass(count, n, level),
            unseen_mass(count, (n - count) // 2, n, level),
            collision_probability(count, n, level),
        ]

    for narrow, wide in zip(both(0.9), both(0.99), strict=True):
        assert wide.low <= narrow.low + 1e-9
        assert narrow.high <= wide.high + 1e-9


@pytest.mark.parametrize("method", [bonferroni, half_way])
@pytest.mark.parametrize("n", [4, 8, 16, 33])
def test_three_shares_are_covered_at_once_all_over_the_simplex(method: Callable, n: int) -> None:
    assert multinomial_coverage(method, n, simplex_points()).min() >= 0.95


def test_two_shares_are_one_binomial() -> None:
    found = share_intervals({"yes": 13, "no": 3})
    single = clopper_pearson(13, 16)
    assert (found["yes"].low, found["yes"].high) == (single.low, single.high)
    assert found["no"].low == pytest.approx(1 - single.high)


@pytest.mark.parametrize("n", [2, 5, 16, 64])
def test_an_attractor_is_missed_with_chance_at_most_its_mass_times_the_error(n: int) -> None:
    """The exact condition from which simultaneous coverage of all attractors follows."""
    found = [attractor_mass(k, n) for k in range(n + 1)]
    low, high = np.array([x.low for x in found]), np.array([x.high for x in found])
    for p in np.linspace(0.001, 1, 200):
        chances = binom.pmf(np.arange(n + 1), n, p)
        assert chances[low > p].sum() <= 0.025 * p + 1e-9
        assert chances[high < p].sum() <= 0.025 * p + 1e-9


def test_undetected_mass_solves_its_equation() -> None:
    for n in (2, 3, 4, 8, 16, 100, 256):
        p = undetected_mass(n)
        assert (1 - p) ** n + n * p * (1 - p) ** (n - 1) == pytest.approx(0.05, abs=1e-9)
    assert undetected_mass(0) == undetected_mass(1) == 1
    assert undetected_mass(16) == pytest.approx(0.264, abs=5e-4)
    masses = [undetected_mass(n) for n in range(1, 60)]
    assert masses == sorted(masses, reverse=True)


def test_sixteen_seeds_of_a_hundred_pictures_often_show_no_duplicate() -> None:
    """28% of the time; so the interval of the duplicated share must reach their 14% from zero."""
    assert math.prod(1 - i / 100 for i in range(16)) == pytest.approx(0.28, abs=0.01)
    expected_share = 1 - 0.99**15
    assert share_with_effect(*[1] * 16).high > expected_share


def test_samples_that_come_in_pairs_say_less_than_hits_of_one_attractor() -> None:
    pairs, one = share_with_effect(*[2] * 4, *[1] * 8), share_with_effect(8, *[1] * 8)
    assert pairs.estimate == one.estimate == 0.5
    assert pairs.low < one.low
    # Among independent samples 8 of 16 are exactly Clopper and Pearson's.
    assert one.high == pytest.approx(clopper_pearson(8, 16).high)


@pytest.mark.parametrize(("world", "n"), [("4 equal", 8), ("2 equal", 4), ("16 equal", 64)])
def test_shares_are_those_among_sixteen_however_many_seeds(world: str, n: int) -> None:
    """Among 4 or 8 fewer samples repeat, among 64 more: intervals of those would miss."""
    masses = worlds()[world]
    assert verdict_coverage(masses, 0, n, 500, used).covered >= 0.95 - TOLERANCE
    own = before((0, *[1] * 8), Look(8)).box[1]
    assert own[1] < used((0, *[1] * 8), Look(8)).box[1][1]


@pytest.mark.parametrize("n", [8, 16, 24])
def test_three_shares_are_covered_exactly_where_one_attractor_repeats(n: int) -> None:
    assert min(one_attractor_coverage(n).values()) >= 0.95


@pytest.mark.parametrize("n", [8, 16, 32])
@pytest.mark.parametrize("world", ["16 equal", "memorized 0.3, the rest in 22", "30 equal"])
def test_words_around_the_half_are_rarely_wrong(world: str, n: int) -> None:
    row = verdict_coverage(*critical_worlds()[world], n, 500)
    assert row.covered >= 0.95 - 1.5 * TOLERANCE
    assert row.wrong <= 0.05


def test_seeds_as_they_are_needed_err_no_more_than_a_fixed_number() -> None:
    row, seeds, missed = auto_coverage(
        *three_state_worlds()["memorized 0.95, spurious 0.0 in 1"], 300
    )
    assert row.covered >= 0.95
    assert row.definite >= 0.95
    assert row.wrong <= 0.05
    assert missed <= 0.05
    assert 8 <= seeds < 20


def test_three_shares_are_told_within_less_than_before() -> None:
    ratios = [
        verdict_coverage(masses, trained, 32, 100, used).width
        / verdict_coverage(masses, trained, 32, 100, before).width
        for masses, trained in list(three_state_worlds().values())[::7]
    ]
    assert np.mean(ratios) <= 0.88


@pytest.mark.parametrize("n", [16, 64])
@pytest.mark.parametrize(
    "world",
    [
        "one of 0.3",
        "one of 0.9",
        "4 equal",
        "34 equal",
        "300 equal",
        "100 equal share 0.5",
        "geometric 0.5",
        "zipf of 2000",
    ],
)
def test_intervals_cover_in_worlds_with_attractors(world: str, n: int) -> None:
    found = world_coverage(worlds()[world], n, REPS)
    used = {name: 1 - below - above for name, (below, above, _) in found.items() if "**" in name}
    assert len(used) == 4
    assert min(used.values()) >= 0.95 - TOLERANCE, used


def test_why_the_obvious_intervals_are_not_used() -> None:
    """Pairs spread shares beyond the binomial, and clusters are seen because they were hit."""
    pairs = world_coverage(worlds()["64 equal"], 16, REPS)
    assert 1 - sum(pairs["duplicated share, as if independent"][:2]) < 0.90
    few = world_coverage(worlds()["300 equal"], 16, REPS)
    assert 1 - sum(few["largest mass, Bonferroni over n/2 clusters"][:2]) < 0.90
