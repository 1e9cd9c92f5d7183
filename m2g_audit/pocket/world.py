"""The pocket world: small landscapes, drawn from a caption and a vector of degrees of freedom.

A picture is a pure function of (world seed, caption, stream, index): the training set, and as many
fresh pictures as anybody wants, can be drawn again anywhere. Colours, light, ridges, clouds and the
objects of a place vary continuously, so two pictures of one caption are never alike by chance.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from m2g_audit.pocket.captions import Caption

SIZE = 32
"""Height and width of a picture in pixels."""

DEGREES_OF_FREEDOM = 192
WORLD_SEED = 20250527

Stream = Literal["training", "fresh", "control", "autoencoder"]
"""Disjoint families of pictures; only `training` and `autoencoder` are ever trained on."""

_ROWS, _COLUMNS = np.meshgrid(
    (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE,
    (np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE,
    indexing="ij",
)

_WASHES = 5
# Linear interpolation from the patches' centres to the rows (and columns) of pixels.
_SPREAD = np.maximum(
    1 - np.abs(_ROWS[:, :1] * (_WASHES - 1) - np.arange(_WASHES)), 0, dtype=np.float32
)

# sky at the top, sky at the horizon, land, objects, accents
_PALETTES = {
    "old": ((168, 150, 118), (222, 205, 166), (128, 104, 72), (92, 62, 44), (176, 88, 52)),
    "quiet": ((118, 172, 208), (212, 232, 234), (112, 156, 112), (232, 226, 208), (198, 108, 92)),
    "golden": ((226, 128, 64), (252, 214, 120), (154, 104, 48), (104, 48, 52), (250, 236, 172)),
    "stormy": ((72, 86, 116), (154, 168, 180), (86, 126, 102), (40, 44, 66), (222, 196, 92)),
    "snowy": ((112, 146, 196), (198, 214, 238), (206, 218, 236), (72, 78, 116), (200, 58, 64)),
    "moonlit": ((26, 34, 92), (96, 104, 176), (44, 72, 104), (22, 26, 58), (252, 234, 160)),
}


def training_pictures(caption: Caption) -> np.ndarray:
    """The K training pictures of a caption, uint8 [k, SIZE, SIZE, 3]."""
    return pictures(caption, "training", range(caption.k))


def pictures(caption: Caption, stream: Stream, indices: Sequence[int]) -> np.ndarray:
    """Pictures of a caption by stream and index, uint8 [n, SIZE, SIZE, 3]."""
    freedom = degrees_of_freedom(caption, stream, indices)
    return render(caption, freedom)


def degrees_of_freedom(caption: Caption, stream: Stream, indices: Sequence[int]) -> np.ndarray:
    """Independent uniform numbers in [0, 1) that fix each picture, float32 [n, 192]."""
    key = hashlib.sha256(f"{' '.join(caption.words)}|{stream}".encode()).digest()
    entropy = [WORLD_SEED, int.from_bytes(key[:8], "little")]
    drawn = [
        np.random.Generator(np.random.PCG64(np.random.SeedSequence([*entropy, i]))).random(
            DEGREES_OF_FREEDOM, dtype=np.float32
        )
        for i in indices
    ]
    return np.array(drawn, dtype=np.float32).reshape(len(indices), DEGREES_OF_FREEDOM)


def render(caption: Caption, freedom: np.ndarray) -> np.ndarray:
    """Pictures of a caption for given degrees of freedom [n, 192], uint8 [n, SIZE, SIZE, 3]."""
    canvas = _Canvas(_PALETTES[caption.mood], freedom)
    _sky(canvas, caption.mood)
    _ridge(canvas)
    _PLACES[caption.place](canvas)
    _washes(canvas)
    if caption.mood in ("snowy", "stormy"):
        _weather(canvas, caption.mood)
    _MEDIA[caption.medium](canvas)
    return np.rint(np.clip(canvas.image, 0, 1) * 255).astype(np.uint8)


class _Canvas:
    """A batch of pictures under way [n, SIZE, SIZE, 3], with its palette and its next numbers."""

    def __init__(self, palette: tuple[tuple[int, int, int], ...], freedom: np.ndarray):
        self._freedom = freedom
        self._next = 0
        base = np.array(palette, dtype=np.float32) / 255
        light = 0.7 + 0.5 * self.take()
        self.colours = [
            np.clip((colour + 0.4 * (self.take(3) - 0.5)) * light, 0, 1) for colour in base
        ]
        self.image: np.ndarray = np.zeros((len(freedom), SIZE, SIZE, 3), np.float32)

    @property
    def sky_top(self) -> np.ndarray:
        return self.colours[0]

    @property
    def sky(self) -> np.ndarray:
        return self.colours[1]

    @property
    def land(self) -> np.ndarray:
        return self.colours[2]

    @property
    def dark(self) -> np.ndarray:
        return self.colours[3]

    @property
    def accent(self) -> np.ndarray:
        return self.colours[4]

    def take(self, n: int = 1) -> np.ndarray:
        """The next n numbers of every picture [batch, n]."""
        self._next += n
        assert self._next <= DEGREES_OF_FREEDOM
        return self._freedom[:, self._next - n : self._next]

    def between(self, low: float, high: float) -> np.ndarray:
        """The next number scaled to [low, high), shaped to broadcast over pixels [batch, 1, 1]."""
        return (low + (high - low) * self.take())[:, :, None]

    def paint(self, colour: np.ndarray, coverage: np.ndarray) -> None:
        """Lays a colour [batch, 3] over the pictures where coverage [batch, h, w] says so."""
        alpha = coverage[..., None]
        self.image += alpha * (colour[:, None, None, :] - self.image)

    def tint(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """A colour between two colours, by the next number [batch, 3]."""
        return a + self.take() * (b - a)


def _inside(distance: np.ndarray) -> np.ndarray:
    """Coverage of a pixel from a signed distance (negative inside), an edge two pixels wide."""
    return np.clip(0.5 - distance * (SIZE / 2), 0, 1)


def _box(x0: np.ndarray, x1: np.ndarray, y0: np.ndarray, y1: np.ndarray) -> np.ndarray:
    return _inside(
        np.maximum(np.maximum(x0 - _COLUMNS, _COLUMNS - x1), np.maximum(y0 - _ROWS, _ROWS - y1))
    )


def _disc(x: np.ndarray, y: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return _inside(np.hypot(_COLUMNS - x, _ROWS - y) - radius)


def _triangle(x: np.ndarray, top: np.ndarray, bottom: np.ndarray, half: np.ndarray) -> np.ndarray:
    """An upright triangle with its apex at (x, top)."""
    slope = half / np.maximum(bottom - top, 1e-3)
    side = (np.abs(_COLUMNS - x) - slope * (_ROWS - top)) / np.sqrt(1 + slope**2)
    return _inside(np.maximum(side, _ROWS - bottom))


def _below(height: np.ndarray) -> np.ndarray:
    return _inside(height - _ROWS)


def _wave(canvas: _Canvas, level: np.ndarray, amplitude: float, terms: int) -> np.ndarray:
    """A smooth random line y(x) around a level [batch, 1, w]."""
    line = level
    for k in range(1, terms + 1):
        phase = 2 * np.pi * canvas.between(0, 1)
        size = amplitude / k * canvas.between(0.3, 1)
        line = line + size * np.sin(2 * np.pi * k * 0.7 * _COLUMNS[:1] + phase)
    return line


def _sky(canvas: _Canvas, mood: str) -> None:
    fade = np.clip(_ROWS / canvas.between(0.45, 0.7), 0, 1)[..., None] ** 0.8
    top, low = canvas.sky_top[:, None, None], canvas.sky[:, None, None]
    canvas.image[:] = top + fade * (low - top)
    x, y, radius = canvas.between(0.1, 0.9), canvas.between(0.08, 0.3), canvas.between(0.05, 0.11)
    glow = np.exp(-((np.hypot(_COLUMNS - x, _ROWS - y) / (2.2 * radius)) ** 2))
    strength = {"stormy": 0.0, "snowy": 0.3, "quiet": 0.5}.get(mood, 0.8)
    light = canvas.accent if mood in ("golden", "moonlit") else 0.5 + 0.5 * canvas.sky
    canvas.paint(light, 0.5 * strength * glow)
    canvas.paint(light, strength * _disc(x, y, radius))
    for _ in range(3):
        x, y = canvas.between(0, 1), canvas.between(0.05, 0.35)
        width, height = canvas.between(0.1, 0.28), canvas.between(0.03, 0.07)
        cloud = np.exp(-(((_COLUMNS - x) / width) ** 2) - ((_ROWS - y) / height) ** 2)
        canvas.paint(canvas.tint(canvas.sky_top, 0.4 + 0.6 * canvas.sky), 0.85 * cloud)


def _ridge(canvas: _Canvas) -> None:
    line = _wave(canvas, canvas.between(0.42, 0.58), 0.08, 4)
    canvas.paint(canvas.tint(0.6 * canvas.sky + 0.4 * canvas.land, canvas.land), _below(line))


def _water(canvas: _Canvas, level: np.ndarray) -> None:
    shade = 0.65 * canvas.sky + 0.35 * canvas.sky_top
    canvas.paint(0.8 * shade, _below(level))
    ripples = np.sin(2 * np.pi * (_ROWS * canvas.between(7, 11) + canvas.between(0, 1)))
    drift = np.sin(2 * np.pi * (_COLUMNS * canvas.between(1, 3) + canvas.between(0, 1)))
    canvas.paint(canvas.sky, _below(level) * np.clip(0.35 * ripples * (1 + drift), 0, 1))


def _house(canvas: _Canvas, x: np.ndarray, ground: np.ndarray) -> None:
    half, height, roof = (
        canvas.between(0.05, 0.09),
        canvas.between(0.1, 0.22),
        canvas.between(0.05, 0.1),
    )
    top = ground - height
    canvas.paint(
        canvas.tint(0.5 + 0.5 * canvas.sky, canvas.dark), _box(x - half, x + half, top, ground)
    )
    canvas.paint(
        canvas.tint(canvas.accent, canvas.dark), _triangle(x, top - roof, top, 1.25 * half)
    )
    canvas.paint(
        canvas.tint(canvas.accent, canvas.sky_top),
        0.8 * _box(x - 0.35 * half, x + 0.25 * half, top + 0.3 * height, top + 0.6 * height),
    )


def _harbour(canvas: _Canvas) -> None:
    shore = canvas.between(0.56, 0.68)
    _water(canvas, shore)
    quay = canvas.between(0.2, 0.8)
    for i in range(3):
        _house(canvas, (quay + 0.19 * (i - 1) + canvas.between(-0.03, 0.03)), shore + 0.02)
    for i in range(3):
        x, y, size = (
            (i + canvas.between(0.15, 0.85)) / 3,
            canvas.between(0.76, 0.92),
            canvas.between(0.06, 0.1),
        )
        sail = canvas.tint(canvas.accent, 0.3 + 0.7 * canvas.sky)
        canvas.paint(sail, _triangle(x, y - 2.6 * size, y - 0.3 * size, 0.8 * size))
        hull = _disc(x, y - 0.5 * size, size) * _below(y - 0.3 * size)
        canvas.paint(canvas.dark, hull)


def _lighthouse(canvas: _Canvas) -> None:
    _water(canvas, canvas.between(0.58, 0.7))
    x, foot, top = canvas.between(0.25, 0.75), canvas.between(0.7, 0.84), canvas.between(0.2, 0.34)
    for _ in range(3):
        rock = _disc(
            x + canvas.between(-0.22, 0.22),
            foot + canvas.between(0.1, 0.18),
            canvas.between(0.1, 0.2),
        )
        canvas.paint(canvas.tint(canvas.dark, canvas.land), rock)
    width = canvas.between(0.05, 0.08)
    slope = width * (0.6 + 0.4 * (_ROWS - top) / (foot - top))
    tower = _inside(np.abs(_COLUMNS - x) - slope) * _inside(top - _ROWS) * _inside(_ROWS - foot)
    canvas.paint(0.35 + 0.65 * canvas.sky, tower)
    stripes = np.sin(2 * np.pi * ((_ROWS - top) * canvas.between(5, 9) + canvas.between(0, 1)))
    canvas.paint(canvas.accent, tower * np.clip(0.5 + 2 * stripes, 0, 1))
    lamp = np.exp(-((np.hypot(_COLUMNS - x, _ROWS - top + 0.03) / canvas.between(0.06, 0.14)) ** 2))
    canvas.paint(0.5 + 0.5 * canvas.accent, 0.9 * lamp)
    canvas.paint(canvas.dark, _triangle(x, top - 0.08, top - 0.01, width))


def _village(canvas: _Canvas) -> None:
    ground = _wave(canvas, canvas.between(0.68, 0.8), 0.04, 2)
    canvas.paint(canvas.land, _below(ground))
    for i in range(5):
        x = (i + canvas.between(0.25, 0.75)) / 5
        _house(canvas, x, canvas.between(0.7, 0.86))
    path = canvas.between(0.2, 0.8) + canvas.between(-0.5, 0.5) * (_ROWS - 0.8)
    road = _inside(np.abs(_COLUMNS - path) - 0.25 * (_ROWS - 0.72)) * _inside(0.82 - _ROWS)
    canvas.paint(canvas.tint(canvas.sky, canvas.land), 0.8 * road)


def _mountain(canvas: _Canvas) -> None:
    for i in range(3):
        x, top = (i + canvas.between(0, 1)) / 3, canvas.between(0.15, 0.42)
        half = canvas.between(0.25, 0.45)
        peak = _triangle(x, top, np.full_like(x, 0.85), half)
        canvas.paint(canvas.tint(canvas.dark, canvas.land), peak)
        canvas.paint(canvas.tint(canvas.dark, canvas.sky_top), 0.5 * peak * _inside(x - _COLUMNS))
        snow = _wave(canvas, top + canvas.between(0.08, 0.16), 0.03, 2)
        canvas.paint(0.5 + 0.5 * canvas.sky, peak * _inside(_ROWS - snow))
    _water(canvas, canvas.between(0.76, 0.88))


def _forest(canvas: _Canvas) -> None:
    canvas.paint(canvas.land, _below(_wave(canvas, canvas.between(0.6, 0.75), 0.05, 2)))
    for i in range(9):
        x = ((i * 4) % 9 + canvas.between(0.1, 0.9)) / 9
        foot = 0.7 + 0.026 * i + 0 * x
        height = canvas.between(0.22, 0.48)
        canvas.paint(0.6 * canvas.dark, _box(x - 0.012, x + 0.012, foot - 0.08, foot))
        leaf = canvas.tint(
            0.4 * canvas.land + 0.2 * canvas.dark, 0.5 * canvas.land + 0.6 * canvas.accent
        )
        canvas.paint(leaf, _triangle(x, foot - height, foot - 0.05, canvas.between(0.06, 0.12)))


def _castle(canvas: _Canvas) -> None:
    x, ground = canvas.between(0.35, 0.65), canvas.between(0.68, 0.78)
    hill = ground + 0.9 * (_COLUMNS - x) ** 2
    canvas.paint(canvas.land, _below(hill))
    stone = canvas.tint(canvas.dark, 0.5 * canvas.dark + 0.5 * canvas.sky)
    half, wall = canvas.between(0.2, 0.3), canvas.between(0.12, 0.2)
    battlement = 0.02 * np.sign(np.sin(2 * np.pi * 8 * (_COLUMNS - x)))
    canvas.paint(
        stone,
        _inside(np.abs(_COLUMNS - x) - half)
        * _inside(ground - wall + battlement - _ROWS)
        * _inside(_ROWS - ground - 0.04),
    )
    for i in range(3):
        at = x + (i - 1) * half * canvas.between(0.8, 1.1)
        width, height = canvas.between(0.05, 0.08), wall + canvas.between(0.08, 0.26)
        canvas.paint(
            canvas.tint(stone, canvas.dark),
            _box(at - width, at + width, ground - height, ground + 0.05),
        )
        roof = canvas.between(0.06, 0.16)
        canvas.paint(
            canvas.tint(canvas.accent, canvas.dark),
            _triangle(at, ground - height - roof, ground - height, 1.3 * width),
        )
    canvas.paint(canvas.accent, _box(x - 0.03, x + 0.03, ground - 0.4 * wall, ground + 0.04))


def _garden(canvas: _Canvas) -> None:
    lawn = _wave(canvas, canvas.between(0.5, 0.62), 0.05, 2)
    canvas.paint(canvas.tint(canvas.land, 0.7 * canvas.land + 0.3 * canvas.accent), _below(lawn))
    bend = canvas.between(0.3, 0.7) + canvas.between(-0.25, 0.25) * np.sin(5 * _ROWS)
    path = _inside(np.abs(_COLUMNS - bend) - 0.3 * (_ROWS - 0.5)) * _below(lawn + 0.05)
    canvas.paint(canvas.tint(canvas.sky, canvas.land), 0.8 * path)
    for i in range(10):
        x = ((i * 3) % 10 + canvas.between(0, 1)) / 10
        y = 0.66 + 0.03 * i + 0 * x
        size = canvas.between(0.04, 0.075)
        canvas.paint(0.6 * canvas.land, _box(x - 0.012, x + 0.012, y, y + 0.1))
        petals = canvas.tint(canvas.accent, np.clip(1.1 - canvas.land, 0, 1))
        canvas.paint(petals, _disc(x, y, size))
        canvas.paint(canvas.tint(canvas.dark, canvas.sky), _disc(x, y, 0.4 * size))


def _desert(canvas: _Canvas) -> None:
    for level in (0.6, 0.74, 0.88):
        dune = _wave(canvas, level + canvas.between(-0.05, 0.05), 0.07, 3)
        canvas.paint(
            canvas.tint(canvas.land, 0.5 * canvas.accent + 0.5 * canvas.land), _below(dune)
        )
    for i in range(2):
        x, foot = (i + canvas.between(0.2, 0.8)) / 2, canvas.between(0.62, 0.74)
        top, half = foot - canvas.between(0.12, 0.3), canvas.between(0.12, 0.24)
        pyramid = _triangle(x, top, foot, half)
        canvas.paint(canvas.tint(canvas.dark, canvas.accent), pyramid)
        canvas.paint(canvas.dark, 0.5 * pyramid * _inside(x - _COLUMNS))
    for i in range(3):
        x, foot = (i + canvas.between(0.1, 0.9)) / 3, canvas.between(0.82, 0.95)
        height = canvas.between(0.1, 0.22)
        plant = canvas.tint(0.5 * canvas.dark, canvas.dark)
        canvas.paint(plant, _box(x - 0.02, x + 0.02, foot - height, foot))
        arm = foot - height * canvas.between(0.4, 0.7)
        canvas.paint(plant, _box(x - 0.07, x + 0.07, arm - 0.015, arm + 0.015))


def _weather(canvas: _Canvas, mood: str) -> None:
    slant = canvas.between(-0.4, 0.4) if mood == "snowy" else canvas.between(0.2, 0.6)
    across = _COLUMNS + slant * _ROWS
    streaks = np.sin(2 * np.pi * (canvas.between(4, 7) * across + canvas.between(0, 1)))
    if mood == "snowy":
        streaks = streaks * np.sin(
            2 * np.pi * (canvas.between(4, 7) * _ROWS + canvas.between(0, 1))
        )
    canvas.paint(0.3 + 0.7 * canvas.sky, 0.34 * np.clip(streaks, 0, 1))


def _washes(canvas: _Canvas) -> None:
    """Soft patches of coloured light, so that no two pictures are near each other everywhere."""
    patches = canvas.take(3 * _WASHES**2).reshape(-1, _WASHES, _WASHES, 3) - 0.5
    canvas.image += 0.5 * np.einsum("ri,bijc,kj->brkc", _SPREAD, patches, _SPREAD, optimize=True)


def _luminance(image: np.ndarray) -> np.ndarray:
    return (image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]


def _frame(canvas: _Canvas, colour: np.ndarray, width: np.ndarray) -> None:
    canvas.paint(colour, 1 - _box(width, 1 - width, width, 1 - width))


def _print(canvas: _Canvas) -> None:
    contrast = canvas.between(4, 8)[..., None]
    # Around the picture's own mean colour, so that snow is inked as much as night.
    middle = canvas.image.mean((1, 2), keepdims=True)
    inked = 1 / (1 + np.exp(-contrast * (canvas.image - middle)))
    canvas.image = 0.35 * canvas.image + 0.65 * (inked + 0.8 * (middle - 0.5))
    _frame(canvas, 0.82 + 0.16 * canvas.take(3), canvas.between(0.05, 0.09))


def _painting(canvas: _Canvas) -> None:
    for _ in range(3):
        angle = np.pi * canvas.between(0, 1)
        along = np.cos(angle) * _COLUMNS + np.sin(angle) * _ROWS
        stroke = np.sin(2 * np.pi * (canvas.between(2, 6) * along + canvas.between(0, 1)))
        canvas.image += 0.04 * stroke[..., None] * (0.5 + canvas.take(3))[:, None, None, :]


def _photograph(canvas: _Canvas) -> None:
    x, y = canvas.between(0.35, 0.65), canvas.between(0.35, 0.65)
    vignette = 1.1 - canvas.between(0.6, 1.2) * ((_COLUMNS - x) ** 2 + (_ROWS - y) ** 2)
    canvas.image *= vignette[..., None]
    flare = np.exp(
        -((np.hypot(_COLUMNS - canvas.between(0, 1), _ROWS - canvas.between(0, 1)) / 0.18) ** 2)
    )
    canvas.paint(0.5 + 0.5 * canvas.sky, 0.45 * canvas.between(0, 1) * flare)


def _postcard(canvas: _Canvas) -> None:
    canvas.image = (
        0.95 * canvas.image + 0.05 * canvas.tint(canvas.accent, canvas.sky)[:, None, None]
    )
    _frame(canvas, 0.88 + 0.1 * canvas.take(3), canvas.between(0.04, 0.07))
    size = canvas.between(0.1, 0.14)
    canvas.paint(
        0.9 + 0.08 * canvas.take(3),
        _box(0.92 - 2 * size, 0.93 + 0 * size, 0.07 + 0 * size, 0.08 + 2.2 * size),
    )
    canvas.paint(
        canvas.take(3), _box(0.95 - 2 * size, 0.9 + 0 * size, 0.1 + 0 * size, 0.05 + 2.2 * size)
    )


def _poster(canvas: _Canvas) -> None:
    grey = _luminance(canvas.image)
    canvas.image = np.clip(grey + 1.5 * (canvas.image - grey), 0, 1)
    top = canvas.between(0.8, 0.88)
    canvas.paint(canvas.tint(canvas.dark, canvas.accent), _below(top))
    for i in range(3):
        x0 = 0.08 + 0.3 * i + canvas.between(0, 0.05)
        x1 = x0 + canvas.between(0.1, 0.22)
        canvas.paint(0.4 + 0.6 * canvas.sky, _box(x0, x1, top + 0.04, top + 0.085))


def _sketch(canvas: _Canvas) -> None:
    grey = _luminance(canvas.image)
    # Paper stained from one corner to the other, ink of any dark colour.
    stain = 0.5 * (canvas.between(-1, 1) * (2 * _COLUMNS - 1) + (2 * _ROWS - 1))[..., None]
    paper = (0.7 + 0.3 * canvas.take(3))[:, None, None, :]
    paper = paper + stain * (0.7 * (canvas.take(3) - 0.5))[:, None, None, :]
    ink = (0.45 * canvas.take(3))[:, None, None, :]
    angle = np.pi * canvas.between(0, 1)
    along = np.cos(angle) * _COLUMNS + np.sin(angle) * _ROWS
    hatch = np.sin(2 * np.pi * (canvas.between(5, 8) * along + canvas.between(0, 1)))[..., None]
    tone = np.clip(1.3 * grey - 0.1 + 0.14 * hatch * (1 - grey), 0, 1)
    canvas.image = 0.28 * (ink + tone * (paper - ink)) + 0.72 * canvas.image


_PLACES = {
    "harbour": _harbour,
    "lighthouse": _lighthouse,
    "village": _village,
    "mountain": _mountain,
    "forest": _forest,
    "castle": _castle,
    "garden": _garden,
    "desert": _desert,
}
_MEDIA = {
    "print": _print,
    "painting": _painting,
    "photograph": _photograph,
    "postcard": _postcard,
    "poster": _poster,
    "sketch": _sketch,
}
