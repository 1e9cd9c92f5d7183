"""The page of a run: counts, a table of its prompts, and of each prompt what its verdict rests on.

One file holds everything, up to `INLINE_BYTES` of prompts' details. Above that they lie in a folder
beside the page, one file a prompt, which the page loads when the prompt is opened. A page on the
disk may fetch nothing, only load scripts and style sheets. They are style sheets: whatever lies
there can run nothing in the page.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from m2g_audit.calibration.calibration_record import load
from m2g_audit.current_folder import worker_processes
from m2g_audit.errors import AuditError, OutputError
from m2g_audit.files import cannot_write, write_atomically
from m2g_audit.foreign_files import open_file, read_file, within
from m2g_audit.records.record import PowerRecord, ThresholdRecord
from m2g_audit.reports.changes import duplicated, left_out, memorized, sentence
from m2g_audit.reports.colours import STATE_COLOURS, VERDICT_COLOURS
from m2g_audit.reports.html.plots import Bands, bands_of
from m2g_audit.reports.html.prompt_row import Picture, detail, pair_pictures, row
from m2g_audit.reports.html.redaction import without_folders
from m2g_audit.review.answer import Answer
from m2g_audit.review.compare import Change, Comparison, compare
from m2g_audit.review.gate import WORST_FIRST
from m2g_audit.review.grounds import GLOSSARY, MEANINGS, mark, ordinary, origin
from m2g_audit.store.batch_directory import BatchRecord
from m2g_audit.store.run_directory import CALIBRATION_FILE
from m2g_audit.store.stored_run import StoredRun
from m2g_audit.text import duration, printable
from m2g_audit.verdict.intervals import LEVEL, share_intervals
from m2g_audit.verdict.sentences import least_found, model_lines

INLINE_BYTES = 24_000_000
REPORT_FILE = "report.html"
REDACTED_FILE = "report-redacted.html"
_MARK = b'<meta name="generator" content="m2g-audit">'
_DETAILS_MARK = b"/* m2g-audit: the details of a prompt, in base64 */\n"
_PART = 1_000_000  # letters; browsers take no values of more than two millions
_STATIC = 100  # rows of the table that stand in the page, and that its script shows at first
_HEAD = 4096  # bytes
_AHEAD = 8  # prompts that wait for each process


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
    processes: int = 1,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Page:
    """Write the HTML report of a run, `report.html` in its folder if no `out` is given.

    redact: blur all pictures, and leave of absolute paths their last part; against: an earlier run,
    what changed since then is a section; processes: that draw figures; on_progress: told how many
    prompts are done. UsageError where the two can't be compared, OutputError where a run can't be
    read, or the page not be written, such as over a file that is no report.
    """
    comparison = None if against is None else compare(against, run)
    path = out or run.path / (REDACTED_FILE if redact else REPORT_FILE)
    _refuse_other_file(path, _MARK)
    details = _Details(path.with_name(f"{path.stem}-files"))
    facts = _Facts(run)
    rows = []
    records = map(without_folders, run.records()) if redact else run.records()
    for record, made in _drawn(_Maker(run.path.absolute(), redact), records, processes):
        facts.add(record)
        rows.append(made.row)
        details.add(record.listed.id, made.fragment)
        on_progress(len(rows))
    # Equally bad ones stay in the order of the list.
    rows.sort(key=lambda one: (one["verdict"] != "failed", one["badness"]), reverse=True)
    for rank, one in enumerate(rows):
        del one["badness"]
        one["rank"] = rank
    page = _page(run, facts, rows, details, redact, comparison)
    write_atomically(path, page.encode())
    details.clear_away({one["id"] for one in rows} if details.outside else set())
    return Page(path, details.folder if details.outside else None, len(rows))


@dataclass(frozen=True)
class _Made:
    """What the page holds of one prompt: its row in the table, and the HTML of its details."""

    row: dict[str, Any]
    fragment: str


@dataclass(frozen=True)
class _Maker:
    """Makes one prompt's part of the page; a value, so that another process can have it."""

    folder: Path
    redact: bool

    def __call__(self, record: BatchRecord) -> _Made:
        try:
            folder = within(self.folder, record.folder)
        except OSError as error:
            raise OutputError(
                f"{self.folder / record.folder} can't be read: {error.strerror}. Links that lead "
                "out of a run are not followed: put what they point to in their place."
            ) from error
        values = detail(record, folder, _bands(record, self.folder), redact=self.redact)
        fragment = _template("prompt.html.j2").render(values)
        return _Made(row(record, folder, redact=self.redact), fragment)


