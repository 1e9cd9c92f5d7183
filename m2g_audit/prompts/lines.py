"""Plain lists, a prompt a line, and what their lines may be instead, which is asked about."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from m2g_audit.encodings import lines_of
from m2g_audit.errors import UsageError
from m2g_audit.prompts.columns import PROMPT_COLUMNS
from m2g_audit.prompts.entries import Row
from m2g_audit.prompts.read_options import refuse_options
from m2g_audit.text import printable, some

_COMMENT = re.compile(r"\s*#(?:\s|$)")
_CODE = re.compile(
    r"""[\[{(]*$|[\[{(]+\s*["'][\w ]|//|/\*|\w+\s*=\s*[\[{(]"""
    r"""|(?:from\s\S+\s)?import\s[\w.]+(?:,\s?[\w.]+)*$|(?:INSERT\sINTO|CREATE\sTABLE|SELECT\s.*\sFROM)\s"""
)
_OBJECT = re.compile(r"""\{\s*["'].*\},?$""")
_SECTION = re.compile(r"\[{1,2}[\w.-]+\]{1,2}$")
_SETTING = re.compile(r"[\w.-]+\s*=\s*\S")
_YAML = re.compile(r"---$|%YAML|(?:- )?[\w-]+:$|- [\w-]+: |(?:captions?|prompts?|text)\s*[:=]\s")
_QUOTED = re.compile(r"""(["']).*\1\s*,?$""")
_ENDS_IN_LINK = re.compile(r'([,;|])\s*"?https?://[^\s"]+"?$')
_GAP = re.compile(r"\s{2,}")
_AS_IT_STANDS = "--read-as txt to take every line as it stands"


def plain_lines(text: str) -> Iterator[Row]:
    """Yield every line as it stands."""
    return (Row(number, line, {}) for number, line in enumerate(lines_of(text), start=1))


def read_lines(
    text: str, name: str, *, quotes_stand: bool = False
) -> tuple[Iterator[Row], list[str]]:
    """Return the lines of a plain list, and what was not taken.

    Lines that begin with # and a space are comments. UsageError where lines may be something else
    than prompts: options, columns, JSON, quotes around each; quotes_stand: these are known to be
    part of the prompts.
    """
    lines = lines_of(text)
    refuse_other_meanings(lines, name, ask_of_quotes=not quotes_stand)
    comments = {n for n, line in enumerate(lines, start=1) if "#" in line and is_comment(line)}
    notices = []
    if comments:
        notices.append(
            f"Comments in {name} are no prompts: {some(sorted(comments))} (--read-as txt takes "
            "every line as it stands)."
        )
    rows = (Row(n, line, {}) for n, line in enumerate(lines, start=1) if n not in comments)
    return rows, notices


def is_comment(line: str) -> bool:
    """Whether a line begins with # and a space, or is nothing else: hashtags are prompts."""
    return _COMMENT.match(line) is not None


def refuse_other_meanings(lines: Sequence[str], name: str, *, ask_of_quotes: bool) -> None:
    """Raise UsageError where lines may be something else than prompts.

    ask_of_quotes: whether quotes around each may be part of them.
    """
    filled = [stripped for line in lines if (stripped := line.strip())]
    refuse_options(lines, name)
    for doubt in _DOUBTS[: None if ask_of_quotes else -1] if filled else ():
        if (found := doubt(filled)) is not None:
            what, remedy = found
            raise UsageError(f"{name} {what}. Say {_AS_IT_STANDS}; {remedy}.")


_Doubt = tuple[str, str] | None
"""What a file may be instead of lines, and what to do then."""
_BY_PLACE = (
    "if it is a table, say --read-as {} --no-header --column 1 (the number of the column that "
    "holds the prompts)"
)


def _code(lines: Sequence[str]) -> _Doubt:
    objects = sum(line[0] == "{" and _OBJECT.match(line) is not None for line in lines)
    if not _CODE.match(lines[0]) and 2 * objects < len(lines):
        return None
    if lines[0][0] not in "[{":
        return "looks like code", "or write its prompts as JSON"
    why = "it nests too deeply"
    with suppress(RecursionError):
        try:
            json.loads("\n".join(lines))
        except ValueError as error:
            why = printable(str(error), 100)
    return f"looks like JSON, and is none ({why})", "or repair it"


def _settings(lines: Sequence[str]) -> _Doubt:
    if _SECTION.match(lines[0]) and any(_SETTING.match(line) for line in lines[1:]):
        return "looks like TOML", "or write it as JSON"
    if _YAML.match(lines[0]) and any(line.startswith("- ") or ": " in line for line in lines):
        return "looks like YAML", "or write it as JSON"
    return None


def _columns(lines: Sequence[str]) -> _Doubt:
    """Tabs in all lines, a link at each line's end, or a header with its columns far apart."""
    tabs = lines[0].count("\t")
    if tabs and len(lines) > 1 and all(line.count("\t") == tabs for line in lines):
        return "has tabs in every line, as tables have", _BY_PLACE.format("tsv")
    if _ENDS_IN_LINK.search(lines[0]) and all(map(_ENDS_IN_LINK.search, lines)):
        return "has a link at the end of every line, as tables have", _BY_PLACE.format("csv")
    names = _GAP.split(lines[0])
    if len(names) > 1 and any(name.casefold() in PROMPT_COLUMNS for name in names):
        return "looks like a table with its columns apart by spaces", "or write it as csv"
    return None


def _quotes(lines: Sequence[str]) -> _Doubt:
    if len(lines) < 2 or not _QUOTED.match(lines[0]) or not all(map(_QUOTED.match, lines)):
        return None
    return (
        "has quotes around every line",
        "if they are no part of the prompts, say --read-as csv --no-header --column 1 --quotes csv",
    )


_DOUBTS: tuple[Callable[[Sequence[str]], _Doubt], ...] = (
    _code,
    _settings,
    _columns,
    _quotes,
)
