"""Every number that a sweep depends on, and the presets (App. B.4, Tables 1 and 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from m2g_audit.errors import UsageError
from small_scale.sizes import dense_sizes, sparse_sizes

Sampler = Literal["ddpm", "ddim"]
PresetName = Literal["smoke", "desk", "lab", "paper"]
SpectrumEstimator = Literal["fast", "exact-alg2"]
SUBSET_SEED = 3407
"""The authors' seed of the nested subsets."""


@dataclass(frozen=True)
class Network:
    """diffusers' UNet2DModel: widths are `width` times `multipliers`, one for each resolution.

    `attention_at`: the resolution whose blocks have attention (the middle block always has);
    None for none. `dropout`: in the residual blocks.
    """

    width: int
    multipliers: tuple[int, ...]
    layers: int = 2
    attention_at: int | None = None
    dropout: float = 0.1


@dataclass(frozen=True)
class Training:
    """How each model is trained (App. B.4).

    `fill_batch`: a batch has `batch` pictures even where K is smaller, each under several noises;
    the paper shrinks the batch to K, which a short training can't afford. The learning rate rises
    over `warmup` steps and then stays, or with `decay` falls to a twentieth (cosine).
    """

    iterations: int
    batch: int = 128
    fill_batch: bool = False
    learning_rate: float = 2e-4
    warmup: int = 0
    decay: bool = False
    ema_decay: float = 0.9999
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    checkpoint_every: int = 5000


@dataclass(frozen=True)
class Synthesis:
    """A synthetic set S' has `multiple` times K pictures, but at least `at_least` (Sec. 4.1)."""

    multiple: int = 4
    at_least: int = 1000
    sampler: Sampler = "ddpm"
    steps: int = 1000

    def size(self, K: int) -> int:
        """|S'| at training size K."""
        return max(self.multiple * K, self.at_least)


@dataclass(frozen=True)
class Geometry:
    """How much of each state is measured: Alg. 1, spectra, Alg. 4, and with what settings.

    `training_points`: how many of S at most; None for as many as of each state. `basin_metric` and
    `delta_d`: the distance of Alg. 1 and its error threshold; None for those of the states, with
    the one delta_m that holds for all K.
    """

    training_points: int | None = None
    basin_images: int = 512
    trials: int = 20
    stride: int = 10
    denoising_steps: int = 10
    delta_p: float = 0.8
    basin_search: Literal["bisection", "alg1"] = "bisection"
    basin_metric: str | None = None
    delta_d: float | None = None
    spectrum_images: int = 512
    spectrum: SpectrumEstimator = "fast"
    spectrum_tolerance: float = 0.03
    t0: int = 5
    energy_images: int = 512
    references: int = 4
    points: int = 20


@dataclass(frozen=True)
class SweepSettings:
    """One sweep.

    `sizes`: K of each model, and `refine` more between the ends of the transition that they show;
    `seeds`: of the trainings, all but the first only around the peak of the spurious share.
    """

    preset: PresetName
    data: str
    side: int
    channels: int
    metric: str
    sizes: tuple[int, ...]
    network: Network
    training: Training
    synthesis: Synthesis = field(default_factory=Synthesis)
    geometry: Geometry = field(default_factory=Geometry)
    refine: int = 0
    seeds: tuple[int, ...] = (0,)
    fresh: int = 10_000
    """Pictures kept from training, for thresholds and controls, at most."""


@dataclass(frozen=True)
class Published:
    """What the paper settles for one of its data sets (Tables 1 to 3, App. B.2).

    `A` and `B`: the ends of the transition, and `of_width`: those of narrower networks (B.5).
    """

    hub: str
    column: str
    side: int
    channels: int
    total: int
    A: int
    B: int
    metric: str
    delta_d: float
    network: Network
    batch: int
    iterations: int
    of_width: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def sizes(self, width: int, total: int) -> tuple[int, ...] | None:
        """The 38 sizes around the transition, of `total` pictures; None where those end within."""
        A, B = self.of_width.get(width, (self.A, self.B))
        return tuple(dense_sizes(A, B, total)) if total > B else None


