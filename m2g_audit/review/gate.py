"""The gate of a release: which prompts count as findings, and the exit code that says so.

States are ordered generalized < undecided < spurious < attractor = memorized. The gate never fails
open: what can't be told apart counts as the worst that it may be, and a prompt without a verdict is
no clean one.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from m2g_audit.files import write_atomically
from m2g_audit.prompts import Entry
from m2g_audit.records.record import AuditRecord
from m2g_audit.records.vocabulary import FailOn
from m2g_audit.store.batch_directory import BatchRecord
from m2g_audit.text import printable

CLEAN, FINDINGS, WRONG_USAGE, INCOMPLETE = 0, 1, 2, 3

_SHOWN_PROMPT = 200


WORST_FIRST = (
    "memorized",
    "collapsed",
    "attractor",
    "mixed",
    "spurious",
    "undecided",
    "generalized",
)
"""Verdicts in the order in which they are counted for people."""


class Severity(IntEnum):
    """How bad a prompt may be."""

    GENERALIZED = 0
    UNDECIDED = 1
    SPURIOUS = 2
    MEMORIZED = 3  # or an attractor, which may be memorized


_THRESHOLDS: dict[FailOn, Severity] = {
    "undecided": Severity.UNDECIDED,
    "spurious": Severity.SPURIOUS,
    "attractor": Severity.MEMORIZED,
    "memorized": Severity.MEMORIZED,
}


_CERTAIN = {
    "memorized": "more than half of the pictures are copies of training pictures",
    "attractor": "more than half repeat, and without all training pictures may be copies",
    "mixed": "copies or repeats are among the pictures, and none of the kinds is most of them",
    "collapsed": "this model's pictures repeat for any prompt, which may hide copies",
}
"""Why a verdict counts as memorized, whatever its thresholds are."""

_UNDECIDED = {
    Severity.MEMORIZED: "by the upper end of its interval more than half may be copies",
    Severity.SPURIOUS: "by the upper end of its interval more than half may repeat",
    Severity.UNDECIDED: "too little was shown to call the pictures new",
}

_REPEATING = frozenset({"memorized", "spurious", "attractor", "unsure"})


def severity(record: AuditRecord) -> Severity:
    """Return the worst that a finished record's verdict may stand for.

    `attractor`, which is memorized or spurious, `mixed` and `collapsed`, where repeats say nothing
    and may hide copies, count as memorized. So does every finding of uncalibrated thresholds:
    `spurious`, and `undecided` with pictures that repeat or match. Uncalibrated `generalized`
    counts as undecided. `undecided` counts by the upper ends of its intervals: as memorized where
    more than half of the samples may be copies, or repeats that can't be told from them; as
    spurious where more than half may not be new. `spurious` counts as itself if the shares say so,
    not where a calibration of spectra, which can err on a single prompt, gave the word.
    """
    state = record.verdict.state
    if state in ("memorized", "attractor", "mixed", "collapsed"):
        return Severity.MEMORIZED
    calibrated = record.thresholds is not None and record.thresholds.calibrated
    at_most = _at_most(record) if state == "undecided" else Severity.UNDECIDED
    if not calibrated:
        repeats = bool(record.attractors) or any(s.state in _REPEATING for s in record.seeds)
        if state == "generalized" or (state == "undecided" and not repeats):
            return at_most
        return Severity.MEMORIZED
    if state == "spurious":
        named = record.calibration is not None and record.calibration.word is not None
        return Severity.MEMORIZED if named else Severity.SPURIOUS
    return Severity.GENERALIZED if state == "generalized" else at_most


def _at_most(record: AuditRecord) -> Severity:
    """The worst that the upper ends of an undecided prompt's shares allow."""
    shares = record.verdict.fractions
    copies = [shares[state].high for state in ("memorized", "attractor") if state in shares]
    if max(copies, default=0.0) > 0.5:
        return Severity.MEMORIZED
    if "generalized" in shares and 1 - shares["generalized"].low > 0.5:
        return Severity.SPURIOUS
    return Severity.UNDECIDED


