"""Critical times against the text of Alg. 1, closed forms and the order that the paper expects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor

from m2g_audit.diagnostics import basin as basins
from m2g_audit.diagnostics.basin import Basin, Search, check_times, log_volume, most_denoisings
from m2g_audit.diagnostics.numerics import noise_for, seed_for
from m2g_audit.diagnostics.oracles import Empirical, GaussianSubspace
from m2g_audit.diagnostics.score_model import NoiseSchedule, ScoreModel
from m2g_audit.errors import NumericsError, UsageError
from tests.diagnostics.test_exact_spectrum import Cramped
from tests.diagnostics.test_oracles import random
from tests.diagnostics.test_score_model import SCHEDULES, VE, VP

SHORT = NoiseSchedule.vp(VP.alphas[::10] ** 2)
TWO_MEMORIES = torch.tensor([[1.0], [-1.0]])


def split(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a call, those of its search in one value."""
    numbers = {field.name for field in fields(Search)}
    search = Search(**{k: v for k, v in options.items() if k in numbers})
    return {"search": search} | {k: v for k, v in options.items() if k not in numbers}


def critical_time(*arguments: Any, **options: Any) -> list[Basin]:
    return basins.critical_time(*arguments, **split(options))


def algorithm1(*arguments: Any, **options: Any) -> Basin:
    return basins.algorithm1(*arguments, **split(options))


def rms(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).square().mean(dim=1).sqrt()


def assert_equal(a: Basin, b: Basin) -> None:
    """All but what was looked at on the way."""
    assert a.critical_time == b.critical_time
    np.testing.assert_array_equal(a.times, b.times)
    np.testing.assert_allclose(a.radii, b.radii, rtol=1e-12)
    np.testing.assert_allclose(a.log_volumes, b.log_volumes, rtol=1e-12)
    assert (a.never_recovered, a.stopped) == (b.never_recovered, b.stopped)