_DIGITS = Network(128, (1, 2, 2))
PUBLISHED: Mapping[str, Published] = {
    "mnist": Published(
        "ylecun/mnist", "image", 28, 1, 60_000, 4000, 32_000, "l2", 0.1, _DIGITS, 128,
        400_000,
    ),
    "fashion-mnist": Published(
        "zalando-datasets/fashion_mnist", "image", 28, 1, 60_000, 4000, 16_000, "l2", 0.1, _DIGITS,
        128, 400_000,
    ),
    "cifar10": Published(
        "uoft-cs/cifar10", "img", 32, 3, 50_000, 2000, 16_000, "lpips-alex", 0.03,
        Network(128, (1, 2, 2, 2), attention_at=16), 128, 500_000,
        {64: (500, 8000), 96: (2000, 16_000)},
    ),
    "lsun-church": Published(
        "tglcourse/lsun_church_train", "image", 64, 3, 126_227, 2000, 16_000, "lpips-alex", 0.12,
        Network(128, (1, 1, 2, 2, 4, 4), attention_at=16, dropout=0.0), 64, 800_000,
        {64: (1000, 8000)},
    ),
}  # fmt: skip
"""By the name that `calibrate` takes."""

# Everybody else's pictures are treated like the paper's natural ones.
_OTHERS = "cifar10"
_DESK_SIZES = (2, 16, 32, 64, 128, 256, 512, 1024)
_SMOKE_SIZES = (2, 8, 32)


def settings_for(
    preset: PresetName,
    data: str,
    total: int,
    *,
    channels: int | None = None,
    side: int | None = None,
    width: int | None = None,
    metric: str | None = None,
    multiple: int | None = None,
    sampler: Sampler | None = None,
    spectrum: SpectrumEstimator | None = None,
    sizes: tuple[int, ...] | None = None,
) -> SweepSettings:
    """The settings of a preset for `total` training pictures, with what the user set by hand.

    `data`: a name of PUBLISHED, or the path of pictures. Raises UsageError for numbers out of
    range.
    """
    if total < 2:
        raise UsageError(
            f"{data} has {total} pictures to train on beside those that are held out (a fifth, at "
            "least 100, where there is no test split): give some hundred pictures or more."
        )
    published = PUBLISHED.get(data, PUBLISHED[_OTHERS])
    made = _PRESETS[preset](published, total)
    made = replace(made, data=data, channels=channels or published.channels)
    if side is not None:
        made = replace(made, side=side)
    if width is not None:
        made = replace(made, network=replace(made.network, width=width))
    if preset == "paper" and data in PUBLISHED:
        around = published.sizes(made.network.width, total)
        made = replace(made, sizes=around or made.sizes)
    if metric is not None:
        made = replace(made, metric=metric)
    if spectrum is not None:
        made = replace(made, geometry=replace(made.geometry, spectrum=spectrum))
    if multiple is not None:
        made = replace(made, synthesis=replace(made.synthesis, multiple=multiple))
    if sampler is not None and sampler != made.synthesis.sampler:
        steps = 1000 if sampler == "ddpm" else 50
        made = replace(made, synthesis=replace(made.synthesis, sampler=sampler, steps=steps))
    if sizes is not None:
        made = replace(made, sizes=tuple(sorted(set(sizes))), refine=0)
    check(made, total)
    return made


def check(settings: SweepSettings, total: int) -> None:
    """Raises UsageError for sizes, a picture or a network that cannot be."""
    if settings.sizes[0] < 2:
        raise UsageError(f"A training size of {settings.sizes[0]} is too small: K starts at 2.")
    if settings.sizes[-1] > total:
        raise UsageError(
            f"{settings.data} has {total:,} pictures to train on, fewer than K = "
            f"{settings.sizes[-1]:,}. Give smaller --sizes, or more pictures."
        )
    halvings = 2 ** (len(settings.network.multipliers) - 1)
    if settings.side < 8 or settings.side % halvings:
        raise UsageError(
            f"Pictures of {settings.side} pixels a side do not fit the network, which halves them "
            f"{len(settings.network.multipliers) - 1} times: give a --size divisible by {halvings}."
        )
    if settings.network.width % 8:
        raise UsageError(f"A width of {settings.network.width} is no multiple of 8.")


