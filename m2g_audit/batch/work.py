"""A prompt that a process has claimed, on its way to a record."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from m2g_audit.audits.generations import Pictures
from m2g_audit.audits.job import Job
from m2g_audit.audits.judging import Judged
from m2g_audit.audits.timing import now
from m2g_audit.prompts.entries import Entry
from m2g_audit.store.batch_directory import BatchRecord, Claim
from m2g_audit.store.run_directory import RunDirectory
from m2g_audit.verdict.looks import Look


@dataclass(eq=False)
class Work:
    """A prompt that this process has claimed."""

    entry: Entry
    job: Job
    run: RunDirectory
    claim: Claim
    started: str = field(default_factory=now)
    pictures: Pictures | None = None
    missing: deque[int] = field(default_factory=deque)
    looks: deque[Look] = field(default_factory=deque)
    alone: bool = False
    kept: list[Future[None]] = field(default_factory=list)
    judged: Future[Judged] | None = None
    filed: Future[BatchRecord] | None = None

    @property
    def spoilt(self) -> BaseException | None:
        """Return what kept pictures of it from being kept, while it waits for more of them."""
        if self.filed is not None or self.judged is not None:
            return None
        return next((e for done in self.kept if done.done() and (e := done.exception())), None)

    @property
    def is_judged(self) -> bool:
        """Return whether it waits for the model, to be asked for spectra."""
        return self.filed is None and self.judged is not None and self.judged.done()

    @property
    def next_step(self) -> Future[Any]:
        """Return what is waited for once all pictures are made."""
        step = self.filed or self.judged
        assert step is not None
        return step

    def ask_for_pictures(self) -> None:
        """Ask for what the next look still needs."""
        assert self.pictures is not None
        self.missing.extend(self.pictures.missing(self.looks[0].seeds))

    def let_go_of_pictures(self) -> None:
        """Free memory: what follows needs the record only."""
        self.missing.clear()
        self.kept.clear()
        self.judged = self.pictures = None
