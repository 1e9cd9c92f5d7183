"""A batch while it runs, and what it came to: on a terminal a few lines that change, else a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from m2g_audit.cli.bars import INTERVAL, is_watched
from m2g_audit.review.gate import WORST_FIRST
from m2g_audit.review.grounds import mark, origin
from m2g_audit.text import duration, printable

if TYPE_CHECKING:
    from m2g_audit.batch.tally import Tally
    from m2g_audit.review.summary import Summary

_STYLES = {
    "memorized": "bold red",
    "collapsed": "bold red",
    "attractor": "red",
    "mixed": "red",
    "spurious": "magenta",
    "undecided": "yellow",
    "generalized": "green",
}
_SHOWN = 60


@contextmanager
def watching(console: Console, tally: Tally) -> Iterator[None]:
    """A block in which the console shows how far a batch is and what it has found."""
    if is_watched(console):
        with Live(
            get_renderable=lambda: panel(tally),
            console=console,
            transient=True,
            refresh_per_second=4,
        ):
            yield
        return
    ended = Event()
    thread = Thread(target=_write_lines, args=(console, tally, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def panel(tally: Tally) -> Group:
    """Return what a terminal shows: a bar, what was found, and the worst."""
    settled = tally.done + tally.failed
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(total=tally.prompts, completed=settled, width=32), Text(_pace(tally)))
    parts: list[Table | Text] = [
        bar,
        Text("  ").join(_found(tally)) if tally.verdicts or tally.failed else Text(""),
    ]
    if tally.worst is not None:
        _, prompt, state = tally.worst
        shown = printable(prompt, _SHOWN)
        parts.append(Text.assemble("worst: ", (state, _STYLES[state]), f" “{shown}”"))
    return Group(*parts)


def line(tally: Tally) -> str:
    """Return the same as one line of a log."""
    parts = [_pace(tally), ", ".join(text.plain for text in _found(tally))]
    if tally.worst is not None:
        _, prompt, state = tally.worst
        parts.append(f"worst: {state} “{printable(prompt, _SHOWN)}”")
    return "; ".join(filter(None, parts))


def _pace(tally: Tally) -> str:
    parts = [f"{tally.done + tally.failed:,}/{tally.prompts:,} prompts"]
    rate, left = tally.prompts_per_second, tally.seconds_left
    if rate is not None and left is not None:
        parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min")
        if left > 0:
            parts.append(f"{duration(left)} left")
    if tally.stage is not None and tally.done + tally.failed < tally.prompts:
        stage, share = tally.stage
        parts.append(f"{tally.pictures:,} pictures made")
        if share < 1:
            parts.append(f"{'the next' if stage == 'pictures' else stage} {share:.0%}")
    return ", ".join(parts)


def _found(tally: Tally) -> list[Text]:
    counts = [(state, tally.verdicts.get(state, 0), _STYLES[state]) for state in WORST_FIRST]
    counts.append(("failed", tally.failed, "bold yellow"))
    return [Text(f"{count:,} {word}", style) for word, count, style in counts if count]


def _write_lines(console: Console, tally: Tally, ended: Event) -> None:
    told = ""
    over = False
    while not over:
        over = ended.wait(INTERVAL)
        now = line(tally)
        if now != told:
            console.print(now, soft_wrap=True, markup=False, highlight=False)
        told = now


def show(summary: Summary, console: Console) -> None:
    """Print what a batch came to, for people: first what its verdicts rest on."""
    if summary.thresholds is not None:
        style = "yellow" if mark(summary.thresholds) else "dim"
        console.print(Text(origin(summary.thresholds, summary.power), style=style))
    for sentence in summary.model_lines:
        console.print(Text(printable(sentence), style="yellow"))
    counts = Table(title="Prompts by verdict", title_justify="left")
    counts.add_column("verdict")
    counts.add_column("prompts", justify="right")
    labels = list(summary.labels)
    for label in labels:
        counts.add_column(Text(printable(label, 20)), justify="right")
    for state in WORST_FIRST:
        if state in summary.verdicts:
            of_labels = [str(summary.labels[label].get(state, 0)) for label in labels]
            count = f"{summary.verdicts[state]:,}"
            counts.add_row(Text(state, _STYLES[state]), count, *of_labels)
    for word, others in (("failed", summary.failed), ("not audited", summary.missing)):
        if others:
            counts.add_row(word, f"{others:,}", *("" for _ in labels))
    console.print(counts)
    marks = [f"{n:,} with new pictures not cleared: {why}." for why, n in summary.withheld.items()]
    if summary.hanging:
        marks.append(f"{summary.hanging:,} with a verdict that hangs on the threshold (±).")
    for sentence in marks:
        console.print(Text(sentence, style="yellow"))
    bad = [short for short in summary.worst if short.severity != "generalized"]
    if bad:
        table = Table(title="The worst", title_justify="left")
        table.add_column("verdict")
        table.add_column("not new", justify="right")
        table.add_column("prompt")
        for short in bad[:10]:
            share = short.not_new
            table.add_row(
                Text(f"{short.state}{' ±' * short.hangs_on_threshold}", _STYLES[short.state]),
                "" if share is None else f"{share.low:.0%} to {share.high:.0%}",
                Text(printable(short.prompt, 100)),
            )
        console.print(table)
    for failure in summary.failures[:5]:
        console.print(
            Text.assemble(
                ("failed: ", "bold yellow"),
                f"“{printable(failure.prompt, _SHOWN)}”: {printable(failure.message)}",
            ),
            soft_wrap=True,
        )
