"""Flow matching beside the variance-preserving schedule, on closed forms at equal sigma / alpha."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from m2g_audit.diagnostics.basin import CriticalTimeSearch, critical_time
from m2g_audit.diagnostics.energy import relative_energy
from m2g_audit.diagnostics.exact_spectrum import exact_jacobian
from m2g_audit.diagnostics.fast_spectrum import flipd
from m2g_audit.diagnostics.oracles import Empirical, GaussianSubspace
from m2g_audit.diagnostics.score_model import NoiseSchedule, ddim, perturb
from m2g_audit.diagnostics.spectrum import spectrum
from m2g_audit.errors import UsageError
from m2g_audit.models.levels import stable_diffusion_ratios
from m2g_audit.models.prediction import noise_from_output
from tests.support.score_models import VP

FLOW = NoiseSchedule.flow(VP.sigmas / VP.alphas)
MEMORIES = torch.randn(5, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BOTH = (Empirical(MEMORIES, VP), Empirical(MEMORIES, FLOW))
levels = st.integers(0, len(VP) - 1)


def moved(x: Tensor, t: int) -> Tensor:
    """A point of the flow at which its density is what VP's is at x, but for the volume."""
    return x * float(FLOW.alpha(t) / VP.alpha(t))


def noisy(t: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    return perturb(VP, MEMORIES[:3], noise, t)


@given(levels)
def test_a_flow_goes_straight_from_data_to_noise(t: int) -> None:
    assert float(FLOW.alpha(t) + FLOW.sigma(t)) == pytest.approx(1)
    assert float(FLOW.ratio(t)) == pytest.approx(float(VP.ratio(t)), rel=1e-12)
    assert FLOW.nearest(float(VP.ratio(t))) == t


def test_levels_are_those_of_stable_diffusion() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = (1 - betas).cumprod(0)
    torch.testing.assert_close(stable_diffusion_ratios() ** 2, (1 - abar) / abar)
    # The level of t0 = 5, in the words of a flow.
    ratio = float(stable_diffusion_ratios()[5])
    assert ratio / (1 + ratio) == pytest.approx(0.067, abs=5e-4)


@pytest.mark.parametrize("t", [5, 200, 600, 990])
def test_scores_agree(t: int) -> None:
    x = noisy(t)
    vp, flow = BOTH
    torch.testing.assert_close(flow.predict_noise(moved(x, t), t), vp.predict_noise(x, t))


@pytest.mark.parametrize("t", [5, 200, 600])
def test_log_density_and_energy_agree(t: int) -> None:
    x = noisy(t)
    vp, flow = BOTH
    volume = 12 * math.log(float(VP.alpha(t) / FLOW.alpha(t)))
    torch.testing.assert_close(
        flow.log_density(moved(x, t), t), vp.log_density(x, t) + volume, rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        flow.energy(moved(x, t), t) / FLOW.sigma(t) ** 2, vp.energy(x, t) / VP.sigma(t) ** 2
    )


def test_alg_4_is_of_diffusion_models() -> None:
    with pytest.raises(UsageError, match="a flow has no drift"):
        relative_energy(BOTH[1], MEMORIES[:2], MEMORIES[2:3])


@pytest.mark.parametrize("t", [5, 300, 700])
def test_spectra_and_dimension_agree(t: int) -> None:
    exact = [exact_jacobian(m, MEMORIES[0], t, seed=3).singular_values for m in BOTH]
    torch.testing.assert_close(torch.tensor(exact[1]), torch.tensor(exact[0]))
    fast = [spectrum(m, MEMORIES[0], t0=t, seed=3).singular_values for m in BOTH]
    torch.testing.assert_close(torch.tensor(fast[1]), torch.tensor(fast[0]), rtol=1e-6, atol=1e-9)
    dimensions = [flipd(m, MEMORIES[0], t, seed=3, probes=12)[0] for m in BOTH]
    assert dimensions[1] == pytest.approx(dimensions[0], abs=1e-6)


def test_the_spectrum_of_a_flat_subspace_is_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(2)
    basis = torch.linalg.qr(torch.randn(12, 4, generator=generator, dtype=torch.float64))[0]
    model = GaussianSubspace(basis, torch.ones(4), FLOW)
    t = FLOW.nearest(0.07)
    found = exact_jacobian(model, torch.zeros(12), t, seed=0).singular_values
    wanted = model.jacobian_values(t) * float(FLOW.sigma(t)) ** 2
    torch.testing.assert_close(torch.tensor(found), wanted)


def test_critical_times_agree() -> None:
    def distance(recovered: Tensor, originals: Tensor) -> Tensor:
        return (recovered - originals).flatten(1).norm(dim=1)

    search = CriticalTimeSearch(delta_d=0.5, trials=8, stride=20)
    found = [critical_time(m, MEMORIES, distance, search=search, seeds=range(5)) for m in BOTH]
    assert [b.critical_time for b in found[1]] == [b.critical_time for b in found[0]]
    assert any(b.critical_time > 1 for b in found[0])


@given(levels, st.integers(0, 100))
def test_a_velocity_is_noise_minus_data(t: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    x = perturb(FLOW, data, noise, t)
    implied = noise_from_output("flow_prediction", noise - data, x, t, FLOW)
    torch.testing.assert_close(implied, noise)


def test_a_step_is_that_of_euler() -> None:
    _, flow = BOTH
    start, end = 700, 300
    x = noisy(start)
    noise = flow.predict_noise(x, start)
    velocity = (noise - x) / float(FLOW.alpha(start))
    euler = x + float(FLOW.sigma(end) - FLOW.sigma(start)) * velocity
    clean = (x - float(FLOW.sigma(start)) * noise) / float(FLOW.alpha(start))
    torch.testing.assert_close(perturb(FLOW, clean, noise, end), euler)
    torch.testing.assert_close(ddim(flow, x, [start]), x - float(FLOW.sigma(start)) * velocity)
