"""Would a copy be found? Planted copies, and edits of pictures, under an audit's distance.

A plant is a picture as the model itself would give it back: through the VAE, noised up to a noise
level sigma / alpha of at most 0.2 and denoised. A threshold that does not find plants clears
nothing (DEFINITIONS: Power).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import to_pil_image

from m2g_audit.diagnostics.numerics import noises_for, seed_for
from m2g_audit.diagnostics.score_model import (
    NoiseSchedule,
    ddim,
    ddim_timesteps,
    perturb,
)
from m2g_audit.errors import OutputError
from m2g_audit.files import digest, read_kept, write_atomically
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pictures.decoding import opened
from m2g_audit.progress import OnProgress
from m2g_audit.references.plants import Plants
from m2g_audit.similarity import Metric, distances
from m2g_audit.verdict.intervals import Interval, clopper_pearson
from m2g_audit.verdict.thresholds import Thresholds

FloatArray = NDArray[np.float64]

NOISE_LEVEL = 0.2
PLANTS = 256
"""Two versions of each of 128 pictures; of fewer pictures more versions."""
NEEDED = 0.85
"""The lower 95% bound of the share of plants found, without which nothing is cleared."""
NEAR_DUPLICATES = 0.9
"""Pictures nearer than this quantile of plants are near-duplicates of each other."""

_EDITED = 100
_STEPS = 3
_LEVEL = 0.9  # two-sided, so that its lower end is the one-sided 95% bound
_VERSION = 1


@dataclass(frozen=True)
class Power:
    """The share of plants that thresholds find, each with the one-sided 95% bound as `low`.

    to_reference: within delta_m of S, None without one; between: within delta_s of each other;
    edits: by name, the share found by delta_m, or delta_s without a reference (does not gate).
    """

    to_reference: Interval | None
    between: Interval
    edits: Mapping[str, float]

    @property
    def suffices(self) -> bool:
        """Return whether new pictures can be told from copies by these thresholds."""
        needed = [self.between, *([] if self.to_reference is None else [self.to_reference])]
        return all(share.low >= NEEDED for share in needed)


def high_quantile(values: FloatArray, share: float = NEAR_DUPLICATES) -> float:
    """Return the ceil(share (n + 1))-th smallest value: one more is at or under it that often."""
    rank = min(len(values), int(np.ceil(share * (len(values) + 1) - 1e-9)))
    return float(np.sort(values)[rank - 1])


def power_of(plants: Plants, thresholds: Thresholds) -> Power:
    """Return the share of plants that thresholds find."""
    delta_m, delta_s = thresholds.delta_m, thresholds.delta_s
    assert delta_s is not None
    to_reference = None
    if plants.to_reference is not None and delta_m is not None:
        to_reference = _found(plants.to_reference, delta_m)
    delta = delta_s if plants.to_reference is None or delta_m is None else delta_m
    edits = {name: float((found <= delta).mean()) for name, found in plants.edits.items()}
    return Power(to_reference, _found(plants.between, delta_s), edits)


def _found(distances: FloatArray, delta: float) -> Interval:
    return clopper_pearson(int((distances <= delta).sum()), len(distances), _LEVEL)


def plant(
    pipeline: TextToImage,
    metric: Metric,
    pictures: Tensor,
    to_reference: Callable[[Tensor], Sequence[float]] | None,
    *,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Plants:
    """Return the distances of plants and edits of pictures [n, 3, h, w] in [0, 1].

    to_reference: returns the distance of images to S, of which the pictures are then some, as it
    holds them; without it copies are looked for among the pictures alone.
    """
    report = on_progress or (lambda *_: None)
    which = torch.arange(PLANTS // 2) % len(pictures)
    total = PLANTS + len(EDITS) * _EDITED
    embedded: list[Tensor] = []
    found: list[float] = []
    for version in range(2):
        seeds = [seed_for(seed, f"plant {version}", i) for i in range(len(which))]
        plants = redraw(pipeline, pictures[which], seeds)
        embedded.append(metric.embed(plants))
        found += [] if to_reference is None else to_reference(plants)
        report((version + 1) * len(which), total)
    originals = pictures[torch.arange(_EDITED) % len(pictures)]
    edits = {}
    for i, (name, edit) in enumerate(EDITS.items()):
        edited = pipeline.round_trip(edit(originals))
        if to_reference is None:
            edits[name] = _row_by_row(metric, metric.embed(edited), metric.embed(originals))
        else:
            edits[name] = np.array(to_reference(edited))
        report(PLANTS + (i + 1) * _EDITED, total)
    between = _row_by_row(metric, *embedded)
    return Plants(None if to_reference is None else np.array(found), between, edits)


def redraw(pipeline: TextToImage, images: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return images [n, 3, h, w] in [0, 1] as the model gives them back from little noise.

    The empty prompt denoises them: at this noise level the prompt hardly matters.
    """
    model = pipeline.bind("")
    t = plant_time(pipeline.schedule)
    noise = noises_for(seeds, pipeline.latent_shape, torch.float32)
    parts = []
    for i in range(0, len(images), 16):
        x = perturb(pipeline.schedule, pipeline.encode(images[i : i + 16]), noise[i : i + 16], t)
        parts.append(pipeline.decode(ddim(model, x.to(model.device), ddim_timesteps(t, _STEPS))))
    return torch.cat(parts)


