"""Files of this program: written whole or not at all, named by what they hold, kept in a cache."""

import errno
import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from m2g_audit.errors import OutputError
from m2g_audit.text import first_line, printable

T = TypeVar("T")
_LOG = logging.getLogger("m2g_audit")
DAY = 24 * 3600
_DRAFT = re.compile(r"\..+\.\d+\.tmp")


def digest(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of an identity, the same for any order of its keys."""
    canonical = json.dumps(identity, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content`: `path` then holds all of it, or what it held before; raises OutputError.

    Only files are replaced: a device or a pipe at `path` is refused.
    """
    draft = draft_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is there and no file")
        try:
            draft.unlink(missing_ok=True)
            with draft.open("xb") as file:  # a link that lies there is not followed
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            with suppress(OSError):
                draft.unlink()
    except OSError as error:
        raise cannot_write(path, error) from error


def draft_of(path: Path) -> Path:
    """Return where this process writes what is to replace `path` once it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def is_draft(path: Path) -> bool:
    """Return whether a file is such a draft, as a process that died while writing leaves one."""
    return _DRAFT.fullmatch(path.name) is not None


def clear_drafts(folder: Path, age: float = DAY) -> None:
    """Remove drafts that lie in a folder for so many seconds: whoever wrote them is no more."""
    with suppress(OSError):
        for path in filter(is_draft, folder.iterdir()):
            if time.time() - path.lstat().st_mtime > age:
                path.unlink()


def cannot_write(path: Path, error: OSError) -> OutputError:
    """Return the error to raise where writing `path` failed."""
    return OutputError(
        f"Can't write {path}: {error.strerror or error}. "
        "Choose a folder that can be written with --out DIR; what was finished is kept."
    )


def check_writable(path: Path) -> None:
    """Raise OutputError unless a folder at `path` exists or could be made, and takes a file.

    Leaves nothing behind, so that a command refused later has made no empty folder.
    """
    folder = path
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{folder} is a file, not a folder: choose another one with --out DIR.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_kept(path: Path, read: Callable[[Path], T]) -> T | None:
    """Return what `read` makes of a file that an earlier run kept, None where there is none.

    One that is damaged, whatever `read` then raises, is set aside, and None as well.
    """
    try:
        return read(path)
    except (FileNotFoundError, PermissionError):
        return None
    except MemoryError:  # which says nothing of the file
        raise
    except Exception as error:  # parsers raise many kinds; all mean that it is no whole file
        set_aside(path, error)
        return None


def set_aside(path: Path, error: Exception) -> None:
    """Move a damaged file out of the way, so that it is made again, and say so in one line."""
    aside = path.with_name(f"{path.name}.damaged")
    # Where it can't be moved, it is written over, or writing says why not.
    with suppress(OSError):
        path.replace(aside)
        _LOG.warning(
            "%s is damaged (%s): set aside as %s, and made again.",
            printable(str(path)),
            first_line(error) or type(error).__name__,
            printable(aside.name),
        )


def cache_folder(name: str) -> Path:
    """Return the folder of one kind of kept result, below M2G_CACHE or the user's cache."""
    root = os.environ.get("M2G_CACHE")
    if root:
        return Path(root) / name
    import platformdirs

    return platformdirs.user_cache_path("m2g-audit") / name
