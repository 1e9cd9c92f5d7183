"""From what a user asks to a sweep that can begin: settings, distances, other sweeps beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from m2g_audit.errors import UsageError
from m2g_audit.similarity import LEARNED, load_metric
from small_scale.lab import Lab
from small_scale.lab_folder import SETTINGS_FILE
from small_scale.models.pictures import open_source
from small_scale.settings import (
    PUBLISHED,
    PresetName,
    Sampler,
    SpectrumEstimator,
    SweepSettings,
    preset_sizes,
    settings_for,
)
from small_scale.sizes import parse_sizes


def is_sweep(data: str) -> bool:
    """Whether what is named is the folder of a sweep."""
    return data not in PUBLISHED and (Path(data) / SETTINGS_FILE).is_file()


def settings_of(
    data: str,
    preset: PresetName,
    *,
    sizes: str | None,
    side: int | None,
    width: int | None,
    metric: str | None,
    multiple: int | None,
    sampler: Sampler | None,
    spectrum: SpectrumEstimator | None,
) -> SweepSettings:
    """The settings of a new sweep; UsageError for those that can't be."""
    # The folder must mean the same wherever the sweep is continued.
    data = data if data in PUBLISHED else str(Path(data).resolve())
    source = open_source(data)
    return settings_for(
        preset,
        data,
        source.train,
        channels=source.channels,
        side=side,
        width=width,
        metric=metric,
        multiple=multiple,
        sampler=sampler,
        spectrum=spectrum,
        sizes=None if sizes is None else parse_sizes(sizes, source.train),
    )


def check_no_settings(data: str, settings: SweepSettings, own: Sequence[object]) -> None:
    """Raise UsageError where a sweep that is to be continued was given settings."""
    if any(value is not None for value in own):
        raise UsageError(
            f"{data} is a sweep with settings of its own: leave out --preset, --out, --sizes, "
            "--size, --width, --metric, --synthetic, --sampler and --spectrum to continue "
            f"it, or give its data ({settings.data}) and another --out."
        )


def sizes_left_out(settings: SweepSettings) -> str | None:
    """What is to be told of sizes that a preset has and the pictures are too few for."""
    total = open_source(settings.data).train
    preset = preset_sizes(settings.preset)
    left_out = [K for K in preset if total < K]
    if not left_out or settings.sizes != tuple(K for K in preset if total >= K):  # or by hand
        return None
    sizes = ", ".join(f"{K:,}" for K in left_out)
    return (
        f"The sizes K = {sizes} of the preset {settings.preset} are left out: there are {total:,} "
        "pictures to train on."
    )


def check_given(delta_m: float | None, delta_s: float | None) -> None:
    """Raise UsageError for thresholds by hand that are none."""
    for name, value in (("--delta-m", delta_m), ("--delta-s", delta_s)):
        if value is not None and not value > 0:
            raise UsageError(
                f"{name} {value:g} is no threshold: no copy would be called one. Give a distance "
                "above 0."
            )


def weights_by_name(settings: SweepSettings, files: Sequence[Path]) -> dict[str, Path]:
    """The weights files given for the sweep's distances, that of the states first."""
    learned = [name for name in metrics_of(settings) if name in LEARNED]
    if len(files) > len(learned):
        raise UsageError(
            f"--metric-weights is given {len(files)} times, and the distances of this sweep that "
            f"have weights are: {', '.join(learned) or 'none'}. Leave out what is too much."
        )
    return dict(zip(learned, files, strict=False))


def check_metrics(settings: SweepSettings, weights: dict[str, Path]) -> None:
    """Raises now, not after weeks of training, where a distance lacks weights or pixels."""
    for name in metrics_of(settings):
        blank = torch.zeros(1, 3, settings.side, settings.side)
        load_metric(name, weights=weights.get(name)).embed(blank)


def metrics_of(settings: SweepSettings) -> list[str]:
    """The distances of states and of Alg. 1, once where they are one."""
    return list(dict.fromkeys((settings.metric, settings.geometry.basin_metric or settings.metric)))


def others_beside(folders: Sequence[Path], own: Path) -> list[Lab]:
    """The finished sweeps in these folders; an error now, not after hours, where one is none."""
    others = [Lab.open(folder) for folder in folders]
    for each in others:
        if each.path.resolve() == own.resolve():
            raise UsageError(f"--beside {each.path} is this sweep itself: give another one's.")
        each.check_measured()
    return others
