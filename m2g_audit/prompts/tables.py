"""Tables of text: what separates their columns, and what their quotes mean.

Programs that write csv put quotes around a field and double those in it; plain tables, as data sets
often are, mean every quote as it stands. Which of the two a file is, all its lines say together.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from m2g_audit.encodings import lines_of
from m2g_audit.errors import UsageError
from m2g_audit.prompts.columns import (
    LABEL_COLUMNS,
    MOST_COLUMNS,
    NEGATIVE_COLUMNS,
    PROMPT_COLUMNS,
    Record,
    Table,
    find,
    refuse_too_many,
)
from m2g_audit.records.vocabulary import Quotes
from m2g_audit.text import printable, quoted, some

DELIMITERS = ",;\t|"
_NO_DELIMITER = "\x1f"
"""Stands for "no delimiter": a line is one field, which may be quoted."""
_SNIFFED_ROWS, _SNIFFED_LETTERS = 100, 2**20
_REGULAR = 0.9
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[ \t]*(?:\r\n|\r|\n)', re.IGNORECASE)
_USUAL = frozenset({"file", "file_name", "filename", "id", "image", "index", "path", "url"})
"""Columns that tables of captions have besides."""
EVERY_LINE = (
    "The first line of {} is no known column name, so every line is a prompt (--header if it is "
    "the name of the column)."
)
_NUMBER_OR_NOTHING = re.compile(r"\s*(?:[-+.\d][-+.,\d eE%]*|NA|N/A|NaN|null|NULL|None)?\s*")


@dataclass(frozen=True)
class TableOptions:
    """What a user says of a table: the prompts' column, what quotes mean, whether it has a header.

    column: a name, or a place from 1; None for all three: to be found out.
    """

    column: str | None = None
    quotes: Quotes | None = None
    header: bool | None = None

    @property
    def by_place(self) -> bool:
        """Whether the column is told by its place."""
        return (self.column or "").isdecimal()

    @property
    def column_name(self) -> str | None:
        """The column, where it is told by its name."""
        return None if self.by_place else self.column


@dataclass(frozen=True)
class _Rows:
    """A way to read a table: its rows, or why it can't be read so."""

    rows: list[list[str]]
    error: str = ""

    def regular(self) -> bool:
        """Whether no row has more fields than the first."""
        return not self.error and all(len(row) <= len(self.rows[0]) for row in self.rows)

    def even(self) -> bool:
        """Whether all rows but empty ones have as many fields as the first."""
        return all(len(row) in (0, len(self.rows[0])) for row in self.rows)


def is_table(text: str, options: TableOptions, *, named: bool) -> bool:
    """Whether a text is a table: a header, or columns that were asked for or that `named` promises.

    named: its file's name says so. UsageError where a first line could be a header or a prompt.
    """
    if has_separator_line(text):
        return True
    if named or options.header is not None or options.by_place:
        known = any(_is_known(fields, options.column_name) for fields in headers(text))
        in_quotes = named and '"' in text
        return known or in_quotes or has_columns(text) or options.header is not None
    return any(_heads(text, delimiter, options) for delimiter in (*DELIMITERS, _NO_DELIMITER))


def _heads(text: str, delimiter: str, options: TableOptions) -> bool:
    """Whether the first line, parted by a delimiter, is the header of what follows."""
    share, first = _regularity(text, delimiter)
    if not _is_known(first, options.column_name):
        return False
    if len(first) == 1 or options.column is not None:
        return True
    regular = share >= _REGULAR
    names = (re.fullmatch(r"[\w.-]+(?: [\w.-]+){0,3}|", name) for name in first)
    as_names = all(names) and not _is_spaced(text, delimiter)
    if regular == as_names:
        return regular
    raise UsageError(
        f"The first line may name the columns of a table (“{printable(delimiter.join(first), 60)}”)"
        " or be a prompt. Say --read-as csv (with --no-header --column 1 if it is one of the rows),"
        " or --read-as txt to take every line as it stands."
    )


