"""Many prompts at once: records are those of one-prompt audits, whatever dies on the way."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from m2g_audit.audits import generations
from m2g_audit.audits.audit import execute
from m2g_audit.audits.job import make_job
from m2g_audit.batch.batch import Batch
from m2g_audit.batch.batch_size import BatchSize
from m2g_audit.batch.tally import Tally
from m2g_audit.errors import OutputError
from m2g_audit.prompts import MAX_PROMPT, from_python, prompt_id
from m2g_audit.records.record import AuditRecord
from m2g_audit.review.summary import finish
from m2g_audit.store.batch_directory import (
    RECORDS_FILE,
    RESULTS_FILE,
    BatchDirectory,
    BatchRecord,
)
from m2g_audit.store.run_directory import RunDirectory
from tests.support.batch_work import ManyPrompts, open_batch, run_batch, work
from tests.support.hostile_texts import HOSTILE
from tests.support.setups import fake_setup

PROMPTS = ["same kite", "new dog", "half cat", "torn sail", "same harbour", "new hill"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))


def numbers(record: AuditRecord) -> dict[str, object]:
    """Return what two runs must agree on: all but the time they took."""
    return json.loads(record.model_dump_json(exclude={"timings"}))


def lines(out: Path) -> list[dict]:
    path = out / RECORDS_FILE
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def test_a_prompt_of_a_batch_is_what_an_audit_of_it_alone_gives(tmp_path: Path) -> None:
    options = {"seeds": 5, "spectrum": "fast", "batch_size": 7}
    pipeline = ManyPrompts()
    records = run_batch(tmp_path / "batch", PROMPTS, pipeline, **options)
    assert any(len(set(batch)) > 1 for batch in pipeline.batches), "no batch was shared"
    assert [record.prompt for record in records] == PROMPTS
    for record in records:
        job = make_job(fake_setup(ManyPrompts(), **options), record.prompt)
        alone_at = tmp_path / "alone" / record.listed.id
        alone = execute(job, RunDirectory.open(alone_at, job.identity))
        of_batch = tmp_path / "batch" / record.folder
        assert numbers(RunDirectory(of_batch, {}).finished()) == numbers(alone)  # type: ignore[arg-type]
        for name in ("verdict", "seeds", "attractors", "thresholds", "settings", "versions"):
            assert getattr(record, name) == getattr(alone, name)
        files = sorted(p.relative_to(alone_at) for p in alone_at.rglob("*") if p.is_file())
        assert files == sorted(p.relative_to(of_batch) for p in of_batch.rglob("*") if p.is_file())
        for file in files:
            if file.suffix == ".png" or file.name == "identity.json":
                assert (of_batch / file).read_bytes() == (alone_at / file).read_bytes()


def test_a_record_says_what_the_list_said_and_what_it_took(tmp_path: Path) -> None:
    listed = from_python([{"caption": "same kite", "id": 7, "label": "known"}] * 2)
    for _ in open_batch(tmp_path, listed, ManyPrompts(), spectrum="fast").run():
        pass
    [record] = BatchDirectory.read(tmp_path).records()
    assert (record.listed.rows, record.listed.label) == ([1, 2], "known")
    assert record.listed.extra == {"id": 7}
    assert record.evaluations["images"] == 7 * 2 * 4
    assert record.evaluations["curvature"] == sum(c.evaluations for c in record.curvature) > 0
    assert record.curvature[0].singular_values is None
    assert (tmp_path / record.folder / record.curvature[0].file).is_file()


def test_records_come_as_they_are_finished(tmp_path: Path) -> None:
    batch = open_batch(tmp_path, PROMPTS, ManyPrompts())
    seen = []
    for record in batch.run():
        seen.append(record.prompt)
        assert {line["prompt"] for line in lines(tmp_path)} >= set(seen)
        assert batch.tally.done >= len(seen)
    assert seen == PROMPTS
    assert batch.tally.verdicts == {"attractor": 2, "undecided": 4}
    assert batch.tally.worst is not None
    assert batch.tally.worst[1] in ("same kite", "same harbour")
    assert batch.tally.seconds_left == 0


def test_hostile_prompts_are_audited_like_others(tmp_path: Path) -> None:
    records = run_batch(tmp_path, HOSTILE)
    assert [record.prompt for record in records] == HOSTILE
    assert not any(record.error for record in records)
    for record in records:
        assert (tmp_path / record.folder / record.seeds[0].image).is_file()
    assert finish(BatchDirectory.read(tmp_path))
    table = parquet.read_table(tmp_path / RESULTS_FILE)
    assert table["prompt"].to_pylist() == HOSTILE
    [long] = [record for record in records if len(record.prompt) == MAX_PROMPT]
    assert long.wording.cut_off == ""  # one word to this tokenizer


# -- failures


def test_a_prompt_that_fails_is_a_record_and_is_tried_again(tmp_path: Path) -> None:
    prompts = ["new a", "broken b", "crashing c", "same d"]
    crash = {"crashing": RuntimeError("shape mismatch"), "greedy": MemoryError()}
    records = run_batch(tmp_path, prompts, ManyPrompts(crash=crash))
    errors = {record.prompt: record.error and record.error.kind for record in records}
    assert errors == {
        "new a": None,
        "broken b": "NumericsError",
        "crashing c": "AuditError",
        "same d": None,
    }
    assert "shape mismatch" in records[2].error.message  # type: ignore[union-attr]
    again = ManyPrompts()
    records = run_batch(tmp_path, prompts, again)
    assert {text for batch in again.batches for text in batch} == {"broken b", "crashing c"}
    assert [r.prompt for r in records if r.error] == ["broken b"]
    assert Counter(line["prompt"] for line in lines(tmp_path))["crashing c"] == 2


def test_what_failed_before_comes_last(tmp_path: Path) -> None:
    setup, listed = fake_setup(ManyPrompts()), from_python(["broken a", "same b", "new c"])
    directory = BatchDirectory.open(tmp_path, setup.identity, listed)
    [failed] = Batch(setup, directory, listed.entries[:1]).run()
    assert failed.error is not None
    again = ManyPrompts()
    run_batch(tmp_path, [entry.prompt for entry in listed], again, batch_size=7)
    assert [batch[0] for batch in again.batches] == ["same b", "new c", "broken a"]


def test_memory_that_runs_out_halves_the_batches_for_good(tmp_path: Path) -> None:
    pipeline = ManyPrompts(fits=3)
    records = run_batch(tmp_path, PROMPTS, pipeline, batch_size=8, seeds=6)
    assert [len(batch) for batch in pipeline.batches] == [8] + [2] * 14
    assert not any(record.error for record in records)


def test_a_picture_that_never_fits_fails_its_prompt(tmp_path: Path) -> None:
    records = run_batch(tmp_path, PROMPTS[:2], ManyPrompts(fits=0))
    assert [record.error and record.error.exit_code for record in records] == [6, 6]


def test_pictures_of_which_some_overflow(tmp_path: Path) -> None:
    [record] = run_batch(tmp_path, ["torn sail"], seeds=8, batch_size=1)
    assert [failure.index for failure in record.failures] == [1, 5]


def test_a_prompt_whose_first_pictures_all_overflow_is_given_up(tmp_path: Path) -> None:
    pipeline = ManyPrompts()
    [record] = run_batch(tmp_path, ["broken sail"], pipeline, seeds=64, batch_size=2)
    assert record.error is not None
    assert len(pipeline.batches) < 32


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_which_pictures_are_made_at_once_does_not_change_a_prompt(
    tmp_path: Path, batch_size: int
) -> None:
    """Not even if one call gives nothing finite: of the prompt other pictures are."""
    [record] = run_batch(tmp_path, ["late sail"], batch_size=batch_size)
    assert record.error is None
    assert [seed.state for seed in record.seeds].count("failed") == 3


def test_a_tokenizer_that_fails_fails_the_prompt(tmp_path: Path) -> None:
    class Picky(ManyPrompts):
        def token_count(self, prompt: str) -> tuple[int, int]:
            if "dog" in prompt:
                raise ValueError("no such letter")
            return super().token_count(prompt)

    records = run_batch(tmp_path, PROMPTS, Picky())
    assert [r.prompt for r in records if r.error] == ["new dog"]


def test_a_full_disk_stops_the_run_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generations.save_generation
    kept: list[int] = []

    def full(run: RunDirectory, index: int, *rest: Any) -> None:
        kept.append(index)
        if len(kept) > 9:
            raise OutputError("Can't write: No space left on device.")
        whole(run, index, *rest)

    monkeypatch.setattr(generations, "save_generation", full)
    with pytest.raises(OutputError, match="No space left"):
        run_batch(tmp_path, PROMPTS, batch_size=4)
    done = [line["prompt"] for line in lines(tmp_path)]
    assert done == PROMPTS[: len(done)]
    assert not any(line["error"] for line in lines(tmp_path))
    monkeypatch.undo()
    assert [record.prompt for record in run_batch(tmp_path, PROMPTS)] == PROMPTS


# -- going on


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    first = run_batch(tmp_path, PROMPTS)
    again = ManyPrompts()
    assert run_batch(tmp_path, PROMPTS, again) == first
    assert again.batches == []


def test_pictures_of_an_interrupted_prompt_are_used(tmp_path: Path) -> None:
    whole = run_batch(tmp_path / "whole", PROMPTS)

    def stop(batch: list[str]) -> None:
        if len(first.batches) == 4:
            raise KeyboardInterrupt

    first = ManyPrompts(before=stop)
    with pytest.raises(KeyboardInterrupt):
        run_batch(tmp_path / "run", PROMPTS, first, batch_size=3)
    again = ManyPrompts()
    records = run_batch(tmp_path / "run", PROMPTS, again, batch_size=3)
    made = Counter(text for p in (first, again) for batch in p.batches for text in batch)
    stopped_at = Counter(first.batches[-1])
    assert made == Counter({text: 7 for text in PROMPTS}) + stopped_at
    assert [numbers(r) | {"settings": 0} for r in records] == [
        numbers(r) | {"settings": 0} for r in whole
    ]


def test_a_record_that_never_reached_the_log_is_not_made_again(tmp_path: Path) -> None:
    first = run_batch(tmp_path, PROMPTS)
    log = tmp_path / RECORDS_FILE
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:2]) + b'{"half')
    again = ManyPrompts()
    assert run_batch(tmp_path, PROMPTS, again) == first
    assert again.batches == []


def test_an_unreadable_record_or_picture_is_made_again(tmp_path: Path) -> None:
    first = run_batch(tmp_path, PROMPTS)
    (tmp_path / RECORDS_FILE).unlink()
    folder = tmp_path / first[0].folder
    (folder / "record.json").write_bytes(b"\0" * 100)
    (folder / first[0].seeds[2].image).write_bytes(b"\x89PNG and no more")
    again = ManyPrompts()
    records = run_batch(tmp_path, PROMPTS, again)
    assert again.batches == [["same kite"]]
    assert [numbers(record) for record in records] == [numbers(record) for record in first]


def test_a_share_of_the_list(tmp_path: Path) -> None:
    setup, listed = fake_setup(ManyPrompts()), from_python(PROMPTS)
    for share in (0, 1):
        directory = BatchDirectory.open(tmp_path, setup.identity, listed)
        batch = Batch(setup, directory, listed.entries[share::2])
        assert [r.prompt for r in batch.run()] == PROMPTS[share::2]
        assert (batch.tally.prompts, batch.tally.done) == (3, 3)


# -- other processes

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.support.batch_work"])


def start(*arguments: object) -> multiprocessing.process.BaseProcess:
    process = FORKS.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def wait_for(out: Path, records: int, process: multiprocessing.process.BaseProcess) -> None:
    patience = time.monotonic() + 120
    while len(lines_so_far(out)) < records and process.is_alive():
        assert time.monotonic() < patience
        time.sleep(0.002)


def lines_so_far(out: Path) -> list[bytes]:
    path = out / RECORDS_FILE
    return path.read_bytes().splitlines() if path.exists() else []


def many(count: int) -> list[str]:
    kinds = ("same", "new", "half", "torn")
    return [f"{kinds[i % 4]} picture {i}" for i in range(count)]


def comparable(records: Sequence[BatchRecord]) -> list[dict[str, object]]:
    return [numbers(record) for record in records]


@pytest.mark.slow
def test_a_run_killed_ten_times_is_the_run_that_was_not(tmp_path: Path) -> None:
    prompts = many(44)
    whole = comparable(run_batch(tmp_path / "whole", prompts, batch_size=6))
    chance = random.Random(1)
    out = tmp_path / "run"
    for kill in range(1, 11):
        process = start(out, prompts, 0.001)
        wait_for(out, 4 * kill - chance.randrange(3), process)
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.join()
    killed_at = len(lines_so_far(out))
    assert killed_at > 0
    assert comparable(run_batch(out, prompts, batch_size=6)) == whole
    done = Counter(line["listed"]["id"] for line in lines(out))
    assert set(done.values()) == {1}
    assert len(done) == len(prompts)


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    prompts = many(30)
    processes = [start(tmp_path, prompts, 0.002) for _ in range(2)]
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert sorted(line["prompt"] for line in lines(tmp_path)) == sorted(prompts)
    assert not list((tmp_path / "claims").iterdir())


def test_the_prompt_of_a_process_that_dies_is_taken_over(tmp_path: Path) -> None:
    prompts = many(8)
    hanging = start(tmp_path, prompts, 0.0, prompts[5])
    claim = tmp_path / "claims" / f"{prompt_id(prompts[5])}.lock"
    while not claim.exists():
        assert hanging.is_alive()
        time.sleep(0.002)
    other = start(tmp_path, prompts)
    wait_for(tmp_path, 3, other)
    other.join(1.5)
    assert other.is_alive(), "it ended although a prompt has no record"
    assert prompts[5] not in {line["prompt"] for line in lines(tmp_path)}
    hanging.kill()
    other.join(60)
    assert other.exitcode == 0
    assert sorted(line["prompt"] for line in lines(tmp_path)) == sorted(prompts)


# -- the size of batches


def learnt(start: int, most: int, rates: dict[int, float], steps: int = 20) -> list[int]:
    size = BatchSize(start, most)
    tried = []
    for _ in range(steps):
        tried.append(size.value)
        size.learn(size.value, size.value, size.value / rates[size.value])
    return tried


def test_batches_grow_while_that_pays() -> None:
    rates = {4: 1.0, 8: 1.8, 16: 2.5, 32: 2.6, 64: 9.0}
    assert learnt(4, 64, rates) == [4, 4, 8, 8, 16, 16, 32, 32] + [16] * 12
    assert learnt(4, 8, rates)[-1] == 8
    assert learnt(4, 7, {4: 1.0, 7: 1.0})[-1] == 4
    assert learnt(16, 16, rates) == [16] * 20


def test_batches_never_grow_past_what_fitted() -> None:
    size = BatchSize(8, 64)
    size.learn(8, 3, 1.0)
    assert size.value == 3
    for _ in range(4):
        size.learn(3, 3, 0.001)
    assert size.value == 3


@given(st.integers(1, 64), st.integers(1, 64))
def test_a_small_last_batch_says_nothing(start: int, asked: int) -> None:
    size = BatchSize(start, 64)
    if asked < start:
        for _ in range(5):
            size.learn(asked, asked, 1e-6)
        assert size.value == start


def test_a_size_that_was_asked_for_is_kept() -> None:
    assert BatchSize.of(fake_setup(ManyPrompts(), batch_size=5)).value == 5
    assert BatchSize.of(fake_setup(ManyPrompts())).value == 16


def test_a_tally_without_prompts_has_no_rate() -> None:
    assert Tally(3).prompts_per_second is None
    assert Tally(3).seconds_left is None