def _drawn(
    make: _Maker, records: Iterable[BatchRecord], processes: int
) -> Iterator[tuple[BatchRecord, _Made]]:
    """Yield records in their order with what is made of them, a few ahead of what is taken."""
    if processes < 2:
        yield from ((record, make(record)) for record in records)
        return
    waiting: deque[tuple[BatchRecord, Future[_Made]]] = deque()
    with worker_processes(processes) as pool:
        for record in records:
            waiting.append((record, pool.submit(make, record)))
            if len(waiting) > _AHEAD * processes:
                first, made = waiting.popleft()
                yield first, made.result()
        for record, made in waiting:
            yield record, made.result()


def _refuse_other_file(path: Path, mark: bytes) -> None:
    """Raise OutputError where something lies at `path` that this program did not write there."""
    if not os.path.lexists(path):
        return
    if not path.is_symlink():
        with suppress(OSError), open_file(path) as file:
            if mark in file.read(_HEAD):
                return
    raise OutputError(
        f"{path} is there and no part of a report: nothing is written over it. Move it away, or "
        "choose another file with --out."
    )


class _Details:
    """The details of prompts: in memory while they are few, then each in a file of its own."""

    def __init__(self, folder: Path) -> None:
        if folder.is_symlink():
            _refuse_other_file(folder, _DETAILS_MARK)
        self.folder = folder
        self.inline: dict[str, str] = {}
        self.outside = False
        self._size = 0

    def add(self, prompt: str, fragment: str) -> None:
        """Keep the HTML of a prompt."""
        self.inline[prompt] = fragment
        self._size += len(fragment)
        if self.outside or self._size > INLINE_BYTES:
            self.outside = True
            for one, html in self.inline.items():
                self._write(one, html)
            self.inline.clear()

    def _write(self, prompt: str, html: str) -> None:
        # Not flushed to the disk one by one, as records are: a page is made again at will.
        path = self.folder / f"{prompt}.css"
        _refuse_other_file(path, _DETAILS_MARK)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_style_sheet(prompt, html))
        except OSError as error:
            raise cannot_write(path, error) from error

    def clear_away(self, kept: set[str]) -> None:
        """Remove the details of an earlier report that belong to none of these prompts."""
        with suppress(OSError):
            for old in self.folder.glob("*.css"):
                if re.fullmatch("[0-9a-f]{16}", old.stem) and old.stem not in kept:
                    _remove_details(old)
            if not kept:
                self.folder.rmdir()


def _style_sheet(prompt: str, html: str) -> bytes:
    """The HTML of a prompt as a style sheet's variables, which report.js joins and decodes."""
    text = base64.b64encode(html.encode()).decode()
    parts = [text[start : start + _PART] for start in range(0, len(text), _PART)]
    lines = [f'--m2g-{prompt}-{number}: "{part}";\n' for number, part in enumerate(parts)]
    return _DETAILS_MARK + f":root {{\n{''.join(lines)}}}\n".encode()


def _remove_details(path: Path) -> None:
    with suppress(OutputError):
        _refuse_other_file(path, _DETAILS_MARK)
        path.unlink()


class _Facts:
    """What the head and the foot of the page say, gathered record by record."""

    def __init__(self, run: StoredRun) -> None:
        self.run = run
        self.verdicts: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.labelled = False
        self.answer = Answer(run.prompts)
        self.seconds = 0.0
        self.evaluations = 0
        self.last: BatchRecord | None = None
        self.withheld: Counter[str] = Counter()
        self.hanging = 0
        self._powers: dict[float, PowerRecord] = {}
        self._delta_m: set[float] = set()
        self._delta_s: set[float] = set()

    def add(self, record: BatchRecord) -> None:
        """Take in one record."""
        self.seconds += sum(record.timings.seconds.values())
        self.evaluations += sum(record.evaluations.values())
        self.labelled |= record.listed.label is not None
        self.answer.add(record)
        if record.error is not None:
            return
        self.last = record
        self.verdicts[record.verdict.state] += 1
        self.states.update(seed.state for seed in record.seeds)
        self.withheld.update(record.verdict.withheld)
        self.hanging += record.verdict.hangs_on_threshold
        if record.power is not None:
            self._powers.setdefault(least_found(record.power).low, record.power)
        if (limits := record.thresholds) is not None:
            self._delta_m |= set() if limits.delta_m is None else {limits.delta_m}
            self._delta_s |= set() if limits.delta_s is None else {limits.delta_s}

    @property
    def power(self) -> PowerRecord | None:
        """The power of the prompt whose thresholds find the fewest planted copies."""
        return self._powers[min(self._powers)] if self._powers else None

    @property
    def powers(self) -> int:
        """How many powers there are: pocket has thresholds for each caption."""
        return len(self._powers)

    @property
    def thresholds(self) -> ThresholdRecord | None:
        """Those of the last prompt; where they come from is the same for all."""
        return None if self.last is None else self.last.thresholds

    @property
    def origin(self) -> str | None:
        """Where thresholds come from."""
        return None if self.thresholds is None else origin(self.thresholds, self.power)

    @property
    def mark(self) -> str | None:
        """How thresholds that were not measured are marked."""
        return mark(self.thresholds)

    @property
    def notes(self) -> list[str]:
        """What was noticed while thresholds were found."""
        return [] if self.thresholds is None else self.thresholds.notes

    @property
    def limits(self) -> str:
        """The thresholds, or the least and the largest of the prompts' own."""
        if self.thresholds is None or not self._delta_s:
            return ""
        same = f"Two pictures count as the same up to {_span(self._delta_s)} in "
        copy = ""
        if self._delta_m:
            copy = f"; a copy of a reference picture up to {_span(self._delta_m)}"
        return f"{same}{self.thresholds.metric}{copy}."

    @property
    def about_model(self) -> list[str]:
        """What control prompts show about the model."""
        return [] if self.last is None else model_lines(self.last)

    @property
    def ordinary(self) -> str | None:
        """The same of a model about which nothing was found."""
        if self.last is None or self.last.findings is None or self.about_model:
            return None
        return ordinary(self.last.findings)

    def shares(self) -> list[tuple[str, int, Any]]:
        """Each verdict with its count and the simultaneous interval of its share of prompts."""
        counts = {word: self.verdicts[word] for word in WORST_FIRST}
        intervals = share_intervals(counts)
        return [(word, counts[word], intervals[word]) for word in WORST_FIRST]


