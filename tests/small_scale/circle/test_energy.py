"""The ODE's log-density, the prior's part of its error, and the sampler, by closed forms."""

from __future__ import annotations

from math import log, pi

import pytest
import torch
from torch import Tensor

from small_scale.circle.data import circle_points
from small_scale.circle.energy import divergence, energy, exact_prior, flow, standard_prior
from small_scale.circle.recipe import T_PICTURE, Recipe
from small_scale.circle.sampling import euler_maruyama
from small_scale.circle.scores import empirical, exact_score
from small_scale.circle.training import generator_for

POINTS = circle_points(0)[:9]
PLACES = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def true_log_density(t: float, sigma: float) -> Tensor:
    return empirical(POINTS, sigma, t).log_density(PLACES, 0)


def ode_error(tolerance: float) -> float:
    carried = flow(exact_score(POINTS, 1.0), PLACES, T_PICTURE, 1.0, tolerance)
    found = exact_prior(carried.ends, POINTS, 1.0) + carried.gain
    return float((found - true_log_density(T_PICTURE, 1.0)).abs().max())


def test_the_ode_gives_eq_23_from_the_exact_score_and_prior() -> None:
    assert ode_error(1e-5) < 1e-4


def test_a_tighter_tolerance_gives_a_smaller_error() -> None:
    assert ode_error(1e-8) < ode_error(1e-5) / 20


@pytest.mark.parametrize("sigma", [1.0, 0.5])
def test_what_the_standard_normal_gets_wrong_is_the_prior_alone(sigma: float) -> None:
    carried = flow(exact_score(POINTS, sigma), PLACES, T_PICTURE, sigma)
    as_printed = standard_prior(carried.ends, sigma) + carried.gain
    part = standard_prior(carried.ends, sigma) - exact_prior(carried.ends, POINTS, sigma)
    error = as_printed - true_log_density(T_PICTURE, sigma)
    torch.testing.assert_close(error, part, atol=2e-3, rtol=0)
    assert part.abs().max() > 0.1


def test_the_prior_at_the_centre_is_off_by_one_half() -> None:
    # Every point of the circle is at distance 1: log p_1(0) = -log 2 pi - 1/2 for sigma = 1.
    centre = torch.zeros(1, 2, dtype=torch.float64)
    assert float(exact_prior(centre, POINTS, 1.0)) == pytest.approx(-log(2 * pi) - 0.5)
    assert float(standard_prior(centre, 1.0)) == pytest.approx(-log(2 * pi))


def test_the_energy_is_that_of_eq_5_up_to_a_constant() -> None:
    sigma, t = 0.7, 0.3
    exact = empirical(POINTS, sigma, t).energy(PLACES, 0)
    difference = energy(true_log_density(t, sigma), t, sigma) - exact
    torch.testing.assert_close(difference, difference[:1].expand(len(PLACES)))


def test_the_divergence_of_a_single_points_score() -> None:
    sigma, t = 0.7, 0.3
    value, trace = divergence(exact_score(POINTS[:1], sigma), PLACES, t)
    torch.testing.assert_close(value, (POINTS[:1] - PLACES) / (sigma**2 * t))
    torch.testing.assert_close(trace, torch.full((len(PLACES),), -2 / (sigma**2 * t)).double())


def test_one_point_is_what_every_sample_becomes() -> None:
    samples = euler_maruyama(exact_score(POINTS[:1], 1.0), sampler(20, 50), generator_for(0))
    torch.testing.assert_close(samples, POINTS[:1].expand(20, 2))


def test_two_points_share_the_samples() -> None:
    pair = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    samples = euler_maruyama(exact_score(pair, 1.0), sampler(2000, 100), generator_for(0))
    nearest = torch.cdist(samples, pair).min(dim=1)
    assert nearest.values.max() < 1e-6
    assert float(nearest.indices.double().mean()) == pytest.approx(0.5, abs=0.04)


def test_euler_maruyama_is_of_first_order() -> None:
    # Gaussian data of variance v. It is small beside sigma: the samples of N(0, sigma^2) in place
    # of p_1 then forget that.
    v, errors = 0.05, []

    def score(x: Tensor, t: float) -> Tensor:
        return -x / (v + t)

    for steps in (100, 400):
        samples = euler_maruyama(score, sampler(20_000, steps), generator_for(0))
        errors.append(abs(float(samples.var()) - v))
    assert errors[1] < errors[0] / 2.5


def sampler(samples: int, steps: int) -> Recipe:
    return Recipe(samples=samples, sampler_steps=steps, t_min=0.0)
