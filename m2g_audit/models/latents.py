"""Latents of pictures in the units, and the packing, in which a pipeline's scheduler sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

Encoding = Callable[[Tensor], Tensor]


def mode(vae: Any, images: Tensor) -> Tensor:
    """Return a VAE's latents of pictures in [-1, 1]: of a posterior its mode, unscaled."""
    video = type(vae).__name__.endswith(("QwenImage", "Wan"))  # of one frame
    encoded = vae.encode(images[:, :, None] if video else images)
    if hasattr(encoded, "latent_dist"):
        return encoded.latent_dist.mode()
    # A TAESD or a deep compression autoencoder has no distribution of latents.
    return encoded.latents if hasattr(encoded, "latents") else encoded.latent


def units(vae: Any) -> Iterator[Encoding]:
    """The ways in which pipelines scale what their VAE gives."""
    config = vae.config
    scale, shift = config.get("scaling_factor"), config.get("shift_factor")
    if scale is not None:
        yield lambda z: (z - (shift or 0.0)) * scale
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        yield lambda z: _by_channel(z, mean, std)
    yield lambda z: z


def packings() -> Iterator[Encoding]:
    """The ways in which pipelines lay latents out: as they are, and as rows of 2 x 2 patches."""
    yield lambda z: z.squeeze(2) if z.ndim == 5 else z
    yield lambda z: z
    yield lambda z: _patches(z.squeeze(2) if z.ndim == 5 else z)


def after(packing: Encoding, unit: Encoding) -> Encoding:
    """Return one after the other."""
    return lambda z: packing(unit(z))


def _by_channel(z: Tensor, mean: Any, std: Any) -> Tensor:
    shape = (1, -1, *([1] * (z.ndim - 2)))
    means, stds = (torch.tensor(part, device=z.device, dtype=z.dtype) for part in (mean, std))
    return (z - means.view(shape)) / stds.view(shape)


def _patches(z: Tensor) -> Tensor:
    b, c, h, w = z.shape
    if h % 2 or w % 2:
        return z
    rows = z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return rows.reshape(b, h * w // 4, 4 * c)
