"""Loading a text-to-image model, of whatever family: by name, from a folder, or as an object."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any, Unpack

import torch
from diffusers import DiffusionPipeline

from m2g_audit.errors import ModelError
from m2g_audit.models.adapters import Lora
from m2g_audit.models.denoiser import Unlike
from m2g_audit.models.embeddings import Embedding
from m2g_audit.models.model_folder import TEXT_TO_IMAGE, ModelFolder, resolve
from m2g_audit.models.names import Which
from m2g_audit.models.pipeline import Pipeline
from m2g_audit.models.placement import find_device, find_dtype


def load_model(
    model: str | Path | DiffusionPipeline,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    loras: Sequence[Lora] = (),
    embeddings: Sequence[Embedding] = (),
    size: tuple[int, int] | None = None,
    **which: Unpack[Which],
) -> Pipeline:
    """Return a text-to-image model, by default on the fastest device, in float16 beyond a CPU.

    Args:
        model: A hub id, a folder of diffusers' layout, a checkpoint (`model_folder.Which`),
            "pocket", or a pipeline in memory, which is taken as it is: with its LoRA, scheduler,
            device and precision.
        dtype: float32, float16 or bfloat16.
        device: cpu, cuda or mps.
        loras: LoRA files on top of it (`adapters.find_loras`).
        embeddings: Textual inversion files (`embeddings.find_embeddings`).
        size: (height, width) of its pictures in pixels, by default its own.
        **which: Which model of that name, and which of its weights: revision, subfolder,
            allow_pickle, variant, ema, config_from.

    Raises:
        ModelError: It is no complete text-to-image model.
        ResourceError: It does not fit in memory.
    """
    if isinstance(model, DiffusionPipeline):
        return _in_memory(model, size)
    folder = resolve(model, TEXT_TO_IMAGE, **which)
    return load_folder(
        folder, dtype=dtype, device=device, loras=loras, embeddings=embeddings, size=size
    )


def load_folder(
    folder: ModelFolder,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    loras: Sequence[Lora] = (),
    embeddings: Sequence[Embedding] = (),
    size: tuple[int, int] | None = None,
) -> Pipeline:
    """Return the model of a resolved folder, as `load_model` does."""
    place = find_device(device)
    precision = find_dtype(dtype, place)
    return _proven(
        Pipeline.from_folder(
            folder,
            dtype=precision,
            device=place,
            loras=loras,
            embeddings=embeddings,
            size=size,
        )
    )


def _in_memory(pipe: Any, size: tuple[int, int] | None) -> Pipeline:
    if "prompt" not in signature(pipe.__call__).parameters:
        raise ModelError(
            f"{type(pipe).__name__} is no pipeline that can be audited: it takes no prompt."
        )
    return _proven(Pipeline.of(pipe, size))


def _proven(pipeline: Pipeline) -> Pipeline:
    """The pipeline, tried once: one that can't run is refused, one without a score only then."""
    with suppress(Unlike):
        pipeline.proof  # noqa: B018
    return pipeline
