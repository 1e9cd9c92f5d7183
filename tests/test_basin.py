"""Alg. 1 against its text, closed forms and the order that the paper expects."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor

from m2g_audit.basin import critical_time, log_volume
from m2g_audit.errors import NumericsError, UsageError
from m2g_audit.oracles import Empirical, GaussianSubspace
from m2g_audit.score_model import NoiseSchedule
from tests.test_curvature import Cramped
from tests.test_oracles import random
from tests.test_score_model import SCHEDULES, VE, VP

SHORT = NoiseSchedule.vp(VP.alphas[::10] ** 2)


def rms(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).square().mean(dim=1).sqrt()


def test_log_volume_of_balls_that_everybody_knows() -> None:
    radii = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(log_volume(1, radii), np.log(2 * radii))
    np.testing.assert_allclose(log_volume(2, radii), np.log(math.pi * radii**2))
    np.testing.assert_allclose(log_volume(3, radii), np.log(4 / 3 * math.pi * radii**3))
    assert np.isfinite(log_volume(196608, 300 * radii)).all()
    np.testing.assert_array_equal(log_volume(2, np.array([0.0])), [-np.inf])


@SCHEDULES
def test_a_single_memory_attracts_everything(schedule: NoiseSchedule) -> None:
    model = Empirical(random(1, 3, 2), schedule)
    basin = critical_time(model, model.patterns[0], rms, delta_d=1e-6, seed=0, trials=4, stride=100)
    assert basin.checked.tolist() == [1, 101, 201, 301, 401, 501, 601, 701, 801]
    assert not basin.stopped
    assert basin.never_recovered == 0
    np.testing.assert_array_equal(basin.times, 801)
    np.testing.assert_array_equal(basin.recovery, 1)
    np.testing.assert_allclose(basin.log_volumes, log_volume(6, basin.radii))


def test_radii_are_those_of_the_last_recovered_perturbation() -> None:
    # For VE the perturbation is sigma eps alone, of norm about sigma sqrt(N).
    model = Empirical(torch.zeros(1, 2000), VE)
    basin = critical_time(model, model.patterns[0], rms, delta_d=1e-6, seed=0, stride=300)
    expected = float(VE.sigma(int(basin.times[0]))) * math.sqrt(2000)
    np.testing.assert_allclose(basin.radii, expected, rtol=0.1)


def test_between_two_memories_the_share_recovered_is_known() -> None:
    # By symmetry the sign of x_t decides, so that a trial recovers with Phi(alpha a / sigma).
    model, trials = Empirical(torch.tensor([[1.0], [-1.0]]), VP), 400
    basin = critical_time(
        model, model.patterns[0], rms, delta_d=0.1, seed=3, trials=trials, stride=60
    )
    expected = norm.cdf((VP.alphas / VP.sigmas)[basin.checked])
    spread = np.sqrt(expected * (1 - expected) / trials)
    assert (np.abs(basin.recovery - expected) <= 4 * spread + 1e-9).all()
    assert basin.stopped
    assert expected[-1] < 0.8 + 4 * spread[-1]
    assert basin.times.max() == basin.checked[-2]


def test_a_flat_direction_has_no_basin() -> None:
    flat = GaussianSubspace(torch.eye(4)[:, :2], torch.full((2,), 4.0), VP)
    sharp = Empirical(3 * random(3, 4), VP)
    options = {"delta_d": 0.1, "seed": 0, "trials": 10, "stride": 50}
    generalized = critical_time(flat, torch.zeros(4), rms, **options)
    memorized = critical_time(sharp, sharp.patterns[0], rms, **options)
    assert memorized.times.min() > generalized.times.max()
    assert memorized.log_volumes.mean() > generalized.log_volumes.mean()


def test_trials_that_never_recover_take_the_radius_of_the_first_time() -> None:
    model = Empirical(random(1, 5), SHORT)
    basin = critical_time(model, model.patterns[0], rms, delta_d=-1.0, seed=0, trials=6)
    assert basin.never_recovered == 1
    assert basin.checked.tolist() == [1]
    assert basin.stopped
    np.testing.assert_array_equal(basin.times, 0)
    assert np.isfinite(basin.log_volumes).all()
    np.testing.assert_allclose(basin.radii, float(SHORT.sigma(1)) * math.sqrt(5), rtol=0.9)


@given(
    recovered=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=9, max_size=9),
    delta_p=st.sampled_from([0.2, 0.6, 0.8, 1.0]),
)
def test_the_search_is_alg_1_as_printed(recovered: list[list[bool]], delta_p: float) -> None:
    table = np.array(recovered)
    answers = iter(table)

    def scripted(a: Tensor, b: Tensor) -> Tensor:
        return torch.from_numpy(np.where(next(answers), 0.0, 1.0))

    model = Empirical(torch.zeros(1, 1), SHORT)
    basin = critical_time(
        model, model.patterns[0], scripted, delta_d=0.5, delta_p=delta_p, trials=5, seed=0
    )
    checks = np.arange(1, 100 - 10, 10)
    shares = table.mean(axis=1)
    low = np.flatnonzero(shares < delta_p)
    end = int(low[0]) if len(low) else len(checks)
    for trial in range(5):
        # t_c: the last time before the search ends up to which every check was recovered.
        streak = int(np.cumprod(table[:end, trial]).sum())
        assert basin.times[trial] == (checks[streak - 1] if streak else 0)
    np.testing.assert_array_equal(basin.checked, checks[: end + 1])
    np.testing.assert_allclose(basin.recovery, shares[: end + 1])
    assert basin.stopped == bool(len(low))


def test_the_sampler_takes_as_many_steps_as_there_are() -> None:
    calls: list[int] = []

    class Counted(Empirical):
        def predict_noise(self, x: Tensor, t: int) -> Tensor:
            calls.append(t)
            return super().predict_noise(x, t)

    model = Counted(torch.zeros(1, 2), SHORT)
    critical_time(model, model.patterns[0], rms, delta_d=1.0, seed=0, trials=2, stride=4, steps=10)
    assert calls[:1] == [1]
    assert calls[1:6] == [5, 4, 3, 2, 1]
    assert len(calls[6:15]) == 9
    assert calls[15] == 13
    assert len(set(calls[15:25])) == 10
    assert calls[25] == 17


def test_the_block_changes_nothing_and_the_seed_does() -> None:
    model = Empirical(random(3, 4), SHORT)
    options = {"delta_d": 0.3, "trials": 7, "stride": 10}
    first = critical_time(model, model.patterns[0], rms, seed=1, **options)
    second = critical_time(model, model.patterns[0], rms, seed=1, block=2, **options)
    np.testing.assert_array_equal(first.times, second.times)
    np.testing.assert_allclose(first.radii, second.radii)
    other = critical_time(model, model.patterns[0], rms, seed=2, **options)
    assert np.abs(first.radii - other.radii).max() > 1e-3
    cramped = critical_time(
        Cramped(model.patterns, SHORT), model.patterns[0], rms, seed=1, **options
    )
    np.testing.assert_array_equal(first.times, cramped.times)


def test_progress_names_the_times_done() -> None:
    model, seen = Empirical(torch.zeros(1, 2), SHORT), []
    basin = critical_time(
        model, model.patterns[0], rms, delta_d=1.0, seed=0, trials=2, on_progress=seen.append
    )
    assert seen == basin.checked.tolist()


@pytest.mark.parametrize("stride", [0, 99, 500])
def test_a_stride_beyond_the_schedule_is_refused(stride: int) -> None:
    model = Empirical(torch.zeros(1, 2), SHORT)
    with pytest.raises(UsageError, match="give 1 to 98"):
        critical_time(model, model.patterns[0], rms, delta_d=1.0, seed=0, stride=stride)


def test_a_network_that_overflows_has_no_basin() -> None:
    model = Empirical(torch.full((1, 2), float("nan")), SHORT)
    with pytest.raises(NumericsError, match="recovered samples"):
        critical_time(model, torch.zeros(2), rms, delta_d=1.0, seed=0)
