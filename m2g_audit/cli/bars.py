"""Progress on stderr: a bar for each stage on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Lock, Thread
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from m2g_audit.text import duration

PATIENCE, INTERVAL = 1.0, 10.0
"""Seconds until a stage gets its first line, and from then on between two of its lines."""


def progress_on(console: Console, *, keep: bool = True) -> Bars | Lines:
    """Return what tells of the stages of a command, called as (stage, done, total).

    keep: bars of finished stages stay until the end; without, the next one takes their place.
    """
    return Bars(console, keep=keep) if is_watched(console) else Lines(console)


@contextmanager
def waiting(console: Console, what: str) -> Iterator[None]:
    """A block during which the console says what is waited for."""
    if is_watched(console):
        with console.status(what):
            yield
        return
    with Lines(console) as lines:
        lines(what, 0, 1)
        yield
        lines(what, 1, 1)


@contextmanager
def loading(console: Console) -> Iterator[None]:
    """A block that imports what models need: seconds, so it is said before the first of them."""
    if is_watched(console):
        with console.status("loading libraries"):
            yield
        return
    console.print("loading libraries", soft_wrap=True)
    yield


def is_watched(console: Console) -> bool:
    """Return whether a person sees the console, so that lines can be written over."""
    # FORCE_COLOR makes rich take a log for a terminal.
    return console.is_interactive and console.file.isatty()


class Bars:
    """Bars of the stages, which vanish when all is done."""

    def __init__(self, console: Console, *, keep: bool = True) -> None:
        self._keep = keep
        self._whole: TaskID | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<18}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take in how much of a stage is done."""
        if stage not in self._tasks:
            if not self._keep:
                for task in self._tasks.values():
                    self._progress.remove_task(task)
                self._tasks.clear()
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)

    def overall(self, done: int, total: int) -> None:
        """Show how much of all work is done, in percent."""
        if self._whole is None:
            self._whole = self._progress.add_task("all", total=100)
        self._progress.update(self._whole, completed=100 * done // max(1, total))


class Lines:
    """Lines for a log: once a stage takes its time, every INTERVAL from then on, and at its end.

    A thread writes them, so that a stage with long steps is not silent.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage: Stage | None = None
        self._whole = Whole()
        self._lock, self._closed = Lock(), Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Lines:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed.set()
        self._thread.join()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take in how much of a stage is done."""
        with self._lock:
            if self._stage is None or self._stage.name != stage:
                self._stage = Stage(stage, done, time.monotonic())
            self._print(self._stage.update(done, total, time.monotonic()))

    def overall(self, done: int, total: int) -> None:
        """Write how much of all work is done, in percent, where that has changed."""
        with self._lock:
            line = self._whole.line(100 * done // max(1, total), time.monotonic())
            self._print(line)

    def _watch(self) -> None:
        while not self._closed.wait(PATIENCE):
            with self._lock:
                if self._stage is not None:
                    self._print(self._stage.line(time.monotonic()))

    def _print(self, line: str | None) -> None:
        if line is not None:
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)


@dataclass
class Whole:
    """All work of a command as lines, in percent; times are in seconds of one clock."""

    first: int | None = None
    began: float = 0.0
    told: int = 0

    def line(self, percent: int, now: float) -> str | None:
        """Return the share done and the time left, if the share has changed."""
        if self.first is None:
            self.first, self.began, self.told = percent, now, percent
            return None
        if percent == self.told:
            return None
        self.told = percent
        left = (now - self.began) * (100 - percent) / max(1, percent - self.first)
        return f"all: {percent}%, {duration(left)} left" if percent < 100 else "all: done"


@dataclass
class Stage:
    """One stage as lines: what it began with and when; times are in seconds of one clock."""

    name: str
    first: int
    began: float
    done: int = 0
    total: int = 0
    told: float | None = None
    over: bool = False

    def update(self, done: int, total: int, now: float) -> str | None:
        """Return the last line, once all is done; None before, and for a stage of no time."""
        ends = done >= total and not self.over
        self.done, self.total, self.over = done, total, done >= total
        if not ends or now - self.began < PATIENCE:
            return None
        return f"{self.name}: done in {duration(now - self.began)}"

    def line(self, now: float) -> str | None:
        """Return where the stage stands, if a line is due."""
        if self.over or now - self.began < PATIENCE:
            return None
        if self.told is not None and now - self.told < INTERVAL:
            return None
        self.told = now
        if self.total == 1:  # no part of it can be done
            return self.name
        return f"{self.name}: {self.done}/{self.total}{self._left(now - self.began)}"

    def _left(self, elapsed: float) -> str:
        # What an earlier run left behind says nothing of this one's pace.
        made = self.done - self.first
        if made <= 0:
            return ""
        return f", {duration(elapsed * (self.total - self.done) / made)} left"
