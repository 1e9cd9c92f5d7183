"""Tiny randomly initialised models for tests: no training, no download, a second to make."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

# Stable Diffusion 1.4's noise schedule.
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
LATENT = (4, 8, 8)
IMAGE = (16, 16)


def text_to_image(
    prediction_type: str = "epsilon",
    *,
    version: str = "1.x",
    scheduler: str = "pndm",
    flag_everything: bool = False,
    seed: int = 0,
) -> StableDiffusionPipeline:
    """A random Stable Diffusion pipeline with 4x8x8 latents and 16x16 pictures.

    `version` "2.x" has that family's linear projections, head sizes and text activation.
    `flag_everything` adds a safety checker that finds every picture unsafe.
    """
    torch.manual_seed(seed)
    second = version == "2.x"
    unet = UNet2DConditionModel(
        sample_size=LATENT[1],
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=(2, 4) if second else 2,
        use_linear_projection=second,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=LATENT[0],
        norm_num_groups=4,
        sample_size=IMAGE[0],
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(_vocabulary()),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            hidden_act="gelu" if second else "quick_gelu",
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    schedule = {**SCHEDULE, "prediction_type": prediction_type}
    return StableDiffusionPipeline(
        unet=unet.eval(),
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=_tokenizer(),
        scheduler=(
            PNDMScheduler.from_config({**schedule, "skip_prk_steps": True})
            if scheduler == "pndm"
            else DDIMScheduler(**schedule)
        ),
        safety_checker=_flag_everything() if flag_everything else None,
        feature_extractor=(
            CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
            if flag_everything
            else None
        ),
        requires_safety_checker=flag_everything,
    )


def ddpm(prediction_type: str = "epsilon", *, seed: int = 0) -> DDPMPipeline:
    """A random unconditional pipeline of 3x8x8 pictures."""
    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return DDPMPipeline(unet.eval(), DDPMScheduler(prediction_type=prediction_type))


def save(pipeline: Any, folder: Path) -> Path:
    """The folder, into which the pipeline was written as safetensors."""
    pipeline.save_pretrained(folder)
    return folder


def _flag_everything() -> StableDiffusionSafetyChecker:
    sizes = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = CLIPConfig(
        vision_config={**sizes, "image_size": 8, "patch_size": 4},
        text_config=sizes,
        projection_dim=8,
    )
    checker = StableDiffusionSafetyChecker(config).eval()
    checker.concept_embeds_weights.data.fill_(-10.0)
    return checker


def _vocabulary() -> dict[str, int]:
    letters = [chr(code) for code in range(33, 127)]
    tokens = [
        "<|startoftext|>",
        "<|endoftext|>",
        *letters,
        *(f"{letter}</w>" for letter in letters),
    ]
    return {token: index for index, token in enumerate(tokens)}


def _tokenizer() -> CLIPTokenizer:
    # From files, because the constructor differs between versions of transformers.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(_vocabulary()))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
        marks |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
        settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **marks}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "special_tokens_map.json").write_text(json.dumps(marks))
        return CLIPTokenizer.from_pretrained(folder)
