"""The folder of a batch: whole lines whatever ends a writer, one owner for each prompt."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.errors import OutputError, UsageError
from m2g_audit.prompts import PromptList, from_python, prompt_id
from m2g_audit.store.batch_directory import (
    DAMAGED_FILE,
    RECORDS_FILE,
    BatchDirectory,
    RecordLog,
)
from tests.support.batch_records import IDENTITY, record

LISTED = from_python(["a kite", "a dog", "a cat"])


def filled(folder: Path, *prompts: str) -> RecordLog:
    folder.mkdir(exist_ok=True)
    log = RecordLog(folder)
    for prompt in prompts:
        log.append(record(prompt))
    return log


def prompts_of(log: RecordLog, *prompts: str) -> list[str]:
    return [found.prompt for found in log.get([prompt_id(prompt) for prompt in prompts])]


# -- the log


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    log = filled(tmp_path, "a kite", "a dog")
    assert list(log.get([prompt_id("a dog")])) == [record("a dog")]
    assert prompts_of(log, "a dog", "a cat", "a kite") == ["a dog", "a kite"]
    assert prompts_of(RecordLog(tmp_path / "nowhere"), "a kite") == []


def test_the_last_record_of_a_prompt_counts(tmp_path: Path) -> None:
    log = filled(tmp_path, "a kite")
    log.append(record("a dog", failed=True))
    log.refresh()
    assert log.finished == {prompt_id("a kite")}
    assert log.failures == {prompt_id("a dog"): 1}
    log.append(record("a dog", seed=7))
    [dog] = log.get([prompt_id("a dog")])
    assert (dog.error, dog.settings.seed) == (None, 7)
    log.compact()
    assert len((tmp_path / RECORDS_FILE).read_bytes().splitlines()) == 2
    assert prompts_of(log, "a kite", "a dog") == ["a kite", "a dog"]


def test_another_process_sees_what_is_added_and_what_is_compacted(tmp_path: Path) -> None:
    ours, theirs = filled(tmp_path, "a kite"), RecordLog(tmp_path)
    theirs.refresh()
    ours.append(record("a dog", failed=True))
    ours.append(record("a dog"))
    theirs.refresh()
    assert theirs.finished == {prompt_id("a kite"), prompt_id("a dog")}
    iterator = theirs.get([prompt_id("a kite"), prompt_id("a dog")])
    assert next(iterator).prompt == "a kite"
    ours.compact()
    assert next(iterator).prompt == "a dog"
    assert prompts_of(theirs, "a dog") == ["a dog"]


def test_a_tail_cut_anywhere_is_taken_out_and_nothing_else(tmp_path: Path) -> None:
    log = filled(tmp_path / "log", "a kite", "a dog")
    whole = log.path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in (first + 1, first + 1000, len(whole) - 2, len(whole) - 1):
        log.path.write_bytes(whole[:cut])
        damaged = log.path.with_name(DAMAGED_FILE)
        damaged.unlink(missing_ok=True)
        [said] = RecordLog(log.path.parent).repair()
        assert f"{cut - first:,} bytes" in said
        assert log.path.read_bytes() == whole[:first]
        assert damaged.read_bytes() == whole[first:cut] + b"\n"
    assert RecordLog(log.path.parent).repair() == []


def test_appending_to_a_cut_line_keeps_both_sides_whole(tmp_path: Path) -> None:
    log = filled(tmp_path, "a kite", "a dog")
    with log.path.open("r+b") as file:
        file.truncate(log.path.stat().st_size - 10)
    log.append(record("a cat"))
    assert prompts_of(RecordLog(tmp_path), "a kite", "a dog", "a cat") == ["a kite", "a cat"]
    assert log.repair() == []


@given(
    junk=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=3),
    tail=st.binary(max_size=200_000).map(lambda b: b.replace(b"\n", b"")),
)
def test_whatever_lies_between_records_is_taken_out(
    tmp_path_factory: pytest.TempPathFactory, junk: list[bytes], tail: bytes
) -> None:
    log = filled(tmp_path_factory.mktemp("log"), "a kite")
    with log.path.open("ab") as file:
        for line in junk:
            file.write(line + b"\n")
    with log.path.open("ab") as file:
        file.write(f"{record('a dog').model_dump_json()}\n".encode() + tail)
    said = RecordLog(log.path.parent).repair()
    assert len(said) == bool(junk) + bool(tail)
    assert prompts_of(RecordLog(log.path.parent), "a kite", "a dog") == ["a kite", "a dog"]
    assert len(log.path.read_bytes().splitlines()) == 2


def test_a_block_of_zeros_as_a_power_cut_leaves_it(tmp_path: Path) -> None:
    log = filled(tmp_path, "a kite")
    with log.path.open("ab") as file:
        file.write(b"\0" * 4096)
    assert len(RecordLog(tmp_path).repair()) == 1
    assert prompts_of(RecordLog(tmp_path), "a kite") == ["a kite"]


def test_a_disk_that_is_full_leaves_no_half_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(tmp_path, "a kite")
    before = log.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        log.append(record("a dog"))
    monkeypatch.undo()
    assert log.path.read_bytes() == before


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    def write(which: int) -> None:
        for i in range(10):
            RecordLog(tmp_path).append(record(f"prompt {which} {i}"))

    threads = [threading.Thread(target=write, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = RecordLog(tmp_path)
    log.refresh()
    assert len(log.finished) == 40
    assert log.repair() == []


def test_a_line_that_is_json_but_no_record_is_passed_over_and_set_aside(tmp_path: Path) -> None:
    log = filled(tmp_path, "a kite", "a dog")
    line = json.dumps({"listed": {"id": prompt_id("a kite")}, "error": None}) + "\n"
    with log.path.open("a") as file:
        file.write(line)
    assert prompts_of(log, "a kite", "a dog") == ["a dog"]
    assert log.finished == {prompt_id("a dog")}
    [said] = log.repair()
    assert "1 lines" in said
    assert log.path.with_name(DAMAGED_FILE).read_text() == line
    assert prompts_of(log, "a kite", "a dog") == ["a kite", "a dog"]
    assert RecordLog(tmp_path).repair() == []


def test_compacting_loses_no_line_that_is_no_record(tmp_path: Path) -> None:
    log = filled(tmp_path, "a kite")
    with log.path.open("ab") as file:
        file.write(b"{}\n")
    log.compact()
    assert log.path.with_name(DAMAGED_FILE).read_bytes() == b"{}\n"
    assert prompts_of(log, "a kite") == ["a kite"]


def test_records_of_another_version_are_not_set_aside(tmp_path: Path) -> None:
    log = filled(tmp_path, "a kite")
    newer = log.path.read_text().replace('"schema_version":"3.', '"schema_version":"4.')
    log.path.write_text(newer)
    with pytest.raises(OutputError, match=r"schema version 4\.\d+; this program reads 3\.x"):
        prompts_of(log, "a kite")
    assert log.repair() == []
    assert log.path.read_text() == newer


@pytest.mark.parametrize("name", ["records.jsonl", "claims", "prompts/x", "claims/x.lock"])
def test_nothing_is_written_through_links(tmp_path: Path, name: str) -> None:
    listed = from_python(["a kite"])
    run = BatchDirectory.open(tmp_path / "run", {"model": "a"}, listed).path
    if name == "claims":
        (run / "claims").rmdir()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="holds links"):
        BatchDirectory.open(run, {"model": "a"}, listed)
    assert not (tmp_path / "elsewhere").exists()


# -- claims


def test_one_owner_for_each_prompt(tmp_path: Path) -> None:
    directory = BatchDirectory.open(tmp_path, IDENTITY, LISTED)
    kite, dog, _ = directory.entries
    claim = directory.claim(kite)
    assert claim is not None
    other = BatchDirectory.open(tmp_path, IDENTITY, LISTED)
    assert other.claim(kite) is None
    assert other.claim(dog) is not None
    claim.release(settled=False)
    again = other.claim(kite)
    assert again is not None
    again.release(settled=True)
    assert not (tmp_path / "claims" / f"{kite.id}.lock").exists()


# -- the folder


def test_a_batch_is_taken_up_with_what_it_was_begun_with(tmp_path: Path) -> None:
    BatchDirectory.open(tmp_path / "run", IDENTITY, LISTED)
    BatchDirectory.open(tmp_path / "run", dict(reversed(IDENTITY.items())), LISTED)
    assert BatchDirectory.read(tmp_path / "run").entries == LISTED.entries


@pytest.mark.parametrize(
    ("identity", "listed", "said"),
    [
        ({**IDENTITY, "guidance": 4.0}, LISTED, "guidance: 3.0 there, 4.0 now"),
        ({**IDENTITY, "more": 1}, LISTED, "more: null there, 1 now"),
        (IDENTITY, from_python(["a kite", "a dog"]), "1 prompts are gone, such as “a cat”"),
        (IDENTITY, from_python(["a kite", "a dog", "a\x07b"]), "1 prompts are new, such as “a�b”"),
        (IDENTITY, from_python(["a dog", "a kite", "a cat"]), "another order"),
    ],
)
def test_other_settings_or_prompts_are_refused(
    tmp_path: Path, identity: dict[str, object], listed: PromptList, said: str
) -> None:
    BatchDirectory.open(tmp_path, IDENTITY, LISTED)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.json*")}
    with pytest.raises(UsageError) as error:
        BatchDirectory.open(tmp_path, identity, listed)
    assert said in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.json*")} == before


def test_folders_that_are_no_batch_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not a batch's folder"):
        BatchDirectory.open(tmp_path, IDENTITY, LISTED)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "mine.txt").unlink()
    (tmp_path / "identity.json").write_text('{"prompt": "a kite"}')
    with pytest.raises(UsageError, match="not a batch's folder"):
        BatchDirectory.open(tmp_path, IDENTITY, LISTED)
    with pytest.raises(OutputError, match="no folder of a batch"):
        BatchDirectory.read(tmp_path)


def test_a_folder_that_was_only_just_begun_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "prompts.jsonl").write_bytes(b"")
    (tmp_path / ".identity.json.4711.tmp").write_bytes(b'{"half')
    BatchDirectory.open(tmp_path, IDENTITY, LISTED)
    assert list(BatchDirectory.read(tmp_path).entries) == list(LISTED.entries)


def test_hostile_prompts_have_folders_inside(tmp_path: Path) -> None:
    hostile = ["../../etc/passwd", "/", "..", "nul\0", "x" * 10_000, "CON", "مرحبا"]
    directory = BatchDirectory.open(tmp_path, IDENTITY, from_python(hostile))
    folders = [directory.folder(entry) for entry in directory.entries]
    assert len(set(folders)) == len(hostile)
    for folder in folders:
        path = (tmp_path / folder).resolve()
        assert path.parent == tmp_path / "prompts"
        assert len(path.name) <= 60
