"""One prompt of a report: its row in the table, and what is shown when it is opened."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from m2g_audit.records.record import AuditRecord, NearestReference, SeedRecord
from m2g_audit.records.vocabulary import StateWord
from m2g_audit.reports.groups import Group, grouped, is_measured
from m2g_audit.reports.html.data_uris import ICON, LARGE, THUMBNAIL, data_uri, thumbnail
from m2g_audit.reports.html.plots import (
    Bands,
    matrix_figure,
    sensitivity_figure,
    spectrum_figure,
)
from m2g_audit.review.answer import Pair
from m2g_audit.review.gate import badness
from m2g_audit.review.grounds import hanging, margins, mark, missed, origin, own_warnings
from m2g_audit.store.batch_directory import BatchRecord
from m2g_audit.text import printable
from m2g_audit.verdict.sentences import model_lines

_SHARES: tuple[StateWord, ...] = ("memorized", "spurious", "attractor", "generalized")
_SHOWN_PROMPT = 400
_SAID = 300
# Of a record's options, those that say where things lie or how fast they are made.
_FLAGS = {"basin_exact": "--exact"}


@dataclass(frozen=True)
class Picture:
    """A picture of the page: its data URI, None where its file can't be read, and its caption.

    margins: its distances over their thresholds.
    """

    source: str | None
    title: str
    about: str
    state: StateWord | None = None
    margins: str = ""


@dataclass(frozen=True)
class PictureGroup:
    """Pictures shown together, with the reference pictures nearest to them.

    measures: how free the model is to leave them, for those who know the paper.
    """

    title: str
    state: StateWord | None
    about: str
    measures: str
    pictures: list[Picture]
    references: list[Picture]


def row(record: BatchRecord, folder: Path, *, redact: bool) -> dict[str, Any]:
    """Return what the table shows of a prompt, as JSON values; the keys are those of report.js."""
    failed = record.error is not None
    new = record.verdict.fractions.get("generalized")
    measured = new is not None and not failed and record.seeds
    nearest = [s.nearest_reference.distance for s in record.seeds if s.nearest_reference]
    found = {
        "id": record.listed.id,
        "prompt": printable(record.texts, _SHOWN_PROMPT),
        "verdict": "failed" if failed else record.verdict.state,
        "badness": list(badness(record)),
        "early": record.looks and record.looks.ended_at,
        "hangs": record.verdict.hangs_on_threshold,
        "share": [1 - new.estimate, 1 - new.high, 1 - new.low] if new and measured else None,
        "mass": max((a.mass.estimate for a in record.attractors), default=None),
        "reference": min(nearest, default=None),
        "label": None if record.listed.label is None else printable(record.listed.label, 80),
        "says": printable(record.error.message if record.error else record.verdict.summary, _SAID),
        "icon": _icon(record, folder, redact),
    }
    return {key: _rounded(value) for key, value in found.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def _icon(record: AuditRecord, folder: Path, redact: bool) -> str | None:
    """The picture that stands for a prompt: of its largest attractor, else its first."""
    if not record.seeds:
        return None
    shown = record.attractors[0].medoid if record.attractors else 0
    return thumbnail(folder, record.seeds[shown].image, ICON, redact=redact)


def detail(record: BatchRecord, folder: Path, bands: Bands, *, redact: bool) -> dict[str, Any]:
    """Return what the template of one prompt needs; `folder` holds the prompt's files."""
    matrix, spectrum, sensitivity = (
        None if figure is None else data_uri(figure, "image/svg+xml")
        for figure in (
            matrix_figure(record, folder),
            spectrum_figure(record, folder, bands),
            sensitivity_figure(record, folder),
        )
    )
    shares = record.verdict.fractions
    return {
        "record": record,
        "failed": record.error is not None,
        "marks": _marks(record),
        "origin": record.thresholds and origin(record.thresholds, record.power),
        "about_model": model_lines(record),
        "sure": [text for text in (missed(record), margins(record), hanging(record)) if text],
        "warnings": own_warnings(record),
        "shares": {
            name: shares[name] for name in _SHARES if name in shares and is_measured(shares[name])
        },
        "groups": picture_groups(record, folder, redact=redact),
        "matrix": matrix,
        "spectrum": spectrum,
        "sensitivity": sensitivity,
        "banded": bool(bands),
        "listed": {key: _text(value) for key, value in record.listed.extra.items()},
        "command": command(record),
    }


def _marks(record: BatchRecord) -> list[str]:
    """What a reader must know of a verdict at once."""
    if record.error is not None:
        return []
    found = [mark(record.thresholds)]
    found += [f"not cleared: {reason}" for reason in record.verdict.withheld]
    found.append("hangs on the threshold" if record.verdict.hangs_on_threshold else None)
    found.append(f"ended after {record.looks.ended_at} seeds" if record.looks else None)
    return [one for one in found if one]


