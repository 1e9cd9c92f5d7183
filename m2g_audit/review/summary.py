"""What a batch came to: a table of one row a prompt, and a summary of all of them."""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from pydantic import JsonValue

from m2g_audit.files import cannot_write, draft_of, write_atomically
from m2g_audit.prompts import Entry
from m2g_audit.records.part import Part
from m2g_audit.records.record import (
    IntervalRecord,
    ModelRecord,
    PowerRecord,
    Settings,
    ThresholdRecord,
)
from m2g_audit.review.gate import badness, severity
from m2g_audit.review.grounds import smallest_margins
from m2g_audit.store.batch_directory import RESULTS_FILE, SUMMARY_FILE, BatchDirectory, BatchRecord
from m2g_audit.verdict.sentences import least_found, model_lines

if TYPE_CHECKING:
    import pyarrow as pa

SUMMARY_VERSION = "1.1"
SHARES = ("memorized", "spurious", "attractor", "generalized")
_ROWS = 1000
_WORST = 20
_FAILED = 100


class ShortRecord(Part):
    """One prompt in a line."""

    prompt: str
    """The prompt."""
    id: str
    """Its id in the batch."""
    folder: str
    """Its folder, relative to the batch's."""
    state: str
    """The word."""
    severity: str
    """The worst that it may be (gate.py)."""
    summary: str
    """The verdict in a sentence or two."""
    not_new: IntervalRecord | None
    """The share of samples that are not new."""
    hangs_on_threshold: bool = False
    """Whether another quantile of the null would give another word."""


class FailedPrompt(Part):
    """A prompt that ended in an error, and which."""

    prompt: str
    """The prompt."""
    id: str
    """Its id in the batch."""
    kind: str
    """The class of the error."""
    message: str
    """What happened, why, and what to do."""


class Summary(Part):
    """Counts over the prompts of a batch, or of one process's share of it."""

    schema_version: str = SUMMARY_VERSION
    """Of this schema."""
    prompts: int
    """How many were asked for."""
    done: int
    """How many have a verdict."""
    failed: int
    """How many have a record with an error; the others have none."""
    verdicts: dict[str, int]
    """Prompts by their word."""
    model_lines: list[str] = []
    """What was found about the model, whatever the prompt."""
    withheld: dict[str, int] = {}
    """Why new pictures were not called `generalized`, with how many prompts."""
    hanging: int = 0
    """Prompts whose verdict hangs on the threshold."""
    severities: dict[str, int]
    """Prompts by the worst that each may be (gate.py)."""
    labels: dict[str, dict[str, int]]
    """Verdicts by what the list says of a prompt."""
    seconds: dict[str, float]
    """Sums over records, by stage."""
    evaluations: dict[str, int]
    """Forward passes of the network, by stage."""
    worst: list[ShortRecord]
    """The worst prompts, worst first."""
    failures: list[FailedPrompt]
    """At most 100 that failed."""
    notices: list[str]
    """What was noticed about the list and the folder."""
    model: ModelRecord | None
    """Which model."""
    settings: Settings | None
    """What was resolved."""
    thresholds: ThresholdRecord | None
    """Those of the last prompt."""
    power: PowerRecord | None = None
    """That of the last prompt."""
    versions: dict[str, str]
    """Of packages, and the commit."""

    @property
    def missing(self) -> int:
        """Return how many prompts have no record."""
        return self.prompts - self.done - self.failed


