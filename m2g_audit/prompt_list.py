"""Lists of prompts, whatever file they come in: which prompts, in which order, with what beside.

A text is a prompt as it is, but for white space around it: nothing in it is interpreted, corrected
or left out. A prompt that is listed twice is one entry. What was left out or could not be read is
said in the list's notices. Nothing heavy is imported, so that a wrong list fails at once.
"""

from __future__ import annotations

import codecs
import csv
import datetime
import hashlib
import io
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from m2g_audit.errors import AuditError, UsageError
from m2g_audit.foreign_files import open_file
from m2g_audit.printable import printable

ListFormat = Literal["txt", "csv", "tsv", "jsonl", "parquet"]
STDIN = "-"

PROMPT_COLUMNS = frozenset({"caption", "captions", "prompt", "prompts", "text"})
LABEL_COLUMNS = frozenset({"label", "labels", "truth", "expected"})

_SUFFIXES: dict[str, ListFormat] = {
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_DELIMITERS = ",;\t|"
# Stands for "no delimiter": a line is one field, which may be quoted.
_NO_DELIMITER = "\x1f"
MAX_PROMPT = 10_000
"""Letters of a prompt."""
MOST_COLUMNS, MOST_ROWS, MOST_BYTES = 1000, 5_000_000, 2**32
_SHOWN_COLUMNS = 20
_SNIFFED_ROWS = 100
_REGULAR = 0.9
_PARQUET_MAGIC = b"PAR1"
_NAMED = 5
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does, so it is looked for first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

Row = tuple[int, str | None, dict[str, JsonValue]]


class Listed(BaseModel):
    """What a list says of a prompt beside its text.

    `index` is its place in the list, from 0 and without repetitions, `id` the start of its text's
    SHA-256. `rows` are the input's rows that it stands in, from 1, a header not counted. `extra`
    are the other columns of the first of these rows, `repeated` those of the further ones.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    index: int
    id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    rows: list[int]
    label: str | None = None
    extra: dict[str, JsonValue] = {}
    repeated: list[dict[str, JsonValue]] = []


class Entry(Listed):
    """One prompt of a list."""

    prompt: str


@dataclass(frozen=True)
class PromptList:
    """Prompts in the order in which they were first listed; `notices` say what was not taken."""

    entries: tuple[Entry, ...]
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def sha256(self) -> str:
        """Return the hash of all entries, with what stands beside the prompts."""
        return hashlib.sha256(self.to_jsonl()).hexdigest()

    def to_jsonl(self) -> bytes:
        """Return one line of JSON for each entry."""
        return "".join(f"{entry.model_dump_json()}\n" for entry in self.entries).encode()


def prompt_id(prompt: str) -> str:
    """Return the name that a prompt's results go by: 16 hex digits of its SHA-256."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def parse_list(content: bytes) -> PromptList:
    """Return the list that `to_jsonl` wrote; ValueError where it is none."""
    return PromptList(tuple(map(Entry.model_validate_json, content.splitlines())))


def read_prompts(
    source: str | Path,
    *,
    column: str | None = None,
    label_column: str | None = None,
    encoding: str | None = None,
    read_as: ListFormat | None = None,
) -> PromptList:
    """Return the prompts of a file, or of stdin for `-`; UsageError where it can't be read.

    txt has one prompt a line; csv, tsv, jsonl and parquet have columns, of which `column` holds
    the prompts and `label_column` what they are known to be. Without these, columns named as
    PROMPT_COLUMNS and LABEL_COLUMNS say are taken. `read_as` is known by the file's name, else by
    its content. Text is UTF-8, or what its byte order mark says, or `encoding`.
    """
    name = "stdin" if str(source) == STDIN else str(source)
    try:
        return _read(source, name, column, label_column, encoding, read_as)
    except (AuditError, MemoryError):
        raise
    except Exception as error:  # readers raise what they like on broken files
        raise UsageError(
            f"{name} can't be read as a list of prompts: {type(error).__name__}: {error}. Say what "
            "it is with --read-as, or make a txt file of it with a prompt a line."
        ) from error


def _read(
    source: str | Path,
    name: str,
    column: str | None,
    label_column: str | None,
    encoding: str | None,
    read_as: ListFormat | None,
) -> PromptList:
    file = _open(source)
    kind = read_as or _SUFFIXES.get(Path(source).suffix.lower()) or _binary_format(file)
    if kind == "parquet":
        names, records, notices = _read_parquet(file, name)
        return _of_columns(names, records, column, label_column, name, notices)
    text, notices = _decode(file.read(), name, encoding)
    kind = kind or _sniff_format(text, column)
    if kind == "txt":
        if column is not None:
            raise UsageError(f"{name} is read as plain lines, which have no column {column!r}.")
        return _collect(_lines(text), label_column, name, notices)
    if kind == "jsonl":
        records = _read_jsonl(text, name)
        names = _names(records)
    else:
        names, records = _read_csv(text, name, column, "\t" if kind == "tsv" else None, notices)
    return _of_columns(names, records, column, label_column, name, notices)


def from_python(
    prompts: Iterable[str | Mapping[str, Any]],
    *,
    column: str | None = None,
    label_column: str | None = None,
) -> PromptList:
    """Return the list of prompts given as strings, or as mappings like the lines of jsonl."""
    records = [item if isinstance(item, str) else dict(item) for item in prompts]
    numbered = list(enumerate(records, start=1))
    return _of_columns(_names(numbered), numbered, column, label_column, "the list", [])


def _open(source: str | Path) -> BinaryIO:
    """Return the open file; that of stdin is read whole, since pipes can't go back."""
    if str(source) == STDIN:
        if sys.stdin.isatty():
            raise UsageError("Nothing comes from stdin: pipe a list into it, or name a file.")
        return io.BytesIO(sys.stdin.buffer.read())
    path = Path(source).expanduser()
    if path.is_dir():
        raise UsageError(f"{path} is a folder: give the file that lists the prompts.")
    try:
        if path.is_fifo():  # as shells make them of a command
            return io.BytesIO(path.read_bytes())
        return open_file(path)
    except OSError as error:
        raise UsageError(
            f"Can't read the prompts from {path}: {error.strerror}. Give a file "
            f"({', '.join(get_args(ListFormat))}), or - for stdin."
        ) from error


def _binary_format(file: BinaryIO) -> ListFormat | None:
    start = file.read(len(_PARQUET_MAGIC))
    file.seek(0)
    return "parquet" if start == _PARQUET_MAGIC else None


# -- text


def _decode(content: bytes, name: str, encoding: str | None) -> tuple[str, list[str]]:
    """Return the text, and what was not legible in it."""
    mark = next((codec for bom, codec in _BOMS if content.startswith(bom)), None)
    codec = encoding or mark or "utf-8"
    try:
        text = content.decode(codec)
    except LookupError as error:
        raise UsageError(
            f"There is no --encoding {encoding}: utf-8, utf-16, cp1252, latin-1, cp1251, shift_jis "
            "are some."
        ) from error
    except UnicodeDecodeError:
        broken = _broken_lines(content, codec)
        if encoding is None and mark is None and not _is_mostly_utf8(content, broken):
            raise _other_encoding(content, name, broken) from None
        where = f": {_some(broken)}" if broken else ""
        return content.decode(codec, "replace"), [
            f"Bytes that are not {codec} are read as �{where}."
        ]
    _refuse_binary(text, name)
    return text, []


def _broken_lines(content: bytes, codec: str) -> list[int]:
    """Return the numbers of the lines that can't be decoded, from 1; none if a line end is wide."""
    if "\n".encode(codec) != b"\n":
        return []
    broken = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            line.decode(codec)
        except UnicodeDecodeError:
            broken.append(number)
    return broken


def _is_mostly_utf8(content: bytes, broken: Sequence[int]) -> bool:
    """Whether more lines hold other than ASCII in good UTF-8 than in bad."""
    beyond_ascii = sum(not line.isascii() for line in content.split(b"\n"))
    return beyond_ascii > 2 * len(broken)


def _other_encoding(content: bytes, name: str, broken: Sequence[int]) -> UsageError:
    line = content.split(b"\n")[broken[0] - 1].decode("cp1252", "replace").strip()
    return UsageError(
        f"{name} is not UTF-8: {_some(broken)}. Say what it is with --encoding. With cp1252, as "
        f"Windows writes in the West, line {broken[0]} is “{printable(line, 60)}”; with utf-8, "
        "what is no UTF-8 is read as �."
    )


def _refuse_binary(text: str, name: str) -> None:
    sample = text[:100_000]
    control = sum(ord(letter) < 32 and letter not in "\t\n\r" for letter in sample)
    if control > 0.1 * len(sample):
        hint = " It looks like UTF-16: say --encoding utf-16-le." if "\0" in sample[:4] else ""
        raise UsageError(f"{name} is not a text file.{hint} Give a list of prompts.")


def _some(numbers: Sequence[int], what: str = "line") -> str:
    shown = ", ".join(map(str, numbers[:_NAMED]))
    more = f" and {len(numbers) - _NAMED:,} more" if len(numbers) > _NAMED else ""
    return f"{what if len(numbers) == 1 else f'{what}s'} {shown}{more}"


def _sniff_format(text: str, column: str | None) -> ListFormat:
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if first.startswith("{"):
        with suppress(ValueError):
            if isinstance(json.loads(first), dict):
                return "jsonl"
    if any(_find(fields, column) for fields in _headers(text)):
        return "csv"
    return "txt"


def _headers(text: str) -> Iterator[list[str]]:
    for delimiter in (*_DELIMITERS, _NO_DELIMITER):
        yield next(iter(_sample(text, delimiter)), [])


def _lines(text: str) -> Iterator[Row]:
    # Not splitlines, which also breaks at form feeds and at the separators of Unicode.
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text.removesuffix("\n")), start=1):
        yield number, line, {}


