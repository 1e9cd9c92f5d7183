"""The same command on the same files is known to be done; anything else is not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from m2g_audit.audits.options import AuditOptions
from m2g_audit.store.asked import ASKED_FILE, find_finished, fingerprint, keep_asked
from m2g_audit.store.run_directory import RunDirectory
from tests.support.samples import sample_record

RECORD = sample_record()
PROMPT = RECORD.prompt


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(b"one")
    (folder / "model_index.json").write_text("{}")
    return folder


def of(model: Path, **options: Any) -> str | None:
    return fingerprint(PROMPT, AuditOptions(model=str(model), **options).named())


def finish(folder: Path, asked: str | None) -> None:
    assert asked is not None
    RunDirectory(folder, {}).save_record(RECORD)
    keep_asked(folder, asked)


def test_the_same_command_finds_its_run(model: Path, tmp_path: Path) -> None:
    asked = of(model, seeds=4)
    finish(tmp_path / "out", asked)
    assert asked is not None
    assert find_finished(PROMPT, asked, tmp_path / "out") == (tmp_path / "out", RECORD)
    assert find_finished(PROMPT, asked, tmp_path / "elsewhere") is None
    assert find_finished("another prompt", asked, tmp_path / "out") is None
    assert find_finished(PROMPT, str(of(model, seeds=5)), tmp_path / "out") is None


def test_without_a_folder_it_is_found_by_the_prompt(model: Path) -> None:
    asked = of(model)
    folder = Path("runs") / "a-print-of-the-old-harbour-12345678"
    finish(folder, asked)
    assert asked is not None
    found = find_finished(PROMPT, asked, None)
    assert (found is not None) == PROMPT.startswith("a print of the old harbour")


def test_what_completes_a_checkpoint_is_looked_at_too(model: Path, tmp_path: Path) -> None:
    (tmp_path / "merged.safetensors").write_bytes(b"weights")
    assert of(tmp_path / "merged.safetensors") is None  # only loading it says what completes it
    before = of(tmp_path / "merged.safetensors", config_from=str(model))
    assert before is not None
    (model / "weights").write_bytes(b"others")
    assert of(tmp_path / "merged.safetensors", config_from=str(model)) not in (None, before)


@pytest.mark.parametrize("what", ["model", "reference"])
@pytest.mark.parametrize("change", ["content", "time", "new file", "gone"])
def test_a_changed_file_makes_another_command(
    model: Path, tmp_path: Path, what: str, change: str
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(b"one")
    before = of(model, reference=str(pictures))
    folder = model if what == "model" else pictures
    file = next(folder.iterdir())
    if change == "content":
        file.write_bytes(b"other")
    elif change == "time":
        os.utime(file, ns=(1, 1))
    elif change == "new file":
        (folder / "new").write_bytes(b"")
    else:
        file.unlink()
    assert of(model, reference=str(pictures)) != before


def test_what_only_the_hub_knows_has_no_fingerprint() -> None:
    hub = Path("owner/name")
    assert of(hub) is None
    assert of(hub, revision="main") is None
    assert of(hub, revision="a" * 40) is not None
    assert of(hub, revision="a" * 40, base="owner/base") is None
    assert of(Path("pocket")) is not None


@pytest.mark.parametrize("content", [b"", b"other", b"\xff\xfe"])
def test_a_broken_mark_is_passed_over(model: Path, tmp_path: Path, content: bytes) -> None:
    asked = of(model)
    finish(tmp_path / "out", asked)
    (tmp_path / "out" / ASKED_FILE).write_bytes(content)
    assert find_finished(PROMPT, str(asked), tmp_path / "out") is None


def test_a_pipe_in_its_place_does_not_hang(model: Path, tmp_path: Path) -> None:
    asked = of(model)
    finish(tmp_path / "out", asked)
    (tmp_path / "out" / ASKED_FILE).unlink()
    os.mkfifo(tmp_path / "out" / ASKED_FILE)
    assert find_finished(PROMPT, str(asked), tmp_path / "out") is None
