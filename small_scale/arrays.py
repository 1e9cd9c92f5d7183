"""Arrays in files that are whole or not there."""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from m2g_audit.errors import OutputError
from m2g_audit.files import write_atomically


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays to a compressed npz, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """What `save_arrays` wrote; OutputError where it is damaged or gone, with the way out."""
    try:
        # numpy leaves a broken archive open that it opened itself
        with path.open("rb") as file, np.load(file) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError as error:
        raise OutputError(
            f"{path} was removed meanwhile. The same command makes it again, the same."
        ) from error
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, reason: str) -> OutputError:
    """The error of a file that is not what `save_arrays` wrote, with the way out."""
    return OutputError(f"{path} is damaged ({reason}). Remove it: it is made again, the same.")
