"""Every number that the training of pocket and of pocket-flow depends on."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace


@dataclass(frozen=True)
class DenoiserRecipe:
    """The settings that every training has; two equal recipes give the same training run."""

    seed: int = 0

    text_width: int = 64
    text_layers: int = 2
    text_heads: int = 4
    text_tokens: int = 16

    denoiser_steps: int = 12000
    denoiser_batch: int = 64
    denoiser_learning_rate: float = 6e-4
    final_learning_rate: float = 0.05
    """The last learning rate of a stage as a share of the first (cosine)."""
    warmup_steps: int = 200
    ema_decay: float = 0.9995
    caption_dropout: float = 0.1

    checkpoint_every: int = 500
    log_every: int = 50

    default_steps: int = 20
    default_guidance: float = 3.0

    def fingerprint(self) -> str:
        """A short hash over what training depends on, kept in checkpoints so that none mix."""
        settings = {k: v for k, v in asdict(self).items() if k not in _NOT_TRAINING}
        text = json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Recipe(DenoiserRecipe):
    """The settings of a training of pocket: an autoencoder, then a U-Net."""

    autoencoder_widths: tuple[int, ...] = (32, 64, 64)
    latent_channels: int = 12
    autoencoder_pictures: int = 100
    """Pictures of each of the world's compositions, drawn for the autoencoder alone."""
    autoencoder_steps: int = 3000
    autoencoder_batch: int = 32
    autoencoder_learning_rate: float = 1.5e-3
    kl_weight: float = 1e-6

    denoiser_widths: tuple[int, ...] = (64, 96)
    denoiser_heads: int = 4
    denoiser_down_blocks: tuple[str, ...] = ("DownBlock2D", "CrossAttnDownBlock2D")
    denoiser_up_blocks: tuple[str, ...] = ("CrossAttnUpBlock2D", "UpBlock2D")


@dataclass(frozen=True)
class FlowRecipe(DenoiserRecipe):
    """The settings of a training of pocket-flow, whose autoencoder is pocket's as it ships.

    Rectified flow: x = (1 - sigma) x0 + sigma noise, and the network tells noise - x0. Levels are
    drawn evenly over sigma: Stable Diffusion 3's logit-normal levels leave 0.07% of the steps below
    sigma = 0.04, where spectra are read.
    """

    transformer_layers: int = 6
    transformer_heads: int = 4
    head_width: int = 32
    patch: int = 1
    idle_tokens: int = 256
    """Tokens of zeros that the pipeline adds where there is no T5 (its max_sequence_length)."""

    denoiser_steps: int = 14000
    denoiser_learning_rate: float = 1e-3


_NOT_TRAINING = {"checkpoint_every", "log_every", "default_steps", "default_guidance"}

PRESETS = {
    "full": Recipe(),
    "smoke": replace(
        Recipe(),
        autoencoder_widths=(8, 8, 8),
        autoencoder_pictures=1,
        autoencoder_steps=4,
        text_width=16,
        text_layers=1,
        denoiser_widths=(16, 16),
        denoiser_steps=4,
        denoiser_batch=8,
        warmup_steps=1,
        checkpoint_every=2,
        log_every=1,
        default_steps=4,
    ),
}
"""`full` is how the shipped weights were made; `smoke` runs through every stage in seconds."""

FLOW_PRESETS = {
    "flow": FlowRecipe(),
    "flow-smoke": FlowRecipe(
        text_width=16,
        transformer_layers=2,
        transformer_heads=2,
        head_width=16,
        denoiser_steps=4,
        denoiser_batch=8,
        warmup_steps=1,
        checkpoint_every=2,
        log_every=1,
        default_steps=4,
    ),
}
"""The same of pocket-flow."""
