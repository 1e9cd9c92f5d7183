"""Scores in continuous time on the VE-SDE dx = sigma dw, where x_t = y + sigma sqrt(t) epsilon."""

from collections.abc import Callable
from math import pi, sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from m2g_audit.diagnostics.oracles import Empirical
from m2g_audit.diagnostics.score_model import NoiseSchedule
from small_scale.circle.recipe import Recipe

Score = Callable[[Tensor, float], Tensor]
"""s(x, t) = grad log p_t(x): [n, 2] for x [n, 2] and one time t in (0, 1]."""


def empirical(points: Tensor, sigma: float, t: float) -> Empirical:
    """Return the closed form of points [K, 2] under noise sigma sqrt(t): Eq. 23 at time index 0."""
    level = torch.tensor([sigma * sqrt(t)], dtype=torch.float64)
    return Empirical(points, NoiseSchedule.ve(level))


def exact_score(points: Tensor, sigma: float) -> Score:
    """Return the score of Eq. 23 for training points [K, 2], float64."""
    return lambda x, t: empirical(points, sigma, t).score(x, 0)


class ScoreNetwork(nn.Module):
    """s_theta(x, t) of App. A: Fourier features of t beside x, residual blocks, a linear layer.

    The layers give the noise, which is divided by -sigma sqrt(t) (as Song et al. scale theirs).
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.sigma = recipe.sigma
        self.frequencies: Tensor
        frequencies = torch.randn(recipe.width // 2) * recipe.fourier_scale
        self.register_buffer("frequencies", frequencies)
        self.project = nn.Linear(recipe.width + 2, recipe.width)
        self.encoder = _blocks(recipe)
        self.decoder = _blocks(recipe)
        self.head = nn.Linear(recipe.width, 2)

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """epsilon_theta(x, t): [n, 2] for x [n, 2] and times t [n]."""
        phases = 2 * pi * t[:, None] * self.frequencies
        features = torch.cat([phases.sin(), phases.cos(), x], dim=1)
        return self.head(silu(self.decoder(silu(self.encoder(self.project(features))))))

    def forward(self, x: Tensor, t: float) -> Tensor:
        """s_theta(x, t), a `Score`, in the dtype of x."""
        inner = x.to(self.head.weight.dtype)
        noise = self.noise(inner, torch.full((len(x),), t, dtype=inner.dtype))
        return -noise.to(x.dtype) / (self.sigma * sqrt(t))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.linear(silu(h))


def _blocks(recipe: Recipe) -> nn.Sequential:
    return nn.Sequential(*(_Residual(recipe.width) for _ in range(recipe.blocks)))
