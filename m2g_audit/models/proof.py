"""What shows that a model's scores and pictures are its pipeline's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from m2g_audit.diagnostics.score_model import NoiseSchedule, perturb, predict_sample
from m2g_audit.models.denoiser import difference
from m2g_audit.models.levels import Levels
from m2g_audit.models.prediction import noise_from_output

# Single precision and the last level, which some schedulers keep just above none.
_SCHEDULE = 1e-4


@dataclass(frozen=True)
class Proof:
    """Largest differences, relative to the largest value, on a run that nothing was learned from.

    schedule: of the noise levels' alpha from those of the pipeline's own scheduler, absolute;
    prediction: of the guided prediction from what the pipeline hands its scheduler, for another
    prompt, noise, level and number of pictures; step: of a deterministic step from the scheduler's
    own, None where that takes no such steps; noise: of a seed's noise in a batch from that alone;
    tolerance: up to which they count as rounding.
    """

    schedule: float
    prediction: float
    step: float | None
    noise: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every difference is rounding."""
        differences = (self.prediction, self.step or 0.0, self.noise)
        return max(differences) <= self.tolerance and self.schedule <= _SCHEDULE

    def __str__(self) -> str:
        step = "" if self.step is None else f", a step of the sampler by {self.step:.1e}"
        return (
            f"its guided prediction differs by {self.prediction:.1e}{step}, the noise of a seed by "
            f"{self.noise:.1e}, where {self.tolerance:.0e} is rounding, and the levels of noise by "
            f"{self.schedule:.1e}, where {_SCHEDULE:.0e} is"
        )


def step_difference(
    levels: Levels, output: Tensor, sample: Tensor, following: Tensor, times: tuple[float, float]
) -> float:
    """Return how far a deterministic step of ours ends from the scheduler's.

    Args:
        levels: Of the model.
        output: What the scheduler was given.
        sample: Where it started.
        following: Where it came to.
        times: The timesteps of both, as the scheduler counts them.
    """
    schedule, (start, end) = _pair(levels, times)
    noise = noise_from_output(levels.prediction_type, output, sample, start, schedule)
    clean = predict_sample(schedule, sample, noise, start)
    return difference(perturb(schedule, clean, noise, end), following)


def _pair(levels: Levels, times: tuple[float, float]) -> tuple[NoiseSchedule, tuple[int, int]]:
    """A schedule that has the levels of two timesteps, and their indices in it."""
    if levels.schedule.kind != "flow":
        return levels.schedule, (int(times[0]), int(times[1]))
    sigmas = torch.tensor(times, dtype=torch.float64) / levels.count
    return NoiseSchedule.flow(sigmas / (1 - sigmas)), (0, 1)


def schedule_difference(scheduler: Any, levels: Levels) -> float:
    """Return how far the levels' alpha are from those that a pipeline's own scheduler counts by.

    Without end where there are other levels; 0 for flows, whose levels have no list.
    """
    own = getattr(scheduler, "alphas_cumprod", None)
    if levels.schedule.kind == "flow" or own is None:
        return 0.0
    ours = levels.schedule.alphas.square()
    if own.shape != ours.shape:
        return float("inf")
    return float((own.double().cpu() - ours).abs().max())


def takes_plain_steps(scheduler: Any) -> bool:
    """Whether a scheduler goes straight to the next level, as DDIM and Euler's method do."""
    name, config = type(scheduler).__name__, scheduler.config
    return name == "DDIMScheduler" or (
        name == "FlowMatchEulerDiscreteScheduler" and not config.get("stochastic_sampling")
    )
