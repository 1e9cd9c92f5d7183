"""Reading a list of prompts, whatever file it comes in.

A text is a prompt as it is, but for white space around it: nothing in it is interpreted, corrected
or left out. What is inside a file decides what it is, not its name. Where it can be read in two
ways that give other prompts, the user is asked. Nothing heavy is imported, so that a wrong list
fails at once.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from m2g_audit.encodings import decode, lines_of
from m2g_audit.errors import AuditError, UsageError
from m2g_audit.prompts.columns import Table, names_of, of_columns
from m2g_audit.prompts.documents import looks_like_json, read_json
from m2g_audit.prompts.entries import PromptList, collect
from m2g_audit.prompts.lines import (
    is_comment,
    plain_lines,
    read_lines,
    refuse_other_meanings,
)
from m2g_audit.prompts.list_files import STDIN, Opened, open_list
from m2g_audit.prompts.not_lists import refuse_other_texts
from m2g_audit.prompts.read_options import OptionStyle, read_options
from m2g_audit.prompts.remarks import remarks_on
from m2g_audit.prompts.tables import EVERY_LINE, TableOptions, is_table, read_table
from m2g_audit.records.vocabulary import ListFormat, Quotes
from m2g_audit.text import quoted

_SUFFIXES: dict[str, ListFormat] = {
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}

_TABLES = (".csv", ".tsv")


@contextmanager
def _without_collection() -> Iterator[None]:
    """A block in which no garbage is looked for.

    All that reading a list makes lives on, and looking through it again and again takes a third of
    the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_without_collection()
def read_prompts(
    source: str | Path,
    *,
    column: str | None = None,
    label_column: str | None = None,
    encoding: str | None = None,
    read_as: ListFormat | None = None,
    quotes: Quotes | None = None,
    header: bool | None = None,
) -> PromptList:
    """Return the prompts of a file, a folder of pictures, or of stdin for `-`.

    txt has one prompt a line; csv, tsv, json and parquet have columns, of which `column` holds the
    prompts (by name, place, or `a.b` for what lies in another) and `label_column` what they are
    known to be. Without these, columns named as PROMPT_COLUMNS and LABEL_COLUMNS say are taken.
    `read_as` is known by the content, and where that leaves it open by the file's name; lines with
    options are read as a1111, kohya or infotext if that is said. quotes: whether those of a table
    surround fields (csv) or stand for themselves (none); header: whether its first row names the
    columns. Raises UsageError where it can't be read, or can be read in more than one way.
    """
    name = "stdin" if str(source) == STDIN else str(source)
    try:
        if str(source) != STDIN and Path(source).expanduser().is_dir():
            from m2g_audit.prompts.sidecars import read_folder

            table = read_folder(Path(source).expanduser(), encoding)
            return _with_remarks(of_columns(table, column, label_column, name))
        with open_list(source, name) as opened:
            if opened.is_parquet or read_as == "parquet":
                from m2g_audit.prompts.parquet import read_parquet

                table = read_parquet(opened.file, name, column)
                return _with_remarks(of_columns(table, column, label_column, name))
            options = TableOptions(column, quotes, header)
            return _read(opened, name, options, label_column, encoding, read_as)
    except (AuditError, MemoryError):
        raise
    except Exception as error:  # readers raise what they like on broken files
        raise UsageError(
            f"{name} can't be read as a list of prompts: {type(error).__name__}: {error}. Say what "
            "it is with --read-as, or make a txt file of it with a prompt a line."
        ) from error


def _read(
    opened: Opened,
    name: str,
    options: TableOptions,
    label_column: str | None,
    encoding: str | None,
    read_as: ListFormat | None,
) -> PromptList:
    text, notices = decode(opened.file.read(), name, encoding)
    if read_as is None:
        refuse_other_texts(text, name)
    kind = read_as or _kind(text, _SUFFIXES.get(opened.suffix), options)
    if kind in get_args(OptionStyle):
        listed = _options(text, name, cast(OptionStyle, kind))
    elif kind == "txt":
        listed = _lines(text, name, options, opened.suffix, as_they_stand=read_as == "txt")
    else:
        table = _table(text, name, options, kind, opened.suffix, certain=read_as is not None)
        listed = of_columns(table, options.column, label_column, name)
    listed = replace(listed, notices=(*notices, *listed.notices))
    return listed if read_as == "txt" else _with_remarks(listed)


def _options(text: str, name: str, style: OptionStyle) -> PromptList:
    if looks_like_json(text):
        raise UsageError(f"{name} is JSON, not lines with options: leave out --read-as {style}.")
    rows, said = read_options(text, name, style)
    return collect(rows, None, name, said)


def _lines(
    text: str, name: str, options: TableOptions, suffix: str, *, as_they_stand: bool
) -> PromptList:
    if options.column is not None:
        raise UsageError(f"{name} is read as plain lines, which have no column {options.column!r}.")
    if as_they_stand:
        return collect(plain_lines(text), None, name, [])
    rows, said = read_lines(text, name, quotes_stand=options.quotes == "none")
    if suffix in _TABLES:
        said.append(EVERY_LINE.format(name))
    return collect(rows, None, name, said)


def _table(
    text: str, name: str, options: TableOptions, kind: ListFormat, suffix: str, *, certain: bool
) -> Table:
    """The rows of JSON or of a text with columns; certain: the user said that it is one."""
    if kind in ("json", "jsonl"):
        return read_json(text, name, options.column)
    text, said = _without_head(text, name)
    delimiter = "\t" if kind == "tsv" else None
    table = read_table(text, name, options, delimiter)
    if not certain:
        said += _said_of_table(table, text, name, suffix)
    return replace(table, notices=[*said, *table.notices])


def _kind(text: str, by_name: ListFormat | None, options: TableOptions) -> ListFormat:
    """What a text is: its content says, and its name where several are possible."""
    if by_name == "json" or looks_like_json(text):
        return "json"
    content, _ = _without_head(text, "")
    return "csv" if is_table(content, options, named=by_name in ("csv", "tsv")) else "txt"


def _without_head(text: str, name: str) -> tuple[str, list[str]]:
    """A table's text without comments that stand above its header."""
    if not is_comment(text):
        return text, []
    lines = lines_of(text)
    count = next((i for i, line in enumerate(lines) if line.strip() and not is_comment(line)), 0)
    if not is_table("\n".join(lines[count : count + 100]), TableOptions(), named=False):
        return text, []
    said = f"Comments above the header of {name} are no part of the table (lines 1 to {count})."
    return "\n".join(lines[count:]), [said]


def _said_of_table(table: Table, text: str, name: str, suffix: str) -> list[str]:
    """What is worth a word when nothing but the content said that a file is a table."""
    if len(table.names) == 1:
        refuse_other_meanings(lines_of(text), name, ask_of_quotes=False)
    if suffix in _TABLES:
        return []
    return [
        f"{name} is read as a table with the columns {quoted(table.names)} (--read-as txt takes "
        "every line as it stands)."
    ]


def _with_remarks(listed: PromptList) -> PromptList:
    said = remarks_on([entry.prompt for entry in listed])
    return replace(listed, notices=(*listed.notices, *said)) if said else listed


def from_python(
    prompts: Iterable[str | Mapping[str, Any]],
    *,
    column: str | None = None,
    label_column: str | None = None,
) -> PromptList:
    """Return the list of prompts given as strings, or as mappings like the lines of jsonl."""
    records = [item if isinstance(item, str) else dict(item) for item in prompts]
    numbered = list(enumerate(records, start=1))
    return of_columns(Table(names_of(numbered), numbered), column, label_column, "the list")
