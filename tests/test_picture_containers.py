"""Pictures in tables, archives and lists: all of them, their captions, and what is not read."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from m2g_audit.errors import ReferenceFolderError
from m2g_audit.picture_containers import _Stretch
from m2g_audit.picture_folder import find_pictures
from m2g_audit.prompts import read_prompts
from m2g_audit.reference import load_folder, scan
from small_scale.pictures import open_source
from tests.test_reference import HalvingPipeline

CAPTIONS = ["a red barn", "a boat", "a field"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))


def encoded(number: int, form: str = "PNG") -> bytes:
    levels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format=form)
    return buffer.getvalue()


def as_folder(folder: Path) -> Path:
    folder.mkdir()
    for i, caption in enumerate(CAPTIONS):
        (folder / f"{i}.png").write_bytes(encoded(i))
        (folder / f"{i}.txt").write_text(caption)
    return folder


def as_table(folder: Path) -> Path:
    folder.mkdir()
    pictures = [{"bytes": encoded(i), "path": f"{i}.png"} for i in range(3)]
    table = pa.table({"image": pictures, "text": CAPTIONS, "mask": [b"\xff"] * 3})
    parquet.write_table(table, folder / "train.parquet", row_group_size=2)
    return folder / "train.parquet"


def as_bytes(folder: Path) -> Path:
    folder.mkdir()
    table = pa.table({"jpg": [encoded(i) for i in range(3)], "caption": CAPTIONS})
    parquet.write_table(table, folder / "train.parquet")
    return folder / "train.parquet"


def as_archive(folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "00000.tar", "w") as archive:
        for i, caption in enumerate(CAPTIONS):
            add(archive, f"{i}.json", json.dumps({"caption": caption}).encode())
            add(archive, f"{i}.png", encoded(i))
            add(archive, f"{i}.cls", b"7")
    return folder / "00000.tar"


def as_lines(folder: Path) -> Path:
    as_folder(folder)
    (folder / "list.txt").write_text("\n".join(["0.png", str(folder / "1.png"), "2.png", "0.png"]))
    return folder / "list.txt"


def as_rows(folder: Path) -> Path:
    inner = as_folder(folder)
    for file in inner.glob("*.txt"):
        file.unlink()
    rows = [{"file_name": f"{i}.png", "text": caption} for i, caption in enumerate(CAPTIONS)]
    (folder / "list.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder / "list.jsonl"


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


WAYS = [as_folder, as_table, as_bytes, as_archive, as_lines, as_rows]


@pytest.mark.parametrize("make", WAYS, ids=lambda make: make.__name__)
def test_the_same_pictures_with_their_captions(make: object, tmp_path: Path) -> None:
    source = make(tmp_path / "set")  # type: ignore[operator]
    contents = scan(source, flipped=True)
    reference = load_folder(contents, HalvingPipeline())
    plain = load_folder(scan(as_folder(tmp_path / "plain"), flipped=True), HalvingPipeline())
    assert torch.equal(reference.images[0:6], plain.images[0:6])
    assert reference.captions == plain.captions == [c for c in CAPTIONS for _ in range(2)]
    assert contents.found.unread == ()
    assert len(set(reference.names)) == 6


@pytest.mark.parametrize("make", [as_table, as_archive], ids=lambda make: make.__name__)
def test_captions_in_them_are_a_list_of_prompts(make: object, tmp_path: Path) -> None:
    make(tmp_path / "set")  # type: ignore[operator]
    assert [entry.prompt for entry in read_prompts(tmp_path / "set")] == CAPTIONS


def test_an_archive_can_be_trained_on(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i in range(150):
            add(archive, f"{i}.png", encoded(i))
    source = open_source(str(tmp_path / "a.tar"))
    assert (source.train, source.fresh) == (50, 100)
    assert source.picture(3, fresh=False).size == (8, 8)


def test_a_folder_of_shards_is_read_whole(tmp_path: Path) -> None:
    as_archive(tmp_path / "set")
    (tmp_path / "set" / "x.png").write_bytes(encoded(9))
    table = pa.table({"image": [{"bytes": encoded(4), "path": None}]})
    parquet.write_table(table, tmp_path / "set" / "more.parquet")
    found = find_pictures(tmp_path / "set")
    assert [file.name for file in found.files] == [
        "00000.tar/0.png",
        "00000.tar/1.png",
        "00000.tar/2.png",
        "more.parquet/row 1",
        "x.png",
    ]


def test_what_an_archive_holds_besides_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "0.png", encoded(0))
        add(archive, "1.psd", b"8BPS" + bytes(40))
        add(archive, "2.jpg", b"not a picture")
        add(archive, ".hidden.png", b"no")
        add(archive, "3.npy", b"\x93NUMPY")
    found = find_pictures(tmp_path / "a.tar")
    assert [file.name for file in found.files] == ["a.tar/0.png"]
    assert found.unread == ("a.tar/1.psd (a Photoshop file)",)
    assert found.broken[0].startswith("a.tar/2.jpg (")
    with pytest.raises(ReferenceFolderError, match=r"1 of 2 pictures .*a\.tar/2\.jpg"):
        scan(tmp_path / "a.tar")


def test_a_table_may_name_files_beside_it_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "outside.png").write_bytes(encoded(1))
    (tmp_path / "set" / "a.png").write_bytes(encoded(0))
    paths = ["a.png", "../outside.png", str(tmp_path / "outside.png"), None]
    table = pa.table({"image": [{"bytes": None, "path": path} for path in paths]})
    parquet.write_table(table, tmp_path / "set" / "t.parquet")
    found = find_pictures(tmp_path / "set" / "t.parquet")
    assert [file.name for file in found.files] == ["t.parquet/row 1"]
    assert [broken.split(" (")[0] for broken in found.broken] == [
        "t.parquet/row 2",
        "t.parquet/row 3",
        "t.parquet/row 4",
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("list.csv", "x,y\n1,2\n", "row 1 names no picture"),
        ("list.jsonl", "{", "can't be read"),
        ("list.txt", "nowhere.png\n", "1 of 1 pictures .*nowhere.png .there is no such file"),
        ("list.txt", "", "no pictures"),
        ("a.tar", bytes(257) + b"ustar" + bytes(300), "can't be read|no pictures"),
        ("a.parquet", b"PAR1 and no more", "can't be read"),
        ("a.md", "text", "a parquet file, a tar archive"),
    ],
)
def test_files_without_pictures_are_refused(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ReferenceFolderError, match=said):
        scan(tmp_path / name)


def test_an_archive_that_became_shorter_is_not_read_as_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"short")
    with pytest.raises(OSError, match="shorter than it was"):
        _Stretch(3, 10).read(tmp_path / "a.tar")
