"""Closed forms against each other: densities, scores, energies and Jacobians."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special
from torch import Tensor

from m2g_audit.diagnostics.oracles import (
    Circle,
    Empirical,
    GaussianSubspace,
    circle_energy,
    circle_score,
    dense_am_energy,
)
from m2g_audit.diagnostics.score_model import NoiseSchedule
from tests.support.score_models import SCHEDULES, VE, VP, random


def gradient(function, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


@SCHEDULES
@given(t=st.integers(0, 999), seed=st.integers(0, 50), count=st.integers(1, 6))
def test_empirical_score_is_the_gradient_of_its_log_density(
    schedule: NoiseSchedule, t: int, seed: int, count: int
) -> None:
    model = Empirical(random(count, 2, 3, seed=seed), schedule)
    x = random(4, 2, 3, seed=seed + 1)
    expected = gradient(lambda y: model.log_density(y, t), x)
    torch.testing.assert_close(model.score(x, t), expected, rtol=1e-6, atol=1e-6)


@SCHEDULES
def test_energy_and_density_agree(schedule: NoiseSchedule) -> None:
    # Eq. 4: p = exp(-E / (2 sigma^2)) up to terms that do not depend on x.
    model, x, t = Empirical(random(5, 3), schedule), random(7, 3, seed=1), 300
    scaled = -model.energy(x, t) / (2 * schedule.sigma(t) ** 2)
    difference = model.log_density(x, t) - scaled
    torch.testing.assert_close(difference, difference[:1].expand(7))


def test_log_density_integrates_to_one() -> None:
    model = Empirical(random(3, 1), VE)
    mass, _ = integrate.quad(
        lambda x: float(model.log_density(torch.tensor([[x]]).double(), 500).exp()), -12, 12
    )
    assert mass == pytest.approx(1, abs=1e-6)


def test_diffusion_energy_is_the_dense_associative_memory() -> None:
    # Eq. 5 and 6 are one function with beta = 1 / (2 sigma^2).
    model, x, t = Empirical(random(4, 3), VE), random(5, 3, seed=1), 200
    beta = 1 / (2 * float(VE.sigma(t)) ** 2)
    torch.testing.assert_close(model.energy(x, t), dense_am_energy(x, model.patterns, beta))


@SCHEDULES
def test_a_point_mass_has_the_jacobian_of_a_single_memory(schedule: NoiseSchedule) -> None:
    model, t = Empirical(random(1, 4), schedule), 5
    jacobian = torch.autograd.functional.jacobian(lambda x: model.score(x[None], t)[0], random(4))
    expected = -torch.eye(4, dtype=torch.float64) / schedule.sigma(t) ** 2
    torch.testing.assert_close(jacobian, expected, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize(("beta", "minima"), [(0.2, 1), (0.49, 1), (0.51, 2), (8.0, 2)])
def test_two_memories_have_one_or_two_minima(beta: float, minima: int) -> None:
    # Eq. 7: memories at -1 and 1 merge into a spurious state at 0 where beta <= 1/2.
    memories = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    grid = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64)
    energy = dense_am_energy(grid[:, None], memories, beta).numpy()
    inner = energy[1:-1]
    assert int(((inner < energy[:-2]) & (inner <= energy[2:])).sum()) == minima


@SCHEDULES
def test_gaussian_subspace_has_its_closed_form(schedule: NoiseSchedule) -> None:
    basis = torch.linalg.qr(random(6, 2))[0]
    variances, mean, t = torch.tensor([0.4, 3.0]).double(), random(6, seed=3), 100
    model = GaussianSubspace(basis, variances, schedule, mean)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    covariance = alpha**2 * basis @ torch.diag(variances) @ basis.T
    covariance += sigma**2 * torch.eye(6)
    x = random(3, 6, seed=4)
    expected = -torch.linalg.solve(covariance, (x - alpha * mean).T).T
    torch.testing.assert_close(model.score(x, t), expected)
    values = torch.linalg.eigvalsh(torch.linalg.inv(covariance)).flip(0)
    torch.testing.assert_close(model.jacobian_values(t), values)


def test_circle_energy_is_the_integral_over_the_circle() -> None:
    # Eq. 14: the density is the average of exp(-beta |x - y|^2) over y on the circle.
    for radius in (0.0, 0.4, 1.0, 2.0):
        for beta in (0.5, 3.3, 20.0):
            density, _ = integrate.quad(
                lambda phi, r=radius, b=beta: np.exp(-b * (r**2 + 1 - 2 * r * np.cos(phi))),
                -np.pi,
                np.pi,
                points=[0],
                epsabs=0,
                epsrel=1e-10,
            )
            energy = float(circle_energy(torch.tensor(radius, dtype=torch.float64), beta))
            assert energy == pytest.approx(-np.log(density / (2 * np.pi)) / beta, abs=1e-9)
    assert np.isfinite(float(circle_energy(torch.tensor(1.0).double(), 1e6)))


def test_circle_energy_approaches_the_parabola() -> None:
    radius = torch.linspace(0.5, 1.5, 11, dtype=torch.float64)
    torch.testing.assert_close(circle_energy(radius, 1e5), (radius - 1) ** 2, rtol=0, atol=1e-4)


def test_circle_score_is_minus_the_gradient_of_the_energy() -> None:
    x, beta = random(9, 2), 3.3
    expected = -gradient(lambda y: circle_energy(y.norm(dim=1), beta), x)
    torch.testing.assert_close(circle_score(x, beta), expected)
    radius = x.norm(dim=1, keepdim=True).numpy()
    ratio = special.iv(1, 2 * beta * radius) / special.iv(0, 2 * beta * radius)
    np.testing.assert_allclose(circle_score(x, beta), 2 * (ratio - radius) * x.numpy() / radius)


@SCHEDULES
def test_circle_is_the_limit_of_many_memories(schedule: NoiseSchedule) -> None:
    angles = torch.linspace(0, 2 * np.pi, 4001, dtype=torch.float64)[:-1]
    many = Empirical(torch.stack([angles.cos(), angles.sin()], dim=1), schedule)
    x, t = random(6, 2), 150
    circle = Circle(schedule)
    torch.testing.assert_close(circle.score(x, t), many.score(x, t))
    beta = 1 / (2 * float(schedule.sigma(t)) ** 2)
    if schedule is VE:
        torch.testing.assert_close(circle.score(x, t), beta * circle_score(x, beta))


def test_circle_is_smooth_at_its_centre() -> None:
    centre = torch.zeros(1, 2, dtype=torch.float64)
    torch.testing.assert_close(Circle(VP).predict_noise(centre, 100), centre)