def _is_known(fields: Sequence[str], column: str | None) -> bool:
    """Whether one of a first row's fields is the column's name, or a usual one."""
    wanted = PROMPT_COLUMNS if column is None else {column.strip().casefold()}
    return any(field.strip().casefold() in wanted for field in fields)


def read_table(text: str, name: str, options: TableOptions, delimiter: str | None = None) -> Table:
    """Return the rows of a table; UsageError where they can't be told.

    delimiter: None to find it, or take it from a line `sep=;`.
    """
    separator = _SEPARATOR_LINE.match(text)
    if separator:
        text, delimiter = text[separator.end() :], separator[1]
    if delimiter is None:
        if options.header is False:
            _refuse_two_delimiters(text, name)
        delimiter = _sniff_delimiter(text, options.column)
    rows, notices = _read(text, delimiter, options.quotes, name)
    if not rows:
        return Table([], [], notices)
    refuse_too_many("columns", len(rows[0]), MOST_COLUMNS, name)
    names, body = _named(rows, options, name)
    if options.header is None and len(body) == len(rows):
        notices.append(EVERY_LINE.format(name))
    crowded = [number for number, row in enumerate(body, start=1) if len(row) > len(names)]
    if crowded:
        raise UsageError(
            f"{len(crowded):,} rows of {name} have more fields than its header has names "
            f"({some(crowded, 'row')}), so it can't be told which is the prompt. Put quotes "
            f"around a prompt that holds {'a tab' if delimiter == chr(9) else repr(delimiter)}."
        )
    records: list[Record] = [
        (number, dict(zip(names, row, strict=False)))
        for number, row in enumerate(body, start=1)
        if row
    ]
    return Table(names, records, notices, headed=options.header is None)


def headers(text: str) -> Iterator[list[str]]:
    """Yield the first row by each delimiter that there may be."""
    separator = _SEPARATOR_LINE.match(text)
    if separator:
        text = text[separator.end() :]
    for delimiter in (*DELIMITERS, _NO_DELIMITER):
        yield next(iter(_sample(text, delimiter)), [])


def has_columns(text: str) -> bool:
    """Whether a sign parts the lines of a text into as many fields as its first has."""
    return _sniff_delimiter(text, None) != _NO_DELIMITER


def has_separator_line(text: str) -> bool:
    """Whether the first line says what separates columns, as spreadsheets write it."""
    return _SEPARATOR_LINE.match(text) is not None


def _named(
    rows: list[list[str]], options: TableOptions, name: str
) -> tuple[list[str], list[list[str]]]:
    """The columns' names and the rows under them; one column without a known name has no header."""
    first = rows[0]
    if options.header is False:
        width = max(len(row) for row in rows)
        names = ["prompt"] if width == 1 else [f"column_{i + 1}" for i in range(width)]
        return names, rows
    if options.header is None and len(first) == 1 and not _is_known(first, options.column_name):
        return ["prompt"], rows
    if options.header is None and options.by_place and not _names_columns(first, options):
        raise UsageError(
            f"The first row of {name} is {quoted(first)}: say --header if it names the columns, "
            "--no-header if it is one of the rows."
        )
    return _distinct(first), rows[1:]


def _names_columns(first: Sequence[str], options: TableOptions) -> bool:
    usual = PROMPT_COLUMNS | LABEL_COLUMNS | NEGATIVE_COLUMNS | _USUAL
    return any(f.strip().casefold() in usual or f.strip() == options.column for f in first)


def _distinct(header: Sequence[str]) -> list[str]:
    """Return the columns' names; one that is empty gets its number, one that is there again too."""
    names: list[str] = []
    for number, name in enumerate(header, start=1):
        name = name.strip() or f"column_{number}"
        names.append(name if name not in names else f"{name}_{number}")
    return names


# -- what quotes mean


