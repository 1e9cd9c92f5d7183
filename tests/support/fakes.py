"""A text-to-image model of a few lines whose pictures a test chooses, seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.diagnostics.score_model import NoiseSchedule, ScoreModel
from m2g_audit.errors import NumericsError
from m2g_audit.models.guidance import resolve_guidance
from m2g_audit.models.protocol import Generations, ModelIdentity
from m2g_audit.records.vocabulary import SchedulerChoice, ScoreKind

SIZE = 8
LATENT = (4, 4, 4)


def picture(number: int) -> Tensor:
    """Return the picture of a number, grey, float32 [3, 8, 8] at uint8 levels.

    Different ones are far: 0.41 by l2, give or take 0.03.
    """
    levels = np.random.default_rng(number).integers(0, 256, (1, SIZE, SIZE))
    return (torch.from_numpy(levels).float() / 255).repeat(3, 1, 1)


def to_latents(images: Tensor) -> Tensor:
    """Return the grey levels of images [n, 3, 8, 8], which are all that there is to them."""
    return images[:, 0].reshape(len(images), *LATENT).clone()


def to_images(latents: Tensor) -> Tensor:
    """Return the images of `to_latents`."""
    return latents.reshape(-1, 1, SIZE, SIZE).repeat(1, 3, 1, 1).clamp(0, 1)


def schedule() -> NoiseSchedule:
    """Return 50 noise levels: at the second, that of plants, a picture changes by 0.05 by l2."""
    little = torch.tensor([0.9999, 0.9975], dtype=torch.float64)
    return NoiseSchedule.vp(torch.cat([little, torch.linspace(0.95, 0.01, 48).double()]))


class OneMemory(ScoreModel):
    """The exact score of a single picture at the origin: its Jacobian is -I / sigma^2."""

    def __init__(self, kind: str) -> None:
        self.schedule = schedule()
        self.shape = LATENT
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.kind = kind

    def predict_noise(self, x: Tensor, t: int) -> Tensor:
        return x / float(self.schedule.sigma(t))


class Faithful(OneMemory):
    """Sees no noise anywhere, and gives back what it gets."""

    def predict_noise(self, x: Tensor, t: int) -> Tensor:
        return torch.zeros_like(x)


def new_picture(prompt: str, seed: int) -> int:
    """Return the number of a picture that no other prompt or seed gives."""
    return seed


@dataclass
class FakePipeline:
    """Gives picture `numbers[i]` for the i-th seed of `prompt`; None stands for an overflow.

    `stop_after` raises KeyboardInterrupt once that many pictures were made. Other prompts, as
    control prompts are, give picture `others(prompt, seed)`.
    """

    prompt: str
    numbers: Sequence[int | None]
    run_seed: int = 0
    stop_after: int | None = None
    made: list[int] = field(default_factory=list)
    others: Callable[[str, int], int] = new_picture
    made_of_others: list[str] = field(default_factory=list)

    default_steps = 4
    default_guidance = 3.0
    default_metric: str | None = "l2"
    latent_shape = LATENT
    image_size = (SIZE, SIZE)
    N = 64
    device = torch.device("cpu")
    dtype = torch.float32
    schedule = schedule()
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

    @property
    def network_config(self) -> Mapping[str, Any]:
        return {}

    def resolve_guidance(self, guidance: float) -> float:
        return resolve_guidance(guidance)

    guidance_kind = "linear"
    size: tuple[int, int] | None = None

    def last_ratio(self, *, steps: int, scheduler: SchedulerChoice) -> float:
        return float(self.schedule.ratio(0))

    def is_guided(self, guidance: float) -> bool:
        return guidance > 1

    def token_count(self, prompt: str) -> tuple[int, int]:
        return len(prompt.split()) + 2, 20

    def cut_off(self, prompt: str) -> str:
        return " ".join(prompt.split()[18:])

    def evaluations(
        self, *, steps: int | None, guidance: float | None, scheduler: SchedulerChoice
    ) -> int:
        return 2 * (steps or self.default_steps)

    def generate(
        self,
        prompt: str | Sequence[str],
        seeds: Sequence[int],
        *,
        negative_prompt: str | Sequence[str | None] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        batch_size: int = 4,
        scheduler: SchedulerChoice = "ddim",
        on_progress: Callable[[int], None] | None = None,
    ) -> Generations:
        prompts = [prompt] * len(seeds) if isinstance(prompt, str) else prompt
        if set(prompts) != {self.prompt}:
            return self._of_others(prompts, seeds)
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
            on_progress(len(seeds) * (steps or self.default_steps))
        images = torch.stack([torch.zeros(3, 8, 8) if n is None else picture(n) for n in numbers])
        latents = to_latents(images)
        latents[~finite] = torch.nan
        return Generations(latents, latents, images, finite, len(seeds))

    def _of_others(self, prompts: Sequence[str], seeds: Sequence[int]) -> Generations:
        self.made_of_others += prompts
        pairs = zip(prompts, seeds, strict=True)
        images = torch.stack([picture(self.others(prompt, seed)) for prompt, seed in pairs])
        finite = torch.ones(len(seeds), dtype=torch.bool)
        latents = to_latents(images)
        return Generations(latents, latents, images, finite, len(seeds))

    def bind(
        self,
        prompt: str,
        *,
        guidance: float | None = None,
        kind: ScoreKind = "conditional",
        negative_prompt: str | None = None,
    ) -> ScoreModel:
        return OneMemory(kind) if prompt else Faithful(kind)

    def encode(self, images: Tensor, *, batch_size: int = 16) -> Tensor:
        return to_latents(images)

    def decode(self, latents: Tensor, *, batch_size: int = 16) -> Tensor:
        return (to_images(latents) * 255).round() / 255

    def round_trip(self, images: Tensor, *, batch_size: int = 16) -> Tensor:
        return self.decode(self.encode(images))
