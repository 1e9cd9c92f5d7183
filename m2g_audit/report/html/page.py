"""The page of a run: counts, a table of its prompts, and of each prompt what its verdict rests on.

One file holds everything, up to `INLINE_BYTES` of prompts' details. Above that they lie in a folder
beside the page, one script a prompt, which the page loads when the prompt is opened: a page on the
disk may load scripts, but fetch nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from m2g_audit.batch_directory import BatchRecord
from m2g_audit.calibration import Calibration, load
from m2g_audit.compare import Change, Comparison, compare
from m2g_audit.errors import AuditError
from m2g_audit.intervals import LEVEL, share_intervals
from m2g_audit.printable import printable
from m2g_audit.report.changes import left_out, sentence
from m2g_audit.report.colours import STATE_COLOURS, VERDICT_COLOURS
from m2g_audit.report.html.prompt import detail, row
from m2g_audit.runs import cannot_write, write_atomically
from m2g_audit.stored_runs import StoredRun

INLINE_BYTES = 24_000_000
REPORT_FILE = "report.html"
REDACTED_FILE = "report-redacted.html"
ORDER = ("memorized", "attractor", "mixed", "spurious", "undecided", "generalized")


@dataclass(frozen=True)
class Page:
    """Where a report lies; `details` is the folder beside it, None where one file holds all."""

    path: Path
    details: Path | None
    prompts: int


def write_report(
    run: StoredRun,
    out: Path | None = None,
    *,
    redact: bool = False,
    against: StoredRun | None = None,
) -> Page:
    """Write the HTML report of a run, `report.html` in its folder if no `out` is given.

    redact: blur all pictures; against: an earlier run, what changed since then is a section.
    UsageError where the two can't be compared, OutputError where a run can't be read, or the page
    not be written.
    """
    comparison = None if against is None else compare(against, run)
    path = out or run.path / (REDACTED_FILE if redact else REPORT_FILE)
    details = _Details(path.with_name(f"{path.stem}-files"))
    facts = _Facts(run)
    rows = []
    for record in run.records():
        facts.add(record)
        folder = run.path / record.folder
        calibration = _calibration(record)
        rows.append(row(record, folder, redact=redact))
        fragment = _template("prompt.html.j2").render(
            detail(record, folder, calibration, redact=redact)
        )
        details.add(record.listed.id, fragment)
    # Equally bad ones stay in the order of the list.
    rows.sort(key=lambda one: (one["verdict"] != "failed", one["badness"]), reverse=True)
    for rank, one in enumerate(rows):
        del one["badness"]
        one["rank"] = rank
    page = _page(run, facts, rows, details, redact, comparison)
    write_atomically(path, page.encode())
    return Page(path, details.folder if details.outside else None, len(rows))


class _Details:
    """The details of prompts: in memory while they are few, then each in a script of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inline: dict[str, str] = {}
        self.outside = False
        self._size = 0
        with suppress(OSError):  # of an earlier report of another size
            for old in folder.glob("*.js"):
                old.unlink()

    def add(self, prompt: str, fragment: str) -> None:
        """Keep the HTML of a prompt."""
        self.inline[prompt] = fragment
        self._size += len(fragment)
        if self.outside or self._size > INLINE_BYTES:
            self.outside = True
            for one, html in self.inline.items():
                self._write(one, f"m2gDetail({json.dumps(one)}, {json.dumps(html)});\n")
            self.inline.clear()

    def _write(self, prompt: str, script: str) -> None:
        # Not flushed to the disk one by one, as records are: a page is made again at will.
        path = self.folder / f"{prompt}.js"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(script)
        except OSError as error:
            raise cannot_write(path, error) from error


