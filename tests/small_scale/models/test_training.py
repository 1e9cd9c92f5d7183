"""Training: the resumed run is the run that was never stopped."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from torch import Tensor

from m2g_audit.errors import NumericsError, OutputError
from small_scale.models.training import CHECKPOINT, STATE, _Run, batch_rows, learning_rate, train
from small_scale.settings import SweepSettings, Training, settings_for


def settings(**changed: object) -> SweepSettings:
    made = settings_for("smoke", "mnist", 100, sizes=(2, 8))
    training = replace(made.training, iterations=12, checkpoint_every=4, **changed)  # type: ignore[arg-type]
    # Dropout, so that its random numbers are part of what has to be the same.
    return replace(made, network=replace(made.network, dropout=0.2), training=training)


@pytest.fixture
def pictures() -> Tensor:
    return torch.randint(0, 256, (8, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )


def weights(model: Path) -> dict[str, Tensor]:
    return UNet2DModel.from_pretrained(model, subfolder="unet").state_dict()


def killed_at(step: int) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if done >= step:
            raise KeyboardInterrupt

    return report


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_killed_training_goes_on_as_if_it_had_not_been(
    tmp_path: Path, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("small_scale.models.training._LOG_EVERY", 1)
    whole = train(tmp_path / "whole", settings(), pictures, 0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", settings(), pictures, 0, on_step=killed_at(7))
    assert (tmp_path / "killed" / CHECKPOINT / STATE).exists()
    resumed = train(tmp_path / "killed", settings(), pictures, 0)
    lines = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == [*range(1, 8), *range(5, 13)]
    assert same(weights(whole), weights(resumed))


def test_a_kill_between_two_checkpoints_leaves_one(
    tmp_path: Path, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("small_scale.models.training._LOG_EVERY", 1)
    whole = train(tmp_path / "whole", settings(), pictures, 0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", settings(), pictures, 0, on_step=killed_at(7))
    (tmp_path / "killed" / CHECKPOINT).rename(tmp_path / "killed" / f"{CHECKPOINT}.previous")
    assert same(weights(whole), weights(train(tmp_path / "killed", settings(), pictures, 0)))


@pytest.mark.parametrize(("K", "processes"), [(2, 4), (8, 3), (8, 2)])
def test_parts_of_a_batch_weigh_as_the_batch(
    tmp_path: Path, pictures: Tensor, K: int, processes: int
) -> None:
    asked = settings(fill_batch=False)

    def weighted(index: int, count: int) -> float:
        accelerator: Any = SimpleNamespace(
            device=torch.device("cpu"),
            process_index=index,
            num_processes=count,
            prepare=lambda *parts: parts,
        )
        x, t, noise, weight = _Run(tmp_path, asked, pictures[:K], 0, accelerator)._batch()
        assert len(x) == len(t) == len(noise) > 0
        return weight * float((x - noise).double().square().mean())

    parts = [weighted(index, processes) for index in range(processes)]
    assert sum(parts) / processes == pytest.approx(weighted(0, 1))


def test_seeds_and_pictures_matter(tmp_path: Path, pictures: Tensor) -> None:
    first = weights(train(tmp_path / "a", settings(), pictures, 0))
    assert not same(first, weights(train(tmp_path / "b", settings(), pictures, 1)))
    assert not same(first, weights(train(tmp_path / "c", settings(), pictures[:4], 0)))


def test_checkpoints_open_in_plain_diffusers(
    tmp_path: Path, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("small_scale.models.training._LOG_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, settings(), pictures, 0, on_step=killed_at(5))
    images = DDPMPipeline.from_pretrained(tmp_path / CHECKPOINT)(
        num_inference_steps=2, output_type="np"
    ).images
    assert images.shape == (1, 8, 8, 1)


@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[:1000], lambda _: b"", lambda _: b"text"],
    ids=["cut off", "empty", "text"],
)
def test_a_damaged_checkpoint_says_what_to_do(
    tmp_path: Path,
    pictures: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[bytes], bytes],
) -> None:
    monkeypatch.setattr("small_scale.models.training._LOG_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, settings(), pictures, 0, on_step=killed_at(5))
    state = tmp_path / CHECKPOINT / STATE
    state.write_bytes(damage(state.read_bytes()))
    with pytest.raises(OutputError, match=r"damaged .* Remove that folder"):
        train(tmp_path, settings(), pictures, 0)
    shutil.rmtree(tmp_path / CHECKPOINT)
    assert (train(tmp_path, settings(), pictures, 0) / "model_index.json").exists()


def test_a_full_disk_says_what_to_do(
    tmp_path: Path, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", full)
        with pytest.raises(OutputError, match=r"file write failed.* Free space"):
            train(tmp_path, settings(), pictures, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    assert (train(tmp_path, settings(), pictures, 0) / "model_index.json").exists()


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path, pictures: Tensor) -> None:
    with pytest.raises(NumericsError, match="no longer finite"):
        train(tmp_path, settings(learning_rate=float("inf")), pictures, 0)


@pytest.mark.parametrize(("K", "size"), [(2, 7), (5, 5), (10, 3), (7, 4)])
def test_every_picture_is_seen_equally_often(K: int, size: int) -> None:
    rows = torch.cat([batch_rows(K, size, step, 0) for step in range(K)])
    assert rows.bincount().tolist() == [size] * K


def test_batches_differ_by_step_and_seed() -> None:
    assert not torch.equal(batch_rows(100, 50, 0, 0), batch_rows(100, 50, 2, 0))
    assert not torch.equal(batch_rows(100, 50, 0, 0), batch_rows(100, 50, 0, 1))


def test_the_learning_rate_rises_and_falls() -> None:
    decaying = Training(iterations=100, learning_rate=1.0, warmup=10, decay=True)
    assert learning_rate(0, decaying) == pytest.approx(0.1)
    assert learning_rate(10, decaying) == pytest.approx(1)
    assert learning_rate(55, decaying) == pytest.approx(0.525)
    assert learning_rate(100, decaying) == pytest.approx(0.05)
    assert learning_rate(99, Training(iterations=100)) == 2e-4
