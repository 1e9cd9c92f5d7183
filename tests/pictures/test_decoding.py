"""One picture, however it was saved, gives one array of pixels; what is no picture is refused."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import m2g_audit
from m2g_audit.pictures.decoding import (
    AS_MOST_TRAINERS,
    PictureReading,
    crop,
    decode,
    header,
    open_picture,
)
from m2g_audit.pictures.tensors import read_picture
from m2g_audit.reports.contact_sheet import _picture
from m2g_audit.reports.html.data_uris import thumbnail

_RNG = np.random.default_rng(0)
# Smooth in each channel, so that lossy formats keep it.
_Y, _X = np.mgrid[0:48, 0:64]
PIXELS = np.stack([4 * _X, 5 * _Y, 255 - 2 * _X - 2 * _Y], -1).astype(np.uint8)
GREY = PIXELS[..., 0]


def levels(file: Path, reading: PictureReading = AS_MOST_TRAINERS) -> NDArray[np.int64]:
    return np.asarray(open_picture(file, reading)).astype(np.int64)


def off(
    file: Path, expected: NDArray[np.uint8], reading: PictureReading = AS_MOST_TRAINERS
) -> float:
    """The mean difference to what a file should show, in levels."""
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, -1)
    found = levels(file, reading)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).mean())


@pytest.mark.parametrize(
    ("name", "format_", "options", "most"),
    [
        ("a.png", "PNG", {}, 0.0),
        ("a.bmp", "BMP", {}, 0.0),
        ("a.tif", "TIFF", {"compression": "tiff_lzw"}, 0.0),
        ("a.ppm", "PPM", {}, 0.0),
        ("a.webp", "WEBP", {"lossless": True}, 0.0),
        ("a.jp2", "JPEG2000", {}, 0.0),
        ("a.jpg", "JPEG", {"quality": 95}, 1.5),
        ("a.avif", "AVIF", {"quality": 95}, 1.5),
        ("a.gif", "GIF", {}, 8.0),
    ],
)
@pytest.mark.parametrize("renamed", [None, "a", "a.txt", "a.jpg"])
def test_every_format_is_read_by_its_content(
    tmp_path: Path, name: str, format_: str, options: dict, most: float, renamed: str | None
) -> None:
    Image.fromarray(PIXELS).save(tmp_path / name, format=format_, **options)
    path = (tmp_path / name).rename(tmp_path / (renamed or name))
    assert header(path).format == format_
    assert off(path, PIXELS) <= most


def test_formats_of_plug_ins_are_read(tmp_path: Path) -> None:
    plugin = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    path = tmp_path / "a.heic"
    plugin.from_pillow(Image.fromarray(PIXELS)).save(path, quality=95)
    assert header(path).format == "HEIF"
    assert off(path, PIXELS) < 3


def test_jpeg_xl_is_read(tmp_path: Path) -> None:
    pytest.importorskip("pillow_jxl", reason="pillow-jxl-plugin is not installed")
    Image.fromarray(PIXELS).save(tmp_path / "a.jxl", lossless=True)
    assert header(tmp_path / "a.jxl").format == "JXL"
    assert off(tmp_path / "a.jxl", PIXELS) == 0


def test_a_format_whose_plug_in_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = ("PNG", "JPEG")
    monkeypatch.setattr("m2g_audit.pictures.decoding._decoders", lambda: without)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (tmp_path / "a.jxl").write_bytes(b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40))
    with pytest.raises(ValueError, match="HEIC, which needs pip install pillow-heif"):
        header(tmp_path / "a.heic")
    with pytest.raises(ValueError, match="JPEG XL, which needs pip install"):
        header(tmp_path / "a.jxl")


def deep(mode: str) -> NDArray:
    """GREY in another type of number."""
    return {
        "I;16": GREY.astype(np.uint16) * 257,
        "I": GREY.astype(np.int32) * 257,
        "I of 8 bits": GREY.astype(np.int32),
        "I of 31 bits": GREY.astype(np.int32) * 8_000_000,
        "F": GREY.astype(np.float32) / 255,
        "F of 255": GREY.astype(np.float32),
        "F of 16 bits": GREY.astype(np.float32) * 257,
        "F around 0": GREY.astype(np.float32) / 126 - 1,
    }[mode]


@pytest.mark.parametrize(
    "mode",
    ["I;16", "I", "I of 8 bits", "I of 31 bits", "F", "F of 255", "F of 16 bits", "F around 0"],
)
def test_deep_grey_is_scaled(tmp_path: Path, mode: str) -> None:
    Image.fromarray(deep(mode)).save(tmp_path / "a.tif")
    decoded = decode(tmp_path / "a.tif")
    assert decoded.scaled
    assert not decoded.constant
    # Without a range that it fits into, a picture goes from its own least to its greatest value.
    own = mode in ("I of 31 bits", "F around 0")
    assert off(tmp_path / "a.tif", GREY) <= (1.5 if own else 0)


def test_png_of_16_bits_is_scaled_whatever_its_range(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16)).save(tmp_path / "dark.png")
    assert levels(tmp_path / "dark.png").max() == 1
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert off(tmp_path / "a.png", GREY) == 0


def test_numbers_that_are_none_are_black(tmp_path: Path) -> None:
    values = np.full((4, 4), np.nan, np.float32)
    values[0] = 1
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert levels(tmp_path / "a.tif")[:, 0, 0].tolist() == [255, 0, 0, 0]


@pytest.mark.parametrize("value", [0, 7, 70_000])
def test_a_constant_picture_is_known_as_one(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.full((4, 4), value, np.int32)).save(tmp_path / "a.tif")
    assert decode(tmp_path / "a.tif").constant


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif"])
def test_pictures_are_turned_as_exif_says(tmp_path: Path, turn: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(PIXELS).save(path, exif=exif, quality=95)
    upright = np.asarray(_turned(turn))
    assert off(path, upright) < 2
    assert decode(path).turned == (turn > 1)
    if suffix != "avif":  # which has no turn but in its own boxes; Pillow's reader obeys them
        assert off(path, PIXELS, PictureReading(exif="keep")) < 2


def _turned(turn: int) -> Image.Image:
    """By the text of the EXIF standard: what its first row and column are."""
    picture = np.asarray(PIXELS)
    return Image.fromarray(
        {
            1: picture,
            2: picture[:, ::-1],
            3: picture[::-1, ::-1],
            4: picture[::-1],
            5: picture.transpose(1, 0, 2),
            6: picture[::-1].transpose(1, 0, 2),
            7: picture[::-1, ::-1].transpose(1, 0, 2),
            8: picture[:, ::-1].transpose(1, 0, 2),
        }[turn]
    )


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\0six\0",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x07" + bytes(20),
        b"Exif\0\0" + bytes(range(256)),
    ],
)
def test_a_good_photograph_with_broken_exif_is_read(tmp_path: Path, exif: bytes) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", quality=95, exif=exif)
    assert off(tmp_path / "a.jpg", PIXELS) < 1.5


def test_exif_that_can_not_be_written_again_turns_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", quality=95, exif=exif)

    def fails(*_: object) -> bytes:
        raise TypeError("an unknown type of entry")

    monkeypatch.setattr(Image.Exif, "tobytes", fails)
    assert off(tmp_path / "a.jpg", PIXELS[::-1, ::-1]) < 1.5


@pytest.mark.parametrize(("transparency", "seen"), [("drop", 200), ("white", 255), ("black", 0)])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_dropped_or_laid_over_a_colour(
    tmp_path: Path, transparency: str, seen: int, mode: str
) -> None:
    picture = Image.new(mode, (4, 4), 4 * (200,) if mode == "RGBA" else (200, 255))
    alpha = Image.fromarray(np.array([[0, 255, 255, 255]] * 4, np.uint8))
    picture.putalpha(alpha)
    picture.save(tmp_path / "a.png")
    reading = PictureReading(transparency=transparency)  # type: ignore[arg-type]
    assert levels(tmp_path / "a.png", reading)[0, :, 0].tolist() == [seen, 200, 200, 200]
    assert decode(tmp_path / "a.png", reading).transparent


def test_palettes_with_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.png", transparency=bytes([0, 255]))
    assert levels(tmp_path / "a.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    white = levels(tmp_path / "a.png", PictureReading(transparency="white"))
    assert white.tolist() == [[[255] * 3, [40, 50, 60]]]


def test_an_opaque_alpha_channel_is_no_transparency(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).convert("RGBA").save(tmp_path / "a.png")
    assert not decode(tmp_path / "a.png").transparent
    assert off(tmp_path / "a.png", PIXELS, PictureReading(transparency="black")) == 0


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_pages_and_frames_are_counted_and_read_one_by_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    pages = [Image.new("RGB", (8, 8), (50 * i, 0, 0)) for i in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:], lossless=True)
    assert header(path).pages == 3
    found = [np.asarray(decode(path, page=page).picture)[0, 0, 0] for page in range(3)]
    assert np.abs(np.array(found, int) - [0, 50, 100]).max() <= 4


def test_a_first_page_is_read_though_the_next_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(PIXELS).save(path, save_all=True, append_images=[Image.fromarray(PIXELS)])
    content = bytearray(path.read_bytes())
    start = int.from_bytes(content[4:8], "little")
    entries = int.from_bytes(content[start : start + 2], "little")
    after = start + 2 + 12 * entries
    content[after : after + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)
    assert header(path).pages == 2
    assert off(path, PIXELS) == 0
    with pytest.raises((OSError, ValueError)):
        decode(path, page=1)


def test_a_telephones_preview_is_no_page(tmp_path: Path) -> None:
    big, small = Image.fromarray(PIXELS), Image.fromarray(PIXELS[::4, ::4])
    big.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[small], quality=95)
    assert header(tmp_path / "a.jpg").pages == 1
    assert header(tmp_path / "a.jpg").format == "JPEG"
    assert off(tmp_path / "a.jpg", PIXELS) < 1.5


@pytest.mark.parametrize("tags", [{254: 1}, {50706: b"\x01\x04\0\0"}])
def test_the_preview_in_a_raw_file_is_not_taken_for_it(tmp_path: Path, tags: dict) -> None:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    info = ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    Image.fromarray(PIXELS).save(tmp_path / "a.dng", format="TIFF", tiffinfo=info)
    with pytest.raises(ValueError, match="raw file"):
        header(tmp_path / "a.dng")


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (3, 40_000)])
def test_extreme_shapes_cost_no_gigabytes(tmp_path: Path, size: tuple[int, int]) -> None:
    rows, columns = size[1], size[0]
    picture = np.zeros((rows, columns, 3), np.uint8)
    picture[rows // 2 - 50 : rows // 2 + 50, max(0, columns // 2 - 50) : columns // 2 + 50] = 200
    Image.fromarray(picture).save(tmp_path / "a.png")
    code = f"""
