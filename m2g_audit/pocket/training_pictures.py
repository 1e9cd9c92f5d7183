"""The training pictures of pocket as a reference set: drawn again, through the VAE and back.

Drawing all of them takes minutes. Block means of every picture ship with the weights instead; their
distance bounds the pixel distance from below, so that the few pictures that can be the nearest are
found, and drawn, exactly.
"""

import functools
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2g_audit.errors import ModelError
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pocket import world
from m2g_audit.pocket.captions import Caption, trained_captions
from m2g_audit.pocket.world import Stream
from m2g_audit.progress import OnProgress
from m2g_audit.references.reference import ReferenceSet
from m2g_audit.similarity import Metric, distances

BLOCKS = 8
"""A picture's index holds the mean colours of BLOCKS x BLOCKS squares.

With 8 instead of 4 the index is 6 MB and not 1.5, and the search of a new picture 4 times as fast.
"""

INDEX_FILE = "training-index.npy"
BOUNDED_METRICS = frozenset({"l2", "tiled_l2"})
"""Metrics that block means bound: the worst tile is never nearer than the whole picture."""

_CANDIDATES = 64


def as_images(pictures: np.ndarray) -> Tensor:
    """Pictures uint8 [n, h, w, 3] as float images [n, 3, h, w] in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def block_means(images: Tensor) -> Tensor:
    """Mean colours of the blocks of images [n, 3, h, w] in [0, 1]: [n, 3 * BLOCKS^2]."""
    return torch.nn.functional.adaptive_avg_pool2d(images, BLOCKS).flatten(1)


def seen_pictures(
    pipeline: TextToImage, caption: Caption, stream: Stream, indices: Sequence[int]
) -> Tensor:
    """Pictures of a stream as the model can show them at best, uint8 [n, 3, h, w]."""
    images = as_images(world.pictures(caption, stream, indices))
    return to_levels(pipeline.round_trip(images, batch_size=128))


def to_levels(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8 in 0..255."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


class TrainingPictures:
    """All training pictures of pocket by number, drawn and round-tripped when asked for."""

    def __init__(self, pipeline: TextToImage):
        self._pipeline = pipeline
        self._captions = trained_captions()
        self._starts = [0, *itertools.accumulate(caption.k for caption in self._captions)]
        self._drawn: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, rows: slice) -> Tensor:
        return self.take(range(*rows.indices(len(self))))

    def take(self, numbers: range | list[int]) -> Tensor:
        """Pictures by number, uint8 [n, 3, h, w]."""
        missing: dict[int, list[int]] = {}
        for number in numbers:
            if number not in self._drawn:
                missing.setdefault(self._caption_of(number), []).append(number)
        for which, group in missing.items():
            first = self._starts[which]
            indices = [number - first for number in group]
            images = seen_pictures(self._pipeline, self._captions[which], "training", indices)
            self._drawn.update(zip(group, images, strict=True))
        return torch.stack([self._drawn[number] for number in numbers])

    @functools.cached_property
    def names(self) -> list[str]:
        """The name of each picture: its caption and its number among the K."""
        return [
            f"{caption.text} ({i + 1} of {caption.k})"
            for caption in self._captions
            for i in range(caption.k)
        ]

    def _caption_of(self, number: int) -> int:
        return int(np.searchsorted(self._starts, number, side="right")) - 1


def build_index(pictures: TrainingPictures, path: Path) -> None:
    """Writes the block means of all training pictures, uint8 [n, 3 * BLOCKS^2], to `path`."""
    rows = [block_means(pictures[i : i + 512].float() / 255) for i in range(0, len(pictures), 512)]
    np.save(path, to_levels(torch.cat(rows)).numpy())


def load_index(folder: Path) -> np.ndarray:
    """The index beside the weights; ModelError where it is missing or of other captions."""
    path = folder / INDEX_FILE
    expected = sum(caption.k for caption in trained_captions())
    try:
        index = np.load(path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The index of pocket's training pictures can't be read ({path}: {error}). "
            "Install the package again."
        ) from error
    if index.shape != (expected, 3 * BLOCKS**2):
        there, wanted = " x ".join(map(str, index.shape)), f"{expected} x {3 * BLOCKS**2}"
        raise ModelError(
            f"{path} holds {there} numbers where this version's index of the training pictures has "
            f"{wanted}. Run m2g-audit pocket measure, or install the package again."
        )
    return index


def nearest_training(
    metric: Metric, images: Tensor, pictures: TrainingPictures, index: np.ndarray
) -> tuple[list[float], list[int]]:
    """Distance and number of the training picture nearest to each image [n, 3, h, w] in [0, 1].

    Exact for the metrics in BOUNDED_METRICS (not squared ones): the RMS difference of block means
    is at most that of the pixels, because averaging is an orthogonal projection.
    """
    rounding = 0.5 / 255
    means = torch.from_numpy(index).double() / 255
    queries = metric.embed(images)
    found: list[tuple[float, int]] = []
    for image, query in zip(images, queries, strict=True):
        difference = means - block_means(image[None].double())
        bound = (difference.square().mean(1).sqrt() - rounding).clamp_min(0)
        order = bound.argsort()
        best, which = float("inf"), 0
        for start in range(0, len(order), _CANDIDATES):
            numbers = order[start : start + _CANDIDATES].tolist()
            if float(bound[numbers[0]]) > best:
                break
            row = distances(metric, query[None], metric.embed(pictures.take(numbers)))[0]
            if row.min() < best:
                best, which = float(row.min()), numbers[int(row.argmin())]
        found.append((best, which))
    return [distance for distance, _ in found], [number for _, number in found]


def world_hash() -> str:
    """A hash over the captions, their K and a few pictures: what the training set is."""
    content = hashlib.sha256()
    for caption in trained_captions():
        content.update(f"{caption.text}|{caption.k}\n".encode())
    content.update(world.training_pictures(trained_captions()[0]).tobytes())
    return content.hexdigest()


@dataclass(frozen=True)
class PocketReference:
    """The whole training set of pocket, drawn again where it is needed."""

    pictures: TrainingPictures
    index: np.ndarray
    sha256: str
    source: str = "the pocket world"
    complete: bool = True
    flipped: bool = False

    @property
    def names(self) -> Sequence[str]:
        """Return the caption and number of each picture."""
        return self.pictures.names

    def picture(self, number: int) -> Tensor:
        """Return one picture as the model can show it, uint8 [3, h, w]."""
        return self.pictures.take([number])[0]

    def nearest(
        self, metric: Metric, images: Tensor, on_progress: OnProgress | None = None
    ) -> tuple[list[float], list[int]]:
        """Return distance and number of the nearest training picture of each image."""
        if metric.name in BOUNDED_METRICS:
            return nearest_training(metric, images, self.pictures, self.index)
        everything = ReferenceSet(self.pictures, self.pictures.names)
        return everything.nearest(metric, images, on_progress)
