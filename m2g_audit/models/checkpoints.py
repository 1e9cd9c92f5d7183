"""The checkpoints that a training leaves in a folder, by step, once they are written whole."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from m2g_audit.models.no_model import find_lora
from m2g_audit.models.own_parts import DENOISERS
from m2g_audit.models.weight_files import read_header

SETTLED_SECONDS = 10.0
"""How long nothing in a checkpoint may have changed before it is taken for whole."""
# diffusers' and SimpleTuner's checkpoint-500, kohya's name-step00000500 and name-000010 (epochs).
_STEP = re.compile(r"(?:^|[-_])(?:checkpoint|step|epoch)?[-_]?(\d+)$")


@dataclass(frozen=True)
class Checkpoint:
    """What a training saved after `step` steps (or epochs, where its names count these)."""

    step: int
    path: Path


def find_checkpoints(
    folder: Path, *, settled: float = SETTLED_SECONDS
) -> tuple[list[Checkpoint], int]:
    """Return the whole checkpoints of a training by step, and how many may still be written.

    Folders `checkpoint-500` with a model, its denoiser or a LoRA in them, and LoRA files whose
    names end in a number. One counts once none of its files has changed for `settled` seconds and
    all of its safetensors are as long as their headers say; one that is younger may still be
    written. What comes and goes meanwhile is left for the next look.
    """
    whole: list[Checkpoint] = []
    young = 0
    for path in sorted(folder.iterdir()):
        with suppress(OSError):  # removed by the trainer meanwhile
            numbered = _STEP.search(path.stem if path.is_file() else path.name)
            if numbered is None or not _holds_weights(path):
                continue
            if not _is_settled(path, settled):
                young += 1
            elif _is_readable(path):
                whole.append(Checkpoint(int(numbered[1]), path))
    return sorted(whole, key=lambda found: found.step), young


def _holds_weights(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".safetensors" and _is_unread_or_lora(path)
    return (
        (path / "model_index.json").is_file()
        or any((path / part).is_dir() for part in DENOISERS)
        or any(path.glob("*.safetensors"))
    )


def _is_unread_or_lora(file: Path) -> bool:
    """Whether a file is a LoRA; one that can't be read yet may become one."""
    return _is_broken(file) or find_lora(file) is not None


def _is_settled(path: Path, settled: float) -> bool:
    newest = max((file.stat().st_mtime for file in _files(path)), default=time.time())
    return time.time() - newest >= settled


def _is_readable(path: Path) -> bool:
    """Whether all safetensors of a checkpoint are as long as their headers say."""
    weights = (file for file in _files(path) if file.suffix == ".safetensors")
    return not any(map(_is_broken, weights))


def _is_broken(file: Path) -> bool:
    try:
        read_header(file)
    except (OSError, ValueError):
        return True
    return False


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    yield from (file for file in path.rglob("*") if file.is_file())
