"""What pocket really does with each caption: states of 256 samples against its own training set.

Thresholds are each caption's own, from fresh pictures of it (DEFINITIONS: where S is known): one
pair for all is set by the most homogeneous captions, and calls near-copies of the others' pictures
spurious. Every memorized share stands beside its control: the share within delta_m of an equally
large set that the model never saw.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.pocket import world
from m2g_audit.pocket.captions import Caption, all_captions, trained_captions
from m2g_audit.pocket.training_pictures import (
    TrainingPictures,
    as_images,
    seen_pictures,
    to_levels,
    world_hash,
)
from m2g_audit.pocket.truth_table import SOURCE, CaptionShares, CaptionTruth, TruthTable
from m2g_audit.references.plants import Plants
from m2g_audit.references.power import PLANTS, plant
from m2g_audit.similarity import Metric, distances, load_metric, nearest
from m2g_audit.verdict.states import S_PRIME, duplicate_chances
from m2g_audit.verdict.thresholds import LOOSE_ALPHA, STRICT_ALPHA, Thresholds, fresh_thresholds

SAMPLES = 256
TRUTH_SEED = 256_000
"""Run seed of the truth's samples; audits and benchmarks use others."""

FRESH = 256
"""Fresh pictures of each caption; their distances give its thresholds."""

DISTANCES_FILE = "distances.npz"
FRESH_FILE = "fresh-distances.npz"

OnCaption = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


def sample(
    pipeline: TextToImage, caption: Caption, seed: int, n: int, folder: Path
) -> tuple[Tensor, Tensor]:
    """Images uint8 [n, 3, h, w] and clean latents of a caption; kept in `folder` and read again."""
    name = f"{caption.text.replace(' ', '-')}-{seed}-{n}.npz"
    if (folder / name).exists():
        with np.load(folder / name) as kept:
            return torch.from_numpy(kept["images"]), torch.from_numpy(kept["latents"])
    seeds = [seed_for(seed, caption.text, i) for i in range(n)]
    made = pipeline.generate(caption.text, seeds, batch_size=128)
    images = to_levels(made.images)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.partial.npz"
    np.savez_compressed(partial, images=images.numpy(), latents=made.clean.numpy())
    os.replace(partial, folder / name)
    return images, made.clean


def measure(
    pipeline: TextToImage,
    training: TrainingPictures,
    folder: Path,
    *,
    on_progress: OnCaption | None = None,
) -> TruthTable:
    """The truth table of a pocket model; samples are kept in `folder`, so it can be interrupted."""
    report = on_progress or (lambda *_: None)
    metric, captions, samples = load_metric("l2"), all_captions(), SAMPLES
    made = []
    for i, caption in enumerate(captions):
        made.append(sample(pipeline, caption, TRUTH_SEED, samples, folder)[0])
        report("samples", i + 1, len(captions))
    known = embed_training(metric, training, report)
    control = embed_control(pipeline, metric, report)
    fresh = fresh_distances(pipeline, metric, known, on_progress=report)
    fresh.save(folder / FRESH_FILE)
    rows, to_known = [], []
    for i, (caption, images) in enumerate(zip(captions, made, strict=True)):
        embedded = metric.embed(images)
        to_known.append(nearest(metric, embedded, known)[0][:, 0])
        seen = Seen(
            to_training=to_known[-1],
            to_control=nearest(metric, embedded, control)[0][:, 0],
            to_own=to_own(pipeline, metric, caption, embedded),
            pairs=distances(metric, embedded, embedded),
            failed=is_failed(images.float() / 255),
        )
        rows.append(caption_truth(caption, seen, fresh.thresholds([i])))
        report("states", i + 1, len(captions))
    np.savez_compressed(folder / DISTANCES_FILE, to_training=np.stack(to_known))
    trained = [i for i, caption in enumerate(captions) if caption.k]
    pooled = fresh.thresholds(trained)
    assert pooled.delta_m is not None
    assert pooled.delta_s is not None
    return TruthTable(
        model_sha256=pipeline.identity.sha256,
        world_sha256=world_hash(),
        metric=metric.name,
        delta_m=pooled.delta_m,
        delta_s=pooled.delta_s,
        round_trip_rms=round_trip_rms(pipeline),
        fresh_pictures=FRESH,
        samples=samples,
        steps=pipeline.default_steps,
        guidance=pipeline.default_guidance,
        seed=TRUTH_SEED,
        plants=plant_training(pipeline, metric, training, known),
        captions=tuple(rows),
    )


