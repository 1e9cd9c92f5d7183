"""Single files of weights under the names of the first Stable Diffusion, made of a pipeline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
EMA = "model_ema."
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def checkpoint(pipe: Any, *, averaged: Any = None) -> dict[str, Tensor]:
    """The weights of a Stable Diffusion pipeline as its first checkpoints had them.

    averaged: a second U-Net, whose weights are those of an average over the training.
    """
    layers = pipe.unet.config.layers_per_block
    blocks = len(pipe.vae.config.block_out_channels)
    found: dict[str, Tensor] = {}
    for key, weight in pipe.unet.state_dict().items():
        name = _unet(key, layers)
        found[UNET + name] = weight
        if averaged is not None:
            flat = f"{EMA}diffusion_model{name.replace('.', '')}"
            found[flat] = averaged.state_dict()[key]
    for key, weight in pipe.vae.state_dict().items():
        found[VAE + _vae(key, blocks)] = weight
    for key, weight in pipe.text_encoder.state_dict().items():
        found[f"{TEXT}text_model.{key.removeprefix('text_model.')}"] = weight
    return {key: weight.contiguous() for key, weight in found.items()}


def save(pipe: Any, file: Path, **averaged: Any) -> Path:
    """The file, into which a pipeline was written so."""
    save_file(checkpoint(pipe, **averaged), file)
    return file


def _unet(key: str, layers: int) -> str:
    for ours, theirs in _UNET_ENDS.items():
        if key.startswith(f"{ours}."):
            return theirs + key.removeprefix(ours)
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        kind, number, rest = found.groups()
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{_inside(kind, rest)}"
    found = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", key)
    assert found is not None, key
    way, block, kind, number, rest = found.groups()
    if way == "down" and kind == "downsamplers":
        return f"input_blocks.{(layers + 1) * (int(block) + 1)}.0.{rest.replace('conv', 'op')}"
    if way == "down":
        place = (layers + 1) * int(block) + int(number) + 1
        return f"input_blocks.{place}.{int(kind == 'attentions')}.{_inside(kind, rest)}"
    place = (layers + 1) * int(block) + int(number)
    if kind == "upsamplers":
        # Of the tiny pipeline only a block without attention grows, which else came between.
        return f"output_blocks.{(layers + 1) * int(block) + layers}.1.{rest}"
    return f"output_blocks.{place}.{int(kind == 'attentions')}.{_inside(kind, rest)}"


def _inside(kind: str, rest: str) -> str:
    return _renamed(rest, _RESNET) if kind == "resnets" else rest


def _vae(key: str, blocks: int) -> str:
    key = key.replace("conv_norm_out", "norm_out")
    if found := re.match(r"(\w+)\.mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        side, kind, number, rest = found.groups()
        if kind == "attentions":
            return f"{side}.mid.attn_1.{_renamed(rest, _ATTENTION)}"
        return f"{side}.mid.block_{int(number) + 1}.{_shortcut(rest)}"
    if found := re.match(r"(\w+)\.(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", key):
        side, way, block, kind, number, rest = found.groups()
        # Upwards they were counted from the other end.
        place = int(block) if way == "down" else blocks - 1 - int(block)
        if kind == "resnets":
            return f"{side}.{way}.{place}.block.{number}.{_shortcut(rest)}"
        return f"{side}.{way}.{place}.{kind.replace('samplers', 'sample')}.{rest}"
    return key


def _shortcut(rest: str) -> str:
    return rest.replace("conv_shortcut", "nin_shortcut")


def _renamed(rest: str, names: dict[str, str]) -> str:
    ours = next(name for name in names if rest.startswith(f"{name}."))
    return names[ours] + rest.removeprefix(ours)
