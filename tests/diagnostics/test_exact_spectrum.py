"""Spectra against closed forms first, then rates, identities and invariances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.diagnostics import exact_spectrum
from m2g_audit.diagnostics.exact_spectrum import (
    Spectrum,
    alg2,
    alg3,
    estimate_cost,
    evaluations,
    exact_jacobian,
)
from m2g_audit.diagnostics.free_probability import point_mass_curve
from m2g_audit.diagnostics.oracles import Circle, Empirical
from m2g_audit.errors import NumericsError, ResourceError, UsageError
from tests.support.score_models import (
    SCHEDULES,
    T0,
    VE,
    VP,
    Cramped,
    Linear,
    Restless,
    random,
    subspace,
)

ALGORITHMS = pytest.mark.parametrize("algorithm", [alg2, alg3, exact_jacobian])


@SCHEDULES
def test_a_point_mass_has_jacobian_one(schedule) -> None:
    model = Empirical(random(1, 3, 2, 2), schedule)
    spectrum = exact_jacobian(model, model.patterns[0], T0, shells=3, seed=1)
    np.testing.assert_allclose(spectrum.singular_values, np.ones(12), rtol=1e-8)
    np.testing.assert_allclose(spectrum.raw, 1 / float(schedule.sigma(T0)) ** 2, rtol=1e-8)
    assert spectrum.kind == "jacobian"
    assert spectrum.rank == 12
    assert spectrum.median == pytest.approx(1)


@pytest.mark.parametrize("algorithm", [alg2, alg3])
@SCHEDULES
def test_a_point_mass_follows_marchenko_pastur(schedule, algorithm: Callable) -> None:
    model = Empirical(random(1, 150), schedule)
    spectrum = algorithm(model, model.patterns[0], T0, seed=1)
    expected = point_mass_curve("paper", 150)
    np.testing.assert_allclose(spectrum.singular_values, expected, rtol=0.02)
    assert spectrum.singular_values[0] == pytest.approx(1.5, abs=0.04)
    assert spectrum.singular_values[-1] == pytest.approx(0.5, abs=0.04)
    assert spectrum.median == pytest.approx(0.957, abs=0.01)
    assert spectrum.rank == 150


def test_marchenko_pastur_has_its_moments() -> None:
    curve = point_mass_curve("paper", 20001)
    assert curve[len(curve) // 2] == pytest.approx(0.957, abs=1e-3)
    # For ratio 1/4 the mean of lambda is 1 and its variance 1/4.
    assert np.mean(curve**2) == pytest.approx(1, abs=1e-3)
    assert np.var(curve**2) == pytest.approx(0.25, abs=1e-3)


def test_marchenko_pastur_is_approached_at_its_rate() -> None:
    # Singular values of a random matrix are rigid: the error of the curve falls about as 1 / N.
    sizes = np.array([25, 50, 100, 200])

    def error(N: int) -> float:
        model, errors = Empirical(torch.zeros(1, N), VP), []
        for seed in range(4):
            values = alg3(model, model.patterns[0], T0, seed=seed).singular_values
            errors.append(np.abs(values - point_mass_curve("paper", N)).mean())
        return float(np.mean(errors))

    slope = np.polyfit(np.log(sizes), np.log([error(int(N)) for N in sizes]), 1)[0]
    assert -1.3 < slope < -0.7


@SCHEDULES
def test_a_gaussian_on_a_subspace_has_small_values_along_it(schedule) -> None:
    N, d = 60, 20
    model = subspace(N, d, schedule)
    sigma = float(schedule.sigma(T0))
    exact = exact_jacobian(model, torch.zeros(N), T0, seed=0)
    np.testing.assert_allclose(exact.raw, model.jacobian_values(T0), rtol=1e-8)
    assert exact.rank == N - d
    for algorithm in (alg2, alg3):
        paper = algorithm(model, torch.zeros(N), T0, seed=0)
        assert paper.rank == N - d
        # Along the subspace the score is smaller by sigma^2 / (alpha^2 v + sigma^2).
        assert paper.singular_values[N - d] < 4 * sigma**2
        assert paper.singular_values[N - d - 1] > 0.5


def test_paper_spectrum_is_that_of_the_matrix_as_printed() -> None:
    # The columns of Alg. 2 and 3 written out, without blocks or folding.
    model = Empirical(random(3, 6), VP)
    x0, sigma, alpha = model.patterns[0], float(VP.sigma(T0)), float(VP.alpha(T0))
    noise = exact_spectrum._noise(model, 7, range(24))
    plus = model.score(alpha * x0 + sigma * noise, T0)
    minus = model.score(alpha * x0 - sigma * noise, T0)
    for algorithm, columns in ((alg2, (plus - minus) / 2), (alg3, plus)):
        spectrum = algorithm(model, x0, T0, seed=7, block=5)
        expected = torch.linalg.svdvals(columns.T)
        np.testing.assert_allclose(spectrum.raw, expected, rtol=1e-9)


def test_alg2_cancels_the_mean_score_and_alg3_keeps_it() -> None:
    N = 40
    model = Linear(-torch.eye(N).double(), centre=torch.full((N,), 3.0).double())
    x0 = torch.zeros(N).double()
    central = alg2(model, x0, T0, seed=0)
    forward = alg3(model, x0, T0, seed=0)
    np.testing.assert_allclose(forward.singular_values[1:], central.singular_values[1:], rtol=0.1)
    # The mean score has norm 3 sqrt(N), in units of a raw value's sqrt(4N) sigma.
    ratio = forward.raw[0] / (3 * np.sqrt(N) * np.sqrt(4 * N))
    assert ratio == pytest.approx(1, abs=0.05)
    assert central.singular_values[0] < forward.singular_values[0] / 20


def test_small_singular_values_survive_the_folding() -> None:
    # A Gram matrix would lose everything below 1e-8 of the largest value.
    N = 30
    values = torch.logspace(0, -12, N, dtype=torch.float64)
    left, right = (torch.linalg.qr(random(4 * N, N, seed=seed))[0] for seed in (0, 1))
    matrix = exact_spectrum._WideMatrix(N, torch.device("cpu"))
    rows = left * values @ torch.linalg.qr(right[:N])[0].T
    for part in rows.split(7):
        matrix.add(part)
    np.testing.assert_allclose(matrix.singular_values(), values, rtol=1e-2, atol=1e-16)


@given(
    N=st.integers(1, 7),
    widths=st.lists(st.integers(1, 30), min_size=1, max_size=30),
    data=st.data(),
)
def test_folding_does_not_depend_on_how_columns_arrive(N: int, widths: list[int], data) -> None:
    columns = random(4 * N, N, seed=data.draw(st.integers(0, 99)))
    matrix, start = exact_spectrum._WideMatrix(N, torch.device("cpu")), 0
    for width in [*widths, 4 * N]:
        matrix.add(columns[start : start + width])
        start += width
    expected = torch.linalg.svdvals(columns)
    np.testing.assert_allclose(matrix.singular_values(), expected, rtol=1e-9, atol=1e-12)


@given(N=st.integers(1, 6), seed=st.integers(0, 99))
def test_exact_jacobian_is_any_matrix_that_it_is_given(N: int, seed: int) -> None:
    # Asymmetric ones too: networks are not exact gradients.
    jacobian = random(N, N, seed=seed)
    spectrum = exact_jacobian(Linear(jacobian), random(N), T0, seed=seed, block=4)
    np.testing.assert_allclose(spectrum.raw, torch.linalg.svdvals(jacobian), rtol=1e-9, atol=1e-12)


def test_exact_jacobian_is_taken_on_the_noise_shell_and_averaged() -> None:
    model = Circle(VE)
    x0, t0 = torch.tensor([1.0, 0.0]).double(), 200
    points = x0 + float(VE.sigma(t0)) * exact_spectrum._noise(model, 3, range(4))
    curves = [
        torch.linalg.svdvals(
            torch.autograd.functional.jacobian(lambda x: model.score(x[None], t0)[0], point)
        )
        for point in points
    ]
    spectrum = exact_jacobian(model, x0, t0, shells=4, seed=3)
    np.testing.assert_allclose(spectrum.raw, torch.stack(curves).mean(dim=0), rtol=1e-9)


def test_memories_are_sharper_than_a_manifold() -> None:
    # The direction that the whole audit rests on: fewer flat directions when memorized.
    isolated = Empirical(5 * random(6, 10), VP)
    crowd = torch.zeros(1000, 10).double()
    crowd[:, :3] = random(1000, 3)
    memorized = exact_jacobian(isolated, isolated.patterns[0], 200, seed=0)
    generalized = exact_jacobian(Empirical(crowd, VP), crowd[0], 200, seed=0)
    assert memorized.rank > generalized.rank
    assert memorized.singular_values.sum() > generalized.singular_values.sum()


@ALGORITHMS
def test_spectra_do_not_depend_on_the_block_but_on_the_seed(algorithm: Callable) -> None:
    model = Empirical(random(4, 2, 3), VP)
    # At a level where the memories overlap, so that the Jacobian changes along the shell.
    first, second, other = (
        algorithm(model, model.patterns[0], 400, seed=seed, block=block)
        for seed, block in ((1, 64), (1, 3), (2, 64))
    )
    np.testing.assert_allclose(first.singular_values, second.singular_values, rtol=1e-9)
    assert np.abs(first.singular_values - other.singular_values).max() > 1e-4


@ALGORITHMS
def test_progress_ends_at_the_number_of_evaluations(algorithm: Callable) -> None:
    model, seen = Empirical(random(2, 5), VP), []
    model.evaluations_per_call = 2
    shells = {"shells": 2} if algorithm is exact_jacobian else {}
    spectrum: Spectrum = algorithm(
        model, model.patterns[0], T0, seed=0, block=4, on_progress=seen.append, **shells
    )
    assert seen == sorted(seen)
    assert seen[-1] == spectrum.evaluations
    names = {
        alg2: ("exact-alg2", 80),
        alg3: ("exact-alg3", 40),
        exact_jacobian: ("exact-jacobian", 40),
    }
    assert (spectrum.algorithm, spectrum.evaluations) == names[algorithm]
    assert spectrum.seconds > 0
    assert (spectrum.t0, spectrum.score) == (T0, "unconditional")


@ALGORITHMS
def test_a_random_or_broken_network_gives_no_spectrum(algorithm: Callable) -> None:
    with pytest.raises(NumericsError, match="two answers"):
        algorithm(Restless(random(1, 3), VP), random(3), T0, seed=0)
    with pytest.raises(NumericsError, match="not finite"):
        algorithm(Linear(torch.eye(3).double() * float("nan")), random(3), T0, seed=0)


@ALGORITHMS
def test_too_large_a_block_is_halved(algorithm: Callable) -> None:
    model = Cramped(random(3, 5), VP)
    expected = algorithm(Empirical(model.patterns, VP), model.patterns[0], 300, seed=0)
    spectrum = algorithm(model, model.patterns[0], 300, seed=0)
    np.testing.assert_allclose(spectrum.singular_values, expected.singular_values, rtol=1e-9)


def test_what_does_not_fit_says_so() -> None:
    model = Cramped(random(3, 5), VP)
    model.limit = 1
    with pytest.raises(ResourceError, match="not enough memory for one column"):
        alg2(model, model.patterns[0], T0, seed=0)


def test_exact_jacobian_has_a_limit() -> None:
    model = Empirical(torch.zeros(1, exact_spectrum.EXACT_LIMIT + 1), VP)
    with pytest.raises(UsageError, match="--spectrum fast"):
        exact_jacobian(model, model.patterns[0], T0, seed=0)
    with pytest.raises(UsageError, match="exact Jacobian"):
        estimate_cost(model, T0, algorithm="exact-jacobian")


@pytest.mark.parametrize("algorithm", ["exact-alg2", "exact-alg3", "exact-jacobian"])
def test_cost_is_said_before(algorithm) -> None:
    model = Empirical(random(3, 64), VP)
    cost = estimate_cost(model, T0, algorithm=algorithm, shells=2)
    assert cost.evaluations == evaluations(model, algorithm, 2)
    assert 0 < cost.seconds < 60
    assert cost.bytes >= 8 * 64**2


class Killed(Exception):
    """Stands for a killed process."""


@pytest.mark.parametrize("algorithm", [alg2, alg3])
def test_a_killed_spectrum_goes_on(algorithm: Callable, tmp_path, monkeypatch) -> None:
    model, path = Empirical(random(3, 6), VP), tmp_path / "curvature" / "0.partial.safetensors"
    whole = algorithm(model, model.patterns[0], T0, seed=0)
    monkeypatch.setattr(exact_spectrum, "_SAVE_EVERY_SECONDS", 0.0)

    def kill(done: int) -> None:
        if done > whole.evaluations / 2:
            raise Killed

    with pytest.raises(Killed):
        algorithm(model, model.patterns[0], T0, seed=0, block=4, kept=path, on_progress=kill)
    seen: list[int] = []
    resumed = algorithm(model, model.patterns[0], T0, seed=0, kept=path, on_progress=seen.append)
    assert seen[0] > whole.evaluations / 2
    np.testing.assert_allclose(resumed.singular_values, whole.singular_values, rtol=1e-12)
    assert not path.exists()


def test_what_was_kept_of_another_spectrum_is_not_used(tmp_path, monkeypatch) -> None:
    model, path = Empirical(random(3, 6), VP), tmp_path / "0.safetensors"
    monkeypatch.setattr(exact_spectrum, "_SAVE_EVERY_SECONDS", 0.0)
    with pytest.raises(Killed):
        alg3(model, model.patterns[0], T0, seed=0, block=4, kept=path, on_progress=stop)
    assert path.exists()
    spectrum = alg3(model, model.patterns[0], T0, seed=1, kept=path)
    expected = alg3(model, model.patterns[0], T0, seed=1)
    np.testing.assert_array_equal(spectrum.singular_values, expected.singular_values)


def stop(done: int) -> None:
    if done > 8:
        raise Killed


@ALGORITHMS
def test_a_sample_of_another_shape_is_refused(algorithm: Callable) -> None:
    model = Empirical(random(1, 2, 3), VP)
    with pytest.raises(UsageError, match=r"shape \(2, 3\), got \(1, 2, 3\)"):
        algorithm(model, model.patterns, T0, seed=0)
