"""Picture files of others: which of them are read, and how each becomes pixels in RGB.

The one place where Pillow opens a file. It is given a list of formats and tries no other decoder:
some of Pillow's start other programs (PostScript) or fetch what a file names.
"""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as Pillow
from PIL.Image import Image, Transpose

from m2g_audit.records.vocabulary import Exif, Pages, Transparency

FORMATS = (
    "PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "HEIF", "JXL"
)  # fmt: skip
"""Pillow's names of the formats that are read, HEIF and JXL where their plug-ins are installed."""

_PLUGINS = ("pillow_heif", "pillow_jxl")
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_DNG_VERSION, _SUBFILE_TYPE, _REDUCED = 50706, 254, 1
# Beyond this many sides of the wanted picture, what would be cut off is not scaled first.
_LONG = 16
_PART = 2**20  # pixels that are numbers of 64 bits at once
_MAX_PIXELS = 2 * (Pillow.MAX_IMAGE_PIXELS or 0)
_SIGNATURES = (
    (0, b"%!", "PostScript, which is never opened: it is a program"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript, which is never opened: it is a program"),
    (0, b"%PDF", "a PDF"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"<svg", "SVG"),
    (0, b"\xff\x0a", "JPEG XL, which needs pip install pillow-jxl-plugin"),
    (4, b"JXL \r\n\x87\n", "JPEG XL, which needs pip install pillow-jxl-plugin"),
    (4, b"ftyphe", "HEIC, which needs pip install pillow-heif"),
    (4, b"ftypmif", "HEIC, which needs pip install pillow-heif"),
    (4, b"ftyp", "a video"),
    (0, b"\x1a\x45\xdf\xa3", "a video"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "an archive, gzip"),
    (257, b"ustar", "a tar archive"),
)


@dataclass(frozen=True)
class Reading:
    """How training read its pictures, where trainers differ.

    exif: whether a picture is turned as its EXIF says; transparency: dropped, as
    `convert("RGB")` does it, or laid over a colour; pages: of files with several pages or frames,
    the first or all; None for the first, where nobody said that this is what training saw.
    """

    exif: Exif = "turn"
    transparency: Transparency = "drop"
    pages: Pages | None = None

    @property
    def pixels(self) -> str:
        """Return what the pixels of one page depend on, as text; empty for the defaults."""
        plain = Reading(pages=self.pages)
        return "" if self == plain else f"exif={self.exif} transparency={self.transparency}"


AS_MOST_TRAINERS = Reading()


@dataclass(frozen=True)
class Header:
    """What a file says of itself before it is decoded; pages: how many pages or frames it has."""

    format: str
    pages: int


@dataclass(frozen=True)
class Decoded:
    """A picture in RGB, and what had to be done for it.

    turned: its EXIF asks for a turn; transparent: parts of it are; scaled: from more than 8 bits.
    """

    picture: Image
    turned: bool
    transparent: bool
    scaled: bool

    @property
    def constant(self) -> bool:
        """Return whether all pixels have one colour."""
        bands = cast("tuple[tuple[int, int], ...]", self.picture.getextrema())
        return all(low == high for low, high in bands)

    @property
    def sha256(self) -> str:
        """Return the hash of size and pixels."""
        return hashlib.sha256(repr(self.picture.size).encode() + self.picture.tobytes()).hexdigest()


@cache
def _decoders() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow has a decoder for, plug-ins included."""
    Pillow.init()
    for name in _PLUGINS:
        with suppress(ImportError):
            plugin = importlib.import_module(name)
            getattr(plugin, "register_heif_opener", lambda: None)()
    return tuple(name for name in FORMATS if name in Pillow.OPEN)


@cache
def picture_suffixes() -> frozenset[str]:
    """Return the suffixes of file names that promise a picture of these formats."""
    known = Pillow.registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in _decoders())


@contextmanager
def opened(file: Path | BinaryIO, formats: tuple[str, ...] | None = None) -> Iterator[Image]:
    """A picture file, its pixels undecoded; whatever is wrong with it is OSError or ValueError.

    That is true inside the block as well, where MemoryError alone is left as it is. formats: those
    of FORMATS that it may have, by default all of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of broken metadata, and of large pictures
        try:
            with Pillow.open(file, formats=formats or _decoders()) as picture:
                yield picture
        except (OSError, MemoryError):
            raise
        except Pillow.DecompressionBombError as error:
            raise ValueError(f"it has more than {_MAX_PIXELS:,} pixels: make it smaller") from error
        except Exception as error:  # Pillow's decoders raise whatever broken bytes lead them to
            raise ValueError(str(error) or type(error).__name__) from error


def header(file: Path | BinaryIO) -> Header:
    """Return what kind of picture a file holds, by content; OSError or ValueError for none."""
    if isinstance(file, Path):
        with file.open("rb") as content:
            return header(content)
    try:
        with opened(file) as picture:
            _refuse_raw(picture, file)
            return Header(_format(picture), _pages(picture))
    except UnidentifiedImageError as error:
        file.seek(0)
        raise ValueError(_what_else(file.read(512))) from error


def _format(picture: Image) -> str:
    return "JPEG" if picture.format == "MPO" else str(picture.format)


def _pages(picture: Image) -> int:
    """What follows the first picture of an MPO, as telephones write it, is its preview or depth."""
    if picture.format == "MPO":
        return 1
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:  # the first page is good; there is more, which broken bytes can't tell
        return 2


def _refuse_raw(picture: Image, file: BinaryIO) -> None:
    tags = getattr(picture, "tag_v2", {})
    preview = int(tags.get(_SUBFILE_TYPE, 0)) & _REDUCED or _DNG_VERSION in tags
    file.seek(8)
    if preview or (tags and file.read(2) == b"CR"):
        raise ValueError("a camera's raw file, of which only a preview could be read")


def _what_else(head: bytes) -> str:
    start = head.lstrip() if head.lstrip().startswith(b"<svg") else head
    for at, signature, name in _SIGNATURES:
        if start[at:].startswith(signature):
            return name
    return "no picture in a format that is read"


def open_picture(file: Path | BinaryIO, reading: Reading = AS_MOST_TRAINERS) -> Image:
    """Return a file's picture, its first page, in RGB; OSError or ValueError if broken."""
    return decode(file, reading).picture


def decode(file: Path | BinaryIO, reading: Reading = AS_MOST_TRAINERS, page: int = 0) -> Decoded:
    """Return a page of a file in RGB, with what was done to it; OSError or ValueError if broken."""
    with opened(file) as picture:
        if page:
            picture.seek(page)
        picture.load()
        turn = _TURNS.get(_orientation(picture))
        transparent = _is_transparent(picture)
        scaled = _is_deep(picture)
        made = _in_rgb(_eight_bits(picture) if scaled else picture, reading.transparency)
        if turn is not None and reading.exif == "turn":
            made = made.transpose(turn)
        return Decoded(made, turn is not None, transparent, scaled)


def _orientation(picture: Image) -> int:
    """By EXIF, once it is decoded: Pillow has turned TIFF by then. 1 where EXIF is broken."""
    try:
        stored = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # whatever broken bytes lead to; the photograph is good all the same
        return 1
    return stored if isinstance(stored, int) else 1


def _is_transparent(picture: Image) -> bool:
    if not picture.has_transparency_data:
        return False
    shown = picture if "A" in picture.getbands() else picture.convert("RGBA")
    return shown.getchannel("A").getextrema() != (255, 255)


def _is_deep(picture: Image) -> bool:
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16")


def _eight_bits(picture: Image) -> Image:
    """Grey of 16 or 32 bits, or in floats, as 8 bits."""
    values = np.asarray(picture)
    parts = [values.reshape(-1)[at : at + _PART] for at in range(0, values.size, _PART)]
    low, high = _range(picture, parts)
    levels = np.concatenate([_levels(part, low, high) for part in parts])
    return Pillow.fromarray(levels.reshape(values.shape))


def _levels(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    scaled = (_finite(values) - low) * (255 / (high - low))
    return scaled.round().clip(0, 255).astype(np.uint8)


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _range(picture: Image, parts: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """What is black and what is white: of 16 bits all of them, else what the values fit into."""
    if picture.mode != "F" and (picture.mode != "I" or picture.format in ("PNG", "PPM")):
        return 0.0, 65_535.0
    least = min(float(_finite(part).min()) for part in parts)
    most = max(float(_finite(part).max()) for part in parts)
    if least >= 0:
        for white in (1.0, 255.0, 65_535.0) if picture.mode == "F" else (255.0, 65_535.0):
            if most <= white:
                return 0.0, white
    return (least, most) if least < most else (0.0, max(most, 1.0))


def _in_rgb(picture: Image, transparency: Transparency) -> Image:
    if transparency == "drop" or not picture.has_transparency_data:
        return picture.convert("RGB")
    ground = Pillow.new("RGBA", picture.size, transparency)
    return Pillow.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")


def crop(picture: Image, size: tuple[int, int]) -> Image:
    """Return the picture as training sees it: scaled (bilinear) to cover `size`, centre-cropped.

    size: (height, width). Where both are equal, the same pixels as torchvision's Resize and
    CenterCrop, which diffusers' training scripts use. Of a picture more than 16 times as long as
    wide only the part that stays is scaled, which can change a level by 1.
    """
    height, width = size
    if picture.width * height <= picture.height * width:
        scaled = (width, max(height, int(width * picture.height / picture.width)))
    else:
        scaled = (max(width, int(height * picture.width / picture.height)), height)
    left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
    box = (left, top, left + width, top + height)
    if max(scaled) <= _LONG * max(size):
        return picture.resize(scaled, Pillow.Resampling.BILINEAR).crop(box)
    x, y = picture.width / scaled[0], picture.height / scaled[1]
    within = (x * box[0], y * box[1], x * box[2], y * box[3])
    return picture.resize((width, height), Pillow.Resampling.BILINEAR, box=within)
