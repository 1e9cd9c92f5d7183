"""Which column holds the prompts, and what its cells hold: a text, several, or one further in."""

from __future__ import annotations

import ast
import datetime
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import JsonValue

from m2g_audit.errors import UsageError
from m2g_audit.prompts.entries import PromptList, Row, collect, whole
from m2g_audit.text import quoted

PROMPT_COLUMNS = frozenset({"caption", "captions", "prompt", "prompts", "text"})
LABEL_COLUMNS = frozenset({"label", "labels", "truth", "expected"})
NEGATIVE_COLUMNS = frozenset(
    {"negative_prompt", "negative prompt", "negativeprompt", "neg_prompt", "negative_prompts"}
)
_PERHAPS_NEGATIVE = frozenset({"negative", "uncond", "uc", "avoid"})
MOST_COLUMNS = 1000

Record = tuple[int, dict[str, Any] | str]
"""The number of a row, and its cells by column; a text alone is a prompt."""


@dataclass(frozen=True)
class Table:
    """Rows with named columns.

    prompts: the column that holds them, where the layout says it; within: what all rows lie in,
    which a name of a column may begin with; headed: the names are the first row of a text.
    """

    names: Sequence[str]
    records: Iterable[Record]
    notices: Sequence[str] = ()
    prompts: str | None = field(default=None, kw_only=True)
    within: str | None = field(default=None, kw_only=True)
    headed: bool = field(default=False, kw_only=True)


def of_columns(table: Table, column: str | None, label_column: str | None, name: str) -> PromptList:
    """Return the prompts of a table, of `column` or of the one with a known name.

    `column` may be a place, from 1, or lead further in by dots (`meta.caption`, `captions.raw`). A
    cell that holds several texts has several prompts. UsageError where it can't be told which.
    """
    names, notices = table.names, list(table.notices)
    refuse_too_many("columns", len(names), MOST_COLUMNS, name)
    path = _path_of_prompts(table, column, name)
    label = _label_column(names, label_column, name)
    negative = _negative_column(names, path, table)
    if negative:
        notices.append(f"Negative prompts are those in column {'.'.join(negative)!r}.")
    elif others := [n for n in names if n.strip().casefold() in _PERHAPS_NEGATIVE]:
        notices.append(
            f"Column {others[0]!r} is kept beside the results; a column of negative prompts is "
            "named negative_prompt."
        )
    records = table.records if isinstance(table.records, list) else list(table.records)
    in_cells = path is not None and _are_lists_in_text(r, path) if (r := records) else False
    if in_cells:
        notices.append("Each cell holds a list of texts, and each of these is a prompt.")

    def rows() -> Iterator[Row]:
        for number, record in records:
            if isinstance(record, str):
                yield Row(number, record, {})
                continue
            assert path is not None
            other = next(iter(_texts(record, negative, number, name)), None) if negative else None
            extra = _beside(record, {path[0], negative[0]} if negative else {path[0]})
            texts = _texts(record, path, number, name)
            if in_cells:
                texts = [text for cell in texts for text in _list_in(cell) or [cell]]
            for text in texts or [None]:
                yield Row(number, text, dict(extra), other)

    return collect(rows(), label, name, notices)


def names_of(records: Iterable[Record]) -> list[str]:
    """Return the columns that any of the records has, in the order in which they come."""
    return list(
        dict.fromkeys(k for _, record in records if not isinstance(record, str) for k in record)
    )


def find(names: Sequence[str], wanted: str | None) -> str:
    """Return the one name that is wanted, or known, "" if there is none; UsageError for several."""
    if wanted is not None:
        same = [name for name in names if name.strip() == wanted.strip()]
        same = same or [n for n in names if n.strip().casefold() == wanted.strip().casefold()]
        if not same and wanted.isdecimal() and 1 <= int(wanted[:9]) <= len(names):
            return names[int(wanted) - 1]
        return same[0] if same else ""
    found = [name for name in names if name.strip().casefold() in PROMPT_COLUMNS]
    if len(found) > 1:
        raise UsageError(
            f"Prompts could be in {' or '.join(map(repr, found[:20]))}: name the column with "
            "--column."
        )
    return found[0] if found else ""


def refuse_too_many(what: str, count: int, most: int, name: str) -> None:
    """Raise UsageError for what no list of prompts has so many of."""
    if count > most:
        raise UsageError(
            f"{name} has {count:,} {what}, and {most:,} are taken at most: is it a list of "
            "prompts? Give a part of it."
        )


