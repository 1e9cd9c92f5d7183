"""What an audit asks of a text-to-image model, whatever family it is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from m2g_audit.diagnostics.score_model import NoiseSchedule, ScoreModel
from m2g_audit.diagnostics.trajectory import Trajectory
from m2g_audit.files import digest
from m2g_audit.records.vocabulary import SchedulerChoice, ScoreKind


@dataclass(frozen=True)
class ModelIdentity:
    """What a model is, for records and caches.

    `sha256` is the content hash of its weights' files; `configuration` all else that its pipeline
    reads, by file: settings as JSON, of other files the hash; `loras`: what is added to them;
    `embeddings`: the words that it was taught; `stored`: the precisions that the weights lie in;
    `completed_from`: the model that gave the parts that a checkpoint lacks.
    """

    id: str
    revision: str | None
    sha256: str
    architecture: str
    dtype: str
    device: str
    scheduler: str
    prediction_type: str
    loras: tuple[Mapping[str, Any], ...] = ()
    embeddings: tuple[Mapping[str, Any], ...] = ()
    stored: str | None = None
    completed_from: str | None = None
    configuration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def configuration_sha256(self) -> str:
        """SHA-256 of `configuration`."""
        return digest(self.configuration)


@dataclass(frozen=True)
class Generations:
    """Final latents and decoded images of n seeds, fp32 on the CPU.

    `clean` is the last predicted clean sample, where curvature and basins are taken: DDIM's final
    latents keep the noise of the schedule's first level (half of sigma at t0 = 5). It equals
    `latents` for schedulers that predict none. `images` lie in [0, 1] on the 256 levels of the PNG
    that diffusers would write. `finite` is False where the network overflowed; such an image is
    black and counts as failed. `fitted`: how many images the largest batch had that was made at
    once, less than asked where memory ran out. `trajectories`: of each picture, None where its
    steps could not be read, or it has no guidance that is mixed from predictions.
    """

    latents: Float[Tensor, " n *shape"]
    clean: Float[Tensor, " n *shape"]
    images: Float[Tensor, " n 3 H W"]
    finite: Bool[Tensor, " n"]
    fitted: int
    trajectories: Sequence[Trajectory | None] = ()

    def __post_init__(self) -> None:
        if not self.trajectories:
            object.__setattr__(self, "trajectories", [None] * len(self.finite))


class TextToImage(Protocol):
    """A text-to-image model: pictures of prompts, and score models of its latents.

    `pipeline.Pipeline` is one, over any pipeline of diffusers.
    """

    schedule: NoiseSchedule
    device: torch.device
    dtype: torch.dtype
    default_metric: str | None
    size: tuple[int, int] | None

    @property
    def identity(self) -> ModelIdentity:
        """What this model is, with the hash of its weights."""
        ...

    @property
    def default_steps(self) -> int:
        """The model's own number of steps; UsageError where the usual ones do not fit it."""
        ...

    @property
    def default_guidance(self) -> float:
        """The model's own guidance; UsageError where the usual one does not fit it."""
        ...

    def resolve_guidance(self, guidance: float) -> float:
        """The guidance as it is used; UsageError for what the model can't be given."""
        ...

    @property
    def guidance_kind(self) -> str | None:
        """How its pipeline guides (`guidance.GuidanceKind`), None where that is not known."""
        ...

    def last_ratio(self, *, steps: int, scheduler: SchedulerChoice) -> float:
        """sigma / alpha of the last level that sampling asks the network at."""
        ...

    def is_guided(self, guidance: float) -> bool:
        """Whether pictures under this guidance are led away from a negative prompt."""
        ...

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one latent as the scheduler sees it: (c, h, w), or packed."""
        ...

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of one image in pixels."""
        ...

    @property
    def network_config(self) -> Mapping[str, Any]:
        """The denoiser's configuration."""
        ...

    def token_count(self, prompt: str) -> tuple[int, int]:
        """(tokens that `prompt` has, tokens that the text encoder reads), marks included."""
        ...

    def cut_off(self, prompt: str) -> str:
        """The end of `prompt` that the text encoder does not read."""
        ...

    def bind(
        self,
        prompt: str,
        *,
        guidance: float | None = None,
        kind: ScoreKind = "conditional",
        negative_prompt: str | None = None,
    ) -> ScoreModel:
        """The fp32 score model of latents for one prompt."""
        ...

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
        """Pictures of a prompt, or of one prompt for each seed, independent of batch-mates."""
        ...

    def evaluations(
        self, *, steps: int | None, guidance: float | None, scheduler: SchedulerChoice
    ) -> int:
        """How often the network answers for one picture of `generate`."""
        ...

    def encode(
        self, images: Float[Tensor, " n 3 H W"], *, batch_size: int = 16
    ) -> Float[Tensor, " n *shape"]:
        """Latents of images in [0, 1]; fp32 on the CPU."""
        ...

    def decode(
        self, latents: Float[Tensor, " n *shape"], *, batch_size: int = 16
    ) -> Float[Tensor, " n 3 H W"]:
        """Images of latents, fp32 on the CPU in [0, 1], on 256 levels."""
        ...

    def round_trip(
        self, images: Float[Tensor, " n 3 H W"], *, batch_size: int = 16
    ) -> Float[Tensor, " n 3 H W"]:
        """Images in [0, 1] as the model would reproduce them at best: encoded and decoded."""
        ...
