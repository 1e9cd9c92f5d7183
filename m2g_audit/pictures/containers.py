"""Pictures that lie in other files: parquet tables, tar archives of webdataset, lists of paths.

Nothing is unpacked to the disk: a picture is found once, and its bytes are read again when they are
needed. Somebody else may have made these files: what one names lies beside it or below, and sizes
that no picture fits into are not believed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol, TextIO

from m2g_audit.foreign_files import arrow_table, open_file, read_file, within
from m2g_audit.pictures.decoding import Header, header, picture_suffixes

CAPTIONS = ("text", "caption", "prompt")
"""Columns, and keys of JSON, that hold the caption of a picture."""
LISTS = (".txt", ".csv", ".tsv", ".jsonl")
"""Suffixes of files that may list the paths of pictures."""

NO_PICTURES = frozenset(
    {".txt", ".caption", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".feather"}
    | {".npz", ".npy", ".pt", ".safetensors", ".pkl", ".db", ".lock", ".pyc", ".cls", ".id"}
    | {".index", ".url"}
)
"""Suffixes of what lies beside pictures: tables, arrays, weights, and what desktops leave."""

CAPTIONS_AND_THE_LIKE = NO_PICTURES - {".parquet", ".arrow", ".feather"}
"""Those of them that no picture lies in either."""

_PATHS = ("file_name", "path", "image", "filename", "file", "image_path")
_PICTURES = ("image", "img", "picture", "jpg", "png", "webp")
_MOST_BYTES = 2**28
# No picture is smaller than its header, however well a table is packed.
_LEAST_BYTES = 16
# A row group is read whole for each of its pictures.
_MOST_IN_GROUP = 2**32
_MOST_CAPTION = 2**16
_CAPTION_SUFFIXES = (".txt", ".caption", ".json")


class Place(Protocol):
    """Where in a file a picture lies."""

    def read(self, path: Path) -> bytes:
        """Return the picture's bytes; OSError if the file has changed."""


@dataclass(frozen=True)
class PictureFile:
    """A picture that can be opened; path: of the file that it is, or lies in; name: as text.

    sha256: of its bytes, where these were read to find it; caption: one that lies in the same file.
    """

    path: Path
    name: str
    header: Header
    place: Place | None = None
    sha256: str | None = None
    caption: str | None = None

    def open(self) -> BinaryIO:
        """Return its bytes as a file; OSError where they can't be read."""
        if self.place is None:
            return self.path.open("rb")
        content = self.place.read(self.path)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise OSError(f"{self.path} has changed since it was looked into")
        return io.BytesIO(content)


@dataclass
class Contents:
    """The pictures of one file, and by name what in it is broken, or was not read."""

    files: list[PictureFile] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def take(
        self, path: Path, name: str, content: bytes, place: Place, caption: str | None = None
    ) -> None:
        """Take in a picture, or name it as broken."""
        try:
            found = header(io.BytesIO(content))
        except (OSError, ValueError) as error:
            self.broken.append(f"{name} ({error})")
            return
        digest = hashlib.sha256(content).hexdigest()
        self.files.append(PictureFile(path, name, found, place, digest, caption))


def look_into(path: Path, name: str) -> Contents | None:
    """Return the pictures of a table or an archive, None for a file that is neither.

    name: of the file, which those of its pictures begin with. Raises OSError or ValueError for one
    that is broken, or that is a pipe or a device.
    """
    with open_file(path) as file:
        head = file.read(512)
    if head.startswith(b"PAR1"):
        return _in_parquet(path, name)
    if head[257:262] == b"ustar":
        return _in_tar(path, name)
    if arrow_table(head) is not None and _may_show(path, head):
        return Contents(unread=[f"{name} (an Arrow table with pictures: save it as parquet)"])
    return None


# -- tar archives


@dataclass(frozen=True)
class _Stretch:
    """Bytes of a file from `start` on."""

    start: int
    size: int

    def read(self, path: Path) -> bytes:
        with path.open("rb") as file:
            file.seek(self.start)
            content = file.read(self.size)
        if len(content) != self.size:
            raise OSError(f"{path} is shorter than it was")
        return content


