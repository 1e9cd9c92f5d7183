"""A run's verdict for a terminal: the word, how sure it is, and what it rests on."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from m2g_audit.records.record import AuditRecord, FastRecord, IntervalRecord, NearestReference
from m2g_audit.reports import Report
from m2g_audit.reports.colours import STATE_COLOURS, VERDICT_COLOURS
from m2g_audit.reports.groups import is_measured
from m2g_audit.review.grounds import (
    hanging,
    margins,
    mark,
    missed,
    origin,
    own_warnings,
)
from m2g_audit.store.run_directory import RECORD_FILE
from m2g_audit.text import printable
from m2g_audit.verdict.sentences import model_lines

_BAR = 24
_SHOWN_PROMPT = 240


def show(report: Report, run_dir: Path, console: Console) -> None:
    """Print the verdict of a finished run, and where its pictures and numbers lie."""
    console.print(verdict_panel(report.record))
    for name, path in _files(report, run_dir):
        # Outside the panel and never wrapped: a path is there to be copied.
        console.print(Text.assemble((f"{name:<15}", "dim"), str(path)), soft_wrap=True)


def verdict_panel(record: AuditRecord) -> RenderableType:
    """Return the verdict, shares with intervals, evidence and tables of a record."""
    colour = VERDICT_COLOURS[record.verdict.state]
    parts: list[RenderableType] = [
        *_first(record),
        Text(f"\n{printable(record.verdict.summary)}", style="bold"),
        _heading("How sure"),
        _shares(record),
        _heading("What it rests on"),
        *(_bullet(sentence) for sentence in record.verdict.evidence),
        *(_bullet(warning, "!", "yellow") for warning in own_warnings(record)),
    ]
    if record.attractors:
        parts += [_heading("Attractors"), _attractors(record)]
    if record.curvature:
        parts += [_heading("Curvature"), _curvature(record)]
    title = Text.assemble((f" {record.verdict.state.upper()} ", f"bold reverse {colour}"))
    for said in (
        mark(record.thresholds),
        "hangs on the threshold" if record.verdict.hangs_on_threshold else None,
    ):
        title.append(f" {said} " if said else "", style="yellow")
    subtitle = Text(f"{record.model.id}, {len(record.seeds)} seeds", style="dim")
    shown = Text(f"“{printable(record.texts, _SHOWN_PROMPT)}”", style="italic")
    return Panel(
        Group(shown, *parts),
        title=title,
        title_align="left",
        subtitle=subtitle,
        subtitle_align="right",
        border_style=colour,
        padding=(1, 2),
    )


def _first(record: AuditRecord) -> list[RenderableType]:
    """Where thresholds come from, and what was found about the model whatever the prompt."""
    said = [_bullet(line, "!", "yellow") for line in model_lines(record)]
    if record.thresholds is None:
        return list(said)
    style = "yellow" if mark(record.thresholds) else "dim"
    return [Text(origin(record.thresholds, record.power), style=style), *said]


def _heading(text: str) -> RenderableType:
    return Text(f"\n{text}", style="bold underline")


def _bullet(text: str, mark: str = "•", style: str = "") -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column()
    grid.add_row(Text(mark, style=style or "dim"), Text(printable(text), style=style))
    return grid


def _shares(record: AuditRecord) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for share in record.verdict.fractions.items():
        name, interval = share
        if is_measured(interval):
            colour = STATE_COLOURS[name]  # type: ignore[index]
            table.add_row(
                Text(name, style=colour),
                Text(f"{interval.estimate:.0%}", justify="right"),
                _bar(interval, colour),
                Text(f"{interval.low:.0%} to {interval.high:.0%}", style="dim"),
            )
    if not record.verdict.fractions:
        return table
    together = f"{record.verdict.level:.0%} intervals, together."
    said = [together, missed(record), margins(record), hanging(record)]
    return Group(table, Text(" ".join(filter(None, said)), style="dim"))


def _bar(interval: IntervalRecord, colour: str) -> Text:
    """The interval drawn on a line from 0 to 1, its estimate marked."""
    low, high = (round(end * (_BAR - 1)) for end in (interval.low, interval.high))
    mark = round(interval.estimate * (_BAR - 1))
    bar = Text()
    for i in range(_BAR):
        if i == mark:
            bar.append("◆", style=colour)
        else:
            inside = low <= i <= high
            bar.append("━" if inside else "─", style=colour if inside else "dim")
    return bar


def _attractors(record: AuditRecord) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "state", "seeds", "mass", "diameter"):
        table.add_column(column)
    with_reference = record.reference is not None
    with_basin = any(attractor.basin for attractor in record.attractors)
    if with_reference:
        table.add_column("nearest reference")
    if with_basin:
        table.add_column("critical time")
    for number, attractor in enumerate(record.attractors, start=1):
        row = [
            Text(str(number)),
            Text(attractor.state, style=STATE_COLOURS[attractor.state]),
            Text(_ranges(attractor.seeds)),
            Text(
                f"{attractor.mass.estimate:.0%} "
                f"({attractor.mass.low:.0%} to {attractor.mass.high:.0%})"
            ),
            Text(f"{attractor.diameter:.3g}"),
        ]
        if with_reference:
            nearest = attractor.nearest_reference
            row.append(Text(_at(nearest) if nearest else "–"))
        if with_basin:
            row.append(Text(str(attractor.basin.critical_time) if attractor.basin else "–"))
        table.add_row(*row)
    return table


def _at(nearest: NearestReference) -> str:
    margin = "" if nearest.margin is None else f" ({nearest.margin:.2f} of delta_m)"
    return f"at {nearest.distance:.3g}{margin}"


def _curvature(record: AuditRecord) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    fast = all(entry.fast for entry in record.curvature)
    columns = ("seed", "state", "median", "stiff directions")
    for column in (*columns, "FLIPD", "error") if fast else columns:
        table.add_column(column)
    for entry in record.curvature:
        size = "" if entry.singular_values is None else f" of {len(entry.singular_values)}"
        table.add_row(
            str(entry.image),
            Text(entry.state, style=STATE_COLOURS[entry.state]),
            f"{entry.median:.3f}",
            f"{entry.rank}{size}",
            *_fast_cells(entry.fast),
        )
    first = record.curvature[0]
    ratio = "" if first.noise_ratio is None else f", sigma / alpha = {first.noise_ratio:.3g}"
    level = f"t0 = {first.t0}{ratio}"
    about = Text(
        f"{first.kind} singular values ({first.algorithm}, {first.score} score, {level}), "
        f"normalised; {first.evaluations:,} network evaluations for seed {first.image}",
        style="dim",
    )
    return Group(table, about)


def _fast_cells(fast: FastRecord | None) -> list[str]:
    """FLIPD on the shell with its standard error, and the curve's stated error."""
    if fast is None:
        return []
    dimension = fast.intrinsic_dimension
    return [f"{dimension.shell:.0f} ± {dimension.shell_error:.0f}", f"{fast.error:.1%}"]


def _files(report: Report, run_dir: Path) -> list[tuple[str, Path]]:
    files = [("record", run_dir / RECORD_FILE), ("contact sheet", report.contact_sheet)]
    return files + ([("spectrum", report.spectrum)] if report.spectrum else [])


def _ranges(indices: list[int]) -> str:
    """Seed numbers, runs of three and more joined: `0-3, 7, 9`."""
    parts: list[str] = []
    start = 0
    for i in range(1, len(indices) + 1):
        if i < len(indices) and indices[i] == indices[i - 1] + 1:
            continue
        run = indices[start:i]
        parts += [f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run)
        start = i
    return ", ".join(parts)
