"""Image distances as embeddings: each is the largest Euclidean distance between parts of two."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from m2g_audit.errors import UsageError

_PIXELS_AT_ONCE = 2**20
"""Temporaries of this many numbers stay in caches; larger ones cost several times as long."""


class Metric(ABC):
    """A distance between images, given by where it embeds them.

    `distance(a, b)` is the maximum over parts of ‖a_part - b_part‖, or of its square if `squared`.
    of_pixels: the embedding is the pixels themselves, as cheap to make as to read;
    weights_sha256: of the file that its weights came from, None if it has none.
    """

    name: str
    squared: bool = False
    of_pixels: bool = False
    weights_sha256: str | None = None

    @torch.no_grad()
    def embed(self, images: Tensor, *, batch_size: int = 64) -> Tensor:
        """Return the embeddings of images, float32 [n, parts, d] on the CPU.

        images: [n, 3, h, w], floating point in [0, 1] or uint8 in 0..255. Batches only bound
        memory: the result does not depend on them. A non-finite image has a non-finite embedding.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(
                f"Images must be [n, 3, height, width]; got {tuple(images.shape)}. "
                "Repeat a single channel three times."
            )
        if len(images) == 0:
            raise UsageError("There are no images to compare.")
        if self.of_pixels:
            batch_size = max(1, min(batch_size, _PIXELS_AT_ONCE // images[0].numel()))
        batches = images.split(batch_size)
        first = self._embed(_as_float(batches[0]))
        # Filled in place: joining the batches would hold all embeddings twice.
        embeddings = torch.empty(len(images), *first.shape[1:], dtype=torch.float32)
        embeddings[:batch_size] = first
        for i, batch in enumerate(batches[1:], start=1):
            embeddings[i * batch_size : (i + 1) * batch_size] = self._embed(_as_float(batch))
        return embeddings

    @abstractmethod
    def _embed(self, images: Tensor) -> Tensor:
        """Return [n, parts, d] of float32 images [n, 3, h, w] in [0, 1]."""


class CosineMetric(Metric):
    """1 - cosine of feature vectors: half the squared distance of unit vectors."""

    squared = True

    def _embed(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self._features(images).float())[:, None] / 2**0.5

    @abstractmethod
    def _features(self, images: Tensor) -> Tensor:
        """Return features [n, d] of float32 images [n, 3, h, w] in [0, 1]."""


def _as_float(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images.to(torch.float32) / 255
    return images.to("cpu", torch.float32)
