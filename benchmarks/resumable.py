"""What long benchmarks share: results kept piece by piece, and what machine they were made on."""

import inspect
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import torch

from m2g_audit.files import digest, write_atomically
from m2g_audit.versions import versions

Result = dict[str, Any]


class Pieces:
    """Results as JSON files in a folder, so that an interrupted benchmark goes on where it was.

    `settings` and the `code` that measures, modules and functions, belong to each result: after a
    change of either, nothing kept before counts.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], code: Sequence[ModuleType | Callable]
    ) -> None:
        sources = [inspect.getsource(part) for part in code]
        self._folder = folder / digest({**settings, "code": sources})[:12]

    def get(self, name: str, make: Callable[[], Result]) -> Result:
        """The result kept as `name`, or else that of make()."""
        path = self._folder / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text())
        made = json.dumps(make())
        write_atomically(path, made.encode())
        return json.loads(made)


def machine() -> dict[str, Any]:
    """The processor, its cores, memory in GiB, and versions of software."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": round(psutil.virtual_memory().total / 2**30),
        "versions": versions(),
    }


def in_words(made_on: Mapping[str, Any]) -> str:
    """`machine` in words for a report."""
    software = made_on["versions"]
    names = ", ".join(f"{name} {software[name]}" for name in ("python", "torch", "numpy"))
    commit = software.get("commit", "unknown")
    return (
        f"{made_on['processor']}, {made_on['cores']} cores, {made_on['threads']} threads, "
        f"{made_on['memory']} GiB; {names}; commit {commit[:12]}{commit[40:]}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
