"""Files that somebody else may have made: where they may lie, what is opened, what Arrow's are.

All errors are OSErrors with a reason, as for a file that is missing, so that whoever reads such
files has one kind of error to tell of.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 2**30
# Without O_NONBLOCK a pipe is opened only once somebody writes to it.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_KINDS = ((stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"), (stat.S_ISDIR, "folder"))


_ARROW = (
    (b"\xff\xff\xff\xff", "an Arrow stream, as data sets are cached", "open_stream"),
    (b"ARROW1", "an Arrow (Feather) file", "open_file"),
    (b"FEA1", "an old Feather file", None),
)


def arrow_table(head: bytes) -> tuple[str, str] | None:
    """Return what a table of Arrow is called, and how to make parquet of it.

    None for any other file. head: what it begins with, some hundred bytes.
    """
    for start, what, opener in _ARROW:
        # A prompt may begin so too: then no zero bytes follow.
        if head.startswith(start) and b"\0" in head:
            read = f"ipc.{opener}('FILE').read_all()" if opener else "feather.read_table('FILE')"
            # Row groups are read whole: in smaller ones than usual, pictures fit into memory.
            written = f"parquet.write_table({read}, 'FILE.parquet', row_group_size=1000)"
            room = "ipc" if opener else "feather"
            return what, (
                f"in Python, `from pyarrow import {room}, parquet; {written}` makes parquet of it, "
                "which is read"
            )
    return None


def within(folder: Path, name: str) -> Path:
    """Return the path of what a record names in its folder; OSError where it lies elsewhere.

    Absolute paths, `..` and links that lead out of the folder lead elsewhere.
    """
    try:
        path = (folder / name).resolve()
    except ValueError as error:  # a zero byte
        raise OSError(errno.EINVAL, "it has no possible name", name) from error
    if not path.is_relative_to(folder.resolve()):
        raise OSError(errno.EPERM, "it lies outside of the folder", name)
    return path


def open_file(path: Path) -> BinaryIO:
    """Return a regular file opened to read; OSError for pipes and devices, which may never end."""
    descriptor = os.open(path, _FLAGS)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "device")
        raise OSError(errno.EINVAL, f"it is a {kind}, not a file", str(path))
    return os.fdopen(descriptor, "rb")


def read_file(path: Path) -> bytes:
    """Return the content of a regular file of at most MOST_BYTES; OSError for any other."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            said = f"it has {size:,} bytes, and {MOST_BYTES:,} are read at most"
            raise OSError(errno.EFBIG, said, str(path))
        return file.read()


def links_in(folder: Path) -> Iterator[str]:
    """Yield the names of links that lie directly in a folder, through which a run might write."""
    with os.scandir(folder) as entries:
        yield from sorted(entry.name for entry in entries if entry.is_symlink())
