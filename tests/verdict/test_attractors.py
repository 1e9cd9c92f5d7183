"""The repeat-seed check: planted duplicates, manifolds, failures, and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.errors import NumericsError
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.similarity import distances, load_metric
from m2g_audit.verdict.attractors import RepeatSeedCheck, find_attractors


def line(*points: float) -> np.ndarray:
    x = np.array(points, dtype=np.float64)
    return np.abs(x[:, None] - x[None])


def plane(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=2)


def planted(sizes: list[int], seed: int) -> np.ndarray:
    """Return points around well-separated centres, `sizes` of each, in random order."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(10.0 * np.arange(len(sizes)), sizes)
    points = np.stack([centres, np.zeros_like(centres)], axis=1)
    return rng.permutation(points + rng.uniform(-0.1, 0.1, points.shape))


def test_clusters_medoids_and_diameters() -> None:
    found = find_attractors(line(0, 0.4, 1, 5, 5.5, 9), 1)
    first, second = found.attractors
    assert (first.members, first.medoid, first.diameter) == ((0, 1, 2), 1, 1)
    assert (second.members, second.medoid) == ((3, 4), 3)
    assert (first.mass.estimate, second.mass.estimate) == (3 / 6, 2 / 6)
    assert list(found.duplicated) == [True] * 5 + [False]
    assert list(found.n_duplicates) == [2, 2, 2, 1, 1, 0]
    assert found.unseen.estimate == 1 / 6
    assert found.collision.estimate == pytest.approx(4 / 15)
    assert found.loose == ()


def test_the_threshold_is_closed() -> None:
    assert len(find_attractors(line(0, 1), 1).attractors) == 1
    assert find_attractors(line(0, 1), np.nextafter(1, 0)).attractors == ()


def test_a_duplicate_of_a_member_alone_is_loose() -> None:
    found = find_attractors(line(0, 0.9, 1.85), 1)
    (attractor,) = found.attractors
    assert attractor.members == (0, 1)
    assert found.loose == (2,)
    assert found.duplicated.all()


def test_an_attractor_has_no_two_members_apart() -> None:
    rng = np.random.default_rng(0)
    pairs = plane(rng.normal(size=(100, 2)))
    found = find_attractors(pairs, 0.5)
    for attractor in found.attractors:
        inside = pairs[np.ix_(attractor.members, attractor.members)]
        assert len(attractor.members) >= 2
        assert inside.max() == attractor.diameter <= 0.5
    members = [i for attractor in found.attractors for i in attractor.members]
    assert len(members) == len(set(members))
    assert sorted([*members, *found.loose]) == list(np.flatnonzero(found.duplicated))


def test_a_circle_has_no_attractor_of_large_mass() -> None:
    """Every sample has duplicates, and neighbours chain all around; but no mass is in one place."""
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * math.pi, 400)
    delta = 0.3
    found = find_attractors(plane(np.stack([np.cos(angles), np.sin(angles)], axis=1)), delta)
    assert found.duplicated.all()
    arc = 2 * math.asin(delta / 2) / (2 * math.pi)  # share of the circle within one diameter
    largest = found.attractors[0].mass
    assert largest.estimate < 2 * arc < 0.1
    assert largest.high < 0.2


def summary(found: RepeatSeedCheck, order: np.ndarray) -> tuple[object, ...]:
    """Return the check in terms of the samples' names order[i] instead of their positions."""
    return (
        {
            # The members of a pair are equally near to each other: either is a medoid.
            (
                frozenset(order[list(a.members)].tolist()),
                int(order[a.medoid]) if len(a.members) > 2 else None,
                a.mass,
            )
            for a in found.attractors
        },
        set(order[list(found.loose)].tolist()),
        set(order[found.duplicated].tolist()),
        found.unseen,
        found.collision,
    )


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(0, 10**6))
def test_the_order_of_seeds_changes_nothing(sizes: list[int], seed: int) -> None:
    points = planted(sizes, seed)
    order = np.random.default_rng(seed).permutation(len(points))
    found = find_attractors(plane(points), 1)
    assert sorted(len(a.members) for a in found.attractors) == sorted(s for s in sizes if s > 1)
    assert summary(find_attractors(plane(points[order]), 1), order) == summary(
        found, np.arange(len(points))
    )


@given(st.integers(0, 10**6))
def test_the_order_of_seeds_changes_nothing_without_clear_clusters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(20, 2))
    order = rng.permutation(20)
    assert summary(find_attractors(plane(points[order]), 0.7), order) == summary(
        find_attractors(plane(points), 0.7), np.arange(20)
    )


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 99))
def test_failed_pictures_change_nothing(sizes: list[int], n_failed: int, seed: int) -> None:
    pairs = plane(planted(sizes, seed))
    n = len(pairs)
    padded = np.zeros((n + n_failed, n + n_failed))  # failed pictures equal everything
    padded[:n, :n] = pairs
    failed = np.arange(n + n_failed) >= n
    found = find_attractors(padded, 1, failed=failed)
    assert summary(found, np.arange(n + n_failed)) == summary(
        find_attractors(pairs, 1), np.arange(n)
    )
    assert found.n_valid == n
    assert not found.duplicated[n:].any()
    assert np.isinf(found.nearest[n:]).all()


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_the_batches_of_the_embedding_change_nothing(batch_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(9, 3, 8, 8, generator=generator)
    images[[4, 7]] = images[[1, 1]] + 0.001
    metric = load_metric("l2")
    e = metric.embed(images, batch_size=batch_size)
    (attractor,) = find_attractors(distances(metric, e, e), 0.01).attractors
    assert attractor.members == (1, 4, 7)


@pytest.mark.parametrize("n", [0, 1])
def test_without_two_pictures_there_is_nothing_to_see(n: int) -> None:
    for found in (
        find_attractors(np.zeros((n, n)), 1),
        find_attractors(np.zeros((4, 4)), 1, failed=np.arange(4) >= n),
    ):
        assert found.n_valid == n
        assert found.attractors == ()
        assert not found.duplicated.any()
        assert found.undetected_mass == 1
        assert (found.collision.low, found.collision.high) == (0, 1)


def test_non_finite_distances_of_good_pictures_are_an_error() -> None:
    pairs = line(0, 1, 2)
    pairs[0, 1] = np.inf
    with pytest.raises(NumericsError, match="not finite"):
        find_attractors(pairs, 1)
    assert find_attractors(pairs, 1, failed=np.array([True, False, False])).n_valid == 2


def test_flat_and_non_finite_pictures_failed() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(7, 3, 8, 8, generator=generator)
    images[1] = 0
    images[2] = torch.tensor([0.9, 0.1, 0.5])[:, None, None]
    images[3, 2, 5, 5] = torch.nan
    images[4, 0, 0, 0] = torch.inf
    images[5] = 0.5 + torch.rand(3, 8, 8, generator=generator) / 255
    images[6] = 0.5
    images[6, 0, :4] = 0.6
    assert list(is_failed(images)) == [False, True, True, True, True, True, False]
