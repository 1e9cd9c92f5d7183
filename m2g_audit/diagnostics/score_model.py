"""The one abstraction: a score model is a function (x, t) -> noise on a known schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, prod
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

Index = int | Int[Tensor, " *b"]


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """alpha_t and sigma_t of x_t = alpha_t x_0 + sigma_t epsilon, for 0-based t = 0 .. T-1.

    `alphas`, `sigmas`: float64 on the CPU, length T. `kind` is "vp" (alpha^2 + sigma^2 = 1), "ve"
    (alpha = 1) or "flow" (alpha + sigma = 1).
    """

    alphas: Float[Tensor, " T"]
    sigmas: Float[Tensor, " T"]
    kind: Literal["vp", "ve", "flow"]

    @classmethod
    def vp(cls, alphas_cumprod: Float[Tensor, " T"]) -> NoiseSchedule:
        """The variance-preserving schedule: alpha = sqrt(abar), sigma = sqrt(1 - abar)."""
        abar = torch.as_tensor(alphas_cumprod).detach().to("cpu", torch.float64)
        return cls(abar.sqrt(), (1 - abar).sqrt(), "vp")

    @classmethod
    def of_betas(cls, betas: Float[Tensor, " T"]) -> NoiseSchedule:
        """The variance-preserving schedule of a scheduler's betas, abar = prod (1 - beta).

        Schedulers multiply in single precision, where 1 - abar_0 is off by up to 2e-4 of itself.
        """
        return cls.vp((1 - torch.as_tensor(betas).detach().to("cpu", torch.float64)).cumprod(0))

    @classmethod
    def ve(cls, sigmas: Float[Tensor, " T"]) -> NoiseSchedule:
        """The variance-exploding schedule: alpha = 1, `sigmas` = sigma sqrt(t) of Eq. 3."""
        levels = torch.as_tensor(sigmas).detach().to("cpu", torch.float64)
        return cls(torch.ones_like(levels), levels, "ve")

    @classmethod
    def flow(cls, ratios: Float[Tensor, " T"]) -> NoiseSchedule:
        """The schedule of flow matching, alpha = 1 - sigma, at these sigma / alpha."""
        levels = torch.as_tensor(ratios).detach().to("cpu", torch.float64)
        return cls(1 / (1 + levels), levels / (1 + levels), "flow")

    def __len__(self) -> int:
        return len(self.alphas)

    def alpha(self, t: Index) -> Float[Tensor, " *b"]:
        """alpha_t in float64 for an index or a tensor of indices."""
        return self.alphas[self._checked(t)]

    def sigma(self, t: Index) -> Float[Tensor, " *b"]:
        """sigma_t in float64 for an index or a tensor of indices."""
        return self.sigmas[self._checked(t)]

    def ratio(self, t: Index) -> Float[Tensor, " *b"]:
        """sigma_t / alpha_t, by which the levels of any two schedules compare."""
        return self.sigma(t) / self.alpha(t)

    def nearest(self, ratio: float) -> int:
        """The index of the level whose sigma / alpha is nearest to `ratio`, in log."""
        levels = self.sigmas / self.alphas
        return int((levels.log() - log(ratio)).abs().argmin())

    def _checked(self, t: Index) -> Int[Tensor, " *b"]:
        # A negative index would silently read the noisiest level.
        index = torch.as_tensor(t, device="cpu")
        if bool(((index < 0) | (index >= len(self))).any()):
            raise IndexError(f"time index {t} is outside 0 .. {len(self) - 1}")
        return index


class ScoreModel(ABC):
    """epsilon(x_t, t) on a schedule: everything that the diagnostics know of a model.

    `shape` is that of one sample, (c, h, w) or (N,). `kind` says which score of a conditional model
    this is. `evaluations_per_call` counts network evaluations for each sample of `predict_noise`
    (2 where guidance needs two). `predict_noise` must be differentiable in x and must treat every
    item of the batch by itself.
    """

    schedule: NoiseSchedule
    shape: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype
    kind: str = "unconditional"
    evaluations_per_call: int = 1

    @abstractmethod
    def predict_noise(self, x: Float[Tensor, " b *shape"], t: int) -> Float[Tensor, " b *shape"]:
        """epsilon(x, t), in `dtype`, for a batch and one 0-based time index."""

    def score(self, x: Float[Tensor, " b *shape"], t: int) -> Float[Tensor, " b *shape"]:
        """s(x, t) = -epsilon(x, t) / sigma_t (Appendix D.1)."""
        return -self.predict_noise(x, t) / float(self.schedule.sigma(t))

    @property
    def size(self) -> int:
        """N, the number of dimensions of one sample."""
        return prod(self.shape)


def perturb(
    schedule: NoiseSchedule,
    x0: Float[Tensor, " *#b"],
    noise: Float[Tensor, " *#b"],
    t: int,
) -> Float[Tensor, " *#b"]:
    """x_t = alpha_t x_0 + sigma_t epsilon: the forward process F(x_0, epsilon, t) of Algs. 1-3."""
    return float(schedule.alpha(t)) * x0 + float(schedule.sigma(t)) * noise


def predict_sample(
    schedule: NoiseSchedule,
    x: Float[Tensor, " *b"],
    noise: Float[Tensor, " *b"],
    t: int,
) -> Float[Tensor, " *b"]:
    """x_0 as the predicted noise implies it: (x_t - sigma_t epsilon) / alpha_t."""
    return (x - float(schedule.sigma(t)) * noise) / float(schedule.alpha(t))


def ddim_timesteps(t_start: int, steps: int) -> list[int]:
    """The min(steps, t_start) descending indices from `t_start` to above 0 of Alg. 1's sampler.

    After the last of them `ddim` goes to the clean sample. Raises ValueError for values below 1.
    """
    if t_start < 1 or steps < 1:
        raise ValueError(f"need t_start >= 1 and steps >= 1, got {t_start} and {steps}")
    count = min(steps, t_start)
    # Spaced by at least 1, so that rounding keeps them distinct.
    return [int(t) for t in np.linspace(t_start, 0, count + 1)[:-1].round()]


@torch.no_grad()
def ddim(
    model: ScoreModel,
    x: Float[Tensor, " b *shape"],
    timesteps: Sequence[int],
    on_step: Callable[[int], None] | None = None,
) -> Float[Tensor, " b *shape"]:
    """The clean samples that the deterministic sampler (DDIM, eta = 0) reaches from x.

    `timesteps`: descending 0-based indices, the first that of x; the last step goes to alpha = 1,
    sigma = 0. `on_step` gets each index done. VP and VE: x' = alpha' x_0 + sigma' epsilon.
    """
    schedule = model.schedule
    for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        noise = model.predict_noise(x, t)
        clean = predict_sample(schedule, x, noise, t)
        x = clean if following is None else perturb(schedule, clean, noise, following)
        if on_step is not None:
            on_step(t)
    return x
