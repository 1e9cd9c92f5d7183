"""States of a synthetic set whose copies, duplicates and novelties are known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from m2g_audit.errors import NumericsError, OutputError
from m2g_audit.similarity import load_metric
from m2g_audit.verdict.states import State
from small_scale.classification import (
    Neighbours,
    classify_set,
    find_neighbours,
    fixed_thresholds,
    thresholds_per_K,
    with_values,
)
from small_scale.geometry import picture_distance
from small_scale.lab import chosen
from small_scale.models.pictures import Pictures, as_input

K, N_COPIES, N_PAIRS, N_NEW = 20, 60, 20, 40


def noise(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator).to(torch.uint8)


def nudged(images: Tensor, seed: int) -> Tensor:
    """The same pictures but for a level or two."""
    moved = images.int() + noise(len(images), seed).int() % 3 - 1
    return moved.clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return Pictures(noise(60, 1), noise(200, 2), "")


@pytest.fixture(scope="module")
def synthetic(pictures: Pictures) -> Tensor:
    copies = nudged(pictures.training(K).repeat(3, 1, 1, 1), 3)
    once = noise(N_PAIRS, 4)
    flat = torch.full((1, 1, 8, 8), 7, dtype=torch.uint8)
    return torch.cat([copies, once, nudged(once, 5), noise(N_NEW, 6), flat, flat])


@pytest.fixture(scope="module")
def neighbours(pictures: Pictures, synthetic: Tensor) -> Neighbours:
    return find_neighbours(load_metric("l2"), synthetic, pictures, K)


def test_neighbours_are_the_pictures_they_came_from(neighbours: Neighbours) -> None:
    assert neighbours.training_rows[:N_COPIES, 0].tolist() == [*range(K)] * 3
    first = neighbours.sample_rows[N_COPIES : N_COPIES + N_PAIRS, 0]
    assert first.tolist() == [*range(N_COPIES + N_PAIRS, N_COPIES + 2 * N_PAIRS)]
    assert neighbours.training.shape == (len(neighbours.failed), 4)
    assert (np.diff(neighbours.training, axis=1) >= 0).all()
    assert neighbours.control.shape == (len(neighbours.failed), 12)
    assert neighbours.n_control == K


def test_flat_samples_fail_and_duplicate_nobody(neighbours: Neighbours) -> None:
    assert np.flatnonzero(neighbours.failed).tolist() == [140, 141]
    assert np.isinf(neighbours.samples[neighbours.failed]).all()
    assert not np.isin(neighbours.sample_rows[:140, 0], [140, 141]).any()


def test_every_sample_gets_its_state(neighbours: Neighbours) -> None:
    found = classify_set(neighbours, thresholds_per_K(neighbours), "l2", K, 0, "per-K")
    expected = (
        [State.MEMORIZED] * N_COPIES
        + [State.SPURIOUS] * 2 * N_PAIRS
        + [State.GENERALIZED] * N_NEW
        + [State.FAILED] * 2
    )
    assert found.states == expected
    assert found.n == 140
    assert found.shares[State.MEMORIZED].estimate == pytest.approx(N_COPIES / 140)
    assert found.shares[State.SPURIOUS].low < 2 * N_PAIRS / 140 < found.shares[State.SPURIOUS].high
    assert (found.delta_m.rule, found.delta_s.rule) == ("valley", "valley")
    assert found.false_memorized == 0


def test_one_pair_for_all_is_the_strictest(neighbours: Neighbours, pictures: Pictures) -> None:
    larger = find_neighbours(load_metric("l2"), noise(120, 7), pictures, 40)
    per_K = [thresholds_per_K(each) for each in (neighbours, larger)]
    values = fixed_thresholds(per_K)
    assert values == tuple(min(pair[i].fresh for pair in per_K) for i in (0, 1))
    delta_m, delta_s = with_values(per_K[1], values, "fresh", larger)
    assert (delta_m.value, delta_s.value) == values
    assert (delta_m.rule, delta_m.n) == ("fresh", len(larger.training))
    # Noise copies nothing.
    assert (delta_m.phase, delta_s.phase) == ("above", "above")


def test_what_a_user_sets_holds(neighbours: Neighbours) -> None:
    pair = with_values(thresholds_per_K(neighbours), (None, 0.0), "by hand", neighbours)
    found = classify_set(neighbours, pair, "l2", K, 0, "per-K")
    assert (pair[0].rule, pair[1].rule, pair[1].phase) == ("valley", "by hand", "above")
    assert State.SPURIOUS not in found.states


def test_few_samples_stand_for_the_whole_state(neighbours: Neighbours) -> None:
    found = classify_set(neighbours, thresholds_per_K(neighbours), "l2", K, 0, "per-K")
    rows = chosen(found, neighbours, State.MEMORIZED, 7)
    distance = neighbours.training[:, 0]
    assert len(rows) == 7
    assert (np.diff(distance[rows]) >= 0).all()
    assert distance[rows[0]] == distance[:N_COPIES].min()
    assert distance[rows[-1]] == distance[:N_COPIES].max()
    assert sorted(chosen(found, neighbours, State.SPURIOUS, 1000)) == [*range(60, 100)]


def test_neighbours_are_kept_whole(neighbours: Neighbours, tmp_path: Path) -> None:
    path = tmp_path / "n.npz"
    neighbours.save(path)
    again = Neighbours.load(path)
    assert again.n_control == neighbours.n_control
    np.testing.assert_array_equal(again.samples, neighbours.samples)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(OutputError, match="Remove it"):
        Neighbours.load(path)


def test_the_distance_of_alg_1_is_that_of_the_pictures() -> None:
    a, b = noise(5, 8), noise(5, 9)
    expected = ((a.double() - b.double()) / 255).square().mean(dim=(1, 2, 3)).sqrt()
    distance = picture_distance(load_metric("l2"))
    measured = distance(as_input(a), as_input(b))
    torch.testing.assert_close(measured, expected, atol=1e-6, rtol=0)
    broken = as_input(a)
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(NumericsError, match="a recovered picture"):
        distance(broken, as_input(b))
