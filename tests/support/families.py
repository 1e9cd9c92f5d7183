"""A tiny random pipeline of each text-to-image family: no training, no download, a second to make.

Networks have the layers of the family's own, schedulers are of the kind that its checkpoints come
with, and tokenizers one token a letter. Every weight is drawn anew: what the networks start with
has gates of zero, behind which neither the prompt nor the time matters.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogView3PlusPipeline,
    CogView3PlusTransformer2DModel,
    CogView4Pipeline,
    CogView4Transformer2DModel,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    IFPipeline,
    Kandinsky3Pipeline,
    Kandinsky3UNet,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
    LuminaPipeline,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    VQModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Gemma2Config,
    Gemma2Model,
    GemmaConfig,
    GemmaModel,
    GemmaTokenizer,
    GlmConfig,
    GlmModel,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PixtralImageProcessor,
    PixtralProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

SIGNS = string.ascii_letters + string.digits + string.punctuation
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
WIDTH = 16
# FLUX.1's, which others took over: the larger the picture, the more of the steps are noisy.
GROWING_SHIFT: dict[str, Any] = {
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
# The words that pipelines put before a prompt; ^ before those that stand after no space.
QWEN_SYSTEM = (
    "the image by detailing color shape size texture quantity text spatial relationships of "
    "objects and background ^Describe ^system ^user ^assistant"
)
LUMINA_SYSTEM = (
    "^You are an assistant designed to generate superior images with the superior degree of "
    "image-text alignment based on textual prompts or user prompts. <Prompt Start>"
)
FLUX2_SYSTEM = (
    "^You are an AI that reasons about image descriptions. give structured responses focusing on "
    "object relationships, and actions without speculation. You"
)
QWEN_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL_CHAT = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set mark = '[SYSTEM_PROMPT]' if message.role == 'system' else '[INST]' %}"
    "{{ mark }}{{ message.content[0].text }}{{ mark.replace('[', '[/') }}{% endfor %}"
)


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
    return _flux(FlowMatchEulerDiscreteScheduler(**GROWING_SHIFT), guidance_embeds=True)


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


def chroma() -> ChromaPipeline:
    """Chroma: FLUX.1 without CLIP, modulated by a network of the time, with a negative prompt."""
    transformer = ChromaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(2, 2, 4),
        approximator_num_channels=8,
        approximator_hidden_dim=WIDTH,
        approximator_layers=1,
    )
    parts = {
        "transformer": transformer,
        "vae": _autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        "text_encoder": T5EncoderModel(_t5_settings()),
    }
    return ChromaPipeline(
        **_drawn(parts),
        tokenizer=_t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(**GROWING_SHIFT),
    )


def qwen_image() -> QwenImagePipeline:
    """Qwen-Image: a language model reads the prompt; latents are of a video of one frame."""
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(2, 2, 4),
    )
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    settings = Qwen2_5_VLConfig(
        text_config={
            **_language_settings(),
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]},
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        vision_config={**eyes, "out_hidden_size": WIDTH, "fullatt_block_indexes": [0]},
    )
    parts = {
        "transformer": transformer,
        "vae": _qwen_autoencoder(),
        "text_encoder": Qwen2_5_VLForConditionalGeneration(settings),
    }
    scheduler = FlowMatchEulerDiscreteScheduler(
        **{**GROWING_SHIFT, "shift": 1.0, "max_shift": 0.9, "max_image_seq_len": 8192},
        shift_terminal=0.02,
    )
    return QwenImagePipeline(**_drawn(parts), tokenizer=_qwen_tokenizer(), scheduler=scheduler)


def _qwen_autoencoder() -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[-0.7571, -0.7089, -0.9113, 0.1075],
        latents_std=[2.8184, 1.4541, 2.3275, 2.6558],
    )


def krea2() -> Krea2Pipeline:
    """Krea 2: layers of a language model fused by the network itself, latents as Qwen-Image's."""
    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=WIDTH,
        timestep_embed_dim=WIDTH,
        text_hidden_dim=WIDTH,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=WIDTH,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
    )
    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    settings = Qwen3VLConfig(
        text_config={
            **_language_settings(),
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]},
        },
        vision_config={**eyes, "out_hidden_size": WIDTH, "deepstack_visual_indexes": [0]},
    )
    parts = {
        "transformer": transformer,
        "vae": _qwen_autoencoder(),
        "text_encoder": Qwen3VLModel(settings),
    }
    return Krea2Pipeline(
        **_drawn(parts),
        tokenizer=_qwen_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(**GROWING_SHIFT),
        text_encoder_select_layers=(1, 2),
    )


