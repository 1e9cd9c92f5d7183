"""A tiny random pipeline of each text-to-image family: no training, no download, a second to make.

Networks have the layers of the family's own, schedulers the settings that its checkpoints come
with, and tokenizers one token a letter. Every weight is drawn anew: what the networks start with
has gates of zero, behind which neither the prompt nor the time matters.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

SIGNS = string.ascii_letters + string.digits + string.punctuation
WIDTH = 16


def sdxl() -> StableDiffusionXLPipeline:
    """Stable Diffusion XL: a UNet of noise, two text encoders, sizes and crops as conditions."""
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        cross_attention_dim=2 * WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=WIDTH + 6 * 8,
    )
    parts = {
        "unet": unet,
        "vae": _autoencoder(scaling_factor=0.13025),
        "text_encoder": CLIPTextModel(_clip_settings()),
        "text_encoder_2": CLIPTextModelWithProjection(_clip_settings()),
    }
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    return StableDiffusionXLPipeline(
        **_drawn(parts),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(pad="!"),
        scheduler=scheduler,
        add_watermarker=False,
    )


def sd3(*, t5: bool = True) -> StableDiffusion3Pipeline:
    """Stable Diffusion 3 and 3.5: a transformer of flow, two CLIPs and, where it is kept, T5."""
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    parts = {
        "transformer": transformer,
        "vae": _autoencoder(scaling_factor=1.5305, shift_factor=0.0609),
        "text_encoder": CLIPTextModelWithProjection(_clip_settings()),
        "text_encoder_2": CLIPTextModelWithProjection(_clip_settings()),
        "text_encoder_3": T5EncoderModel(_t5_settings(width=2 * WIDTH)) if t5 else None,
    }
    return StableDiffusion3Pipeline(
        **_drawn(parts),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(pad="!"),
        tokenizer_3=_t5_tokenizer() if t5 else None,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def sd3_without_t5() -> StableDiffusion3Pipeline:
    """Stable Diffusion 3 as it is loaded to save memory."""
    return sd3(t5=False)


def flux_dev() -> FluxPipeline:
    """FLUX.1-dev: guidance is a number that the network is handed; shift grows with the size."""
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )
    return _flux(scheduler, guidance_embeds=True)


def flux_schnell() -> FluxPipeline:
    """FLUX.1-schnell: no guidance, no shift."""
    return _flux(FlowMatchEulerDiscreteScheduler(shift=1.0), guidance_embeds=False)


def _flux(scheduler: FlowMatchEulerDiscreteScheduler, *, guidance_embeds: bool) -> FluxPipeline:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(2, 2, 4),
    )
    parts = {
        "transformer": transformer,
        "vae": _autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        "text_encoder": CLIPTextModel(_clip_settings()),
        "text_encoder_2": T5EncoderModel(_t5_settings()),
    }
    return FluxPipeline(
        **_drawn(parts),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_t5_tokenizer(),
        scheduler=scheduler,
    )


FAMILIES: dict[str, Callable[[], DiffusionPipeline]] = {
    "sdxl": sdxl,
    "sd3": sd3,
    "sd3_without_t5": sd3_without_t5,
    "flux_dev": flux_dev,
    "flux_schnell": flux_schnell,
}

# What a pipeline is called with, to make the smallest picture that it can.
SMALL: dict[str, dict[str, Any]] = {name: {"height": 16, "width": 16} for name in FAMILIES}


def _drawn(parts: dict[str, nn.Module | None]) -> dict[str, nn.Module | None]:
    """The networks in evaluation mode, every weight drawn anew from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    for part in filter(None, parts.values()):
        for name, weight in part.eval().named_parameters():
            _draw(weight.data, generator, around_one="norm" in name and name.endswith("weight"))
    return parts


def _draw(weight: torch.Tensor, generator: torch.Generator, *, around_one: bool) -> None:
    # As wide as keeps what a layer returns about as large as what it is handed.
    inputs = weight[0].numel() if weight.ndim > 1 else 100
    weight.normal_(std=inputs**-0.5, generator=generator)
    if around_one and weight.ndim == 1:
        weight += 1


def _autoencoder(**settings: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        **settings,
    )


def _clip_settings() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=2 + 2 * len(SIGNS),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _clip_tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    tokens = ["<|startoftext|>", "<|endoftext|>", *SIGNS, *(f"{sign}</w>" for sign in SIGNS)]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[],
        pad_token=pad,
        model_max_length=77,
    )


def _t5_settings(width: int = WIDTH) -> T5Config:
    return T5Config(
        vocab_size=4 + len(SIGNS),
        d_model=width,
        d_kv=8,
        d_ff=width,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )


def _t5_tokenizer() -> T5Tokenizer:
    special = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    letters = [(sign, -2.0) for sign in ("▁", *SIGNS)]
    return T5Tokenizer(vocab=special + letters, extra_ids=0, model_max_length=512)
