"""Products with a score's Jacobian against closed forms, differences and each other."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad

from m2g_audit.diagnostics.operators import Matrices, Operator, ScoreJacobian
from m2g_audit.diagnostics.oracles import Circle, Empirical, GaussianSubspace
from m2g_audit.diagnostics.score_model import ScoreModel
from m2g_audit.errors import NumericsError
from m2g_audit.models.loading import load_model
from m2g_audit.models.protocol import TextToImage
from tests.support import tiny
from tests.support.score_models import SCHEDULES, VP, Linear, random

T0 = 5


class Network(ScoreModel):
    """A tiny random U-Net with attention, in float64."""

    device = torch.device("cpu")
    dtype = torch.float64
    schedule = VP
    shape = (3, 8, 8)

    def __init__(self) -> None:
        self._unet = tiny.ddpm().unet.double().requires_grad_(False)

    def predict_noise(self, x: Tensor, t: int) -> Tensor:
        return self._unet(x, t).sample


@pytest.fixture(scope="module")
def network() -> Network:
    return Network()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    folder: Path = tiny.save(tiny.text_to_image(), tmp_path_factory.mktemp("model"))
    return load_model(folder, device="cpu")


def assert_adjoint(operator: Operator, directions: int = 2, rtol: float = 1e-7) -> None:
    v, u = random(2, operator.batch, directions, operator.size)
    forward, reverse = (u * operator.matvec(v)).sum(2), (operator.rmatvec(u) * v).sum(2)
    torch.testing.assert_close(forward, reverse, rtol=rtol, atol=rtol * float(forward.abs().max()))


def dense(operator: Operator) -> Tensor:
    """The matrices themselves: column j is what becomes of the j-th unit vector."""
    identity = torch.eye(operator.size, dtype=torch.float64)
    return operator.matvec(identity.expand(operator.batch, -1, -1)).mT


@given(batch=st.integers(1, 3), directions=st.integers(1, 4), N=st.integers(1, 5))
def test_matrices_multiply(batch: int, directions: int, N: int) -> None:
    matrices, v = random(batch, N, N), random(batch, directions, N, seed=1)
    operator = Matrices(matrices)
    assert (operator.batch, operator.size) == (batch, N)
    torch.testing.assert_close(operator.matvec(v), torch.einsum("bij,bkj->bki", matrices, v))
    torch.testing.assert_close(operator.rmatvec(v), torch.einsum("bji,bkj->bki", matrices, v))
    torch.testing.assert_close(dense(operator), matrices)


@SCHEDULES
def test_a_point_mass_turns_every_direction_round(schedule) -> None:
    model = Empirical(random(1, 2, 3), schedule)
    operator, v = ScoreJacobian(model, random(4, 2, 3, seed=1), T0), random(4, 5, 6, seed=2)
    torch.testing.assert_close(operator.matvec(v), -v)
    torch.testing.assert_close(operator.rmatvec(v), -v)


@SCHEDULES
def test_a_gaussian_on_a_subspace_has_its_closed_form(schedule) -> None:
    basis, variances = torch.linalg.qr(random(6, 2))[0], torch.tensor([0.5, 4.0]).double()
    operator = ScoreJacobian(GaussianSubspace(basis, variances, schedule), random(1, 6), 300)
    sigma, alpha = float(schedule.sigma(300)), float(schedule.alpha(300))
    along = 1 - sigma**2 / (alpha**2 * variances + sigma**2)
    expected = -torch.eye(6).double() + basis * along @ basis.T
    torch.testing.assert_close(dense(operator)[0], expected)
    torch.testing.assert_close(operator.rmatvec(basis.T[None])[0], basis.T @ expected)


@given(N=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_linear_score_gives_its_matrix_and_the_transpose(N: int, seed: int) -> None:
    jacobian = random(N, N, seed=seed)
    operator = ScoreJacobian(Linear(jacobian), random(2, N), T0)
    expected = float(VP.sigma(T0)) ** 2 * jacobian
    torch.testing.assert_close(dense(operator), expected.expand(2, N, N))
    identity = torch.eye(N).double().expand(2, N, N)
    torch.testing.assert_close(operator.rmatvec(identity), expected.expand(2, N, N))


@pytest.mark.parametrize("model", [Empirical(random(5, 7), VP), Circle(VP)])
def test_products_there_and_back_are_of_one_matrix(model: ScoreModel) -> None:
    assert_adjoint(ScoreJacobian(model, random(3, *model.shape), 300))


def test_products_with_a_network_are_those_of_differences(network: Network) -> None:
    # The fourth-order central difference, in float64.
    x, v, step = random(2, 3, 8, 8), random(2, 1, network.size, seed=1), 1e-3
    operator = ScoreJacobian(network, x, T0)
    along = v.reshape(x.shape) * step
    with torch.no_grad():
        far, near = (
            network.score(x + k * along, T0) - network.score(x - k * along, T0) for k in (2, 1)
        )
    expected = float(VP.sigma(T0)) ** 2 * (8 * near - far).reshape(v.shape) / (12 * step)
    torch.testing.assert_close(operator.matvec(v), expected, rtol=1e-6, atol=1e-8)
    assert_adjoint(operator)


def test_products_do_not_depend_on_company(network: Network) -> None:
    x, v = random(2, 3, 8, 8), random(2, 3, network.size, seed=1)
    together, alone = ScoreJacobian(network, x, T0), ScoreJacobian(network, x[1:], T0)
    for product in ("matvec", "rmatvec"):
        both = getattr(together, product)(v)
        torch.testing.assert_close(getattr(alone, product)(v[1:])[0], both[1])
        # Another number of directions needs another graph.
        torch.testing.assert_close(getattr(together, product)(v[:, :1]), both[:, :1])
        # Deterministic, to the last bit.
        assert torch.equal(getattr(together, product)(v), both)


class Wavy(ScoreModel):
    """A score of every coordinate alone: its noise is slope x + height sin(x / length)."""

    device = torch.device("cpu")
    dtype = torch.float64
    schedule = VP

    def __init__(self, N: int, length: float, height: float = 0.1) -> None:
        self.shape = (N,)
        self._length, self._height = length, height

    def predict_noise(self, x: Tensor, t: int) -> Tensor:
        return x + self._height * (x / self._length).sin()

    def product(self, x: Tensor, v: Tensor) -> Tensor:
        slope = 1 + self._height / self._length * (x[:, None] / self._length).cos()
        return -float(VP.sigma(T0)) * slope * v


def test_a_smooth_score_is_differentiated_over_a_step_that_grows_with_the_root_of_N() -> None:
    lengths = []
    for N in (4, 400):
        operator = ScoreJacobian(Wavy(N, 1.0), random(2, N), T0)
        assert operator.steps.isnan().all()
        operator.matvec(random(2, 1, N, seed=1))
        assert operator.step_costs.tolist() == [2, 2]
        lengths.append(float(operator.steps[0]))
    assert lengths[1] == pytest.approx(10 * lengths[0])


@pytest.mark.parametrize("length", [1.0, 0.01, 1e-9])
def test_where_steps_disagree_a_better_one_or_forward_mode_is_found(length: float) -> None:
    N, height = 50, 0.1 * length
    model, x, v = Wavy(N, length, height), random(2, N), random(2, 3, N, seed=1)
    operator = ScoreJacobian(model, x, T0)
    expected = model.product(x, v)
    torch.testing.assert_close(operator.matvec(v), expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(operator.matvec(v), expected, rtol=1e-7, atol=1e-9)
    smooth = ScoreJacobian(Wavy(N, 1.0), x, T0)
    smooth.matvec(v)
    usual = float(smooth.steps[0])
    if length == 1.0:
        assert operator.steps.tolist() == [usual, usual]
    elif length == 0.01:
        assert bool(((operator.steps > 0) & (operator.steps < usual)).all())
    else:
        assert operator.steps.tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["conditional", "unconditional", "guided"])
def test_bound_scores_multiply_both_ways(pipeline: TextToImage, kind) -> None:
    model = pipeline.bind("a red kite", guidance=3.0, kind=kind)
    operator = ScoreJacobian(model, random(2, *tiny.LATENT).float(), T0)
    assert operator.precision == pytest.approx(2**-23)
    assert_adjoint(operator, rtol=2e-3)


def test_guidance_mixes_the_jacobians(pipeline: TextToImage) -> None:
    x, v = random(1, *tiny.LATENT).float(), random(1, 2, 256, seed=1)
    conditional, unconditional, guided = (
        ScoreJacobian(pipeline.bind("a red kite", guidance=3.0, kind=kind), x, T0).matvec(v)
        for kind in ("conditional", "unconditional", "guided")
    )
    expected = unconditional + 3 * (conditional - unconditional)
    torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("product", ["matvec", "rmatvec"])
def test_a_network_that_overflows_gives_no_product(product: str) -> None:
    operator = ScoreJacobian(Linear(torch.eye(3).double() * float("inf")), random(1, 3), T0)
    with pytest.raises(NumericsError, match="not finite"):
        getattr(operator, product)(random(1, 1, 3))


def test_torch_own_warnings_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    make_dual = forward_ad.make_dual

    def first_use(*arguments: Tensor) -> Tensor:
        warnings.warn("`torch.jit.script` is deprecated.", FutureWarning, stacklevel=1)
        return make_dual(*arguments)

    monkeypatch.setattr(forward_ad, "make_dual", first_use)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ScoreJacobian(Linear(torch.eye(3).double()), random(1, 3), T0).matvec(random(1, 1, 3))
