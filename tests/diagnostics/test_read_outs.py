"""Cheap read-outs of curvature against closed forms: a point mass, and a Gaussian on a subspace."""

from __future__ import annotations

import pytest
import torch

from m2g_audit.diagnostics.numerics import noises_for
from m2g_audit.diagnostics.oracles import Empirical, GaussianSubspace
from m2g_audit.diagnostics.read_outs import (
    curvature_towards,
    denoising_error,
    return_distance,
    time_at,
)
from tests.support.score_models import SCHEDULES, VP, NoiseSchedule, random

N, D = 24, 6


def point(schedule: NoiseSchedule = VP) -> Empirical:
    return Empirical(random(1, N), schedule)


def subspace(schedule: NoiseSchedule = VP, variance: float = 4.0) -> GaussianSubspace:
    basis = torch.linalg.qr(random(N, D)).Q
    return GaussianSubspace(basis, torch.full((D,), variance).double(), schedule)


@SCHEDULES
def test_a_level_is_found_by_its_ratio(schedule: NoiseSchedule) -> None:
    ratios = schedule.sigmas / schedule.alphas
    for t in (3, 400, 900):
        assert time_at(schedule, float(ratios[t]) * 1.0001) == t


@SCHEDULES
def test_a_point_mass_sees_all_noise_and_returns(schedule: NoiseSchedule) -> None:
    model = point(schedule)
    clean = model.patterns.expand(3, -1)
    error, spread = denoising_error(model, clean, 400, [(1, 2, 3)] * 3)
    torch.testing.assert_close(error, torch.zeros(3).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(spread, torch.zeros(3).double(), atol=1e-9, rtol=0)
    others = random(3, N, seed=1)
    found = curvature_towards(model, clean, others, 400, [1, 2, 3])
    torch.testing.assert_close(found, torch.ones(3).double(), atol=1e-6, rtol=0)
    assert return_distance(model, clean, 400, [1, 2, 3]).max() < 1e-9


def test_the_error_of_a_gaussian_is_what_its_free_directions_hide() -> None:
    """E|eps - noise|^2 / N at the mean: of d directions s^4 / (v a^2 + s^2)^2 ... a closed form."""
    model, t, seeds = subspace(), 400, [tuple(range(400))]
    alpha, sigma = float(VP.alpha(t)), float(VP.sigma(t))
    kept = 4.0 * alpha**2 / (4.0 * alpha**2 + sigma**2)  # of the noise along a free direction
    error, spread = denoising_error(model, torch.zeros(1, N).double(), t, seeds)
    assert float(error) == pytest.approx(kept**2 * D / N, rel=0.1)
    assert float(spread) == pytest.approx(kept * sigma / alpha * (D / N) ** 0.5, rel=0.1)


def test_curvature_is_small_along_a_free_way_and_one_across() -> None:
    model, t = subspace(), 100
    alpha, sigma = float(VP.alpha(t)), float(VP.sigma(t))
    free, across = torch.linalg.qr(random(N, D)).Q[:, 0], torch.zeros(N).double()
    across[:] = random(N, seed=3)
    across -= model.basis @ (model.basis.T @ across)
    clean = torch.zeros(2, N).double()
    found = curvature_towards(model, clean, torch.stack([free, across]), t, [1, 2])
    expected = sigma**2 / (4.0 * alpha**2 + sigma**2)
    assert found.tolist() == pytest.approx([expected, 1.0], rel=1e-4)


def test_one_returns_to_a_memory_and_drifts_along_a_manifold() -> None:
    clean = torch.zeros(4, N).double()
    memory = Empirical(torch.zeros(1, N).double(), VP)
    seeds = [1, 2, 3, 4]
    drifted = return_distance(subspace(), clean, 500, seeds)
    assert (drifted > 10 * return_distance(memory, clean, 500, seeds) + 0.05).all()


def test_a_sample_does_not_depend_on_those_beside_it() -> None:
    model, clean = subspace(), random(3, N)
    seeds = [(1, 2), (3, 4), (5, 6)]
    together = denoising_error(model, clean, 300, seeds)
    alone = denoising_error(model, clean[1:2], 300, seeds[1:2])
    for all_of, one in zip(together, alone, strict=True):
        torch.testing.assert_close(all_of[1:2], one)
    assert not torch.equal(*(noises_for([s], (N,)) for s in (1, 2)))
