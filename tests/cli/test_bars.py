"""Progress: bars on a terminal, and in a log a few lines that say where a long stage stands."""

from __future__ import annotations

import io
import threading
import time

import pytest
from rich.console import Console

from m2g_audit.cli import bars
from m2g_audit.cli.bars import INTERVAL, PATIENCE, Bars, Lines, Stage, progress_on, waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "PATIENCE", 0.01)
    monkeypatch.setattr(bars, "INTERVAL", 0.01)


def until_said(log: io.StringIO, words: str) -> None:
    limit = time.monotonic() + 60
    while words not in log.getvalue():
        assert time.monotonic() < limit, log.getvalue()
        time.sleep(0.005)


# -- the lines of one stage


def test_a_stage_says_where_it_stands_and_what_is_left() -> None:
    stage = Stage("images", first=0, began=100.0)
    said = []
    for second in range(41):
        now = 100.0 + second
        said += [stage.update(second * 8, 320, now), stage.line(now)]
    assert [line for line in said if line] == [
        "images: 8/320, 39 s left",
        "images: 88/320, 29 s left",
        "images: 168/320, 19 s left",
        "images: 248/320, 9 s left",
        "images: done in 40 s",
    ]


def test_a_stage_of_no_time_is_not_told_of() -> None:
    stage = Stage("reference", first=0, began=0.0)
    assert stage.update(0, 5, 0.0) is None
    assert stage.line(PATIENCE * 0.9) is None
    assert stage.update(5, 5, PATIENCE * 0.9) is None
    assert stage.line(PATIENCE * 2) is None


def test_lines_are_an_interval_apart_and_the_end_comes_once() -> None:
    stage = Stage("curvature", first=0, began=0.0)
    stage.update(1, 10, 0.5)
    assert stage.line(PATIENCE) == "curvature: 1/10, 9 s left"
    assert stage.line(PATIENCE + INTERVAL * 0.99) is None
    assert stage.line(PATIENCE + INTERVAL) == "curvature: 1/10, 2 min left"
    assert stage.update(10, 10, 20.0) == "curvature: done in 20 s"
    assert stage.update(10, 10, 21.0) is None


def test_what_an_earlier_run_left_does_not_count_as_pace() -> None:
    stage = Stage("images", first=160, began=0.0)
    stage.update(160, 320, 0.0)
    assert stage.line(2.0) == "images: 160/320"
    stage.update(200, 320, 10.0)
    assert stage.line(12.0 + INTERVAL) == "images: 200/320, 66 s left"
    stage.update(150, 320, 30.0)  # a batch that did not fit is done again
    assert stage.line(40.0) == "images: 150/320"


# -- a log


@pytest.mark.usefixtures("hasty")
def test_a_silent_stage_is_told_of_all_the_same() -> None:
    log = io.StringIO()
    with Lines(Console(file=log)) as lines:
        lines("loading the model", 0, 1)
        until_said(log, "loading the model\n")
        lines("loading the model", 1, 1)
        lines("images", 0, 4)
        until_said(log, "images: 0/4\n")
    *_, done, _ = dict.fromkeys(log.getvalue().splitlines())
    assert done == "loading the model: done in 0 s"


@pytest.mark.usefixtures("hasty")
def test_an_error_ends_the_lines() -> None:
    log = io.StringIO()
    before = threading.active_count()

    def fail() -> None:
        with Lines(Console(file=log)) as lines:
            lines("images", 0, 4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert threading.active_count() == before
    assert "done" not in log.getvalue()


@pytest.mark.usefixtures("hasty")
def test_waiting_is_told_of_in_a_log() -> None:
    log = io.StringIO()
    with waiting(Console(file=log), "measuring a few steps"):
        until_said(log, "measuring a few steps\n")
    assert log.getvalue().endswith("measuring a few steps: done in 0 s\n")


# -- which of the two


def test_a_terminal_gets_bars_that_vanish() -> None:
    screen = Terminal()
    with progress_on(Console(file=screen)) as bars:
        assert isinstance(bars, Bars)
        bars("images", 1, 4)
    assert "images" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("file", "variable", "value"),
    [
        (io.StringIO(), "TERM", "xterm"),
        (io.StringIO(), "FORCE_COLOR", "1"),
        (Terminal(), "TERM", "dumb"),
    ],
    ids=["a pipe", "a coloured log", "a terminal without cursor"],
)
def test_anything_else_gets_lines(
    monkeypatch: pytest.MonkeyPatch, file: io.StringIO, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert isinstance(progress_on(Console(file=file)), Lines)
