"""The basin of attraction of a sample: critical time (Alg. 1), radius and log-volume (Eq. 34).

The paper's algorithm as printed. The authors' code differs: it starts t_c at 1 and stops a batch of
samples only when all of them have stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import gammaln
from torch import Tensor

from m2g_audit.errors import UsageError
from m2g_audit.numerics import check_finite, in_batches, noises_for, seed_for
from m2g_audit.score_model import ScoreModel, ddim, ddim_timesteps, perturb

Distance = Callable[[Float[Tensor, " b *shape"], Float[Tensor, " b *shape"]], Float[Tensor, " b"]]


@dataclass(frozen=True, eq=False)
class Basin:
    """What Alg. 1 finds for one sample with M trials.

    `times`: t_c of each trial, a 0-based index, 0 where it never recovered. `radii`: R, the
    distance of the sample to its last recovered perturbation, or where none recovered to that of
    t = 1 (with R = 0 the log-volume would be minus infinity). `checked` and `recovery`: the times
    looked at, and the share of trials recovered at each. `stopped`: whether that share fell under
    delta_p; else the search reached the end of the schedule.
    """

    times: Int[np.ndarray, " M"]
    radii: Float[np.ndarray, " M"]
    log_volumes: Float[np.ndarray, " M"]
    checked: Int[np.ndarray, " c"]
    recovery: Float[np.ndarray, " c"]
    stopped: bool

    @property
    def never_recovered(self) -> float:
        """The share of trials with t_c = 0, whose radius is that of t = 1."""
        return float((self.times == 0).mean())


@torch.no_grad()
def critical_time(
    model: ScoreModel,
    x0: Float[Tensor, " *shape"],
    distance: Distance,
    *,
    delta_d: float,
    delta_p: float = 0.8,
    trials: int = 20,
    steps: int = 10,
    stride: int = 10,
    seed: int,
    block: int = 32,
    on_progress: Callable[[int], None] | None = None,
) -> Basin:
    """The critical time t_c of each of `trials` perturbations of x_0, by Alg. 1 as printed.

    At t = 1, 1 + stride, ... up to T - stride - 1, fresh noise is added and min(steps, t) steps of
    DDIM lead back; a trial has recovered where `distance(recovered, x_0)` is at most `delta_d`. A
    trial that fails once keeps its t_c; the search ends where fewer than `delta_p` recover.
    `on_progress` gets each t done. Noise belongs to (seed, t, trial), so that `block`, the items in
    one network call, changes nothing. Raises UsageError for a stride longer than the schedule,
    NumericsError for a network that overflows, ResourceError if one trial does not fit in memory.
    """
    last = len(model.schedule) - stride - 1
    if stride < 1 or last < 1:
        raise UsageError(
            f"A stride of {stride} leaves no time to check on a schedule of {len(model.schedule)} "
            f"steps: give 1 to {len(model.schedule) - 2}."
        )
    x0 = x0.to(model.device, model.dtype)
    times = np.zeros(trials, dtype=np.int64)
    going = np.ones(trials, dtype=bool)
    radii = np.zeros(trials)
    checked: list[int] = []
    recovery: list[float] = []
    for t in range(1, last + 1, stride):
        distances, reach = _trials(model, x0, distance, t, trials, steps, seed, block)
        recovered = distances <= delta_d
        checked.append(t)
        recovery.append(float(recovered.mean()))
        if t == 1:
            radii = reach
        if recovery[-1] < delta_p:
            break
        going &= recovered
        times[going], radii[going] = t, reach[going]
        if on_progress is not None:
            on_progress(t)
    return Basin(
        times=times,
        radii=radii,
        log_volumes=log_volume(model.size, radii),
        checked=np.array(checked),
        recovery=np.array(recovery),
        stopped=recovery[-1] < delta_p,
    )


def log_volume(N: int, radii: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The natural logarithms of the volumes of N-balls, Eq. 34 (Eq. 12): -inf for radius 0."""
    with np.errstate(divide="ignore"):
        return N / 2 * np.log(np.pi) - gammaln(N / 2 + 1) + N * np.log(radii)


def _trials(
    model: ScoreModel,
    x0: Float[Tensor, " *shape"],
    distance: Distance,
    t: int,
    trials: int,
    steps: int,
    seed: int,
    block: int,
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """The distances of the recovered samples to x_0, and those of the perturbed ones (L2)."""

    def work(batch: range) -> tuple[Tensor, Tensor]:
        seeds = [seed_for(seed, f"basin t={t}", trial) for trial in batch]
        noise = noises_for(seeds, model.shape).to(model.device, model.dtype)
        originals = x0.expand_as(noise)
        perturbed = perturb(model.schedule, originals, noise, t)
        recovered = ddim(model, perturbed, ddim_timesteps(t, steps))
        reach = (perturbed - originals).flatten(1).double().norm(dim=1)
        return check_finite(distance(recovered, originals), "the recovered samples"), reach

    parts = [part for _, part in in_batches(trials, block, work, "one trial of the basin")]
    distances, reach = (
        torch.cat(tensors).double().cpu().numpy() for tensors in zip(*parts, strict=True)
    )
    return distances, reach
