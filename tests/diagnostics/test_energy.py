"""Relative energy against differences of closed-form potentials: value, sign, rate and print."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import log2, pi

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from m2g_audit.diagnostics.energy import beta_0, gap, relative_energy
from m2g_audit.diagnostics.oracles import Empirical, GaussianSubspace
from m2g_audit.diagnostics.score_model import NoiseSchedule, ScoreModel
from m2g_audit.errors import NumericsError, UsageError
from tests.support.score_models import ABAR, VP, Cramped, random

# At t = 0 wide enough that a few points of the arc follow the density.
WIDE_VP = NoiseSchedule.vp(torch.tensor([0.5, 0.4], dtype=torch.float64))
WIDE_VE = NoiseSchedule.ve(torch.tensor([0.9, 1.2], dtype=torch.float64))
WIDE = pytest.mark.parametrize("schedule", [WIDE_VP, WIDE_VE], ids=["vp", "ve"])

Potential = Callable[[Tensor], Tensor]


def memories(schedule: NoiseSchedule) -> tuple[ScoreModel, Potential]:
    model = Empirical(random(4, 2, 3), schedule)
    return model, lambda x: model.log_density(x, 0)


def subspace(schedule: NoiseSchedule) -> tuple[ScoreModel, Potential]:
    basis = torch.linalg.qr(random(6, 2))[0]
    variances, mean = torch.tensor([0.4, 3.0]).double(), random(6, seed=3)
    alpha, sigma = float(schedule.alpha(0)), float(schedule.sigma(0))
    covariance = alpha**2 * basis @ torch.diag(variances) @ basis.T + sigma**2 * torch.eye(6)
    density = MultivariateNormal(alpha * mean, covariance)
    return GaussianSubspace(basis, variances, schedule, mean), density.log_prob


MODELS = pytest.mark.parametrize("make", [memories, subspace])


def potential(schedule: NoiseSchedule, log_density: Potential, x: Tensor) -> Tensor:
    squares = x.flatten(1).square().sum(dim=1) / 4 if schedule.kind == "vp" else 0.0
    return -(float(schedule.sigma(0)) ** 2) * (log_density(x) + squares)


def exact(
    schedule: NoiseSchedule, log_density: Potential, targets: Tensor, references: Tensor
) -> np.ndarray:
    u, u_reference = (potential(schedule, log_density, x) for x in (targets, references))
    return (u[:, None] - u_reference).numpy()


def pairs(model: ScoreModel) -> tuple[Tensor, Tensor]:
    return random(3, *model.shape, seed=5), random(2, *model.shape, seed=6)


@WIDE
@MODELS
def test_energy_is_the_difference_of_closed_form_potentials(
    make: Callable, schedule: NoiseSchedule
) -> None:
    model, log_density = make(schedule)
    targets, references = pairs(model)
    found = relative_energy(model, targets, references, points=1001)
    assert found.shape == (3, 2)
    expected = exact(schedule, log_density, targets, references)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@WIDE
@MODELS
def test_the_error_falls_with_the_square_of_the_number_of_points(
    make: Callable, schedule: NoiseSchedule
) -> None:
    model, log_density = make(schedule)
    targets, references = pairs(model)
    expected = exact(schedule, log_density, targets, references)
    errors = [
        np.abs(relative_energy(model, targets, references, points=n) - expected).max()
        for n in (41, 81, 161, 321)
    ]
    rates = [log2(a / b) for a, b in pairwise(errors)]
    assert rates == pytest.approx([2, 2, 2], abs=0.1)


def test_beside_its_memory_a_sample_is_up_by_its_squared_distance() -> None:
    # One memory: -sigma^2 log p = |x - alpha xi|^2 / 2, a parabola however small sigma_0 is.
    model = Empirical(random(1, 6), VP)
    sigma, alpha = float(VP.sigma(0)), float(VP.alpha(0))
    step = random(1, 6, seed=2)
    at = alpha * model.patterns
    [[found]] = relative_energy(model, at + step, at, points=2001)
    squares = (at + step).square().sum() - at.square().sum()
    expected = step.square().sum() / 2 - sigma**2 / 4 * squares
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert found > 0, "a memory is a minimum"


def test_a_memory_lies_deeper_than_what_no_memory_is_near() -> None:
    model = Empirical(random(3, 8), VP)
    alpha = float(VP.alpha(0))
    targets = torch.stack([alpha * model.patterns[1], alpha * model.patterns.mean(dim=0)])
    memory, mixture = relative_energy(model, targets, alpha * model.patterns[:1], points=2001)
    assert abs(memory[0]) < 0.05 * mixture[0]
    assert gap(mixture[None], memory[None]).mean[0] > 0


def test_beta_0_is_the_first_variance_of_the_schedule() -> None:
    assert beta_0(VP) == pytest.approx(float(1 - ABAR[0]))
    assert beta_0(VP) == pytest.approx(0.00085)


# -- Alg. 4 as printed


class Swirl(ScoreModel):
    """Predicts (-y, x) at (x, y): along the arc from (1, 0) to (0, 1) it points ahead, length 1."""

    schedule = WIDE_VP
    shape = (2,)
    device = torch.device("cpu")
    dtype = torch.float64

    def predict_noise(self, x: Tensor, t: int) -> Tensor:
        assert t == 0
        return torch.stack([-x[:, 1], x[:, 0]], dim=1)


@pytest.mark.parametrize("points", [2, 7, 20])
def test_as_printed_counts_one_step_too_many_and_from_the_target(points: int) -> None:
    x1, x2 = torch.eye(2, dtype=torch.float64)[:, None]
    sigma = float(WIDE_VP.sigma(0))
    [[ours]] = relative_energy(Swirl(), x1, x2, points=points)
    [[printed]] = relative_energy(Swirl(), x1, x2, points=points, variant="as-printed")
    assert ours == pytest.approx(-sigma * pi / 2)
    assert printed == pytest.approx(sigma * pi / 2 * points / (points - 1))


@given(seed=st.integers(0, 2**20), points=st.integers(2, 30))
def test_as_printed_is_the_text_of_alg_4(seed: int, points: int) -> None:
    model = Empirical(random(3, 4, seed=seed), WIDE_VP)
    x1, x2 = random(2, 4, seed=seed + 1)
    beta = 1 - float(WIDE_VP.alpha(0)) ** 2
    angles = torch.linspace(0, pi / 2, points, dtype=torch.float64)
    step, total = angles[1] - angles[0], torch.tensor(0.0)
    for angle in angles:
        x = angle.cos() * x1 + angle.sin() * x2
        v = -angle.sin() * x1 + angle.cos() * x2
        score = -model.predict_noise(x[None], 0)[0] / beta**0.5
        total = total + ((-0.5 * beta * x - beta * score) * v * step).sum()
    [[found]] = relative_energy(model, x1[None], x2[None], points=points, variant="as-printed")
    assert found == pytest.approx(float(total), rel=1e-9, abs=1e-12)


# -- invariances


@WIDE
def test_a_reference_shifts_all_energies_alike(schedule: NoiseSchedule) -> None:
    model, _ = memories(schedule)
    targets, references = pairs(model)
    energies = relative_energy(model, targets, references, points=1001)
    shifts = energies - energies[:, :1]
    np.testing.assert_allclose(shifts, np.broadcast_to(shifts[:1], shifts.shape), atol=1e-4)
    back = relative_energy(model, references, targets, points=1001)
    np.testing.assert_allclose(back, -energies.T, atol=1e-9)
    np.testing.assert_allclose(
        relative_energy(model, targets, targets)[range(3), range(3)], 0, atol=1e-12
    )


def test_neither_block_nor_memory_nor_company_changes_an_energy() -> None:
    model, _ = memories(WIDE_VP)
    targets, references = pairs(model)
    whole = relative_energy(model, targets, references)
    np.testing.assert_allclose(
        relative_energy(model, targets, references, block=7), whole, rtol=1e-12
    )
    cramped = Cramped(model.patterns, WIDE_VP)  # type: ignore[attr-defined]
    np.testing.assert_allclose(relative_energy(cramped, targets, references), whole, rtol=1e-12)
    alone = relative_energy(model, targets[2:3], references[1:2])
    np.testing.assert_allclose(alone, whole[2:3, 1:2], rtol=1e-12)
    assert relative_energy(model, targets[:0], references).shape == (0, 2)


def test_single_precision_is_enough() -> None:
    class Single(Empirical):
        dtype = torch.float32

        def predict_noise(self, x: Tensor, t: int) -> Tensor:
            assert x.dtype == torch.float32
            return super().predict_noise(x.double(), t).float()

    patterns = random(4, 6).float().double()
    targets, references = random(3, 6, seed=1).float(), random(2, 6, seed=2).float()
    single, double = (
        relative_energy(kind(patterns, VP), targets, references) for kind in (Single, Empirical)
    )
    np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-5)


def test_progress_counts_predictions() -> None:
    model, _ = memories(WIDE_VP)
    targets, references = pairs(model)
    seen: list[tuple[int, int]] = []
    relative_energy(model, targets, references, block=50, on_progress=lambda *at: seen.append(at))
    assert seen == [(50, 120), (100, 120), (120, 120)]


# -- the gap


def test_the_gap_is_that_of_the_means() -> None:
    found = gap(np.array([[1.0, 10.0], [3.0, 20.0]]), np.array([[1.0, 1.0]] * 4))
    np.testing.assert_allclose(found.mean, [1, 14])
    np.testing.assert_allclose(found.sd, [1, 5])
    assert gap(np.ones((1, 2)), np.ones((4, 2))).sd.tolist() == [0, 0]


def test_there_is_no_gap_to_nothing() -> None:
    for counts in ((0, 2), (2, 0)):
        with pytest.raises(ValueError, match="no gap between"):
            gap(*(np.ones((n, 2)) for n in counts))


# -- what can't be done


def test_an_arc_needs_two_points_and_samples_the_models_shape() -> None:
    model, _ = memories(WIDE_VP)
    targets, references = pairs(model)
    with pytest.raises(UsageError, match="2 points or more, got 1"):
        relative_energy(model, targets, references, points=1)
    with pytest.raises(UsageError, match=r"shape \(2, 3\), got \(6,\)"):
        relative_energy(model, targets.flatten(1), references.flatten(1))


def test_what_is_not_finite_has_no_energy() -> None:
    model = Empirical(torch.full((1, 2), float("nan")), VP)
    x = torch.ones(1, 2)
    with pytest.raises(NumericsError, match="the score"):
        relative_energy(model, x, 2 * x)
    with pytest.raises(NumericsError, match="the samples"):
        relative_energy(Empirical(x, VP), x / 0, x)