def z_image() -> ZImagePipeline:
    """Z-Image: lists of pictures and of prompts of any length, time from 0 to 1."""
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=WIDTH,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 2, 2],
        axes_lens=[1024, 32, 32],
    )
    settings = Qwen3Config(**_language_settings(), head_dim=8)
    parts = {
        "transformer": transformer,
        "vae": _autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        "text_encoder": Qwen3Model(settings),
    }
    return ZImagePipeline(
        **_drawn(parts),
        tokenizer=_qwen_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def lumina2() -> Lumina2Pipeline:
    """Lumina-Image 2.0: time from 0 to 1, a system prompt, latents an eighth whatever the VAE."""
    transformer = Lumina2Transformer2DModel(
        sample_size=4,
        in_channels=4,
        hidden_size=WIDTH,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(300, 32, 32),
        cap_feat_dim=WIDTH,
    )
    parts = {
        "transformer": transformer,
        "vae": _autoencoder(halvings=3, scaling_factor=0.3611, shift_factor=0.1159),
        "text_encoder": Gemma2Model(_gemma_settings()),
    }
    return Lumina2Pipeline(
        **_drawn(parts, time=3.0),
        tokenizer=_gemma_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    )


def pixart_alpha() -> PixArtAlphaPipeline:
    """PixArt-Alpha: a transformer of noise, which returns a variance too."""
    return PixArtAlphaPipeline(**_pixart(scaling_factor=0.18215))


def pixart_sigma() -> PixArtSigmaPipeline:
    """PixArt-Sigma: the same with longer prompts and another autoencoder."""
    return PixArtSigmaPipeline(**_pixart(scaling_factor=0.13025))


def _pixart(*, scaling_factor: float) -> dict[str, Any]:
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        cross_attention_dim=WIDTH,
        sample_size=8,
        use_additional_conditions=False,
        caption_channels=WIDTH,
    )
    parts = {
        "transformer": transformer,
        "vae": _autoencoder(scaling_factor=scaling_factor),
        "text_encoder": T5EncoderModel(_t5_settings()),
    }
    return {
        **_drawn(parts),
        "tokenizer": _t5_tokenizer(),
        "scheduler": DPMSolverMultistepScheduler(),
    }


def sana() -> SanaPipeline:
    """Sana: linear attention, an autoencoder without a distribution, an instruction first."""
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return SanaPipeline(**_sana(), scheduler=scheduler)


def sana_sprint() -> SanaSprintPipeline:
    """Sana-Sprint: the same in few steps, times as angles, guidance as a number."""
    scheduler = SCMScheduler(sigma_data=0.5)
    return SanaSprintPipeline(
        **_sana(guidance_embeds=True, qk_norm="rms_norm_across_heads"), scheduler=scheduler
    )


def _sana(**settings: Any) -> dict[str, Any]:
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        sample_size=8,
        **settings,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)),
        decoder_qkv_multiscales=((), (), (5,)),
        scaling_factor=0.41407,
    )
    parts = {
        "transformer": transformer,
        "vae": vae,
        "text_encoder": Gemma2Model(_gemma_settings()),
    }
    return {**_drawn(parts), "tokenizer": _gemma_tokenizer()}


def auraflow() -> AuraFlowPipeline:
    """AuraFlow: time from 0 to 1, learned positions, tokens of its own before the prompt's."""
    transformer = AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pos_embed_max_size=64,
    )
    parts = {
        "transformer": transformer,
        "vae": _autoencoder(scaling_factor=0.13025),
        "text_encoder": UMT5EncoderModel(UMT5Config(**_t5_sizes(WIDTH))),
    }
    return AuraFlowPipeline(
        **_drawn(parts),
        tokenizer=_t5_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


def cogview4() -> CogView4Pipeline:
    """CogView4: sizes and crops as conditions, times on a grid of its own."""
    transformer = CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=WIDTH,
        condition_dim=8,
        sample_size=8,
    )
    settings = GlmConfig(**_language_settings(), head_dim=8, pad_token_id=0)
    parts = {
        "transformer": transformer,
        "vae": _autoencoder(scaling_factor=1.0, shift_factor=0.0),
        "text_encoder": GlmModel(settings),
    }
    scheduler = FlowMatchEulerDiscreteScheduler(
        **{**GROWING_SHIFT, "shift": 1.0, "base_shift": 0.25, "max_shift": 0.75},
        time_shift_type="linear",
    )
    return CogView4Pipeline(
        **_drawn(parts, time=3.0), tokenizer=_glm_tokenizer(), scheduler=scheduler
    )