def _path_of_prompts(table: Table, column: str | None, name: str) -> list[str] | None:
    """The keys that lead to a record's prompts; None if all records are texts."""
    names = table.names
    if not names:
        return None
    found = find(names, column)
    if found:
        return [found]
    if column is None:
        if table.prompts is not None:
            return [table.prompts]
        if len(names) == 1:
            return [names[0]]
    else:
        first, *further = column.split(".")
        if further and first == table.within:
            return _path_of_prompts(replace(table, within=None), ".".join(further), name)
        if further and find(names, first):
            return [find(names, first), *further]
    missing = "no column with a known name" if column is None else f"no column {column!r}"
    inner = _further_in(table)
    where = f" Further in lie {quoted(inner)}." if inner else ""
    row = "; --no-header as well if these are a row and no names" if table.headed else ""
    raise UsageError(
        f"{name} has {missing}. It has {quoted(names)}: name the one that holds the prompts with "
        f"--column, or its place (--column 1){row}.{where}"
    )


def _further_in(table: Table) -> list[str]:
    """Names by which a text lies within a column of the first record."""
    first = next((r for _, r in table.records if not isinstance(r, str)), {})
    found = []
    for key, value in first.items():
        inner = next(iter(value), None) if isinstance(value, list) else value
        if isinstance(inner, Mapping):
            found += [f"{key}.{k}" for k, v in inner.items() if isinstance(v, str | list)]
    return found


def _negative_column(
    names: Sequence[str], path: Sequence[str] | None, table: Table
) -> list[str] | None:
    """The keys that lead to negative prompts, which stand beside the prompts; None without any."""
    found = [name for name in names if name.strip().casefold() in NEGATIVE_COLUMNS]
    if found or path is None or len(path) != 2:
        return found[:1] or None
    inner = (r.get(path[0]) for _, r in table.records if not isinstance(r, str))
    keys = (key for value in inner if isinstance(value, Mapping) for key in value)
    beside = next((key for key in keys if key.strip().casefold() in NEGATIVE_COLUMNS), None)
    return None if beside is None else [path[0], beside]


def _label_column(names: Sequence[str], column: str | None, name: str) -> str | None:
    if column is None:
        known = [n for n in names if n.strip().casefold() in LABEL_COLUMNS]
        return known[0] if len(known) == 1 else None
    found = find(names, column)
    if not found:
        raise UsageError(f"{name} has no column {column!r}, which --label-column names.")
    return found


# -- cells


def _texts(record: Mapping[str, Any], path: Sequence[str], number: int, name: str) -> list[Any]:
    """The texts at the end of a path, through lists on the way; UsageError for what is no text."""
    values = [record.get(path[0])]
    for key in path[1:]:
        values = [v for value in values for v in (value if isinstance(value, list) else [value])]
        values = [value.get(key) for value in values if isinstance(value, Mapping)]
    values = [v for value in values for v in (value if isinstance(value, list) else [value])]
    texts = []
    for value in values:
        value = _decoded(value, number, name) if isinstance(value, bytes) else value
        plain = value if isinstance(value, str) else _plain(value)
        if isinstance(plain, dict | list):
            raise UsageError(
                f"Row {number} of {name} has no text in column {'.'.join(path)!r} but a "
                f"{'list' if isinstance(plain, list) else 'group of values'}. Name what lies in it "
                f"with --column {path[0]}.NAME."
            )
        if plain is not None:
            texts.append(str(plain))
    return texts


def _decoded(value: bytes, number: int, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"Row {number} of {name} holds bytes that are no UTF-8 text. Write it again as text, "
            "or name another column with --column."
        ) from error


def _are_lists_in_text(records: Sequence[Record], path: Sequence[str]) -> bool:
    """Whether the text of every cell is itself a list of texts, as tables hold several captions."""
    seen = False
    for _, record in records:
        cell = record if isinstance(record, str) else record.get(path[0])
        if len(path) > 1 or not isinstance(cell, str):
            return False
        if cell.strip():
            if not cell.lstrip().startswith("[") or _list_in(cell) is None:
                return False
            seen = True
    return seen


def _list_in(cell: str) -> list[str] | None:
    """The texts of a cell that is a list in JSON or as Python prints it, None for any other."""
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = parse(cell.strip())
            if isinstance(found, list) and found and all(isinstance(t, str) for t in found):
                return found
    return None


def _beside(record: Mapping[str, Any], left_out: set[str]) -> dict[str, JsonValue]:
    return {whole(str(k)): _plain(value) for k, value in record.items() if k not in left_out}


def _plain(value: Any) -> JsonValue:
    """Return a value as JSON can hold it: no NaN, no broken text, dates as text."""
    if isinstance(value, str):
        return whole(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {whole(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return whole(str(value))
