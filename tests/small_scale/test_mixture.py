"""Distances to hulls of neighbours against the conditions of optimality and known geometry."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.errors import UsageError
from small_scale.mixture import hull_weights, mixtures

SHAPE = (1, 6, 7)


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


@given(
    seed=st.integers(0, 2**20),
    count=st.integers(1, 6),
    size=st.integers(1, 8),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    repeated=st.booleans(),
)
def test_weights_are_optimal(
    seed: int, count: int, size: int, scale: float, repeated: bool
) -> None:
    # Karush-Kuhn-Tucker: all corners in use are equally far along the direction of the point found,
    # and no other corner is nearer along it.
    generator = np.random.default_rng(seed)
    offsets = scale * (generator.normal(size=(count, size)) + generator.normal(size=size))
    if repeated:
        offsets[-1] = offsets[0]
    weights = hull_weights(offsets)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)
    point = weights @ offsets
    along = offsets @ point
    tolerance = 1e-9 * np.square(offsets).sum(axis=1).max()
    assert (along >= point @ point - tolerance).all()
    np.testing.assert_allclose(along[weights > 1e-9], point @ point, atol=tolerance)


def test_the_nearest_point_of_a_triangle_is_known() -> None:
    corners = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
    for point, weights in (
        ([1.0, 1.0, 5.0], [0.5, 0.25, 0.25]),  # above the inside
        ([2.0, -3.0, 1.0], [0.5, 0.5, 0.0]),  # beside an edge
        ([4.0, 4.0, 0.0], [0.0, 0.5, 0.5]),  # beyond the long edge
        ([-1.0, -2.0, 0.0], [1.0, 0.0, 0.0]),  # beyond a corner
        ([0.0, 4.0, 0.0], [0.0, 0.0, 1.0]),  # a corner
    ):
        np.testing.assert_allclose(hull_weights(corners - point), weights, atol=1e-12)
    np.testing.assert_allclose(hull_weights(np.zeros((3, 2))).sum(), 1)


def test_a_mixture_is_found_with_its_weights() -> None:
    training = pictures(30)
    shares = torch.tensor([0.4, 0.3, 0.2, 0.1])
    chosen = [4, 8, 15, 16]
    # Far apart pictures, of which a mixture's own parts are the nearest ones.
    training[chosen] = training[chosen] * 0.2
    sample = (shares[:, None, None, None] * training[chosen]).sum(dim=0)
    found = mixtures(sample[None], training)
    assert sorted(found.indices[0]) == chosen
    assert found.distance[0] < 1e-6
    assert found.relative[0] < 1e-5
    weights = dict(zip(found.indices[0].tolist(), found.weights[0], strict=True))
    np.testing.assert_allclose([weights[i] for i in chosen], shares, atol=1e-5)


def test_units_are_those_of_l2() -> None:
    training = 0.5 * pictures(4)
    sample = training[:1] + 0.25
    found = mixtures(sample, training[:1])
    assert [found.distance[0], found.nearest[0]] == pytest.approx([0.25, 0.25])
    assert found.relative[0] == pytest.approx(1)
    whole = (255 * torch.ones(1, 3, 4, 4)).to(torch.uint8)
    assert mixtures(whole, torch.zeros_like(whole)).distance == pytest.approx(1)
    assert mixtures(whole, torch.zeros(1, 3, 4, 4)).distance == pytest.approx(1)


def test_beside_a_hull_only_the_part_across_remains() -> None:
    # Two pictures that differ in the upper half; the sample lies between them, and off by 0.1 in
    # the lower half: half of the pixels, so by 0.1 / sqrt(2).
    training = torch.zeros(2, 1, 4, 4)
    training[1, :, :2] = 0.8
    sample = training.mean(dim=0, keepdim=True)
    sample[:, :, 2:] += 0.1
    found = mixtures(sample, training)
    np.testing.assert_allclose(found.weights, [[0.5, 0.5]])
    assert found.distance[0] == pytest.approx(0.1 / 2**0.5)
    assert found.nearest[0] == pytest.approx(((0.4**2 + 0.1**2) / 2) ** 0.5)


def test_a_copy_gains_nothing() -> None:
    training = pictures(6)
    found = mixtures(training[2:3], training)
    np.testing.assert_allclose(found.weights, [[1, 0, 0, 0]], atol=1e-12)
    assert (found.indices[0, 0], found.distance[0], found.relative[0]) == (2, 0, 1)
    np.testing.assert_allclose(mixtures(training[:1], training[[0, 0, 0]]).relative, 1)


@given(seed=st.integers(0, 2**20), count=st.integers(1, 9))
def test_more_neighbours_never_take_a_sample_farther(seed: int, count: int) -> None:
    training, samples = pictures(count, seed), pictures(3, seed + 1)
    distances = [
        mixtures(samples, training, neighbours=neighbours).distance for neighbours in (1, 2, 4, 8)
    ]
    np.testing.assert_allclose(distances[0], mixtures(samples, training).nearest, rtol=1e-6)
    for fewer, more in pairwise(distances):
        assert (more <= fewer + 1e-12).all()
    assert mixtures(samples, training).weights.shape == (3, min(count, 4))


def test_mixtures_are_told_from_fresh_pictures() -> None:
    training, fresh = pictures(12), pictures(20, seed=1)
    mixed = torch.stack([training[i : i + 2].mean(dim=0) for i in range(10)])
    blurred = mixed + 0.02 * pictures(10, seed=2)
    assert mixtures(blurred, training).relative.max() < mixtures(fresh, training).relative.min()


def test_without_pictures_there_is_no_mixture() -> None:
    with pytest.raises(UsageError, match="among 0 images"):
        mixtures(pictures(2), pictures(0))
    with pytest.raises(UsageError, match="cannot be compared"):
        mixtures(pictures(2), torch.zeros(3, 3, 6, 7))
