"""What a report reads of a run, which may be a stranger's: only what lies in its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from m2g_audit.foreign_files import open_file, within
from m2g_audit.pictures.decoding import opened

# A run's pictures are PNG; what other programs may have made of them is taken too.
_FORMATS = ("PNG", "WEBP", "JPEG")
_MOST_PIXELS = 50_000_000


def read_picture(folder: Path, name: str) -> Image:
    """Return a picture of a run in RGB, without anything that its file says beside the pixels.

    OSError where there is none in the folder, or none that can be read.
    """
    try:
        with open_file(within(folder, name)) as file, opened(file, _FORMATS) as found:
            if found.width * found.height > _MOST_PIXELS:
                raise OSError(f"{name} has {found.width} x {found.height} pixels")
            picture = found.convert("RGB")
    except (OSError, MemoryError):
        raise
    except Exception as error:  # decoders raise what they like on broken files
        raise OSError(f"{name} can't be read: {error}") from error
    picture.info.clear()
    return picture


def read_array(folder: Path, name: str, key: str, dimensions: int) -> NDArray[np.float64]:
    """Return an array of a run's safetensors file; OSError where there is none of these dimensions.

    Values may be anything but complex.
    """
    from safetensors.numpy import load_file

    path = within(folder, name)
    open_file(path).close()
    try:
        found = np.asarray(load_file(path)[key], dtype=np.float64)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the reader raises what it likes on broken files
        raise OSError(f"{name} can't be read: {error}") from error
    if found.ndim != dimensions or not found.size:
        raise OSError(f"{name} holds {key} of the shape {found.shape}")
    return found
