"""A text-to-image model of a few lines whose pictures a test chooses, seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from m2g_audit.errors import NumericsError
from m2g_audit.numerics import seed_for
from m2g_audit.pipelines import Generations, ModelIdentity
from m2g_audit.score_model import NoiseSchedule, ScoreModel

SIZE = 8
LATENT = (4, 2, 2)


def picture(number: int) -> Tensor:
    """Return the picture of a number, float32 [3, 8, 8] at uint8 levels; different ones are far."""
    levels = np.random.default_rng(number).integers(0, 256, (3, SIZE, SIZE))
    return torch.from_numpy(levels).float() / 255


class OneMemory(ScoreModel):
    """The exact score of a single picture at the origin: its Jacobian is -I / sigma^2."""

    def __init__(self, kind: str) -> None:
        steps = torch.linspace(0.9999, 0.01, 50, dtype=torch.float64)
        self.schedule = NoiseSchedule.vp(steps)
        self.shape = LATENT
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.kind = kind

    def predict_noise(self, x: Tensor, t: int) -> Tensor:
        return x / float(self.schedule.sigma(t))


@dataclass
class FakePipeline:
    """Gives picture `numbers[i]` for the i-th seed of `prompt`; None stands for an overflow.

    `stop_after` raises KeyboardInterrupt once that many pictures were made.
    """

    prompt: str
    numbers: Sequence[int | None]
    run_seed: int = 0
    stop_after: int | None = None
    made: list[int] = field(default_factory=list)
    controls: Sequence[str] = ()

    default_steps = 4
    default_guidance = 3.0
    default_metric = "l2"
    latent_shape = LATENT
    image_size = (SIZE, SIZE)
    N = 16
    device = torch.device("cpu")
    schedule = OneMemory("conditional").schedule
    identity = ModelIdentity(
        id="fake",
        revision=None,
        sha256="f" * 64,
        architecture="Fake",
        dtype="float32",
        device="cpu",
        scheduler="FakeScheduler",
        prediction_type="epsilon",
    )

    def token_count(self, prompt: str) -> tuple[int, int]:
        return len(prompt.split()) + 2, 20

    def cut_off(self, prompt: str) -> str:
        return " ".join(prompt.split()[18:])

    def evaluations(self, *, steps: int, guidance: float, scheduler: str) -> int:
        return 2 * steps

    def generate(
        self,
        prompt: str,
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        batch_size: int,
        scheduler: str,
        on_progress: Callable[[int], None] | None = None,
    ) -> Generations:
        if prompt in self.controls:
            images = torch.stack([picture(seed) for seed in seeds])
            return Generations(images, images, torch.ones(len(seeds), dtype=torch.bool), len(seeds))
        order = {seed_for(self.run_seed, self.prompt, i): i for i in range(len(self.numbers))}
        indices = [order[seed] for seed in seeds]
        if self.stop_after is not None and len(self.made) + len(seeds) > self.stop_after:
            raise KeyboardInterrupt
        self.made += indices
        numbers = [self.numbers[i] for i in indices]
        finite = torch.tensor([number is not None for number in numbers])
        if not finite.any():
            raise NumericsError("None of the pictures is finite: use --dtype float32.")
        if on_progress is not None:
            on_progress(len(seeds) * steps)
        images = torch.stack([torch.zeros(3, 8, 8) if n is None else picture(n) for n in numbers])
        latents = images[:, :1, :4, :4].reshape(len(seeds), *LATENT).clone()
        latents[~finite] = torch.nan
        return Generations(latents, images, finite, len(seeds))

    def bind(self, prompt: str, *, guidance: float, kind: str) -> ScoreModel:
        return OneMemory(kind)

    def decode(self, latents: Tensor) -> Tensor:
        return latents.flatten(1).repeat(1, 12).reshape(-1, 3, SIZE, SIZE).clamp(0, 1)

    def round_trip(self, images: Tensor) -> Tensor:
        return images
