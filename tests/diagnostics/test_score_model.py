"""Schedules, the forward process and DDIM, against closed forms."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.diagnostics.oracles import Circle, Empirical, GaussianSubspace
from m2g_audit.diagnostics.score_model import (
    NoiseSchedule,
    ddim,
    ddim_timesteps,
    perturb,
    predict_sample,
)
from tests.support.score_models import SCHEDULES, VE, VP, T


def test_schedules_are_what_they_say() -> None:
    assert VP.kind == "vp"
    torch.testing.assert_close(VP.alphas**2 + VP.sigmas**2, torch.ones(T, dtype=torch.float64))
    assert VE.kind == "ve"
    assert bool((VE.alphas == 1).all())
    assert float(VE.sigma(T - 1)) == 1
    assert len(VP) == T


def test_indices_may_be_tensors_but_not_outside() -> None:
    times = torch.tensor([0, 5, T - 1])
    torch.testing.assert_close(VP.sigma(times), VP.sigmas[times])
    assert VP.alpha(5).dtype == torch.float64
    for t in (-1, T):
        with pytest.raises(IndexError, match="outside"):
            VP.alpha(t)


def test_the_least_noise_is_that_of_the_betas() -> None:
    """Stable Diffusion's first: 1 - abar_0 is beta_0, which single precision gets wrong."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    rounded = NoiseSchedule.vp((1 - betas).cumprod(0)).sigmas[0] ** 2
    found = NoiseSchedule.of_betas(betas).sigmas[0] ** 2
    beta = betas[0].double()
    assert abs(found / beta - 1) < 1e-9
    assert abs(rounded / beta - 1) > 1e-5


@SCHEDULES
@given(t=st.integers(0, T - 1), seed=st.integers(0, 100))
def test_predicting_the_sample_undoes_the_forward_process(
    schedule: NoiseSchedule, t: int, seed: int
) -> None:
    x0, noise = torch.randn(
        2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    x = perturb(schedule, x0, noise, t)
    torch.testing.assert_close(predict_sample(schedule, x, noise, t), x0)


@given(t_start=st.integers(1, T - 1), steps=st.integers(1, 2 * T))
def test_ddim_timesteps_are_distinct_and_descend_from_the_start(t_start: int, steps: int) -> None:
    times = ddim_timesteps(t_start, steps)
    assert times[0] == t_start
    assert len(times) == min(steps, t_start)
    assert all(a > b for a, b in pairwise(times))
    assert times[-1] >= 1


def test_ddim_timesteps_need_something_to_do() -> None:
    for t_start, steps in ((0, 10), (10, 0)):
        with pytest.raises(ValueError, match="need t_start"):
            ddim_timesteps(t_start, steps)


@SCHEDULES
def test_ddim_reaches_a_point_mass_in_one_step(schedule: NoiseSchedule) -> None:
    point = torch.tensor([[0.3, -0.7, 1.1]], dtype=torch.float64)
    start = torch.randn(5, 3, dtype=torch.float64)
    reached = ddim(Empirical(point, schedule), start, [T - 1])
    torch.testing.assert_close(reached, point.expand(5, 3))


@SCHEDULES
def test_ddim_ends_on_one_of_the_memories(schedule: NoiseSchedule) -> None:
    memories = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    start = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    reached = ddim(Empirical(memories, schedule), start, ddim_timesteps(T - 1, 100))
    nearest = torch.cdist(reached, memories).min(dim=1)
    assert float(nearest.values.median()) < 1e-2
    assert len(set(nearest.indices.tolist())) == 3


def test_ddim_is_an_integrator_of_first_order() -> None:
    # On a Gaussian the probability flow is known: coordinates scale with their deviation.
    variances = torch.tensor([0.5, 2.0], dtype=torch.float64)
    model = GaussianSubspace(torch.eye(2, dtype=torch.float64), variances, VP)
    start = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    first, last = T - 1, 100
    deviation = [(VP.alpha(t) ** 2 * variances + VP.sigma(t) ** 2).sqrt() for t in (first, last)]
    exact = start * deviation[1] / deviation[0]

    def error(steps: int) -> float:
        times = np.unique(np.linspace(last, first, steps + 1).round().astype(int))[::-1].tolist()
        reached = start
        for t, following in pairwise(times):
            noise = model.predict_noise(reached, t)
            reached = perturb(VP, predict_sample(VP, reached, noise, t), noise, following)
        return float((reached - exact).abs().max())

    counts = np.array([9, 18, 36, 72])
    order = -np.polyfit(np.log(counts), np.log([error(int(n)) for n in counts]), 1)[0]
    assert 0.8 < order < 1.2


def test_ddim_reports_each_step_and_treats_items_alone() -> None:
    model = Circle(VE)
    start = torch.randn(6, 2, dtype=torch.float64)
    times, seen = ddim_timesteps(500, 7), []
    together = ddim(model, start, times, seen.append)
    assert seen == times
    alone = torch.cat([ddim(model, x[None], times) for x in start])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    assert not together.requires_grad
