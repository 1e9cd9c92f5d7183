"""The gate: its order, its exit codes, and that it never fails open."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.prompts import from_python
from m2g_audit.records.record import AuditRecord, CalibrationRecord
from m2g_audit.records.vocabulary import FailOn, VerdictWord
from m2g_audit.review.gate import (
    WORST_FIRST,
    Outcome,
    Severity,
    badness,
    is_finding,
    outcome,
    severity,
    write_junit,
)
from m2g_audit.store.batch_directory import BatchRecord
from tests.store.test_batch_directory import record as batch_record
from tests.support.samples import interval, sample_record

FAIL_ON = get_args(FailOn)


def audited(
    word: str, *, calibrated: bool = True, repeats: bool = True, named: bool = False
) -> AuditRecord:
    one = sample_record()
    thresholds = one.thresholds
    assert thresholds is not None
    calibration = CalibrationRecord(
        sha256="0" * 64,
        source="a sweep",
        readout="median",
        threshold=0.5,
        auroc=interval(0.8, 0.6, 0.9),
        tells=True,
        readings=[],
        word="spurious",
    )
    seeds = one.seeds if repeats else [one.seeds[2]]
    return one.model_copy(
        update={
            "verdict": one.verdict.model_copy(update={"state": word}),
            "thresholds": thresholds.model_copy(update={"calibrated": calibrated}),
            "seeds": seeds,
            "attractors": one.attractors if repeats else [],
            "calibration": calibration if named else None,
        }
    )


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("generalized", Severity.GENERALIZED),
        ("undecided", Severity.UNDECIDED),
        ("spurious", Severity.SPURIOUS),
        ("mixed", Severity.MEMORIZED),
        ("collapsed", Severity.MEMORIZED),
        ("attractor", Severity.MEMORIZED),
        ("memorized", Severity.MEMORIZED),
    ],
)
def test_the_order_of_states(word: str, expected: Severity) -> None:
    assert severity(audited(word)) == expected
    uncalibrated = severity(audited(word, calibrated=False))
    assert uncalibrated == (Severity.UNDECIDED if word == "generalized" else Severity.MEMORIZED)


def test_every_verdict_has_a_severity() -> None:
    for word, calibrated, repeats in itertools.product(
        get_args(VerdictWord), (True, False), (True, False)
    ):
        sure = severity(audited(word, repeats=repeats))
        assert severity(audited(word, calibrated=calibrated, repeats=repeats)) >= sure


def test_an_undecided_prompt_without_repeats_is_no_finding_for_lack_of_calibration() -> None:
    assert severity(audited("undecided", calibrated=False, repeats=False)) == Severity.UNDECIDED


def test_spurious_named_by_spectra_may_be_memorized() -> None:
    assert severity(audited("spurious", named=True)) == Severity.MEMORIZED


def test_no_thresholds_is_not_calibrated() -> None:
    bare = audited("spurious").model_copy(update={"thresholds": None})
    assert severity(bare) == Severity.MEMORIZED


@pytest.mark.parametrize("fail_on", FAIL_ON)
def test_attractor_counts_as_memorized(fail_on: FailOn) -> None:
    assert is_finding(audited("attractor"), fail_on)
    assert is_finding(audited("spurious"), fail_on) == (fail_on in ("undecided", "spurious"))
    assert not is_finding(audited("generalized"), fail_on)
    assert not is_finding(audited("memorized"), None)


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (Outcome(prompts=3, findings=0, failed=0, missing=0), 0),
        (Outcome(prompts=3, findings=1, failed=0, missing=0), 1),
        (Outcome(prompts=3, findings=1, failed=1, missing=1), 1),
        (Outcome(prompts=3, findings=0, failed=1, missing=0), 3),
        (Outcome(prompts=3, findings=0, failed=0, missing=1), 3),
        (Outcome(prompts=0, findings=0, failed=0, missing=0), 3),
    ],
)
def test_exit_codes(result: Outcome, code: int) -> None:
    assert result.exit_code == code


def test_the_outcome_of_records() -> None:
    records = [batch_record("a kite"), batch_record("a dog", failed=True)]
    assert outcome(records, 3, "undecided") == Outcome(3, findings=1, failed=1, missing=1)
    assert outcome(records, 3, None) == Outcome(3, findings=0, failed=1, missing=1)


@given(st.sampled_from(get_args(VerdictWord)), st.sampled_from(get_args(VerdictWord)))
def test_the_worst_has_the_largest_badness(one: str, other: str) -> None:
    first, second = audited(one), audited(other)
    if severity(first) > severity(second):
        assert badness(first) > badness(second)


def test_among_equals_the_larger_share_is_worse() -> None:
    one = audited("memorized")
    shares = {**one.verdict.fractions, "generalized": interval(0.1, 0.0, 0.2)}
    more = one.model_copy(update={"verdict": one.verdict.model_copy(update={"fractions": shares})})
    assert badness(more) > badness(one)


# -- JUnit

HOSTILE = ["<b>&amp; ]]> \"'", "\0\x1b[31m\ud7ff\ufffe", "x" * 1000, "مرحبا \u202e"]


def junit(path: Path, prompts: list[str], records: list[BatchRecord], fail_on: FailOn | None):
    write_junit(path / "gate.xml", from_python(prompts).entries, records, fail_on)
    return ElementTree.parse(path / "gate.xml").getroot()


def test_findings_are_failures_and_gaps_are_errors(tmp_path: Path) -> None:
    prompts = ["a kite", "a dog", "a cat", "a sail"]
    clean = batch_record("a sail")
    clean = clean.model_copy(
        update={"verdict": clean.verdict.model_copy(update={"state": "generalized"})}
    )
    records = [batch_record("a kite"), batch_record("a dog", failed=True), clean]
    root = junit(tmp_path, prompts, records, "undecided")
    suite = root.find("testsuite")
    assert suite is not None
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors")}
    assert counts == {"tests": "4", "failures": "1", "errors": "2"}
    kinds = {case.get("name").split(" [")[0]: case[0].tag for case in suite}  # type: ignore[union-attr]
    assert kinds == {
        "a kite": "failure",
        "a dog": "error",
        "a cat": "error",
        "a sail": "system-out",
    }
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.get("type") == "undecided"
    assert "prompts/x" in str(failure.text)
    assert suite.find("testcase/skipped") is None


@pytest.mark.parametrize("fail_on", [None, "undecided"])
def test_what_keeps_new_pictures_from_being_cleared_is_named(
    tmp_path: Path, fail_on: FailOn | None
) -> None:
    one = batch_record("a kite")
    said = one.verdict.model_copy(update={"withheld": ["power was not measured"]})
    root = junit(tmp_path, ["a kite"], [one.model_copy(update={"verdict": said})], fail_on)
    [case] = root.iter("testcase")
    assert case[0].tag == ("system-out" if fail_on is None else "failure")
    assert "Not called generalized: power was not measured." in str(case[0].text)


def test_verdicts_are_counted_the_worst_first() -> None:
    assert {*WORST_FIRST} == {*get_args(VerdictWord)}
    severities = [severity(audited(word)) for word in WORST_FIRST]
    assert severities == sorted(severities, reverse=True)


def test_hostile_prompts_make_valid_xml(tmp_path: Path) -> None:
    root = junit(tmp_path, HOSTILE, [batch_record(prompt) for prompt in HOSTILE], None)
    names = [case.get("name") for case in root.iter("testcase")]
    assert len(set(names)) == len(HOSTILE)
    assert names[0].startswith(HOSTILE[0])  # type: ignore[union-attr]
    assert all(len(name) < 250 for name in names)  # type: ignore[arg-type]
