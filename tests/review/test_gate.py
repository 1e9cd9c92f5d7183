"""The gate: its order, its exit codes, and that it never fails open."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.prompts import from_python
from m2g_audit.records.record import AuditRecord, CalibrationRecord, IntervalRecord
from m2g_audit.records.vocabulary import FailOn, VerdictWord
from m2g_audit.review.gate import (
    WORST_FIRST,
    Outcome,
    Severity,
    badness,
    in_words,
    is_finding,
    outcome,
    reason,
    severity,
    workflow_commands,
    write_junit,
)
from m2g_audit.store.batch_directory import BatchRecord
from tests.support.batch_records import record as batch_record
from tests.support.samples import interval, sample_record

FAIL_ON = get_args(FailOn)


NARROW = {
    "memorized": interval(0.0, 0.0, 0.2),
    "attractor": interval(0.0, 0.0, 0.2),
    "generalized": interval(1.0, 0.7, 1.0),
}
"""Shares of a prompt that is undecided for lack of power alone."""


def audited(
    word: str,
    *,
    calibrated: bool = True,
    repeats: bool = True,
    named: bool = False,
    shares: Mapping[str, IntervalRecord] = NARROW,
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
            "verdict": one.verdict.model_copy(update={"state": word, "fractions": dict(shares)}),
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


@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({"memorized": interval(0.3, 0.1, 0.51)}, Severity.MEMORIZED),
        ({"attractor": interval(0.3, 0.1, 0.51)}, Severity.MEMORIZED),
        ({"generalized": interval(0.6, 0.49, 0.9)}, Severity.SPURIOUS),
        ({}, Severity.UNDECIDED),
    ],
)
def test_undecided_counts_by_the_upper_ends(
    calibrated: bool, shares: dict[str, IntervalRecord], expected: Severity
) -> None:
    one = audited("undecided", calibrated=calibrated, repeats=False, shares=NARROW | shares)
    assert severity(one) == expected
    assert is_finding(one, "memorized") == (expected == Severity.MEMORIZED)
    assert ("more than half" in reason(one)) == (expected != Severity.UNDECIDED)


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


# -- its words

STATES = [
    (word, calibrated, named)
    for word in get_args(VerdictWord)
    for calibrated in (True, False)
    for named in ((True, False) if word == "spurious" else (False,))
]


@pytest.mark.parametrize("fail_on", FAIL_ON)
@pytest.mark.parametrize(("word", "calibrated", "named"), STATES)
def test_the_last_lines_say_what_came_of_it_and_why(
    word: str, calibrated: bool, named: bool, fail_on: FailOn
) -> None:
    one = audited(word, calibrated=calibrated, named=named)
    found = outcome([one], 1, fail_on)
    lines = in_words(found, fail_on, Path("runs/a b"))
    if is_finding(one, fail_on):
        assert lines[0] == f"Gate FAILED, exit code 1: 1 of 1 prompt may be {fail_on} or worse."
        assert lines[1] == f"  1 {word}: {reason(one)}."
        assert lines[-1] == "Next: m2g-audit report 'runs/a b'"
    else:
        assert lines[0] == f"Gate passed, exit code 0: none of 1 prompt is {fail_on} or worse."
        assert any("undecided let pass" in line for line in lines) == (word == "undecided")


def table() -> str:
    """What each verdict does at each gate, as docs/batches.md shows it."""
    lines = [
        "| verdict | thresholds | fails at `--fail-on` | why it counts |",
        "| --- | --- | --- | --- |",
    ]
    rows: list[tuple[str, bool, bool, dict[str, IntervalRecord]]] = [
        (word, calibrated, named, {})
        for word, calibrated, named in sorted(STATES, key=lambda row: WORST_FIRST.index(row[0]))
    ]
    for shares in (
        {"memorized": interval(0.3, 0.1, 0.6)},
        {"generalized": interval(0.6, 0.4, 0.9)},
    ):
        rows.append(("undecided", True, False, shares))
    for word, calibrated, named, shares in rows:
        one = audited(word, calibrated=calibrated, named=named, shares=NARROW | shares)
        fails = [f"{level}" for level in FAIL_ON if is_finding(one, level)]
        by = "calibrated" if calibrated else "uncalibrated"
        name = f"`{word}`" + (", by a calibration of spectra" if named else "")
        lines.append(f"| {name} | {by} | {', '.join(fails) or 'none'} | {reason(one)} |")
    return "\n".join(lines)


def test_the_page_shows_what_each_verdict_does_at_each_gate() -> None:
    page = Path(__file__).parents[2] / "docs/batches.md"
    assert table() in page.read_text()


def test_what_has_no_verdict_is_counted() -> None:
    records = [batch_record("a kite", failed=True)]
    lines = in_words(outcome(records, 3, "memorized"), "memorized", Path("run"))
    assert lines[0] == "Gate FAILED, exit code 3: not every prompt has a verdict."
    assert lines[1].startswith("  1 failed")
    assert lines[2].startswith("  2 not audited yet")


def test_workflow_commands_are_a_line_each_whatever_the_prompt_holds() -> None:
    prompts = ["a%kite", "a\ndog::error title=x::y", "x" * 1000]
    records = [batch_record(prompt) for prompt in prompts] + [batch_record("a cat", failed=True)]
    lines = list(workflow_commands(records, "undecided"))
    assert len(lines) == 4
    assert all("\n" not in line and len(line) < 500 for line in lines)
    assert lines[0].startswith("::error title=undecided::a%25kite: ")
    assert lines[1].startswith("::error title=undecided::a dog::error title=x::y: ")
    assert lines[3] == "::error title=no verdict::a cat: NaN"
    assert not list(workflow_commands([batch_record("a kite")], None))


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
