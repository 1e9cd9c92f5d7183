"""The reverse SDE by Euler-Maruyama (Eq. 20)."""

from math import sqrt

import torch
from torch import Tensor

from m2g_audit.progress import OnProgress
from small_scale.circle.recipe import Recipe
from small_scale.circle.scores import Score


@torch.no_grad()
def euler_maruyama(
    score: Score,
    recipe: Recipe,
    generator: torch.Generator,
    on_step: OnProgress | None = None,
) -> Tensor:
    """Return samples [samples, 2], float64, from N(0, sigma^2) at t = 1 down to t_min.

    Equal steps; the last gives its mean, without noise, as in the code of Song et al. So with the
    exact score a sample is E[x_0 | x_t] at the last step's t (but for t_min), not a draw. Eq. 20
    prints sigma^2 dw for the noise; the SDE of Eq. 19 has sigma dw (the same for sigma = 1).
    """
    x = recipe.sigma * torch.randn(recipe.samples, 2, generator=generator, dtype=torch.float64)
    times = torch.linspace(1, recipe.t_min, recipe.sampler_steps + 1, dtype=torch.float64)
    dt = float(times[0] - times[1])
    mean = x
    for done, t in enumerate(times[:-1].tolist(), start=1):
        mean = x + recipe.sigma**2 * score(x, t) * dt
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = mean + recipe.sigma * sqrt(dt) * noise
        if on_step is not None:
            on_step(done, recipe.sampler_steps)
    return mean


def last_beta(recipe: Recipe) -> float:
    """Return the inverse temperature of the sampler's last step."""
    t = recipe.t_min + (1 - recipe.t_min) / recipe.sampler_steps
    return 1 / (2 * recipe.sigma**2 * t)
