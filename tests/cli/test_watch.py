"""`m2g-audit watch` and `Monitor`: from which step on a training gives back its pictures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import m2g_audit
from m2g_audit.batch import monitor as monitoring
from m2g_audit.cli import main
from m2g_audit.models.checkpoints import find_checkpoints
from m2g_audit.review.watching import find_onset, last_clean, read_checks, share_at_look
from tests.cli.test_finetune import CAPTIONS, NEW, FakeBase, FineTune, training_set
from tests.support import tiny

Watch = Callable[..., tuple[int, str, str]]
ONSET = 300


def long_ago(path: Path) -> None:
    for file in [path, *path.rglob("*")]:
        os.utime(file, (time.time() - 60,) * 2)


def save_checkpoint(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    (path / "unet").mkdir(parents=True)
    save_file({"w": torch.ones(3)}, path / "unet" / "diffusion_pytorch_model.safetensors")
    long_ago(path)
    return path


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training that gives back every picture from step ONSET on."""

    def load(name: str, *_: object, **__: object) -> FineTune:
        step = int(name.rpartition("-")[2])
        given = {text: dict.fromkeys(range(8), i) for i, text in enumerate(CAPTIONS)}
        return FineTune(gives=given if step >= ONSET else {})

    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("M2G_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("m2g_audit.audits.setup.load_model", load)
    base = FakeBase(FineTune(off=3 * NEW))
    monkeypatch.setattr("m2g_audit.audits.setup.find_base", lambda *_, **__: base)
    training_set(tmp_path / "set")
    folder = tmp_path / "output"
    folder.mkdir()
    for step in (100, 200, 300, 400):
        save_checkpoint(folder, step)
    return folder


@pytest.fixture
def watch(
    training: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Watch:
    """Run `m2g-audit watch` in this process; return exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        fixed = ("output", "--data", "set", "--once")
        monkeypatch.setattr(sys, "argv", ["m2g-audit", "watch", *fixed, *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code
        return (0 if code is None else int(code)), *capfd.readouterr()

    return call


def test_it_says_from_which_step_on_pictures_come_back(watch: Watch, training: Path) -> None:
    code, out, err = watch("--stop-at", "0.05", "--base", "base")
    assert code == 1, err
    assert "GIVES BACK from step 300 on: 6 of 6 captions" in out
    assert "gave nothing back is that of step 200" in out
    assert "step 100: 0 of 6 captions give back" in err
    checks = read_checks(training / "m2g-audit")
    assert [(check.step, check.giving) for check in checks] == [
        (100, 0),
        (200, 0),
        (300, 6),
        (400, 6),
    ]
    assert (training / "m2g-audit" / checks[2].folder / "finetune.json").is_file()


def test_without_thresholds_of_its_own_nothing_is_cleared(watch: Watch, training: Path) -> None:
    code, out, err = watch()
    assert code == 0
    assert "Not decided at step 400: 48 of 48 pictures may be copies" in out
    assert "step 100: 0 of 6 captions" in err
    assert "nothing confirmed" in err
    assert last_clean(read_checks(training / "m2g-audit")) is None


def test_what_was_checked_is_not_checked_again(
    watch: Watch, training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = watch()
    monkeypatch.setattr("m2g_audit.audits.setup.load_model", lambda *_, **__: 1 / 0)
    assert watch() == first
    assert first[0] == 0  # nobody asked for a stop


def test_steps_between_checks(watch: Watch, training: Path) -> None:
    watch("--every", "200")
    assert [check.step for check in read_checks(training / "m2g-audit")] == [100, 300]


def test_a_checkpoint_that_goes_while_it_is_loaded(
    watch: Watch, training: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from m2g_audit.errors import ModelError

    def load(name: str, *_: object, **__: object) -> FineTune:
        if name.endswith("-200"):
            shutil.rmtree(name)
            raise ModelError("it is gone")
        return FineTune()

    monkeypatch.setattr("m2g_audit.audits.setup.load_model", load)
    code, out, err = watch("--base", "base")
    assert code == 0
    assert "Step 200 was not checked: it is gone" in err
    assert "Nothing came back at step 400" in out


def test_a_folder_that_is_not_there(watch: Watch, training: Path) -> None:
    training.rename("elsewhere")
    code, _, err = watch()
    assert code == 7
    assert "is no folder" in err


def test_checkpoints_that_are_still_written(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 100)
    half = save_checkpoint(tmp_path, 200) / "unet" / "diffusion_pytorch_model.safetensors"
    half.write_bytes(half.read_bytes()[:-4])
    long_ago(tmp_path / "checkpoint-200")
    fresh = save_checkpoint(tmp_path, 300)
    os.utime(fresh / "unet" / "diffusion_pytorch_model.safetensors")
    found, young = find_checkpoints(tmp_path)
    assert [checkpoint.step for checkpoint in found] == [100]
    assert young == 1


@pytest.mark.parametrize(
    ("name", "step"), [("zkw-000010", 10), ("zkw-step00000500", 500), ("zkw", None), ("v1", None)]
)
def test_files_of_loras(tmp_path: Path, name: str, step: int | None) -> None:
    path = tmp_path / f"{name}.safetensors"
    save_file({"lora_unet_down.lora_down.weight": torch.ones(2, 2)}, path)
    long_ago(path)
    found, _ = find_checkpoints(tmp_path)
    assert [checkpoint.step for checkpoint in found] == ([] if step is None else [step])


def test_all_looks_together_err_in_five_percent() -> None:
    """10,000 trainings of 40 looks at a share of 0.2: how often any interval misses it."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.distributions.Binomial(16, torch.tensor(0.2))
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(1000, (), generator=generator)))
        counts = drawn.sample(torch.Size((10_000, 40))).int()
    missed = torch.zeros(10_000, dtype=torch.bool)
    for look in range(40):
        at = [share_at_look(giving, 16, look + 1) for giving in range(17)]
        misses = torch.tensor([not one.low <= 0.2 <= one.high for one in at])
        missed |= misses[counts[:, look]]
    assert missed.double().mean() <= 0.05


def test_onset_waits_for_certainty() -> None:
    few, many = share_at_look(1, 16, 1), share_at_look(12, 16, 2)
    assert few.low < 0.05 < many.low


def test_a_training_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))
    training_set(tmp_path / "set")
    pipeline = tiny.text_to_image()
    pipeline.unet.train().requires_grad_(True)
    pipeline.text_encoder.requires_grad_(False)
    before = torch.get_rng_state()
    weights = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    monitor = m2g_audit.Monitor(
        tmp_path / "set", out=tmp_path / "checks", captions=2, seeds=2, steps=4
    )
    check = monitor.check(pipeline, 10)
    assert check.captions == 2
    assert check.scalars["m2g/gives_back"] == check.giving / 2
    assert torch.equal(torch.get_rng_state(), before)
    assert pipeline.unet.training
    assert all(module.training for module in pipeline.unet.modules())
    assert all(parameter.requires_grad for parameter in pipeline.unet.parameters())
    assert not any(parameter.requires_grad for parameter in pipeline.text_encoder.parameters())
    assert all(torch.equal(value, weights[n]) for n, value in pipeline.unet.state_dict().items())
    assert monitor.check(pipeline, 10) == check
    assert monitor.checks == read_checks(tmp_path / "checks")
    assert find_onset(monitor.checks, 0.05) is None
    assert last_clean(monitor.checks) == (check if check.calibrated and not check.giving else None)
    assert monitoring.SEEDS == 8