class Idle(ScoreModel):
    """Predicts no noise: of numbers, x_0 + sigma / alpha epsilon comes back from any t.

    `start` is the t that the last samples were led back from.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self.shape = (1,)
        self.device = torch.device("cpu")
        self.dtype = torch.float64
        self.start = 0
        self.evaluations = 0

    def predict_noise(self, x: Tensor, t: int) -> Tensor:
        self.evaluations += len(x)
        self.start = max(self.start, t)
        return torch.zeros_like(x)


class Script:
    """A distance that says what a table [times, trials] says for each sample, numbered from 0."""

    def __init__(self, model: Idle, tables: Sequence[np.ndarray], stride: int = 10) -> None:
        self.model, self.tables, self.stride = model, tables, stride
        self.seeds = list(range(100, 100 + len(tables)))
        self.samples = torch.arange(len(tables), dtype=torch.float64)[:, None]
        self._noise = np.array(
            [
                [
                    float(noise_for(seed_for(seed, "basin", i), (1,)))
                    for i in range(tables[0].shape[1])
                ]
                for seed in self.seeds
            ]
        )

    def __call__(self, recovered: Tensor, originals: Tensor) -> Tensor:
        t, self.model.start = self.model.start, 0
        scale = float(self.model.schedule.sigma(t) / self.model.schedule.alpha(t))
        noise = (recovered - originals)[:, 0].numpy() / scale
        samples = originals[:, 0].long().numpy()
        trials = np.abs(self._noise[samples] - noise[:, None]).argmin(axis=1)
        answers = [
            self.tables[s][(t - 1) // self.stride, i] for s, i in zip(samples, trials, strict=True)
        ]
        return torch.tensor([0.0 if answer else 1.0 for answer in answers])

    def bisect(self, **options: object) -> list[Basin]:
        return critical_time(
            self.model,
            self.samples,
            self,
            delta_d=0.5,
            trials=self.tables[0].shape[1],
            stride=self.stride,
            seeds=self.seeds,
            steps=1,
            **options,  # type: ignore[arg-type]
        )

    def algorithm1(self, sample: int, **options: object) -> Basin:
        return algorithm1(
            self.model,
            self.samples[sample],
            self,
            delta_d=0.5,
            trials=self.tables[0].shape[1],
            stride=self.stride,
            seed=self.seeds[sample],
            shared_noise=True,
            steps=1,
            **options,  # type: ignore[arg-type]
        )


def falling(ends: Sequence[int], times: int) -> np.ndarray:
    """The table of trials that recover at the first `ends` times of so many, and not above."""
    return np.arange(times)[:, None] < np.array(ends)[None, :]


def test_log_volume_of_balls_that_everybody_knows() -> None:
    radii = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(log_volume(1, radii), np.log(2 * radii))
    np.testing.assert_allclose(log_volume(2, radii), np.log(math.pi * radii**2))
    np.testing.assert_allclose(log_volume(3, radii), np.log(4 / 3 * math.pi * radii**3))
    assert np.isfinite(log_volume(196608, 300 * radii)).all()
    np.testing.assert_array_equal(log_volume(2, np.array([0.0])), [-np.inf])


# -- Alg. 1 as printed


@SCHEDULES
def test_a_single_memory_attracts_everything(schedule: NoiseSchedule) -> None:
    model = Empirical(random(1, 3, 2), schedule)
    basin = algorithm1(model, model.patterns[0], rms, delta_d=1e-6, seed=0, trials=4, stride=100)
    assert basin.checked.tolist() == [1, 101, 201, 301, 401, 501, 601, 701, 801]
    assert not basin.stopped
    assert basin.never_recovered == 0
    assert basin.critical_time == 801
    assert basin.denoisings == 9 * 4
    assert basin.evaluations == (1 + 8 * 10) * 4
    np.testing.assert_array_equal(basin.times, 801)
    np.testing.assert_array_equal(basin.recovery, 1)
    np.testing.assert_allclose(basin.log_volumes, log_volume(6, basin.radii))


def test_radii_are_those_of_the_last_recovered_perturbation() -> None:
    # For VE the perturbation is sigma eps alone, of norm about sigma sqrt(N).
    model = Empirical(torch.zeros(1, 2000), VE)
    basin = algorithm1(model, model.patterns[0], rms, delta_d=1e-6, seed=0, stride=300)
    expected = float(VE.sigma(int(basin.times[0]))) * math.sqrt(2000)
    np.testing.assert_allclose(basin.radii, expected, rtol=0.1)


def test_between_two_memories_the_share_recovered_is_known() -> None:
    # By symmetry the sign of x_t decides, so that a trial recovers with Phi(alpha a / sigma).
    model, trials = Empirical(TWO_MEMORIES, VP), 400
    basin = algorithm1(model, model.patterns[0], rms, delta_d=0.1, seed=3, trials=trials, stride=60)
    expected = norm.cdf((VP.alphas / VP.sigmas)[basin.checked])
    spread = np.sqrt(expected * (1 - expected) / trials)
    assert (np.abs(basin.recovery - expected) <= 4 * spread + 1e-9).all()
    assert basin.stopped
    assert expected[-1] < 0.8 + 4 * spread[-1]
    assert basin.times.max() == basin.critical_time == basin.checked[-2]


def test_a_flat_direction_has_no_basin() -> None:
    flat = GaussianSubspace(torch.eye(4)[:, :2], torch.full((2,), 4.0), VP)
    sharp = Empirical(3 * random(3, 4), VP)
    options = {"delta_d": 0.1, "seed": 0, "trials": 10, "stride": 50}
    generalized = algorithm1(flat, torch.zeros(4), rms, **options)
    memorized = algorithm1(sharp, sharp.patterns[0], rms, **options)
    assert memorized.times.min() > generalized.times.max()
    assert memorized.log_volumes.mean() > generalized.log_volumes.mean()


def test_trials_that_never_recover_take_the_radius_of_the_first_time() -> None:
    model = Empirical(random(1, 5), SHORT)
    basin = algorithm1(model, model.patterns[0], rms, delta_d=-1.0, seed=0, trials=6)
    assert basin.never_recovered == 1
    assert basin.checked.tolist() == [1]
    assert basin.stopped
    assert basin.critical_time == 0
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
    basin = algorithm1(
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
    assert basin.critical_time == (checks[end - 1] if end else 0)
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
    algorithm1(model, model.patterns[0], rms, delta_d=1.0, seed=0, trials=2, stride=4, steps=10)
    assert calls[:1] == [1]
    assert calls[1:6] == [5, 4, 3, 2, 1]
    assert len(calls[6:15]) == 9
    assert calls[15] == 13
    assert len(set(calls[15:25])) == 10
    assert calls[25] == 17


def test_fresh_noise_differs_between_times_and_shared_noise_does_not() -> None:
    # For VE the radius at t is sigma_t |eps|, so that the ratio of two radii tells the noise.
    model = Empirical(torch.zeros(1, 3), VE)
    options = {"delta_d": 1e-6, "seed": 0, "trials": 5}
    norms = {
        (shared, stride): basin.radii / float(VE.sigma(basin.critical_time))
        for shared in (False, True)
        for stride in (300, 400)
        for basin in [
            algorithm1(
                model,
                model.patterns[0],
                rms,
                stride=stride,
                shared_noise=shared,
                **options,
            )
        ]
    }
    np.testing.assert_allclose(norms[True, 300], norms[True, 400], rtol=1e-12)
    assert np.abs(norms[False, 300] - norms[False, 400]).min() > 1e-3


def test_the_block_changes_nothing_and_the_seed_does() -> None:
    model = Empirical(random(3, 4), SHORT)
    options = {"delta_d": 0.3, "trials": 7, "stride": 10}
    first = algorithm1(model, model.patterns[0], rms, seed=1, **options)
    second = algorithm1(model, model.patterns[0], rms, seed=1, block=2, **options)
    assert_equal(first, second)
    other = algorithm1(model, model.patterns[0], rms, seed=2, **options)
    assert np.abs(first.radii - other.radii).max() > 1e-3
    cramped = algorithm1(Cramped(model.patterns, SHORT), model.patterns[0], rms, seed=1, **options)
    np.testing.assert_array_equal(first.times, cramped.times)


# -- bisection


@SCHEDULES
def test_by_bisection_too_a_single_memory_attracts_everything(schedule: NoiseSchedule) -> None:
    model = Empirical(random(1, 3, 2), schedule)
    options = {"delta_d": 1e-6, "trials": 4}
    (basin,) = critical_time(model, model.patterns, rms, seeds=[0], **options)
    assert basin.checked.tolist() == [241, 491, 741, 981]
    assert (basin.critical_time, basin.stopped) == (981, False)
    np.testing.assert_array_equal(basin.times, 981)
    np.testing.assert_array_equal(basin.recovery, 1)
    assert (basin.denoisings, basin.evaluations) == (4 * 4, 4 * 4 * 10)


@given(
    seed=st.integers(0, 2**20),
    delta_p=st.sampled_from([0.5, 0.8, 1.0]),
    stride=st.sampled_from([1, 7, 10, 300]),
)
def test_between_two_memories_critical_times_are_known(
    seed: int, delta_p: float, stride: int
) -> None:
    # A trial recovers where alpha + sigma eps is positive, as DDIM keeps the sign of x.
    model, trials = Empirical(TWO_MEMORIES, VP), 15
    (basin,) = critical_time(
        model,
        model.patterns[:1],
        lambda a, b: (a - b).abs()[:, 0],
        delta_d=1.0,
        delta_p=delta_p,
        trials=trials,
        steps=2,
        stride=stride,
        seeds=[seed],
    )
    noise = np.array([float(noise_for(seed_for(seed, "basin", i), (1,))) for i in range(trials)])
    grid = np.array(check_times(1000, stride))
    alphas, sigmas = VP.alphas.numpy()[grid], VP.sigmas.numpy()[grid]
    recovers = alphas + sigmas * noise[:, None] > 0
    passing = np.flatnonzero(recovers.mean(axis=0) >= delta_p)
    last = passing[-1] + 1 if passing.size else 0
    assert basin.critical_time == np.append(0, grid)[last]
    expected = np.append(0, grid)[recovers[:, :last].sum(axis=1)]
    np.testing.assert_array_equal(basin.times, expected)
    assert basin.never_recovered == (expected == 0).mean()


@given(
    ends=st.lists(st.lists(st.integers(0, 33), min_size=7, max_size=7), min_size=1, max_size=2),
    delta_p=st.sampled_from([0.5, 0.8, 1.0]),
    coarse=st.sampled_from([0, 1, 4, 200]),
)
def test_where_recovery_once_lost_stays_lost_it_is_alg_1(
    ends: list[list[int]], delta_p: float, coarse: int
) -> None:
    tables = [falling(sample, times=33) for sample in ends]
    script = Script(Idle(VP), tables, stride=30)
    for i, basin in enumerate(script.bisect(delta_p=delta_p, coarse=coarse)):
        assert_equal(basin, script.algorithm1(i, delta_p=delta_p))
        most = most_denoisings(33, Search(0.5, delta_p, trials=7), coarse)
        assert basin.denoisings <= most


@given(data=st.data(), coarse=st.sampled_from([0, 3, 4]))
def test_what_is_found_where_recovery_comes_and_goes(data: st.DataObject, coarse: int) -> None:
    cells = st.lists(st.booleans(), min_size=33 * 4, max_size=33 * 4)
    table = np.array(data.draw(cells)).reshape(33, 4)
    (basin,) = Script(Idle(VP), [table], stride=30).bisect(coarse=coarse, delta_p=0.5)
    shares = dict(zip(range(1, 1000, 30), table.mean(axis=1), strict=False))
    seen = dict(zip(basin.checked.tolist(), basin.recovery.tolist(), strict=True))
    t_c = basin.critical_time
    assert seen == {t: shares[t] for t in seen}
    assert all((share >= 0.5) == (t <= t_c) for t, share in seen.items())
    assert basin.stopped == (t_c < 961)
    assert t_c in (*seen, 0)
    assert t_c + 30 in (*seen, 961 + 30) or (t_c == 0 and 1 in seen)
    evenly = [(math.ceil(33 * k / coarse) - 1) * 30 + 1 for k in range(1, coarse + 1)]
    assert all(t in seen for t in evenly if t <= t_c)
    for trial, time in enumerate(basin.times):
        row = (time - 1) // 30
        assert time <= t_c
        assert time == 0 or table[row, trial]
        assert time == t_c or not table[row + 1 if time else 0, trial]
        assert all(table[(t - 1) // 30, trial] for t in seen if t <= time)


def test_a_loss_that_holds_a_coarse_check_is_seen_and_a_shorter_one_can_be_missed() -> None:
    table = np.ones((99, 4), dtype=bool)
    table[20:45] = False
    long = Script(Idle(VP), [table])
    assert long.bisect(coarse=0)[0].critical_time == 981
    assert long.bisect()[0].critical_time == 191
    table[20:25] = True
    short = Script(Idle(VP), [table])
    assert short.bisect()[0].critical_time == 981
    assert short.algorithm1(0).critical_time == 241


@pytest.mark.parametrize("end", [0, 3, 60, 500, 960])
def test_denoisings_grow_with_the_logarithm_of_the_grid(end: int) -> None:
    checks = []
    for scale in (1, 10, 100):
        schedule = NoiseSchedule.ve(torch.linspace(1e-3, 1, 100 * scale, dtype=torch.float64))
        table = falling([end * scale // 10] * 2, times=100 * scale)
        (basin,) = Script(Idle(schedule), [table], stride=1).bisect()
        assert basin.critical_time == end * scale // 10
        assert basin.denoisings <= most_denoisings(100 * scale - 2, Search(0.5, trials=2))
        checks.append(basin.denoisings / 2)
    # Ten times as many times ask for log2(10) = 3.3 more checks.
    assert all(after - before <= 4 for before, after in pairwise(checks))
    assert checks[0] <= 4 + math.ceil(math.log2(98 / 4)) + 1


def test_most_denoisings_at_the_papers_settings() -> None:
    # Four coarse checks of which the last fails, and gaps of 25; 4 trials behind the others.
    assert most_denoisings(99, Search(0.5)) == 20 * (4 + 5) + 4 * 5
    assert most_denoisings(1, Search(0.5)) == 20


def test_evaluations_are_counted() -> None:
    model = Idle(VP)
    model.evaluations_per_call = 2
    found = Script(model, [falling([0, 20, 50, 98, 99], 99), falling([7] * 5, 99)]).bisect()
    assert sum(basin.evaluations for basin in found) == 2 * model.evaluations
    script = Script(model, [falling([2, 3, 3, 3, 4], 99)])
    before = model.evaluations
    assert script.algorithm1(0).evaluations == 2 * (model.evaluations - before)


def test_neither_block_nor_order_nor_other_samples_change_a_sample() -> None:
    model = Empirical(random(4, 4), SHORT)
    options = {"delta_d": 0.3, "trials": 7, "stride": 2}
    seeds = [5, 6, 7, 8]
    together = critical_time(model, model.patterns, rms, seeds=seeds, **options)
    assert len({basin.critical_time for basin in together}) > 1
    backwards = critical_time(
        model, model.patterns.flip(0), rms, seeds=seeds[::-1], block=3, **options
    )
    cramped = critical_time(
        Cramped(model.patterns, SHORT), model.patterns, rms, seeds=seeds, **options
    )
    for i, basin in enumerate(together):
        (alone,) = critical_time(
            model, model.patterns[i : i + 1], rms, seeds=seeds[i : i + 1], **options
        )
        for other in (backwards[3 - i], cramped[i], alone):
            assert_equal(basin, other)
            np.testing.assert_array_equal(basin.checked, other.checked)
            assert basin.denoisings == other.denoisings
    (other,) = critical_time(model, model.patterns[:1], rms, seeds=[9], **options)
    assert np.abs(together[0].radii - other.radii).max() > 1e-3


def test_progress_counts_denoisings() -> None:
    model, seen = Empirical(torch.zeros(1, 2), SHORT), []
    options = {"delta_d": 1.0, "trials": 2, "on_progress": lambda *at: seen.append(at)}
    (basin,) = critical_time(model, model.patterns, rms, seeds=[0], **options)
    assert seen == [(2 * k, 2 * 5) for k in range(1, len(basin.checked) + 1)]
    seen.clear()
    algorithm1(model, model.patterns[0], rms, seed=0, **options)
    assert seen == [(2 * k, 2 * 9) for k in range(1, 10)]


# -- what can't be done


@pytest.mark.parametrize("stride", [0, 99, 500])
def test_a_stride_beyond_the_schedule_is_refused(stride: int) -> None:
    model = Empirical(torch.zeros(1, 2), SHORT)
    with pytest.raises(UsageError, match="give 1 to 98"):
        algorithm1(model, model.patterns[0], rms, delta_d=1.0, seed=0, stride=stride)
    with pytest.raises(UsageError, match="give 1 to 98"):
        critical_time(model, model.patterns, rms, delta_d=1.0, seeds=[0], stride=stride)


def test_every_sample_needs_a_seed() -> None:
    model = Empirical(torch.zeros(3, 2), SHORT)
    with pytest.raises(ValueError, match="one seed for each of 3 samples, got 2"):
        critical_time(model, model.patterns, rms, delta_d=1.0, seeds=[0, 1])


def test_a_network_that_overflows_has_no_basin() -> None:
    model = Empirical(torch.full((1, 2), float("nan")), SHORT)
    with pytest.raises(NumericsError, match="recovered samples"):
        algorithm1(model, torch.zeros(2), rms, delta_d=1.0, seed=0)
    with pytest.raises(NumericsError, match="recovered samples"):
        critical_time(model, torch.zeros(1, 2), rms, delta_d=1.0, seeds=[0])
