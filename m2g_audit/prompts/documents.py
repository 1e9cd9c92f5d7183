"""JSON: one document, or one on each line, in the layouts that data sets and trainers use."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from m2g_audit.errors import UsageError
from m2g_audit.prompts.columns import PROMPT_COLUMNS, Record, Table, names_of
from m2g_audit.text import quoted

KEY = "key"
"""The column that holds the name by which a document files its rows."""
_DIFFUSION_DB = frozenset({"p", "se", "c", "st", "sa"})
_ANNOTATIONS = "annotations"
_FILE_OR_NUMBER = re.compile(r"^\d+$|\.\w{2,5}$|/")
_Rows = list[Any]


def looks_like_json(text: str) -> bool:
    """Whether a text without a name to go by is JSON: a document, or objects line by line.

    A line of a prompt may begin with a bracket too (`[a cat|a dog]`), but is no JSON then.
    """
    start = text.lstrip()[:1]
    if start not in ("{", "["):
        return False
    first = next(line for line in text.splitlines() if line.strip())
    return _is_container(first) or _is_container(text)


def _is_container(text: str) -> bool:
    with suppress(ValueError, RecursionError):
        return isinstance(json.loads(text), dict | list)
    return False


def read_json(text: str, name: str, column: str | None) -> Table:
    """Return the rows of a document, or of one on each line; UsageError where there are none.

    column: which one is to hold the prompts, where that tells columns from rows.
    """
    try:
        document = json.loads(text, object_pairs_hook=_object)
    except UsageError as error:
        raise UsageError(f"{name} {error}") from error
    except (ValueError, RecursionError) as error:
        # A document is read as one line by line only if it may be: its first line says so.
        first = next((line for line in text.split("\n") if line.strip()), "")
        if not first.strip() or not _is_value(first):
            raise _no_json(name, error) from error
        return _lines(text, name)
    if isinstance(document, str):  # a single line
        return Table([], [(1, document)])
    return _of_document(document, name, column)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs; UsageError where JSON would drop all but the last of a key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise UsageError(f"has the key {quoted([twice])} twice in one object: rename one of them.")
    return found


def _is_value(line: str) -> bool:
    with suppress(ValueError, RecursionError):
        json.loads(line)
        return True
    return False


def _no_json(name: str, error: Exception) -> UsageError:
    return UsageError(
        f"{name} is not JSON ({error}). Repair it; or, if its lines are prompts as they stand, say "
        "--read-as txt."
    )


def _lines(text: str, name: str) -> Table:
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
    return _table(records)


def _of_document(document: Any, name: str, column: str | None) -> Table:
    """The rows of a document; what holds them besides is passed over."""
    if isinstance(document, list):
        return _of_list(document, name)
    if not isinstance(document, dict) or not document:
        raise _no_list(name, "it holds no list and no object with rows")
    lists = {k: v for k, v in document.items() if isinstance(v, list) and _are_rows(v)}
    asked = (column or "").partition(".")[0]
    if asked in lists and "." in (column or ""):
        lists = {asked: lists[asked]}
    else:
        for read in (_single, _by_column, _split, _by_key):
            rows = read(document, column)
            if rows is not None:
                return _of_list(rows, name)
    captions = _coco(document)
    if captions is not None:
        return replace(_of_list(captions, name), within=_ANNOTATIONS)
    if len(lists) == 1:
        [(key, rows)] = lists.items()
        said = f"The prompts of {name} are those in its list {key!r}."
        return replace(_of_list(rows, name), notices=[said], within=key)
    held = quoted([str(key) for key in document])
    raise _no_list(
        name,
        f"it is an object of {held}, which of them holds the rows can't be told: name the "
        "column of the prompts with --column (a.b for what lies in another)",
    )


def _no_list(name: str, why: str) -> UsageError:
    return UsageError(
        f"{name} is JSON, but no list of prompts: {why}. Give an array of texts or of objects, or "
        "an object of objects."
    )


def _are_rows(rows: Sequence[Any]) -> bool:
    return bool(rows) and all(isinstance(row, str | dict) for row in rows)


def _of_list(rows: _Rows, name: str) -> Table:
    if len(rows) and all(isinstance(row, dict) and set(row) == {"row"} for row in rows):
        rows = [row["row"] for row in rows]
    # The viewer of data sets serves rows with their number beside them.
    if _are_rows(rows) and all(
        isinstance(r, dict) and isinstance(r.get("row"), dict) for r in rows
    ):
        rows = [{**{k: v for k, v in r.items() if k != "row"}, **r["row"]} for r in rows]
    if rows and not _are_rows(rows):
        number = next(i for i, r in enumerate(rows, start=1) if not isinstance(r, str | dict))
        raise _no_list(name, f"entry {number} is neither a text nor an object")
    return _table(list(enumerate(rows, start=1)))


def _table(records: list[Record]) -> Table:
    names = names_of(records)
    return Table(names, records, prompts="p" if set(names) >= _DIFFUSION_DB else None)


# -- layouts of an object; None for any other


def _coco(document: Mapping[str, Any]) -> _Rows | None:
    """Captions of COCO: annotations, with the name of each one's picture."""
    rows, images = document.get(_ANNOTATIONS), document.get("images")
    if not isinstance(rows, list) or not isinstance(images, list):
        return None
    if not all(isinstance(row, dict) for row in (*rows, *images)):
        return None
    files = {image.get("id"): image.get("file_name") for image in images}
    return [{**row, "file_name": files.get(row.get("image_id"))} for row in rows]


