"""One picture in every form that it may lie in: read as the same picture, or named."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import ExifTags, Image
from pyarrow import parquet

from m2g_audit.pictures.decoding import PictureReading, crop, decode
from m2g_audit.pictures.folder import find_pictures

PAGE = Path(__file__).parents[2] / "docs" / "pictures.md"
SIDE = 32


def picture() -> Image.Image:
    """Smooth colours, another one in each corner, so that turns and mirrors show."""
    corners = np.array([[[250, 20, 20], [20, 250, 20]], [[20, 20, 250], [240, 240, 30]]])
    small = Image.fromarray(corners.astype(np.uint8))
    return small.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def grey() -> Image.Image:
    return picture().convert("L").convert("RGB")


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return saved(picture().transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


def transparent() -> bytes:
    image = picture().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((SIDE, SIDE)))
    return saved(image, "PNG")


def deep(form: str) -> bytes:
    levels = np.asarray(picture().convert("L")).astype(np.uint16) * 257
    return saved(Image.fromarray(levels), form)


def floats() -> bytes:
    return saved(Image.fromarray(np.asarray(picture().convert("L")) / np.float32(255)), "TIFF")


def pages() -> bytes:
    return saved(picture(), "TIFF", save_all=True, append_images=[grey()])


@dataclass(frozen=True)
class Kind:
    """A way to keep the picture. apart: how far its levels may be off; same: what it must be."""

    said: str
    make: Callable[[], bytes]
    how: str
    apart: float = 0.0
    same: Callable[[], Image.Image] = picture


KINDS = [
    Kind("PNG", lambda: saved(picture(), "PNG"), "as it is"),
    Kind("BMP", lambda: saved(picture(), "BMP"), "as it is"),
    Kind("PPM", lambda: saved(picture(), "PPM"), "as it is"),
    Kind("TIFF", lambda: saved(picture(), "TIFF"), "as it is"),
    Kind("WebP, lossless", lambda: saved(picture(), "WEBP", lossless=True), "as it is"),
    Kind("JPEG 2000", lambda: saved(picture(), "JPEG2000"), "as it is"),
    Kind("JPEG", lambda: saved(picture(), "JPEG", quality=95), "as it is", 4),
    Kind("JPEG in CMYK", lambda: saved(picture().convert("CMYK"), "JPEG"), "as it is", 12),
    Kind("WebP", lambda: saved(picture(), "WEBP", quality=95), "as it is", 6),
    Kind("AVIF", lambda: saved(picture(), "AVIF", quality=95), "as it is", 6),
    Kind("GIF, or a palette", lambda: saved(picture().quantize(256), "GIF"), "as it is", 12),
    Kind("a turn by EXIF", turned, "turned (`--reference-exif keep`: not)"),
    Kind("transparency", transparent, "dropped (`--reference-alpha white`, `black`: laid over)"),
    Kind("grey", lambda: saved(picture().convert("L"), "PNG"), "one channel as three", same=grey),
    Kind("grey of 16 bits, PNG", lambda: deep("PNG"), "scaled to 8 bits", same=grey),
    Kind("grey of 16 bits, TIFF", lambda: deep("TIFF"), "scaled to 8 bits", same=grey),
    Kind("grey in floats, TIFF", floats, "scaled to 8 bits", same=grey),
    Kind("several pages or frames", pages, "the first (`--reference-pages all`: all)"),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.said)
def test_it_is_the_same_picture(tmp_path: Path, kind: Kind) -> None:
    (tmp_path / "x").write_bytes(kind.make())  # without a suffix: its content says what it is
    [file] = find_pictures(tmp_path).files
    with file.open() as content:
        read = np.asarray(crop(decode(content, PictureReading()).picture, (SIDE, SIDE))).astype(int)
    expected = np.asarray(kind.same()).astype(int)
    assert np.sqrt(((read - expected) ** 2).mean()) <= kind.apart
    flipped = np.sqrt(((read[:, ::-1] - expected) ** 2).mean())
    assert flipped > 3 * kind.apart + 10


def in_folder(folder: Path, content: bytes) -> Path:
    (folder / "a.png").write_bytes(content)
    return folder


def in_parquet(folder: Path, content: bytes) -> Path:
    parquet.write_table(
        pa.table({"image": [{"bytes": content, "path": "a"}]}), folder / "a.parquet"
    )
    return folder / "a.parquet"


def in_tar(folder: Path, content: bytes) -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return folder / "a.tar"


def in_list(folder: Path, content: bytes) -> Path:
    (folder / "a.png").write_bytes(content)
    (folder / "list.txt").write_text("a.png\n")
    return folder / "list.txt"


SOURCES = {
    "a folder, and all below it": (
        in_folder,
        "`.txt`, `.caption`, `metadata.jsonl`, `.csv` beside",
    ),
    "a parquet file in the hub's layout": (in_parquet, "a column text, caption or prompt"),
    "a tar archive of webdataset": (in_tar, "`.txt`, `.caption`, `.json` of the same key"),
    "a list of paths (txt, csv, tsv, jsonl)": (in_list, "a column of it, or beside the pictures"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_it_is_found_wherever_it_lies(tmp_path: Path, source: str) -> None:
    content = saved(picture(), "PNG")
    [file] = find_pictures(SOURCES[source][0](tmp_path, content)).files
    with file.open() as stored:
        assert stored.read() == content


def page() -> str:
    """What the documentation says."""
    lines = [
        "# What is read as pictures",
        "",
        "By `--reference`, `--unseen` and `calibrate`. Made by `tests/pictures/test_kinds.py`,",
        "which writes each of these and reads it as the same picture. Content says what a file",
        "is, not its name.",
        "",
        "| pictures in | captions |",
        "| --- | --- |",
        *(f"| {said} | {captions} |" for said, (_, captions) in SOURCES.items()),
        "",
        "Folders may hold tables and archives as shards. Archives must not be compressed. Paths of",
        "a list count from its folder and lead to what lies in it or below, links followed; so do",
        "those that a table names, links inside its folder alone. Of a table's columns of pictures",
        "the one called image, img, picture, jpg, png or webp is read, all if none is; others are",
        "named as not read, as are tables of Arrow, and tables and archives that are broken.",
        "",
        "| a picture that is, or has | is read |",
        "| --- | --- |",
        *(f"| {kind.said} | {kind.how} |" for kind in KINDS),
        "",
        "HEIC and JPEG XL are read with `pip install '.[formats]'`. What is not read is counted",
        "and named in the record, and refused with `--reference-complete`: other formats, camera",
        "raw files, folders without permission, later pages.",
    ]
    return "\n".join(lines) + "\n"


def test_the_documentation_says_what_is_read() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "Make it again: python -c 'from tests.pictures.test_kinds import PAGE, page; "
        'PAGE.write_text(page(), encoding="utf-8")\''
    )
