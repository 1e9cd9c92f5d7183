"""Synthetic sets: every image by its own seed."""

from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
from torch import Tensor

from m2g_audit.errors import OutputError
from small_scale.models import synthesis
from small_scale.models.network import make_network, make_scheduler
from small_scale.models.synthesis import make_sampler, synthesise
from small_scale.settings import Network, Sampler, Synthesis


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    network = make_network(Network(8, (1, 2), layers=1, dropout=0.1), 8, 1)
    DDPMPipeline(network, make_scheduler()).save_pretrained(folder)
    return folder


def made(folder: Path, model: Path, sampler: Sampler = "ddpm", batch_size: int = 250) -> Tensor:
    settings = Synthesis(multiple=4, at_least=7, sampler=sampler, steps=3)
    return synthesise(folder, model, settings, 2, device=torch.device("cpu"), batch_size=batch_size)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_set_does_not_depend_on_batches(tmp_path: Path, model: Path, sampler: Sampler) -> None:
    together = made(tmp_path / "a", model, sampler)
    assert together.shape == (8, 1, 8, 8)
    assert together.dtype == torch.uint8
    apart = made(tmp_path / "b", model, sampler, batch_size=3)
    # A convolution over another batch may round differently: one level at most.
    assert (together.int() - apart.int()).abs().max() <= 1


def test_an_interrupted_set_is_completed(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesis, "SHARD", 3)
    whole = made(tmp_path, model)
    shards = sorted(tmp_path.iterdir())
    assert len(shards) == 3
    shards[1].unlink()
    kept = shards[0].stat().st_mtime_ns
    assert torch.equal(made(tmp_path, model), whole)
    assert shards[0].stat().st_mtime_ns == kept


def test_a_damaged_shard_says_what_to_do(tmp_path: Path, model: Path) -> None:
    made(tmp_path, model)
    shard = next(tmp_path.iterdir())
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(OutputError, match="Remove it"):
        made(tmp_path, model)


def test_one_image_is_that_of_plain_diffusers(tmp_path: Path, model: Path) -> None:
    settings = Synthesis(at_least=1, multiple=1, sampler="ddpm", steps=5)
    ours = synthesise(tmp_path, model, settings, 1, device=torch.device("cpu"))
    pipeline = DDPMPipeline.from_pretrained(model)
    seed = synthesis.seed_for(synthesis._SEED, "synthetic K=1", 0)
    theirs = pipeline(
        generator=torch.Generator().manual_seed(seed), num_inference_steps=5, output_type="np"
    ).images
    assert (torch.from_numpy(theirs[0, :, :, 0] * 255) - ours[0, 0]).abs().max() <= 1


def test_samplers_start_from_noise() -> None:
    assert make_sampler(Synthesis(sampler="ddim", steps=50), make_scheduler()).timesteps[0] == 999
    assert len(make_sampler(Synthesis(), make_scheduler()).timesteps) == 1000
