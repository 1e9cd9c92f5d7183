"""SSCD copy-detection descriptors (Pizzi et al. 2022); distance = 1 - cosine."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as pictures

from m2g_audit.errors import ModelError
from m2g_audit.files import file_sha256
from m2g_audit.similarity.base import CosineMetric
from m2g_audit.similarity.weights import require_weights

# A TorchScript file runs code. The hash was not taken from a download of our own: it is the one
# that several unrelated public projects pin for the file at its authors' address.
KNOWN_SHA256 = {
    "9f26bd4c848cc19b73d2ae92eea6e04886f61a7b764ceb7a13aeee62e6a6db56": "sscd_disc_mixup",
}
_SIZE = 288
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Sscd(CosineMetric):
    """1 - cosine of SSCD descriptors, the shorter side resized to 288 as its authors advise."""

    name = "sscd"

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._model = model.to(self.device).eval()

    def _features(self, images: Tensor) -> Tensor:
        images = pictures.resize(images.to(self.device), [_SIZE], antialias=True)
        return self._model(pictures.normalize(images, _MEAN, _STD))


def trained_sscd(
    weights: Path | None = None, *, trust: bool = False, device: torch.device | str = "cpu"
) -> Sscd:
    """Return SSCD from its TorchScript file, by default the one in torch hub's cache.

    A file whose SHA-256 is not known to this project is executed only if the user trusts it;
    ModelError otherwise, and if it is missing or is not TorchScript.
    """
    path = require_weights("sscd", weights)
    digest = file_sha256(path)
    if digest not in KNOWN_SHA256 and not trust:
        raise ModelError(
            f"{path} is a program, and its SHA-256 {digest} is not one that this project knows. "
            "If you know where it comes from, run it with --trust."
        )
    try:
        model = torch.jit.load(str(path), map_location="cpu")
    except RuntimeError as error:
        raise ModelError(f"{path} is not a TorchScript file: {error}") from error
    metric = Sscd(model, device)
    metric.weights_sha256 = digest
    return metric
