"""The HTML report: everything of a run is in it, and no prompt can do anything in it."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from m2g_audit.report.html.page import write_report
from m2g_audit.stored_runs import StoredRun
from tests.batch_work import run_batch

HOSTILE = [
    "<script>window.hacked=1</script>",
    "</script></template></title><img src=x onerror=window.hacked=1>",
    '"><svg onload=window.hacked=1> {{ 7 * 7 }} \u202e\u2028 \x00 javascript:hacked',
    "=cmd|' /C calc'!A0",
]
PROMPTS = ["same kite", "new dog", "half cat", "torn bird", "broken sky", *HOSTILE]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    """A batch of which one prompt failed."""
    folder = tmp_path_factory.mktemp("runs") / "release"
    run_batch(folder, PROMPTS)
    return StoredRun.read(folder)


def written(run: StoredRun, out: Path, **options: Any) -> str:
    return write_report(run, out, **options).path.read_text()


def rows_of(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


class Elements(HTMLParser):
    """Collects the elements of a page and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_table_has_every_prompt_the_worst_first(run: StoredRun, tmp_path: Path) -> None:
    rows = rows_of(written(run, tmp_path / "r.html"))
    assert len(rows) == len(PROMPTS)
    assert [row["rank"] for row in rows] == list(range(len(PROMPTS)))
    severities = [row["severity"] for row in rows if row["verdict"] != "failed"]
    assert severities == sorted(severities, reverse=True)
    assert rows[0]["prompt"] == "same kite"
    assert [row["prompt"] for row in rows if row["verdict"] == "failed"] == ["broken sky"]


def test_each_prompt_has_its_details_with_pictures_and_evidence(
    run: StoredRun, tmp_path: Path
) -> None:
    page = written(run, tmp_path / "r.html")
    for record in run.records():
        part = page.split(f'<template id="p-{record.listed.id}">')[1].split("</template>")[0]
        for sentence in record.verdict.evidence:
            assert sentence in html.unescape(part)
        assert part.count("<figure") >= len(record.seeds)


@pytest.mark.parametrize("redact", [False, True])
def test_the_page_asks_for_nothing_and_runs_nothing_of_others(
    run: StoredRun, tmp_path: Path, redact: bool
) -> None:
    page = written(run, tmp_path / "r.html", redact=redact)
    for tag, attributes in Elements(page).found:
        assert tag not in ("iframe", "object", "embed", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in ("src", "href"):
                assert value is not None
                assert value.startswith(("data:", "#"))
    scripts = [a for tag, a in Elements(page).found if tag == "script"]
    assert len(scripts) == 2
    [policy] = [a["content"] for _, a in Elements(page).found if "http-equiv" in a]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
