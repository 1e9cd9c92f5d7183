"""What a fine-tune gives back of its training set, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from m2g_audit.records.record import IntervalRecord
from m2g_audit.records.vocabulary import PromptKind
from m2g_audit.review.finetune import FinetuneSummary, ReturnedPicture, Word
from m2g_audit.text import printable

_SHOWN = 20
_COLOURS: Mapping[Word, str] = {
    "gives back": "bold red",
    "nothing found": "green",
    "undecided": "yellow",
}
_KINDS: Mapping[PromptKind, str] = {
    "caption": "captions",
    "recombined": "recombined, never trained",
    "trigger": "the word that was taught, alone",
    "empty": "the empty prompt",
}


def show(summary: FinetuneSummary, console: Console) -> None:
    """Print which pictures came back, from what, and what to do."""
    console.print(
        Text.assemble(
            (summary.word.upper(), _COLOURS[summary.word]), f"  {printable(summary.summary)}"
        )
    )
    if summary.returned:
        console.print(_pictures(summary))
        rest = len(summary.returned) - _SHOWN
        if rest > 0:
            console.print(Text(f"and {rest:,} more in finetune.json", style="dim"))
    console.print(_kinds(summary))
    for sentence in summary.advice:
        console.print(Text(f"• {printable(sentence)}"))


def _pictures(summary: FinetuneSummary) -> Table:
    table = Table(title="Training pictures that came back, nearest first", title_justify="left")
    for column in ("picture", "caption", "seeds", "prompts", "of its caption", "at (of delta_m)"):
        table.add_column(column)
    if summary.base is not None:
        table.add_column("base, same seeds")
    for picture in summary.returned[:_SHOWN]:
        row = [
            Text(printable(picture.name, 40), "" if picture.confirmed else "yellow"),
            Text(printable(picture.caption or "–", 60)),
            Text(f"{picture.seeds}{'' if picture.confirmed else ' (by chance?)'}"),
            Text(str(picture.prompts)),
            Text(_share(picture.own)),
            Text(_at(picture)),
        ]
        if summary.base is not None:
            row.append(Text(_of_base(picture)))
        table.add_row(*row)
    return table


def _share(share: IntervalRecord | None) -> str:
    return "–" if share is None else f"{share.estimate:.0%} ({share.low:.0%} to {share.high:.0%})"


def _at(picture: ReturnedPicture) -> str:
    margin = "" if picture.margin is None else f" ({picture.margin:.2f})"
    return f"{picture.distance:.3g}{margin}"


def _of_base(picture: ReturnedPicture) -> str:
    if picture.base_seeds is None or picture.base_distance is None:
        return "–"
    return f"{picture.base_seeds} of {picture.seeds}, at {picture.base_distance:.3g}"


def _kinds(summary: FinetuneSummary) -> Table:
    table = Table(title="By prompt", title_justify="left")
    table.add_column("prompts")
    for column in ("how many", "generations", "copies", "of training pictures"):
        table.add_column(column, justify="right")
    for kind, count in summary.kinds.items():
        if count.prompts:
            numbers = (count.prompts, count.generations, count.copies, count.pictures)
            table.add_row(_KINDS[kind], *(f"{number:,}" for number in numbers))
    return table
