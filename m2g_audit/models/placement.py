"""Where a model is put, in which precision, and what becomes of too little memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from m2g_audit.diagnostics.numerics import out_of_memory, too_little_memory
from m2g_audit.errors import ResourceError, UsageError

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def find_device(device: str | torch.device | None) -> torch.device:
    """Return a device, the fastest one where none is named; UsageError for one not there."""
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"The device {str(device)!r} is not available here. Use --device cpu, or leave it out."
        ) from error
    return place


def find_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return a precision, float16 beyond a CPU where none is named; UsageError for others."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.float16
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise UsageError(f"There is no --dtype {name!r}: use {', '.join(_DTYPES)}.")
    return _DTYPES[name]


@contextmanager
def memory(what: str) -> Iterator[None]:
    """A block in which running out of memory becomes a ResourceError that says for what."""
    try:
        yield
    except Exception as error:
        if out_of_memory(error):
            raise ResourceError(too_little_memory(what)) from error
        raise
