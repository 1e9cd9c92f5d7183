"""Folders, parquet files and named sets as pictures of a sweep."""

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from m2g_audit.errors import ReferenceFolderError, ResourceError, UsageError
from small_scale.models.pictures import load_pictures, open_source
from small_scale.settings import SweepSettings, settings_for


def png(level: int, size: tuple[int, int] = (8, 8), grey: bool = True) -> bytes:
    colour = (level, level, level if grey else 255 - level)
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def folder_of(path: Path, count: int, grey: bool = True) -> Path:
    path.mkdir(parents=True)
    for i in range(count):
        (path / f"{i:04d}.png").write_bytes(png(i % 256, grey=grey))
    return path


def parquet(path: Path, levels: Sequence[int]) -> Path:
    from datasets import Dataset, Features, Value
    from datasets import Image as Pictures

    rows = {"image": [{"bytes": png(i), "path": None} for i in levels], "label": list(levels)}
    features = Features({"image": Pictures(), "label": Value("int64")})
    Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def settings(source: str, total: int, **changed: object) -> SweepSettings:
    return settings_for("smoke", source, total, **changed)  # type: ignore[arg-type]


def test_a_folder_gives_nested_subsets_and_fresh_pictures(tmp_path: Path) -> None:
    source = open_source(str(folder_of(tmp_path / "a", 250)))
    assert (source.train, source.fresh, source.channels) == (150, 100, 1)
    small = load_pictures(source, settings("a", 150, sizes=(2, 8), channels=1))
    large = load_pictures(source, settings("a", 150, sizes=(2, 32), channels=1))
    assert torch.equal(small.training(8), large.training(8))
    assert large.training(32).shape == (32, 1, 8, 8)
    assert large.training(32).dtype == torch.uint8


def levels(images: torch.Tensor) -> set[int]:
    return set(images[:, 0, 0, 0].tolist())


