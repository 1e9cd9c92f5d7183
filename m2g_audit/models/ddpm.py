"""Unconditional models in pixel space: DDPM pipelines as score models."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float
from torch import Tensor

from m2g_audit.diagnostics.numerics import exact_numerics
from m2g_audit.diagnostics.score_model import NoiseSchedule, ScoreModel
from m2g_audit.errors import ModelError
from m2g_audit.models.model_folder import UNCONDITIONAL, ModelFolder, resolve
from m2g_audit.models.networks import load_network, load_scheduler
from m2g_audit.models.origins import FromFolder, identify
from m2g_audit.models.placement import find_device, memory
from m2g_audit.models.prediction import check_prediction_type, noise_from_output
from m2g_audit.models.protocol import ModelIdentity


class UnconditionalModel(ScoreModel):
    """A DDPM pipeline in pixel space, images in [-1, 1]; make one with `load`."""

    def __init__(self, unet: Any, scheduler: Any, folder: ModelFolder) -> None:
        size = unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.schedule = NoiseSchedule.of_betas(scheduler.betas)
        self.shape = (unet.config.in_channels, height, width)
        self.device = unet.device
        self.dtype = unet.dtype
        self.prediction_type = check_prediction_type(scheduler.config.prediction_type, folder.id)
        self._unet = unet
        self._folder = folder

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        allow_pickle: bool = False,
    ) -> UnconditionalModel:
        """The fp32 score model of a DDPM folder or hub id; ModelError for anything else."""
        folder = resolve(model, UNCONDITIONAL, revision=revision, allow_pickle=allow_pickle)
        config = folder.config("unet")
        if config.get("class_embed_type") or config.get("num_class_embeds"):
            raise ModelError(f"{folder.id} is conditioned on a class, which is not supported.")
        if config.get("in_channels") != config.get("out_channels"):
            raise ModelError(f"{folder.id} predicts its variance too, which is not supported.")
        scheduler = DDPMScheduler.from_config(load_scheduler(folder).config)
        with memory(f"loading {folder.id}"):
            unet = load_network(folder, "unet").to(find_device(device))
        return cls(unet, scheduler, folder)

    @cached_property
    def identity(self) -> ModelIdentity:
        """What this model is, with the hash of its weights' files."""
        scheduler = self._folder.config("scheduler")["_class_name"]
        return identify(FromFolder(self._folder), self._unet, scheduler, self.prediction_type)

    def predict_noise(self, x: Float[Tensor, " b c h w"], t: int) -> Float[Tensor, " b c h w"]:
        """epsilon(x, t) in fp32."""
        x = x.to(self.device, self.dtype)
        with exact_numerics():
            output = self._unet(x, t, return_dict=False)[0]
        return noise_from_output(self.prediction_type, output, x, t, self.schedule)