# -- columns

Record = tuple[int, dict[str, Any] | str]


def _names(records: Iterable[Record]) -> list[str]:
    return list(
        dict.fromkeys(k for _, record in records if not isinstance(record, str) for k in record)
    )


def _read_jsonl(text: str, name: str) -> list[Record]:
    records: list[Record] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"Line {number} of {name} is not JSON ({error}): each line must be an object such "
                'as {"caption": "..."}.'
            ) from error
        if not isinstance(record, str | dict):
            raise UsageError(
                f"Line {number} of {name} is JSON but no object: each line must be one, such as "
                '{"caption": "..."}.'
            )
        records.append((number, record))
    return records


def _read_csv(
    text: str, name: str, column: str | None, delimiter: str | None, notices: list[str]
) -> tuple[list[str], list[Record]]:
    delimiter = delimiter or _sniff_delimiter(text, column)
    rows = list(_fields(text, delimiter, name))
    if not rows:
        return [], []
    header, body = rows[0], rows[1:]
    _refuse_too_many("columns", len(header), MOST_COLUMNS, name)
    if len(header) == 1 and not _find(header, column):
        notices.append(
            f"The first line of {name} is no known column name, so every line is a prompt."
        )
        header, body = ["prompt"], rows
    names = _distinct(header)
    crowded = [number for number, row in enumerate(body, start=1) if len(row) > len(names)]
    if crowded:
        raise UsageError(
            f"{len(crowded):,} rows of {name} have more fields than its header has names "
            f"({_some(crowded, 'row')}), so it can't be told which is the prompt. Put quotes "
            f"around a prompt that holds {'a tab' if delimiter == chr(9) else repr(delimiter)}."
        )
    return names, [
        (number, dict(zip(names, row, strict=False)))
        for number, row in enumerate(body, start=1)
        if row
    ]


