"""Image distances as embeddings, so that all pairs are matrix products.

Every distance here is the largest Euclidean distance (or its square) between corresponding parts of
two embeddings. One search therefore serves all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2g_audit.errors import UsageError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Squared distances below this share of the squared norms are taken again from direct differences:
# a^2 + b^2 - 2ab has lost its digits there.
_CANCELLATION = 1e-10
# Bytes of one temporary block; bounds the memory of every function in this file.
_BLOCK_BYTES = 64 * 2**20


class Metric(ABC):
    """A distance between images, given by where it embeds them.

    `distance(a, b)` is the maximum over parts of ‖a_part - b_part‖, or of its square if `squared`.
    weights_sha256: of the file that its weights came from, None if it has none.
    """

    name: str
    squared: bool = False
    weights_sha256: str | None = None

    @torch.no_grad()
    def embed(self, images: Tensor, *, batch_size: int = 64) -> Tensor:
        """Return the embeddings of images, float32 [n, parts, d] on the CPU.

        images: [n, 3, h, w], floating point in [0, 1] or uint8 in 0..255. Batches only bound
        memory: the result does not depend on them. A non-finite image has a non-finite embedding.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(
                f"Images must be [n, 3, height, width]; got {tuple(images.shape)}. "
                "Repeat a single channel three times."
            )
        if len(images) == 0:
            raise UsageError("There are no images to compare.")
        batches = [self._embed(_as_float(batch)) for batch in images.split(batch_size)]
        return torch.cat([batch.to("cpu", torch.float32) for batch in batches])

    @abstractmethod
    def _embed(self, images: Tensor) -> Tensor:
        """Return [n, parts, d] of float32 images [n, 3, h, w] in [0, 1]."""


class CosineMetric(Metric):
    """1 - cosine of feature vectors: half the squared distance of unit vectors."""

    squared = True

    def _embed(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(self._features(images).float())[:, None] / 2**0.5

    @abstractmethod
    def _features(self, images: Tensor) -> Tensor:
        """Return features [n, d] of float32 images [n, 3, h, w] in [0, 1]."""


def _as_float(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images.to(torch.float32) / 255
    return images.to("cpu", torch.float32)


def distances(metric: Metric, a: Tensor, b: Tensor) -> FloatArray:
    """Return the distances of all pairs, float64 [n, m], of embeddings a [n, p, d] and b [m, p, d].

    Products are in float64; pairs whose digits cancel are recomputed from differences, so equal
    images are at exactly 0. A pair with a non-finite embedding is at infinity. The whole matrix is
    returned: use `nearest` where n x m is large.
    """
    _check_comparable(a, b)
    rows = [
        _block_distances(metric, a[i : i + _rows(a)], b[j : j + _rows(b)])
        for i in range(0, len(a), _rows(a))
        for j in range(0, len(b), _rows(b))
    ]
    per_row = -(-len(b) // _rows(b))
    stripes = [torch.cat(rows[i : i + per_row], dim=1) for i in range(0, len(rows), per_row)]
    return torch.cat(stripes).numpy()


def nearest(
    metric: Metric,
    queries: Tensor,
    base: Tensor,
    k: int = 1,
    *,
    exclude_self: bool = False,
    block: int | None = None,
) -> tuple[FloatArray, IntArray]:
    """Return the k nearest base images of each query: distances [n, k] ascending, indices [n, k].

    queries [n, p, d] and base [m, p, d] are embeddings; `exclude_self` leaves out base image i for
    query i (the two are then the same set). `block` is the number of rows of each side compared at
    once; it bounds memory and changes nothing else, except which of several base images at the same
    distance is named. Fewer than k others: UsageError.
    """
    _check_comparable(queries, base)
    available = len(base) - int(exclude_self)
    if not 1 <= k <= available:
        raise UsageError(f"Cannot find {k} nearest among {available} images: give more images.")
    step_q, step_b = block or _rows(queries), block or _rows(base)
    found = [
        _nearest_of_block(metric, queries[i : i + step_q], base, k, step_b, i, exclude_self)
        for i in range(0, len(queries), step_q)
    ]
    return (
        torch.cat([values for values, _ in found]).numpy(),
        torch.cat([indices for _, indices in found]).numpy(),
    )


def _nearest_of_block(
    metric: Metric,
    queries: Tensor,
    base: Tensor,
    k: int,
    step: int,
    first_query: int,
    exclude_self: bool,
) -> tuple[Tensor, Tensor]:
    best = torch.full((len(queries), 0), torch.inf, dtype=torch.float64)
    indices = torch.zeros((len(queries), 0), dtype=torch.int64)
    for j in range(0, len(base), step):
        block = _block_distances(metric, queries, base[j : j + step])
        columns = torch.arange(j, j + block.shape[1])
        if exclude_self:
            rows = torch.arange(first_query, first_query + len(queries))
            block[rows[:, None] == columns] = torch.nan
        best = torch.cat([best, block], dim=1)
        indices = torch.cat([indices, columns.expand(len(queries), -1)], dim=1)
        # Stable, so the lowest index of equals wins; NaN (the image itself) sorts behind infinity.
        best, order = best.sort(dim=1, stable=True)
        best, indices = best[:, :k], indices.gather(1, order[:, :k])
    return best, indices


def _block_distances(metric: Metric, a: Tensor, b: Tensor) -> Tensor:
    x, y = a.double().transpose(0, 1), b.double().transpose(0, 1)  # [parts, n, d]
    norms = (x * x).sum(-1)[:, :, None] + (y * y).sum(-1)[:, None, :]
    squares = (norms - 2 * x @ y.transpose(1, 2)).clamp_min(0)
    for part, i, j in _chunks((squares <= _CANCELLATION * norms).nonzero(), x.shape[-1]):
        squares[part, i, j] = (x[part, i] - y[part, j]).square().sum(-1)
    squares = squares.amax(dim=0).nan_to_num(nan=torch.inf)
    return squares if metric.squared else squares.sqrt()


def _chunks(pairs: Tensor, width: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    size = max(1, _BLOCK_BYTES // (8 * width))
    return [(c[:, 0], c[:, 1], c[:, 2]) for c in pairs.split(size)] if len(pairs) else []


def _rows(embeddings: Tensor) -> int:
    """Return how many rows make a block: neither they nor their distances by part exceed it."""
    parts = embeddings.shape[1]
    by_pairs = math.isqrt(_BLOCK_BYTES // (8 * parts))
    return max(1, min(by_pairs, _BLOCK_BYTES // (8 * embeddings[0].numel())))


def _check_comparable(a: Tensor, b: Tensor) -> None:
    if a.shape[1:] != b.shape[1:]:
        raise UsageError(
            f"Embeddings of shapes {tuple(a.shape[1:])} and {tuple(b.shape[1:])} cannot be "
            "compared: bring all images to one size first."
        )
