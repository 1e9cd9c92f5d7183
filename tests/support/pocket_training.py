"""Trainings of pocket's kind on few captions: stopped, and read back."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from m2g_audit.progress import Progress


class Killed(Exception):
    """What stops a training that a test wants stopped."""


def kill_at(stage: str, step: int) -> Progress:
    """Return what stops a training when it tells of this step."""

    def on_step(at: str, done: int, total: int) -> None:
        if (at, done) == (stage, step):
            raise Killed

    return on_step


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a pipeline's folder, by folder and name."""
    return {
        f"{path.parent.name}.{name}": tensor
        for path in sorted(folder.glob("*/*.safetensors"))
        for name, tensor in load_file(path).items()
    }
