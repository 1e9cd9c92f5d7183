"""Models as objects in memory: audited as they are, left alone, told apart by their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, EDMEulerScheduler, StableDiffusionPipeline

from m2g_audit.errors import ModelError
from m2g_audit.models.loading import load_model
from m2g_audit.models.origins import InMemory
from tests.support import tiny

PROMPT, SEEDS = "a harbour", [3, 5]
SAMPLING: dict[str, Any] = {"steps": 2, "guidance": 3.0}


def images(model: object) -> torch.Tensor:
    loaded = load_model(model)  # type: ignore[arg-type]
    return loaded.generate(PROMPT, SEEDS, **SAMPLING).images


def sha256(pipe: StableDiffusionPipeline) -> str:
    return load_model(pipe).identity.sha256


def test_a_pipeline_in_memory_gives_the_pictures_of_its_folder(tmp_path: Path) -> None:
    pipe = tiny.text_to_image()
    folder = tiny.save(pipe, tmp_path / "model")
    assert torch.equal(
        images(pipe), load_model(folder, device="cpu").generate(PROMPT, SEEDS, **SAMPLING).images
    )


def test_the_object_is_left_as_it_is() -> None:
    pipe = tiny.text_to_image(flag_everything=True)
    before = (pipe.scheduler, pipe.safety_checker, dict(pipe.config))
    made = load_model(pipe).generate(PROMPT, SEEDS, scheduler="keep", **SAMPLING).images
    assert pipe.scheduler.num_inference_steps is None, "its scheduler was used"
    assert (pipe.scheduler, pipe.safety_checker, dict(pipe.config)) == before
    assert float(made.std()) > 0, "the safety checker blackened what is audited"


def test_what_is_in_memory_counts_not_where_it_came_from() -> None:
    pipe, twin = tiny.text_to_image(), tiny.text_to_image()
    assert sha256(pipe) == sha256(twin) != sha256(tiny.text_to_image(seed=1))
    changed = tiny.text_to_image()
    with torch.no_grad():
        next(changed.unet.parameters()).add_(1e-3)
    assert sha256(changed) != sha256(pipe)


def test_the_scale_of_an_adapter_is_part_of_the_identity() -> None:
    pipe, scaled = tiny.text_to_image(), tiny.text_to_image()
    scaled.unet.conv_in.scaling = {"default": 0.5}  # as peft's layers have it
    assert sha256(scaled) != sha256(pipe)


def test_settings_of_a_pipeline_are_part_of_its_identity() -> None:
    one, other = tiny.text_to_image(), tiny.text_to_image(scheduler="ddim")
    assert load_model(one).identity.configuration != load_model(other).identity.configuration


def test_a_class_of_ones_own_is_asked_itself() -> None:
    class Weighted(StableDiffusionPipeline):
        """Weights prompts in a way of its own."""

        def encode_prompt(self, *arguments: Any, **named: Any) -> Any:
            conditional, unconditional = super().encode_prompt(*arguments, **named)
            return 2 * conditional, unconditional

    pipe = tiny.text_to_image()
    weighted = Weighted(**pipe.components, requires_safety_checker=False)
    assert not torch.equal(images(weighted), images(pipe))


def test_curvature_of_a_pipeline_in_half_precision_is_taken_in_float32() -> None:
    pipe = tiny.text_to_image().to(torch.float16)
    exact = InMemory(pipe).exact("unet")
    assert {p.dtype for p in exact.parameters()} == {torch.float32}
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.float16}


def test_what_can_not_be_audited_is_refused() -> None:
    unconditional = tiny.ddpm()
    assert isinstance(unconditional, DDPMPipeline)
    with pytest.raises(ModelError, match="DDPMPipeline is no pipeline that can be audited"):
        load_model(unconditional)
    pipe = tiny.text_to_image()
    pipe.scheduler = EDMEulerScheduler()
    with pytest.raises(ModelError, match=r"EDMEulerScheduler. has no noise schedule of betas"):
        load_model(pipe)
