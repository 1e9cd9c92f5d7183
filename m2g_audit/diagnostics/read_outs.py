"""Curvature for a few evaluations: what tells a sample that is a copy from a model's own repeat.

Around a memorized picture the score leads back to it from every side; around a repeat of the
model's own some directions are free (Secs. 3 and 5). Each read-out asks that in one way, at the
sample's own clean latent and for a noise level given by sigma / alpha, so that models compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from m2g_audit.diagnostics.numerics import noises_for
from m2g_audit.diagnostics.score_model import (
    NoiseSchedule,
    ScoreModel,
    ddim,
    ddim_timesteps,
    perturb,
    predict_sample,
)

STEP = 0.05
"""Of central differences, |h v|: agrees with forward mode to some 1e-3 in single precision."""
RETURN_STEPS = 4

SPREAD_LEVEL, ERROR_LEVEL, NOISES = 0.25, 1.16, 8
"""The rule, chosen on pocket before another model was looked at (benchmarks/naming_read_outs.py):
sigma / alpha that a sample's spread and its error are read at, and noises of each."""
LINE_LEVEL = 0.07
"""sigma / alpha that the curvature towards another sample is read at."""
MEMORIZED_UP_TO = -5.58
"""A sample of less freedom is called memorized: right most often on pocket, mean of both states."""


def freedom(spread: Float[Tensor, " *n"], error: Float[Tensor, " *n"]) -> Float[Tensor, " *n"]:
    """Return how free a sample is to vary: log of its spread times its denoising error.

    Each at its level of the rule. Lower is nearer to a point mass, of which both are 0.
    """
    return spread.log() + error.log()


def time_at(schedule: NoiseSchedule, level: float) -> int:
    """Return the time index whose sigma / alpha is nearest to `level`, by ratio."""
    ratios = schedule.sigmas / schedule.alphas
    return int((ratios.log() - torch.tensor(level).log()).abs().argmin())


@torch.no_grad()
def denoising_error(
    model: ScoreModel, clean: Float[Tensor, " n *shape"], t: int, seeds: Sequence[Sequence[int]]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return |eps - noise|^2 / N of each sample, and the spread of the clean samples predicted.

    Small for a point mass, whose noise is all that there is to see. Both are over the noises of
    `seeds`, as many for each sample, [n][k], and cost k evaluations a sample; spread: standard
    deviation per number of the predicted clean sample, NaN for one noise.
    """
    noise = torch.stack([noises_for(row, model.shape) for row in seeds])
    errors, predicted = [], []
    for k in range(noise.shape[1]):
        x = perturb(model.schedule, clean, noise[:, k], t)
        found = model.predict_noise(x, t).cpu()
        errors.append((found - noise[:, k]).flatten(1).square().mean(1))
        predicted.append(predict_sample(model.schedule, x, found, t).flatten(1))
    away = torch.stack(predicted) - torch.stack(predicted).mean(0)
    variance = away.square().sum(0).mean(1) / torch.tensor(len(predicted) - 1)
    return torch.stack(errors).mean(0), variance.sqrt()


@torch.no_grad()
def curvature_towards(
    model: ScoreModel,
    clean: Float[Tensor, " n *shape"],
    others: Float[Tensor, " n *shape"],
    t: int,
    seeds: Sequence[int],
) -> Float[Tensor, " n"]:
    """Return the curvature at each sample along the line to another, for two evaluations.

    v' J v of the normalised Jacobian J = sigma_t d eps / dx on the noise shell, v being the unit
    vector of the line, by central differences: 1 for a point mass, about 0 where the way is free.
    """
    line = others - clean
    norms = line.flatten(1).norm(dim=1).reshape(-1, *[1] * (line.ndim - 1))
    v = line / norms
    x = perturb(model.schedule, clean, noises_for(seeds, model.shape), t)
    ahead, behind = (model.predict_noise(x + h * v, t).cpu() for h in (STEP, -STEP))
    along = ((ahead - behind) * v).flatten(1).sum(1) / (2 * STEP)
    return float(model.schedule.sigma(t)) * along


@torch.no_grad()
def return_distance(
    model: ScoreModel,
    clean: Float[Tensor, " n *shape"],
    t: int,
    seeds: Sequence[int],
    steps: int = RETURN_STEPS,
) -> Float[Tensor, " n"]:
    """Return how far from each sample one ends that is noised to t and denoised again.

    Root-mean-square difference per number; `steps` evaluations of the deterministic sampler.
    """
    x = perturb(model.schedule, clean, noises_for(seeds, model.shape), t)
    ended = ddim(model, x.to(model.device, model.dtype), ddim_timesteps(t, steps)).cpu()
    return (ended - clean).flatten(1).square().mean(1).sqrt()
