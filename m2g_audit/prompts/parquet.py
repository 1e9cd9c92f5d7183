"""Rows of parquet files, without the pictures that data sets of captions often hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from m2g_audit.errors import UsageError
from m2g_audit.printable import quoted
from m2g_audit.prompts.columns import Table, find, refuse_too_many

_MOST_ROWS, _MOST_BYTES = 5_000_000, 2**32


def read_parquet(file: BinaryIO, name: str, column: str | None) -> Table:
    """Return all rows; columns of bytes are left out, but for texts where prompts are looked for.

    UsageError where the file is broken, or larger than any list of prompts.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        stored = parquet.ParquetFile(file)
        refuse_too_many("rows", stored.metadata.num_rows, _MOST_ROWS, name)
        schema = stored.schema_arrow
        wanted = find(schema.names, column)
        texts = [f.name for f in schema if _is_binary(f.type) and f.name == wanted]
        kept = [f.name for f in schema if f.name in texts or not _holds_bytes(f.type)]
        left = [f.name for f in schema if f.name not in kept]
        if wanted not in schema.names and (column or "").partition(".")[0] in left:
            kept.append(column or "")  # a text that lies beside bytes
        records = list(enumerate(_rows_of(stored, kept, name), start=1))
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(
            f"{name} can't be read as parquet: {error}. Write it again without the column that is "
            "at fault, or as csv or jsonl."
        ) from error
    for _, record in records:
        record.update({key: _decoded(record[key], key, name) for key in texts})
    notices = [f"Columns with binary content were left out: {quoted(left)}."] if left else []
    return Table(schema.names, records, notices)


def _rows_of(stored: Any, columns: Sequence[str], name: str) -> Iterator[Any]:
    """Yield rows, little by little: what repeats is stored once, and a small file may hold much."""
    size = 0
    for batch in stored.iter_batches(batch_size=1000, columns=columns):
        size += batch.nbytes
        refuse_too_many("bytes of text", size, _MOST_BYTES, name)
        yield from batch.to_pylist()


def _decoded(value: bytes | None, key: str, name: str) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"Column {key!r} of {name} holds bytes that are no UTF-8 text. Write it again as text, "
            "or name another with --column."
        ) from error


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def _holds_bytes(kind: Any) -> bool:
    if _is_binary(kind):
        return True
    return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
