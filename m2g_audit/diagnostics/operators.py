"""Linear operators known only by their products, and the Jacobian of a score as one of them."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd import forward_ad

from m2g_audit.diagnostics.numerics import check_finite, exact_numerics
from m2g_audit.diagnostics.score_model import ScoreModel

# Of one direction, in network evaluations: the graph that reverse mode needs is made once, a
# backward pass to the input alone costs about as much as a forward one, a difference takes two.
GRAPH_COST, DIFFERENCE_COST, REVERSE_COST = 1, 2, 1

# Per coordinate, of sigma_t, below which the density is smooth. In fp32 it is where rounding, which
# falls with the step, meets the third derivative (benchmarks/results/fast_spectrum.md).
_STEP = 0.027
_AGREEMENT = 1e-3  # of a product by the step and by twice the step, relative to it


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

    A v by central differences of the score, A^T u by reverse mode through a graph that is kept: its
    memory is that of a forward pass with gradients over B x b inputs. The first product of each
    point is taken by two steps; where they disagree a third tells the better step, and where that
    is no good either the point is differentiated by forward mode (which needs unfused attention,
    and on a CPU two to five times as long). Raises NumericsError for a network that overflows.
    """

    def __init__(self, model: ScoreModel, points: Float[Tensor, " B *shape"], t: int) -> None:
        self._model, self._t = model, t
        self._points = points.to(model.device, model.dtype)
        self._scale = float(model.schedule.sigma(t)) ** 2
        self._graph: tuple[Tensor, Tensor] | None = None
        self._steps: Tensor | None = None
        self._step_costs = torch.zeros(len(points), dtype=torch.long)
        self.batch, self.size = len(points), model.size
        self.precision = torch.finfo(model.dtype).eps
        # MPS has no float64.
        self.device = model.device if model.device.type == "cuda" else torch.device("cpu")

    @property
    def steps(self) -> Float[Tensor, " B"]:
        """The length |h v| of each point's step, 0 where forward mode took its place.

        All nan before the first product.
        """
        unknown = torch.full((self.batch,), torch.nan, dtype=torch.float64)
        return unknown if self._steps is None else self._steps

    @property
    def step_costs(self) -> Int[Tensor, " B"]:
        """The evaluations that went into the choice of each point's step."""
        return self._step_costs

    def matvec(self, v: Float[Tensor, "B b N"]) -> Float[Tensor, "B b N"]:
        """The change of the score along v, by central differences."""
        if self._steps is None:
            first, kept = self._choose_steps(v[:, :1])
            if v.shape[1] == 1 and bool(kept.all()):
                return first
            self._step_costs += DIFFERENCE_COST  # of the product that is taken again
        assert self._steps is not None
        products = torch.empty(v.shape, dtype=torch.float64, device=self.device)
        smooth = self._steps > 0
        for chosen, differentiate in ((smooth, self._difference), (~smooth, self._forward_mode)):
            rows = chosen.nonzero()[:, 0]
            if len(rows):
                products[rows] = differentiate(v[rows], rows)
        return products

    def _choose_steps(
        self, v: Float[Tensor, "B one N"]
    ) -> tuple[Float[Tensor, "B one N"], Bool[Tensor, " B"]]:
        """Sets the step |h v| of each point, 0 where none is good; A v by the first, and its use.

        Of a product by step h the error is A h^2 + B / h, of the third derivative and of rounding,
        which have nothing to do with each other: three steps tell the two.
        """
        accuracy = (self.precision / torch.finfo(torch.float32).eps) ** (1 / 3)
        first = _STEP * accuracy * float(self._model.schedule.sigma(self._t)) * self.size**0.5
        steps = torch.full((self.batch,), first, dtype=torch.float64)
        everywhere = torch.arange(self.batch)
        found, by_twice = (self._difference(v, everywhere, k * steps) for k in (1, 2))
        length = found.norm(dim=2)[:, 0].cpu()
        apart = (by_twice - found).norm(dim=2)[:, 0].cpu()
        self._step_costs += DIFFERENCE_COST
        rows = (apart > _AGREEMENT * accuracy**2 * length).nonzero()[:, 0]
        if len(rows):
            by_half = self._difference(v[rows], rows, steps[rows] / 2)
            nearer = (by_half - found[rows]).norm(dim=2)[:, 0].cpu()
            self._step_costs[rows] += DIFFERENCE_COST
            # |far|^2 = 9 A^2 + 5/4 B^2 and |near|^2 = 9/16 A^2 + 5 B^2, at the first step.
            far, near = apart[rows].square(), nearer.square()
            rounding = ((near - far / 16) / (5 - 5 / 64)).clamp_min(0)
            cubic = ((far - 1.25 * rounding) / 9).clamp_min(0)
            ratio = (rounding / (2 * cubic).clamp_min(1e-300)) ** (1 / 6)
            ratio = ratio.clamp(1 / 8, 8)
            error = (cubic * ratio**4 + rounding / ratio**2).sqrt()
            good = error <= _AGREEMENT * accuracy**2 * length[rows]
            steps[rows] = torch.where(good, ratio * steps[rows], 0.0)
        self._steps = steps
        return found, steps == first

    def _difference(
        self,
        v: Float[Tensor, "r b N"],
        rows: Int[Tensor, " r"],
        steps: Float[Tensor, " r"] | None = None,
    ) -> Float[Tensor, "r b N"]:
        """Products of the points numbered `rows`, by central differences of these steps."""
        steps = self.steps[rows] if steps is None else steps
        lengths = v.norm(dim=2, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        h = steps.to(v)[:, None, None]
        offsets = self._as_inputs(v * (h / lengths))
        points = self._inputs(v.shape[1], rows)
        with torch.no_grad(), exact_numerics():
            # Both sides in one call, so that they see the same kernels.
            score = self._model.score(torch.cat([points + offsets, points - offsets]), self._t)
        plus, minus = score.to(self.device, torch.float64).chunk(2)
        return self._as_vectors(plus - minus, v) * (lengths / (2 * h)).to(self.device)

    def _forward_mode(
        self, v: Float[Tensor, "r b N"], rows: Int[Tensor, " r"]
    ) -> Float[Tensor, "r b N"]:
        points, tangents = self._inputs(v.shape[1], rows), self._as_inputs(v)
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
                everywhere = torch.arange(self.batch)
                points = self._inputs(u.shape[1], everywhere).clone().requires_grad_()
                self._graph = points, self._model.score(points, self._t)
        points, score = self._graph
        with exact_numerics():
            (gradient,) = torch.autograd.grad(
                score, points, self._as_inputs(u), retain_graph=True, materialize_grads=True
            )
        return self._as_vectors(gradient, u)

    def _inputs(self, directions: int, rows: Int[Tensor, " r"]) -> Float[Tensor, " rb *shape"]:
        return self._points[rows.to(self._points.device)].repeat_interleave(directions, 0)

    def _as_inputs(self, v: Float[Tensor, "r b N"]) -> Float[Tensor, " rb *shape"]:
        return v.reshape(-1, *self._model.shape).to(self._model.device, self._model.dtype)

    def _as_vectors(
        self, products: Float[Tensor, " rb *shape"], like: Float[Tensor, "r b N"]
    ) -> Float[Tensor, "r b N"]:
        check_finite(products, "a product with the Jacobian")
        return self._scale * products.to(self.device, torch.float64).reshape(like.shape)