def test_training_control_and_fresh_pictures_are_disjoint(tmp_path: Path) -> None:
    source = open_source(str(folder_of(tmp_path / "a", 250)))
    pictures = load_pictures(source, settings("a", 150, sizes=(2, 32), channels=1))
    for K in (2, 8, 32):
        controls = [levels(images) for images in pictures.controls(K)]
        assert [len(part) for part in controls] == [K] * min(16, 164 // K - 1)
        assert len(set().union(*controls)) == K * len(controls)
        parts = [levels(pictures.training(K)), set().union(*controls)]
        assert len(parts[0]) == K
        assert not parts[0] & parts[1]
        assert not parts[0] & levels(pictures.fresh)


def test_a_parquet_file_and_its_test_split(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet", range(150))
    parquet(tmp_path / "test.parquet", range(150, 256))
    source = open_source(str(tmp_path))
    assert (source.train, source.fresh) == (150, 106)
    pictures = load_pictures(source, settings("p", 150, channels=1))
    assert levels(pictures.fresh) <= set(range(150, 256))


def test_a_table_that_names_files_names_those_beside_it(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    folder = folder_of(tmp_path / "a", 150)
    (tmp_path / "outside.png").write_bytes(png(7))
    paths = [f"{i:04d}.png" for i in range(149)]
    for last in ("0149.png", "../outside.png", str(tmp_path / "outside.png")):
        rows = [{"bytes": None, "path": path} for path in [*paths, last]]
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        table = pa.table({"image": pa.array(rows, type=kind)})
        write_table(table, folder / f"{len(last)}.parquet")
        source = open_source(str(folder / f"{len(last)}.parquet"))
        every = [(row, fresh) for fresh in (False, True) for row in range((50, 100)[fresh])]
        if last == "0149.png":
            assert {source.picture(row, fresh=fresh).size for row, fresh in every} == {(8, 8)}
        else:
            with pytest.raises(OSError, match="outside"):
                [source.picture(row, fresh=fresh) for row, fresh in every]


def test_colour_is_noticed(tmp_path: Path) -> None:
    assert open_source(str(folder_of(tmp_path / "c", 120, grey=False))).channels == 3


def test_named_sets_come_from_the_folder_of_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mnist").mkdir()
    parquet(tmp_path / "mnist" / "train.parquet", range(150))
    parquet(tmp_path / "mnist" / "test.parquet", range(100))
    monkeypatch.setenv("M2G_DATA", str(tmp_path))
    assert open_source("mnist").train == 150


def test_a_sweep_of_too_many_pictures_is_refused(tmp_path: Path) -> None:
    source = open_source(str(folder_of(tmp_path / "a", 250)))
    with pytest.raises(UsageError, match=r"150 pictures to train on, fewer than K = 1,000"):
        settings("a", source.train, sizes=(2, 1000))
    with pytest.raises(UsageError, match="K starts at 2"):
        settings("a", source.train, sizes=(1, 10))


def natural(number: int, side: int = 64) -> Image.Image:
    """A picture of a few large spots, as smooth as a photograph; different numbers are far."""
    spots = np.random.default_rng(number).integers(0, 256, (3, 3, 3), np.uint8)
    return Image.fromarray(spots).resize((side, side), Image.Resampling.BICUBIC)


def save_again(picture: Image.Image, path: Path, way: str) -> None:
    if way == "scaled":
        picture = picture.resize((48, 48), Image.Resampling.LANCZOS)
    if way == "16 bits":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    suffix, options = {
        "jpeg": ("jpg", {"quality": 75}),
        "webp": ("webp", {"quality": 80}),
    }.get(way, ("png", {}))
    picture.save(path.with_suffix(f".{suffix}"), **options)


def nearest_to(queries: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    return torch.cdist(queries.flatten(1).float(), pictures.flatten(1).float()).min(1).values


@pytest.mark.parametrize("way", ["the same", "jpeg", "webp", "scaled"])
def test_copies_are_never_on_both_sides_of_a_split(tmp_path: Path, way: str) -> None:
    for number in range(260):
        natural(number).save(tmp_path / f"{number:03d}.png")
    before = load_pictures(
        open_source(str(tmp_path)), settings("a", 160, sizes=(2, 64), channels=3)
    )
    assert not any("copies" in remark for remark in before.remarks)
    for number in range(0, 260, 13):
        save_again(natural(number), tmp_path / f"again-{number:03d}.png", way)
    source = open_source(str(tmp_path))
    pictures = load_pictures(source, settings("a", 180, sizes=(2, 128), channels=3))
    everything = torch.cat([pictures.ordered, pictures.fresh])
    assert len(everything) == 260
    apart = torch.cdist(everything.flatten(1).float(), everything.flatten(1).float())
    apart.fill_diagonal_(torch.inf)
    assert float(apart.min()) > float(nearest_to(before.fresh, before.ordered).min()) * 0.5
    assert re.search(r"copies of others.*: 20\.", " ".join(pictures.remarks))


def test_what_copies_leave_open_is_filled_up(tmp_path: Path) -> None:
    for number in range(1200):
        natural(number % 600, 8).save(tmp_path / f"{number:04d}.png")
    source = open_source(str(tmp_path))
    pictures = load_pictures(source, settings("a", 960, sizes=(2, 200), channels=3))
    assert len(pictures.ordered) == 400
    assert len({picture.numpy().tobytes() for picture in pictures.ordered}) == 400
    assert float(nearest_to(pictures.fresh, pictures.ordered).min()) > 0


def test_a_set_without_variance_is_refused(tmp_path: Path) -> None:
    for i in range(250):
        Image.fromarray(np.full((8, 8), 40_000 + i % 3, np.uint16)).save(tmp_path / f"{i}.png")
    source = open_source(str(tmp_path))
    with pytest.raises(
        UsageError, match=r"copies of others.*: 249\. Pictures of one colour only: 1\."
    ):
        load_pictures(source, settings("a", 150, sizes=(2,), channels=1))


def test_grey_of_16_bits_is_what_8_bits_are(tmp_path: Path) -> None:
    read = {}
    for way in ("16 bits", "8 bits"):
        folder = tmp_path / way
        folder.mkdir()
        for number in range(220):
            save_again(natural(number).convert("L"), folder / f"{number:03d}.png", way)
        source = open_source(str(folder))
        assert source.channels == 1
        read[way] = load_pictures(source, settings("a", 120, sizes=(2, 8), channels=1))
    assert read["16 bits"].sha256 == read["8 bits"].sha256
    assert float(read["8 bits"].ordered.float().std()) > 20


def test_what_a_folder_holds_beside_pictures_is_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", 250)
    (folder / "x.psd").write_bytes(b"8BPS" + bytes(40))
    (folder / "runs" / "a-boat").mkdir(parents=True)
    (folder / "runs" / "a-boat" / "identity.json").write_text('{"prompt": "", "weights": ""}')
    (folder / "runs" / "a-boat" / "0.png").write_bytes(png(3))
    source = open_source(str(folder))
    assert (source.train, source.fresh) == (150, 100)
    pictures = load_pictures(source, settings("a", 150, channels=1))
    said = " ".join(pictures.remarks)
    assert "x.psd (a Photoshop file)" in said
    assert "runs/a-boat" in said


@pytest.mark.parametrize(("count", "said"), [(200, "100 of 200 pictures, more than"), (600, "")])
def test_holding_out_more_than_a_fifth_is_told(tmp_path: Path, count: int, said: str) -> None:
    remarks = " ".join(open_source(str(folder_of(tmp_path / "a", count))).remarks)
    assert said in remarks
    assert ("Held out" in remarks) == bool(said)


def test_too_few_held_out_pictures_are_refused(tmp_path: Path) -> None:
    source = open_source(str(folder_of(tmp_path / "a", 90)))
    assert (source.train, source.fresh) == (0, 90)
    with pytest.raises(UsageError, match="90 to hold"):
        load_pictures(source, settings("a", 80, sizes=(2,), channels=1))


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", 250)
    for i in range(40):
        (folder / f"{i:04d}.png").write_bytes(b"no picture")
    with pytest.raises(ReferenceFolderError, match=r"40 of 250 pictures .*00\d\d\.png.* more"):
        open_source(str(folder))
    for i in range(40):
        (folder / f"{i:04d}.png").write_bytes(png(i)[:45])
    source = open_source(str(folder))
    with pytest.raises(ReferenceFolderError, match=r"of 150 pictures .*00\d\d\.png.* more"):
        load_pictures(source, settings("a", source.train, sizes=(2, source.train)))


def test_memory_that_ends_names_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(str(folder_of(tmp_path / "a", 250)))

    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("small_scale.models.pictures.crop", fails)
    with pytest.raises(ResourceError, match=r"not enough memory to read \d+\.png"):
        load_pictures(source, settings("a", 150, channels=1))


@pytest.mark.parametrize("what", ["empty", "missing", "text"])
def test_what_holds_no_pictures_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "empty":
        path.mkdir()
    elif what == "text":
        path.write_text("no pictures")
    with pytest.raises((UsageError, ReferenceFolderError), match=r"parquet file"):
        open_source(str(path))


@pytest.mark.skipif(not os.environ.get("M2G_DATA"), reason="M2G_DATA names no data sets")
def test_mnist_itself() -> None:
    source = open_source("mnist")
    assert (source.train, source.fresh, source.channels) == (60_000, 10_000, 1)
    pictures = load_pictures(source, settings("mnist", source.train, side=16, sizes=(2, 100)))
    assert 0.1 < float(np.mean(pictures.training(100).numpy() / 255)) < 0.2