def _sniff_delimiter(text: str, column: str | None) -> str:
    """Return what separates columns: the sign that most rows hold as often as the header does."""
    best, best_score = _NO_DELIMITER, (False, 0.0, 1)
    for delimiter in _DELIMITERS:
        rows = [row for row in _sample(text, delimiter) if row]
        if not rows or len(rows[0]) < 2:
            continue
        width = len(rows[0])
        regular = sum(len(row) == width for row in rows) / len(rows)
        score = (bool(_find(rows[0], column)), regular, width)
        if (score[0] or regular >= _REGULAR) and score > best_score:
            best, best_score = delimiter, score
    return best


def _sample(text: str, delimiter: str) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        for row in _reader(text, delimiter):
            if row:
                rows.append(row)
            if len(rows) == _SNIFFED_ROWS:
                break
    except csv.Error:
        pass
    return rows


def _fields(text: str, delimiter: str, name: str) -> Iterator[list[str]]:
    reader = _reader(text, delimiter)
    started = False
    try:
        for row in reader:
            # Empty lines before the header are none of the rows.
            started = started or bool(row)
            if started:
                yield row
    except csv.Error as error:
        raise UsageError(
            f"{name} can't be read as a table: {error}, at line {reader.line_num}. A quote inside "
            'a quoted field must be written twice ("").'
        ) from error


