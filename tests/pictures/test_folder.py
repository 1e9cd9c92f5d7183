"""What lies in a folder of pictures: read by content, and whatever is not read is named."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2g_audit.errors import ReferenceFolderError
from m2g_audit.pictures.folder import PictureFolder, find_pictures


def save(path: Path, number: int = 0, format_: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(levels).save(path, format=format_)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "set" / "a.png").parent


def names(found: PictureFolder) -> list[str]:
    return [file.name for file in found.files]


def test_content_decides_and_not_the_name(folder: Path) -> None:
    save(folder / "b.avif")
    save(folder / "c.gif")
    save(folder / "d", format_="JPEG")
    save(folder / "e.txt", format_="WEBP")
    save(folder / "f.png.bak", format_="PNG")
    save(folder / "g.JPG", format_="PNG")
    found = find_pictures(folder)
    assert names(found) == ["a.png", "b.avif", "c.gif", "d", "e.txt", "f.png.bak", "g.JPG"]
    assert (found.unread, found.broken, found.own) == ((), (), ())
    assert found.files[3].header.format == "JPEG"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"a photograph, 8k"),
        ("b.txt", "été".encode("latin-1")),
        ("a.caption", b"%! not a program"),
        ("metadata.jsonl", b'{"file_name": "a.png", "text": "a boat"}\n'),
        ("metadata.csv", b"file_name,text\na.png,a boat\n"),
        ("a.npz", b"PK\x03\x04" + bytes(30)),
        ("README.md", "# Bilder \N{SAILBOAT}\r\n".encode()),
        ("LICENSE", b"CC BY 4.0\f\n"),
        ("train.py", b"import torch\n"),
        ("empty", b""),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(30)),
        (".DS_Store", b"\0\0\0\1Bud1" + bytes(30)),
        (".hidden/b.png", b"\x89PNG"),
        ("._a.png", b"\0\5\x16\7" + bytes(30)),
    ],
)
def test_captions_tables_and_hidden_things_are_no_pictures(
    folder: Path, name: str, content: bytes
) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    found = find_pictures(folder)
    assert names(found) == ["a.png"]
    assert (found.unread, found.broken, found.own) == ((), (), ())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("b.heif2", b"\0\0\0\x18ftypmif1" + bytes(40), "HEIC"),
        ("b.psd", b"8BPS\0\1" + bytes(40), "a Photoshop file"),
        ("b.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        ("b.xml", b"<?xml version='1.0'?><svg/>", "no picture in a format that is read"),
        ("b.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        ("b.pdf", b"%PDF-1.7\n\xe2\xe3\xcf\xd3", "a PDF"),
        ("b.mp4", b"\0\0\0\x18ftypisom" + bytes(40), "a video"),
        ("b.zip", b"PK\x03\x04" + bytes(40), "a ZIP archive"),
        ("train.parquet", b"PAR1" + bytes(30), "a parquet file that is broken"),
        ("00000.tar", bytes(257) + b"ustar" + bytes(250), "a tar archive"),
        ("b.bin", bytes(range(256)), "no picture in a format that is read"),
    ],
)
def test_what_may_hold_pictures_and_is_not_read_is_named(
    folder: Path, name: str, content: bytes, said: str
) -> None:
    (folder / name).write_bytes(content)
    found = find_pictures(folder)
    assert names(found) == ["a.png"]
    [unread] = found.unread
    assert unread.startswith(f"{name} (")
    assert said in unread


def test_a_table_of_pictures_is_looked_into_and_one_of_texts_is_not(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    picture = {"bytes": (folder / "a.png").read_bytes(), "path": "a.png"}
    parquet.write_table(pa.table({"image": [picture]}), folder / "train.parquet")
    parquet.write_table(pa.table({"text": ["a boat"]}), folder / "metadata.parquet")
    found = find_pictures(folder)
    assert (names(found)[-1], found.unread) == ("train.parquet/row 1", ())


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0\n", b"text"])
def test_a_file_that_promises_a_picture_and_holds_none_is_broken(
    folder: Path, content: bytes
) -> None:
    (folder / "b.jpeg").write_bytes(content)
    found = find_pictures(folder)
    assert names(found) == ["a.png"]
    assert [name.split(" (")[0] for name in found.broken] == ["b.jpeg"]


def test_links_are_followed_and_loops_end(folder: Path, tmp_path: Path) -> None:
    elsewhere = save(tmp_path / "elsewhere" / "b.png", 1).parent
    save(elsewhere / "deep" / "c.png", 2)
    (elsewhere / "back").symlink_to(folder, target_is_directory=True)
    (elsewhere / "itself").symlink_to(elsewhere / "itself")
    (folder / "link").symlink_to(elsewhere, target_is_directory=True)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "one.png").symlink_to(elsewhere / "b.png")
    found = find_pictures(folder)
    assert names(found) == ["a.png", "link/b.png", "link/deep/c.png", "one.png"]
    assert found.unread == ("link/itself (a link that leads nowhere)",)


def test_a_folder_keeps_its_own_name_beside_a_link_to_it(folder: Path) -> None:
    save(folder / "z" / "b.png", 1)
    (folder / "a-link").symlink_to(folder / "z", target_is_directory=True)
    assert names(find_pictures(folder)) == ["a.png", "z/b.png"]


def test_many_links_cost_little(folder: Path) -> None:
    for depth in range(40):
        (folder / f"d{depth}").mkdir()
        for twin in "xy":
            (folder / f"d{depth}" / twin).symlink_to(
                folder / f"d{depth + 1}", target_is_directory=True
            )
    save(folder / "d40" / "b.png", 1)
    assert len(find_pictures(folder).files) == 2


def test_links_that_lead_nowhere_and_pipes_are_named(folder: Path) -> None:
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    found = find_pictures(folder)
    assert found.unread == (
        "gone.png (a link that leads nowhere)",
        "pipe.png (neither a file nor a folder)",
    )


def test_a_folder_inside_that_can_not_be_read_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder / "closed" / "b.png", 1)
    plain = os.scandir

    def refused(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", refused)
    found = find_pictures(folder)
    assert names(found) == ["a.png"]
    assert found.unread == ("closed (Permission denied)",)
    with pytest.raises(ReferenceFolderError, match=r"Can't read .*closed: Permission denied"):
        find_pictures(folder / "closed")


RUN = {"prompt": "a boat", "model": "pocket", "weights": "00", "seeds": 8}


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        ("identity.json", RUN),
        ("identity.json", {"kind": "batch", "weights": "00", "prompts": "11"}),
        ("identity.json", {"command": "toy", "seed": 0}),
        ("settings.json", {"preset": "desk", "network": {}, "synthesis": {}, "data": "x"}),
    ],
)
def test_results_of_this_program_are_left_out(
    folder: Path, marker: str, content: dict[str, object]
) -> None:
    made = save(folder / "runs" / "a-boat" / "images" / "0000.png", 1).parent.parent
    (made / marker).write_text(json.dumps(content))
    found = find_pictures(folder)
    assert names(found) == ["a.png"]
    assert found.own == ("runs/a-boat",)
    for inside in (made, made / "images"):
        with pytest.raises(ReferenceFolderError, match="a folder of this program's results"):
            find_pictures(inside)


@pytest.mark.parametrize("content", ["{}", "[]", "not JSON", "[" * 100_000, '{"name": "Ann"}'])
def test_an_identity_of_something_else_is_no_run(folder: Path, content: str) -> None:
    save(folder / "people" / "b.png", 1)
    (folder / "people" / "identity.json").write_text(content)
    found = find_pictures(folder)
    assert (names(found), found.own) == (["a.png", "people/b.png"], ())


def test_the_chosen_out_is_left_out(folder: Path) -> None:
    save(folder / "out" / "b.png", 1)
    assert find_pictures(folder, [folder / "out"]).own == ("out",)
    (folder / "link").symlink_to(folder / "out", target_is_directory=True)
    found = find_pictures(folder, [folder / "link", folder / "not made yet"])
    assert (names(found), found.own) == (["a.png"], ("out",))


def test_a_folder_with_nothing_to_read_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "b.psd").write_bytes(b"8BPS" + bytes(40))
    with pytest.raises(ReferenceFolderError, match=r"no pictures .*JPEG.*b\.psd \(a Photoshop"):
        find_pictures(tmp_path)
