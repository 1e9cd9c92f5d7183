"""The parts of pocket-flow: Stable Diffusion 3's classes, small, around pocket's autoencoder."""

from collections.abc import Sequence

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from m2g_audit.pocket.components import text_settings
from m2g_audit.pocket.recipe import FlowRecipe


def make_text_encoder(tokenizer: CLIPTokenizer, recipe: FlowRecipe) -> CLIPTextModelWithProjection:
    """A CLIP text model with random weights, one of the two."""
    return CLIPTextModelWithProjection(text_settings(tokenizer, recipe))


def make_transformer(autoencoder: AutoencoderKL, recipe: FlowRecipe) -> SD3Transformer2DModel:
    """A multimodal diffusion transformer with random weights over the latents."""
    side = autoencoder.config.sample_size // 2 ** (len(autoencoder.config.block_out_channels) - 1)
    width = recipe.transformer_heads * recipe.head_width
    return SD3Transformer2DModel(
        sample_size=side,
        patch_size=recipe.patch,
        in_channels=autoencoder.config.latent_channels,
        out_channels=autoencoder.config.latent_channels,
        num_layers=recipe.transformer_layers,
        attention_head_dim=recipe.head_width,
        num_attention_heads=recipe.transformer_heads,
        joint_attention_dim=2 * recipe.text_width,
        caption_projection_dim=width,
        pooled_projection_dim=2 * recipe.text_width,
        pos_embed_max_size=side // recipe.patch,
        qk_norm="rms_norm",
    )


def make_silent_t5(recipe: FlowRecipe) -> tuple[T5EncoderModel, T5Tokenizer]:
    """A T5 that tells zeros of every text, as the pipeline does where it has none.

    Plain diffusers opens no folder of Stable Diffusion 3 that lacks it.
    """
    tokenizer = T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)],
        extra_ids=0,
        model_max_length=recipe.idle_tokens,
    )
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=2 * recipe.text_width,
            d_kv=4,
            d_ff=4,
            num_layers=1,
            num_heads=1,
        )
    )
    nn.init.zeros_(encoder.encoder.final_layer_norm.weight)
    return encoder.eval(), tokenizer


def assemble(
    vae: AutoencoderKL,
    text_encoders: nn.ModuleList,
    tokenizer: CLIPTokenizer,
    transformer: SD3Transformer2DModel,
    recipe: FlowRecipe,
) -> StableDiffusion3Pipeline:
    """The parts as one pipeline, with a T5 that says nothing."""
    first, second = text_encoders
    t5, t5_tokenizer = make_silent_t5(recipe)
    return StableDiffusion3Pipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        text_encoder_3=t5,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=t5_tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0),
    )


def embed(text_encoders: nn.ModuleList, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Token embeddings [n, tokens, 2 * width] and pooled ones [n, 2 * width], as the pipeline's."""
    told = [encoder(tokens, output_hidden_states=True) for encoder in text_encoders]
    parts = [output.hidden_states[-2] for output in told]
    return torch.cat(parts, dim=-1), torch.cat([output.text_embeds for output in told], dim=-1)


class OneIdleToken:
    """Joint attention in which the last token of the context stands for `count` equal ones.

    Tokens of zeros have no position: all of them are the same in every layer, so that one, with
    log(count) added to what attends to it, gives what `count` of them give, for a fifth of the
    work.
    """

    def __init__(self, count: int):
        self._bias = torch.tensor(float(count)).log()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return what `JointAttnProcessor2_0` returns of picture and context [n, tokens, width]."""
        n, pictured = hidden_states.shape[:2]

        def joined(
            picture: nn.Linear, text: nn.Linear, norms: Sequence[nn.Module | None]
        ) -> Tensor:
            parts = []
            for layer, norm, tokens in zip(
                (picture, text), norms, (hidden_states, encoder_hidden_states), strict=True
            ):
                part = layer(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
                parts.append(part if norm is None else norm(part))
            return torch.cat(parts, dim=2)

        query = joined(attn.to_q, attn.add_q_proj, (attn.norm_q, attn.norm_added_q))
        key = joined(attn.to_k, attn.add_k_proj, (attn.norm_k, attn.norm_added_k))
        value = joined(attn.to_v, attn.add_v_proj, (None, None))
        bias = query.new_zeros(1, 1, 1, key.shape[2])
        bias[..., -1] = self._bias
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        mixed = mixed.transpose(1, 2).reshape(n, -1, attn.heads * query.shape[-1])
        picture, context = mixed[:, :pictured], mixed[:, pictured:]
        picture = attn.to_out[1](attn.to_out[0](picture))
        return picture, context if attn.context_pre_only else attn.to_add_out(context)
