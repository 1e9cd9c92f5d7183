"""The current folder may be a stranger's: nothing is run or read from it unless it is named."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import chdir, contextmanager
from multiprocessing import get_context
from pathlib import Path

_SAFE_PATH = "PYTHONSAFEPATH"


@contextmanager
def worker_processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """A block with a pool of `count` processes that import nothing from the current folder.

    Python starts such processes by `python -c`, which puts that folder before all others on the
    path; PYTHONSAFEPATH, which they inherit, keeps it away.
    """
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        # Not forked: the caller may have threads.
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            yield pool
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


def import_matplotlib() -> None:
    """Import matplotlib without the `matplotlibrc` that may lie in the current folder.

    It looks there first, before the user's own settings, and has no switch for that.
    """
    if "matplotlib" not in sys.modules:
        with chdir(Path(__file__).parent):
            import matplotlib  # noqa: F401
