"""The stages of a run: tensors that are made once and kept in its folder."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor

from m2g_audit.audits.run_tensors import read_tensors, write_tensors
from m2g_audit.errors import OutputError
from m2g_audit.store.run_directory import RunDirectory

Tensors = dict[str, Tensor]


def keep(folder: RunDirectory, stage: str, make: Callable[[], Tensors]) -> None:
    """Write what `make` returns, and the processor seconds it took, unless an earlier run has."""
    if not done(folder, stage):
        began = time.process_time()
        tensors = make()
        write_tensors(folder, _file(stage), tensors, seconds=f"{time.process_time() - began:.1f}")


def done(folder: RunDirectory, stage: str) -> bool:
    """Return whether a stage is there, whole."""
    return read_tensors(folder, _file(stage)) is not None


def load(folder: RunDirectory, stage: str) -> Tensors:
    """Return the tensors of a finished stage; raises OutputError where they can't be read."""
    return _read(folder, stage)[0]


def seconds(folder: RunDirectory, stage: str) -> float:
    """Return the processor seconds that a stage took in the run that finished it."""
    return float(_read(folder, stage)[1]["seconds"])


def _read(folder: RunDirectory, stage: str) -> tuple[Tensors, dict[str, str]]:
    read = read_tensors(folder, _file(stage))
    if read is None:
        raise OutputError(
            f"{folder.path / _file(stage)} can't be read. Run the same command again: it makes "
            "what is missing."
        )
    return read


def _file(stage: str) -> str:
    return f"{stage}.safetensors"
