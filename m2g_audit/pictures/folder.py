"""A folder of pictures: what lies in it and below, what of that is read, and what is not.

What a file is, its content says. Captions and tables beside pictures are no pictures and are passed
over, as is what is hidden. All else that is not read is named, since training may have seen it.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from m2g_audit.errors import ReferenceFolderError
from m2g_audit.foreign_files import arrow_table, open_file
from m2g_audit.pictures.containers import (
    CAPTIONS_AND_THE_LIKE,
    LISTS,
    NO_PICTURES,
    Contents,
    PictureFile,
    as_text,
    in_list,
    look_into,
)
from m2g_audit.pictures.decoding import FORMATS, header, picture_suffixes
from m2g_audit.text import printable

NAMED = 10
"""How many files a message names."""

_HEAD = 4096
_MARKERS = {
    "identity.json": ({"weights", "prompt"}, {"kind", "weights"}, {"command", "seed"}),
    "settings.json": ({"preset", "network", "synthesis"},),
}
"""Files that runs and sweeps write first, with some of the keys in them."""
_MARKER_BYTES = 2**20


@dataclass(frozen=True)
class PictureFolder:
    """What lies in a folder and below it.

    files: the pictures, by name; broken: files that promise a picture by their names and hold none
    that can be read; unread: what else was not read; own: folders of this program's runs, and
    others that were to be left out. Each of the latter three is a name, with the reason behind it.
    """

    folder: Path
    files: tuple[PictureFile, ...]
    broken: tuple[str, ...]
    unread: tuple[str, ...]
    own: tuple[str, ...]

    @property
    def root(self) -> Path:
        """Return the folder itself, of a file the one that it lies in."""
        return self.folder if self.folder.is_dir() else self.folder.parent


def find_pictures(folder: Path, leave_out: Iterable[Path] = ()) -> PictureFolder:
    """Return the pictures of a folder and of what is in it, links followed, each folder once.

    Tables and archives with pictures in them are looked into; `folder` may be one of these itself,
    or a list of paths. Nothing is decoded. Folders of runs and those to leave out are not looked
    into. Raises ReferenceFolderError where the folder is missing, is a file of another kind, is of
    a run itself, can't be read, or has no pictures in it.
    """
    _check(folder)
    if folder.is_dir():
        walk = _Walk(folder, leave_out)
        walk.through()
        found = Contents(unread=walk.unread)
        for path in sorted(walk.files):
            _take(found, path, walk.name(path))
        own = sorted(walk.own)
    else:
        found = _in_file(folder)
        own = _leave_own(found, folder.parent, leave_out)
    unread = tuple(sorted(found.unread))
    whole = PictureFolder(folder, tuple(found.files), tuple(found.broken), unread, tuple(own))
    if not found.files and not found.broken:
        raise ReferenceFolderError(_nothing_in(whole))
    return whole


def _take(found: Contents, path: Path, name: str) -> None:
    """Take in a file that is a picture, or holds some; name it where it could not be read."""
    try:
        found.files.append(PictureFile(path, name, header(path)))
    except (OSError, ValueError) as error:
        if path.suffix.lower() in picture_suffixes():
            found.broken.append(f"{name} ({reason(error)})")
        elif not _take_container(found, path, name) and not _is_no_picture(path):
            found.unread.append(f"{name} ({reason(error)})")


def _take_container(found: Contents, path: Path, name: str) -> bool:
    if path.suffix.lower() in CAPTIONS_AND_THE_LIKE:  # thousands of captions, each opened once
        return False
    try:
        inside = look_into(path, name)
    except (OSError, ValueError) as error:
        found.unread.append(f"{name} ({reason(error)})")
        return True
    if inside is None:
        return False
    found.files += inside.files
    found.broken += inside.broken
    found.unread += inside.unread
    return True


def _in_file(path: Path) -> Contents:
    """The pictures of a table, an archive or a list; ReferenceFolderError for any other file."""
    try:
        with open_file(path) as file:
            arrow = arrow_table(file.read(_HEAD))
        inside = look_into(path, path.name)
        if inside is None and path.suffix.lower() in LISTS and arrow is None:
            inside = in_list(path)
    except (OSError, ValueError) as error:
        raise ReferenceFolderError(
            f"The pictures of {path} can't be read: {reason(error)}. Get the file again, or give "
            "the folder of the training pictures."
        ) from error
    if arrow is not None and inside is not None:
        raise ReferenceFolderError(f"{path} is {arrow[0]}, and not read: {arrow[1]}.")
    if inside is None:
        what = "a file" if arrow is None else f"{arrow[0]}, and has no pictures in it"
        raise ReferenceFolderError(
            f"{path} is {what}. --reference takes the folder that the training pictures lie in, a "
            "parquet file, a tar archive of webdataset, or a list of paths "
            f"({', '.join(LISTS)})."
        )
    return inside


def _leave_own(found: Contents, root: Path, leave_out: Iterable[Path]) -> list[str]:
    """Take the pictures of runs and of what is to be left out away; return those folders."""
    left_out = {key for path in leave_out if (key := _key(path)) is not None}

    @cache
    def is_own(folder: Path) -> bool:
        return _key(folder) in left_out or is_of_this_program(folder)

    def within(file: PictureFile) -> list[Path]:
        above = file.path.relative_to(root).parents
        return [root / inner for inner in above if is_own(root / inner)]

    own = {file.path: inside for file in found.files if (inside := within(file))}
    found.files = [file for file in found.files if file.path not in own]
    return sorted({as_text(inside[-1].relative_to(root)) for inside in own.values()})


def refuse_broken(broken: Sequence[str], total: int, folder: Path) -> None:
    """Raise ReferenceFolderError, naming them, where pictures can't be read."""
    if broken:
        raise ReferenceFolderError(
            f"{len(broken)} of {total} pictures in {folder} can't be read: {listed(broken)}. "
            "Repair them or move them out of the folder: a reference with holes would call copies "
            "of them new."
        )


