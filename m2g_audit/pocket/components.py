"""The parts of pocket: the same classes as Stable Diffusion 1.4, small, with its noise schedule."""

import json
from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from m2g_audit.pocket.recipe import DenoiserRecipe, Recipe
from m2g_audit.pocket.world import SIZE

START, END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer(folder: Path, recipe: DenoiserRecipe, texts: Sequence[str]) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges were learnt on these texts; it can spell any text."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = pre_tokenizers.ByteLevel.alphabet()
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        special_tokens=[],
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    merges = json.loads(bpe.to_str())["model"]["merges"]
    # CLIP's own layout: letters, letters that end a word, merges in order, then the two marks.
    alphabet = sorted(letters)
    merged = list(dict.fromkeys("".join(pair) for pair in merges))
    tokens = list(dict.fromkeys([*alphabet, *(a + "</w>" for a in alphabet), *merged, START, END]))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        model_max_length=recipe.text_tokens,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=END,
    )


def make_text_encoder(tokenizer: CLIPTokenizer, recipe: DenoiserRecipe) -> CLIPTextModel:
    """A CLIP text model with random weights."""
    return CLIPTextModel(text_settings(tokenizer, recipe))


def text_settings(tokenizer: CLIPTokenizer, recipe: DenoiserRecipe) -> CLIPTextConfig:
    """The sizes of a CLIP text model for this tokenizer."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.text_width,
        intermediate_size=4 * recipe.text_width,
        num_hidden_layers=recipe.text_layers,
        num_attention_heads=recipe.text_heads,
        max_position_embeddings=recipe.text_tokens,
        projection_dim=recipe.text_width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def make_autoencoder(recipe: Recipe) -> AutoencoderKL:
    """A KL autoencoder with random weights: SIZE x SIZE pictures, latents a quarter of that."""
    n = len(recipe.autoencoder_widths)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=recipe.latent_channels,
        block_out_channels=recipe.autoencoder_widths,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        sample_size=SIZE,
    )


def make_denoiser(recipe: Recipe) -> UNet2DConditionModel:
    """A conditional U-Net with random weights over the latents."""
    return UNet2DConditionModel(
        sample_size=SIZE // 2 ** (len(recipe.autoencoder_widths) - 1),
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        block_out_channels=recipe.denoiser_widths,
        layers_per_block=1,
        cross_attention_dim=recipe.text_width,
        attention_head_dim=recipe.denoiser_heads,
        norm_num_groups=16,
        down_block_types=recipe.denoiser_down_blocks,
        up_block_types=recipe.denoiser_up_blocks,
    )


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.4's noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def assemble(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    """The parts as one pipeline, without a safety checker."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
