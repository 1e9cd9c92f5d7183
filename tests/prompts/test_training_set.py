"""Training sets of fine-tunes, read as trainers keep them, and the prompts that try them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from m2g_audit.errors import ReferenceFolderError, UsageError
from m2g_audit.prompts.training_set import (
    TrainingSet,
    prompts_of,
    read_training_set,
    recombine,
    shared_words,
)
from m2g_audit.records.vocabulary import PromptKind

CAPTIONS = ("zkw dog on a beach", "a photo of zkw dog in a park")


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def save(folder: Path, name: str, number: int) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(png(number))


def imagefolder(folder: Path) -> Path:
    lines = []
    for i, caption in enumerate(CAPTIONS):
        save(folder, f"{i}.png", i)
        lines.append(json.dumps({"file_name": f"{i}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def imagefolder_of_csv(folder: Path) -> Path:
    imagefolder(folder)
    (folder / "metadata.jsonl").unlink()
    rows = [f'{i}.png,"{caption}"' for i, caption in enumerate(CAPTIONS)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    return folder


def beside(folder: Path) -> Path:
    for i, caption in enumerate(CAPTIONS):
        save(folder, f"{i}.png", i)
        (folder / f"{i}.txt").write_text(f"{caption}\n")
    return folder


def kohya(folder: Path) -> Path:
    for i, caption in enumerate(CAPTIONS):
        save(folder, f"{10 * i + 1}_{caption}/{i}.png", i)
    return folder


def parquet(folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet as files

    folder.mkdir()
    images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(len(CAPTIONS))]
    table = pyarrow.table({"image": images, "text": list(CAPTIONS)})
    files.write_table(table, folder / "train.parquet")
    return folder / "train.parquet"


def webdataset(folder: Path) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "000.tar", "w") as archive:
        for i, caption in enumerate(CAPTIONS):
            for name, content in ((f"{i}.png", png(i)), (f"{i}.txt", caption.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return folder / "000.tar"


@pytest.mark.parametrize(
    "layout", [imagefolder, imagefolder_of_csv, beside, kohya, parquet, webdataset]
)
def test_every_layout_gives_pictures_and_captions(
    layout: Callable[[Path], Path], tmp_path: Path
) -> None:
    found = read_training_set(layout(tmp_path / "set"))
    assert sorted(text for text in found.captions.values() if text) == sorted(CAPTIONS)
    assert found.trigger == "zkw dog"
    listed = prompts_of(found, recombined=4)
    assert {entry.label for entry in listed} == set(get_args(PromptKind))
    own = [entry for entry in listed if entry.label == "caption"]
    assert sorted(str(entry.extra["picture"]) for entry in own) == sorted(found.captions)


def test_a_caption_beside_a_picture_wins_over_its_folders_name(tmp_path: Path) -> None:
    save(tmp_path, "10_zkw dog/a.png", 1)
    save(tmp_path, "10_zkw dog/b.png", 2)
    (tmp_path / "10_zkw dog" / "a.txt").write_text("zkw dog asleep")
    found = read_training_set(tmp_path)
    assert found.captions["10_zkw dog/a.png"] == "zkw dog asleep"
    assert found.captions["10_zkw dog/b.png"] == "zkw dog"
    assert "1 of 2 pictures have their folder's name for a caption." in found.notices


def test_the_folder_itself_may_be_one_of_kohyas(tmp_path: Path) -> None:
    save(tmp_path, "5_zkw cat/a.png", 1)
    assert set(read_training_set(tmp_path / "5_zkw cat").captions.values()) == {"zkw cat"}


def test_pictures_without_captions_have_the_trigger_for_one(tmp_path: Path) -> None:
    save(tmp_path, "a.png", 1)
    save(tmp_path, "b.png", 2)
    with pytest.raises(UsageError, match="--trigger"):
        read_training_set(tmp_path)
    found = read_training_set(tmp_path, trigger=" a photo of zkw dog ")
    assert set(found.captions.values()) == {"a photo of zkw dog"}
    listed = prompts_of(found, recombined=4)
    assert [(entry.prompt, entry.label) for entry in listed] == [
        ("a photo of zkw dog", "caption"),
        ("", "empty"),
    ]
    assert len(listed.entries[0].rows) == 2


def test_pictures_without_a_caption_are_counted_and_made_no_prompt_of(tmp_path: Path) -> None:
    imagefolder(tmp_path)
    save(tmp_path, "9.png", 9)
    found = read_training_set(tmp_path)
    assert found.captions["9.png"] is None
    assert any("1 of 3 pictures have no caption" in notice for notice in found.notices)


def test_what_is_no_training_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReferenceFolderError):
        read_training_set(tmp_path / "missing")
    with pytest.raises(ReferenceFolderError):
        read_training_set(tmp_path)
    beside(tmp_path / "set")
    (tmp_path / "set" / "0.txt").write_bytes("Zoë".encode("latin-1"))
    with pytest.raises(UsageError, match="--encoding"):
        read_training_set(tmp_path / "set")
    found = read_training_set(tmp_path / "set", encoding="latin-1")
    assert "Zoë" in found.captions.values()


def test_folders_to_leave_out_are_no_part_of_it(tmp_path: Path) -> None:
    imagefolder(tmp_path)
    save(tmp_path, "run/0.png", 7)
    assert len(read_training_set(tmp_path, leave_out=[tmp_path / "run"]).captions) == 2


@pytest.mark.parametrize(
    ("captions", "shared"),
    [
        (["a photo of zkw dog"], "zkw dog"),
        (["zkw dog", "the zkw dog, asleep"], "zkw dog"),
        (["zkw, 1girl, smile", "1girl, zkw, hat", "zkw, tree, 1girl"], "zkw"),
        (["a photo of a dog", "a photo of a cat"], None),
        (["Zkw in fog", "zkw at sea"], "Zkw"),
        (["a mill", "the sea"], None),
    ],
)
def test_shared_words(captions: list[str], shared: str | None) -> None:
    assert shared_words(captions) == shared


def test_recombined_prompts_are_none_of_the_captions() -> None:
    captions = [f"a {thing} {place}" for thing in ("dog", "ship") for place in ("at sea", "in fog")]
    assert captions[3] in recombine(captions[:3], 8)
    assert not {*captions} & {*recombine(captions, 8)}
    assert set(recombine(["zkw dog at sea", "zkw dog in fog"], 8)) == {
        "zkw dog in fog at sea",
        "zkw dog at sea in fog",
    }
    assert recombine(["zkw dog at sea"], 8) == []
    tags = ["zkw, dog, beach, sun", "zkw, cat, park, rain"]
    assert {"zkw, dog, park, rain", "zkw, cat, beach, sun"} <= {*recombine(tags, 8)}


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(st.lists(text, min_size=1, max_size=12, unique=True), st.integers(0, 6))
def test_any_captions_make_a_list_of_unlike_prompts(captions: list[str], recombined: int) -> None:
    known = {f"{i}.png": caption for i, caption in enumerate(captions) if caption.strip()}
    trigger = shared_words(list(known.values())) if known else None
    found = TrainingSet(Path("set"), {"a.png": "a b", **known}, trigger, ())
    listed = prompts_of(found, recombined=recombined)
    assert len({entry.id for entry in listed}) == len(listed)
    assert [entry.index for entry in listed] == list(range(len(listed)))
    assert sum(entry.label == "recombined" for entry in listed) <= recombined
    assert listed.entries[-1].prompt == ""
    assert prompts_of(found, recombined=recombined) == listed
