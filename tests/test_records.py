"""Records survive writing and reading, refuse what isn't theirs, and match their schema."""

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import m2g_audit
from m2g_audit.records import (
    AuditRecord,
    format_record,
    json_schema,
    parse_record,
)
from tests.samples import interval, sample_record

OLD_RECORDS = sorted((Path(__file__).parent / "records").glob("*.json"))
SCHEMA_FILE = Path(m2g_audit.__file__).parent / "schema" / "audit-record.schema.json"

numbers = st.floats(0, 1, allow_nan=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def test_schema_in_the_package_is_current() -> None:
    """Make it anew with `m2g-audit schema > m2g_audit/schema/audit-record.schema.json`."""
    assert json.loads(SCHEMA_FILE.read_text()) == json_schema()


def test_a_record_matches_the_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(json.loads(format_record(sample_record())), json_schema())


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
    newer = {**content, "schema_version": "2.9", "a_field_of_2_9": 3}
    assert parse_record(json.dumps(newer)).prompt == content["prompt"]
    with pytest.raises(ValueError, match="schema version 3"):
        parse_record(json.dumps({**content, "schema_version": "3.0"}))


def test_nan_is_not_a_number_of_a_record() -> None:
    with pytest.raises(ValidationError):
        interval(float("nan"), 0.0, 1.0)


def test_words_are_those_of_the_verdict() -> None:
    content = json.loads(format_record(sample_record()))
    content["verdict"]["state"] = "probably"
    with pytest.raises(ValidationError):
        AuditRecord.model_validate(content)


def test_a_record_of_schema_1_keeps_its_meaning() -> None:
    old = json.loads((Path(__file__).parent / "records" / "audit-1.0.json").read_text())
    record = parse_record(json.dumps(old))
    assert record.schema_version == "2.0"
    assert (record.settings.spectrum, record.settings.basin_exact) == ("exact-jacobian", True)
    assert {entry.algorithm for entry in record.curvature} == {"exact-jacobian"}
    [basin] = [a.basin for a in record.attractors if a.basin]
    # Of two trials with delta_p = 0.8 both must have recovered.
    assert (basin.algorithm, basin.critical_time) == ("alg1", min(basin.critical_times))


def test_half_a_record_of_schema_1_is_refused() -> None:
    with pytest.raises(ValueError, match="not complete"):
        parse_record('{"schema_version": "1.0"}')
