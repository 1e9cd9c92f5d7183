"""Samples with their nearest neighbours, in pictures (Fig. 1B, 13 to 15), and at the thresholds."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from PIL.Image import Image

from small_scale.classification import STATES
from small_scale.lab import Lab
from small_scale.lab_folder import Cell
from small_scale.report.figures.style import COLOURS, FAINT, INK, RULE, about, near_peak
from small_scale.report.sheets import DELTAS, EACH_SIDE, SIDES, Delta, Sheet, load_sheet
from small_scale.report.summaries import first_seed

ImageArray = NDArray[np.uint8]

_PAPER = "#ffffff"
_MARGIN, _GAP, _BORDER = 26, 4, 3
_SMALL, _PAIR = 60, 48
_HEAD = 74
_IN: dict[Delta, Literal["training", "samples"]] = {"delta_m": "training", "delta_s": "samples"}
_WORDS: dict[Delta, str] = {
    "delta_m": "delta_m: each sample, and below it the nearest of S",
    "delta_s": "delta_s: samples that are not memorized, and the nearest of S'",
}


def neighbours_sheet(lab: Lab) -> bytes | None:
    """Samples of each state beside their top-4 in S, above, and in S', below, as PNG.

    Each state's come from the cell nearest to the peak that has enough of it. They are evenly
    spaced in order of distance, not chosen by eye. None before any sheet is kept.
    """
    found = [each for state in STATES if (each := _examples(lab, state.value)) is not None]
    if not found:
        return None
    blocks = [[neighbour_block(sheet, i, state) for i in rows] for state, _, sheet, rows in found]
    width, height = blocks[0][0].size
    step = height + 30
    page = _page(
        lab,
        "Samples and their nearest neighbours",
        "  ·  top row in S, bottom row in S'",
        (len(found) * (width + 34) - 34, 34 + max(map(len, blocks)) * step),
    )
    draw = ImageDraw.Draw(page)
    for column, (state, cell, sheet, rows) in enumerate(found):
        left = _MARGIN + column * (width + 34)
        draw.text((left, _HEAD), state, fill=COLOURS[state], font=_font(17))
        beside = left + draw.textlength(state, font=_font(17)) + 12
        draw.text((beside, _HEAD + 3), f"K = {cell.K:,}", fill=FAINT, font=_font(14))
        for place, (i, block) in enumerate(zip(rows, blocks[column], strict=True)):
            top = _HEAD + 34 + place * step
            page.paste(block, (left, top))
            words = (
                f"nearest in S at {sheet.training_distances[i, 0]:.3g}, "
                f"in S' at {sheet.sample_distances[i, 0]:.3g}"
            )
            draw.text((left, top + height + 4), words, fill=FAINT, font=_font(12))
    return _png(page)


def thresholds_sheet(lab: Lab) -> bytes | None:
    """The samples on each side of both thresholds of every cell, as PNG (App. B.3).

    Each stands over its nearest neighbour, with the distance of the two. None before any sheet.
    """
    sheets = {cell: sheet for cell in lab.measured if (sheet := load_sheet(lab, cell)) is not None}
    if not sheets:
        return None
    side = _PAIR * EACH_SIDE + _GAP * (EACH_SIDE - 1)
    half = 2 * side + 28
    step = 2 * _PAIR + _GAP + 52
    page = _page(
        lab, "Samples on both sides of each threshold", "", (2 * half + 48, 34 + step * len(sheets))
    )
    draw = ImageDraw.Draw(page)
    for i, name in enumerate(DELTAS):
        left = _MARGIN + i * (half + 48)
        draw.text((left, _HEAD), _WORDS[name], fill=INK, font=_font(15))
        for place, (cell, sheet) in enumerate(sheets.items()):
            _both_sides(page, (left, _HEAD + 34 + place * step), lab, cell, sheet, name)
    return _png(page)


def neighbour_block(sheet: Sheet, i: int, state: str) -> Image:
    """A sample, framed in its state's colour, with two rows of neighbours: in S, and in S'."""
    side = _fitted(sheet, _SMALL)
    large = 2 * side + _GAP + 2 * _BORDER
    width = large + 10 + 4 * side + 3 * _GAP
    block = Pillow.new("RGB", (width, large), _PAPER)
    ImageDraw.Draw(block).rectangle((0, 0, large - 1, large - 1), fill=COLOURS[state])
    block.paste(_picture(sheet.images[i], 2 * side + _GAP), (_BORDER, _BORDER))
    for row, images in enumerate((sheet.training[i], sheet.samples[i])):
        for column, image in enumerate(images):
            corner = (large + 10 + column * (side + _GAP), _BORDER + row * (side + _GAP))
            block.paste(_picture(image, side), corner)
    return block


# -- parts


def _examples(lab: Lab, state: str) -> tuple[str, Cell, Sheet, NDArray[np.int64]] | None:
    for cell in near_peak(lab, first_seed(lab)):
        sheet = load_sheet(lab, cell)
        if sheet is not None and len(sheet.groups[state]):
            return state, cell, sheet, sheet.groups[state]
    return None


def _both_sides(
    page: Image, corner: tuple[int, int], lab: Lab, cell: Cell, sheet: Sheet, name: Delta
) -> None:
    left, top = corner
    draw = ImageDraw.Draw(page)
    seed = f", seed {cell.seed}" if cell.seed else ""
    words = f"K = {cell.K:,}{seed}"
    draw.text((left, top), words, fill=INK, font=_font(13))
    beside = left + draw.textlength(words, font=_font(13)) + 12
    value = f"{name} = {sheet.thresholds[name]:.3g}"
    draw.text((beside, top), value, fill=FAINT, font=_font(13))
    width = _PAIR * EACH_SIDE + _GAP * (EACH_SIDE - 1)
    middle = left + width + 14
    draw.line((middle, top + 20, middle, top + 22 + 2 * _PAIR + _GAP), fill=INK, width=2)
    distances = sheet.training_distances if name == "delta_m" else sheet.sample_distances
    images = sheet.training if _IN[name] == "training" else sheet.samples
    for side in SIDES:
        rows = sheet.groups[f"{name}/{side}"]
        # Those under a threshold end at the line, those over it begin there.
        first = EACH_SIDE - len(rows) if side == "under" else 0
        start = left if side == "under" else middle + 14
        for place, i in enumerate(rows):
            x = start + (first + place) * (_PAIR + _GAP)
            page.paste(_picture(sheet.images[i], _PAIR), (x, top + 20))
            page.paste(_picture(images[i, 0], _PAIR), (x, top + 20 + _PAIR + _GAP))
            y = top + 22 + 2 * _PAIR + _GAP
            draw.text((x, y), f"{distances[i, 0]:.3g}", fill=FAINT, font=_font(11))


def _page(lab: Lab, title: str, more: str, size: tuple[int, int]) -> Image:
    page = Pillow.new("RGB", (size[0] + 2 * _MARGIN, size[1] + _HEAD + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, 16), title, fill=INK, font=_font(20))
    draw.text((_MARGIN, 44), f"{about(lab)}{more}", fill=FAINT, font=_font(13))
    draw.line((_MARGIN, _HEAD - 6, page.width - _MARGIN, _HEAD - 6), fill=RULE)
    return page


def _fitted(sheet: Sheet, side: int) -> int:
    """About `side`, as a whole number of times the pictures' own."""
    own = sheet.images.shape[-1]
    return own * max(1, round(side / own))


def _picture(image: ImageArray, side: int) -> Image:
    """A picture uint8 [c, h, w] on a square of `side`, its pixels as blocks of whole size."""
    levels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    picture = Pillow.fromarray(levels).convert("RGB")
    factor = max(1, side // max(picture.size))
    picture = picture.resize(
        (factor * picture.width, factor * picture.height), Pillow.Resampling.NEAREST
    )
    if max(picture.size) > side:
        picture.thumbnail((side, side), Pillow.Resampling.LANCZOS)
    square = Pillow.new("RGB", (side, side), RULE)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def _png(page: Image) -> bytes:
    buffer = io.BytesIO()
    page.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
