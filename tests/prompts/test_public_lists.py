"""Lists that were published, if they are at hand: read as pandas reads them, and without a word."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from m2g_audit.prompts import read_prompts

_DATA = os.environ.get("M2G_DATA")
LISTS = Path(_DATA or "../shared/data").parent / "prompts"


def by_pandas(read: Callable[..., Any], column: str, **options: Any) -> Callable[[Path], Any]:
    return lambda path: read(path, **options)[column]


@pytest.mark.skipif(not LISTS.is_dir(), reason="no lists beside the data sets that M2G_DATA names")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sd14_memorized.csv", by_pandas(pandas.read_csv, "Caption", sep=";")),
        ("sd14_unmemorized.csv", by_pandas(pandas.read_csv, "Caption", sep=";")),
        ("sd2_memorized.jsonl", by_pandas(pandas.read_json, "caption", lines=True)),
        ("sd1_unmemorized.txt", lambda path: path.read_text().splitlines()),
    ],
)
def test_public_lists_are_read_as_pandas_reads_them(
    name: str, expected: Callable[[Path], Any]
) -> None:
    found = read_prompts(LISTS / name)
    texts = [text.strip() for text in expected(LISTS / name) if text.strip()]
    assert [entry.prompt for entry in found] == list(dict.fromkeys(texts))
    assert found.notices == ()
