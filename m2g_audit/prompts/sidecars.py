"""A folder of pictures with captions beside them is a list of prompts."""

from __future__ import annotations

from pathlib import Path

from m2g_audit.errors import ReferenceFolderError, UsageError
from m2g_audit.picture_captions import find_captions
from m2g_audit.picture_folder import find_pictures
from m2g_audit.prompts.columns import Record, Table


def read_folder(folder: Path) -> Table:
    """Return the caption of each picture in a folder and below it; UsageError if none has one."""
    try:
        found = find_pictures(folder, [])
        beside = find_captions(
            found.root, [file.path for file in found.files if file.place is None]
        )
    except ReferenceFolderError as error:
        raise UsageError(f"{folder} is a folder, and no list of prompts: {error}") from error
    captions = [file.caption or beside.get(file.path) for file in found.files]
    rows: list[Record] = [
        (number, {"file_name": file.name, "caption": caption})
        for number, (file, caption) in enumerate(zip(found.files, captions, strict=True), start=1)
        if caption
    ]
    if not rows:
        raise UsageError(
            f"No picture in {folder} has a caption beside it (NAME.txt, NAME.caption, "
            "metadata.jsonl, metadata.csv). Give the file that lists the prompts."
        )
    bare = len(found.files) - len(rows)
    notices = [f"{bare:,} pictures of {folder} have no caption beside them."] if bare else []
    return Table(["file_name", "caption"], rows, notices)