def _paper(published: Published, total: int) -> SweepSettings:
    """Table 3 to the letter, and the geometry of App. C to E: Alg. 2 itself at t0 = 2 (D.2).

    What the paper does not say: |S'| is at least 1,000; gradients are clipped at norm 1, as in
    diffusers' own training; the fast search of critical times stands for Alg. 1.
    """
    return SweepSettings(
        preset="paper",
        data="",
        side=published.side,
        channels=published.channels,
        metric=published.metric,
        sizes=tuple(sparse_sizes(total)),
        network=published.network,
        training=Training(iterations=published.iterations, batch=published.batch),
        geometry=Geometry(
            training_points=2048,
            basin_metric="lpips-vgg",
            delta_d=published.delta_d,
            spectrum="exact-alg2",
            t0=2,
        ),
    )


def _lab(published: Published, total: int) -> SweepSettings:
    """Half an hour of one GPU: the sparse search with smaller networks and short trainings."""
    return SweepSettings(
        preset="lab",
        data="",
        side=published.side,
        channels=published.channels,
        metric=published.metric,
        sizes=tuple(sorted({2, *sparse_sizes(min(total, 8000), 125)})),
        network=replace(published.network, width=64),
        training=Training(
            iterations=8000,
            batch=128,
            fill_batch=True,
            learning_rate=5e-4,
            warmup=200,
            decay=True,
            ema_decay=1 - 10 / 8000,
            mixed_precision="bf16",
            checkpoint_every=1000,
        ),
        synthesis=Synthesis(sampler="ddim", steps=50),
        geometry=Geometry(
            basin_images=64, trials=8, stride=20, spectrum_images=16, energy_images=64
        ),
        refine=3,
        seeds=(0, 1, 2),
    )


def _desk(published: Published, total: int) -> SweepSettings:
    """Two CPU cores, at most 75 minutes."""
    iterations = 1500
    return SweepSettings(
        preset="desk",
        data="",
        side=16,
        channels=published.channels,
        metric="l2",
        sizes=tuple(K for K in _DESK_SIZES if total >= K),
        network=Network(16, (1, 2, 4), layers=1, dropout=0.0),
        training=Training(
            iterations=iterations,
            batch=64,
            fill_batch=True,
            learning_rate=2e-3,
            warmup=100,
            decay=True,
            ema_decay=1 - 10 / iterations,
            mixed_precision="bf16",
            checkpoint_every=250,
        ),
        synthesis=Synthesis(sampler="ddim", steps=50),
        geometry=Geometry(
            basin_images=16,
            trials=8,
            stride=50,
            spectrum_images=8,
            spectrum_tolerance=0.05,
            energy_images=64,
        ),
        refine=3,
        seeds=(0, 1, 2),
        fresh=4096,
    )


def _smoke(published: Published, total: int) -> SweepSettings:
    """Minutes, for the test suite: nothing of it means anything."""
    return SweepSettings(
        preset="smoke",
        data="",
        side=8,
        channels=published.channels,
        metric="l2",
        sizes=tuple(K for K in _SMOKE_SIZES if total >= K),
        network=Network(8, (1, 2), layers=1, dropout=0.0),
        training=Training(
            iterations=30,
            batch=8,
            fill_batch=True,
            learning_rate=2e-3,
            ema_decay=0.9,
            checkpoint_every=10,
        ),
        synthesis=Synthesis(at_least=128, sampler="ddim", steps=4),
        geometry=Geometry(
            basin_images=2,
            trials=2,
            stride=200,
            spectrum_images=2,
            spectrum_tolerance=0.5,
            energy_images=4,
            references=2,
            points=5,
        ),
        seeds=(0,),
        fresh=256,
    )


_PRESETS = {"paper": _paper, "lab": _lab, "desk": _desk, "smoke": _smoke}


def preset_sizes(preset: PresetName) -> tuple[int, ...]:
    """The training sizes of a preset that fixes them, whatever number of pictures there is."""
    return {"desk": _DESK_SIZES, "smoke": _SMOKE_SIZES}.get(preset, ())
