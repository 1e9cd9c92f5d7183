"""Golub-Kahan on matrices with prescribed spectra: identities first, then rates and edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.diagnostics import krylov
from m2g_audit.diagnostics.krylov import (
    Bidiagonalisation,
    Quadrature,
    curve,
    largest,
    lone_values,
    single,
)
from m2g_audit.diagnostics.operators import Matrices
from tests.support.score_models import prescribed, random, rotation


def run(
    matrices: Matrices, steps: int, *, directions: int = 1, seed: int = 50
) -> Bidiagonalisation:
    start = random(matrices.batch, directions, matrices.size, seed=seed)
    found = Bidiagonalisation(matrices, start)
    found.extend(steps)
    return found


def spread_out(weight: float) -> Quadrature:
    """Ten unconverged nodes, the last of this weight."""
    weights = np.append(np.full(9, (1 - weight) / 9), weight)
    return Quadrature(np.arange(1.0, 11), weights, np.ones(10))


# --- bidiagonalisation ------------------------------------------------------------------------


@pytest.mark.parametrize(("directions", "steps"), [(1, 5), (2, 3), (3, 9)])
def test_the_factors_are_those_of_the_matrix(directions: int, steps: int) -> None:
    matrices = prescribed(np.linspace(0.1, 2, 30), np.geomspace(1e-6, 1, 30))
    found, m = run(matrices, steps, directions=directions), steps * directions
    A, left, right = matrices.matvec(torch.eye(30).double().expand(2, -1, -1)).mT, None, None
    left, right = found._left[:, :m], found._right[:, :m]
    identity = torch.eye(m).double().expand(2, m, m)
    for basis in (left, right):
        torch.testing.assert_close(basis @ basis.mT, identity, rtol=0, atol=1e-13)
    projected = left @ A @ right.mT
    for item in range(2):
        nodes = torch.linalg.svdvals(projected[item]).flip(0)
        np.testing.assert_allclose(found.quadrature(item, steps).nodes, nodes, atol=1e-13)
    torch.testing.assert_close(right @ A.mT, projected.mT @ left, rtol=0, atol=1e-13)
    start, image = found.first_products()
    torch.testing.assert_close(image, start @ A.mT, rtol=0, atol=1e-13)


@given(steps=st.integers(1, 5), directions=st.integers(1, 3), seed=st.integers(0, 99))
def test_quadrature_is_exact_for_polynomials(steps: int, directions: int, seed: int) -> None:
    # Gauss: degree 2 m - 1 in A^T A for the measure of the start; with blocks, their mean.
    matrices = prescribed(np.linspace(0.2, 1.2, 20), seed=seed)
    start = torch.linalg.qr(random(20, directions, seed=seed + 7))[0].T[None]
    found = Bidiagonalisation(matrices, start)
    found.extend(steps)
    quadrature = found.quadrature(0, steps)
    assert quadrature.weights.sum() == pytest.approx(1)
    power = start
    for degree in range(2 * steps):
        expected = float((start * power).sum(2).mean())
        assert (quadrature.weights * quadrature.nodes ** (2 * degree)).sum() == pytest.approx(
            expected, rel=1e-9
        )
        power = matrices.rmatvec(matrices.matvec(power))
    beyond = (quadrature.weights * quadrature.nodes ** (4 * steps)).sum()
    assert abs(beyond / float((start * power).sum(2).mean()) - 1) > 1e-7


@given(seed=st.integers(0, 200), steps=st.integers(1, 12), directions=st.integers(1, 3))
def test_within_its_residual_of_every_node_lies_a_value(
    seed: int, steps: int, directions: int
) -> None:
    values = np.random.default_rng(seed).lognormal(size=15)
    quadrature = run(prescribed(values), steps, directions=directions).quadrature(0, steps)
    distance = np.abs(quadrature.nodes[:, None] - values).min(axis=1)
    assert (distance <= quadrature.residuals + 1e-12 * values.max()).all()


def test_weights_are_right_on_average_over_directions() -> None:
    matrices, shares = prescribed(*[np.repeat([1.0, 2.0, 3.0], [6, 3, 1])] * 400), []
    found = run(matrices, 3)
    for item in range(matrices.batch):
        quadrature = found.quadrature(item, 3)
        np.testing.assert_allclose(quadrature.nodes, [1, 2, 3])
        shares.append(quadrature.weights)
    # A share F of a random direction varies by 2 F (1 - F) / (N + 2).
    expected = np.array([0.6, 0.3, 0.1])
    variance = 2 * expected * (1 - expected) / 12
    np.testing.assert_allclose(np.var(shares, axis=0), variance, rtol=0.3)
    np.testing.assert_allclose(
        np.mean(shares, axis=0), expected, atol=4 * (variance.max() / 400) ** 0.5
    )


def test_no_ghosts_of_values_that_have_converged() -> None:
    # Without reorthogonalisation 10 would be found again and again.
    values = np.append(np.linspace(0, 1, 79), 10)
    quadrature = run(prescribed(values), 60).quadrature(0, 60)
    assert (np.abs(quadrature.nodes - 10) < 1e-6).sum() == 1
    assert np.diff(quadrature.nodes).min() > 1e-8


def test_the_largest_value_converges_geometrically() -> None:
    values = np.append(np.linspace(0, 1, 199), 1.1)
    found = run(prescribed(values), 13)
    steps = range(5, 14, 2)
    errors = [1.1 - found.quadrature(0, k).nodes[-1] for k in steps]
    # By the growth of Chebyshev's polynomials in the square, there and back (Kaniel and Paige).
    ratio = 2 * 1.1**2 - 1
    growth = 2 * np.log(ratio + (ratio**2 - 1) ** 0.5)
    assert np.polyfit(steps, np.log(errors), 1)[0] == pytest.approx(-growth, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("directions", [1, 2])
def test_the_identity_breaks_down_after_one_step(dtype: torch.dtype, directions: int) -> None:
    found = run(Matrices(3 * rotation(50, 0).to(dtype)[None]), 1, directions=directions)
    assert found.exhausted.tolist() == [True]
    found.extend(4)
    for steps in (1, 5):
        quadrature = found.quadrature(0, steps)
        np.testing.assert_allclose(quadrature.nodes, np.full(directions, 3.0), rtol=1e-5)
        assert not quadrature.residuals.any()
        np.testing.assert_allclose(curve(quadrature, 50), np.full(50, 3.0), rtol=1e-5)


@pytest.mark.parametrize("directions", [1, 2, 3])
@pytest.mark.parametrize("N", [1, 2, 3, 7])
def test_more_steps_than_dimensions_give_every_value_once(N: int, directions: int) -> None:
    values = np.arange(1.0, N + 1)
    found = run(prescribed(values), N + 4, directions=min(directions, N))
    assert found.exhausted.all()
    quadrature = found.quadrature(0, found.steps)
    np.testing.assert_allclose(quadrature.nodes, values)
    np.testing.assert_allclose(curve(quadrature, N), values[::-1])


def test_few_distinct_values_are_found_in_as_many_steps() -> None:
    found = run(prescribed(np.repeat([0.5, 1.0, 4.0], 20)), 9)
    assert found.exhausted.all()
    quadrature = found.quadrature(0, 9)
    np.testing.assert_allclose(quadrature.nodes, [0.5, 1, 4])
    np.testing.assert_allclose(quadrature.residuals, 0, atol=1e-6)


@pytest.mark.parametrize("directions", [1, 3])
def test_rank_deficiency_gives_numerical_zeros(directions: int) -> None:
    values = np.append(np.linspace(1, 2, 20), np.zeros(40))
    found = run(prescribed(values), 30, directions=directions)
    assert found.exhausted.all()
    quadrature = found.quadrature(0, 30)
    assert quadrature.nodes[0] < 1e-12
    # The twenty others have converged, and count once each.
    expected = np.append(np.linspace(2, 1, 20), np.zeros(40))
    np.testing.assert_allclose(curve(quadrature, 60), expected, atol=1e-6)


@pytest.mark.parametrize("N", [1, 2, 3, 50])
def test_nothing_has_a_spectrum_of_zeros(N: int) -> None:
    found = run(Matrices(torch.zeros(1, N, N).double()), 4)
    assert found.exhausted.all()
    np.testing.assert_array_equal(curve(found.quadrature(0, 4), N), np.zeros(N))


def test_runs_do_not_notice_each_other() -> None:
    # One breaks down at once, one after three steps, one never.
    spectra = [np.ones(40), np.repeat([1.0, 2, 3, 4], 10), np.linspace(0, 5, 40)]
    together = prescribed(*spectra)
    start = random(3, 2, 40, seed=9)
    company = Bidiagonalisation(together, start)
    company.extend(6)
    assert company.exhausted.tolist() == [True, True, False]
    for item in range(3):
        alone = Bidiagonalisation(Matrices(together._matrices[item : item + 1]), start[item][None])
        alone.extend(6)
        for steps in (2, 6):
            ours, theirs = company.quadrature(item, steps), alone.quadrature(0, steps)
            for name in ("nodes", "weights"):
                np.testing.assert_allclose(
                    getattr(ours, name), getattr(theirs, name), atol=1e-10, err_msg=name
                )


# --- the largest values -----------------------------------------------------------------------


def follow(matrices: Matrices, k: int, tolerance: float = 1e-9, most: int = 60):
    start = torch.linalg.qr(random(matrices.size, k, seed=11))[0].T[None]
    return largest(matrices, start, tolerance, most=most)


def test_repeated_values_are_found_with_as_many_directions() -> None:
    matrices = prescribed(np.append(np.linspace(0, 1, 97), [2, 2, 2]))
    values, residuals, _ = follow(matrices, 3)
    np.testing.assert_allclose(values, [2, 2, 2], rtol=1e-9)
    assert (residuals <= 2e-9).all()
    # One direction sees one of them, until rounding brings in the others.
    single_direction = run(matrices, 12).quadrature(0, 12).nodes
    assert (np.abs(single_direction - 2) < 1e-3).sum() == 1


def test_a_value_that_stands_out_of_an_identity_is_not_overlooked() -> None:
    # A first step sees nearly the identity, and its residual is small already.
    matrices = prescribed(np.append(np.ones(399), 1.3))
    values, _, steps = follow(matrices, 2, tolerance=0.02)
    np.testing.assert_allclose(values, [1.3, 1], rtol=1e-9)
    assert steps < 10


def test_the_largest_values_stop_where_there_is_nothing_more() -> None:
    values, residuals, steps = follow(prescribed([3.0, 2, 1]), 3)
    np.testing.assert_allclose(values, [3, 2, 1])
    np.testing.assert_allclose(residuals, 0, atol=1e-12)
    assert steps == 1
    values, _, steps = follow(prescribed(np.linspace(0, 1, 100)), 1, tolerance=1e-12, most=5)
    assert steps == 5
    assert values[0] < 1


@given(tolerance=st.floats(1e-6, 0.1), k=st.integers(1, 4))
def test_the_largest_values_are_as_near_as_asked(tolerance: float, k: int) -> None:
    values = np.append(np.linspace(0, 1, 30), [1.5, 2, 2.5, 3])
    found, residuals, _ = follow(prescribed(values), k, tolerance)
    assert (residuals <= tolerance * found[0]).all()
    np.testing.assert_allclose(found, np.sort(values)[::-1][:k], atol=tolerance * found[0])


# --- curves -----------------------------------------------------------------------------------


def test_the_error_of_the_curve_falls_with_the_steps() -> None:
    # From a start that holds every value alike, so that chance takes no part.
    N, steps = 400, (3, 6, 12, 24)
    values = np.linspace(0, 1, N)
    right = rotation(N, 1)
    matrices = Matrices(((rotation(N, 0) * torch.as_tensor(values)) @ right.T)[None])
    found = Bidiagonalisation(matrices, right.sum(1)[None, None])
    found.extend(24)
    errors = [np.abs(curve(found.quadrature(0, k), N) - values[::-1]).sum() / values.sum()
              for k in steps]  # fmt: skip
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] < -1
    assert errors[-1] < 2e-3


@given(data=st.data(), count=st.integers(1, 12))
def test_the_mean_square_of_a_curve_is_that_of_its_quadrature(data, count: int) -> None:
    numbers = st.lists(st.floats(1e-3, 1), min_size=count, max_size=count)
    nodes = np.cumsum(data.draw(numbers))
    weights = np.array(data.draw(numbers))
    residuals = nodes * np.array(data.draw(numbers))
    quadrature = Quadrature(nodes, weights / weights.sum(), residuals)
    values = curve(quadrature, 20000, np.zeros(count, bool))
    expected = (quadrature.weights * nodes**2).sum()
    # N quantiles stand for a density.
    assert (values**2).mean() == pytest.approx(expected, rel=2e-3)
    assert (np.diff(values) <= 0).all()


@given(data=st.data(), count=st.integers(1, 12), N=st.integers(1, 40))
def test_every_quadrature_has_a_curve(data, count: int, N: int) -> None:
    """Ties, zeros, values from 1e-12 to 1e12, weights that vanish."""
    exponents = st.one_of(st.just(-300.0), st.floats(-12, 12))
    drawn = data.draw(st.lists(exponents, min_size=count, max_size=count))
    nodes = np.sort([0.0 if x == -300 else 10**x for x in drawn])
    share = st.one_of(st.just(0.0), st.floats(0, 1))
    weights = np.array(data.draw(st.lists(share, min_size=count, max_size=count)))
    weights[data.draw(st.integers(0, count - 1))] = 1
    residuals = nodes * np.array(data.draw(st.lists(share, min_size=count, max_size=count)))
    values = curve(Quadrature(nodes, weights / weights.sum(), residuals), N)
    assert values.shape == (N,)
    assert np.isfinite(values).all()
    assert (np.diff(values) <= 0).all()
    assert values[-1] >= 0
    assert values[0] <= 2 * nodes[-1]


def test_all_weight_on_one_node_is_a_spectrum_of_it() -> None:
    quadrature = Quadrature(np.array([1.0, 2, 3]), np.array([0.0, 1, 0]), np.full(3, 0.1))
    values = curve(quadrature, 40)
    np.testing.assert_allclose(values, np.full(40, 2.0), atol=0.1)
    assert (values**2).mean() == pytest.approx(4, rel=1e-3)


def test_a_steep_cell_does_not_overflow() -> None:
    length = np.array([1e-12, 1e-3, 16.0, 16.0])
    x = krylov._tilt(length, np.array([1e-12, 1e-3, 1e-6, 31.9]))
    assert np.isfinite(x).all()
    # A mean square at the middle of a short cell needs no tilt.
    assert abs(x[1]) < 1e-2
    assert x[2] < -50
    assert x[3] > 5


def test_a_value_by_itself_counts_once_whatever_its_weight() -> None:
    values = np.append(np.linspace(0, 1, 197), [5.0, 8, 11])
    for seed in range(5):
        quadrature = run(prescribed(values), 16, seed=seed).quadrature(0, 16)
        np.testing.assert_allclose(curve(quadrature, 200)[:3], [11, 8, 5], rtol=1e-3)
        assert curve(quadrature, 200)[3] < 1.1


def test_a_converged_node_of_many_values_counts_as_many() -> None:
    quadrature = run(
        prescribed(np.append(np.linspace(0, 1, 160), np.full(40, 5.0))), 16
    ).quadrature(0, 16)
    # Rounding may show the repeated value again, as a node of no weight.
    repeated = quadrature.nodes > 4
    assert not lone_values(quadrature, 200)[repeated].any()
    weight = quadrature.weights[repeated].sum()
    assert (curve(quadrature, 200) > 4).sum() == pytest.approx(200 * weight, abs=1)


def test_lone_values_leave_room_for_the_others() -> None:
    # Four nodes that are each light enough for one value cannot stand for 20.
    values = np.repeat([1.0, 2, 3, 4], 5)
    for seed in range(20):
        quadrature = run(prescribed(values), 8, seed=seed).quadrature(0, 8)
        lone = lone_values(quadrature, 20)
        assert single(20 * float(quadrature.weights[lone].sum()), int(lone.sum()))
        if not lone.any():
            close = np.abs(curve(quadrature, 20)[:, None] - quadrature.nodes) < 1e-6
            np.testing.assert_allclose(close.sum(0), 20 * quadrature.weights, atol=1)
    assert not lone_values(spread_out(0.1), 100).any()


def test_the_weight_of_single_values_is_chi_squared() -> None:
    weights = random(20000, 3).square()
    for count in (1, 2, 3):
        refused = [not single(float(weight), count) for weight in weights[:, :count].sum(1)]
        assert np.mean(refused) == pytest.approx(0.01, abs=0.003)
    assert single(0.0, 0)
