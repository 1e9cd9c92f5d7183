"""Files that are no lists of prompts, known by what is in them, and what to do about each."""

from __future__ import annotations

import re

from m2g_audit.errors import UsageError
from m2g_audit.foreign_files import arrow_table

UNPACK = "unpack it and give the file that lists the prompts"
_SHEET = "export the sheet with the prompts as csv"
_TABLE = "write it as csv or parquet"
_LINES = "make a txt file of it with a prompt a line"
_CAPTIONS = "for captions that lie beside pictures give their folder"
_PICKLE = "write it as csv or jsonl; pickles can run code and are not read"

_STARTS = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Office file (.xls, .doc)", _SHEET),
    b"Obj\x01": ("an Avro file", _TABLE),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", _TABLE),
    b"SQLite format 3\0": ("an SQLite database", "export the table with the prompts as csv"),
    b"PK\x05\x06": ("an empty archive", "give the file that lists the prompts"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", UNPACK),
    b"Rar!\x1a\x07": ("a RAR archive", UNPACK),
    b"\x28\xb5\x2f\xfd": ("packed with zstd", "unpack it first: zstd -d FILE"),
    b"\x04\x22\x4d\x18": ("packed with lz4", "unpack it first: lz4 -d FILE"),
    b"%PDF": ("a PDF", _LINES),
    b"{\\rtf": ("a rich text file", _LINES),
    b"\x89PNG": ("a picture", _CAPTIONS),
    b"\xff\xd8\xff": ("a picture", _CAPTIONS),
    b"GIF87a": ("a picture", _CAPTIONS),
    b"GIF89a": ("a picture", _CAPTIONS),
    b"II*\0": ("a picture", _CAPTIONS),
    b"MM\0*": ("a picture", _CAPTIONS),
    b"\x93NUMPY": ("a NumPy array", "write it as csv or jsonl"),
    **{bytes([0x80, version]): ("a pickle", _PICKLE) for version in range(2, 6)},
    b"version https://git-lfs.github.com/spec/": (
        "a pointer of Git LFS that stands for the list",
        "get the list itself with git lfs pull, or from the page's own download",
    ),
}
"""What a file begins with."""
_WORDS = {
    b"ORC": ("an ORC file", _TABLE),
    b"PARE": ("encrypted parquet", "write it again without encryption"),
}
"""Likewise, but a prompt may begin so too: then no zero bytes follow."""
_IN_ZIP = {
    "xl/workbook.xml": ("an Excel workbook", _SHEET),
    "xl/workbook.bin": ("an Excel workbook", _SHEET),
    "word/document.xml": ("a Word document", _LINES),
    "content.xml": ("an OpenDocument file", _SHEET),
    "Index/Document.iwa": ("a Numbers or Pages file", _SHEET),
}
"""What lies in archives that are documents."""
_TEXTS = (
    (re.compile(r"<!doctype html|<html", re.I), "a web page", "download the list itself, raw"),
    (re.compile(r"<\?xml|<svg"), "XML", "write it as json, csv, or txt with a prompt a line"),
    (re.compile(r"\(?[ld]p0\n"), "a pickle", _PICKLE),
    (re.compile(r"[^\n]*\|[^\n]*\n\s*\|?\s*:?-{3,}[\s:|-]*\n"), "a Markdown table", _TABLE),
    (re.compile(r"(?:WEBVTT|1)\s[^\n]*[\d:,.]+ --> "), "a file of subtitles", _LINES),
)
"""How texts begin that nobody would sample."""


def refuse_other_files(head: bytes, name: str) -> None:
    """Raise UsageError where the first 512 bytes of a file say that it is no list."""
    starts = {**_STARTS, **(_WORDS if b"\0" in head else {})}
    known = next((found for start, found in starts.items() if head.startswith(start)), None)
    if (arrow := arrow_table(head)) is not None:
        known = arrow
    elif head[257:262] == b"ustar":
        known = "a tar archive", UNPACK
    elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        known = "a picture", _CAPTIONS
    elif head[8:9] == b"{" and head[5:8] == bytes(3):
        known = "a safetensors file, which holds weights", "give the list"
    if known is not None:
        raise no_list(name, *known)


def refuse_other_archives(members: list[str], name: str) -> None:
    """Raise UsageError where the files in a zip archive say that it is a document."""
    known = next((what for member, what in _IN_ZIP.items() if member in members), None)
    if known is not None:
        raise no_list(name, *known)


def refuse_other_texts(text: str, name: str) -> None:
    """Raise UsageError for pages and the like, whose lines are no prompts."""
    start = text[:1000].lstrip()
    known = next(((what, cure) for sign, what, cure in _TEXTS if sign.match(start)), None)
    if known is not None:
        raise no_list(name, *known)


def no_list(name: str, what: str, remedy: str) -> UsageError:
    """Return the error that names a file as what it is."""
    return UsageError(f"{name} is {what}, not a list of prompts: {remedy}.")