def cogview3() -> CogView3PlusPipeline:
    """CogView3-Plus: a transformer whose targets are velocities of noise."""
    transformer = CogView3PlusTransformer2DModel(
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=WIDTH,
        time_embed_dim=WIDTH,
        condition_dim=8,
        pos_embed_max_size=16,
        sample_size=8,
    )
    parts = {
        "transformer": transformer,
        "vae": _autoencoder(scaling_factor=0.18215),
        "text_encoder": T5EncoderModel(_t5_settings()),
    }
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=4.0,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    return CogView3PlusPipeline(
        **_drawn(parts, time=3.0), tokenizer=_t5_tokenizer(), scheduler=scheduler
    )


def flux2() -> Flux2Pipeline:
    """FLUX.2-dev: layers of a language model side by side, latents normalised by the VAE."""
    language = {**_language_settings(), "num_hidden_layers": 30, "head_dim": 8}
    eyes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1}
    settings = Mistral3Config(
        text_config={"model_type": "mistral", **language},
        vision_config={"model_type": "pixtral", **eyes, "num_attention_heads": 2, "head_dim": 8},
    )
    parts = {
        "transformer": _flux2_transformer(guidance_embeds=True),
        "vae": _flux2_autoencoder(),
        "text_encoder": Mistral3ForConditionalGeneration(settings),
    }
    return Flux2Pipeline(
        **_drawn(parts),
        tokenizer=_mistral_processor(),
        scheduler=FlowMatchEulerDiscreteScheduler(**GROWING_SHIFT),
    )


def flux2_klein() -> Flux2KleinPipeline:
    """FLUX.2-klein: the base model, guided by an empty prompt."""
    settings = Qwen3Config(**{**_language_settings(), "num_hidden_layers": 27}, head_dim=8)
    parts = {
        "transformer": _flux2_transformer(guidance_embeds=False),
        "vae": _flux2_autoencoder(),
        "text_encoder": Qwen3ForCausalLM(settings),
    }
    return Flux2KleinPipeline(
        **_drawn(parts),
        tokenizer=_qwen_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(**GROWING_SHIFT),
    )


def _flux2_transformer(*, guidance_embeds: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        timestep_guidance_channels=WIDTH,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=guidance_embeds,
    )


def _flux2_autoencoder() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    # Of a trained one they are neither nought nor one.
    vae.bn.running_mean += torch.linspace(-0.1, 0.1, 16)
    vae.bn.running_var += torch.linspace(0.0, 2.0, 16)
    return vae


def ovis_image() -> OvisImagePipeline:
    """Ovis-Image: FLUX.1's packed latents, a chat with a language model for a prompt."""
    transformer = OvisImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(2, 2, 4),
    )
    parts = {
        "transformer": transformer,
        "vae": _autoencoder(scaling_factor=0.3611, shift_factor=0.1159),
        "text_encoder": Qwen3Model(Qwen3Config(**_language_settings(), head_dim=8)),
    }
    return OvisImagePipeline(
        **_drawn(parts),
        tokenizer=_qwen_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(**GROWING_SHIFT),
    )


def lumina() -> LuminaPipeline:
    """Lumina-Next: time from 0 to 1, two halves returned of which one is used."""
    transformer = LuminaNextDiT2DModel(
        sample_size=4,
        in_channels=4,
        hidden_size=WIDTH,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        cross_attention_dim=WIDTH,
    )
    parts = {
        "transformer": transformer,
        "vae": _autoencoder(halvings=3, scaling_factor=0.13025),
        "text_encoder": GemmaModel(GemmaConfig(**_language_settings(), head_dim=8)),
    }
    return LuminaPipeline(
        **_drawn(parts, time=3.0),
        tokenizer=_gemma_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )


