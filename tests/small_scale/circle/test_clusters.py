"""Clusters of samples: separated groups, the circle itself, and which training points they hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from small_scale.circle.clusters import THRESHOLD, chance, describe, labels
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
    found = describe(samples, labels(samples), POINTS)
    assert [cluster.mass for cluster in found] == [0.6, 0.3, 0.1]
    assert [cluster.held for cluster in found] == [(), (0, 1), (2,)]
    assert found[2].centre == pytest.approx((-1, 0), abs=0.02)


def test_the_threshold_is_the_distance_below_which_two_points_share_a_minimum() -> None:
    for distance, one in ((0.99 * THRESHOLD, True), (1.01 * THRESHOLD, False)):
        pair = torch.tensor([[0.0, 0.0], [distance, 0.0]], dtype=torch.float64)
        assert (len(find_minima(Exact(pair, BETA_EXACT), pair).points) == 1) == one
        samples = pair.repeat_interleave(20, dim=0).numpy()
        assert (labels(samples).max() == 0) == one


def test_an_arc_has_concentration_one_and_a_point_a_large_one() -> None:
    angles = np.concatenate([np.linspace(0, 0.4, 400), np.full(100, 3.0) + 1e-3 * np.arange(100)])
    samples = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    arc, point = describe(samples, (angles > 1).astype(int), POINTS)
    assert arc.concentration == pytest.approx(0.8 / (0.4 / (2 * np.pi)), rel=0.02)
    assert point.concentration == pytest.approx(0.2 / (0.1 / (2 * np.pi)), rel=0.02)
    whole = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    ring = np.stack([np.cos(whole), np.sin(whole)], axis=1)
    eighths = describe(ring, (whole // (np.pi / 4)).astype(int), POINTS)
    # The chord is a little shorter than the arc.
    assert [cluster.concentration for cluster in eighths] == pytest.approx([1.0] * 8, rel=0.05)


def test_the_circle_itself_exceeds_chance_as_rarely_as_said() -> None:
    limit, largest = chance(200, seed=0), []
    for draw in range(100):
        samples = circle_points(1, draw)[:200].numpy()
        found = describe(samples, labels(samples), POINTS)
        largest.append(max(cluster.concentration for cluster in found))
    assert np.mean(np.array(largest) > limit) <= 0.05
    assert 1.5 < limit < 4
