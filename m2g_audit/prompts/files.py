"""The bytes of a list: opened, unpacked where they are packed, named where they are no list."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from m2g_audit.errors import UsageError
from m2g_audit.foreign_files import open_file
from m2g_audit.printable import printable, quoted

STDIN = "-"
PARQUET = b"PAR1"

_MOST_UNPACKED = 2**30
_HEAD = 512
_Opener = Callable[[IO[bytes]], Any]
_PACKED: dict[bytes, tuple[str, _Opener]] = {
    b"\x1f\x8b": (".gz", lambda file: gzip.GzipFile(fileobj=file)),
    b"\xfd7zXZ\0": (".xz", lzma.LZMAFile),
    b"BZh": (".bz2", bz2.BZ2File),
}
_ZIP = b"PK\x03\x04"
_TABLE = "export the sheet with the prompts as csv"
_UNPACK = "unpack it and give the file that lists the prompts"
_NO_LISTS = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Office file (.xls, .doc)", _TABLE),
    b"ARROW1": ("an Arrow (Feather) file", "write it as parquet or csv"),
    b"SQLite format 3\0": ("an SQLite database", "export the table with the prompts as csv"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "unpack it first: zstd -d FILE"),
    b"%PDF": ("a PDF", "make a txt file of it with a prompt a line"),
    b"\x89PNG": ("a picture", "for captions that lie beside pictures give their folder"),
    b"\xff\xd8\xff": ("a picture", "for captions that lie beside pictures give their folder"),
    b"\x93NUMPY": ("a NumPy array", "write it as csv or jsonl"),
    b"\x80\x04": ("a pickle", "write it as csv or jsonl; pickles can run code and are not read"),
    b"\x80\x05": ("a pickle", "write it as csv or jsonl; pickles can run code and are not read"),
    b"OBJ\x01": ("an ORC or Avro file", "write it as parquet or csv"),
    b"ORC": ("an ORC file", "write it as parquet or csv"),
}
_IN_ZIP = {
    "xl/workbook.xml": ("an Excel workbook", _TABLE),
    "xl/workbook.bin": ("an Excel workbook", _TABLE),
    "word/document.xml": ("a Word document", "make a txt file of it with a prompt a line"),
    "content.xml": ("an OpenDocument file", _TABLE),
    "Index/Document.iwa": ("a Numbers or Pages file", _TABLE),
}


@dataclass(frozen=True)
class Opened:
    """An open file, unpacked; suffix: of its name without that of the packing, in small letters."""

    file: BinaryIO
    suffix: str

    @property
    def is_parquet(self) -> bool:
        """Whether it begins as parquet does."""
        return _head(self.file).startswith(PARQUET)


def open_list(source: str | Path, name: str) -> Opened:
    """Return the file that holds a list; UsageError for what is none, named as what it is.

    gzip, xz, bzip2 and zip archives of one file are unpacked, up to a gigabyte. stdin (`-`) is read
    whole, since pipes can't go back.
    """
    return _unpacked(_open(source), Path(str(source)), name)


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
        with file:
            member, content = _only_member(file, name)
        return _plain(content, Path(member), name)
    return _plain(file, path, name)


def _plain(file: BinaryIO, path: Path, name: str) -> Opened:
    """The file, if nothing says that it is no list; what is packed twice is no list either."""
    head = _head(file)
    known = next((found for magic, found in _NO_LISTS.items() if head.startswith(magic)), None)
    if head[257:262] == b"ustar":
        known = "a tar archive", _UNPACK
    elif any(head.startswith(magic) for magic in (_ZIP, *_PACKED)):
        known = "packed twice", "unpack it first"
    if known is not None:
        raise _no_list(name, *known)
    return Opened(file, path.suffix.lower())


def _no_list(name: str, what: str, remedy: str) -> UsageError:
    return UsageError(f"{name} is {what}, not a list of prompts: {remedy}.")


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
            known = next((what for member, what in _IN_ZIP.items() if member in names), None)
            if known is not None:
                raise _no_list(name, *known)
            lists = [n for n in names if not n.startswith("__MACOSX/")]
            if len(lists) != 1:
                raise UsageError(
                    f"{name} is an archive of {len(lists):,} files ({quoted(lists)}): {_UNPACK}."
                )
            return lists[0], _unpack(archive.open(lists[0]), name)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
        raise UsageError(
            f"{name} can't be unpacked ({printable(str(error), 200)}): get it again, or unpack it "
            "first."
        ) from error