def _reader(text: str, delimiter: str) -> Any:
    # A caption may be longer than the module's default of 131,072 characters.
    csv.field_size_limit(2**31 - 1)
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)


def _distinct(header: Sequence[str]) -> list[str]:
    """Return the columns' names; one that is empty gets its number, one that is there again too."""
    names: list[str] = []
    for number, name in enumerate(header, start=1):
        name = name.strip() or f"column_{number}"
        names.append(name if name not in names else f"{name}_{number}")
    return names


def _read_parquet(file: BinaryIO, name: str) -> tuple[list[str], list[Record], list[str]]:
    import pyarrow
    from pyarrow import parquet

    try:
        stored = parquet.ParquetFile(file)
        _refuse_too_many("rows", stored.metadata.num_rows, MOST_ROWS, name)
        schema = stored.schema_arrow
        kept = [field.name for field in schema if not _holds_bytes(field.type)]
        # Data sets of captions often hold their pictures, which no record should carry.
        left = [field.name for field in schema if field.name not in kept]
        records = list(enumerate(_rows_of(stored, kept, name), start=1))
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(
            f"{name} can't be read as parquet: {error}. Write it again without the column that is "
            "at fault, or as csv or jsonl."
        ) from error
    notices = [f"Columns with binary content were left out: {', '.join(left)}."] if left else []
    return kept, records, notices


def _rows_of(stored: Any, columns: Sequence[str], name: str) -> Iterator[Any]:
    """Yield rows, little by little: what repeats is stored once, and a small file may hold much."""
    size = 0
    for batch in stored.iter_batches(batch_size=1000, columns=columns):
        size += batch.nbytes
        _refuse_too_many("bytes of text", size, MOST_BYTES, name)
        yield from batch.to_pylist()


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))


def _of_columns(
    names: Sequence[str],
    records: Iterable[Record],
    column: str | None,
    label_column: str | None,
    name: str,
    notices: list[str],
) -> PromptList:
    _refuse_too_many("columns", len(names), MOST_COLUMNS, name)
    prompt_column = _prompt_column(names, column, name) if names else ""
    label = _label_column(names, label_column, name)

    def rows() -> Iterator[Row]:
        for number, record in records:
            if isinstance(record, str):
                yield number, record, {}
                continue
            prompt = record.get(prompt_column)
            prompt = prompt if isinstance(prompt, str) else _plain(prompt)
            if isinstance(prompt, dict | list):
                raise UsageError(
                    f"Row {number} of {name} has no text in column {prompt_column!r} but a "
                    f"{type(prompt).__name__}. Name another with --column."
                )
            others = {key: value for key, value in record.items() if key != prompt_column}
            extra = {_whole(str(key)): _plain(value) for key, value in others.items()}
            yield number, None if prompt is None else str(prompt), extra

    return _collect(rows(), label, name, notices)


def _find(names: Sequence[str], wanted: str | None) -> str:
    """Return the one name that is wanted, or known, "" if there is none; UsageError for several."""
    if wanted is not None:
        same = [name for name in names if name.strip() == wanted.strip()]
        same = same or [n for n in names if n.strip().casefold() == wanted.strip().casefold()]
        return same[0] if same else ""
    found = [name for name in names if name.strip().casefold() in PROMPT_COLUMNS]
    if len(found) > 1:
        raise UsageError(
            f"Prompts could be in {' or '.join(map(repr, found))}: name the column with --column."
        )
    return found[0] if found else ""