def _margins(seed: SeedRecord) -> str:
    nearest, sample = seed.nearest_reference, seed.nearest_sample
    parts = (("δm", nearest and nearest.margin), ("δs", sample and sample.margin))
    return " · ".join(f"{name} {margin:.2f}" for name, margin in parts if margin is not None)


def _text(value: JsonValue) -> str:
    return printable(value if isinstance(value, str) else repr(value), 500)


def picture_groups(record: AuditRecord, folder: Path, *, redact: bool) -> list[PictureGroup]:
    """Return a prompt's pictures by what they repeat, each group with its reference pictures."""
    seen: dict[str, str | None] = {}

    def load(name: str | None) -> str | None:
        if name is None:
            return None
        if name not in seen:
            seen[name] = thumbnail(folder, name, THUMBNAIL, redact=redact)
        return seen[name]

    def generation(seed: SeedRecord, of: Group) -> Picture:
        other = "" if seed.state == of.state else f", {seed.state}"
        about = f"torch.Generator seed {seed.generator_seed}"
        if seed.nearest_sample is not None:
            near = seed.nearest_sample
            about += f"; nearest: seed {near.index} at {near.distance:.3g}"
        if seed.chance is not None:
            about += f"; chance of a duplicate among 15 other seeds: {seed.chance:.0%}"
        title = f"seed {seed.index}{other}"
        return Picture(load(seed.image), title, about, seed.state, _margins(seed))

    def reference(nearest: NearestReference, of: str) -> Picture:
        title = f"nearest reference{of}, at {nearest.distance:.3g}"
        return Picture(load(nearest.image), title, printable(nearest.name, 120))

    groups = []
    for group in grouped(record):
        matches = [reference(group.reference, "")] if group.reference else []
        if group.references:
            matches = [
                reference(seed.nearest_reference, f" of seed {seed.index}")
                for seed in group.seeds
                if seed.nearest_reference is not None
            ]
        about, measures = _attractor(record, group.seeds[0])
        pictures = [generation(seed, group) for seed in group.seeds]
        groups.append(PictureGroup(group.title, group.state, about, measures, pictures, matches))
    return groups


def pair_pictures(pair: Pair, folder: Path, *, redact: bool) -> list[Picture]:
    """Return the two pictures of a pair, large; none where one of them can't be read."""
    shown: list[tuple[str, str, StateWord | None]] = [
        (pair.seed.image, f"generated: seed {pair.seed.index}", pair.seed.state)
    ]
    if pair.reference is not None:
        name = printable(pair.reference.name, 120)
        shown.append((pair.reference.image or "", f"training picture: {name}", None))
    elif pair.other is not None:
        shown.append((pair.other.image, f"generated: seed {pair.other.index}", pair.other.state))
    found = [
        Picture(thumbnail(folder, image, LARGE, redact=redact) if image else None, title, "", state)
        for image, title, state in shown
    ]
    return found if all(one.source for one in found) else []


def _attractor(record: AuditRecord, member: SeedRecord) -> tuple[str, str]:
    """What is said of a member's attractor, and what was measured of it by the model's score."""
    if member.attractor is None:
        return "", ""
    attractor = record.attractors[member.attractor]
    measures = []
    if (read := attractor.read_outs) is not None:
        measures.append(
            f"How free they are to vary, by {read.evaluations} evaluations: predicted clean "
            f"samples differ by {read.spread:.2g}, and {read.denoising_error:.2g} of the noise is "
            "not seen as noise; of copies of training pictures both are smaller."
        )
    if (basin := attractor.basin) is not None:
        measures.append(
            f"The model falls back into it from up to step {basin.critical_time} of the noise "
            f"(basin radius {basin.radius:.3g})."
        )
    return f"Its pictures are at most {attractor.diameter:.3g} apart.", " ".join(measures)


def command(record: AuditRecord) -> str:
    """Return the shell command that audits a record's prompt again."""
    negative = record.negative_prompt
    away = [] if negative is None else [f"--negative-prompt={negative}"]
    words = ["m2g-audit", "prompt", *_options(record.settings.asked), *away, "--", record.prompt]
    return " ".join(map(_quoted, words))


def _quoted(text: str) -> str:
    """A text as a word of a shell; what can't be seen is written as an escape of bash and zsh."""
    if printable(text) == text:
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    shown = "".join(c if printable(c) == c else f"\\U{ord(c):08x}" for c in escaped)
    return f"$'{shown}'"


def _options(asked: Mapping[str, JsonValue]) -> list[str]:
    words: list[str] = []
    for name, value in sorted(asked.items(), key=lambda item: item[0] != "model"):
        option = _FLAGS.get(name, f"--{name.replace('_', '-')}")
        if value is True:
            words.append(option)
        elif value is not None and value is not False:
            words += [option, str(value)]
    return words
