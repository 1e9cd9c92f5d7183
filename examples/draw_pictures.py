"""Draws a folder of simple pictures: a coloured shape somewhere on a two-coloured ground."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COUNT, SIDE, FINE = 3000, 32, 4


def draw(random: np.random.Generator) -> Image.Image:
    """One picture, drawn large and scaled down, so that its edges are smooth."""
    side = SIDE * FINE
    ground, band, shape = (tuple(map(int, random.integers(0, 256, 3))) for _ in range(3))
    picture = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(picture)
    horizon = int(random.uniform(0.3, 0.8) * side)
    pen.rectangle((0, horizon, side, side), fill=band)
    x, y, r = (random.uniform(*limits) * side for limits in ((0.3, 0.7), (0.3, 0.7), (0.12, 0.3)))
    corners = int(random.integers(2, 7))
    if corners == 2:  # a disc
        pen.ellipse((x - r, y - r, x + r, y + r), fill=shape)
    else:
        pen.regular_polygon((x, y, r), corners, rotation=int(random.integers(360)), fill=shape)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "my-pictures")
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for i in range(COUNT):
        draw(random).save(folder / f"{i:04d}.png")
    print(f"{COUNT} pictures in {folder}")