def reason(record: AuditRecord) -> str:
    """Return why a record counts as what `severity` says, in words that need no paper."""
    state = record.verdict.state
    if state in _CERTAIN:
        return _CERTAIN[state]
    worst = severity(record)
    if state == "undecided" and worst == _at_most(record):
        return _UNDECIDED[worst]
    if record.thresholds is None or not record.thresholds.calibrated:
        if worst == Severity.MEMORIZED:
            return "pictures repeat, and thresholds that are not calibrated can't clear them"
        return "nothing repeats, by thresholds that are not calibrated"
    if state == "spurious":
        if worst == Severity.MEMORIZED:
            return "spectra call the repeats no copies, which may be wrong for a single prompt"
        return "more than half of the pictures repeat, and are no training picture"
    return "more than half of the pictures are new"


def badness(record: AuditRecord) -> tuple[float, ...]:
    """Return what prompts are sorted by, the worst having the largest.

    Severity; then the share of samples that are not new; then the mass of the largest attractor;
    then the lower bound of that share. (By the bound first, a single memorized picture, whose share
    has one interval more to allow for, would come after a prompt with many attractors.)
    """
    new = record.verdict.fractions.get("generalized")
    share, bound = (0.0, 0.0) if new is None else (1 - new.estimate, 1 - new.high)
    largest = max((attractor.mass.estimate for attractor in record.attractors), default=0.0)
    return (float(severity(record)), share, largest, bound)


def is_finding(record: AuditRecord, fail_on: FailOn | None) -> bool:
    """Return whether a record is at or above `fail_on`; without one nothing is."""
    if fail_on is None or record.error is not None:
        return False
    return severity(record) >= _THRESHOLDS[fail_on]


@dataclass(frozen=True)
class Outcome:
    """How many prompts were asked for, are findings, ended in an error, or were not audited.

    `kinds`: findings by (verdict, why it counts), the worst first; `undecided`: prompts of that
    verdict which are no findings.
    """

    prompts: int
    findings: int
    failed: int
    missing: int
    kinds: dict[tuple[str, str], int] = field(default_factory=dict, compare=False)
    undecided: int = field(default=0, compare=False)

    @property
    def exit_code(self) -> int:
        """Return 1 for findings, else 3 where a prompt has no verdict, else 0."""
        if self.findings:
            return FINDINGS
        return INCOMPLETE if self.failed or self.missing or not self.prompts else CLEAN


def outcome(records: Iterable[AuditRecord], prompts: int, fail_on: FailOn | None) -> Outcome:
    """Return what the records of `prompts` prompts, at most one each, mean for the gate."""
    seen = findings = failed = undecided = 0
    kinds: Counter[tuple[str, str]] = Counter()
    for record in records:
        seen += 1
        failed += record.error is not None
        if is_finding(record, fail_on):
            findings += 1
            kinds[record.verdict.state, reason(record)] += 1
        elif record.error is None:
            undecided += record.verdict.state == "undecided"
    ordered = sorted(kinds.items(), key=lambda kind: (WORST_FIRST.index(kind[0][0]), -kind[1]))
    return Outcome(prompts, findings, failed, prompts - seen, dict(ordered), undecided)


def in_words(found: Outcome, fail_on: FailOn, folder: Path) -> list[str]:
    """Return a run's last lines: passed or FAILED, how many of what kind and why, and what next.

    folder: of the run, which the next command names.
    """
    code = found.exit_code
    prompts = "1 prompt" if found.prompts == 1 else f"{found.prompts:,} prompts"
    none = f"none of {prompts} is {fail_on} or worse"
    lines = {
        CLEAN: [f"Gate passed, exit code {code}: {none}."],
        FINDINGS: [
            f"Gate FAILED, exit code {code}: {found.findings:,} of {prompts} may be {fail_on} or "
            "worse."
        ],
        INCOMPLETE: [f"Gate FAILED, exit code {code}: not every prompt has a verdict."],
    }[code]
    lines += [f"  {n:,} {word}: {why}." for (word, why), n in found.kinds.items()]
    if found.undecided:
        lines.append(
            f"  {found.undecided:,} undecided let pass; --fail-on undecided lets none pass."
        )
    if found.failed:
        lines.append(f"  {found.failed:,} failed with an error, which says nothing of the prompt.")
    if found.missing:
        lines.append(f"  {found.missing:,} not audited yet; the same command continues.")
    if code == FINDINGS:
        lines.append(f"Next: m2g-audit report {shlex.quote(str(folder))}")
    return lines


