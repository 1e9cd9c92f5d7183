"""Linear operators known only by their products, and the Jacobian of a score as one of them."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from m2g_audit.diagnostics.numerics import check_finite, exact_numerics
from m2g_audit.diagnostics.score_model import ScoreModel

# Of one direction, in network evaluations: the graph that reverse mode needs is made once, and a
# backward pass to the input alone costs about as much as the forward one.
GRAPH_COST, FORWARD_COST, REVERSE_COST = 1, 2, 1


class Operator(ABC):
    """B real N x N matrices A_1 .. A_B, known by what they make of vectors.

    `precision` is the machine precision of the products, below which nothing is told apart.
    """

    batch: int
    size: int
    precision: float
    device: torch.device

    @abstractmethod
    def matvec(self, v: Float[Tensor, "B b N"]) -> Float[Tensor, "B b N"]:
        """A v for b directions of each matrix, float64."""

    @abstractmethod
    def rmatvec(self, u: Float[Tensor, "B b N"]) -> Float[Tensor, "B b N"]:
        """A^T u for b directions of each matrix, float64."""


class Matrices(Operator):
    """Dense matrices as an operator: the ground truth of tests and studies."""

    def __init__(self, matrices: Float[Tensor, "B N N"]) -> None:
        self._matrices = matrices
        self.batch, self.size = matrices.shape[:2]
        self.precision = torch.finfo(matrices.dtype).eps
        self.device = matrices.device

    def matvec(self, v: Float[Tensor, "B b N"]) -> Float[Tensor, "B b N"]:
        """A v."""
        return (v.to(self._matrices) @ self._matrices.mT).double()

    def rmatvec(self, u: Float[Tensor, "B b N"]) -> Float[Tensor, "B b N"]:
        """A^T u."""
        return (u.to(self._matrices) @ self._matrices).double()


class ScoreJacobian(Operator):
    """sigma_t^2 ds/dx at B points: the Jacobian in the units of the "jacobian" spectrum.

    A v by forward mode (which needs unfused attention), A^T u by reverse mode through a graph that
    is kept: its memory is that of a forward pass with gradients over B x b inputs. Raises
    NumericsError for a network that overflows.
    """

    def __init__(self, model: ScoreModel, points: Float[Tensor, " B *shape"], t: int) -> None:
        self._model, self._t = model, t
        self._points = points.to(model.device, model.dtype)
        self._scale = float(model.schedule.sigma(t)) ** 2
        self._graph: tuple[Tensor, Tensor] | None = None
        self.batch, self.size = len(points), model.size
        self.precision = torch.finfo(model.dtype).eps
        # MPS has no float64.
        self.device = model.device if model.device.type == "cuda" else torch.device("cpu")

    def matvec(self, v: Float[Tensor, "B b N"]) -> Float[Tensor, "B b N"]:
        """The change of the score along v, by forward mode."""
        points, tangents = self._inputs(v.shape[1]), self._as_inputs(v)
        with (
            torch.no_grad(),
            exact_numerics(math_attention=True),
            forward_ad.dual_level(),
        ):
            with warnings.catch_warnings():
                # Torch's first use of forward mode warns of its own torch.jit.
                warnings.simplefilter("ignore", FutureWarning)
                dual = forward_ad.make_dual(points, tangents)
            score = self._model.score(dual, self._t)
            change = forward_ad.unpack_dual(score).tangent
        return self._as_vectors(torch.zeros_like(points) if change is None else change, v)

    def rmatvec(self, u: Float[Tensor, "B b N"]) -> Float[Tensor, "B b N"]:
        """The gradient of <u, score>, by reverse mode."""
        if self._graph is None or len(self._graph[0]) != self.batch * u.shape[1]:
            with torch.enable_grad(), exact_numerics():
                points = self._inputs(u.shape[1]).clone().requires_grad_()
                self._graph = points, self._model.score(points, self._t)
        points, score = self._graph
        with exact_numerics():
            (gradient,) = torch.autograd.grad(
                score, points, self._as_inputs(u), retain_graph=True, materialize_grads=True
            )
        return self._as_vectors(gradient, u)

    def _inputs(self, directions: int) -> Float[Tensor, " Bb *shape"]:
        return self._points.repeat_interleave(directions, 0)

    def _as_inputs(self, v: Float[Tensor, "B b N"]) -> Float[Tensor, " Bb *shape"]:
        return v.reshape(-1, *self._model.shape).to(self._model.device, self._model.dtype)

    def _as_vectors(
        self, products: Float[Tensor, " Bb *shape"], like: Float[Tensor, "B b N"]
    ) -> Float[Tensor, "B b N"]:
        check_finite(products, "a product with the Jacobian")
        return self._scale * products.to(self.device, torch.float64).reshape(like.shape)
