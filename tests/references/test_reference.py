"""Reference pictures are what training saw; folders that can't be used are refused by name."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import set_up
from m2g_audit.errors import OutputError, ReferenceFolderError, ResourceError
from m2g_audit.pictures.decoding import Reading, crop
from m2g_audit.records.vocabulary import Pages
from m2g_audit.references.reference import ReferenceSet, embed_stored, load_folder, scan
from m2g_audit.references.reference_files import describe, refuse_unread, remarks
from m2g_audit.similarity import Metric, load_metric


@dataclass(frozen=True)
class Identity:
    sha256: str = "00"
    dtype: str = "float32"
    configuration: dict[str, Any] = field(default_factory=dict)
    configuration_sha256: str = ""


class HalvingPipeline:
    """A VAE whose round trip darkens a picture to half, and counts how many it was given."""

    image_size = (8, 8)

    def __init__(self, sha256: str = "00", **configuration: Any) -> None:
        self.identity = Identity(sha256, configuration=configuration)
        self.seen = 0

    def round_trip(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images / 2


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path / "pictures"
    (path / "inside").mkdir(parents=True)
    for name, shape in (("b.png", (8, 8)), ("a.jpg", (16, 12)), ("inside/c.webp", (9, 20))):
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(path / name, quality=90)
    (path / "notes.txt").write_text("not a picture")
    return path


@given(st.integers(4, 40), st.integers(4, 40), st.integers(4, 24))
def test_crop_is_that_of_training(width: int, height: int, size: int) -> None:
    levels = np.random.default_rng(width * 41 + height).integers(0, 256, (height, width, 3))
    picture = Image.fromarray(levels.astype(np.uint8))
    expected = CenterCrop(size)(Resize(size, InterpolationMode.BILINEAR)(picture))
    assert np.array_equal(crop(picture, (size, size)), expected)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 24), st.integers(1, 24))
def test_any_picture_fits_any_size(width: int, height: int, rows: int, columns: int) -> None:
    assert crop(Image.new("RGB", (width, height)), (rows, columns)).size == (columns, rows)


def test_pictures_go_through_the_vae(folder: Path) -> None:
    reference = load_folder(scan(folder), HalvingPipeline())
    assert list(reference.names) == ["a.jpg", "b.png", "inside/c.webp"]
    assert not reference.complete
    original = np.array(Image.open(folder / "b.png")).transpose(2, 0, 1)
    assert np.abs(reference.images[1:2][0].numpy() - original / 2).max() <= 0.5


def test_mirrored_copies_are_added(folder: Path) -> None:
    reference = load_folder(scan(folder, flipped=True), HalvingPipeline())
    assert list(reference.names)[:2] == ["a.jpg", "a.jpg (mirrored)"]
    assert len(reference.names) == 6
    images = reference.images[0:6]
    assert torch.equal(images[1], images[0].flip(-1))


def test_a_second_audit_repeats_no_round_trip(folder: Path) -> None:
    first = load_folder(scan(folder), HalvingPipeline())
    pipeline = HalvingPipeline()
    again = load_folder(scan(folder), pipeline)
    assert pipeline.seen == 0
    assert torch.equal(first.images[0:3], again.images[0:3])
    assert first.sha256 == again.sha256
    Image.new("RGB", (8, 8), "red").save(folder / "d.png")
    assert load_folder(scan(folder), pipeline).sha256 != first.sha256
    assert pipeline.seen == 1
    other_vae = HalvingPipeline("01")
    load_folder(scan(folder), other_vae)
    assert other_vae.seen == 4


def test_round_trips_belong_to_the_vaes_configuration_and_no_other(folder: Path) -> None:
    vae, scheduler = "vae/config.json", "scheduler/scheduler_config.json"
    before = {vae: {"scaling_factor": 0.18}, scheduler: {"prediction_type": "epsilon"}}
    load_folder(scan(folder), HalvingPipeline(**before))
    same_vae = HalvingPipeline(**{**before, scheduler: {"prediction_type": "v_prediction"}})
    load_folder(scan(folder), same_vae)
    assert same_vae.seen == 0
    other_vae = HalvingPipeline(**{**before, vae: {"scaling_factor": 0.13}})
    load_folder(scan(folder), other_vae)
    assert other_vae.seen == 3


def test_progress_counts_what_was_at_hand(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    load_folder(
        scan(folder), HalvingPipeline(), on_progress=lambda *c: calls.append(c), batch_size=2
    )
    assert calls == [(0, 3), (2, 3), (3, 3)]


def test_missing_empty_and_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReferenceFolderError, match="There is no folder"):
        scan(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReferenceFolderError, match="no pictures"):
        scan(tmp_path / "empty")
    (tmp_path / "one.png").write_bytes(b"")
    with pytest.raises(ReferenceFolderError, match="is a file"):
        scan(tmp_path / "one.png")


@pytest.mark.parametrize("length", [0, 20])
def test_files_that_are_no_pictures_are_named(folder: Path, length: int) -> None:
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:length])
    (folder / "x.jpg").write_text("no picture")
    with pytest.raises(ReferenceFolderError, match=r"2 of 4 pictures .*b\.png.*x\.jpg"):
        scan(folder)


def test_half_pictures_are_named_and_the_others_kept(folder: Path) -> None:
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:60])
    pipeline = HalvingPipeline()
    with pytest.raises(ReferenceFolderError, match=r"1 of 3 pictures .*b\.png"):
        load_folder(scan(folder, flipped=True), pipeline)
    assert pipeline.seen == 4
    (folder / "b.png").unlink()
    load_folder(scan(folder, flipped=True), pipeline)
    assert pipeline.seen == 4


@given(
    st.binary(max_size=200), st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b""])
)
def test_any_broken_bytes_are_refused_by_name(
    tmp_path_factory, content: bytes, start: bytes
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "x.png").write_bytes(start + content)
    with pytest.raises(ReferenceFolderError, match=r"x\.png"):
        load_folder(scan(folder), HalvingPipeline())


def test_an_unwritable_cache_is_said(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the cache should be")
    with pytest.raises(OutputError, match="M2G_CACHE"):
        load_folder(scan(folder), HalvingPipeline())


def page(level: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (level, 0, level))


def two_pages(path: Path) -> None:
    page(60).save(path, save_all=True, append_images=[page(120)])


def test_pages_are_read_where_training_saw_them(folder: Path) -> None:
    two_pages(folder / "t.tif")
    first = scan(folder)
    assert [entry.name for entry in first.entries][3:] == ["t.tif"]
    contents = scan(folder, flipped=True, reading=Reading(pages="all"))
    reference = load_folder(contents, HalvingPipeline())
    assert list(reference.names)[6:] == [
        "t.tif",
        "t.tif (mirrored)",
        "t.tif (page 2)",
        "t.tif (page 2) (mirrored)",
    ]
    assert reference.images[6:10][:, 0, 0, 0].tolist() == [30, 30, 60, 60]
    assert scan(folder, reading=Reading(pages="first")).sha256 == first.sha256 != contents.sha256


def test_more_pages_than_a_file_can_have_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_pages(folder / "t.tif")
    monkeypatch.setattr("m2g_audit.references.reference._MOST_PAGES", 1)
    assert len(scan(folder).entries) == 4
    with pytest.raises(ReferenceFolderError, match=r"t\.tif \(it says that it has 2 pages"):
        scan(folder, reading=Reading(pages="all"))


def test_names_can_not_steer_the_terminal(folder: Path) -> None:
    (folder / "x\x1b]0;title\x07.psd").write_bytes(b"8BPS" + bytes(40))
    with pytest.raises(ReferenceFolderError) as refused:
        refuse_unread(scan(folder))
    assert str(refused.value).isprintable()


def test_ways_of_reading_are_kept_apart(folder: Path) -> None:
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.save(folder / "t.png")
    seen = {}
    for ground in ("drop", "white", "black"):
        contents = scan(folder, reading=Reading(transparency=ground))  # type: ignore[arg-type]
        reference = load_folder(contents, HalvingPipeline())
        seen[ground] = (int(reference.images[3:4].max()), reference.sha256)
    assert [level for level, _ in seen.values()] == [0, 128, 0]
    assert len({sha256 for _, sha256 in seen.values()}) == 3


def test_what_was_seen_of_pixels_is_kept_with_the_round_trip(folder: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(folder / "d.png")
    Image.new("RGB", (8, 8), "red").save(folder / "e.bmp")
    (folder / "f.jpg").write_bytes((folder / "a.jpg").read_bytes())
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 900).save(folder / "g.png")
    Image.new("RGBA", (8, 8), (1, 2, 3, 0)).save(folder / "h.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 8), "blue").save(folder / "i.jpg", exif=exif)
    for _ in range(2):
        contents = scan(folder, flipped=True)
        load_folder(contents, HalvingPipeline())
        files = describe(contents, HalvingPipeline())
        assert files.formats == {"JPEG": 3, "PNG": 4, "WEBP": 1, "BMP": 1}
        assert (files.files, files.duplicates, files.constant) == (9, 2, 4)
        assert (files.turned, files.transparent, files.scaled) == (1, 1, 1)
    said = " ".join(remarks(files))
    assert "equal another one of it, pixel by pixel: 2." in said
    assert "1 turned as their EXIF says" in said


def test_nothing_is_said_of_plain_pictures(folder: Path) -> None:
    contents = scan(folder)
    load_folder(contents, HalvingPipeline())
    files = describe(contents, HalvingPipeline())
    assert (files.unread, files.own, remarks(files)) == (0, [], [])


@pytest.mark.parametrize("what", ["a file", "a page", "a folder"])
def test_a_complete_reference_is_read_whole_or_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "a file":
        (folder / "x.psd").write_bytes(b"8BPS" + bytes(40))
    elif what == "a page":
        two_pages(folder / "x.tif")
    else:
        (folder / "x").symlink_to(folder / "nowhere", target_is_directory=True)
    options = AuditOptions(model="none", reference=str(folder), reference_complete=True)
    with pytest.raises(ReferenceFolderError, match=r"not all in it is read \(1 left\): x"):
        set_up(options)
    contents = scan(folder)
    load_folder(contents, HalvingPipeline())
    files = describe(contents, HalvingPipeline())
    assert files.unread == 1
    assert "copies of the rest are called new: x" in remarks(files)[0]


@pytest.mark.parametrize("pages", ["first", "all"])
def test_pages_are_no_hole_once_training_is_known(folder: Path, pages: Pages) -> None:
    two_pages(folder / "x.tif")
    refuse_unread(scan(folder, reading=Reading(pages=pages)))


def test_the_cache_is_no_part_of_the_reference(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2G_CACHE", str(folder / "kept"))
    first = scan(folder)
    load_folder(first, HalvingPipeline())
    again = scan(folder)
    assert again.sha256 == first.sha256
    assert again.found.own == ("kept",)


def test_memory_that_ends_names_the_picture(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("m2g_audit.references.reference.decode", fails)
    with pytest.raises(ResourceError, match=r"not enough memory to read .*a\.jpg"):
        load_folder(scan(folder), HalvingPipeline())


@pytest.mark.parametrize("n", [1, 5, 2500])
def test_nearest_is_that_of_all_pairs(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    queries = torch.randint(0, 256, (4, 3, 8, 8), generator=generator, dtype=torch.uint8)
    queries[0] = images[-1]
    metric = load_metric("l2")
    reference = ReferenceSet(images, [str(i) for i in range(n)])
    distances, indices = reference.nearest(metric, queries.float() / 255)
    pairs = (queries.double()[:, None] - images.double()[None]).flatten(2) / 255
    expected = pairs.square().mean(-1).sqrt().min(1)
    assert distances == pytest.approx(expected.values.tolist(), abs=1e-6)
    assert indices == expected.indices.tolist()
    assert distances[0] == 0


class CountedPictures:
    """Random pictures, and how many were read."""

    read = 0

    def __len__(self) -> int:
        return 2500

    def __getitem__(self, rows: slice) -> Tensor:
        numbers = range(*rows.indices(len(self)))
        self.read += len(numbers)
        return torch.stack([torch.full((3, 2, 2), n % 256, dtype=torch.uint8) for n in numbers])


@pytest.mark.parametrize(
    ("room", "again", "equal"), [(2**30, 0, 0), (60_000, 2500 - 1024, 6), (0, 2500, 10)]
)
def test_pictures_of_a_second_prompt_are_compared_with_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, room: int, again: int, equal: int
) -> None:
    monkeypatch.setattr("m2g_audit.references.reference._KEPT_BYTES", room)
    monkeypatch.setattr("m2g_audit.references.reference._CHUNK_BYTES", 4 * 12 * 1024)
    pictures = CountedPictures()
    reference = ReferenceSet(pictures, [str(n) for n in range(2500)])
    queries = torch.full((1, 3, 2, 2), 77 / 255)
    first = reference.nearest(load_metric("l2"), queries)
    # One more, whose size says how many make a chunk, and what is compared again.
    assert (first, pictures.read) == (([0.0], [77]), 2501 + equal)
    assert reference.nearest(load_metric("l2"), queries) == first
    assert pictures.read == 2501 + again + 2 * equal


class MeanColour(Metric):
    name = "mean_colour"
    calls = 0

    def _embed(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images.mean((2, 3))[:, None]


def test_small_embeddings_are_kept_by_content() -> None:
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    metric = MeanColour()
    first = embed_stored(metric, images)
    assert torch.equal(embed_stored(metric, images.clone()), first)
    assert metric.calls == 1
    embed_stored(metric, images.flip(0))
    assert metric.calls == 2


def test_large_embeddings_are_not_kept(cache: Path) -> None:
    embed_stored(load_metric("l2"), torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert not cache.exists()