def summarise(
    directory: BatchDirectory, entries: Sequence[Entry] | None = None, notices: Sequence[str] = ()
) -> Summary:
    """Return the summary of a batch, or of some of its prompts, from the records that are there."""
    entries = directory.entries if entries is None else entries
    verdicts, severities, withheld = Counter[str](), Counter[str](), Counter[str]()
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    seconds, evaluations = Counter[str](), Counter[str]()
    worst: list[tuple[tuple[float, ...], int, ShortRecord]] = []
    failures: list[FailedPrompt] = []
    failed = hanging = 0
    last: BatchRecord | None = None
    for record in directory.log.get([entry.id for entry in entries]):
        for stage, taken in record.timings.seconds.items():
            seconds[stage] += taken  # type: ignore[assignment]
        evaluations.update(record.evaluations)
        if record.error is not None:
            failed += 1
            if len(failures) < _FAILED:
                failures.append(_failed(record))
            continue
        last = record
        state = record.verdict.state
        verdicts[state] += 1
        withheld.update(record.verdict.withheld)
        hanging += record.verdict.hangs_on_threshold
        severities[severity(record).name.lower()] += 1
        if record.listed.label is not None:
            labels[record.listed.label][state] += 1
        # Of equally bad ones the first stays; the index also keeps records from being compared.
        item = (badness(record), -record.listed.index, _short(record))
        (heapq.heappush if len(worst) < _WORST else heapq.heappushpop)(worst, item)
    return Summary(
        prompts=len(entries),
        done=sum(verdicts.values()),
        failed=failed,
        verdicts=dict(verdicts.most_common()),
        model_lines=[] if last is None else model_lines(last),
        withheld=dict(withheld.most_common()),
        hanging=hanging,
        severities=dict(severities),
        labels={label: dict(counts.most_common()) for label, counts in sorted(labels.items())},
        seconds={stage: round(taken, 3) for stage, taken in seconds.items()},
        evaluations=dict(evaluations),
        worst=[short for _, _, short in sorted(worst, key=lambda item: item[:2], reverse=True)],
        failures=failures,
        notices=list(notices),
        model=None if last is None else last.model,
        settings=None if last is None else last.settings,
        thresholds=None if last is None else last.thresholds,
        power=None if last is None else last.power,
        versions={} if last is None else last.versions,
    )


def _short(record: BatchRecord) -> ShortRecord:
    new = record.verdict.fractions.get("generalized")
    return ShortRecord(
        prompt=record.texts,
        id=record.listed.id,
        folder=record.folder,
        state=record.verdict.state,
        severity=severity(record).name.lower(),
        summary=record.verdict.summary,
        not_new=None if new is None else _rest(new),
        hangs_on_threshold=record.verdict.hangs_on_threshold,
    )


def _rest(share: IntervalRecord) -> IntervalRecord:
    """Return the share of all others."""
    turned = {"estimate": 1 - share.estimate, "low": 1 - share.high, "high": 1 - share.low}
    return share.model_copy(update=turned)


def _failed(record: BatchRecord) -> FailedPrompt:
    assert record.error is not None
    return FailedPrompt(
        prompt=record.texts,
        id=record.listed.id,
        kind=record.error.kind,
        message=record.error.message,
    )


def results_schema() -> list[dict[str, str]]:
    """Return name, type and description of each column of results.parquet."""
    return [asdict(column) for column in COLUMNS]


def write_summary(directory: BatchDirectory, summary: Summary) -> None:
    """Write summary.json; OutputError where it can't be written."""
    write_atomically(
        directory.path / SUMMARY_FILE, f"{summary.model_dump_json(indent=1)}\n".encode()
    )


def write_results(directory: BatchDirectory) -> None:
    """Write results.parquet: one row for each prompt that has a record, in the order of the list.

    The list's own columns follow those of the results under their names, or NAME_listed where the
    results have one of that name. OutputError where it can't be written.
    """
    import pyarrow
    from pyarrow import parquet

    schema, extras = _schema(directory.entries)
    path = directory.path / RESULTS_FILE
    draft = draft_of(path)
    records = directory.records()
    try:
        with parquet.ParquetWriter(draft, schema, compression="zstd") as writer:
            while rows := [_row(record, extras) for record in islice(records, _ROWS)]:
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
        draft.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error


def results_table(records: Iterable[BatchRecord], entries: Sequence[Entry] = ()) -> pa.Table:
    """Return a table of one row per record, with the columns of results.parquet."""
    import pyarrow

    schema, extras = _schema(entries)
    return pyarrow.Table.from_pylist([_row(record, extras) for record in records], schema=schema)


