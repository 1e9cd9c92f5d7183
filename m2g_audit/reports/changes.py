"""What changed from one run to another, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from m2g_audit.reports.colours import VERDICT_COLOURS
from m2g_audit.review.compare import Change, Comparison
from m2g_audit.text import printable

_SHOWN = 40
_SHOWN_PROMPT = 60


def show(comparison: Comparison, console: Console) -> None:
    """Print the changes that are no chance, worse ones first, and how many others there are."""
    for notice in comparison.notices:
        console.print(Text(f"Note: {printable(notice)}", style="yellow"), soft_wrap=True)
    console.print(Text(sentence(comparison), style="bold"))
    for title, changes in (
        ("Worse", comparison.significant("worse")),
        ("Better", comparison.significant("better")),
        ("Another verdict, but it may be chance", comparison.within_chance),
    ):
        if changes:
            console.print(_table(f"{title}: {len(changes):,}", changes[:_SHOWN]))
        if len(changes) > _SHOWN:
            rest = f"{len(changes) - _SHOWN:,} more; --format json has all."
            console.print(Text(rest, style="dim"))
    for text in left_out(comparison):
        console.print(Text(text, style="dim"))


def sentence(comparison: Comparison) -> str:
    """Return in a sentence how many prompts changed."""
    worse, better = (len(comparison.significant(way)) for way in ("worse", "better"))  # type: ignore[arg-type]
    return (
        f"Of {len(comparison.changes):,} prompts in both runs, {worse:,} got worse and {better:,} "
        f"better; {len(comparison.within_chance):,} others have another verdict, which may be "
        f"chance (false discovery rate {1 - comparison.level:.0%})."
    )


def left_out(comparison: Comparison) -> list[str]:
    """Return sentences about prompts that could not be compared."""
    parts = (
        (comparison.only_before, "only in the run before"),
        (comparison.only_after, "only in the run now"),
        (comparison.failed, "without a verdict in one of the runs"),
    )
    return [
        f"{len(prompts):,} {'prompt is' if len(prompts) == 1 else 'prompts are'} {where}, such as "
        f"“{printable(prompts[0], 40)}”."
        for prompts, where in parts
        if prompts
    ]


def duplicated(one: Change) -> str:
    """Return how many seeds are duplicated before and now, or are expected to be among 16."""
    a, b = one.before, one.after
    return _counts(a.duplicated, a.seeds, b.duplicated, b.seeds)


def memorized(one: Change) -> str:
    """Return how many seeds are memorized before and now, a dash where one run can't tell."""
    a, b = one.before, one.after
    if a.memorized is None or b.memorized is None:
        return "–"
    return _counts(a.memorized, a.seeds, b.memorized, b.seeds)


def _counts(before: float, n: int, after: float, m: int) -> str:
    old, new = f"{before:.3g}", f"{after:.3g}"
    return f"{old} → {new} of {m}" if n == m else f"{old} of {n} → {new} of {m}"


def _table(title: str, changes: Sequence[Change]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("prompt", overflow="fold")
    table.add_column("verdict")
    table.add_column("duplicated seeds", justify="right")
    table.add_column("memorized seeds", justify="right")
    table.add_column("change of the duplicated share", justify="right")
    table.add_column("q", justify="right")
    for one in changes:
        table.add_row(
            Text(printable(one.prompt, _SHOWN_PROMPT)),
            Text.assemble(
                (one.before.verdict, VERDICT_COLOURS[one.before.verdict]),
                " → ",
                (one.after.verdict, VERDICT_COLOURS[one.after.verdict]),
            ),
            duplicated(one),
            memorized(one),
            f"{one.change:+.0%} ({one.low:+.0%} to {one.high:+.0%})",
            f"{one.q:.2g}",
        )
    return table