def hunyuandit() -> HunyuanDiTPipeline:
    """HunyuanDiT 1.2: velocities of noise, a Chinese and a multilingual text encoder."""
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=WIDTH,
        num_layers=4,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=WIDTH,
        use_style_cond_and_image_meta_size=False,
    )
    reader = BertConfig(
        vocab_size=128,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=WIDTH,
        max_position_embeddings=77,
    )
    parts = {
        "transformer": transformer,
        "vae": _autoencoder(scaling_factor=0.13025),
        "text_encoder": BertModel(reader),
        "text_encoder_2": T5EncoderModel(_t5_settings()),
    }
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.018,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        steps_offset=1,
        clip_sample=False,
    )
    return HunyuanDiTPipeline(
        **_drawn(parts),
        tokenizer=_bert_tokenizer(),
        tokenizer_2=_t5_tokenizer(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def kandinsky3() -> Kandinsky3Pipeline:
    """Kandinsky 3: a UNet of its own, prompts cut where their words end, latents of a MoVQ."""
    unet = Kandinsky3UNet(
        time_embedding_dim=WIDTH,
        groups=2,
        attention_head_dim=4,
        layers_per_block=2,
        block_out_channels=(8, 8, 8, 8),
        cross_attention_dim=WIDTH,
        encoder_hid_dim=WIDTH,
    )
    movq = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32),
        latent_channels=4,
        num_vq_embeddings=16,
        norm_num_groups=4,
        norm_type="spatial",
    )
    parts = {
        "unet": unet,
        "movq": movq,
        "text_encoder": T5EncoderModel(_t5_settings()),
    }
    return Kandinsky3Pipeline(
        **_drawn(parts),
        tokenizer=_t5_tokenizer(),
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
    )


def lcm() -> LatentConsistencyModelPipeline:
    """A latent consistency model: guidance is a number that the network is handed."""
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
        time_cond_proj_dim=8,
    )
    parts = {
        "unet": unet,
        "vae": _autoencoder(scaling_factor=0.18215),
        "text_encoder": CLIPTextModel(_clip_settings()),
    }
    return LatentConsistencyModelPipeline(
        **_drawn(parts),
        tokenizer=_clip_tokenizer(),
        scheduler=LCMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def deepfloyd_if() -> IFPipeline:
    """DeepFloyd IF, first stage: noise of pixels, no autoencoder, a variance besides."""
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=6,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=WIDTH,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="text_proj",
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        class_embed_type=None,
    )
    parts = {"unet": unet, "text_encoder": T5EncoderModel(_t5_settings())}
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type="learned_range",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    )
    return IFPipeline(
        **_drawn(parts),
        tokenizer=_t5_tokenizer(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


FAMILIES: dict[str, Callable[[], DiffusionPipeline]] = {
    "sdxl": sdxl,
    "sd3": sd3,
    "sd3_without_t5": sd3_without_t5,
    "flux_dev": flux_dev,
    "flux_schnell": flux_schnell,
    "qwen_image": qwen_image,
    "z_image": z_image,
    "chroma": chroma,
    "lumina2": lumina2,
    "pixart_alpha": pixart_alpha,
    "pixart_sigma": pixart_sigma,
    "sana": sana,
    "auraflow": auraflow,
    "cogview4": cogview4,
    "cogview3": cogview3,
    "flux2": flux2,
    "flux2_klein": flux2_klein,
    "ovis_image": ovis_image,
    "lumina": lumina,
    "hunyuandit": hunyuandit,
    "kandinsky3": kandinsky3,
    "lcm": lcm,
    "krea2": krea2,
    "sana_sprint": sana_sprint,
    "deepfloyd_if": deepfloyd_if,
}

# What a pipeline is called with, to make the smallest picture that it can.
SMALL: dict[str, dict[str, Any]] = {
    **{name: {"height": 16, "width": 16} for name in FAMILIES},
    "lumina": {"height": 32, "width": 32},
    "lumina2": {"height": 32, "width": 32},
    "kandinsky3": {"height": 64, "width": 64},
    # Among hundreds of tokens without a word, a few words would hardly matter.
    "flux2": {"height": 16, "width": 16, "max_sequence_length": 64},
    "ovis_image": {"height": 16, "width": 16, "max_sequence_length": 32},
    # Elsewhere pictures are made of a size that the checkpoints were trained at, and made smaller.
    "hunyuandit": {"height": 16, "width": 16, "use_resolution_binning": False},
    "pixart_alpha": {"height": 16, "width": 16, "use_resolution_binning": False},
    "pixart_sigma": {"height": 16, "width": 16, "use_resolution_binning": False},
    "sana_sprint": {"height": 32, "width": 32, "use_resolution_binning": False},
    "sana": {"height": 32, "width": 32, "use_resolution_binning": False},
}


def _drawn(parts: dict[str, nn.Module | None], *, time: float = 1.0) -> dict[str, Any]:
    """The networks in evaluation mode, every weight drawn anew from a fixed seed.

    `time` widens the layers that read the time, where else it would hardly matter.
    """
    generator = torch.Generator().manual_seed(0)
    for part in filter(None, parts.values()):
        for name, weight in part.eval().named_parameters():
            _draw(weight.data, generator, around_one="norm" in name and name.endswith("weight"))
            weight.data *= time if "timestep_embedder" in name else 1
    return parts


def _draw(weight: torch.Tensor, generator: torch.Generator, *, around_one: bool) -> None:
    # As wide as keeps what a layer returns about as large as what it is handed.
    inputs = weight[0].numel() if weight.ndim > 1 else 100
    weight.normal_(std=inputs**-0.5, generator=generator)
    if around_one and weight.ndim == 1:
        weight += 1


def _autoencoder(*, halvings: int = 1, **settings: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,) * halvings + (16,),
        down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
        up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
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
    return T5Config(**_t5_sizes(width))


def _t5_sizes(width: int) -> dict[str, Any]:
    return {
        "vocab_size": 4 + len(SIGNS),
        "d_model": width,
        "d_kv": 8,
        "d_ff": width,
        "num_layers": 2,
        "num_heads": 2,
        "feed_forward_proj": "gated-gelu",
    }


def _t5_tokenizer() -> T5Tokenizer:
    special = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    letters = [(sign, -2.0) for sign in ("▁", *SIGNS)]
    return T5Tokenizer(vocab=special + letters, extra_ids=0, model_max_length=512)


def _language_settings() -> dict[str, Any]:
    return {
        "vocab_size": 512,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
    }


def _gemma_settings() -> Gemma2Config:
    return Gemma2Config(**_language_settings(), head_dim=8)


def _gemma_tokenizer() -> GemmaTokenizer:
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    longer, merges = _words("▁", LUMINA_SYSTEM)
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *SIGNS, *longer]
    return GemmaTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        add_bos_token=True,
    )