def _span(values: set[float]) -> str:
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}, by prompt"


def _bands(record: BatchRecord, run: Path) -> Bands:
    """The bands of the calibration that a record rests on, if the run has a copy of it."""
    if record.calibration is None or not record.curvature:
        return {}
    return _unchanged(run, record.calibration.sha256)


@cache
def _unchanged(run: Path, sha256: str) -> Bands:
    with suppress(OSError, AuditError):
        path = within(run, CALIBRATION_FILE)
        if hashlib.sha256(read_file(path)).hexdigest() == sha256:
            return bands_of(load(path))
    return {}


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
        pair=_pair(facts, run.path.absolute(), redact),
        level=LEVEL,
        meanings=MEANINGS,
        glossary=GLOSSARY,
        redact=redact,
        rows=rows,
        static=_STATIC,
        redacting=f"m2g-audit report {shlex.quote(printable(run.name))} --redact",
        # Rendered with autoescape already.
        details={one: Markup(html) for one, html in details.inline.items()},
        files=details.folder.name if details.outside else "",
        settings=list(_settings(facts)),
        comparison=comparison,
        earlier="" if comparison is None else Path(comparison.before).resolve().name,
        changes=() if comparison is None else _listed_changes(comparison),
        sentences=[] if comparison is None else [sentence(comparison), *left_out(comparison)],
    )


def _pair(facts: _Facts, run: Path, redact: bool) -> list[Picture]:
    """The pictures of the worst pair; none where nothing repeats, or where they can't be read."""
    if (found := facts.answer.pair) is None:
        return []
    with suppress(OSError):
        return pair_pictures(found, within(run, found.record.folder), redact=redact)
    return []


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

    Details in files of their own are style sheets beside it: no script but its own runs.
    """
    styles = f"'sha256-{_hash(style)}'" + (" 'self' file:" if outside else "")
    return (
        f"default-src 'none'; img-src data:; style-src {styles}; "
        f"script-src 'sha256-{_hash(script)}'; base-uri 'none'; form-action 'none'"
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
            values = part.model_dump(mode="json", exclude={"asked", "notes", "strict", "loose"})
            yield title, [(k.replace("_", " "), _value(v)) for k, v in values.items()]
    yield "Versions", list(last.versions.items())
    yield (
        "Work",
        [
            ("all stages of all prompts", duration(facts.seconds)),
            ("network evaluations", f"{facts.evaluations:,}"),
        ],
    )


def _value(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return " × ".join(map(str, value)) if isinstance(value, list) else str(value)


def _template(name: str) -> Any:
    return _environment().get_template(name)


def _sentence(text: str) -> Any:
    """A sentence of ours as HTML, in which what is quoted turns the direction of nothing else."""
    from markupsafe import Markup, escape

    return Markup(re.sub("“([^”]*)”", r"“<bdi>\1</bdi>”", str(escape(printable(text)))))


@cache
def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("m2g_audit.reports.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    environment.filters["sentence"] = _sentence
    environment.filters["duplicated"] = duplicated
    environment.filters["memorized"] = memorized
    environment.filters["signed"] = lambda share: f"{share:+.0%}"
    environment.filters["percent"] = lambda share: f"{share:.0%}"
    return environment
