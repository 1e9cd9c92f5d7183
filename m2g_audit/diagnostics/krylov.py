"""Singular values of an operator from few products: block Golub-Kahan bidiagonalisation.

With random start vectors the Krylov space holds both what is wanted of a spectrum: its ends, which
converge first, and a Gauss quadrature of its density (stochastic Lanczos quadrature). SciPy and the
curvature libraries take one matrix at a time, on the CPU or symmetric; here many run as one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.special import chdtri
from torch import Tensor

from m2g_audit.diagnostics.operators import Operator

_LEAST_CELL = 1e-7  # of the largest value: where logarithms of cells end
_NOTHING = 1e-8  # of the operator's norm: repeated values amplify rounding up to this
_BISECTIONS = 60
_TILT = 60.0
_CONVERGED = 0.05  # a residual below this share of the gap: a value by itself
_RARE = 0.01  # a chance below which weights are not those of single values
_LEAST_STEPS = 4  # before residuals are believed


@dataclass(frozen=True, eq=False)
class Quadrature:
    """A density of singular values as weighted nodes, ascending.

    `weights` are shares of the N values; each is right on average over start vectors. Within
    `residuals` of each node lies a singular value for certain, up to rounding.
    """

    nodes: Float[np.ndarray, " m"]
    weights: Float[np.ndarray, " m"]
    residuals: Float[np.ndarray, " m"]


class Bidiagonalisation:
    """B runs of block Golub-Kahan at once, with full reorthogonalisation.

    `start` [B, b, N] are the first directions. A direction that vanishes (an invariant subspace is
    exhausted) is replaced by zeros, which take no further part: each run breaks down by itself.
    """

    def __init__(self, operator: Operator, start: Float[Tensor, "B b N"]) -> None:
        self._operator = operator
        self.width = start.shape[1]
        self.steps = 0
        start = start.to(operator.device, torch.float64)
        empty = start[:, :0]
        self._left, self._right = empty, empty
        # What rounding leaves of a vector that should vanish, as a share of the operator's norm.
        self._rounding = max(8 * operator.precision * operator.size**0.5, _NOTHING)
        self._norm = start.new_zeros(operator.batch)
        self._block, _ = self._orthonormal(start, empty)
        # U_k^T A V_k and U_k^T A V_(k+1), [B, b, b] each.
        self._diagonal: list[Tensor] = []
        self._above: list[Tensor] = []

    def extend(self, steps: int) -> None:
        """Takes `steps` more steps, of one product with A and one with A^T each."""
        for _ in range(steps):
            image = self._operator.matvec(self._block)
            self._norm = torch.maximum(self._norm, image.norm(dim=2).amax(1))
            self._right = torch.cat([self._right, self._block], 1)
            left, images = self._orthonormal(image, self._left)
            self._left = torch.cat([self._left, left], 1)
            self._block, back = self._orthonormal(self._operator.rmatvec(left), self._right)
            self._diagonal.append(images.mT)
            self._above.append(back)
            self.steps += 1

    @property
    def size(self) -> int:
        """N."""
        return self._operator.size

    def first_products(self) -> tuple[Float[Tensor, "B b N"], Float[Tensor, "B b N"]]:
        """The first directions V_1 and A V_1; at least one step must have been taken."""
        b = self.width
        return self._right[:, :b], self._diagonal[0].mT @ self._left[:, :b]

    @property
    def exhausted(self) -> Bool[Tensor, " B"]:
        """Which runs have broken down: there, more steps would find nothing."""
        return ~self._block.flatten(1).any(1)

    def quadrature(self, item: int, steps: int) -> Quadrature:
        """What run `item` knew after its first `steps` steps."""
        b = self.width
        matrix = torch.zeros(steps * b, steps * b, dtype=torch.float64)
        for k in range(steps):
            rows = slice(k * b, (k + 1) * b)
            matrix[rows, rows] = self._diagonal[k][item].cpu()
            if k + 1 < steps:
                matrix[rows, (k + 1) * b : (k + 2) * b] = self._above[k][item].cpu()
        # A direction that vanished is no node of the density.
        alive = self._right[item, : steps * b].any(1).cpu()
        left, nodes, right = torch.linalg.svd(matrix[:, alive], full_matrices=False)
        leads_on = self._above[steps - 1][item].cpu()
        residuals = (leads_on.mT @ left[-b:]).norm(dim=0)
        weights = right[:, :b].square().mean(1)
        return Quadrature(*(part.flip(0).numpy() for part in (nodes, weights, residuals)))

    def _orthonormal(
        self, vectors: Float[Tensor, "B b N"], basis: Float[Tensor, "B m N"]
    ) -> tuple[Float[Tensor, "B b N"], Float[Tensor, "B b b"]]:
        """Q and L: orthonormal rows, also to `basis`, with vectors = L Q + (a part in the basis).

        Classical Gram-Schmidt, twice: as good as Householder, and batched. A vanishing row is zero.
        """
        lower = vectors.new_zeros(len(vectors), vectors.shape[1], vectors.shape[1])
        own = vectors[:, :0]
        for i in range(vectors.shape[1]):
            row = vectors[:, i : i + 1]
            for _ in range(2):
                row = row - (row @ basis.mT) @ basis
                share = row @ own.mT
                lower[:, i, :i] += share[:, 0]
                row = row - share @ own
            length = row.norm(dim=2)[:, 0]
            alive = length > self._rounding * self._norm
            lower[:, i, i] = torch.where(alive, length, 0)
            scaled = torch.where(alive[:, None, None], row / length[:, None, None], 0)
            own = torch.cat([own, scaled], 1)
        return own, lower


def largest(
    operator: Operator, start: Float[Tensor, "one k N"], tolerance: float, *, most: int
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], int]:
    """The k largest singular values of one operator, from largest, their residuals, and the steps.

    Goes on until every residual is under `tolerance` of the largest value, for `most` steps of k
    directions at the most. Values that repeat up to k times are found as often.
    """
    run = Bidiagonalisation(operator, start)
    k = run.width
    most = min(most, -(-operator.size // k))
    run.extend(min(_LEAST_STEPS, most))
    while True:
        quadrature = run.quadrature(0, run.steps)
        values, residuals = quadrature.nodes[: -k - 1 : -1], quadrature.residuals[: -k - 1 : -1]
        if (
            bool((residuals <= tolerance * values[0]).all())
            or run.exhausted[0]
            or run.steps >= most
        ):
            return values, residuals, run.steps
        run.extend(1)


def curve(
    quadrature: Quadrature, N: int, lone: Bool[np.ndarray, " m"] | None = None
) -> Float[np.ndarray, " N"]:
    """The N singular values, from largest, that a quadrature implies.

    Nodes that are single values, `lone` (`lone_values` by default), count once each, whatever
    weight chance gave them. Of the others, each one's weight is spread over a cell around it: up to
    the logarithmic mean with its neighbours, no farther than its residual allows, and inside with
    the power law that keeps the node's square as the mean. So without lone values the mean square
    is the quadrature's, up to its rounding to N quantiles.
    """
    if not quadrature.nodes.any():
        return np.zeros(N)
    lone = lone_values(quadrature, N) if lone is None else lone
    values, rest = quadrature.nodes[lone], ~lone
    if len(values) < N:
        # A node at zero has no logarithm.
        nodes = np.maximum(quadrature.nodes, _LEAST_CELL * quadrature.nodes[-1])[rest]
        weights, residuals = quadrature.weights[rest], quadrature.residuals[rest]
        spread = _spread(nodes, weights, residuals, N - len(values))
        values = np.concatenate([values, spread])
    return np.sort(values)[::-1]


def lone_values(quadrature: Quadrature, N: int) -> Bool[np.ndarray, " m"]:
    """Which nodes are single values: converged, far from the next, and light enough for one.

    No node is where their weights together, or what they leave to the others, contradict it.
    """
    nodes, weights = quadrature.nodes, quadrature.weights
    gaps = np.diff(nodes, prepend=-np.inf, append=np.inf)
    gap = np.minimum(gaps[:-1], gaps[1:])
    converged = quadrature.residuals < _CONVERGED * gap
    lone = converged & np.array([single(weight * N, 1) for weight in weights])
    left = N - int(lone.sum())
    possible = left >= 0 if not lone.all() else left == 0
    if not possible or not single(float(weights[lone].sum()) * N, int(lone.sum())):
        lone[:] = False
    return lone


def single(weight: float, count: int) -> bool:
    """Whether `count` single values may have this weight together, in units of one value's share.

    The weight of one value in a random direction follows chi^2 with one degree of freedom.
    """
    return count == 0 or bool(weight < chdtri(count, _RARE))


def _spread(
    nodes: np.ndarray, weights: np.ndarray, residuals: np.ndarray, count: int
) -> Float[np.ndarray, " count"]:
    """`count` quantiles of the density that the nodes stand for."""
    low, high = _cells(nodes, residuals)
    length = np.log(high / low)
    tilt = _tilt(length, 2 * np.log(nodes / low))
    cumulated = np.concatenate([[0], np.cumsum(weights)])
    cumulated /= cumulated[-1]
    wanted = (np.arange(count) + 0.5) / count
    cell = np.clip(np.searchsorted(cumulated, wanted, side="right") - 1, 0, len(nodes) - 1)
    within = (wanted - cumulated[cell]) / (cumulated[cell + 1] - cumulated[cell])
    x = tilt[cell]
    flat = np.abs(x) < 1e-8
    safe = np.where(flat, 1.0, x)
    place = np.where(flat, within, np.log1p(within * np.expm1(safe)) / safe)
    return low[cell] * np.exp(length[cell] * place)


def _cells(nodes: np.ndarray, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper ends of the nodes' cells."""
    if len(nodes) == 1:
        low, high = nodes - residuals, nodes + residuals
    else:
        ratio = np.maximum(nodes[1:] / nodes[:-1], 1 + 1e-12)
        between = (nodes[1:] - nodes[:-1]) / np.log(ratio)
        between = np.clip(between, nodes[:-1], nodes[1:])
        first, last = 2 * nodes[0] - between[0], nodes[-1] ** 2 / between[-1]
        low = np.maximum(np.concatenate([[first], between]), nodes - residuals)
        high = np.minimum(np.concatenate([between, [last]]), nodes + residuals)
    return np.maximum(low, _LEAST_CELL * nodes), high


def _tilt(length: np.ndarray, log_square: np.ndarray) -> np.ndarray:
    """The x for which y in [0, length], with density ~ exp(x y / length), has log E e^2y as given.

    log E e^2y = g(x + 2 length) - g(x) with g(x) = log((e^x - 1) / x), rising in x: bisection.
    """

    def g(x: np.ndarray) -> np.ndarray:
        small = np.abs(x) < 1e-6
        safe = np.where(small, 1.0, x)
        steep = np.log(np.expm1(-np.abs(safe)) / -np.abs(safe)) + np.maximum(safe, 0)
        return np.where(small, x / 2, steep)

    low, high = np.full_like(length, -_TILT), np.full_like(length, _TILT)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = g(middle + 2 * length) - g(middle) > log_square
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2