def listed(names: Sequence[str], total: int | None = None) -> str:
    """Return names in a line, at most NAMED of them; total: how many there are in truth."""
    total = len(names) if total is None else total
    more = f" and {total - NAMED:,} more" if total > NAMED else ""
    return f"{'; '.join(map(printable, names[:NAMED]))}{more}"


def reason(error: Exception) -> str:
    """Return in words why a file could not be read."""
    return str(getattr(error, "strerror", None) or error)


def is_of_this_program(folder: Path) -> bool:
    """Return whether a folder is that of a run, a batch or a sweep."""
    return any(
        any(keys <= _keys(folder / name) for keys in choices) for name, choices in _MARKERS.items()
    )


def _keys(path: Path) -> set[str]:
    with suppress(OSError, ValueError, RecursionError):
        if path.is_file() and path.stat().st_size <= _MARKER_BYTES:
            content: Any = json.loads(path.read_bytes())
            return set(content) if isinstance(content, dict) else set()
    return set()


def _check(folder: Path) -> None:
    if not folder.exists():
        raise ReferenceFolderError(
            f"There is no folder {folder}. Give the folder of the training pictures with "
            "--reference PATH, or leave --reference away to audit without one."
        )
    whole = folder.resolve()
    for each in (whole, *whole.parents):
        if is_of_this_program(each):
            raise ReferenceFolderError(
                f"{folder} lies in {each}, a folder of this program's results: its pictures are "
                "made by models. Give the folder of the training pictures."
            )


def _nothing_in(found: PictureFolder) -> str:
    others = f" Not read: {listed(found.unread)}." if found.unread else ""
    own = f" Left out, as this program's own: {listed(found.own)}." if found.own else ""
    return (
        f"There are no pictures in {found.folder} (looked for {', '.join(FORMATS)}, folders inside "
        f"it too).{others}{own} Give the folder of the training pictures."
    )


def _is_no_picture(path: Path) -> bool:
    """Whether a file is a caption, a table or the like: known by name, or plain text."""
    if path.suffix.lower() in NO_PICTURES:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except (OSError, ValueError):
        return False
    drawn = head.startswith(b"%!") or b"<svg" in head
    return not drawn and all(letter.isprintable() or letter in "\t\r\n\f" for letter in text)


class _Walk:
    """The files below a folder, hidden ones left out, no folder twice.

    Links to folders come after what lies there itself, which so keeps its own name.
    """

    def __init__(self, root: Path, leave_out: Iterable[Path]) -> None:
        self.files: list[Path] = []
        self.unread: list[str] = []
        self.own: list[str] = []
        self._root = root
        self._left_out = {key for path in leave_out if (key := _key(path)) is not None}
        self._seen: set[tuple[int, int]] = set()

    def name(self, path: Path) -> str:
        """Return a path as text, from the folder on."""
        return as_text(path.relative_to(self._root))

    def through(self) -> None:
        """Go through everything; raises ReferenceFolderError where the folder can't be read."""
        try:
            with os.scandir(self._root):
                pass
        except OSError as error:
            raise ReferenceFolderError(f"Can't read {self._root}: {error.strerror}.") from error
        starts = [self._root]
        while starts:
            links: list[Path] = []
            for start in sorted(starts):
                self._below(start, links)
            starts = links

    def _below(self, start: Path, links: list[Path]) -> None:
        """Take in a folder and the folders in it; links to others are added to `links`."""
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            if self._is_new(folder):
                for entry in self._entries(folder):
                    self._take(entry, waiting, links)

    def _is_new(self, folder: Path) -> bool:
        key = _key(folder)
        if key in self._seen:
            return False
        if key is not None:
            self._seen.add(key)
        if key in self._left_out or is_of_this_program(folder):
            self.own.append(self.name(folder))
            return False
        return True

    def _entries(self, folder: Path) -> list[Path]:
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            self.unread.append(f"{self.name(folder)} ({error.strerror})")
            return []
        return [folder / name for name in names]

    def _take(self, entry: Path, waiting: list[Path], links: list[Path]) -> None:
        try:
            if entry.is_dir():
                (links if entry.is_symlink() else waiting).append(entry)
            elif entry.is_file():
                self.files.append(entry)
            else:
                self.unread.append(f"{self.name(entry)} ({_not_a_file(entry)})")
        except OSError as error:
            self.unread.append(f"{self.name(entry)} ({error.strerror})")


def _not_a_file(entry: Path) -> str:
    return "a link that leads nowhere" if entry.is_symlink() else "neither a file nor a folder"


def _key(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