def _in_tar(path: Path, name: str) -> Contents:
    """Pictures of an archive; the caption of one has its name up to the first dot."""
    found = Contents()
    captions: dict[str, str] = {}
    keys: list[str] = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile() or PurePosixPath(member.name).name.startswith("."):
                    continue
                _take_member(found, captions, path, name, archive, member)
                keys += [_key(member.name)] * (len(found.files) - len(keys))
    except tarfile.TarError as error:
        raise ValueError(f"a tar archive that is broken: {error}") from error
    pairs = zip(found.files, keys, strict=True)
    found.files = [replace(file, caption=captions.get(key)) for file, key in pairs]
    return found


def _take_member(
    found: Contents,
    captions: dict[str, str],
    path: Path,
    name: str,
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
) -> None:
    """Take in a picture or a caption; what else lies beside them is no picture."""
    suffix, whole = PurePosixPath(member.name).suffix.lower(), f"{name}/{as_text(member.name)}"
    if suffix in _CAPTION_SUFFIXES and member.size <= _MOST_CAPTION:
        text = _caption(_content(archive, member), suffix)
        if text:
            captions.setdefault(_key(member.name), text)
    elif member.size > _MOST_BYTES or member.issparse():
        found.unread.append(f"{whole} (larger than any picture, or sparse)")
    else:
        content = _content(archive, member)
        before = len(found.broken)
        found.take(path, whole, content, _Stretch(member.offset_data, member.size))
        if len(found.broken) > before and suffix not in picture_suffixes():
            reason = found.broken.pop()
            if suffix not in NO_PICTURES:
                found.unread.append(reason)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _key(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.parent / path.name.split(".")[0])


def _caption(content: bytes, suffix: str) -> str:
    text = content.decode("utf-8", "replace").strip()
    if suffix != ".json":
        return text
    with suppress(ValueError, RecursionError):
        return _first_text(json.loads(text))
    return ""


def _first_text(row: Any) -> str:
    if not isinstance(row, Mapping):
        return ""
    return next((row[k].strip() for k in CAPTIONS if isinstance(row.get(k), str)), "")


# -- parquet


@dataclass(frozen=True)
class _Cell:
    """A cell of a table: bytes, or an object with bytes in it."""

    group: int
    column: str
    row: int

    def read(self, path: Path) -> bytes:
        stat = path.stat()
        cells = _cells(path, (stat.st_mtime_ns, stat.st_size), self.group, self.column)
        if self.row >= len(cells):
            raise OSError(f"{path} is shorter than it was")
        return _bytes_of(cells[self.row].as_py(), path)


@lru_cache(maxsize=1)
def _cells(path: Path, stamp: tuple[int, int], group: int, column: str) -> Any:
    """A column of a row group; stamp: time and size, so that a file written anew is read anew."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as stored:
        return stored.read_row_group(group, columns=[column]).column(0)


def _bytes_of(cell: Any, path: Path) -> bytes:
    """The bytes of a cell, or of the file beside the table that it names."""
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes):
        return cell["bytes"]
    named = cell.get("path") if isinstance(cell, Mapping) else None
    if not isinstance(named, str):
        raise ValueError("there is no picture in it")
    return read_file(within(path.parent, named))


def _in_parquet(path: Path, name: str) -> Contents | None:
    import pyarrow
    from pyarrow import parquet

    found = Contents()
    try:
        with parquet.ParquetFile(path) as stored:
            columns, others = _picture_columns(stored.schema_arrow)
            rows = stored.metadata.num_rows
            if columns and rows * _LEAST_BYTES > path.stat().st_size:
                raise ValueError(f"it says that it has {rows:,} pictures, which don't fit into it")
            groups = [stored.metadata.row_group(i) for i in range(stored.num_row_groups)]
            if columns and any(group.total_byte_size > _MOST_IN_GROUP for group in groups):
                raise ValueError("its row groups are larger than 4 GiB: write it with smaller ones")
            found.unread += [f"{name} (its pictures of the column {other})" for other in others]
            caption = _caption_column(stored.schema_arrow)
            before = 0
            for group, n in enumerate(each.num_rows for each in groups):
                texts = _texts(stored, group, caption, n)
                for column in columns:
                    where = f".{column}" if len(columns) > 1 else ""
                    for row, text in enumerate(texts):
                        _take_cell(
                            found,
                            path,
                            f"{name}/row {before + row + 1}{where}",
                            _Cell(group, column, row),
                            text,
                        )
                before += n
    except MemoryError:  # of Arrow's own kind, which is an ArrowException too
        raise
    except pyarrow.ArrowException as error:
        raise ValueError(f"a parquet file that is broken: {str(error)[:100]}") from error
    return found if columns or others else None


def _take_cell(found: Contents, path: Path, name: str, cell: _Cell, caption: str | None) -> None:
    try:
        content = cell.read(path)
    except (OSError, ValueError) as error:
        found.broken.append(f"{name} ({error})")
        return
    found.take(path, name, content, cell, caption)


def _picture_columns(schema: Any) -> tuple[list[str], list[str]]:
    """The columns of pictures that are read, and those that are not.

    Read are those in the hub's layout, else bytes under a usual name: the one that is called as
    pictures usually are, all if none is.
    """
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    objects = [column.name for column in schema if _is_picture(column.type)]
    inside = [column.name for column in schema if _holds_pictures(column.type)]
    plain = [c.name for c in schema if is_bytes(c.type) and c.name.lower() in _PICTURES]
    columns = objects or plain
    named = [column for column in columns if column.lower() in _PICTURES]
    read = named[:1] or columns
    return read, [column for column in (*objects, *inside) if column not in read]


def _is_picture(kind: Any) -> bool:
    """Whether a column has the hub's layout of pictures: objects of bytes and a path."""
    from pyarrow import types

    return types.is_struct(kind) and {"bytes", "path"} <= {part.name for part in kind}


