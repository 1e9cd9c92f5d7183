"""CLIP image embeddings (Radford et al. 2021) by open_clip; distance = 1 - cosine.

Near means alike in content. That is not a copy: two different photographs of one thing are near.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as pictures

from m2g_audit.errors import ModelError
from m2g_audit.files import file_sha256
from m2g_audit.similarity.base import CosineMetric
from m2g_audit.similarity.weights import require_weights

ARCHITECTURE = "ViT-B-32"


class Clip(CosineMetric):
    """1 - cosine of CLIP embeddings. `model` is an open_clip model with its preprocessing."""

    def __init__(self, name: str, model: Any, device: torch.device | str = "cpu") -> None:
        self.name = name
        self.device = torch.device(device)
        self._model = model.to(self.device).eval().requires_grad_(False)
        self._size = int(model.visual.image_size[0])
        self._mean, self._std = model.visual.image_mean, model.visual.image_std

    def _features(self, images: Tensor) -> Tensor:
        images = pictures.resize(
            images.to(self.device),
            [self._size],
            interpolation=InterpolationMode.BICUBIC,
            antialias=True,
        ).clamp(0, 1)
        images = pictures.center_crop(images, [self._size])
        return self._model.encode_image(pictures.normalize(images, self._mean, self._std))


def trained_clip(
    weights: Path | None = None,
    device: torch.device | str = "cpu",
    architecture: str = ARCHITECTURE,
) -> Clip:
    """Return CLIP ViT-B/32 trained on LAION-2B, from the Hugging Face cache or a file.

    architecture: open_clip's name for what the file holds. ModelError if the file is missing, or
    does not fit.
    """
    import open_clip

    path = require_weights("clip", weights)
    try:
        model = open_clip.create_model(architecture, pretrained=str(path), weights_only=True)
    except Exception as error:
        raise ModelError(
            f"{path} does not hold the weights of open_clip's {architecture}: {error}"
        ) from error
    metric = Clip("clip", model, device)
    metric.weights_sha256 = file_sha256(path)
    return metric