def plant_training(
    pipeline: TextToImage, metric: Metric, training: TrainingPictures, known: Tensor
) -> Plants:
    """Planted copies of training pictures, a seeded choice of all captions'; known: embeddings."""
    rows = np.random.default_rng(0).choice(len(training), PLANTS // 2, replace=False)
    pictures = training.take(sorted(int(i) for i in rows)).float() / 255
    return plant(pipeline, metric, pictures, lambda images: _nearest(metric, images, known))


def _nearest(metric: Metric, images: Tensor, known: Tensor) -> list[float]:
    return nearest(metric, metric.embed(images), known)[0][:, 0].tolist()


def to_own(
    pipeline: TextToImage, metric: Metric, caption: Caption, embedded: Tensor
) -> tuple[np.ndarray, np.ndarray] | None:
    """Distances [n] to the caption's K training pictures, and to K of it that nobody saw."""
    if not caption.k:
        return None
    found = []
    for stream in ("training", "control"):
        pictures = metric.embed(seen_pictures(pipeline, caption, stream, range(caption.k)))
        found.append(nearest(metric, embedded, pictures)[0][:, 0])
    return found[0], found[1]


@dataclass(frozen=True)
class FreshDistances:
    """What fresh pictures of each caption are apart, in the order of all_captions().

    to_training: [captions, FRESH] distance to the nearest training picture of all captions; among:
    [captions, FRESH] to the nearest of 15 other fresh pictures of the caption.
    """

    metric: str
    to_training: np.ndarray
    among: np.ndarray

    def thresholds(self, captions: Sequence[int] | None = None) -> Thresholds:
        """delta_m and delta_s from all captions, or from those numbered."""
        rows = np.arange(len(self.among)) if captions is None else np.array(captions)
        return fresh_thresholds(
            self.metric, self.to_training[rows].ravel(), self.among[rows].ravel(), source=SOURCE
        )

    def save(self, path: Path) -> None:
        """Writes the distances as .npz."""
        np.savez_compressed(path, to_training=self.to_training, among=self.among)

    @classmethod
    def load(cls, path: Path, metric: str) -> "FreshDistances":
        """The distances that `save` wrote."""
        with np.load(path) as kept:
            return cls(metric, kept["to_training"], kept["among"])


def fresh_distances(
    pipeline: TextToImage,
    metric: Metric,
    known: Tensor,
    *,
    on_progress: OnCaption | None = None,
) -> FreshDistances:
    """What fresh pictures are apart; known: embeddings of all training pictures."""
    report = on_progress or (lambda *_: None)
    captions = all_captions()
    to_training, among = [], []
    for i, caption in enumerate(captions):
        fresh = metric.embed(seen_pictures(pipeline, caption, "fresh", range(FRESH)))
        groups = fresh.split(S_PRIME)
        among.append(
            np.concatenate([nearest(metric, g, g, exclude_self=True)[0][:, 0] for g in groups])
        )
        to_training.append(nearest(metric, fresh, known)[0][:, 0])
        report("fresh pictures", i + 1, len(captions))
    return FreshDistances(metric.name, np.stack(to_training), np.stack(among))


def round_trip_rms(pipeline: TextToImage) -> float:
    """RMS error of the VAE's round trip over training pictures, pixels in [0, 1]."""
    errors = []
    for caption in trained_captions():
        images = as_images(world.pictures(caption, "training", range(min(caption.k, 16))))
        errors.append((pipeline.round_trip(images) - images).square().flatten(1).mean(1))
    return float(torch.cat(errors).mean().sqrt())


@dataclass(frozen=True)
class Seen:
    """The distances of a caption's n samples.

    to_training, to_control: [n] to the nearest picture of S and of the control set; to_own: [n] to
    the nearest of the caption's own training pictures and of as many unseen ones, None without any;
    pairs: [n, n]; failed: [n].
    """

    to_training: np.ndarray
    to_control: np.ndarray
    to_own: tuple[np.ndarray, np.ndarray] | None
    pairs: np.ndarray
    failed: np.ndarray

    def spurious(self, thresholds: Thresholds, size: int = S_PRIME) -> np.ndarray:
        """[n] chance of each sample to be spurious where duplicates are looked for among `size`."""
        assert thresholds.delta_m is not None
        near = (self.pairs <= thresholds.delta_s) & ~np.eye(len(self.pairs), dtype=bool)
        near[:, self.failed] = False
        chances = duplicate_chances(near.sum(1), int((~self.failed).sum()), size)
        return np.where((self.to_training <= thresholds.delta_m) | self.failed, 0.0, chances)

    def shares(self, thresholds: Thresholds, size: int = S_PRIME) -> CaptionShares:
        """Shares of the three states among samples that did not fail; all nan if all failed."""
        valid = ~self.failed
        if not valid.any():
            return CaptionShares(*[float("nan")] * 3)
        memorized = float((self.to_training[valid] <= thresholds.delta_m).mean())
        spurious = float(self.spurious(thresholds, size)[valid].mean())
        return CaptionShares(memorized, spurious, max(0.0, 1 - memorized - spurious))

    def false_memorized(self, delta_m: float) -> float:
        """Share of samples that did not fail near pictures never seen; nan if all failed."""
        valid = ~self.failed
        return float((self.to_control[valid] <= delta_m).mean()) if valid.any() else float("nan")

    def nearer_to_own(self, thresholds: Thresholds) -> float | None:
        """Share of spurious samples nearer to their caption's training pictures than to unseen."""
        weights = self.spurious(thresholds)
        if self.to_own is None or not weights.sum():
            return None
        training, unseen = self.to_own
        return float(np.average(training < unseen, weights=weights))


def caption_truth(caption: Caption, seen: Seen, thresholds: Thresholds) -> CaptionTruth:
    """The truth of a caption under its own thresholds, from its samples' distances."""
    delta_m, delta_s = thresholds.delta_m, thresholds.delta_s
    assert delta_m is not None
    assert delta_s is not None
    strict, loose = (thresholds.others[alpha] for alpha in (STRICT_ALPHA, LOOSE_ALPHA))
    return CaptionTruth(
        caption=caption.text,
        k=caption.k,
        role=caption.role,
        truth=seen.shares(thresholds),
        of_256=seen.shares(thresholds, len(seen.pairs)),
        half=seen.shares(thresholds.scaled(0.5)),
        twice=seen.shares(thresholds.scaled(2.0)),
        delta_m=delta_m,
        delta_s=delta_s,
        strict=strict,  # type: ignore[arg-type]
        loose=loose,  # type: ignore[arg-type]
        nearer_to_s=seen.nearer_to_own(thresholds),
        false_memorized=seen.false_memorized(delta_m),
        failed=int(seen.failed.sum()),
    )


def embed_training(
    metric: Metric, training: TrainingPictures, on_progress: OnCaption | None = None
) -> Tensor:
    """Embeddings of all training pictures [n, parts, d]."""
    report = on_progress or (lambda *_: None)
    parts = []
    for start in range(0, len(training), 1024):
        parts.append(metric.embed(training[start : start + 1024]))
        report("training pictures", min(start + 1024, len(training)), len(training))
    return torch.cat(parts)


def embed_control(
    pipeline: TextToImage, metric: Metric, on_progress: OnCaption | None = None
) -> Tensor:
    """Embeddings of a set as large as the training set that no model ever saw [n, parts, d]."""
    report = on_progress or (lambda *_: None)
    captions, parts = trained_captions(), []
    for i, caption in enumerate(captions):
        parts.append(metric.embed(seen_pictures(pipeline, caption, "control", range(caption.k))))
        report("control pictures", i + 1, len(captions))
    return torch.cat(parts)
