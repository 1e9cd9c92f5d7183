"""Mean-shift minima against closed forms (one point, two, polygons, the circle)."""

from __future__ import annotations

from math import asin, log, pi, sqrt
from statistics import mean, stdev

import pytest
import torch
from scipy.special import ive
from torch import Tensor

from m2g_audit.diagnostics.oracles import dense_am_energy
from small_scale.circle.data import circle_points
from small_scale.circle.minima import (
    Exact,
    Learned,
    expected_of_many,
    find_minima,
    shared_until,
)
from small_scale.circle.scores import empirical, exact_score


def polygon(corners: int) -> Tensor:
    angles = torch.arange(corners, dtype=torch.float64) * (2 * pi / corners)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def pair(distance: float) -> Tensor:
    return torch.tensor([[-distance / 2, 0.0], [distance / 2, 0.0]], dtype=torch.float64)


def count(points: Tensor, beta: float) -> tuple[int, int, int, int]:
    return find_minima(Exact(points, beta), points).counts()


def test_mean_shift_is_the_posterior_mean_and_goes_down_the_energy() -> None:
    points, beta = circle_points(0)[:7], 2.5
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shift = Exact(points, beta)
    expected = empirical(points, 1.0, 1 / (2 * beta)).posterior_mean(x, 0)
    torch.testing.assert_close(shift(x), expected)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(dense_am_energy(x, points, beta).sum(), x)
    torch.testing.assert_close(gradient, 2 * (x - shift(x)).detach())


def test_the_jacobian_is_that_of_the_map() -> None:
    points, x = circle_points(0)[:7], circle_points(1)[:5] * 0.8
    shift = Exact(points, 2.5)
    mean, jacobian = shift.linear(x)
    expected = torch.stack([torch.autograd.functional.jacobian(shift, y[None])[0, :, 0] for y in x])
    torch.testing.assert_close(jacobian, expected)
    torch.testing.assert_close(mean, shift(x))


def test_one_point_is_the_only_minimum() -> None:
    points = torch.tensor([[0.6, -0.8]], dtype=torch.float64)
    found = find_minima(Exact(points, 3.0), points)
    torch.testing.assert_close(found.points, points)
    assert found.counts() == (1, 0, 0, 0)


@pytest.mark.parametrize("ratio", [0.2, 0.9, 0.98, 1.02, 1.1, 5.0])
def test_two_points_have_two_minima_where_beta_d2_over_2_exceeds_one(ratio: float) -> None:
    distance = 0.7
    beta = 2 * ratio / distance**2
    found = find_minima(Exact(pair(distance), beta), pair(distance))
    assert found.counts() == ((2, 0, 0, 0) if ratio > 1 else (0, 1, 0, 0))
    # On the axis m(x) = a tanh(2 beta a x) with a = d / 2.
    x = found.points[:, 0]
    torch.testing.assert_close(x, distance / 2 * torch.tanh(beta * distance * x))
    torch.testing.assert_close(found.points[:, 1], torch.zeros_like(x))


def test_an_equilateral_triangle_has_a_fourth_minimum_just_below_beta_one() -> None:
    # The centre attracts for beta < 1 (the covariance is I / 2 there). On the axis through a corner
    # m(u) = (e - 1) / (e + 2) with e = exp(3 beta u), so u = m(u) where beta is as below: that is
    # least, 0.9154, at u = 0.376. Between the two all four attract.
    assert count(polygon(3), 0.91) == (0, 1, 0, 0)
    assert count(polygon(3), 1.05) == (3, 0, 0, 0)
    found = find_minima(Exact(polygon(3), 0.93), polygon(3))
    assert found.counts() == (3, 0, 1, 0)
    u = float(found.points[found.basins[0], 0])
    assert log((1 + 2 * u) / (1 - u)) / (3 * u) == pytest.approx(0.93, abs=1e-6)


@pytest.mark.parametrize("corners", [4, 5, 9])
def test_a_polygon_has_one_minimum_for_each_corner_or_one_in_all(corners: int) -> None:
    assert count(polygon(corners), 0.9) == (0, 1, 0, 0)
    found = find_minima(Exact(polygon(corners), 20.0), polygon(corners))
    assert found.counts() == (corners, 0, 0, 0)
    radius = found.points.norm(dim=1)
    torch.testing.assert_close(radius, radius[:1].expand(corners))


def test_many_points_bring_mean_shift_to_the_radius_of_the_continuous_circle() -> None:
    # Eq. 17: the gradient vanishes where R = I_1(2 beta R) / I_0(2 beta R).
    beta, x = 10 / 3, torch.tensor([[0.3, 0.2], [1.5, -0.4]], dtype=torch.float64)
    shift = Exact(polygon(400), beta)
    for _ in range(500):
        x = shift(x)
    radius = x.norm(dim=1).numpy()
    assert ive(1, 2 * beta * radius) / ive(0, 2 * beta * radius) == pytest.approx(radius, abs=1e-10)


def test_two_points_of_many_share_a_minimum_until_beta_is_2_over_d2() -> None:
    # The others are too far away to matter at that beta.
    near = torch.tensor([[1.0, 0.05], [1.0, -0.05]], dtype=torch.float64)
    points = torch.cat([near, polygon(3)[1:]])
    assert shared_until(points, torch.tensor([0, 1])) == pytest.approx(200, rel=2e-3)


def test_draws_of_two_points_merge_as_often_as_they_must() -> None:
    beta, draws = 2.0, 80
    two = 0
    for draw in range(draws):
        points = circle_points(0, draw)[:2]
        minima = sum(count(points, beta)[:3])
        assert minima == 1 + bool(beta * (points[0] - points[1]).square().sum() > 2)
        two += minima == 2
    expected = 1 - 2 / pi * asin(1 / sqrt(2 * beta))
    assert two / draws == pytest.approx(expected, abs=3 * sqrt(expected * (1 - expected) / draws))


@pytest.mark.parametrize("size", [100, 400])
def test_many_points_have_as_many_minima_as_rices_formula_says(size: int) -> None:
    beta, draws = 20.0, 30
    counts = [sum(count(circle_points(0, draw)[:size], beta)[:3]) for draw in range(draws)]
    error = stdev(counts) / sqrt(draws)
    assert mean(counts) == pytest.approx(expected_of_many(beta), abs=3 * error)
    assert error < 0.05 * expected_of_many(beta)


@pytest.mark.parametrize("beta", [10 / 3, 20.0, 200.0])
def test_newtons_method_ends_in_the_basin_where_plain_mean_shift_ends(beta: float) -> None:
    points = circle_points(0, 3)[:30]
    shift = Exact(points, beta)
    found = find_minima(shift, points)
    plain = points
    for _ in range(3000):
        plain = shift(plain)
    torch.testing.assert_close(found.points[found.basins], plain, atol=1e-6, rtol=0)


def test_turning_the_circle_and_the_order_of_points_change_nothing() -> None:
    points, c, s = circle_points(0, 5)[:40], 0.6, 0.8
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    expected = count(points, 20.0)
    assert count(points @ turn.T, 20.0) == expected
    assert count(points.flip(0), 20.0) == expected


def test_a_score_gives_the_minima_of_its_energy() -> None:
    points, beta, sigma = circle_points(0)[:9], 10 / 3, 0.7
    learned = find_minima(Learned(exact_score(points, sigma), beta, sigma), points)
    exact = find_minima(Exact(points, beta), points)
    torch.testing.assert_close(learned.points, exact.points)
    assert torch.equal(learned.basins, exact.basins)
