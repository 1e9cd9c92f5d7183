"""The tiny pipelines of tests/support/families.py stand in for their families' checkpoints."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import nn

from tests.support.families import FAMILIES, SMALL

# diffusers, of what its own network of Chroma uses
pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")

TIMES = ("timestep", "t")


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def pipeline(name: str) -> DiffusionPipeline:
    return FAMILIES[name]()


def picture(pipeline: DiffusionPipeline, name: str, prompt: str) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    start = torch.Generator().manual_seed(1)
    settings = {"num_inference_steps": 2, "output_type": "np", **SMALL[name]}
    return pipeline(prompt=prompt, generator=start, **settings).images[0]


def test_pictures_are_finite_small_and_follow_the_prompt(
    pipeline: DiffusionPipeline, name: str
) -> None:
    cat = picture(pipeline, name, "a cat")
    dogs = picture(pipeline, name, "two dogs run")
    assert cat.shape == (SMALL[name]["height"], SMALL[name]["width"], 3)
    assert np.isfinite(cat).all()
    assert cat.std() > 0.01
    assert np.abs(cat - dogs).max() > 0.01


def test_saved_and_loaded_it_makes_the_same_picture(
    pipeline: DiffusionPipeline, name: str, tmp_path: Path
) -> None:
    before = picture(pipeline, name, "a cat")
    pipeline.save_pretrained(tmp_path)
    left_out = {part: None for part, value in pipeline.components.items() if value is None}
    again = DiffusionPipeline.from_pretrained(tmp_path, **left_out)
    assert type(again) is type(pipeline)
    np.testing.assert_allclose(picture(again, name, "a cat"), before, atol=1e-5)


def test_the_network_looks_at_the_time(pipeline: DiffusionPipeline, name: str) -> None:
    network = getattr(pipeline, "transformer", None) or pipeline.unet
    early, late = calls(network, pipeline, name)
    time = next(time for time in TIMES if time in early)
    with torch.no_grad():
        now, later = network(**early), network(**{**early, time: late[time]})
    assert difference(now, later) > 0.01


def calls(
    network: nn.Module, pipeline: DiffusionPipeline, name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the network is handed first and last of a picture, by the names of its arguments."""
    handed: list[dict[str, Any]] = []
    signature = inspect.signature(network.forward)

    def keep(_: nn.Module, args: Any, kwargs: Any) -> None:
        handed.append(dict(signature.bind(*args, **kwargs).arguments))

    with network.register_forward_pre_hook(keep, with_kwargs=True):
        picture(pipeline, name, "a cat")
    return handed[0], handed[-1]


def difference(one: Any, other: Any) -> float:
    """The largest difference between two answers of a network: a tensor, or a list of them."""
    one, other = one[0], other[0]
    return float(torch.stack([(a - b).abs().max() for a, b in zip(one, other, strict=True)]).max())