def finish(directory: BatchDirectory, notices: Sequence[str] = ()) -> bool:
    """Write the table and the summary if every prompt of the list has a record; whether it has.

    OutputError where the folder was removed meanwhile, or its files can't be written.
    """
    directory.check_still_there()
    directory.log.refresh()
    settled = directory.log.finished | directory.log.failures.keys()
    if any(entry.id not in settled for entry in directory.entries):
        return False
    directory.log.compact()
    write_results(directory)
    write_summary(directory, summarise(directory, notices=notices))
    return True


def _schema(entries: Sequence[Entry]) -> tuple[pa.Schema, dict[str, tuple[str, Any]]]:
    """The table's schema, and of the list's own columns their names there and types."""
    import pyarrow

    extras = _extra_types(entries)
    listed = ((name, kind) for name, (_, kind) in extras.items())
    return pyarrow.schema([*_columns(), *listed]), extras


@dataclass(frozen=True)
class Column:
    """A column of results.parquet: its name, pyarrow's name of its type, and what it holds."""

    name: str
    kind: Literal["string", "float64", "int64", "bool"]
    description: str


_ENDS = {
    "": "The share of seeds that are",
    "_low": "Lower end of that",
    "_high": "Upper end of that",
}
_SHARES = tuple(
    Column(f"{share}{end}", "float64", f"{said} {share}." if not end else f"{said}.")
    for share in SHARES
    for end, said in _ENDS.items()
)
COLUMNS = (
    Column("prompt", "string", "The prompt."),
    Column("negative_prompt", "string", "What it was sampled away from."),
    Column("id", "string", "Its id."),
    Column("index", "int64", "Its place in the list, from 0."),
    Column("copies", "int64", "In how many rows of the list it stands."),
    Column("label", "string", "What the list says it is."),
    Column("state", "string", "The word; null where it failed."),
    Column("severity", "string", "The worst that it may be."),
    Column("summary", "string", "The verdict in a sentence or two."),
    *_SHARES,
    Column("undetected_mass", "float64", "An attractor of less mass may have been missed."),
    Column("attractors", "int64", "How many attractors."),
    Column("largest_attractor", "float64", "Mass of the largest one."),
    Column("nearest_sample_distance", "float64", "Of two of its pictures, the smallest."),
    Column("nearest_sample_margin", "float64", "The same over delta_s."),
    Column("nearest_reference_distance", "float64", "Of its pictures to S, the smallest."),
    Column("nearest_reference_margin", "float64", "The same over delta_m."),
    Column("nearest_reference", "string", "The picture of S at that distance."),
    Column("median_curvature", "float64", "Of the first spectrum."),
    Column("seeds", "int64", "How many pictures."),
    Column(
        "hangs_on_threshold",
        "bool",
        "Whether another quantile of the null would give another word.",
    ),
    Column("strict", "string", "The word at the null's 0.3% quantile."),
    Column("loose", "string", "The word at the null's 3% quantile."),
    Column("withheld", "string", "Why new pictures were not called generalized."),
    Column("failed_pictures", "int64", "How many pictures failed."),
    Column("tokens", "int64", "How many tokens the prompt has."),
    Column("cut_off", "string", "The end of it that the model does not read."),
    Column("metric", "string", "The image distance."),
    Column("delta_m", "float64", "Of Eq. 9."),
    Column("delta_s", "float64", "Of Eq. 10."),
    Column("calibrated", "bool", "Whether the thresholds were measured for this model."),
    Column("rule", "string", "What gave the thresholds."),
    Column("power", "float64", "Share of planted copies found, the smaller of the two."),
    Column("power_low", "float64", "Its one-sided 95% bound."),
    Column("power_suffices", "bool", "Whether new pictures may be cleared."),
    Column("evaluations", "int64", "Forward passes of the network."),
    Column("seconds", "float64", "In all."),
    Column("error", "string", "Why it failed."),
    Column("folder", "string", "Its folder, relative to the batch's."),
)
"""The columns of results.parquet, before those of the list itself."""