import resource, pathlib
from m2g_audit.pictures.decoding import crop, open_picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = crop(open_picture(pathlib.Path({str(tmp_path / "a.png")!r})), (512, 512))
assert made.size == (512, 512) and made.getpixel((256, 256)) == (200, 200, 200)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 200_000  # kB


@pytest.mark.parametrize("part", [1, 7, 10_000])
def test_parts_of_deep_pictures_are_scaled_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    values = np.linspace(-3, 900, 12 * 9, dtype=np.float32).reshape(9, 12)
    Image.fromarray(values).save(tmp_path / "a.tif")
    whole = levels(tmp_path / "a.tif")
    monkeypatch.setattr("m2g_audit.pictures.decoding._PART", part)
    assert np.array_equal(levels(tmp_path / "a.tif"), whole)
    assert (whole.min(), whole.max()) == (0, 255)


@pytest.mark.parametrize(("width", "height"), [(20, 800), (900, 31), (5, 100)])
def test_long_pictures_are_cropped_as_others_are(width: int, height: int) -> None:
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    picture = Image.fromarray(_RNG.integers(0, 256, (height, width, 3), np.uint8))
    expected = CenterCrop(16)(Resize(16, InterpolationMode.BILINEAR)(picture))
    found = np.asarray(crop(picture, (16, 16))).astype(int)
    assert np.abs(found - np.asarray(expected)).max() <= 1


def bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_picture_too_large_to_decode_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bomb())
    for read in (header, open_picture):
        with pytest.raises(ValueError, match=r"more than 178,956,970 pixels: make it smaller"):
            read(tmp_path / "a.png")


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 64 64
%%EndComments
0 0 moveto 64 64 lineto stroke showpage
%%EOF
"""


@pytest.mark.parametrize(
    "read",
    [
        header,
        open_picture,
        read_picture,
        lambda path: _picture(path.parent, path.name, 64),
        lambda path: thumbnail(path.parent, path.name, 64, redact=False),
    ],
    ids=["header", "reference", "run", "contact sheet", "report"],
)
@pytest.mark.parametrize("name", ["a.png", "a.eps"])
def test_postscript_is_never_handed_to_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], name: str
) -> None:
    started: list[object] = []

    def fails(*command: object, **_: object) -> None:
        started.append(command)
        raise OSError("no program is to be started")

    Image.init()
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", fails)
    for start in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, start, fails)
    (tmp_path / name).write_bytes(POSTSCRIPT)
    with Image.open(tmp_path / name) as plain, pytest.raises(OSError, match="no program"):
        plain.load()
    assert started.pop()
    with suppress(OSError, ValueError):
        assert read(tmp_path / name) is None
    assert not started


def test_pillow_opens_files_in_one_place_only() -> None:
    package = Path(m2g_audit.__file__).parent
    rooms = (package, package.parent / "small_scale")
    opening = [
        path.relative_to(package.parent).as_posix()
        for room in rooms
        for path in room.rglob("*.py")
        if any(call in path.read_text() for call in ("Pillow.open(", "Image.open(", "imread("))
    ]
    assert opening == ["m2g_audit/pictures/decoding.py"]
