"""Agglomerative clusters of samples, and how dense chance makes them on the circle itself."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import numpy as np
from sklearn.cluster import AgglomerativeClustering

from small_scale.circle.recipe import BETA_EXACT

THRESHOLD = sqrt(2 / BETA_EXACT)
"""The mean distance of pairs up to which two groups of samples are one: 0.316.

Two training points nearer than sqrt(2 / beta) share one minimum of the energy (Eq. 7), so clusters
are told apart as finely as minima are in Fig. 2's exact panel, where beta = 20.
"""
_FEW = 0.01
"""Smaller shares of the samples say nothing of a density."""


@dataclass(frozen=True)
class Cluster:
    """One cluster: its mean, its share of the samples, its density, the training points it holds.

    `concentration`: its share over the part of the circle that an arc of the same
    root-mean-square width covers. About 1 for samples uniform on the circle, 0 for stray ones.
    """

    centre: tuple[float, float]
    mass: float
    concentration: float
    held: tuple[int, ...]


def labels(samples: np.ndarray) -> np.ndarray:
    """Return the cluster of each sample [n, 2]: average link at THRESHOLD, the largest first."""
    model = AgglomerativeClustering(
        n_clusters=None, distance_threshold=THRESHOLD, linkage="average"
    )
    found = model.fit(samples).labels_
    rank = np.argsort(np.argsort(-np.bincount(found), kind="stable"), kind="stable")
    return rank[found]


def describe(samples: np.ndarray, found: np.ndarray, points: np.ndarray) -> list[Cluster]:
    """Return the clusters `found` among samples [n, 2], labels [n].

    A cluster holds the training points [K, 2] within half of THRESHOLD of its mean.
    """
    clusters = []
    for label in range(found.max() + 1):
        members = samples[found == label]
        mass, centre = len(members) / len(samples), members.mean(axis=0)
        near = np.linalg.norm(points - centre, axis=1) < THRESHOLD / 2
        clusters.append(
            Cluster(
                (float(centre[0]), float(centre[1])),
                mass,
                _concentration(members, mass),
                tuple(int(i) for i in near.nonzero()[0]),
            )
        )
    return clusters


def _concentration(members: np.ndarray, mass: float) -> float:
    if mass < _FEW:
        return 0.0
    width = float(np.sqrt(members.var(axis=0).sum()))
    # An arc of length l has the root-mean-square width l / sqrt(12).
    return mass / max(sqrt(12) * width / (2 * pi), 1e-9)


def chance(n: int, seed: int, trials: int = 200) -> float:
    """Return the 99% quantile of the largest concentration among n points uniform on the circle.

    A cluster with no more than that says nothing against a continuous manifold.
    """
    generator = np.random.default_rng([seed, n])
    largest = []
    for _ in range(trials):
        angles = generator.uniform(0, 2 * np.pi, n)
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        clusters = describe(ring, labels(ring), ring[:0])
        largest.append(max(cluster.concentration for cluster in clusters))
    return float(np.quantile(largest, 0.99))
