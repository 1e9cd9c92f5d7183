"""The bytes of a list: opened, unpacked where they are packed, named where they are no list."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from m2g_audit.errors import UsageError
from m2g_audit.foreign_files import open_file
from m2g_audit.prompts.not_lists import (
    UNPACK,
    no_list,
    refuse_other_archives,
    refuse_other_files,
)
from m2g_audit.text import printable, quoted

STDIN = "-"
PARQUET = b"PAR1"

_MOST_UNPACKED = 2**30
_HEAD = 512
_Opener = Callable[[IO[bytes]], Any]
_PACKED: dict[bytes, tuple[str, _Opener]] = {
    b"\x1f\x8b": (".gz", lambda file: gzip.GzipFile(fileobj=file)),
    b"\xfd7zXZ\0": (".xz", lzma.LZMAFile),
    **{b"BZh%d1AY&SY" % level: (".bz2", bz2.BZ2File) for level in range(1, 10)},
}
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Opened:
    """An open file, unpacked; suffix: of its name without that of the packing, in small letters."""

    file: BinaryIO
    suffix: str

    @property
    def is_parquet(self) -> bool:
        """Whether it begins as parquet does."""
        return _head(self.file).startswith(PARQUET)


@contextmanager
def open_list(source: str | Path, name: str) -> Iterator[Opened]:
    """Open the file that holds a list; UsageError for what is none, named as what it is.

    gzip, xz, bzip2 and zip archives of one file are unpacked, up to a gigabyte. stdin (`-`) is read
    whole, since pipes can't go back.
    """
    with _open(source) as file:
        yield _unpacked(file, Path(str(source)), name)


def _open(source: str | Path) -> BinaryIO:
    if str(source) == STDIN:
        if sys.stdin.isatty():
            raise UsageError("Nothing comes from stdin: pipe a list into it, or name a file.")
        return io.BytesIO(sys.stdin.buffer.read())
    path = Path(source).expanduser()
    try:
        if path.is_fifo():  # as shells make them of a command
            return io.BytesIO(path.read_bytes())
        return open_file(path)
    except OSError as error:
        raise UsageError(
            f"Can't read the prompts from {path}: {error.strerror}. Give a file (txt, csv, tsv, "
            "json, jsonl, parquet), a folder of pictures with captions, or - for stdin."
        ) from error


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    start = file.read(_HEAD)
    file.seek(0)
    return start


def _unpacked(file: BinaryIO, path: Path, name: str) -> Opened:
    head = _head(file)
    for magic, (suffix, opener) in _PACKED.items():
        if head.startswith(magic):
            inner = path.with_suffix("") if path.suffix.lower() == suffix else path
            return _plain(_unpack(opener(file), name), inner, name)
    if head.startswith(_ZIP):
        member, content = _only_member(file, name)
        return _plain(content, Path(member), name)
    return _plain(file, path, name)


def _plain(file: BinaryIO, path: Path, name: str) -> Opened:
    """The file, if nothing says that it is no list; what is packed twice is no list either."""
    head = _head(file)
    refuse_other_files(head, name)
    if head.startswith((_ZIP, *_PACKED)):
        raise no_list(name, "packed twice", "unpack it first")
    return Opened(file, path.suffix.lower())


def _unpack(packed: IO[bytes], name: str) -> BinaryIO:
    try:
        with packed:
            content = packed.read(_MOST_UNPACKED + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError) as e:
        raise UsageError(
            f"{name} can't be unpacked ({printable(str(e), 200)}): get it again, or unpack it "
            "first."
        ) from e
    if len(content) > _MOST_UNPACKED:
        raise UsageError(
            f"{name} unpacks to more than {_MOST_UNPACKED:,} bytes: is it a list of prompts? Give "
            "a part of it."
        )
    return io.BytesIO(content)


def _only_member(file: BinaryIO, name: str) -> tuple[str, BinaryIO]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = [m.filename for m in archive.infolist() if not m.is_dir()]
            refuse_other_archives(names, name)
            lists = [n for n in names if not n.startswith("__MACOSX/") and n != ".DS_Store"]
            if len(lists) != 1:
                raise UsageError(
                    f"{name} is an archive of {len(lists):,} files ({quoted(lists)}): {UNPACK}."
                )
            return lists[0], _unpack(archive.open(lists[0]), name)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
        raise UsageError(
            f"{name} can't be unpacked ({printable(str(error), 200)}): get it again, or unpack it "
            "first."
        ) from error