def _prompt_column(names: Sequence[str], column: str | None, name: str) -> str:
    found = _find(names, column)
    if not found and column is None and len(names) == 1:
        found = names[0]
    if not found:
        missing = "no column with a known name" if column is None else f"no column {column!r}"
        raise UsageError(
            f"{name} has {missing}. It has {_quoted(names)}: name the one that holds the prompts "
            "with --column."
        )
    return found


def _label_column(names: Sequence[str], column: str | None, name: str) -> str | None:
    if column is None:
        known = [n for n in names if n.strip().casefold() in LABEL_COLUMNS]
        return known[0] if len(known) == 1 else None
    found = _find(names, column)
    if not found:
        raise UsageError(f"{name} has no column {column!r}, which --label-column names.")
    return found


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(repr(printable(name, 60)) for name in names[:_SHOWN_COLUMNS])
    more = len(names) - _SHOWN_COLUMNS
    return f"{shown} and {more:,} more" if more > 0 else shown


def _refuse_too_many(what: str, count: int, most: int, name: str) -> None:
    if count > most:
        raise UsageError(
            f"{name} has {count:,} {what}, and {most:,} are taken at most: is it a list of "
            "prompts? Give a part of it."
        )


def _plain(value: Any) -> JsonValue:
    """Return a value as JSON can hold it: no NaN, no broken text, dates as text."""
    if isinstance(value, str):
        return _whole(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_whole(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return _whole(str(value))


def _whole(text: str) -> str:
    """Return `text` without halves of surrogate pairs, which no UTF-8 can hold: � for each."""
    return re.sub("[\ud800-\udfff]", "�", text)


# -- the list


def _collect(
    rows: Iterable[Row], label_column: str | None, name: str, notices: Sequence[str]
) -> PromptList:
    found: dict[str, list[Row]] = {}
    empty: list[int] = []
    mended: list[int] = []
    too_long: list[int] = []
    for number, text, extra in rows:
        prompt = _whole(text or "").strip()
        if prompt != (text or "").strip():
            mended.append(number)
        if len(prompt) > MAX_PROMPT:
            too_long.append(number)
        elif prompt:
            found.setdefault(prompt, []).append((number, prompt, extra))
        else:
            empty.append(number)
    if too_long:
        raise UsageError(
            f"{name} has prompts of more than {MAX_PROMPT:,} characters ({_some(too_long, 'row')})."
            " Models read some 75 words and drop the rest: give the beginning."
        )
    if not found:
        raise UsageError(f"There are no prompts in {name}: one a line, or a column of them.")
    entries = []
    contradicting = []
    for index, (prompt, same) in enumerate(found.items()):
        labels = {_label(extra, label_column) for _, _, extra in same}
        if len(labels) > 1:
            contradicting.append(same[0][0])
        entries.append(
            Entry(
                index=index,
                id=prompt_id(prompt),
                prompt=prompt,
                rows=[number for number, _, _ in same],
                label=labels.pop() if len(labels) == 1 else None,
                extra=same[0][2],
                repeated=[extra for _, _, extra in same[1:]],
            )
        )
    said = list(notices)
    if empty:
        said.append(f"{_count(empty)} no prompt and nothing to audit: {_some(empty, 'row')}.")
    if mended:
        said.append(f"{_count(mended)} half letters, read as �: {_some(mended, 'row')}.")
    repeated = sum(len(entry.repeated) for entry in entries)
    if repeated:
        said.append(f"{repeated:,} rows repeat a prompt, which is audited once.")
    if contradicting:
        said.append(
            "Repeated prompts with labels that contradict each other have none: "
            f"{_some(contradicting, 'row')}."
        )
    return PromptList(tuple(entries), tuple(said))


def _label(extra: dict[str, JsonValue], column: str | None) -> str | None:
    """Take the label out of a row's other columns."""
    label = None if column is None else extra.pop(column, None)
    return None if label in (None, "") else str(label)


def _count(numbers: Sequence[int]) -> str:
    return "1 row has" if len(numbers) == 1 else f"{len(numbers):,} rows have"
