"""Pipelines: what plain diffusers gives, whatever the batch; scores of every prediction type."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from m2g_audit.pipelines import TextToImage
from tests import tiny

PROMPT = "a print of the old harbour"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.text_to_image(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder: Path) -> TextToImage:
    return TextToImage.load(folder, device="cpu")


def plain(pipe, seeds, *, scheduler="ddim", **settings) -> np.ndarray:
    """uint8 pictures of plain diffusers: the reference that `generate` must equal."""
    pipe.set_progress_bar_config(disable=True)
    if scheduler == "ddim":
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    pictures = pipe([PROMPT] * len(seeds), generator=generators, **settings).images
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize("scheduler", ["ddim", "keep"])
def test_generation_is_plain_diffusers(model: TextToImage, scheduler: str) -> None:
    seeds = [3, 2**32 - 1, 0]
    expected = plain(
        tiny.text_to_image(),
        seeds,
        scheduler=scheduler,
        num_inference_steps=4,
        guidance_scale=3.0,
    )
    ours = model.generate(PROMPT, seeds, steps=4, guidance=3.0, batch_size=3, scheduler=scheduler)
    levels = (ours.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(levels, expected)
