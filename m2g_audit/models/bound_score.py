"""The score of a pipeline's network for one prompt, in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from m2g_audit.diagnostics.numerics import exact_numerics
from m2g_audit.diagnostics.score_model import ScoreModel
from m2g_audit.models.denoiser import Branch, Conditioning, Denoiser
from m2g_audit.models.guidance import MIXES
from m2g_audit.models.levels import Levels
from m2g_audit.records.vocabulary import ScoreKind


class BoundScore(ScoreModel):
    """A network with its prompt fixed.

    branches: its answers that are asked for, mixed by `scale` where there are two; network: the
    pipeline's own or the same in fp32.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        network: Any,
        levels: Levels,
        conditioning: Conditioning,
        branches: Sequence[Branch],
        *,
        kind: ScoreKind,
        scale: float,
        device: torch.device,
    ) -> None:
        self.schedule = levels.schedule
        self.shape = denoiser.shape
        self.device = device
        self.dtype = torch.float32
        self.kind = kind
        self.evaluations_per_call = len(branches)
        self._denoiser = denoiser
        self._network = network
        self._levels = levels
        self._conditioning = conditioning
        self._branches = branches
        self._scale = scale

    def predict_noise(self, x: Float[Tensor, " b *shape"], t: int) -> Float[Tensor, " b *shape"]:
        """epsilon(x, t) in fp32 of the bound prompt."""
        x = x.to(self.device, self.dtype)
        timestep = self._levels.timesteps[int(t)]
        with exact_numerics():
            output, *others = self._denoiser.predict(
                self._network, self._conditioning, self._branches, x, timestep
            )
        if others:
            output = MIXES[self._denoiser.guidance](output, others[0], self._scale)
        return self._levels.noise(output, x, t)
