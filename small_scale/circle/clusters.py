"""Agglomerative clusters of samples, and how large chance makes them on the circle itself."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from sklearn.cluster import AgglomerativeClustering

from small_scale.circle.recipe import BETA_EXACT


@dataclass(frozen=True)
class Cluster:
    """One cluster: its mean, its share of the samples, and the training points that it holds."""

    centre: tuple[float, float]
    mass: float
    held: tuple[int, ...]


def threshold() -> float:
    """Return the diameter up to which samples are one cluster: sqrt(2 / beta) at beta = 20.

    Two training points nearer than that share one minimum of the energy (Eq. 7), so clusters and
    minima are told apart at one resolution, that of Fig. 2's exact panel.
    """
    return sqrt(2 / BETA_EXACT)


def labels(samples: np.ndarray, diameter: float) -> np.ndarray:
    """Return the cluster of each sample [n, 2], complete-link at `diameter`, the largest first."""
    model = AgglomerativeClustering(
        n_clusters=None, distance_threshold=diameter, linkage="complete"
    )
    found = model.fit(samples).labels_
    rank = np.argsort(np.argsort(-np.bincount(found), kind="stable"), kind="stable")
    return rank[found]


def describe(
    samples: np.ndarray, found: np.ndarray, points: np.ndarray, diameter: float
) -> list[Cluster]:
    """Return the clusters `found` among samples [n, 2], labels [n].

    A cluster holds the training points [K, 2] within half a diameter of its mean.
    """
    clusters = []
    for label in range(found.max() + 1):
        members = samples[found == label]
        centre = members.mean(axis=0)
        near = np.linalg.norm(points - centre, axis=1) < diameter / 2
        clusters.append(
            Cluster(
                (float(centre[0]), float(centre[1])),
                len(members) / len(samples),
                tuple(int(i) for i in near.nonzero()[0]),
            )
        )
    return clusters


def chance_mass(n: int, diameter: float, seed: int, trials: int = 200) -> float:
    """Return the 99% quantile of the largest cluster's share among n points uniform on the circle.

    A cluster with no more than that says nothing against a continuous manifold.
    """
    generator = np.random.default_rng([seed, n])
    largest = []
    for _ in range(trials):
        angles = generator.uniform(0, 2 * np.pi, n)
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        largest.append(np.bincount(labels(ring, diameter)).max() / n)
    return float(np.quantile(largest, 0.99))