class _Facts:
    """What the head and the foot of the page say, gathered record by record."""

    def __init__(self, run: StoredRun) -> None:
        self.run = run
        self.verdicts: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.labels: dict[str, None] = {}
        self.failed = 0
        self.seconds = 0.0
        self.last: BatchRecord | None = None

    def add(self, record: BatchRecord) -> None:
        """Take in one record."""
        self.seconds += sum(record.timings.seconds.values())
        if record.listed.label is not None:
            self.labels[record.listed.label] = None
        if record.error is not None:
            self.failed += 1
            return
        self.last = record
        self.verdicts[record.verdict.state] += 1
        self.states.update(seed.state for seed in record.seeds)

    @property
    def missing(self) -> int:
        """How many prompts have no record."""
        return self.run.prompts - self.failed - self.verdicts.total()

    def shares(self) -> list[tuple[str, int, Any]]:
        """Each verdict with its count and the simultaneous interval of its share of prompts."""
        counts = {word: self.verdicts[word] for word in ORDER}
        intervals = share_intervals(counts)
        return [(word, counts[word], intervals[word]) for word in ORDER]


def _calibration(record: BatchRecord) -> Calibration | None:
    """The calibration that a record rests on, if its file is still there as it was."""
    asked = record.settings.asked.get("calibration")
    if record.calibration is None or not isinstance(asked, str):
        return None
    return _unchanged(Path(asked), record.calibration.sha256)


@cache
def _unchanged(path: Path, sha256: str) -> Calibration | None:
    with suppress(OSError, AuditError):
        if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            return load(path)
    return None


def _page(
    run: StoredRun,
    facts: _Facts,
    rows: list[dict[str, Any]],
    details: _Details,
    redact: bool,
    comparison: Comparison | None,
) -> str:
    from markupsafe import Markup

    environment = _environment()
    style = environment.get_template("style.css.j2").render(
        states=STATE_COLOURS, verdicts=VERDICT_COLOURS
    )
    assert environment.loader is not None
    script = environment.loader.get_source(environment, "report.js")[0]
    return _template("page.html.j2").render(
        policy=_policy(style, script, outside=details.outside),
        style=Markup(style),  # ours, and hashed in the policy
        script=Markup(script),
        run=run,
        facts=facts,
        level=LEVEL,
        redact=redact,
        rows=rows,
        # Rendered with autoescape already.
        details={one: Markup(html) for one, html in details.inline.items()},
        files=details.folder.name if details.outside else "",
        settings=list(_settings(facts)),
        comparison=comparison,
        earlier="" if comparison is None else Path(comparison.before).resolve().name,
        changes=() if comparison is None else _listed_changes(comparison),
        sentences=[] if comparison is None else [sentence(comparison), *left_out(comparison)],
    )


def _listed_changes(comparison: Comparison) -> list[tuple[str, list[Change]]]:
    """The changes of the page's section, by heading."""
    parts = (
        ("Worse", comparison.significant("worse")),
        ("Better", comparison.significant("better")),
        ("Another verdict, but it may be chance", comparison.within_chance),
    )
    return [(title, changes) for title, changes in parts if changes]


def _policy(style: str, script: str, *, outside: bool) -> str:
    """The page's Content-Security-Policy: its own style and script, pictures in it, nothing else.

    Details in files of their own are scripts that the page's own script loads, which
    'strict-dynamic' allows.
    """
    scripts = f"'sha256-{_hash(script)}'" + (" 'strict-dynamic'" if outside else "")
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_hash(style)}'; "
        f"script-src {scripts}; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _settings(facts: _Facts) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The settings and versions of a run, in groups of name and value."""
    last = facts.last
    if last is None:
        return
    parts = (
        ("Model", last.model),
        ("Settings", last.settings),
        ("Thresholds", last.thresholds),
        ("Reference", last.reference),
    )
    for title, part in parts:
        if part is not None:
            values = part.model_dump(mode="json", exclude={"asked"})
            yield title, [(k.replace("_", " "), _value(v)) for k, v in values.items()]
    yield "Versions", list(last.versions.items())


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " × ".join(map(str, value)) if isinstance(value, list) else str(value)


def _template(name: str) -> Any:
    return _environment().get_template(name)


@cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("m2g_audit.report.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    environment.filters["signed"] = lambda share: f"{share:+.0%}"
    environment.filters["percent"] = lambda share: f"{share:.0%}"
    return environment
