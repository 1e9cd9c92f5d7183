"""Loading a text-to-image model, of whatever family: by name, from a folder, or as an object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from m2g_audit.errors import ModelError
from m2g_audit.models.model_folder import TEXT_TO_IMAGE, resolve
from m2g_audit.models.placement import find_device, find_dtype
from m2g_audit.models.protocol import TextToImage
from m2g_audit.models.stable_diffusion import StableDiffusion

LOADERS: Mapping[str, type[StableDiffusion]] = dict.fromkeys(TEXT_TO_IMAGE.classes, StableDiffusion)
"""What loads a pipeline, by its class in model_index.json: a new family has its line here."""


def load_model(
    model: str | Path | DiffusionPipeline,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    allow_pickle: bool = False,
) -> TextToImage:
    """Return a text-to-image model, by default on the fastest device, in float16 beyond a CPU.

    Args:
        model: A hub id, a folder of diffusers' layout, "pocket", or a pipeline in memory, which is
            taken as it is: with its LoRA, scheduler, device and precision.
        revision: Of a hub id.
        dtype: float32, float16 or bfloat16.
        device: cpu, cuda or mps.
        allow_pickle: Load weights from pickle files, which can run any code.

    Raises:
        ModelError: It is no complete model of a family that is supported.
        ResourceError: It does not fit in memory.
    """
    if isinstance(model, DiffusionPipeline):
        return _in_memory(model)
    folder = resolve(model, TEXT_TO_IMAGE, revision=revision, allow_pickle=allow_pickle)
    place = find_device(device)
    return LOADERS[folder.class_name].from_folder(
        folder, dtype=find_dtype(dtype, place), device=place
    )


def _in_memory(pipe: Any) -> TextToImage:
    for kind in type(pipe).__mro__:  # a class of one's own may add to a known one
        if loader := LOADERS.get(kind.__name__):
            return loader.of(pipe)
    raise ModelError(
        f"{type(pipe).__name__} is no pipeline that can be audited: give one of "
        f"{', '.join(sorted(LOADERS))}."
    )
