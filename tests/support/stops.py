"""Work that ends without a word at a chosen write, rename or lock, as a crash ends it."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from m2g_audit.audits.audit import execute
from m2g_audit.audits.job import make_job
from m2g_audit.reports.html.page import write_report
from m2g_audit.store.run_directory import RunDirectory
from m2g_audit.store.stored_run import StoredRun
from tests.support.batch_work import ManyPrompts, run_batch
from tests.support.setups import fake_setup

PROMPTS = ("same kite", "new harbour", "half moon", "torn sail", "broken mast", "late tide")
EXIT = 9

_WRITES = frozenset("wax+")
_EVENTS = frozenset(
    {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock", "fcntl.lockf"}
)


def batch(out: Path) -> None:
    """A batch of prompts with the odd kinds among them."""
    run_batch(out, PROMPTS, ManyPrompts(), batch_size=4)


def prompt(out: Path) -> None:
    """One audit."""
    setup = fake_setup(ManyPrompts(), out=out, batch_size=2)
    job = make_job(setup, PROMPTS[0])
    run = RunDirectory(out, job.identity)
    if run.finished() is None:
        execute(job, run)


def report(out: Path) -> None:
    """A page about a batch that is finished."""
    write_report(StoredRun.read(out))


WORK: dict[str, Callable[[Path], None]] = {"batch": batch, "prompt": prompt, "report": report}


def stopped(kind: str, out: Path, stop_at: int | None, tear: bool, told: Path) -> None:
    """Do the work in this process, which ends at event `stop_at`; tell how many events there were.

    tear: where the event is a flush to the disk, half of what the last write added is lost.
    """
    torch.set_num_threads(1)
    count = 0
    fsync, chance = os.fsync, random.Random(stop_at)

    def happens(name: str, descriptor: int | None = None) -> None:
        nonlocal count
        count += 1
        if stop_at is not None and count == stop_at:
            if tear and descriptor is not None:
                size = os.fstat(descriptor).st_size
                os.ftruncate(descriptor, max(0, size - chance.randrange(1, 200)))
            os._exit(EXIT)

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode = arguments[0], arguments[1]
            writes = isinstance(mode, str) and not _WRITES.isdisjoint(mode)
            if writes and str(path).startswith(str(out)):
                happens("open")
        elif event in _EVENTS:
            happens(event)

    def flushed(descriptor: int) -> None:
        happens("fsync", descriptor)
        fsync(descriptor)

    os.fsync = flushed
    sys.addaudithook(heard)
    WORK[kind](out)
    os.fsync = fsync
    told.write_text(json.dumps(count))
