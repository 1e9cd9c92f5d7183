"""Root-mean-square difference of pixels, over the whole image or over its worst tile."""

from __future__ import annotations

import torch
from torch import Tensor

from m2g_audit.errors import UsageError
from m2g_audit.similarity.base import Metric

TILES = 4


class L2(Metric):
    """RMS difference over all pixel values, in units of the full range [0, 1]."""

    name = "l2"
    of_pixels = True

    def _embed(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return (flat / flat.shape[1] ** 0.5)[:, None]


class TiledL2(Metric):
    """The largest of the RMS differences over 4 x 4 tiles (Carlini et al. 2023, Sec. 4.1).

    Two pictures that share only their background are near in `l2`; one tile that differs suffices
    to set them apart here. Sides that 4 does not divide give tiles that differ by one pixel.
    """

    name = "tiled_l2"
    of_pixels = True

    def _embed(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if min(height, width) < TILES:
            raise UsageError(f"tiled_l2 needs images of at least {TILES} x {TILES} pixels; use l2.")
        tiles = [
            tile.flatten(1) / tile[0].numel() ** 0.5
            for row in images.tensor_split(TILES, dim=2)
            for tile in row.tensor_split(TILES, dim=3)
        ]
        largest = max(tile.shape[1] for tile in tiles)
        # Padding with zeros adds nothing to a difference of two images of one size.
        padded = [torch.nn.functional.pad(t, (0, largest - t.shape[1])) for t in tiles]
        return torch.stack(padded, dim=1)