def _read(
    text: str, delimiter: str, quotes: Quotes | None, name: str
) -> tuple[list[list[str]], list[str]]:
    if '"' not in text:
        return _literal(text, delimiter).rows, []
    if quotes == "none":
        return _literal(text, delimiter).rows, []
    quoted = _by_convention(text, delimiter)
    if quotes == "csv":
        if quoted.error:
            raise _unreadable(name, quoted.error)
        return quoted.rows, []
    literal = _literal(text, delimiter)
    if not quoted.regular():
        if literal.regular():
            _refuse_backslashes(text, delimiter, name)
            return literal.rows, [
                f"Quotes in {name} are read as they stand, since no program that quotes would have "
                "written them so."
            ]
        if quoted.error:
            raise _unreadable(name, quoted.error)
        return quoted.rows, []  # too many fields, which is said of the rows
    if quoted.rows == literal.rows or not literal.regular():
        return quoted.rows, []
    if quoted.even() and not literal.even():
        return quoted.rows, [
            f"Fields of {name} that have several lines are held together by quotes (--quotes none "
            "to read each line as it stands)."
        ]
    written = _written_by_convention(text, delimiter)
    if written == "not":
        raise _ambiguous(quoted, literal, name)
    if written == "needed" or text.lstrip().startswith('"'):
        return quoted.rows, []
    return quoted.rows, [
        f"Quotes around all fields of a column of {name} are no part of them (--quotes none to "
        "read them as they stand)."
    ]


def _unreadable(name: str, error: str) -> UsageError:
    return UsageError(
        f"{name} can't be read as a table: {error}. A quote inside a quoted field must be written "
        'twice (""); if no quote in it means more than itself, say --quotes none.'
    )


def _refuse_backslashes(text: str, delimiter: str, name: str) -> None:
    """Raise UsageError for a table whose quotes are marked by backslashes, as databases do it."""
    if '\\"' not in text:
        return
    marked = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, escapechar="\\", doublequote=False
    )
    if _Rows(list(_trimmed(marked))).even():
        raise UsageError(
            f'Quotes within fields of {name} seem to be marked by backslashes (\\"). Write it '
            'again with such quotes doubled (""), or say --quotes none to read all as it stands.'
        )


def _ambiguous(quoted: _Rows, literal: _Rows, name: str) -> UsageError:
    none: list[str] = []
    pairs = enumerate(zip_longest(quoted.rows, literal.rows, fillvalue=none), start=1)
    number, one, other = next((i, a, b) for i, (a, b) in pairs if a != b)
    differing = next((a, b) for a, b in zip_longest(one, other, fillvalue="") if a != b)
    said = f"{len(quoted.rows):,} and {len(literal.rows):,} rows"
    return UsageError(
        f"Quotes in {name} can be read in two ways ({said}). Row {number} holds "
        f"“{printable(differing[0], 60)}” if they surround a field (--quotes csv), "
        f"“{printable(differing[1], 60)}” if they are part of the text (--quotes none): say which."
    )


def _by_convention(text: str, delimiter: str) -> _Rows:
    reader = _reader(text, delimiter, spaced=_is_spaced(text, delimiter))
    rows: list[list[str]] = []
    try:
        rows.extend(_trimmed(reader))
    except csv.Error as error:
        return _Rows(rows, f"{error}, at line {reader.line_num}")
    return _Rows(rows)


def _literal(text: str, delimiter: str) -> _Rows:
    rows = (line.split(delimiter) if line else [] for line in lines_of(text))
    if _is_spaced(text, delimiter):
        rows = ([cell.lstrip(" ") for cell in row] for row in rows)
    return _Rows(list(_trimmed(rows)))


def _is_spaced(text: str, delimiter: str) -> bool:
    """Whether a space follows all delimiters of the first line, and so belongs to them."""
    cells = text.lstrip().partition("\n")[0].split(delimiter)[1:]
    return bool(cells) and all(cell.startswith(" ") for cell in cells)


def _trimmed(rows: Any) -> Iterator[list[str]]:
    """Rows from the first that is not empty, without empty cells that no name stands over."""
    width = 0
    for row in rows:
        # Empty lines before the header are none of the rows.
        if not width and not row:
            continue
        width = width or len(row)
        while len(row) > width and not row[-1].strip():
            row.pop()
        yield row


