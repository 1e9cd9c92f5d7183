"""What a batch came to: a table that other programs read, and a summary that adds up."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from m2g_audit.prompts import from_python
from m2g_audit.review.summary import Summary, finish, summarise
from m2g_audit.store.batch_directory import BatchDirectory, BatchRecord
from tests.support.batch_records import IDENTITY, record
from tests.support.made_run import HANGING, POWER, RELEASE, THRESHOLDS, make_run

ROWS = [
    {"caption": "a kite", "id": "k1", "share": 0.5, "tags": ["x"], "mixed": 1, "label": "known"},
    {"caption": "=cmd|' /C calc'!A0", "id": "k2", "share": None, "mixed": "two", "label": "known"},
    {"caption": "a cat", "id": "k3", "share": 2, "mixed": [3], "label": "fresh"},
]


def with_state(prompt: str, word: str, index: int) -> BatchRecord:
    listed = from_python(ROWS).entries[index]
    one = record(prompt)
    return one.model_copy(
        update={
            "verdict": one.verdict.model_copy(update={"state": word}),
            "listed": one.listed.model_copy(update=listed.model_dump(exclude={"prompt"})),
        }
    )


@pytest.fixture
def directory(tmp_path: Path) -> BatchDirectory:
    made = BatchDirectory.open(tmp_path, IDENTITY, from_python(ROWS))
    made.log.append(with_state("a cat", "generalized", 2))
    made.log.append(with_state("=cmd|' /C calc'!A0", "memorized", 1))
    return made


def test_nothing_is_written_before_every_prompt_has_a_record(directory: BatchDirectory) -> None:
    assert not finish(directory)
    assert not (directory.path / "results.parquet").exists()
    directory.log.append(record("a kite", failed=True))
    assert finish(directory)
    assert (directory.path / "summary.json").exists()


def test_the_table_has_a_row_for_each_prompt_and_the_lists_columns(
    directory: BatchDirectory,
) -> None:
    directory.log.append(record("a kite", failed=True))
    finish(directory)
    table = parquet.read_table(directory.path / "results.parquet")
    assert table["prompt"].to_pylist() == [row["caption"] for row in ROWS]
    assert table["state"].to_pylist() == [None, "memorized", "generalized"]
    assert table["severity"].to_pylist() == [None, "memorized", "generalized"]
    assert table["error"].to_pylist() == ["NaN", None, None]
    assert table["label"].to_pylist() == [None, "known", "fresh"]
    # The results have an `id` of their own.
    assert table["id_listed"].to_pylist() == [None, "k2", "k3"]
    assert table.schema.field("share").type == pyarrow.float64()
    assert table["mixed"].to_pylist() == [None, "two", "[3]"]
    assert table["memorized"].to_pylist()[1:] == [0.75, 0.75]
    assert table["memorized_low"].to_pylist()[1:] == [0.2, 0.2]
    assert table["evaluations"].to_pylist() == [10, 10, 10]


def test_the_summary_adds_up(directory: BatchDirectory) -> None:
    directory.log.append(record("a kite", failed=True))
    summary = summarise(directory, notices=["read as it is"])
    assert (summary.prompts, summary.done, summary.failed, summary.missing) == (3, 2, 1, 0)
    assert summary.verdicts == {"memorized": 1, "generalized": 1}
    assert summary.severities == {"memorized": 1, "generalized": 1}
    assert summary.labels == {"known": {"memorized": 1}, "fresh": {"generalized": 1}}
    assert summary.evaluations == {"images": 30}
    assert summary.seconds == {"images": 4.5}
    assert [short.state for short in summary.worst] == ["memorized", "generalized"]
    not_new = summary.worst[0].not_new
    assert not_new is not None
    assert (not_new.low, not_new.estimate) == pytest.approx((0.2, 0.75))
    assert [failure.kind for failure in summary.failures] == ["NumericsError"]
    assert summary.notices == ["read as it is"]
    written = summary.model_dump_json()
    assert Summary.model_validate_json(written) == summary
    json.loads(written)


def test_the_table_says_what_verdicts_rest_on(tmp_path: Path) -> None:
    batch = BatchDirectory.read(make_run(tmp_path / "run", [HANGING, RELEASE[5]]))
    finish(batch)
    table = parquet.read_table(tmp_path / "run" / "results.parquet").to_pylist()
    for row in table:
        assert (row["rule"], row["delta_m"]) == ("leave-one-out", 0.05)
        assert (row["power"], row["power_low"]) == (0.97, 0.94)  # of the two the lower
        assert row["power_suffices"]
        assert row["nearest_reference_margin"] == pytest.approx(
            row["nearest_reference_distance"] / 0.05
        )
        assert row["nearest_sample_margin"] == pytest.approx(row["nearest_sample_distance"] / 0.04)
    hanging, new = table
    assert hanging["nearest_reference_margin"] < 1 < new["nearest_reference_margin"]
    assert (hanging["strict"], hanging["state"], hanging["loose"]) == (
        "generalized",
        "undecided",
        "memorized",
    )
    assert hanging["hangs_on_threshold"]
    assert not new["hangs_on_threshold"]


def test_what_was_not_measured_is_empty_in_the_table(directory: BatchDirectory) -> None:
    directory.log.append(record("a kite", failed=True))
    finish(directory)
    table = parquet.read_table(directory.path / "results.parquet")
    for column in ("power", "power_suffices", "nearest_reference_margin", "strict"):
        assert table[column].to_pylist() == [None] * 3


def test_the_summary_counts_what_is_not_cleared_and_what_hangs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [HANGING, *RELEASE[5:7]], power=None)
    summary = summarise(BatchDirectory.read(run))
    assert summary.withheld == {"power was not measured": 2}
    assert (summary.hanging, summary.thresholds, summary.power) == (1, THRESHOLDS, None)
    assert summary.worst[0].hangs_on_threshold
    measured = make_run(tmp_path / "other", RELEASE[5:6])
    assert summarise(BatchDirectory.read(measured)).power == POWER


def test_a_summary_of_a_share(directory: BatchDirectory) -> None:
    summary = summarise(directory, directory.entries[1:])
    assert (summary.prompts, summary.missing) == (2, 0)
    assert summarise(directory).missing == 1


def test_a_summary_of_nothing(tmp_path: Path) -> None:
    summary = summarise(BatchDirectory.open(tmp_path, IDENTITY, from_python(ROWS)))
    assert (summary.missing, summary.worst, summary.model) == (3, [], None)
