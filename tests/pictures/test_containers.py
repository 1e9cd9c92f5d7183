"""Pictures in tables, archives and lists: all of them, their captions, and what is not read."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from m2g_audit.errors import ReferenceFolderError
from m2g_audit.pictures import containers
from m2g_audit.pictures.containers import _Stretch
from m2g_audit.pictures.folder import find_pictures
from m2g_audit.prompts import read_prompts
from m2g_audit.references.reference import load_folder, scan
from small_scale.models.pictures import open_source
from tests.support.halving import HalvingPipeline

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
        ("list.csv", 'path,x\n"' + "a" * 200_000, "can't be read"),
        ("list.jsonl", "[" * 100_000, "can't be read"),
        ("list.jsonl", '{"path": "\\ud800.png"}', "can't be read"),
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


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (pa.struct({"bytes": pa.binary(), "path": pa.string()}), "its pictures of the column more"),
        (pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()})), "of the column more"),
        (pa.string(), None),
    ],
)
def test_columns_of_pictures_that_are_not_read_are_named(
    tmp_path: Path, kind: pa.DataType, said: str | None
) -> None:
    image = [{"bytes": encoded(0), "path": None}]
    table = pa.table({"image": image, "more": pa.array([None], type=kind)})
    parquet.write_table(table, tmp_path / "t.parquet")
    found = find_pictures(tmp_path)
    assert [file.name for file in found.files] == ["t.parquet/row 1"]
    assert found.unread == ((f"t.parquet ({said})",) if said and "its" in said else found.unread)
    assert bool(found.unread) == bool(said)


def test_tables_of_arrow_with_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(0))
    tables = {
        "pictures": pa.table({"image": [{"bytes": encoded(1), "path": None}]}),
        "texts": pa.table({"text": ["a boat"]}),
    }
    for name, table in tables.items():
        arrow_stream(tmp_path / f"{name}.arrow", table)
    (tmp_path / "broken.arrow").write_bytes(b"\xff\xff\xff\xff\1")
    found = find_pictures(tmp_path)
    assert [file.name for file in found.files] == ["a.png"]
    [unread] = found.unread
    assert unread == "pictures.arrow (an Arrow table with pictures: save it as parquet)"


def arrow_stream(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)


def arrow_file(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)


@pytest.mark.parametrize("write", [arrow_stream, arrow_file], ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", ["set.arrow", "set.feather", "set"])
def test_a_table_of_arrow_is_named_with_the_way_to_one_that_is_read(
    tmp_path: Path, write: Callable[[Path, pa.Table], None], name: str
) -> None:
    file = tmp_path / name
    write(file, pa.table({"image": [{"bytes": encoded(1), "path": None}], "text": ["a boat"]}))
    with pytest.raises(ReferenceFolderError, match=r"set.* is an Arrow .* not read: in") as caught:
        find_pictures(file)
    [command] = re.findall("`(.*)`", str(caught.value))
    exec(command.replace("FILE", str(file)))
    [found] = find_pictures(Path(f"{file}.parquet")).files
    assert found.caption == "a boat"
    with found.open() as content:
        assert content.read() == encoded(1)
    write(file, pa.table({"text": ["a boat"]}))
    with pytest.raises(ReferenceFolderError, match=r"has no pictures in it\. --reference takes"):
        find_pictures(file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ReferenceFolderError, match="an Arrow table that is broken"):
        find_pictures(file)


def test_a_shard_cut_short_is_not_passed_over(tmp_path: Path) -> None:
    whole = as_table(tmp_path / "set").read_bytes()
    (tmp_path / "set" / "train-2.parquet").write_bytes(whole[:-20])
    found = find_pictures(tmp_path / "set")
    assert len(found.files) == 3
    [unread] = found.unread
    assert unread.startswith("train-2.parquet (a parquet file that is broken")


def test_more_rows_than_a_file_has_room_for_are_not_believed(tmp_path: Path) -> None:
    cells = pa.array([None], type=pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    many = pa.chunked_array([cells.take(pa.array([0] * 10**5))] * 50)
    parquet.write_table(pa.table({"image": many}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 10**5
    with pytest.raises(ReferenceFolderError, match="says that it has 5,000,000 pictures, which"):
        scan(tmp_path / "t.parquet")


def test_a_row_group_beyond_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "_MOST_IN_GROUP", 100)
    with pytest.raises(ReferenceFolderError, match=r"row groups are larger .*with smaller ones"):
        scan(as_table(tmp_path / "set"))


@pytest.mark.parametrize("make", [as_table, as_archive], ids=lambda make: make.__name__)
def test_what_was_written_anew_since_is_not_taken_for_the_old(
    make: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source: Path = make(tmp_path / "set")  # type: ignore[operator]
    old, before = scan(source), encoded
    monkeypatch.setattr(f"{__name__}.encoded", lambda number: before(number + 50))
    other: Path = make(tmp_path / "other")  # type: ignore[operator]
    source.write_bytes(other.read_bytes())
    with pytest.raises(OSError, match="has changed since it was looked into"):
        old.entries[0].file.open()
    assert scan(source).sha256 != old.sha256


# -- lists, which somebody else may have made


def test_a_list_leads_to_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(encoded(1))
    (tmp_path / "set" / "inner").mkdir(parents=True)
    for place in ("set/a.png", "set/inner/b.png"):
        (tmp_path / place).write_bytes(encoded(0))
    names = ["a.png", "inner/../inner/b.png", str(tmp_path / "set" / "a.png")]
    strange = ["../outside.png", str(tmp_path / "outside.png"), "~root/x.png", "~/x.png"]
    (tmp_path / "set" / "list.txt").write_text("\n".join(names + strange))
    found = find_pictures(tmp_path / "set" / "list.txt")
    assert [file.name for file in found.files] == names
    assert [broken.split(" (")[0] for broken in found.broken] == strange
    assert all("outside of the list's folder" in broken for broken in found.broken[:2])
    with pytest.raises(ReferenceFolderError, match=r"put the list in a folder above it"):
        scan(tmp_path / "set" / "list.txt")


def test_pictures_of_this_programs_runs_in_a_list_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "runs" / "one" / "images").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "identity.json").write_text('{"weights": 1, "prompt": 2}')
    (tmp_path / "out").mkdir()
    names = ["a.png", "runs/one/images/0000.png", "out/b.png"]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded(i))
    (tmp_path / "list.txt").write_text("\n".join(names))
    found = scan(tmp_path / "list.txt", leave_out=[tmp_path / "out"]).found
    assert ([file.name for file in found.files], found.own) == (["a.png"], ("out", "runs/one"))


def test_captions_above_the_pictures_of_a_list_are_read(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.png").write_bytes(encoded(0))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "inner/a.png", "text": "a boat"}\n')
    (tmp_path / "list.txt").write_text("inner/a.png\n")
    assert load_folder(scan(tmp_path / "list.txt"), HalvingPipeline()).captions == ["a boat"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
@pytest.mark.parametrize("name", ["list.txt", "a.parquet", "pipe"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ReferenceFolderError, match="it is a pipe, not a file"):
        scan(tmp_path / name)


def test_names_in_an_archive_fit_into_a_record(tmp_path: Path) -> None:
    with tarfile.open(
        tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1"
    ) as archive:
        add(archive, "\xe9.png", encoded(0))
    [file] = find_pictures(tmp_path / "a.tar").files
    assert file.name.encode() == "a.tar/�.png".encode()


# -- whatever the bytes are


@settings(max_examples=60)
@given(make=st.sampled_from([as_table, as_archive, as_rows]), data=st.data())
def test_broken_bytes_are_read_or_refused(
    make: object, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source: Path = make(tmp_path_factory.mktemp("x") / "set")  # type: ignore[operator]
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    source.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(ReferenceFolderError):
        load_folder(scan(source), HalvingPipeline())
    with suppress(ReferenceFolderError):
        find_pictures(source.parent)


def test_an_archive_that_became_shorter_is_not_read_as_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"short")
    with pytest.raises(OSError, match="shorter than it was"):
        _Stretch(3, 10).read(tmp_path / "a.tar")