def _holds_pictures(kind: Any) -> bool:
    """Whether a column has several pictures a row."""
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and _is_picture(kind.value_type)


def _may_show(path: Path, head: bytes) -> bool:
    """Whether a table of Arrow has pictures, or does not say it; ValueError for a broken one."""
    import pyarrow

    if head.startswith(b"FEA1"):
        return True
    try:
        is_stream = head.startswith(b"\xff")
        with (pyarrow.ipc.open_stream if is_stream else pyarrow.ipc.open_file)(path) as stored:
            return any(_picture_columns(stored.schema))
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"an Arrow table that is broken: {str(error)[:100]}") from error


def _caption_column(schema: Any) -> str | None:
    from pyarrow import types

    texts = {
        column.name.lower(): column.name
        for column in schema
        if types.is_string(column.type) or types.is_large_string(column.type)
    }
    return next((texts[name] for name in CAPTIONS if name in texts), None)


def _texts(stored: Any, group: int, column: str | None, n: int) -> list[str | None]:
    if column is None:
        return [None] * n
    return stored.read_row_group(group, columns=[column]).column(0).to_pylist()


# -- lists of paths


def in_list(path: Path) -> Contents:
    """Return the pictures whose paths a file lists, one a line or in a column; OSError, ValueError.

    Paths count from the list's folder, and lead to what lies in it or below, links followed. A
    picture that can't be read is named as broken, as one in a folder would be.
    """
    found = Contents()
    for text, caption in dict.fromkeys(_listed(path)):
        try:
            file = _below(path.parent, text)
            found.files.append(PictureFile(file, as_text(text), header(file), caption=caption))
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            found.broken.append(f"{as_text(text)} ({said})")
    return found


def _below(folder: Path, text: str) -> Path:
    # Not resolved: links in the folder are followed, as where the folder itself is given.
    whole = os.path.abspath(folder / text)
    if not Path(whole).is_relative_to(os.path.abspath(folder)):
        raise ValueError("outside of the list's folder: put the list in a folder above it")
    file = folder / os.path.relpath(whole, os.path.abspath(folder))
    if not file.is_file():
        raise ValueError("there is no such file")
    return file


def as_text(name: str | Path) -> str:
    """Return a name as text that fits into a record, whatever bytes it was stored as."""
    plain = name.as_posix() if isinstance(name, Path) else name
    return os.fsencode(plain).decode("utf-8", "replace")


def _listed(path: Path) -> Iterator[tuple[str, str | None]]:
    """Each path that a list names, with its caption."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix.lower() == ".txt":
            yield from ((line.strip(), None) for line in file if line.strip())
            return
        try:
            for number, row in enumerate(_rows(file, path.suffix.lower()), start=1):
                yield _named(row, number), _first_text(row) or None
        except (csv.Error, RecursionError) as error:
            raise ValueError(str(error)) from error


def _rows(file: TextIO, suffix: str) -> Iterator[Any]:
    if suffix == ".jsonl":
        return (json.loads(line) for line in file if line.strip())
    return iter(csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ","))


def _named(row: Any, number: int) -> str:
    named = isinstance(row, Mapping) and next((row[k] for k in _PATHS if row.get(k)), None)
    if not isinstance(named, str):
        raise ValueError(f"row {number} names no picture ({', '.join(_PATHS)})")
    return named
