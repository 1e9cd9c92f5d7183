"""Pictures of a run as data URIs, small enough for a page that holds thousands of them."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image as Pillow

from m2g_audit.picture_files import opened

THUMBNAIL = 192
ICON = 64
_SMALL = 24  # bytes for each pixel of the side
_CELLS = 5


def thumbnail(path: Path, side: int, *, redact: bool) -> str | None:
    """Return a picture as a data URI, at most `side` pixels wide and high; None if unreadable.

    Small PNG files are taken as they are. `redact` leaves the mean colours of at most 5 x 5 cells,
    which browsers show smoothed: what the picture showed is no longer in the page.
    """
    try:
        with opened(path) as file:
            if not redact and file.format == "PNG" and max(file.size) <= side:
                content = path.read_bytes()
                if len(content) <= _SMALL * side:
                    return data_uri(content, "image/png")
            picture = file.convert("RGB")
    except (OSError, ValueError):
        return None
    if redact:
        cells = [max(1, round(_CELLS * side / max(picture.size))) for side in picture.size]
        picture = picture.resize((cells[0], cells[1]), Pillow.Resampling.BOX)
    picture.thumbnail((side, side), Pillow.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=82, method=2)
    return data_uri(buffer.getvalue(), "image/webp")


def data_uri(content: bytes, kind: str) -> str:
    """Return the data URI of a file of this media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
