"""Synthetic sets S' (Sec. 4.1): many samples of one model, each seeded by itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from safetensors import SafetensorError
from torch import Tensor

from m2g_audit.diagnostics.numerics import in_batches, seed_for
from m2g_audit.errors import NumericsError, OutputError
from m2g_audit.progress import OnProgress
from small_scale.arrays import load_arrays, save_arrays
from small_scale.models.pictures import to_levels
from small_scale.settings import Synthesis

SHARD = 500
_SEED = 2505_21777


def synthesise(
    folder: Path,
    model: Path,
    settings: Synthesis,
    K: int,
    *,
    device: torch.device,
    mixed_precision: bool = False,
    batch_size: int = 250,
    on_images: OnProgress | None = None,
) -> Tensor:
    """The synthetic set of a model, uint8 [n, c, h, w], made or gone on with.

    `model`: a folder of a DDPM pipeline. Image i is drawn from a generator of its own, on the CPU,
    so that the set is the same for any batch size and after any interruption. It is kept in
    `folder` in shards. `mixed_precision`: bf16 inside the network. Raises NumericsError for samples
    that are not finite, OutputError for a shard that is damaged.
    """
    n = settings.size(K)
    shards = [range(start, min(start + SHARD, n)) for start in range(0, n, SHARD)]
    report = on_images or (lambda *_: None)
    sampler: _Sampler | None = None
    for shard in shards:
        path = _path(folder, shard)
        if not path.exists():
            sampler = sampler or _Sampler(model, settings, K, device, mixed_precision)
            images = [
                part
                for _, part in in_batches(
                    len(shard), batch_size, partial(sampler.images, shard), "one sample"
                )
            ]
            save_arrays(path, {"images": to_levels(torch.cat(images)).numpy()})
        report(shard.stop, n)
    return torch.cat(
        [torch.from_numpy(load_arrays(_path(folder, shard))["images"]) for shard in shards]
    )


class _Sampler:
    def __init__(
        self, model: Path, settings: Synthesis, K: int, device: torch.device, mixed: bool
    ) -> None:
        network: Any = _load(model)
        self.network = network.eval().requires_grad_(False).to(device)
        trained_with = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
        self.scheduler = make_sampler(settings, trained_with)
        self.device, self.K, self.mixed = device, K, mixed
        self.shape = (self.network.config.in_channels, *(2 * [self.network.config.sample_size]))

    @torch.no_grad()
    def images(self, shard: range, places: range) -> Tensor:
        """Samples in [-1, 1] at places of a shard."""
        seeds = [seed_for(_SEED, f"synthetic K={self.K}", shard[place]) for place in places]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        start = [torch.randn(self.shape, generator=generator) for generator in generators]
        x = torch.stack(start).to(self.device)
        # DDIM with eta = 0 takes no noise and no generator.
        stochastic = isinstance(self.scheduler, DDPMScheduler)
        step = (
            partial(self.scheduler.step, generator=generators)
            if stochastic
            else (self.scheduler.step)
        )
        for t in self.scheduler.timesteps:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
                noise = self.network(x, t, return_dict=False)[0]
            x = step(noise.float(), t, x).prev_sample
        if not bool(torch.isfinite(x).all()):
            raise NumericsError(
                f"Samples of the model with K = {self.K} are not finite: train it anew, without "
                "mixed precision."
            )
        return x.cpu()


def _load(model: Path) -> UNet2DModel:
    try:
        return UNet2DModel.from_pretrained(model, subfolder="unet")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise OutputError(
            f"The model in {model} is damaged ({str(error).splitlines()[0]}). Remove "
            f"{model.parent}: it is trained again, the same."
        ) from error


def make_sampler(settings: Synthesis, trained_with: Any) -> DDPMScheduler | DDIMScheduler:
    """The ancestral sampler (Ho et al. 2020) or DDIM with eta = 0 (Song et al. 2021)."""
    if settings.sampler == "ddpm":
        scheduler = DDPMScheduler.from_config(trained_with.config)
    else:
        # From the last trained step, where there is nothing but noise.
        scheduler = DDIMScheduler.from_config(trained_with.config, timestep_spacing="trailing")
    scheduler.set_timesteps(settings.steps)
    return scheduler


def _path(folder: Path, shard: range) -> Path:
    return folder / f"{shard.start:06d}-{shard.stop:06d}.npz"
