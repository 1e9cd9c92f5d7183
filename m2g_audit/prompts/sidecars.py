"""A folder of pictures with captions beside them is a list of prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from m2g_audit.errors import ReferenceFolderError, UsageError
from m2g_audit.pictures.caption_files import find_captions
from m2g_audit.pictures.containers import PictureFile
from m2g_audit.pictures.folder import find_pictures
from m2g_audit.prompts.columns import Record, Table
from m2g_audit.text import quoted


def read_folder(folder: Path, encoding: str | None) -> Table:
    """Return the caption of each picture in a folder and below it.

    UsageError if none has one, and for captions that are not of `encoding`, by default UTF-8.
    """
    try:
        found = captioned(folder, encoding)
    except ReferenceFolderError as error:
        raise UsageError(f"{folder} is a folder, and no list of prompts: {error}") from error
    rows: list[Record] = [
        (number, {"file_name": file.name, "caption": caption})
        for number, (file, caption) in enumerate(found, start=1)
        if caption
    ]
    if not rows:
        raise UsageError(
            f"No picture in {folder} has a caption beside it (NAME.txt, NAME.caption; a column "
            "text, caption or prompt of metadata.jsonl or metadata.csv). Give the file that lists "
            "the prompts."
        )
    bare = len(found) - len(rows)
    notices = [f"{bare:,} of {len(found):,} pictures have no caption."] if bare else []
    long = sum("\n" in caption for _, caption in found if caption)
    if long:
        notices.append(f"{long:,} captions have several lines, and are one prompt each.")
    return Table(["file_name", "caption"], rows, notices)


def captioned(
    source: Path, encoding: str | None = None, leave_out: Iterable[Path] = ()
) -> list[tuple[PictureFile, str | None]]:
    """Return each picture of a folder, table, archive or list with its caption, None without one.

    Raises:
        ReferenceFolderError: There are no pictures, or metadata can't be read.
        UsageError: Captions are not of `encoding`, by default UTF-8, or there is none of that name.
    """
    found = find_pictures(source, leave_out)
    pictures = [file.path for file in found.files if file.place is None]
    try:
        beside = find_captions(found.root, pictures, encoding or "utf-8")
    except LookupError as error:
        raise UsageError(f"There is no --encoding {encoding}.") from error
    # A table that pictures lie in has no caption beside it.
    every = [(file, file.caption or beside.get(file.path) or None) for file in found.files]
    _refuse_illegible(every, source)
    return every


def _refuse_illegible(every: Sequence[tuple[PictureFile, str | None]], folder: Path) -> None:
    illegible = [file.name for file, caption in every if caption and "\ufffd" in caption]
    if illegible:
        raise UsageError(
            f"Captions in {folder} are not of the encoding that they are read in, UTF-8 if none is "
            f"said: those of {quoted(illegible)}. Say what they are with --encoding, such as "
            "cp1252, or write them again."
        )
