"""An audit of a real (tiny, random) pipeline: repeatable, resumable, free of batch-mates."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from m2g_audit.audits.job import Job, make_job
from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import set_up
from m2g_audit.errors import OutputError
from m2g_audit.pictures.tensors import read_picture
from m2g_audit.records.record import AuditRecord, format_record
from m2g_audit.store.run_directory import RunDirectory
from tests.support import tiny
from tests.support.setups import run_job

OPTIONS = {"seeds": 4, "steps": 2, "spectrum": "exact-alg3", "spectrum_samples": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose safety checker would black out every picture."""
    return tiny.save(tiny.text_to_image(flag_everything=True), tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found out about the model serves all tests."""
    monkeypatch.setenv("M2G_CACHE", str(folder.parent / "cache"))


def audit(folder: Path, out: Path, **options: object) -> AuditRecord:
    return run_job(job_of(str(folder), **options), out)


def job_of(model: str, **options: object) -> Job:
    setup = set_up(AuditOptions.of(model=model, **{**OPTIONS, **options}))
    return make_job(setup, "a harbour")


def numbers(record: AuditRecord) -> dict[str, object]:
    return json.loads(format_record(record.model_copy(update={"timings": None})))


@pytest.mark.slow
def test_the_same_command_twice_gives_the_same_record(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = audit(folder, tmp_path / "one")
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))  # so that nothing is known
    second = audit(folder, tmp_path / "two")
    assert numbers(first) == numbers(second)
    for seed in first.seeds:
        paths = [tmp_path / name / seed.image for name in ("one", "two")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_safety_checker_blacks_out_nothing(folder: Path, tmp_path: Path) -> None:
    record = audit(folder, tmp_path / "run", spectrum="none")
    assert record.model.safety_checker == "not loaded"
    assert all(seed.state != "failed" for seed in record.seeds)


def test_the_record_has_what_sampling_showed(folder: Path, tmp_path: Path) -> None:
    record = audit(folder, tmp_path / "run", spectrum="none")
    followed = record.trajectory
    assert followed is not None
    assert len(followed.levels) == len(followed.spread) == record.settings.steps
    assert followed.evaluations == 0
    last = [seed.noise_norm for seed in record.seeds if seed.noise_norm is not None]
    assert followed.noise_norm[-1] == pytest.approx(sum(last) / len(record.seeds), rel=1e-4)
    again = audit(folder, tmp_path / "run", spectrum="none")  # read from its folder
    assert again.trajectory == followed


def test_a_picture_does_not_depend_on_its_batch_mates(folder: Path, tmp_path: Path) -> None:
    records = [
        audit(folder, tmp_path / str(size), batch_size=size, spectrum="none") for size in (1, 3)
    ]
    for pair in zip(*(record.seeds for record in records), strict=True):
        images = [
            read_picture(tmp_path / str(size) / seed.image)
            for size, seed in zip((1, 3), pair, strict=True)
        ]
        assert (images[0] - images[1]).abs().max() <= 1 / 255 + 1e-6
        assert pair[0].generator_seed == pair[1].generator_seed


def test_what_an_interrupted_run_left_is_used(folder: Path, tmp_path: Path) -> None:
    whole = audit(folder, tmp_path / "whole", batch_size=1)
    audit(folder, tmp_path / "run", batch_size=1)
    (tmp_path / "run" / "record.json").unlink()
    (tmp_path / "run" / RunDirectory.image_name(2)).unlink()
    kept = tmp_path / "run" / RunDirectory.image_name(1)
    os.utime(kept, (1, 1))
    assert numbers(audit(folder, tmp_path / "run", batch_size=1)) == numbers(whole)
    assert kept.stat().st_mtime == 1


def corrected(folder: Path, tmp_path: Path) -> Path:
    """A copy of the model whose scheduler's prediction type was put right in place."""
    copy = shutil.copytree(folder, tmp_path / "corrected")
    file = copy / "scheduler" / "scheduler_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps(settings | {"prediction_type": "v_prediction"}))
    return copy


def test_a_corrected_configuration_is_another_run_and_named(folder: Path, tmp_path: Path) -> None:
    record = audit(folder, tmp_path / "run", spectrum="none")
    copy = corrected(folder, tmp_path)
    with pytest.raises(OutputError) as error:
        audit(copy, tmp_path / "run", spectrum="none")
    assert 'scheduler_config.json prediction_type: "epsilon" there, "v_pre' in str(error.value)
    after = audit(copy, tmp_path / "other", spectrum="none")
    assert after.model.sha256 == record.model.sha256
    assert after.model.configuration_sha256 != record.model.configuration_sha256


@pytest.mark.parametrize("spelling", ["{name}", "./{name}", "{name}/", "../{parent}/{name}"])
def test_the_spelling_of_a_path_makes_no_other_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    audit(folder, tmp_path / "run", spectrum="none")
    monkeypatch.chdir(folder.parent)
    path = spelling.format(name=folder.name, parent=folder.parent.name)
    job = job_of(path, spectrum="none")
    assert RunDirectory.open(tmp_path / "run", job.identity).finished() is not None


def test_a_reference_folder_goes_through_the_vae(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "training").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "training" / "red.png")
    record = audit(folder, tmp_path / "run", reference=str(tmp_path / "training"), spectrum="none")
    nearest = record.seeds[0].nearest_reference
    assert nearest is not None
    assert nearest.image is not None
    shown = read_picture(tmp_path / "run" / nearest.image)
    assert shown.shape == (3, 16, 16)
    assert not torch.equal(shown, torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 16, 16))


def test_a_base_gives_thresholds(folder: Path, tmp_path: Path) -> None:
    base = tiny.save(tiny.text_to_image(seed=3), tmp_path / "base")
    record = audit(folder, tmp_path / "run", base=str(base), spectrum="none")
    thresholds = record.thresholds
    assert thresholds is not None
    assert (thresholds.rule, thresholds.calibrated, thresholds.delta_m) == ("base", True, None)
    assert thresholds.controls == 13 * 16
    assert str(base) in thresholds.source