def _qwen_tokenizer() -> Qwen2Tokenizer:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    longer, merges = _words("Ġ", QWEN_SYSTEM)
    tokens = [*special, *BYTES, *longer]
    return Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        eos_token="<|im_end|>",
        extra_special_tokens=special[1:],
        chat_template=QWEN_CHAT,
    )


def _glm_tokenizer() -> PreTrainedTokenizerFast:
    special = ["<|endoftext|>", "[gMASK]", "<sop>"]
    vocabulary = {token: index for index, token in enumerate(special + BYTES)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=[("[gMASK]", 1), ("<sop>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        extra_special_tokens=special[1:],
        padding_side="left",
    )


def _mistral_processor() -> PixtralProcessor:
    special = ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]"]
    special += ["[/SYSTEM_PROMPT]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    longer, merges = _words("Ġ", FLUX2_SYSTEM)
    vocabulary = {token: index for index, token in enumerate([*special, *BYTES, *longer])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[^\s]+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=special[4:],
        padding_side="left",
    )
    return PixtralProcessor(
        image_processor=PixtralImageProcessor(), tokenizer=tokenizer, chat_template=MISTRAL_CHAT
    )


def _bert_tokenizer() -> BertTokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    inner = [f"##{letter}" for letter in letters if letter.isalnum()]
    tokens = [*special, *letters, *inner]
    return BertTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, model_max_length=77
    )


def _words(space: str, text: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The starts of the text's words, as one token each, and the merges that they come of.

    As in the families' own tokenizers, what they put before a prompt takes few of its tokens.
    """
    words = dict.fromkeys(f"{space}{word}".removeprefix(f"{space}^") for word in text.split())
    starts = {(word[:end], word[end]): None for word in words for end in range(1, len(word))}
    return [start + letter for start, letter in starts], list(starts)
