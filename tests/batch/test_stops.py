"""Whatever moment a process ends at, nothing that was finished is lost, and the rest goes on.

Stops are drawn over every write, rename and lock of the work; the same work then goes on, and may
be stopped again. M2G_STOPS=1000 makes as many stops as are claimed in the README.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from m2g_audit.files import is_draft
from m2g_audit.store.batch_directory import RECORDS_FILE, BatchDirectory
from m2g_audit.store.run_directory import read_record
from tests.support.stops import EXIT, PROMPTS, WORK, batch, report, stopped

STOPS = int(os.environ.get("M2G_STOPS", "30"))
SHARES = {"batch": 0.6, "prompt": 0.2, "report": 0.2}


@pytest.fixture(scope="module")
def server() -> Any:
    """Processes that have everything imported, each from one that did nothing yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.stops"])
    return context


def run(server: Any, kind: str, out: Path, stop_at: int | None, tear: bool = False) -> int | None:
    """The number of events of the whole work, or None if it was stopped."""
    told = out.parent / "told.json"
    told.unlink(missing_ok=True)
    process = server.Process(target=stopped, args=(kind, out, stop_at, tear, told))
    process.start()
    process.join(120)
    assert process.exitcode in (0, EXIT), f"{kind}, stopped at {stop_at}: exit {process.exitcode}"
    return json.loads(told.read_text()) if process.exitcode == 0 else None


def finished(out: Path) -> dict[str, bytes]:
    """The whole lines of a batch's records, by prompt."""
    path = out / RECORDS_FILE
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    good = [line for line in lines if line.startswith(b"{") and line.endswith(b"}")]
    return {json.loads(line)["listed"]["id"]: line for line in good}


def without_timings(out: Path, kind: str) -> list[dict[str, Any]]:
    records = [read_record(out)] if kind == "prompt" else list(BatchDirectory.read(out).records())
    return [json.loads(record.model_dump_json(exclude={"timings"})) for record in records]


def pictures(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.png")}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["batch", "prompt"])
def test_what_was_stopped_ends_as_if_it_had_not_been(
    server: Any, tmp_path: Path, kind: str
) -> None:
    whole = tmp_path / "whole" / "run"
    whole.parent.mkdir()
    events = run(server, kind, whole, None)
    assert events is not None
    assert events > 20
    expected, expected_pictures = without_timings(whole, kind), pictures(whole)
    chance, stops = random.Random(kind), 0
    while stops < STOPS * SHARES[kind]:
        out = tmp_path / "stopped" / "run"
        out.parent.mkdir()
        before: dict[str, bytes] = {}
        while (
            run(server, kind, out, chance.randrange(1, events + 1), chance.random() < 0.5) is None
        ):
            stops += 1
            if kind == "batch":
                now = finished(out)
                assert before.items() <= now.items()
                before = now
        for found, wanted in zip(without_timings(out, kind), expected, strict=True):
            assert {k: v for k, v in found.items() if v != wanted[k]} == {}
        assert pictures(out) == expected_pictures
        if kind == "batch":  # there a lock says that whoever left drafts is no more
            assert not any(map(is_draft, (out / "prompts").rglob("*")))
        shutil.rmtree(out.parent)


@pytest.mark.slow
def test_a_report_that_was_stopped_is_the_old_one_or_the_new_one(
    server: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    batch(out)
    report(out)
    page = out / "report.html"
    whole = page.read_bytes()
    events = run(server, "report", out, None)
    assert events is not None
    chance = random.Random(0)
    for _ in range(max(1, int(STOPS * SHARES["report"]))):
        if chance.random() < 0.5:
            page.unlink(missing_ok=True)
        old = page.read_bytes() if page.exists() else None
        run(server, "report", out, chance.randrange(1, events + 1), tear=True)
        now = page.read_bytes() if page.exists() else None
        assert now == old or (now is not None and len(now) == len(whole))
    report(out)
    assert len(page.read_bytes()) == len(whole)
    assert len(finished(out)) == len(PROMPTS)


def test_every_kind_of_work_is_stopped() -> None:
    assert set(WORK) == set(SHARES)
