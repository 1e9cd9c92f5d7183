"""Records survive writing and reading, refuse what isn't theirs, and match their schema."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

import m2g_audit
from m2g_audit.calibration.calibration import Calibration
from m2g_audit.records.record import (
    AuditRecord,
    format_record,
    parse_record,
)
from m2g_audit.records.schemas import schema_of
from m2g_audit.review.compare import Comparison
from m2g_audit.review.summary import Summary
from m2g_audit.store.batch_directory import RECORDS_FILE, BatchRecord, RecordLog
from tests.support.samples import interval, sample_record

RECORDS = Path(__file__).parents[1] / "records"
OLD_RECORDS = sorted(RECORDS.glob("*.json"))
SCHEMA_FILE = Path(m2g_audit.__file__).parent / "schema" / "audit-record.schema.json"

numbers = st.floats(0, 1, allow_nan=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def test_schema_in_the_package_is_current() -> None:
    """Make it anew with `m2g-audit schema > m2g_audit/schema/audit-record.schema.json`."""
    assert json.loads(SCHEMA_FILE.read_text()) == schema_of(AuditRecord)


def test_a_record_matches_the_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(AuditRecord))
    jsonschema.validate(json.loads(format_record(sample_record())), schema_of(AuditRecord))


@pytest.mark.parametrize("path", OLD_RECORDS, ids=lambda path: path.stem)
def test_old_records_are_read_for_ever(path: Path) -> None:
    record = parse_record(path.read_bytes())
    assert record.verdict.state
    assert all(seed.image for seed in record.seeds)


@given(text, numbers, st.lists(numbers, min_size=1, max_size=50), st.integers(0, 2**63 - 1))
def test_what_is_written_is_read(prompt: str, share: float, values: list[float], seed: int) -> None:
    record = sample_record()
    spectrum = record.curvature[0].model_copy(update={"singular_values": values})
    first = record.seeds[0].model_copy(update={"generator_seed": seed})
    record = record.model_copy(
        update={
            "prompt": prompt,
            "curvature": [spectrum],
            "seeds": [first, *record.seeds[1:]],
            "unseen": interval(share, share, share),
        }
    )
    assert parse_record(format_record(record)) == record
    assert format_record(parse_record(format_record(record))) == format_record(record)


def test_newer_minor_versions_are_read_and_other_major_versions_refused() -> None:
    content = json.loads(format_record(sample_record()))
    newer = {**content, "schema_version": "3.9", "a_field_of_3_9": 3}
    assert parse_record(json.dumps(newer)).prompt == content["prompt"]
    with pytest.raises(ValueError, match="schema version 4"):
        parse_record(json.dumps({**content, "schema_version": "4.0"}))


def test_nan_is_not_a_number_of_a_record() -> None:
    with pytest.raises(ValidationError):
        interval(float("nan"), 0.0, 1.0)


def test_words_are_those_of_the_verdict() -> None:
    content = json.loads(format_record(sample_record()))
    content["verdict"]["state"] = "probably"
    with pytest.raises(ValidationError):
        AuditRecord.model_validate(content)


def test_a_record_of_schema_1_keeps_its_meaning() -> None:
    old = json.loads((RECORDS / "audit-1.0.json").read_text())
    record = parse_record(json.dumps(old))
    assert record.schema_version == "3.0"
    assert (record.settings.spectrum, record.settings.basin_exact) == ("exact-jacobian", True)
    assert {entry.algorithm for entry in record.curvature} == {"exact-jacobian"}
    [basin] = [a.basin for a in record.attractors if a.basin]
    # Of two trials with delta_p = 0.8 both must have recovered.
    assert (basin.algorithm, basin.critical_time) == ("alg1", min(basin.critical_times))


@pytest.mark.parametrize("version", ["1.0", "2.2"])
def test_half_an_old_record_is_refused(version: str) -> None:
    with pytest.raises(ValueError, match="not complete"):
        parse_record(json.dumps({"schema_version": version}))


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '{"schema_version": 2'])
def test_what_is_no_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_record(text)


def test_thresholds_from_own_control_prompts_are_marked_when_they_are_read() -> None:
    """Those of a model that repeats for any prompt hide copies: they clear nothing."""
    old = json.loads((RECORDS / "audit-2.2-own-controls.json").read_text())
    assert old["thresholds"]["calibrated"]
    record = parse_record(json.dumps(old))
    assert record.thresholds is not None
    assert (record.thresholds.rule, record.thresholds.calibrated) == ("older", False)
    assert record.thresholds.delta_s == old["thresholds"]["delta_s"]
    assert any("own control prompts" in warning for warning in record.warnings)
    assert parse_record(format_record(record)) == record


@pytest.mark.parametrize("name", ["audit-2.0", "audit-2.2-screened"])
def test_other_records_of_schema_2_are_not_marked(name: str) -> None:
    old = json.loads((RECORDS / f"{name}.json").read_text())
    record = parse_record(json.dumps(old))
    assert record.thresholds is not None
    assert record.thresholds.calibrated == old["thresholds"]["calibrated"]
    assert record.warnings == old["warnings"]


def test_a_screened_prompt_ended_at_a_look() -> None:
    record = parse_record((RECORDS / "audit-2.2-screened.json").read_bytes())
    assert record.looks is not None
    assert (record.looks.looks, record.looks.ended_at) == ([4, 8, 16], 4)
    assert len(record.seeds) == 4
    old = json.loads((RECORDS / "audit-2.2-screened.json").read_text())
    old["screening"] |= {"stopped_at": None, "margin": None}
    whole = parse_record(json.dumps(old))
    assert whole.looks is not None
    assert whole.looks.ended_at == 16


def test_records_of_an_old_batch_are_read_for_ever(tmp_path: Path) -> None:
    """A release is compared with the one before, whatever program audited that."""
    shutil.copy(RECORDS / "batch-2.2.jsonl", tmp_path / RECORDS_FILE)
    [line] = (tmp_path / RECORDS_FILE).read_bytes().splitlines()
    log = RecordLog(tmp_path)
    [record] = log.get([json.loads(line)["listed"]["id"]])
    assert (record.schema_version, record.prompt, record.folder) == (
        "3.0",
        "new dog",
        json.loads(line)["folder"],
    )
    assert record.looks is not None


def undescribed(schema: Any, at: str = "") -> Iterator[str]:
    """Yield the places of properties without a description."""
    for name, part in schema.get("properties", {}).items():
        if "description" not in part:
            yield f"{at}/{name}"
    for name, part in schema.get("$defs", {}).items():
        yield from undescribed(part, f"{at}/{name}")


@pytest.mark.parametrize("kind", [AuditRecord, BatchRecord, Summary, Comparison, Calibration])
def test_every_field_says_what_it_means(kind: type[BaseModel]) -> None:
    assert list(undescribed(schema_of(kind))) == []
