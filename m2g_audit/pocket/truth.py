"""What pocket really does with each caption: states of 256 samples against its own training set.

Thresholds are one pair for the model, taken from fresh pictures of the world (DEFINITIONS: where S
is known). Every memorized share stands beside its control: the share within delta_m of an equally
large set that the model never saw.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2g_audit.attractors import is_failed
from m2g_audit.numerics import seed_for
from m2g_audit.pipelines import TextToImage
from m2g_audit.pocket import world
from m2g_audit.pocket.captions import Caption, all_captions, trained_captions
from m2g_audit.pocket.reference import (
    TrainingPictures,
    as_images,
    seen_pictures,
    to_levels,
    world_hash,
)
from m2g_audit.pocket.truth_table import SOURCE, CaptionTruth, Shares, TruthTable
from m2g_audit.similarity import Metric, distances, load_metric, nearest
from m2g_audit.states import State, Thresholds, classify, fresh_thresholds

SAMPLES = 256
SUBSAMPLE = 16
TRUTH_SEED = 256_000
"""Run seed of the truth's samples; audits and benchmarks use others."""

FRESH_FOR_DELTA_M = 64
"""Fresh pictures of each caption whose distance to S gives delta_m."""

DISTANCES_FILE = "distances.npz"
FRESH_FILE = "fresh-distances.npz"

OnCaption = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


def sample(
    pipeline: TextToImage, caption: Caption, seed: int, n: int, folder: Path
) -> tuple[Tensor, Tensor]:
    """Images uint8 [n, 3, h, w] and final latents of a caption; kept in `folder` and read again."""
    name = f"{caption.text.replace(' ', '-')}-{seed}-{n}.npz"
    if (folder / name).exists():
        with np.load(folder / name) as kept:
            return torch.from_numpy(kept["images"]), torch.from_numpy(kept["latents"])
    seeds = [seed_for(seed, caption.text, i) for i in range(n)]
    made = pipeline.generate(caption.text, seeds, batch_size=128)
    images = to_levels(made.images)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.partial.npz"
    np.savez_compressed(partial, images=images.numpy(), latents=made.latents.numpy())
    os.replace(partial, folder / name)
    return images, made.latents


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
    thresholds = fresh.thresholds()
    rows, to_known = [], []
    for i, (caption, images) in enumerate(zip(captions, made, strict=True)):
        embedded = metric.embed(images)
        to_known.append(nearest(metric, embedded, known)[0][:, 0])
        to_control = nearest(metric, embedded, control)[0][:, 0]
        pairs = distances(metric, embedded, embedded)
        failed = is_failed(images.float() / 255)
        rows.append(caption_truth(caption, to_known[-1], to_control, pairs, failed, thresholds))
        report("states", i + 1, len(captions))
    np.savez_compressed(folder / DISTANCES_FILE, to_training=np.stack(to_known))
    assert thresholds.delta_m is not None
    assert thresholds.delta_s is not None
    return TruthTable(
        model_sha256=pipeline.identity.sha256,
        world_sha256=world_hash(),
        metric=metric.name,
        delta_m=thresholds.delta_m,
        delta_s=thresholds.delta_s,
        round_trip_rms=round_trip_rms(pipeline),
        fresh_pictures=thresholds.n_controls,
        samples=samples,
        steps=pipeline.default_steps,
        guidance=pipeline.default_guidance,
        seed=TRUTH_SEED,
        captions=tuple(rows),
    )


@dataclass(frozen=True)
class FreshDistances:
    """What fresh pictures of each trained caption are apart, in the order of trained_captions().

    to_training: [captions, FRESH_FOR_DELTA_M] distance to the nearest training picture of all
    captions; among: [captions, samples] to the nearest other fresh picture of the caption.
    """

    metric: str
    to_training: np.ndarray
    among: np.ndarray

    def thresholds(self, captions: Sequence[int] | None = None) -> Thresholds:
        """delta_m and delta_s from all trained captions, or from those numbered."""
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
    captions = trained_captions()
    to_training, among = [], []
    for i, caption in enumerate(captions):
        fresh = metric.embed(seen_pictures(pipeline, caption, "fresh", range(SAMPLES)))
        among.append(nearest(metric, fresh, fresh, exclude_self=True)[0][:, 0])
        to_training.append(nearest(metric, fresh[:FRESH_FOR_DELTA_M], known)[0][:, 0])
        report("fresh pictures", i + 1, len(captions))
    return FreshDistances(metric.name, np.stack(to_training), np.stack(among))


def round_trip_rms(pipeline: TextToImage) -> float:
    """RMS error of the VAE's round trip over training pictures, pixels in [0, 1]."""
    errors = []
    for caption in trained_captions():
        images = as_images(world.pictures(caption, "training", range(min(caption.k, 16))))
        errors.append((pipeline.round_trip(images) - images).square().flatten(1).mean(1))
    return float(torch.cat(errors).mean().sqrt())


def shares(states: Iterable[State]) -> Shares:
    """Shares of the three states among those that did not fail; all nan if all failed."""
    valid = [state for state in states if state != State.FAILED]

    def share(state: State) -> float:
        return sum(s == state for s in valid) / len(valid) if valid else float("nan")

    return Shares(share(State.MEMORIZED), share(State.SPURIOUS), share(State.GENERALIZED))


def caption_truth(
    caption: Caption,
    to_known: np.ndarray,
    to_control: np.ndarray,
    pairs: np.ndarray,
    failed: np.ndarray,
    thresholds: Thresholds,
) -> CaptionTruth:
    """The truth of a caption from its samples' distances.

    to_known, to_control: [n] to the nearest picture of S and of the control set; pairs: [n, n].
    """
    delta_m = thresholds.delta_m
    assert delta_m is not None
    others = np.where(np.eye(len(pairs), dtype=bool) | failed[None, :], np.inf, pairs)

    def states(rows: np.ndarray, scale: float = 1.0) -> list[State]:
        return classify(
            to_known[rows],
            others[np.ix_(rows, rows)].min(1),
            thresholds.scaled(scale),
            reference_complete=True,
            failed=failed[rows],
        )

    everything = np.arange(len(pairs))
    parts = [shares(states(rows)) for rows in np.split(everything, max(1, len(pairs) // SUBSAMPLE))]
    return CaptionTruth(
        caption=caption.text,
        k=caption.k,
        role=caption.role,
        truth=shares(states(everything)),
        of_16=Shares(
            *(
                float(np.mean([getattr(part, name) for part in parts]))
                for name in ("memorized", "spurious", "generalized")
            )
        ),
        half=shares(states(everything, 0.5)),
        twice=shares(states(everything, 2.0)),
        false_memorized=float((to_control[~failed] <= delta_m).mean()),
        failed=int(failed.sum()),
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
