"""Text of others steers no terminal, however it is printed."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

import m2g_audit
from m2g_audit.cli.terminal import Terminal

STEERING = [
    "\x1b]52;c;cm0gLXJm\x07",  # the clipboard
    "\x1b]8;;http://example.org\x1b\\here\x1b]8;;\x1b\\",  # a link
    "\x1b]0;title\x07\x1b[2J\x1b[1A",
    "\x9b31m\x90q\x9c",  # the same in eight bits
    "a\u202eb\u2066\u200e",
    "a\rb\bc",
]


def printed(*what: object, **options: bool) -> str:
    terminal = Terminal(file=io.StringIO(), width=60, **options)
    for one in what:
        terminal.print(one)
    return terminal.file.getvalue()  # type: ignore[attr-defined]


def table_of(text: str) -> Table:
    table = Table(title=text, caption=text)
    table.add_column(text)
    table.add_row(text)
    return table


def in_every_way(text: str) -> list[object]:
    plain = [text, f"in {text}", Text(text, style="bold"), Panel(text, title=text, subtitle=text)]
    return [*plain, table_of(text), {"a": text}, Path(text)]


@pytest.mark.parametrize("text", STEERING)
def test_nothing_that_steers_is_printed(text: str) -> None:
    shown = printed(*in_every_way(text))
    assert not re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e]", shown)


@given(st.text(max_size=20))
def test_colours_are_all_that_is_sent_beside_text(text: str) -> None:
    shown = printed(*in_every_way(text), force_terminal=True)
    without = re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert not re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", without)


def test_marks_of_rich_are_text() -> None:
    assert printed("[red]x[/red] [link=http://example.org]y[/link]") == (
        "[red]x[/red] [link=http://example.org]y[/link]\n"
    )


def test_lines_stay_lines() -> None:
    assert printed("a\nb") == "a\nb\n"


def test_there_is_no_other_way_to_the_terminal() -> None:
    folder = Path(m2g_audit.__file__).parent
    others = [
        str(file.relative_to(folder))
        for file in folder.rglob("*.py")
        if re.search(r"(?<!\w)Console\(", file.read_text()) and file.name != "terminal.py"
    ]
    assert others == []
