"""Reading a list of prompts, whatever file it comes in.

A text is a prompt as it is, but for white space around it: nothing in it is interpreted, corrected
or left out. What is inside a file decides what it is, not its name. Where it can be read in two
ways that give other prompts, the user is asked. Nothing heavy is imported, so that a wrong list
fails at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

from m2g_audit.errors import AuditError, UsageError
from m2g_audit.prompts.columns import Table, find, names_of, of_columns
from m2g_audit.prompts.documents import looks_like_json, read_json
from m2g_audit.prompts.entries import PromptList, collect
from m2g_audit.prompts.files import STDIN, Opened, open_list
from m2g_audit.prompts.options import (
    OptionStyle,
    plain_lines,
    read_options,
    refuse_options,
    without_comments,
)
from m2g_audit.prompts.tables import (
    Quotes,
    has_columns,
    has_separator_line,
    headers,
    read_table,
)
from m2g_audit.prompts.text import decode

ListFormat = Literal["txt", "csv", "tsv", "json", "jsonl", "parquet", "a1111", "kohya", "infotext"]

_SUFFIXES: dict[str, ListFormat] = {
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}


def read_prompts(
    source: str | Path,
    *,
    column: str | None = None,
    label_column: str | None = None,
    encoding: str | None = None,
    read_as: ListFormat | None = None,
    quotes: Quotes | None = None,
    header: bool = True,
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

            return of_columns(read_folder(Path(source).expanduser()), column, label_column, name)
        opened = open_list(source, name)
        if opened.is_parquet or read_as == "parquet":
            from m2g_audit.prompts.parquet import read_parquet

            table = read_parquet(opened.file, name, column)
            return of_columns(table, column, label_column, name)
        return _read(opened, name, column, label_column, encoding, read_as, quotes, header)
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
    column: str | None,
    label_column: str | None,
    encoding: str | None,
    read_as: ListFormat | None,
    quotes: Quotes | None,
    header: bool,
) -> PromptList:
    text, notices = decode(opened.file.read(), name, encoding)
    kind = read_as or _kind(text, _SUFFIXES.get(opened.suffix), column, header)
    if kind in get_args(OptionStyle):
        if looks_like_json(text):
            raise UsageError(f"{name} is JSON, not lines with options: leave out --read-as {kind}.")
        rows, said = read_options(text, name, cast(OptionStyle, kind))
        return collect(rows, None, name, [*notices, *said])
    if kind == "txt":
        if column is not None:
            raise UsageError(f"{name} is read as plain lines, which have no column {column!r}.")
        if read_as == "txt":
            return collect(plain_lines(text), None, name, notices)
        refuse_options(text, name)
        lines, said = without_comments(text, name)
        return collect(lines, None, name, [*notices, *said])
    if kind in ("json", "jsonl"):
        table = read_json(text, name)
    else:
        delimiter = "\t" if kind == "tsv" else None
        table = read_table(
            text, name, column=column, delimiter=delimiter, quotes=quotes, header=header
        )
    whole = Table(table.names, table.records, [*notices, *table.notices], prompts=table.prompts)
    return of_columns(whole, column, label_column, name)


def _kind(text: str, by_name: ListFormat | None, column: str | None, header: bool) -> ListFormat:
    """What a text is: its content says, and its name where several are possible."""
    if by_name == "json" or looks_like_json(text):
        return "json"
    if by_name in ("csv", "tsv"):
        return by_name
    by_place = not header or (column or "").isdecimal()
    named = any(_is_header(fields, column, by_name) for fields in headers(text))
    is_table = named or has_separator_line(text) or (by_place and has_columns(text))
    return "csv" if is_table else "txt"


def _is_header(fields: list[str], column: str | None, by_name: ListFormat | None) -> bool:
    """Whether a first row names columns: in a file of lines two at least, or the one asked for."""
    wanted = None if (column or "").isdecimal() else column
    if by_name == "txt" and wanted is None and len(fields) < 2:
        return False
    return bool(find(fields, wanted))


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
