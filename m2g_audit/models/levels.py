"""The noise levels of a model by those of its scheduler, and what noise a prediction implies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from m2g_audit.diagnostics.score_model import NoiseSchedule
from m2g_audit.models.prediction import check_prediction_type, noise_from_output

FLOW = "flow_prediction"


@dataclass(frozen=True)
class Levels:
    """What a network was trained to predict, at which levels.

    timesteps: what the scheduler calls each level of the schedule, whole numbers for VP; count:
    how many it counts from clean to noise.
    """

    schedule: NoiseSchedule
    prediction_type: str
    timesteps: tuple[int | float, ...]
    count: int

    def noise(
        self, output: Float[Tensor, " *b"], x: Float[Tensor, " *b"], t: int
    ) -> Float[Tensor, " *b"]:
        """epsilon from what the network predicts at (x, t)."""
        return noise_from_output(self.prediction_type, output, x, t, self.schedule)

    def at(self, timestep: float) -> NoiseSchedule:
        """The one level that the scheduler calls `timestep`, at index 0; also between others."""
        if self.prediction_type == FLOW:
            sigma = torch.tensor([timestep / self.count], dtype=torch.float64)
            return NoiseSchedule(1 - sigma, sigma, "flow")
        ratios = (self.schedule.sigmas / self.schedule.alphas).numpy()
        ratio = np.interp([timestep], self.timesteps, ratios)
        return NoiseSchedule.vp(torch.from_numpy(1 / (1 + ratio**2)))

    def ratio(self, timestep: float) -> float:
        """sigma / alpha at a timestep of the scheduler, without end where all is noise."""
        return float(self.at(timestep).ratio(0))

    def spread(self) -> tuple[int, int, int]:
        """Three indices, of much noise, a middle amount and little."""
        last = len(self.schedule) - 1
        return (round(0.8 * last), round(0.5 * last), round(0.2 * last))


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is of a model that was trained by flow matching."""
    config = scheduler.config
    return (
        type(scheduler).__name__.startswith("FlowMatch")
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == FLOW
    )


def levels_of(scheduler: Any, model: str) -> Levels:
    """Return the levels of a scheduler with betas, or of flow matching.

    A flow has levels without number: those taken have the noise of Stable Diffusion's steps, so
    that an index means the same sigma / alpha for both.

    Raises:
        ModelError: It predicts what is not known.
    """
    if is_flow(scheduler):
        schedule = NoiseSchedule.flow(stable_diffusion_ratios())
        count = scheduler.config.get("num_train_timesteps", 1000)
        # As networks are told them, in single precision.
        timesteps = (count * schedule.sigmas).float().tolist()
        return Levels(schedule, FLOW, tuple(timesteps), count)
    predicts = check_prediction_type(scheduler.config.prediction_type, model)
    schedule = NoiseSchedule.of_betas(scheduler.betas)
    return Levels(schedule, predicts, tuple(range(len(schedule))), len(schedule))


def stable_diffusion_ratios() -> Float[Tensor, " 1000"]:
    """Return sigma / alpha of Stable Diffusion's 1,000 steps (scaled linear betas), float64."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    schedule = NoiseSchedule.of_betas(betas)
    return schedule.sigmas / schedule.alphas
