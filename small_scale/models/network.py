"""The denoiser (App. B.4, Table 3): diffusers' UNet2DModel in the layout of Ho et al. 2020."""

from __future__ import annotations

from diffusers import DDPMScheduler, UNet2DModel

from small_scale.settings import Network

BETA_MIN, BETA_MAX, STEPS = 1e-4, 2e-2, 1000


def make_network(settings: Network, side: int, channels: int) -> UNet2DModel:
    """A freshly initialised network for images [b, channels, side, side] in [-1, 1]."""
    widths = [settings.width * each for each in settings.multipliers]
    down = [
        "AttnDownBlock2D" if side // 2**level == settings.attention_at else "DownBlock2D"
        for level in range(len(widths))
    ]
    return UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=settings.layers,
        block_out_channels=widths,
        down_block_types=down,
        up_block_types=[block.replace("Down", "Up") for block in reversed(down)],
        dropout=settings.dropout,
        # One head, norm before it in 32 groups (8 channels each where there are fewer).
        attention_head_dim=None,
        norm_num_groups=min(32, settings.width // 8),
        norm_eps=1e-6,
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=0,
    )


def make_scheduler() -> DDPMScheduler:
    """The noise schedule of all models: beta from 1e-4 to 0.02, linear, over 1000 steps."""
    return DDPMScheduler(
        num_train_timesteps=STEPS, beta_start=BETA_MIN, beta_end=BETA_MAX, beta_schedule="linear"
    )
