"""A run's folder knows whose it is, never holds half a file, and gives back what it kept."""

import os
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.audits.run_tensors import load_generation, save_generation
from m2g_audit.errors import OutputError
from m2g_audit.records.record import ErrorRecord
from m2g_audit.store.run_directory import RunDirectory, default_folder, read_record, slug
from tests.support.samples import sample_record

IDENTITY = {"prompt": "a harbour", "seeds": 16, "guidance": 7.5}
as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
SHAPES = (8, 8), (4, 2, 2)


@given(st.text())
def test_slugs_are_short_folder_names(prompt: str) -> None:
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", slug(prompt))


def test_slugs_can_be_read() -> None:
    assert slug("A print of the Old  Harbour, 1890!") == "a-print-of-the-old-harbour-1890"
    assert slug("Über den Dächern") == "uber-den-dachern"
    assert slug("古い港") == "prompt"


def test_default_folder_differs_with_the_identity() -> None:
    one, other = (default_folder("a harbour", {**IDENTITY, "seed": seed}) for seed in (0, 1))
    assert one != other
    assert one.name.startswith("a-harbour-")


def test_generations_come_back_as_they_were(tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path / "run", IDENTITY)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 8, 8), generator=generator).float() / 255
    latents = torch.randn(4, 2, 2, generator=generator)
    assert load_generation(run, 3, *SHAPES) is None
    save_generation(run, 3, image, latents)
    loaded = load_generation(RunDirectory.open(tmp_path / "run", IDENTITY), 3, *SHAPES)
    assert loaded is not None
    assert torch.equal(loaded[0], image)
    assert torch.equal(loaded[1], latents)


def test_non_finite_generations_are_kept_as_they_are(tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path / "run", IDENTITY)
    save_generation(run, 0, torch.full((3, 8, 8), torch.nan), torch.full((4, 2, 2), torch.nan))
    loaded = load_generation(run, 0, *SHAPES)
    assert loaded is not None
    assert loaded[0].abs().max() == 0
    assert loaded[1].isnan().all()


@pytest.mark.parametrize("broken", [RunDirectory.image_name(0), RunDirectory.latents_name(0)])
def test_a_broken_generation_is_not_finished(tmp_path: Path, broken: str) -> None:
    run = RunDirectory.open(tmp_path / "run", IDENTITY)
    save_generation(run, 0, torch.rand(3, 8, 8), torch.rand(4, 2, 2))
    path = run.path / broken
    path.write_bytes(path.read_bytes()[:40])
    assert load_generation(run, 0, *SHAPES) is None


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path / "run", IDENTITY)
    assert list(tmp_path.iterdir()) == []


def test_another_run_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path / "run", IDENTITY).save_record(sample_record())
    with pytest.raises(OutputError, match=r"seeds: 16 there, 32 now"):
        RunDirectory.open(tmp_path / "run", {**IDENTITY, "seeds": 32})


def other_run(tmp_path: Path, there: dict[str, object], now: dict[str, object]) -> str:
    """What is said where a run of `now` is asked for in the folder of a run of `there`."""
    RunDirectory.open(tmp_path / "run", there).save_record(sample_record())
    with pytest.raises(OutputError) as error:
        RunDirectory.open(tmp_path / "run", now)
    return str(error.value)


def test_of_a_models_configuration_the_file_and_the_key_are_named(tmp_path: Path) -> None:
    there, now = (
        {"configuration": {"scheduler/scheduler_config.json": {"beta_end": 0.012, "kind": kind}}}
        for kind in ("epsilon", "v_prediction")
    )
    said = other_run(tmp_path, there, now)
    assert 'configuration scheduler/scheduler_config.json kind: "epsilon" there, "v_pred' in said
    assert "beta_end" not in said


def test_a_run_of_a_version_that_kept_no_configuration_says_so(tmp_path: Path) -> None:
    now = {**IDENTITY, "configuration": {"model_index.json": {"_class_name": "Pipeline"}}}
    assert "(configuration: not kept there)" in other_run(tmp_path, IDENTITY, now)


def test_the_list_of_differences_has_an_end_and_steers_no_terminal(tmp_path: Path) -> None:
    there = {"weights": "ab", "configuration": {f"\x1b]0;{i}": i for i in range(5000)}}
    said = other_run(tmp_path, there, {"weights": "cd", "configuration": {}})
    assert said.index("weights") < said.index("configuration")
    assert said.count("there") == 8
    assert "and 4993 more" in said
    assert "\x1b" not in said


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(OutputError, match="not a run's folder"):
        RunDirectory.open(tmp_path, IDENTITY)


def test_a_folder_whose_process_died_at_its_first_file_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / ".identity.json.4711.tmp").write_bytes(b'{"half')
    RunDirectory.open(tmp_path, IDENTITY).save_record(sample_record())
    assert RunDirectory.open(tmp_path, IDENTITY).finished() == sample_record()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        RunDirectory.open(tmp_path / "file" / "run", IDENTITY)


@as_root
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Can't write"):
        RunDirectory.open(tmp_path / "run", IDENTITY)
    assert not (tmp_path / "run").exists()


def test_only_a_record_without_an_error_is_finished(tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path / "run", IDENTITY)
    assert run.finished() is None
    record = sample_record()
    error = ErrorRecord(kind="NumericsError", message="NaN", exit_code=5)
    run.save_record(record.model_copy(update={"error": error}))
    assert run.finished() is None
    run.save_record(record)
    assert run.finished() == record


def test_what_is_no_record_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No record"):
        read_record(tmp_path)
    (tmp_path / "record.json").write_text('{"schema_version": "7.0"}')
    with pytest.raises(OutputError, match="not a record that this program reads"):
        read_record(tmp_path)


def test_drafts_of_killed_writers_do_not_stay(tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path / "run", IDENTITY)
    save_generation(run, 0, torch.zeros(3, 4, 4), torch.zeros(4, 2, 2))
    drafts = [run.path / ".record.json.17.tmp", run.path / "images" / ".0001.png.17.tmp"]
    others = [run.path / ".17.tmp", run.path / "images" / "0000.png", run.path / ".a.18.tmp"]
    for file in (*drafts, others[0], others[2]):
        file.touch()
    for file in (*drafts, *others[:2]):
        os.utime(file, (0, 0))
    RunDirectory.open(run.path, IDENTITY)
    assert not any(file.exists() for file in drafts)
    assert all(file.exists() for file in others)


def test_nothing_is_written_through_links_in_a_run(tmp_path: Path) -> None:
    run = RunDirectory.open(tmp_path / "run", IDENTITY)
    run.save_record(sample_record())
    (tmp_path / "elsewhere").mkdir()
    (run.path / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="holds links"):
        RunDirectory.open(run.path, IDENTITY)


def test_deep_nesting_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("[" * 100_000)
    with pytest.raises(OutputError, match="is not a record"):
        read_record(tmp_path)
