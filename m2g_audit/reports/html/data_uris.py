"""Pictures of a run as data URIs, small enough for a page that holds thousands of them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image as Pillow
from PIL.Image import Image

from m2g_audit.reports.run_files import read_picture

THUMBNAIL = 192
ICON = 64
LARGE = 512
_SMALL = 24  # bytes for each pixel of the side
_CELLS = 5


def thumbnail(folder: Path, name: str, side: int, *, redact: bool) -> str | None:
    """Return a run's picture as a data URI, at most `side` pixels a side; None if unreadable.

    Pixels of small ones are kept as they are. `redact` leaves the mean colours of at most 5 x 5
    cells, which browsers show smoothed: what the picture showed is no longer in the page.
    """
    try:
        picture = read_picture(folder, name)
    except OSError:
        return None
    if not redact and max(picture.size) <= side:
        content = _encoded(picture, format="PNG", optimize=True)
        if len(content) <= _SMALL * side:
            return data_uri(content, "image/png")
    if redact:
        cells = [max(1, round(_CELLS * side / max(picture.size))) for side in picture.size]
        picture = picture.resize((cells[0], cells[1]), Pillow.Resampling.BOX)
    picture.thumbnail((side, side), Pillow.Resampling.LANCZOS)
    return data_uri(_encoded(picture, format="WEBP", quality=82, method=2), "image/webp")


def _encoded(picture: Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """Return the data URI of a file of this media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
