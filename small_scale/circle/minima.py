"""Minima of an energy as fixed points of its mean shift, and in whose basins training points lie.

The energy of Eq. 5 at beta = 1 / (2 sigma^2 t) has the gradient 2 (x - m(x)) with the posterior
mean m(x) = E[x_0 | x_t = x]: mean shift x -> m(x) never raises it, and its attracting fixed points
are its minima. Two points at distance d have two if beta d^2 / 2 > 1 (Eq. 7), else one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt
from typing import Protocol

import torch
from torch import Tensor

from small_scale.circle.scores import Score

_ROUND = 20
"""Steps of mean shift between two attempts to finish by Newton's method."""


class MeanShift(Protocol):
    """m(x) of an energy at one beta."""

    beta: float

    def __call__(self, x: Tensor) -> Tensor:
        """m(x): [n, 2] for x [n, 2]."""

    def linear(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """m(x) [n, 2] and dm/dx [n, 2, 2]."""


class Exact:
    """The mean shift of Eq. 5 and 6 for training points [K, 2]: one step of attention over them."""

    def __init__(self, points: Tensor, beta: float) -> None:
        self.points, self.beta = points, beta
        self._norms = points.square().sum(dim=1)
        self._products = (points[:, :, None] * points[:, None]).flatten(1)

    def __call__(self, x: Tensor) -> Tensor:
        """m(x): [n, 2] for x [n, 2]."""
        return self._weights(x) @ self.points

    def linear(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """m(x), and 2 beta times the covariance of the points under their weights at x."""
        weights = self._weights(x)
        mean = weights @ self.points
        second = (weights @ self._products).reshape(-1, 2, 2)
        return mean, 2 * self.beta * (second - mean[:, :, None] * mean[:, None])

    def _weights(self, x: Tensor) -> Tensor:
        return (self.beta * (2 * x @ self.points.T - self._norms)).softmax(dim=1)


class Learned:
    """The mean shift x + sigma^2 t s(x, t) of a score at sigma^2 t = 1 / (2 beta), by Tweedie."""

    def __init__(self, score: Score, beta: float, sigma: float) -> None:
        self.score, self.beta, self.sigma = score, beta, sigma

    def __call__(self, x: Tensor) -> Tensor:
        """m(x): [n, 2] for x [n, 2]."""
        variance = 1 / (2 * self.beta)
        return x + variance * self.score(x, variance / self.sigma**2)

    def linear(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """m(x) [n, 2] and dm/dx [n, 2, 2]."""
        x = x.detach().requires_grad_()
        shifted = self(x)
        rows = [torch.autograd.grad(shifted[:, i].sum(), x, retain_graph=True)[0] for i in range(2)]
        return shifted.detach(), torch.stack(rows, dim=1)


@dataclass(frozen=True)
class Minima:
    """The minima found: `points` [m, 2]; `basins` [K], where each training point's mean shift ends.

    `basins` are indices of minima, -1 where mean shift came to no end; `lost` counts such starts.
    """

    points: Tensor
    basins: Tensor
    lost: int

    @property
    def held(self) -> Tensor:
        """How many training points lie in the basin of each minimum, [m]."""
        return torch.bincount(self.basins[self.basins >= 0], minlength=len(self.points))

    def counts(self) -> tuple[int, int, int, int]:
        """Minima that belong to one training point, that hold several, that hold none; lost."""
        held = self.held
        return (
            int((held == 1).sum()),
            int((held > 1).sum()),
            int((held == 0).sum()),
            self.lost,
        )


def find_minima(shift: MeanShift, points: Tensor, rounds: int = 100) -> Minima:
    """Return the minima that mean shift reaches from training points [K, 2] and from `seeds`.

    A start that has come to no end after `rounds` of 20 steps is lost.
    """
    starts = torch.cat([points, seeds(points, shift.beta)])
    width = 1 / sqrt(2 * shift.beta)
    ends, ended = _run(shift, starts, width, rounds)
    minima = ends.new_zeros(0, 2)
    index = torch.full((len(ends),), -1)
    # The nearest distinct minima ever seen were farther apart than this, by orders of magnitude.
    tolerance = 1e-4 * width
    while bool((rest := ended & (index < 0)).any()):
        first = ends[rest][0]
        index[rest & ((ends - first).norm(dim=1) < tolerance)] = len(minima)
        minima = torch.cat([minima, first[None]])
    return Minima(minima, index[: len(points)], int((~ended).sum()))


def expected_of_many(beta: float) -> float:
    """Return sqrt(3 beta), the mean number of minima of Eq. 5 for many points on the unit circle.

    Their density, smoothed over an arc with variance h^2 = 1 / (2 beta), is a constant and a small
    Gaussian field with correlation exp(-d^2 / (4 h^2)), so with spectral moments 1 / (2 h^2) and
    3 / (4 h^4). By Rice's formula it has sqrt(3 / 2) / h maxima on the circle. The number of points
    is not in it: more of them make the minima shallower, not fewer.
    """
    return sqrt(3 * beta)


def shared_until(points: Tensor, group: Tensor) -> float:
    """Return the largest beta at which a group of the points [K, 2] has one minimum of Eq. 5.

    `group`: indices of points; by bisection to 0.1%, between 0.5 and a million.
    """
    low, high = 0.5, 1e6
    while high / low > 1.001:
        middle = sqrt(low * high)
        basins = find_minima(Exact(points, middle), points).basins[group]
        low, high = (middle, high) if len(basins.unique()) == 1 else (low, middle)
    return low


def seeds(points: Tensor, beta: float) -> Tensor:
    """Return starts beside the training points, for minima in whose basin none of those lies.

    A polar grid, and the middles of those gaps between neighbours on the circle that are too wide
    for one minimum: every minimum of the exact energy is in the convex hull of the points.
    """
    after = points[torch.atan2(points[:, 1], points[:, 0]).argsort()]
    before = after.roll(1, 0)
    wide = beta * (after - before).square().sum(dim=1) > 2
    # Nothing on an axis of symmetry, such as a pair's: mean shift from there ends on a saddle.
    middles = (0.51 * after + 0.49 * before)[wide]
    angles = 0.1 + torch.arange(24, dtype=points.dtype) * (2 * pi / 24)
    ring = torch.stack([angles.cos(), angles.sin()], dim=1)
    grid = torch.cat([radius * ring for radius in (0.01, 0.25, 0.5, 0.75, 1.0)])
    return torch.cat([middles, grid])


def _run(shift: MeanShift, starts: Tensor, width: float, rounds: int) -> tuple[Tensor, Tensor]:
    """Where mean shift ends from each start, and whether it came to an end."""
    x, ended = starts.clone(), torch.zeros(len(starts), dtype=torch.bool)
    for _ in range(rounds):
        going = (~ended).nonzero()[:, 0]
        if len(going) == 0:
            break
        place = x[going]
        with torch.no_grad():
            for _ in range(_ROUND):
                place = shift(place)
        finished, near = _finish(shift, place, width)
        place[near] = finished
        x[going] = place
        ended[going[near]] = True
    return x, ended


def _finish(shift: MeanShift, x: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Minima of those x that Newton's method reaches without leaving the bowl: ends, and which.

    Mean shift alone slows down without limit where two minima are about to merge.
    """
    step, attracting = _newton(shift, x)
    near = attracting & (step.norm(dim=1) < 0.1 * width)
    kept = near.nonzero()[:, 0]
    y = x[kept] + step[kept]
    for _ in range(6):
        step, attracting = _newton(shift, y)
        y = y + step
    good = attracting & (step.norm(dim=1) < 1e-7 * width)
    good &= (y - x[kept]).norm(dim=1) < 0.2 * width
    near[kept[~good]] = False
    return y[good], near


def _newton(shift: MeanShift, x: Tensor) -> tuple[Tensor, Tensor]:
    """Newton's step towards a fixed point, and whether x -> m(x) attracts at x, as at a minimum."""
    shifted, jacobian = shift.linear(x)
    residual, matrix = shifted - x, torch.eye(2, dtype=x.dtype) - jacobian
    trace = matrix[:, 0, 0] + matrix[:, 1, 1]
    determinant = matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]
    # Both eigenvalues of I - dm/dx have a positive real part: dx/dt = m(x) - x attracts.
    attracting = (trace > 0) & (determinant > 0)
    adjugate = trace[:, None, None] * torch.eye(2, dtype=x.dtype) - matrix
    step = (adjugate @ residual[:, :, None])[:, :, 0] / determinant[:, None]
    return step.where(attracting[:, None], residual), attracting
