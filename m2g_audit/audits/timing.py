"""When an audit began, and how long its stages took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime


def now() -> str:
    """Return the time as records write it: UTC, ISO 8601, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """A block whose duration is noted under the name of a stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = round(time.perf_counter() - start, 3)