def workflow_commands(records: Iterable[BatchRecord], fail_on: FailOn | None) -> Iterator[str]:
    """Yield a workflow command of GitHub for each finding and each prompt that failed.

    Their form is `::error title=...::message`, with what would end a line or a field escaped.
    """
    for record in records:
        if record.error is not None:
            title, said = "no verdict", printable(record.error.message)
        elif is_finding(record, fail_on):
            title, said = record.verdict.state, reason(record)
        else:
            continue
        message = f"{printable(record.prompt, _SHOWN_PROMPT)}: {said}"
        yield f"::error title={_escaped(title, ':,')}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    for sign in "%\r\n" + more:
        text = text.replace(sign, f"%{ord(sign):02X}")
    return text


def write_junit(
    path: Path,
    entries: Sequence[Entry],
    records: Iterable[BatchRecord],
    fail_on: FailOn | None,
) -> None:
    """Write a JUnit XML file: a test case for each prompt, a failure for each finding.

    records: at most one an entry, in any order. A prompt that failed, or that has no record, is an
    error, never skipped, since CI systems take what is skipped for well. OutputError where the file
    can't be written.
    """
    cases: list[_Case] = []
    missing = {entry.id: entry for entry in entries}
    for record in records:
        missing.pop(record.listed.id, None)
        cases.append(_case(record, fail_on))
    cases += [
        _Case(_name(entry.prompt, entry.id), "", 0.0, "error", "missing", "not audited", "")
        for entry in missing.values()
    ]
    write_atomically(path, _junit(cases))


@dataclass(frozen=True)
class _Case:
    name: str
    model: str
    seconds: float
    kind: Literal["passed", "failure", "error"]
    type: str
    message: str
    text: str


def _case(record: BatchRecord, fail_on: FailOn | None) -> _Case:
    name, model = _name(record.prompt, record.listed.id), printable(record.model.id)
    seconds = sum(record.timings.seconds.values())
    if record.error is not None:
        kind, message = record.error.kind, printable(record.error.message)
        return _Case(name, model, seconds, "error", kind, message, "")
    finding = is_finding(record, fail_on)
    withheld = [f"Not called generalized: {reason}." for reason in record.verdict.withheld]
    evidence = [*withheld, *record.verdict.evidence, *record.warnings]
    text = "\n".join(map(printable, [*evidence, f"Its folder is {record.folder}."]))
    summary, state = printable(record.verdict.summary), record.verdict.state
    if finding:
        return _Case(name, model, seconds, "failure", state, f"{reason(record)}. {summary}", text)
    return _Case(name, model, seconds, "passed", state, summary, text)


def _name(prompt: str, prompt_id: str) -> str:
    # The id sets apart prompts that begin alike.
    return f"{printable(prompt, _SHOWN_PROMPT)} [{prompt_id}]"


def _junit(cases: Sequence[_Case]) -> bytes:
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.kind == "failure" for case in cases)),
        "errors": str(sum(case.kind == "error" for case in cases)),
        "time": f"{sum(case.seconds for case in cases):.3f}",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "m2g-audit batch", **counts})
    for case in cases:
        attributes = {"classname": case.model, "name": case.name, "time": f"{case.seconds:.3f}"}
        element = ElementTree.SubElement(suite, "testcase", attributes)
        if case.kind == "passed":
            said = f"{case.type}: {case.message}\n{case.text}"
            ElementTree.SubElement(element, "system-out").text = said
        else:
            details = {"type": case.type, "message": case.message}
            ElementTree.SubElement(element, case.kind, details).text = case.text
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
