"""All generations of a run in one picture, grouped by what they repeat, beside the reference."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from PIL.Image import Image

from m2g_audit.records.record import AuditRecord, NearestReference
from m2g_audit.reports.colours import STATE_COLOURS, VERDICT_COLOURS
from m2g_audit.reports.groups import Group, grouped
from m2g_audit.reports.run_files import read_picture

_COLUMNS = 8
_CELL = 144
_GAP = 10
_MARGIN = 28
_LABEL = 20
_BORDER = 4
_INK, _FAINT, _PAPER, _EMPTY = "#22262b", "#737a83", "#ffffff", "#eceef0"


def contact_sheet(record: AuditRecord, run_dir: Path) -> bytes:
    """Return the contact sheet of a run as PNG.

    Attractors come first, largest first, each with the reference picture nearest to its medoid;
    then generations that repeat another one without being part of an attractor, those that repeat
    none, and those that failed. A picture that is missing from the folder is an empty cell.
    """
    width = 2 * _MARGIN + (_COLUMNS + 1) * (_CELL + _GAP) + _GAP
    blocks = [_header(record, width), *(_block(group, run_dir, width) for group in grouped(record))]
    sheet = Pillow.new("RGB", (width, sum(b.height for b in blocks) + _MARGIN), _PAPER)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _header(record: AuditRecord, width: int) -> Image:
    lines = textwrap.wrap(record.texts, 96) or [""]
    lines = [*lines[:2], "…"] if len(lines) > 3 else lines
    height = _MARGIN + 26 * len(lines) + 54
    block = Pillow.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(block)
    for i, line in enumerate(lines):
        draw.text((_MARGIN, _MARGIN + 26 * i), _drawable(line), fill=_INK, font=_font(20))
    top = _MARGIN + 26 * len(lines) + 6
    word = record.verdict.state.upper()
    draw.text((_MARGIN, top), word, fill=VERDICT_COLOURS[record.verdict.state], font=_font(16))
    about = f"{record.model.id}  ·  {len(record.seeds)} seeds  ·  {record.settings.metric}"
    if record.thresholds is not None and not record.thresholds.calibrated:
        about += "  ·  uncalibrated"
    left = _MARGIN + draw.textlength(word, font=_font(16)) + 16
    draw.text((left, top + 1), _drawable(about), fill=_FAINT, font=_font(14))
    return block


def _block(group: Group, run_dir: Path, width: int) -> Image:
    rows = -(-len(group.seeds) // _COLUMNS)
    row_height = (_CELL + _LABEL) * (2 if group.references else 1) + _GAP
    block = Pillow.new("RGB", (width, 34 + rows * row_height + _GAP), _PAPER)
    draw = ImageDraw.Draw(block)
    draw.line((_MARGIN, 2, width - _MARGIN, 2), fill=_EMPTY, width=1)
    draw.text((_MARGIN, 9), group.title, fill=_colour(group), font=_font(15))
    for i, seed in enumerate(group.seeds):
        left = _MARGIN + (i % _COLUMNS) * (_CELL + _GAP)
        top = 34 + (i // _COLUMNS) * row_height
        _cell(block, (left, top), run_dir, seed.image, STATE_COLOURS[seed.state])
        _label(draw, (left, top), f"seed {seed.index}", seed.state)
        if group.references and seed.nearest_reference is not None:
            _reference(block, draw, (left, top + _CELL + _LABEL), run_dir, seed.nearest_reference)
    if group.reference is not None:
        shown = min(len(group.seeds), _COLUMNS)
        left = _MARGIN + shown * (_CELL + _GAP) + _GAP
        _reference(block, draw, (left, 34), run_dir, group.reference)
    return block


def _colour(group: Group) -> str:
    return _INK if group.state is None else STATE_COLOURS[group.state]


def _reference(
    block: Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    run_dir: Path,
    nearest: NearestReference,
) -> None:
    _cell(block, corner, run_dir, nearest.image, None)
    _label(draw, corner, "reference", f"at {nearest.distance:.3g}")


def _cell(
    block: Image, corner: tuple[int, int], run_dir: Path, name: str | None, colour: str | None
) -> None:
    """Paste a picture, framed in its state's colour; reference pictures have no frame."""
    draw = ImageDraw.Draw(block)
    left, top = corner
    draw.rectangle((left, top, left + _CELL - 1, top + _CELL - 1), fill=colour or _EMPTY)
    inner = _CELL - 2 * _BORDER
    picture = _picture(run_dir, name, inner)
    if picture is not None:
        offset = [(_CELL - side) // 2 for side in picture.size]
        block.paste(picture, (left + offset[0], top + offset[1]))


def _picture(run_dir: Path, name: str | None, side: int) -> Image | None:
    if name is None:
        return None
    try:
        picture = read_picture(run_dir, name)
    except OSError:
        return None
    # Small pictures keep their pixels, as blocks of whole size; large ones are scaled down.
    factor = side // max(picture.size)
    if factor >= 1:
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Pillow.Resampling.NEAREST)
    picture.thumbnail((side, side), Pillow.Resampling.LANCZOS)
    return picture


def _label(draw: ImageDraw.ImageDraw, corner: tuple[int, int], left: str, right: str) -> None:
    x, y = corner[0], corner[1] + _CELL + 3
    font = _font(12)
    draw.text((x, y), left, fill=_INK, font=font)
    draw.text((x + _CELL - draw.textlength(right, font=font), y), right, fill=_FAINT, font=font)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _drawable(text: str) -> str:
    """Text that any font can draw on one line: Pillow's own knows Latin letters only."""
    return "".join(c if c.isprintable() else " " for c in text)
