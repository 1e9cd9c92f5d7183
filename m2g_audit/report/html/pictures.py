"""Pictures of a run as data URIs, small enough for a page that holds thousands of them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image as Pillow
from PIL import ImageFilter
from PIL.Image import Image

THUMBNAIL = 192
ICON = 64
_SMALL = 24  # bytes for each pixel of the side
_BLURRED_CELLS = 5


def thumbnail(path: Path, side: int, *, redact: bool) -> str | None:
    """Return a picture as a data URI, at most `side` pixels wide and high; None if unreadable.

    Small PNG files are taken as they are. `redact` leaves 5 x 5 mean colours of a picture, smoothed
    over: what it showed is no longer in the page.
    """
    try:
        with Pillow.open(path) as file:
            if not redact and file.format == "PNG" and max(file.size) <= side:
                content = path.read_bytes()
                if len(content) <= _SMALL * side:
                    return data_uri(content, "image/png")
            picture = file.convert("RGB")
    except (OSError, ValueError, Pillow.DecompressionBombError):
        return None
    if redact:
        picture = _blurred(picture, side)
    picture.thumbnail((side, side), Pillow.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=82, method=2)
    return data_uri(buffer.getvalue(), "image/webp")


def data_uri(content: bytes, kind: str) -> str:
    """Return the data URI of a file of this media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _blurred(picture: Image, side: int) -> Image:
    cells = picture.resize((_BLURRED_CELLS, _BLURRED_CELLS), Pillow.Resampling.BOX)
    size = (side, max(1, round(side * picture.height / picture.width)))
    smooth = cells.resize(size, Pillow.Resampling.BICUBIC)
    return smooth.filter(ImageFilter.GaussianBlur(side / _BLURRED_CELLS / 2))
