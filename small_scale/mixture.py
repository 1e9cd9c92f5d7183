"""How near samples come to mixtures of the training pictures around them (Sec. 4).

A mixture is a point of the convex hull of a sample's nearest training pictures. The hull comes
nearer to any picture than the nearest one alone, so numbers mean something only beside those of
pictures that the model never saw, of which none is a mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor

from m2g_audit.similarity import nearest
from m2g_audit.similarity.l2 import L2

FloatArray = NDArray[np.float64]

NEIGHBOURS = 4


@dataclass(frozen=True, eq=False)
class Mixtures:
    """The best mixtures of k training pictures for n samples.

    `indices` [n, k]: the pictures, nearest first; `weights` [n, k]: of the point of their hull that
    is nearest to the sample, at least 0, sum 1. `distance` [n]: from that point, and `nearest` [n]:
    from the nearest picture, RMS over all pixel values in units of the full range [0, 1].
    """

    indices: NDArray[np.int64]
    weights: FloatArray
    distance: FloatArray
    nearest: FloatArray

    @property
    def relative(self) -> FloatArray:
        """`distance` over `nearest` [n]: 0 for a mixture; 1 if mixing gains nothing."""
        return relative(self.distance, self.nearest)


def relative(distance: FloatArray, nearest: FloatArray) -> FloatArray:
    """`distance` over `nearest` [n]; 1 for a copy, which no mixture comes nearer to."""
    copies = nearest == 0
    return np.where(copies, 1.0, distance / np.where(copies, 1.0, nearest))


def mixtures(samples: Tensor, pictures: Tensor, *, neighbours: int = NEIGHBOURS) -> Mixtures:
    """The best mixture of its nearest training pictures for each sample.

    samples [n, ...], pictures [K, ...]: images of one shape, floating point in [0, 1] or uint8 in
    0..255; where K is below `neighbours`, all of them are mixed. Neighbours are the nearest in RMS
    difference of pixels. Raises UsageError where there are no pictures or shapes differ.
    """
    queries, base = (_embedded(images) for images in (samples, pictures))
    # At least 1, so that the search says what is wrong where there are no pictures.
    count = max(1, min(neighbours, len(base)))
    distances, indices = nearest(L2(), queries[:, None], base[:, None], count)
    points, corners = queries.double().numpy(), base.double().numpy()
    weights = np.empty(indices.shape)
    remaining = np.empty(len(indices))
    for i, chosen in enumerate(indices):
        offsets = corners[chosen] - points[i]
        weights[i] = hull_weights(offsets)
        remaining[i] = np.linalg.norm(weights[i] @ offsets)
    return Mixtures(indices, weights, remaining, distances[:, 0])


def hull_weights(offsets: FloatArray) -> FloatArray:
    """The weights [k] of the point nearest to the origin in the convex hull of `offsets` [k, d].

    They minimise |w @ offsets|^2 over w >= 0, sum(w) = 1. Let u >= 0 minimise
    |u @ offsets|^2 + (sum(u) - 1)^2, which is non-negative least squares with a row of ones. For
    u = s w with sum(w) = 1 that is s^2 |w @ offsets|^2 + (s - 1)^2, whose best w is the same for
    every s. So u / sum(u) is exact, and not only in the limit of a heavy row.
    """
    # The triangle has the same lengths as the offsets, and k rows instead of d.
    triangle = np.asarray(np.linalg.qr(offsets.T, mode="r"))
    scale = float(np.linalg.norm(offsets, axis=1).max()) or 1.0
    rows = np.vstack([triangle / scale, np.ones(len(offsets))])
    found, _ = nnls(rows, np.eye(len(rows))[-1])
    return found / found.sum()


def _embedded(images: Tensor) -> Tensor:
    """Images as float32 vectors [n, d] whose Euclidean distance is their RMS difference."""
    flat = images.flatten(1).float() / (255 if images.dtype == torch.uint8 else 1)
    return flat / flat.shape[1] ** 0.5
