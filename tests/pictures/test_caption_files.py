"""Captions beside pictures: which files are read, which of two wins, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m2g_audit.errors import ReferenceFolderError
from m2g_audit.pictures.caption_files import find_captions


def folder(tmp_path: Path, *names: str, **texts: str) -> list[Path]:
    """Return the pictures of these names in a folder, with files beside them; no dots in keys."""
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    for name, text in texts.items():
        (tmp_path / name.replace("__", "/").replace("_", ".")).write_text(text, encoding="utf-8")
    return [tmp_path / name for name in names]


def captions(tmp_path: Path, pictures: list[Path]) -> dict[str, str]:
    found = find_captions(tmp_path, pictures)
    return {str(path.relative_to(tmp_path)): text for path, text in found.items()}


def test_a_text_of_the_pictures_name_is_its_caption(tmp_path: Path) -> None:
    made = folder(
        tmp_path, "a.png", "b.jpg", "c.png", a_txt=" a hill\n", b_caption="a sea", d_txt="x"
    )
    assert captions(tmp_path, made) == {"a.png": "a hill", "b.jpg": "a sea"}


def test_an_empty_text_is_no_caption(tmp_path: Path) -> None:
    made = folder(tmp_path, "a.png", a_txt=" \n")
    assert captions(tmp_path, made) == {}


def test_metadata_of_imagefolder_is_read(tmp_path: Path) -> None:
    lines = [
        {"file_name": "a.png", "text": "a hill"},
        {"file_name": "below/b.png", "caption": "a sea"},
        {"file_name": "c.png", "prompt": "a kite", "more": 3},
        {"file_name": "absent.png", "text": "nothing"},
        {"file_name": "d.png", "text": " "},
    ]
    made = folder(
        tmp_path,
        *("a.png", "below/b.png", "c.png", "d.png"),
        metadata_jsonl="\n\n".join(map(json.dumps, lines)),
    )
    assert captions(tmp_path, made) == {
        "a.png": "a hill",
        "below/b.png": "a sea",
        "c.png": "a kite",
    }


def test_metadata_may_be_a_table(tmp_path: Path) -> None:
    made = folder(tmp_path, "a.png", metadata_csv='﻿file_name,text\na.png,"a hill, green"\n')
    assert captions(tmp_path, made) == {"a.png": "a hill, green"}


def test_what_lies_nearer_to_the_picture_wins(tmp_path: Path) -> None:
    def line(name: str, text: str) -> str:
        return json.dumps({"file_name": name, "text": text})

    made = folder(
        tmp_path,
        *("below/a.png", "below/b.png", "below/c.png"),
        metadata_jsonl="\n".join(line(f"below/{n}.png", "above") for n in "abc"),
        below__metadata_jsonl="\n".join(line(f"{n}.png", "beside") for n in "ab"),
        below__a_txt="its own",
    )
    assert captions(tmp_path, made) == {
        "below/a.png": "its own",
        "below/b.png": "beside",
        "below/c.png": "above",
    }


def test_metadata_above_the_folder_is_not_looked_for(tmp_path: Path) -> None:
    folder(tmp_path, "inside/a.png", metadata_jsonl='{"file_name": "inside/a.png", "text": "x"}')
    assert find_captions(tmp_path / "inside", [tmp_path / "inside" / "a.png"]) == {}


@pytest.mark.parametrize("content", ['{"file_name": "a.png"', "[1, 2]", "3"])
def test_broken_metadata_is_refused_by_name(tmp_path: Path, content: str) -> None:
    made = folder(tmp_path, "a.png", metadata_jsonl=content)
    with pytest.raises(ReferenceFolderError, match=r"metadata\.jsonl can't be read"):
        find_captions(tmp_path, made)


def test_texts_of_other_encodings_do_not_stop_an_audit(tmp_path: Path) -> None:
    made = folder(tmp_path, "a.png")
    (tmp_path / "a.txt").write_bytes("a café".encode("latin-1"))
    assert captions(tmp_path, made) == {"a.png": "a caf�"}
