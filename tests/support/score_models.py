"""Score models and schedules that diagnostics are tested on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from m2g_audit.diagnostics.operators import Matrices
from m2g_audit.diagnostics.oracles import (
    Empirical,
    GaussianSubspace,
)
from m2g_audit.diagnostics.score_model import (
    NoiseSchedule,
    ScoreModel,
)

T = 1000


ABAR = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, T, dtype=torch.float64) ** 2, 0)


VP = NoiseSchedule.vp(ABAR)


VE = NoiseSchedule.ve(torch.linspace(1e-3, 1, T, dtype=torch.float64).sqrt())


SCHEDULES = pytest.mark.parametrize("schedule", [VP, VE], ids=["vp", "ve"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Restless(Empirical):
    """A memory with dropout."""

    def predict_noise(self, x: Tensor, t: int) -> Tensor:
        return super().predict_noise(x, t) + 1e-3 * torch.rand_like(x)


T0 = 5


class Linear(ScoreModel):
    """A score s = A (x - centre) with any Jacobian A."""

    device = torch.device("cpu")
    dtype = torch.float64
    schedule = VP

    def __init__(self, jacobian: Tensor, centre: Tensor | None = None) -> None:
        self.jacobian = jacobian
        self.centre = torch.zeros(len(jacobian)).double() if centre is None else centre
        self.shape = (len(jacobian),)

    def predict_noise(self, x: Tensor, t: int) -> Tensor:
        return -float(self.schedule.sigma(t)) * (x - self.centre) @ self.jacobian.T


def subspace(N: int, d: int, schedule=VP) -> GaussianSubspace:
    basis = torch.linalg.qr(random(N, d))[0]
    return GaussianSubspace(basis, torch.full((d,), 4.0), schedule)


class Cramped(Empirical):
    """A model of which only `limit` items fit in memory."""

    limit = 3

    def predict_noise(self, x: Tensor, t: int) -> Tensor:
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().predict_noise(x, t)


def rotation(N: int, seed: int) -> Tensor:
    return torch.linalg.qr(random(N, N, seed=seed))[0]


def prescribed(*spectra: np.ndarray | list[float], seed: int = 0) -> Matrices:
    """Matrices with these singular values and unlike rotations on both sides."""
    values = [torch.as_tensor(np.array(spectrum, dtype=float)) for spectrum in spectra]
    rotations = [(rotation(len(s), seed + 2 * i), rotation(len(s), seed + 2 * i + 1))
                 for i, s in enumerate(values)]  # fmt: skip
    return Matrices(torch.stack([(left * s) @ right.T for s, (left, right)
                                 in zip(values, rotations, strict=True)]))  # fmt: skip