def plant_time(schedule: NoiseSchedule) -> int:
    """Return the last time index (from 1) whose noise level is at most NOISE_LEVEL."""
    times = range(1, len(schedule))
    low = [t for t in times if schedule.sigma(t) <= NOISE_LEVEL * schedule.alpha(t)]
    return low[-1] if low else 1


def _row_by_row(metric: Metric, a: Tensor, b: Tensor) -> FloatArray:
    return np.array([distances(metric, a[i : i + 1], b[i : i + 1])[0, 0] for i in range(len(a))])


def _crop(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    top, left = (max(1, round(0.05 * side)) for side in (height, width))
    inner = images[..., top : height - top, left : width - left]
    size = (height, width)
    return functional.interpolate(inner, size, mode="bilinear", antialias=True).clamp(0, 1)


def _shift(images: Tensor) -> Tensor:
    by = max(1, round(0.04 * images.shape[-1]))
    return torch.cat([images[..., :1].expand(*images.shape[:-1], by), images[..., :-by]], dim=-1)


def _mirror(images: Tensor) -> Tensor:
    return images.flip(-1)


def _jpeg(images: Tensor) -> Tensor:
    saved = []
    for image in images:
        buffer = io.BytesIO()
        to_pil_image(image).save(buffer, format="JPEG", quality=75)
        with opened(buffer) as picture:
            levels = np.array(picture.convert("RGB"))
        saved.append(torch.from_numpy(levels).permute(2, 0, 1).float() / 255)
    return torch.stack(saved)


EDITS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "cropped to 90%": _crop,
    "shifted by 4%": _shift,
    "mirrored": _mirror,
    "JPEG at 75": _jpeg,
}


def cache_file(cache_dir: Path, identity: Mapping[str, Any]) -> Path:
    """Return where plants are kept, by all that can change them: model, reference, metric."""
    return cache_dir / f"plants-{digest({**identity, 'version': _VERSION})[:32]}.json"


def load(path: Path) -> Plants | None:
    """Return plants that were kept, None if there are none or they are damaged."""
    return read_kept(path, _read)


def _read(path: Path) -> Plants:
    plants = Plants.from_json(json.loads(path.read_text(encoding="utf-8")))
    found = [plants.between, *plants.edits.values()]
    found += [] if plants.to_reference is None else [plants.to_reference]
    if not all(distances.ndim == 1 and len(distances) for distances in found):
        raise ValueError("it has no list of distances")
    return plants


def save(path: Path, plants: Plants) -> None:
    """Keep plants for the next audit; OutputError where the cache can't be written."""
    try:
        write_atomically(path, json.dumps(plants.to_json()).encode())
    except OutputError as error:
        raise OutputError(
            f"Can't keep the planted copies in {path.parent}: {error.__cause__}. "
            "Point the cache to a folder that can be written: M2G_CACHE=DIR m2g-audit ..."
        ) from error
