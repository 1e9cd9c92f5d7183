"""Free multiplication against closed forms, moments, bounds and random matrices."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from m2g_audit.diagnostics.fast_spectrum import relative_l1
from m2g_audit.diagnostics.free_probability import RATIO, broadened, point_mass_curve, with_mean

SPECTRA = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=40
).map(np.array)  # fmt: skip


def uniform(N: int) -> np.ndarray:
    return (np.arange(N) + 0.5) / N


def simulated(values: np.ndarray, *, repeats: int = 4, mean: float = 0) -> np.ndarray:
    """Mean singular values of J G / sqrt(4 N), with `mean` u w^T beside it."""
    rng, N = np.random.default_rng(0), len(values)
    found = []
    for _ in range(repeats):
        matrix = values[:, None] * rng.standard_normal((N, 4 * N)) / np.sqrt(4 * N)
        u = rng.standard_normal(N)
        matrix += mean * np.outer(u / np.linalg.norm(u), np.full(4 * N, (4 * N) ** -0.5))
        found.append(np.linalg.svd(matrix, compute_uv=False))
    return np.mean(found, axis=0)


def test_the_identity_becomes_marchenko_pastur() -> None:
    np.testing.assert_allclose(broadened(np.ones(500)), point_mass_curve("paper", 500), atol=1e-3)


@pytest.mark.parametrize("ratio", [0.01, 0.25, 0.9])
def test_the_identity_has_the_moments_of_any_ratio(ratio: float) -> None:
    # Of Marchenko-Pastur's law the mean is 1, the variance the ratio, the edges (1 +- sqrt c)^2.
    squares = broadened(np.ones(2000), ratio=ratio) ** 2
    assert squares.mean() == pytest.approx(1, abs=1e-3)
    assert squares.var() == pytest.approx(ratio, rel=1e-2)
    assert (squares.max() ** 0.5, squares.min() ** 0.5) == (
        pytest.approx(1 + ratio**0.5, rel=1e-2),
        pytest.approx(1 - ratio**0.5, abs=1e-2),
    )


@given(values=SPECTRA)
def test_broadening_keeps_the_mean_square_and_the_zeros(values: np.ndarray) -> None:
    # E[G G^T] ratio / N is the identity. Spikes are pushed out while the bulk is not pushed back.
    found, N = broadened(values), len(values)
    assert found.shape == (N,)
    assert (np.diff(found) <= 0).all()
    assert (found > 0).sum() == (values > 1e-6 * values.max(initial=0)).sum()
    if values.any():
        assert (found**2).mean() == pytest.approx((values**2).mean(), rel=0.1 + 2 / N)


@pytest.mark.parametrize("values", [uniform(400), 1 + uniform(400), np.exp(4 * uniform(400))])
def test_broadening_has_the_moments_of_the_free_product(values: np.ndarray) -> None:
    tau, found = values**2, broadened(values) ** 2
    assert found.mean() == pytest.approx(tau.mean(), rel=5e-3)
    expected = (tau**2).mean() + RATIO * tau.mean() ** 2
    assert (found**2).mean() == pytest.approx(expected, rel=2e-2)


@given(values=SPECTRA, scale=st.floats(1e-6, 1e6))
def test_broadening_follows_the_scale_and_not_the_order(values: np.ndarray, scale: float) -> None:
    expected = scale * broadened(values)
    np.testing.assert_allclose(broadened(scale * values[::-1]), expected, rtol=1e-6)


@given(values=SPECTRA, ratio=st.floats(0.05, 0.95))
def test_every_value_stays_within_the_bounds_of_ostrowski(values: np.ndarray, ratio: float) -> None:
    sorted_values, found = np.sort(values)[::-1], broadened(values, ratio=ratio)
    tops = np.sort(values)[::-1] * (1 + ratio**0.5)
    # Averages of atoms apart, no quantile leaves the bounds that hold for every random matrix.
    assert (found <= tops * (1 + 1e-6)).all()
    low = sorted_values * (1 - ratio**0.5)
    assert (found >= low * (1 - 1e-6))[sorted_values > 1e-6 * sorted_values[0]].all()


@pytest.mark.parametrize(
    "values", [[1.0, 0, 0], [0.0, 0, 0], [2.0], [2.0, 1], [3.0, 2, 1], [2.0, 2]]
)
def test_few_values_are_no_exception(values: list[float]) -> None:
    found = broadened(np.array(values))
    np.testing.assert_allclose(found, values, rtol=0.25)


@pytest.mark.parametrize(
    ("values", "tolerance"),
    [
        (np.ones(150), 0.01),
        (np.append(np.ones(75), np.full(75, 1e-3)), 0.01),
        (np.append(np.ones(100), np.zeros(50)), 0.01),
        (uniform(150), 0.015),
        (np.arange(1, 151) ** -1.0, 0.03),
        (np.exp(6 * uniform(150)), 0.02),
        (np.append(uniform(148), [20, 20.01]), 0.015),
    ],
    ids=["identity", "two levels", "rank", "uniform", "power", "wide", "near spikes"],
)
def test_random_matrices_are_predicted(values: np.ndarray, tolerance: float) -> None:
    values = np.sort(values)[::-1]
    assert relative_l1(broadened(values), simulated(values)) < tolerance


def test_values_of_different_size_do_not_hide_each_other() -> None:
    # A network's flat directions are a thousandth of its stiff ones.
    found = broadened(np.append(np.ones(50), np.full(50, 1e-3)))
    np.testing.assert_allclose(found[50:] / found[:50][::-1].mean(), 1e-3, rtol=0.6)
    assert (found < 0.01).sum() == 50


def test_a_spike_is_pushed_out() -> None:
    # Baik and Silverstein 2006, for a bulk at 1: tau (1 + c / (tau - 1)) if tau > 1 + sqrt(c).
    N = 2000
    for tau in (1.8, 2.5, 9.0):
        found = broadened(np.append(np.ones(N - 1), tau**0.5))
        assert found[0] ** 2 == pytest.approx(tau * (1 + RATIO / (tau - 1)), rel=1e-3)
        assert found[1] == pytest.approx(1.5, abs=0.01)


def test_a_weak_spike_drowns() -> None:
    found = broadened(np.append(np.ones(1999), 1.2))
    np.testing.assert_allclose(found, broadened(np.ones(2000)), atol=0.02)


@pytest.mark.parametrize("spikes", [[30.0, 30.0], [30.0, 29.99, 5.0], [30.0, 29.99, 29.98]])
def test_spikes_close_to_each_other_remain_spikes(spikes: list[float]) -> None:
    found = broadened(np.append(0.5 + uniform(1000) / 2, spikes))
    np.testing.assert_allclose(found[: len(spikes)], spikes, rtol=0.02)
    assert found[len(spikes)] < 1.4


# --- the mean score ---------------------------------------------------------------------------


def white(theta: float) -> float:
    """Where theta u w^T takes the largest value of white noise (Benaych-Georges 2012)."""
    if theta <= RATIO**0.25:
        return 1 + RATIO**0.5
    return ((1 + theta**2) * (RATIO + theta**2)) ** 0.5 / theta


@pytest.mark.parametrize("theta", [0.3, 0.8, 1.0, 2.0, 10.0])
def test_a_mean_adds_one_value_to_white_noise(theta: float) -> None:
    before = point_mass_curve("paper", 2000)
    after = with_mean(before, theta)
    assert after[0] == pytest.approx(white(theta), rel=3e-3)
    np.testing.assert_allclose(after[1:], before[1:], atol=0.02)


@pytest.mark.parametrize("theta", [0.7, 1.0, 2.0, 4.0])
@pytest.mark.parametrize(
    "values",
    [uniform(150), np.append(np.ones(75), np.zeros(75)), np.append(uniform(149), 3.0)],
    ids=["uniform", "rank", "spike"],
)
def test_a_mean_is_predicted_beside_any_matrix(values: np.ndarray, theta: float) -> None:
    values = np.sort(values)[::-1]
    found, expected = with_mean(broadened(values), theta), simulated(values, mean=theta)
    assert relative_l1(found, expected) < 0.02
    np.testing.assert_allclose(found[:2], expected[:2], rtol=0.05)


def test_a_mean_under_a_spike_leaves_the_spike() -> None:
    before = broadened(np.append(uniform(999), 3.0))
    after = with_mean(before, 2.0)
    assert after[0] == pytest.approx(before[0])
    assert 2 < after[1] < 2.3
    assert after[2] < 1.3


@given(values=SPECTRA, mean=st.floats(0, 1e4))
@example(values=np.zeros(1), mean=7.13e-174)
def test_values_interlace_with_those_before(values: np.ndarray, mean: float) -> None:
    before = np.sort(values)[::-1]
    after = with_mean(before, mean)
    assert after.shape == before.shape
    assert (after >= before).all()
    assert (after[1:] <= before[:-1]).all()
    assert after[0] <= (before[0] + mean) * (1 + 1e-9)


def test_a_mean_alone_is_the_only_value() -> None:
    np.testing.assert_allclose(with_mean(np.zeros(4), 2.5), [2.5, 0, 0, 0])
    np.testing.assert_array_equal(with_mean(np.ones(4), 0.0), np.ones(4))


@pytest.mark.parametrize("mean", [1e-17, 1e-151, 1e-160, 5e-324])
def test_a_mean_that_rounding_hides_adds_nothing(mean: float) -> None:
    before = broadened(np.linspace(1, 0.1, 50))
    assert np.array_equal(with_mean(before, mean), before)
