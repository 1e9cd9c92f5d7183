"""Closed-form score models in float64, against which every diagnostic is tested.

All follow from the posterior mean by Tweedie's formula, epsilon = (x - alpha E[x_0 | x]) / sigma.
"""

from __future__ import annotations

from abc import abstractmethod
from math import log, pi

import torch
from jaxtyping import Float
from torch import Tensor

from m2g_audit.diagnostics.score_model import NoiseSchedule, ScoreModel


class _PosteriorMean(ScoreModel):
    """A score model given by E[x_0 | x_t]."""

    device = torch.device("cpu")
    dtype = torch.float64

    @abstractmethod
    def posterior_mean(self, x: Float[Tensor, " b *shape"], t: int) -> Float[Tensor, " b *shape"]:
        """E[x_0 | x_t = x]."""

    def predict_noise(self, x: Float[Tensor, " b *shape"], t: int) -> Float[Tensor, " b *shape"]:
        """epsilon(x, t) in float64."""
        x = x.to(self.device, self.dtype)
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        return (x - alpha * self.posterior_mean(x, t)) / sigma


class Empirical(_PosteriorMean):
    """The score of K data points under noise, a Dense Associative Memory with those as memories.

    `patterns`: [K, *shape]. With one pattern it is a point mass, whose Jacobian is -I / sigma_t^2.
    Eq. 3-6 for the VE schedule; for VP the memories sit at alpha_t xi.
    """

    def __init__(self, patterns: Float[Tensor, " K *shape"], schedule: NoiseSchedule) -> None:
        self.patterns = patterns.to(self.device, self.dtype)
        self.schedule = schedule
        self.shape = tuple(patterns.shape[1:])

    def posterior_mean(self, x: Float[Tensor, " b *shape"], t: int) -> Float[Tensor, " b *shape"]:
        """The memories, weighted by softmax(-||x - alpha xi||^2 / (2 sigma^2))."""
        weights = self._exponents(x, t).softmax(dim=1)
        return (weights @ self.patterns.flatten(1)).reshape(x.shape)

    def log_density(self, x: Float[Tensor, " b *shape"], t: int) -> Float[Tensor, " b"]:
        """log p(x, t) of Eq. 4."""
        normaliser = log(len(self.patterns)) + self.size / 2 * log(
            2 * pi * float(self.schedule.sigma(t)) ** 2
        )
        return self._exponents(x, t).logsumexp(dim=1) - normaliser

    def energy(self, x: Float[Tensor, " b *shape"], t: int) -> Float[Tensor, " b"]:
        """E^DM(x, t) of Eq. 5, which carries the factor 2 sigma_t^2."""
        return -2 * float(self.schedule.sigma(t)) ** 2 * self._exponents(x, t).logsumexp(dim=1)

    def _exponents(self, x: Float[Tensor, " b *shape"], t: int) -> Float[Tensor, " b K"]:
        centres = float(self.schedule.alpha(t)) * self.patterns.flatten(1)
        # Not torch.cdist, whose gradient is undefined where x sits on a memory.
        squared = (x.to(self.dtype).flatten(1)[:, None] - centres).square().sum(dim=2)
        return -squared / (2 * float(self.schedule.sigma(t)) ** 2)


class GaussianSubspace(_PosteriorMean):
    """The score of a Gaussian on a d-dimensional linear subspace, x_0 = mean + U sqrt(v) z.

    `basis`: U, [N, d] with orthonormal columns; `variances`: v, [d]; `mean`: [N], 0 by default.
    """

    def __init__(
        self,
        basis: Float[Tensor, " N d"],
        variances: Float[Tensor, " d"],
        schedule: NoiseSchedule,
        mean: Float[Tensor, " N"] | None = None,
    ) -> None:
        self.basis = basis.to(self.device, self.dtype)
        self.variances = variances.to(self.device, self.dtype)
        self.schedule = schedule
        self.shape = (len(basis),)
        self.mean = torch.zeros(len(basis), dtype=self.dtype) if mean is None else mean.double()

    def posterior_mean(self, x: Float[Tensor, " b N"], t: int) -> Float[Tensor, " b N"]:
        """mean + U diag(alpha v / (alpha^2 v + sigma^2)) U^T (x - alpha mean)."""
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        shrink = alpha * self.variances / (alpha**2 * self.variances + sigma**2)
        return self.mean + ((x - alpha * self.mean) @ self.basis * shrink) @ self.basis.T

    def jacobian_values(self, t: int) -> Float[Tensor, " N"]:
        """The singular values of ds/dx, descending.

        N - d of them are 1 / sigma^2, and d are 1 / (alpha^2 v + sigma^2).
        """
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        along = 1 / (alpha**2 * self.variances + sigma**2)
        across = torch.full((self.size - len(along),), sigma**-2, dtype=self.dtype)
        return torch.cat([across, along]).sort(descending=True).values


class Circle(_PosteriorMean):
    """The score of data uniform on the unit circle: the limit K -> infinity of Sec. 4.1.

    Eq. 8 and 15-18 with beta = 1 / (2 sigma_t^2); for VP the circle has radius alpha_t.
    """

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self.shape = (2,)

    def posterior_mean(self, x: Float[Tensor, " b 2"], t: int) -> Float[Tensor, " b 2"]:
        """The point of the circle in x's direction, shrunk by I_1 / I_0 at alpha R / sigma^2."""
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        radius = _radius(x)
        return _bessel_ratio(alpha * radius / sigma**2) * x / radius


def dense_am_energy(
    x: Float[Tensor, " b *shape"], patterns: Float[Tensor, " K *shape"], beta: float
) -> Float[Tensor, " b"]:
    """E^AM(x) of Eq. 6 at inverse temperature `beta`."""
    squared = (x.flatten(1)[:, None] - patterns.flatten(1)).square().sum(dim=2)
    return -(-beta * squared).logsumexp(dim=1) / beta


def circle_energy(radius: Float[Tensor, " *b"], beta: float) -> Float[Tensor, " *b"]:
    """E^AM(R) = R^2 + 1 - log I_0(2 beta R) / beta of Eq. 8 and 15."""
    argument = 2 * beta * radius
    # log I_0(z) = log(I_0(z) exp(-z)) + z, where I_0 itself would overflow.
    return radius**2 + 1 - (torch.special.i0e(argument).log() + argument) / beta


def circle_score(x: Float[Tensor, " b 2"], beta: float) -> Float[Tensor, " b 2"]:
    """2 (I_1 / I_0 - R) x / R at 2 beta R, as Eq. 18 prints it: -grad E^AM.

    The density is exp(-beta E^AM), so the score of `Circle` is beta times this.
    """
    radius = _radius(x)
    return 2 * (_bessel_ratio(2 * beta * radius) - radius) * x / radius


def _radius(x: Float[Tensor, " b 2"]) -> Float[Tensor, " b 1"]:
    # The smallest positive radius stands for the centre, where x / R has no value.
    return x.square().sum(dim=1, keepdim=True).clamp_min(1e-24).sqrt()


def _bessel_ratio(argument: Float[Tensor, " *b"]) -> Float[Tensor, " *b"]:
    return torch.special.i1e(argument) / torch.special.i0e(argument)
