"""Thresholds from histograms whose modes are known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from m2g_audit.errors import UsageError
from m2g_audit.verdict.thresholds import ALPHA, low_quantile
from small_scale.histogram_thresholds import find_threshold, rate_in, valley

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


def test_a_valley_above_the_quantile_of_fresh_pictures_is_no_bound() -> None:
    distances = np.concatenate([around(0.03, 600, 0.25), around(0.25, 400, 0.25)])
    fresh = around(0.25, 4000, 0.7)
    assert valley(distances) is not None
    found = find_threshold(distances, fresh)
    assert found.rule == "fresh"
    assert (fresh <= found.value).mean() == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize("n_fresh", [3000, 8000])
def test_fewer_fresh_pictures_than_samples_hold_the_same_rate(n_fresh: int) -> None:
    size = 16_000

    def nearest_on_circle(n: int, seed: int) -> NDArray[np.float64]:
        at = np.sort(np.random.default_rng(seed).random(n))
        gaps = np.diff(at, append=at[0] + 1)
        return np.minimum(gaps, np.roll(gaps, 1))

    found = [
        low_quantile(nearest_on_circle(n_fresh, seed), rate_in(size, n_fresh))
        for seed in range(400)
    ]
    # Of n random points on a circle a share 1 - (1 - 2 r)^(n - 1) has another within r.
    rates = 1 - (1 - 2 * np.array(found)) ** (size - 1)
    assert rates.mean() == pytest.approx(0.01, rel=0.15)


def test_too_few_fresh_pictures_give_their_least_distance() -> None:
    assert low_quantile(around(0.2, 100), rate_in(1000, 100)) == around(0.2, 100).min()


def test_as_many_fresh_pictures_as_samples_need_no_correction() -> None:
    assert rate_in(1000, 1000) == rate_in(1000, 4096) == ALPHA


def test_equal_distances_have_no_valley() -> None:
    assert valley(np.full(10, 0.1)) is None
    assert find_threshold(np.full(10, 0.01), FRESH).rule == "fresh"


def test_scale_changes_nothing_else() -> None:
    distances = np.concatenate([around(0.02, 500), around(0.2, 500)])
    one, ten = find_threshold(distances, FRESH), find_threshold(10 * distances, 10 * FRESH)
    assert ten.value == pytest.approx(10 * one.value, rel=1e-9)


def test_a_threshold_of_0_is_refused() -> None:
    with pytest.raises(UsageError, match=r"1\.0% of the pictures .* at distance 0"):
        find_threshold(FRESH, np.where(np.arange(len(FRESH)) < 40, 0.0, FRESH))
    assert find_threshold(FRESH, np.where(np.arange(len(FRESH)) < 5, 0.0, FRESH)).value > 0
