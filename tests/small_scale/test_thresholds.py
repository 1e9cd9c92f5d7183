"""Thresholds from histograms whose modes are known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from m2g_audit.states import low_quantile
from small_scale.thresholds import find_threshold, valley

RNG = np.random.default_rng(0)
FRESH = RNG.lognormal(np.log(0.2), 0.15, 2000)


def around(centre: float, n: int, width: float = 0.2) -> NDArray[np.float64]:
    return np.random.default_rng(n).lognormal(np.log(centre), width, n)


@pytest.mark.parametrize("copies", [200, 500, 800])
def test_two_modes_are_parted_by_their_valley(copies: int) -> None:
    distances = np.concatenate([around(0.02, copies), around(0.2, 1000 - copies)])
    found = find_threshold(distances, FRESH)
    assert (found.rule, found.phase) == ("valley", "both")
    assert found.p_one_mode < 0.01
    assert (distances <= found.value).sum() == copies


def test_the_valley_lies_between_the_modes() -> None:
    low, at, high = valley(np.concatenate([around(0.02, 500), around(0.2, 500)])) or (0, 0, 0)
    assert low == pytest.approx(0.02, rel=0.15)
    assert high == pytest.approx(0.2, rel=0.15)
    assert at == pytest.approx((low * high) ** 0.5, rel=0.2)


@pytest.mark.parametrize(("centre", "phase"), [(0.02, "below"), (0.2, "above")])
def test_one_mode_takes_the_quantile_of_fresh_pictures(centre: float, phase: str) -> None:
    found = find_threshold(around(centre, 1000), FRESH)
    assert (found.rule, found.phase) == ("fresh", phase)
    assert found.value == low_quantile(FRESH)
    assert found.p_one_mode > 0.05


def test_two_kinds_of_copies_are_no_transition() -> None:
    distances = np.concatenate([around(0.01, 500, 0.05), around(0.03, 500, 0.05)])
    found = find_threshold(distances, FRESH)
    assert found.p_one_mode < 0.01
    assert (found.rule, found.phase) == ("fresh", "below")


def test_equal_distances_have_no_valley() -> None:
    assert valley(np.full(10, 0.1)) is None
    assert find_threshold(np.full(10, 0.01), FRESH).rule == "fresh"


def test_scale_changes_nothing_else() -> None:
    distances = np.concatenate([around(0.02, 500), around(0.2, 500)])
    one, ten = find_threshold(distances, FRESH), find_threshold(10 * distances, 10 * FRESH)
    assert ten.value == pytest.approx(10 * one.value, rel=1e-9)
