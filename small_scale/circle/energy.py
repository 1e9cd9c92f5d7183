"""log p_t and the energy by the probability-flow ODE, with the exact trace (App. A.3)."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from small_scale.circle.scores import Score, empirical


@dataclass(frozen=True)
class Flow:
    """Where the ODE carries points from time t to 1.

    `ends` [n, 2]; `gain` [n], the integral of the divergence on the way; `evaluations` of the score
    for each point.
    """

    ends: Tensor
    gain: Tensor
    evaluations: int


def flow(score: Score, x: Tensor, t: float, sigma: float, tolerance: float = 1e-5) -> Flow:
    """Return the flow of x [n, 2] along dx/dt = -sigma^2 s(x, t) / 2 (Eq. 21) by RK45.

    `tolerance` is relative and absolute, as in the code of Song et al. All points share the steps.
    """
    n = len(x)

    def right_side(time: float, state: np.ndarray) -> np.ndarray:
        place = torch.from_numpy(state[: 2 * n]).reshape(n, 2)
        value, trace = divergence(score, place, time)
        change = torch.cat([value.flatten(), trace]) * (-(sigma**2) / 2)
        return change.numpy()

    start = np.concatenate([x.double().flatten().numpy(), np.zeros(n)])
    solved = solve_ivp(right_side, (t, 1.0), start, method="RK45", rtol=tolerance, atol=tolerance)
    last = torch.from_numpy(np.ascontiguousarray(solved.y[:, -1]))
    return Flow(last[: 2 * n].reshape(n, 2), last[2 * n :], int(solved.nfev))


def divergence(score: Score, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Return s(x, t) [n, 2] and its divergence [n], exactly: one backward pass a dimension."""
    x = x.detach().requires_grad_()
    value = score(x, t)
    trace = torch.zeros(len(x), dtype=x.dtype)
    for i in range(x.shape[1]):
        (row,) = torch.autograd.grad(value[:, i].sum(), x, retain_graph=True)
        trace += row[:, i]
    return value.detach(), trace


def standard_prior(x: Tensor, sigma: float) -> Tensor:
    """Return log N(x; 0, sigma^2), which the paper takes for p_1: [n]."""
    return -x.square().sum(dim=1) / (2 * sigma**2) - log(2 * pi * sigma**2)


def exact_prior(x: Tensor, points: Tensor, sigma: float) -> Tensor:
    """Return log p_1(x) of Eq. 23 for training points [K, 2]: [n]."""
    return empirical(points, sigma, 1.0).log_density(x, 0)


def energy(log_density: Tensor, t: float, sigma: float) -> Tensor:
    """Return E = -2 sigma^2 t log p (Eq. 25)."""
    return -2 * sigma**2 * t * log_density