def _columns() -> list[tuple[str, Any]]:
    import pyarrow as pa

    return [(column.name, pa.type_for_alias(column.kind)) for column in COLUMNS]


def _row(record: BatchRecord, extras: dict[str, tuple[str, Any]]) -> dict[str, Any]:
    shares = {
        f"{name}{end}": getattr(share, field)
        for name, share in record.verdict.fractions.items()
        if name in SHARES
        for end, field in (("", "estimate"), ("_low", "low"), ("_high", "high"))
    }
    matches = [seed.nearest_reference for seed in record.seeds if seed.nearest_reference]
    match = min(matches, key=lambda nearest: nearest.distance, default=None)
    within = [seed.nearest_sample.distance for seed in record.seeds if seed.nearest_sample]
    to_reference, to_sample = smallest_margins(record.seeds)
    thresholds, power = record.thresholds, record.power
    found = None if power is None else least_found(power)
    listed = {name: record.listed.extra.get(key) for name, (key, _) in extras.items()}
    failed = record.error is not None
    return {
        "prompt": record.prompt,
        "negative_prompt": record.negative_prompt,
        "id": record.listed.id,
        "index": record.listed.index,
        "copies": len(record.listed.rows),
        "label": record.listed.label,
        "state": None if failed else record.verdict.state,
        "severity": None if failed else severity(record).name.lower(),
        "summary": record.verdict.summary,
        **shares,
        "undetected_mass": record.verdict.undetected_mass,
        "attractors": len(record.attractors),
        "largest_attractor": max((a.mass.estimate for a in record.attractors), default=None),
        "nearest_sample_distance": min(within, default=None),
        "nearest_sample_margin": to_sample,
        "nearest_reference_distance": match and match.distance,
        "nearest_reference_margin": to_reference,
        "nearest_reference": match and match.name,
        "median_curvature": record.curvature[0].median if record.curvature else None,
        "seeds": len(record.seeds),
        "hangs_on_threshold": record.verdict.hangs_on_threshold,
        "strict": record.verdict.strict,
        "loose": record.verdict.loose,
        "withheld": "; ".join(record.verdict.withheld) or None,
        "failed_pictures": len(record.failures),
        "tokens": record.wording.tokens,
        "cut_off": record.wording.cut_off or None,
        "metric": record.settings.metric,
        "delta_m": thresholds and thresholds.delta_m,
        "delta_s": thresholds and thresholds.delta_s,
        "calibrated": thresholds and thresholds.calibrated,
        "rule": thresholds and thresholds.rule,
        "power": found and found.estimate,
        "power_low": found and found.low,
        "power_suffices": power and power.suffices,
        "evaluations": sum(record.evaluations.values()),
        "seconds": sum(record.timings.seconds.values()),
        "error": None if record.error is None else record.error.message,
        "folder": record.folder,
        **{name: _cell(value, extras[name][1]) for name, value in listed.items()},
    }


def _extra_types(entries: Sequence[Entry]) -> dict[str, tuple[str, Any]]:
    """Return, for each column to write, the list's name of it and its type in the table."""
    import pyarrow as pa

    taken = {name for name, _ in _columns()}
    found: dict[str, tuple[str, Any]] = {}
    for key in dict.fromkeys(key for entry in entries for key in entry.extra):
        name = key
        while name in taken:
            name += "_listed"
        taken.add(name)
        try:
            kind = pa.array([entry.extra.get(key) for entry in entries]).type
        except (pa.ArrowException, OverflowError):  # of more than one type, or too large
            kind = pa.string()
        found[name] = (key, pa.string() if pa.types.is_null(kind) else kind)
    return found


def _cell(value: JsonValue, kind: Any) -> Any:
    import pyarrow as pa

    if value is None or isinstance(value, str) or not pa.types.is_string(kind):
        return value
    return json.dumps(value, ensure_ascii=False)
