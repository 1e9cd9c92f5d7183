"""Relative energy of samples, along the arc from each to a reference (Alg. 4, Eq. 45-48).

The paper prints three signs (Eq. 38-39, Eq. 44, Alg. 4). The potential whose descent generates is
that of Alg. 4's gradient, u = -beta_0 (log p_0 + |x|^2 / 4). The authors' code differs from Alg. 4:
it divides the network's output by a number near 1, where the text divides by sqrt(beta_0).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import trapezoid
from torch import Tensor

from m2g_audit.diagnostics.numerics import check_finite, exact_numerics, in_batches
from m2g_audit.diagnostics.score_model import NoiseSchedule, ScoreModel
from m2g_audit.errors import UsageError
from m2g_audit.progress import OnProgress

Variant = Literal["trapezoid", "as-printed"]
"""Called with the predictions of noise done, and how many there are."""

POINTS = 20  # Appendix E.2


@dataclass(frozen=True, eq=False)
class Gap:
    """The energy gap of Eq. 48 for r references.

    `mean`: mean energy of the targets above the mean energy of the data; `sd`: standard deviation
    of the targets' energies (the shaded regions of Fig. 6).
    """

    mean: Float[np.ndarray, " r"]
    sd: Float[np.ndarray, " r"]


@torch.no_grad()
def relative_energy(
    model: ScoreModel,
    targets: Float[Tensor, " n *shape"],
    references: Float[Tensor, " r *shape"],
    *,
    points: int = POINTS,
    variant: Variant = "trapezoid",
    block: int = 64,
    on_progress: OnProgress | None = None,
) -> Float[np.ndarray, "n r"]:
    """u(target) - u(reference) in float64 for n clean samples and r references (the paper has 4).

    u = -beta_0 (log p_0 + |x|^2 / 4) at t = 0, where beta_0 = 1 - abar_0 = sigma_0^2; on a VE
    schedule, whose drift is 0, u = -sigma_0^2 log p_0. Its gradient is integrated by the trapezoid
    rule at `points` equally spaced points of the arc cos(a) x_1 + sin(a) x_2, 0 <= a <= pi/2
    (Eq. 45). The error falls with the square of their number once they are closer than p_0 changes,
    which is over about sigma_0.

    "as-printed" is Alg. 4: it starts at the target, so it is u(reference) - u(target), and it gives
    every point the whole step, which counts 1/(points - 1) too much.

    Takes n r points predictions of noise; `block`, the items in one network call, changes nothing.
    Raises UsageError for fewer than 2 points or samples of another shape, NumericsError for a
    network that overflows, ResourceError if one prediction does not fit in memory.
    """
    if points < 2:
        raise UsageError(f"An arc has two ends, so it needs 2 points or more, got {points}.")
    x1, x2 = (_flat(model, samples) for samples in (targets, references))
    angles = np.linspace(0, pi / 2, points)
    slopes = np.empty(len(x1) * len(x2) * points)

    def work(batch: range) -> Float[np.ndarray, " b"]:
        items, others, at = np.unravel_index(list(batch), (len(x1), len(x2), points))
        cosines, sines = (torch.from_numpy(f(angles[at]))[:, None] for f in (np.cos, np.sin))
        x = cosines * x1[items] + sines * x2[others]
        v = cosines * x2[others] - sines * x1[items]
        return (_gradient(model, x) * v).sum(dim=1).numpy()

    with exact_numerics():
        for batch, part in in_batches(len(slopes), block, work, "one point of an energy"):
            slopes[batch.start : batch.stop] = part
            if on_progress is not None:
                on_progress(batch.stop, len(slopes))
    curves = slopes.reshape(len(x1), len(x2), points)
    if variant == "as-printed":
        return curves.sum(axis=2) * (angles[1] - angles[0])
    return -trapezoid(curves, angles, axis=2)


def gap(energies: Float[np.ndarray, "n r"], of_data: Float[np.ndarray, "m r"]) -> Gap:
    """The gap between samples and training data from their relative energies (Eq. 48).

    Both are energies above the same references, one a column. Raises ValueError for an empty set.
    """
    if not (len(energies) and len(of_data)):
        raise ValueError(f"no gap between {len(energies)} samples and {len(of_data)} of the data")
    return Gap(energies.mean(axis=0) - of_data.mean(axis=0), energies.std(axis=0))


def beta_0(schedule: NoiseSchedule) -> float:
    """The variance that the first step adds: 1 - abar_0 = sigma_0^2."""
    return float(schedule.sigma(0)) ** 2


def _flat(model: ScoreModel, samples: Float[Tensor, " n *shape"]) -> Float[Tensor, "n N"]:
    """Samples on the CPU in float64, where arcs and products are the same on any device."""
    if tuple(samples.shape[1:]) != tuple(model.shape):
        raise UsageError(
            f"Samples of this model have the shape {tuple(model.shape)}, got "
            f"{tuple(samples.shape[1:])}. Give clean ones, as the model makes them."
        )
    return check_finite(samples, "the samples").cpu().double().flatten(1)


def _gradient(model: ScoreModel, x: Float[Tensor, " b N"]) -> Float[Tensor, " b N"]:
    """grad u = -beta_0 (score + x / 2) (Eq. 38, 42) at t = 0; without x / 2 on a VE schedule."""
    if model.schedule.kind == "flow":
        raise UsageError("Alg. 4 is of diffusion models: a flow has no drift that it could be of.")
    at = x.to(model.device, model.dtype).reshape(-1, *model.shape)
    score = check_finite(model.score(at, 0), "the score").cpu().double().flatten(1)
    drift = 0.5 * x if model.schedule.kind == "vp" else 0.0
    return -beta_0(model.schedule) * (score + drift)
