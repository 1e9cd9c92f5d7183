"""Pictures as tensors, [3, h, w] in [0, 1]: as files keep them, and which of them show nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL.Image import Image
from torch import Tensor

from m2g_audit.pictures.decoding import opened

BoolArray = NDArray[np.bool_]

# A picture whose every channel stays within two grey levels shows nothing.
_FLAT = 2 / 255


def to_picture(image: Tensor) -> Image:
    """Return a PIL picture of `image` [3, h, w] in [0, 1]; non-finite values become black."""
    return Pillow.fromarray(to_levels(image).permute(1, 2, 0).cpu().numpy())


def to_levels(image: Tensor) -> Tensor:
    """Return `image` [3, h, w] in [0, 1] as uint8; non-finite values become black."""
    finite = torch.nan_to_num(image.float(), 0.0, 0.0, 0.0).clamp(0, 1)
    return (finite * 255).round().to(torch.uint8)


def read_picture(path: Path) -> Tensor:
    """Return the picture at `path`, float32 [3, h, w] in [0, 1]; OSError, ValueError if broken."""
    with opened(path) as picture:
        levels = np.array(picture.convert("RGB"))
    return torch.from_numpy(levels).permute(2, 0, 1).float() / 255


def is_failed(images: Tensor) -> BoolArray:
    """Return, for each image [n, 3, h, w] in [0, 1], whether it is non-finite or one flat colour.

    Blacked-out pictures (a safety checker's, or a decoder's overflow) are flat. Such pictures equal
    each other without being duplicates of anything, so they are left out everywhere.
    """
    flat = images.flatten(2)
    finite = flat.isfinite().all(dim=2).all(dim=1)
    constant = ((flat.amax(2) - flat.amin(2)) <= _FLAT).all(dim=1)
    return (~finite | constant).cpu().numpy()