def _single(document: Mapping[str, Any], column: str | None) -> _Rows | None:
    """One row that is not in a list."""
    known = _known(document, column)
    return [document] if known and isinstance(document[known], str) else None


def _by_column(document: Mapping[str, Any], column: str | None) -> _Rows | None:
    """Columns, each a list or an object of its cells, as pandas and datasets write them."""
    known = _known(document, column)
    if known is None:
        return None
    columns = list(document.values())
    if isinstance(document[known], list):
        if any(not isinstance(c, list) or len(c) != len(document[known]) for c in columns):
            return None
        if len(columns) == 1 and all(isinstance(row, dict) for row in columns[0]):
            return columns[0]
        cells = zip(*columns, strict=True)
        return [dict(zip(document, row, strict=True)) for row in cells]
    if isinstance(document[known], dict) and all(isinstance(c, dict) for c in columns):
        keys = list(document[known])
        if all(list(column) == keys for column in columns):
            return [{name: document[name][key] for name in document} for key in keys]
    return None


def _split(document: Mapping[str, Any], _: str | None) -> _Rows | None:
    """Names of columns and rows apart, as pandas splits them."""
    names, rows = document.get("columns"), document.get("data")
    if not isinstance(names, list) or not isinstance(rows, list):
        return None
    if not all(isinstance(row, list) and len(row) == len(names) for row in rows):
        return None
    return [dict(zip(map(str, names), row, strict=True)) for row in rows]


def _by_key(document: Mapping[str, Any], _: str | None) -> _Rows | None:
    """Objects, texts or lists of texts filed by a name, such as that of a picture."""
    values = list(document.values())
    if all(isinstance(value, dict) for value in values):
        return [{**({} if KEY in v else {KEY: k}), **v} for k, v in document.items()]
    if not all(map(_FILE_OR_NUMBER.search, document)):
        return None
    if all(isinstance(value, str) for value in values):
        return [{KEY: key, "caption": value} for key, value in document.items()]
    if all(_are_texts(value) for value in values) and len(values) > 1:
        return [{KEY: key, "captions": value} for key, value in document.items()]
    return None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _known(document: Mapping[str, Any], column: str | None) -> str | None:
    """The key of the prompts' column; None where it has none, or not the one that is asked for."""
    wanted = PROMPT_COLUMNS if column is None else {column.strip().casefold()}
    return next((k for k in document if k.strip().casefold() in wanted), None)
