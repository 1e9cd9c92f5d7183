"""What sampling shows of a score model on its way, from predictions that it makes anyway."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

SKETCH = 128
"""Numbers that a predicted clean sample is kept as, at each step."""


@dataclass(frozen=True)
class Trajectory:
    """Read-outs of the evaluations that made one picture, first to last; all float32 on the CPU.

    levels: sigma / alpha of each; noise_norms: |eps_c|^2 / N of the conditional prediction, never
    of the guided one; differences: |eps_c - eps_u| (Wen et al. 2024), eps_u being that of the
    negative prompt if there is one, NaN where it was not asked; clean: sketches of the clean
    samples that eps_c predicts, NaN where all is noise.
    """

    levels: Float[Tensor, " steps"]
    noise_norms: Float[Tensor, " steps"]
    differences: Float[Tensor, " steps"]
    clean: Float[Tensor, "steps sketch"]


def sketch(samples: Float[Tensor, "b n"], size: int = SKETCH) -> Float[Tensor, "b size"]:
    """Return a few numbers of each sample whose distances are those of the samples, about.

    Every number goes with a sign to one of `size` sums, both drawn once for all samples (the count
    sketch, Charikar et al. 2002): squared distances are right on average, with a relative standard
    deviation of sqrt(2 / size), 12.5% for 128.
    """
    places, signs = _drawn(samples.shape[1], size)
    sums = torch.zeros(len(samples), size)
    return sums.index_add_(1, places, samples.float().cpu() * signs)


@lru_cache(maxsize=4)
def _drawn(n: int, size: int) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(size, (n,), generator=generator)
    return places, 2.0 * torch.randint(2, (n,), generator=generator) - 1


def spread(clean: Float[Tensor, "b steps sketch"], size: int) -> Float[Tensor, " steps"]:
    """Return how far apart predicted clean samples of several seeds are at each step.

    The root-mean-square difference of two of them, per number of a sample of `size` numbers: 0
    where all seeds agree on one picture. NaN for a single seed.
    """
    away = clean.float() - clean.float().mean(dim=0)
    # The variance is half the mean squared difference of all pairs.
    variance = away.square().sum(dim=(0, -1)) / torch.tensor(len(clean) - 1)
    return (2 * variance / size).sqrt()
