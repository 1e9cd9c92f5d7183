"""Clusters of samples: separated groups, the circle itself, and which training points they hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from small_scale.circle.clusters import chance_mass, describe, labels, threshold
from small_scale.circle.data import circle_points
from small_scale.circle.minima import Exact, find_minima
from small_scale.circle.recipe import BETA_EXACT

POINTS = np.array([[1.0, 0.0], [0.95, 0.05], [-1.0, 0.0], [0.0, 1.0]])


def groups(*sizes: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    centres = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    return np.concatenate(
        [c + 0.01 * generator.normal(size=(n, 2)) for c, n in zip(centres, sizes, strict=True)]
    )


def test_groups_are_found_the_largest_first_with_what_they_hold() -> None:
    samples = groups(10, 30, 60)
    found = describe(samples, labels(samples, threshold()), POINTS, threshold())
    assert [cluster.mass for cluster in found] == [0.6, 0.3, 0.1]
    assert [cluster.held for cluster in found] == [(), (0, 1), (2,)]
    assert found[2].centre == pytest.approx((-1, 0), abs=0.02)


def test_no_cluster_is_wider_than_the_diameter() -> None:
    samples = circle_points(0)[:300].numpy()
    found = labels(samples, threshold())
    for label in range(found.max() + 1):
        members = samples[found == label]
        assert np.linalg.norm(members[:, None] - members, axis=2).max() <= threshold()


def test_the_diameter_is_the_distance_at_which_two_points_share_a_minimum() -> None:
    for distance, minima in ((0.99 * threshold(), 1), (1.01 * threshold(), 2)):
        pair = torch.tensor([[0.0, 0.0], [distance, 0.0]], dtype=torch.float64)
        assert len(find_minima(Exact(pair, BETA_EXACT), pair).points) == minima


def test_the_circle_itself_exceeds_chance_as_rarely_as_said() -> None:
    limit = chance_mass(200, threshold(), seed=0)
    largest = [
        np.bincount(labels(circle_points(1, draw)[:200].numpy(), threshold())).max() / 200
        for draw in range(100)
    ]
    assert np.mean(np.array(largest) > limit) <= 0.05
    assert 0.05 < limit < 0.2
