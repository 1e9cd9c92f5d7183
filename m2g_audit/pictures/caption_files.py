"""Captions that lie beside pictures, as trainers keep them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from m2g_audit.encodings import marked
from m2g_audit.errors import ReferenceFolderError

_SIDECARS = (".txt", ".caption")
_METADATA = ("metadata.jsonl", "metadata.csv")
_COLUMNS = ("text", "caption", "prompt")
_MOST_BYTES = 2**16


def find_captions(
    folder: Path, pictures: Sequence[Path], encoding: str = "utf-8"
) -> dict[Path, str]:
    """Return the captions of those pictures in `folder` that have one.

    Read are a `metadata.jsonl` or `metadata.csv` in the picture's folder or one above it (with
    `file_name` and text, caption or prompt: the layout of `imagefolder`), and a text file of the
    picture's own name (`.txt`, `.caption`), which wins; its encoding is what its mark says, else
    `encoding`, and what is not of that is read as �. ReferenceFolderError for metadata that can't
    be read.
    """
    found: dict[Path, str] = {}
    # Those further down are read later, and win.
    for parent in sorted({above for p in pictures for above in _folders(folder, p)}):
        for name in _METADATA:
            file = parent / name
            if file.is_file():
                found.update((parent / key, text) for key, text in _described(file))
    known = set(pictures)
    found = {path: text for path, text in found.items() if path in known}
    for picture in known:
        text = _sidecar(picture, encoding)
        if text:
            found[picture] = text
    return found


def _folders(folder: Path, picture: Path) -> list[Path]:
    return [parent for parent in picture.parents if parent == folder or folder in parent.parents]


def _sidecar(picture: Path, encoding: str) -> str:
    for suffix in _SIDECARS:
        file = picture.with_suffix(suffix)
        if file.is_file() and file.stat().st_size <= _MOST_BYTES:
            content = file.read_bytes()
            return content.decode(marked(content) or encoding, "replace").strip()
    return ""


def _described(file: Path) -> Iterator[tuple[str, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows: Iterator[Mapping[str, Any]]
            if file.suffix == ".csv":
                rows = iter(list(csv.DictReader(stream)))
            else:
                rows = iter([json.loads(line) for line in stream if line.strip()])
        for row in rows:
            text = next((row[name] for name in _COLUMNS if isinstance(row.get(name), str)), "")
            if isinstance(row.get("file_name"), str) and text.strip():
                yield row["file_name"], text.strip()
    except (OSError, ValueError, csv.Error, AttributeError) as error:
        raise ReferenceFolderError(
            f"The captions in {file} can't be read ({error}). Repair the file, or move it out of "
            "the folder to do without captions."
        ) from error
