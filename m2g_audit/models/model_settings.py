"""What the configurations of a model may say: checked before the libraries build anything of them.

Only sizes and numbers that this program or the loaders rest on have a place here; other keys pass,
as long as their values are of a sane depth and size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from m2g_audit.errors import ModelError
from m2g_audit.text import printable

_DEEPEST = 8
_LARGEST = 10**7
_LONGEST = 10_000
# Of DPM-Solver++ and its kin: no clipping, which save_pretrained writes as -Infinity.
_UNBOUNDED = "lambda_min_clipped"
# Any other way of attending may be a kernel of the hub, which is code and would be fetched.
_ATTENTION = ("eager", "sdpa", None)

Width = Annotated[int, Field(ge=1, le=65_536)]
Layers = Annotated[int, Field(ge=0, le=256)]
Side = Annotated[int, Field(ge=1, le=4_096)]
Times = Annotated[int, Field(ge=2, le=100_000)]
Tiny = Annotated[float, Field(ge=0, lt=1)]
Beta = Annotated[float, Field(gt=0, le=1)]
Blocks = Annotated[list[Annotated[str, Field(max_length=100)]], Field(min_length=1, max_length=32)]
Widths = Annotated[list[Width], Field(min_length=1, max_length=32)]
LayersByBlock = Layers | list[Layers]


class _Settings(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    quantization_config: None = None


class UNetSettings(_Settings):
    """Of a U-Net: what a latent or picture is like, and how large the network is."""

    sample_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)]
    in_channels: Width
    out_channels: Width = 4
    block_out_channels: Widths = Field(default_factory=list, validate_default=False)
    layers_per_block: LayersByBlock = 2
    transformer_layers_per_block: LayersByBlock | list[list[Layers]] = 1
    down_block_types: Blocks | None = None
    up_block_types: Blocks | None = None
    cross_attention_dim: Width | list[Width] | None = None
    attention_head_dim: Width | list[Width] | None = None
    norm_num_groups: Width | None = None
    norm_eps: Tiny = 1e-5
    freq_shift: Annotated[float, Field(ge=0, lt=1000)] = 0
    downsample_padding: Annotated[int, Field(ge=0, le=16)] = 1
    mid_block_scale_factor: Annotated[float, Field(gt=0)] = 1


class VaeSettings(_Settings):
    """Of a VAE."""

    latent_channels: Width
    scaling_factor: Annotated[float, Field(gt=0)] = 0.18215
    layers_per_block: LayersByBlock = 1
    norm_num_groups: Width | None = None


class TextEncoderSettings(_Settings):
    """Of a text encoder."""

    num_hidden_layers: Layers | None = None
    hidden_size: Width | None = None
    intermediate_size: Width | None = None
    num_attention_heads: Width | None = None
    max_position_embeddings: Width | None = None
    layer_norm_eps: Tiny = 1e-5
    eos_token_id: int = 2
    vocab_size: Annotated[int, Field(ge=1, le=10**6)] | None = None


class SchedulerSettings(_Settings):
    """Of a scheduler: the noise schedule."""

    num_train_timesteps: Times = 1000
    beta_start: Beta | None = None
    beta_end: Beta | None = None
    beta_schedule: str | None = None
    trained_betas: Annotated[list[Beta], Field(max_length=100_000)] | None = None
    prediction_type: str = "epsilon"
    steps_offset: Annotated[int, Field(ge=0, le=1000)] = 0
    lambda_min_clipped: Annotated[float, Field(lt=0, allow_inf_nan=True)] = -1.0
    clip_sample: bool | None = None
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    class_name: str = Field("", alias="_class_name", max_length=100)


_OF_CLASS: dict[str, type[_Settings]] = {
    "UNet2DModel": UNetSettings,
    "UNet2DConditionModel": UNetSettings,
    "AutoencoderKL": VaeSettings,
    "AutoencoderTiny": VaeSettings,
    "CLIPTextModel": TextEncoderSettings,
    "CLIPTextModelWithProjection": TextEncoderSettings,
}
_OF_PART: dict[str, type[_Settings]] = {
    "unet": UNetSettings,
    "vae": VaeSettings,
    "text_encoder": TextEncoderSettings,
    "scheduler": SchedulerSettings,
}


def _settings_of(content: Any, component: str) -> type[_Settings]:
    """What is known of a part: by its class, by its name where no class is named."""
    named = content.get("_class_name") or (content.get("architectures") or [None])[0]
    if component == "scheduler" or not isinstance(named, str):
        return _OF_PART.get(component, _Settings)
    return _OF_CLASS.get(named, _Settings)


def check_settings(content: Any, component: str, where: str) -> None:
    """Raise ModelError unless a part's configuration could be one; `where` names its file."""
    fault = next(_wild(content), None) or _invalid(content, component)
    if fault is not None:
        raise ModelError(
            f"{where} can't be the configuration of a model: {fault}. Get the file again from "
            "where the model comes from, or save the model anew with save_pretrained."
        )


def _invalid(content: Any, component: str) -> str | None:
    try:
        _settings_of(content, component).model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        key = ".".join(map(str, first["loc"][:1]))
        if key == "quantization_config":
            return "the weights are quantized, which is not supported"
        return f"{key}: {first['msg']}" if key else first["msg"]
    return None


def _wild(value: Any, key: str = "", depth: int = 0) -> Iterator[str]:
    """What is said of values that no configuration has: too deep, too large, too long."""
    if depth > _DEEPEST:
        yield f"{key} is nested more than {_DEEPEST} deep"
    elif isinstance(value, dict):
        for name, inner in value.items():
            if "attn_implementation" in name or "experts_implementation" in name:
                yield from _foreign_kernel(name, inner)
            yield from _wild(inner, key or printable(name, 80), depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _wild(inner, key, depth + 1)
    elif isinstance(value, str) and len(value) > _LONGEST:
        yield f"{key} has {len(value):,} letters"
    elif isinstance(value, int | float) and not abs(value) <= _LARGEST and key != _UNBOUNDED:
        yield f"{key} is a number beyond {_LARGEST:,}"


def _foreign_kernel(key: str, value: Any) -> Iterator[str]:
    for named in value.values() if isinstance(value, dict) else [value]:
        if named not in _ATTENTION:
            shown = printable(str(named), 80)
            yield f"{key} names {shown}, code that would be fetched: only eager and sdpa are run"
