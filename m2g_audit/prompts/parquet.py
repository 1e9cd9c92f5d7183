"""Rows of parquet files, without the pictures that data sets of captions often hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from m2g_audit.errors import UsageError
from m2g_audit.prompts.columns import Table, find, refuse_too_many
from m2g_audit.text import quoted

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
        kept = [f.name for f in schema if _is_text(f, wanted) or not _holds_bytes(f.type)]
        left = [f.name for f in schema if f.name not in kept]
        if wanted not in schema.names and (column or "").partition(".")[0] in left:
            kept.append(column or "")  # a text that lies beside bytes
        records = list(enumerate(_rows_of(stored, kept, name), start=1))
    except (pyarrow.ArrowException, OSError) as error:
        raise UsageError(
            f"{name} can't be read as parquet: {error}. Write it again without the column that is "
            "at fault, or as csv or jsonl."
        ) from error
    if wanted in left:
        raise UsageError(
            f"Column {wanted!r} of {name} holds more than texts: name what lies in it with "
            f"--column {wanted}.NAME, or another column."
        )
    notices = [f"Columns with binary content were left out: {quoted(left)}."] if left else []
    return Table(schema.names, records, notices)


def _rows_of(stored: Any, columns: Sequence[str], name: str) -> Iterator[Any]:
    """Yield rows, little by little: what repeats is stored once, and a small file may hold much."""
    size = 0
    for batch in stored.iter_batches(batch_size=1000, columns=columns):
        size += batch.nbytes
        refuse_too_many("bytes of text", size, _MOST_BYTES, name)
        yield from batch.to_pylist()


def _is_text(column: Any, wanted: str) -> bool:
    """Whether the prompts' column may be texts that are stored as bytes, or lists of them."""
    if column.name != wanted:
        return False
    kind = column.type
    return _is_binary(_inside(kind) or kind)


def _inside(kind: Any) -> Any:
    """The type of what a list or a dictionary holds, None for any other type."""
    from pyarrow import types

    holders = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_dictionary)
    return kind.value_type if any(holds(kind) for holds in holders) else None


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if _is_binary(kind):
        return True
    if types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