def _written_by_convention(text: str, delimiter: str) -> Literal["needed", "columns", "not"]:
    """How a program may have written these quotes: where needed, around whole columns, or not.

    needed: the field holds a delimiter, a quote or white space at its ends. A line end within
    quotes would need them too, but where each line is a whole row they may not belong together.
    """
    needs = ['"', *(DELIMITERS if delimiter == _NO_DELIMITER else delimiter)]
    needless: set[int] = set()
    bare: set[int] = set()
    row = place = 0
    spaces = " *" if _is_spaced(text, delimiter) else ""
    for match in _field_pattern(delimiter, spaces).finditer(text):
        inside, outside, end = match.groups()
        if inside is not None:
            if "\n" in inside or "\r" in inside:
                return "not"
            value = inside.replace('""', '"')
            if not (any(sign in value for sign in needs) or value != value.strip()):
                needless |= {place} if row else set()
        elif '"' in outside:
            return "not"
        elif row and not _NUMBER_OR_NOTHING.fullmatch(outside):
            bare.add(place)
        place = place + 1 if end == delimiter else 0
        row += end != delimiter
        if not end:
            break
    if needless & bare:
        return "not"
    return "columns" if needless else "needed"


def _field_pattern(delimiter: str, spaces: str) -> re.Pattern[str]:
    d = re.escape(delimiter)
    return re.compile(rf'{spaces}(?:"((?:[^"]|"")*)"|([^{d}\r\n]*))({d}|\r\n|\r|\n|\Z)')


# -- what separates columns


def _sniff_delimiter(text: str, column: str | None) -> str:
    """Return what separates columns: the sign that most rows hold as often as the header does.

    Texts have no tabs: those that are in every line separate.
    """
    best, best_score = _NO_DELIMITER, (False, False, 0.0, 1)
    for delimiter in DELIMITERS:
        regular, first = _regularity(text, delimiter)
        known = bool(find(first, column)) and not (column or "").isdecimal()
        score = (known, delimiter == "\t" and regular == 1, regular, len(first))
        if len(first) > 1 and (known or regular >= _REGULAR) and score > best_score:
            best, best_score = delimiter, score
    return best


def _regularity(text: str, delimiter: str) -> tuple[float, list[str]]:
    """The share of rows with as many fields as the first one, and that row."""
    rows = [row for row in _trimmed(_sample(text, delimiter)) if row]
    if not rows:
        return 0.0, []
    return sum(len(row) == len(rows[0]) for row in rows) / len(rows), rows[0]


def _refuse_two_delimiters(text: str, name: str) -> None:
    """Raise UsageError where nothing tells which sign separates rows that have no header."""
    found = [_regularity(text, delimiter) for delimiter in DELIMITERS]
    pairs = zip(DELIMITERS, found, strict=True)
    possible = [d for d, (regular, first) in pairs if regular == 1 and len(first) > 1]
    if len(possible) > 1 and "\t" not in possible:
        raise UsageError(
            f"The columns of {name} may be separated by {' or '.join(map(repr, possible))}: put a "
            f"line sep={possible[-1]} (or the other sign) before the first."
        )


def _sample(text: str, delimiter: str) -> list[list[str]]:
    start = text[:_SNIFFED_LETTERS]
    spaced = _is_spaced(start, delimiter)
    for rows in (_reader(start, delimiter, spaced=spaced), iter(_first_lines(start, delimiter))):
        found: list[list[str]] = []
        try:
            for row in rows:
                if row:
                    found.append(row)
                if len(found) == _SNIFFED_ROWS:
                    break
        except csv.Error:
            if not found or len(start) == len(text):
                continue  # as it stands, if quotes mean nothing
        cut_short = len(start) < len(text) and 1 < len(found) < _SNIFFED_ROWS
        return found[:-1] if cut_short else found
    return []


def _first_lines(text: str, delimiter: str) -> list[list[str]]:
    lines = text.split("\n", _SNIFFED_ROWS)[:_SNIFFED_ROWS]
    return [line.rstrip("\r").split(delimiter) for line in lines if line.strip()]


def _reader(text: str, delimiter: str, *, spaced: bool = False) -> Any:
    # A caption may be longer than the module's default of 131,072 characters.
    csv.field_size_limit(2**31 - 1)
    return csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=spaced
    )
