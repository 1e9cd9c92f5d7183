"""What is read of a trajectory: sketches keep distances, the spread is that of all pairs."""

from __future__ import annotations

import itertools

import pytest
import torch

from m2g_audit.diagnostics.trajectory import SKETCH, sketch, spread


def samples(b: int, n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(b, n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [768, 16384])
def test_a_sketch_keeps_squared_distances_as_exactly_as_it_says(n: int) -> None:
    pairs = samples(200, n), samples(200, n, seed=1)
    expected = (pairs[0] - pairs[1]).square().sum(1)
    found = (sketch(pairs[0]) - sketch(pairs[1])).square().sum(1)
    errors = found / expected - 1
    stated = (2 / SKETCH) ** 0.5
    assert abs(float(errors.mean())) < 4 * stated / 200**0.5
    assert 0.8 * stated < float(errors.std()) < 1.2 * stated


def test_a_sketch_does_not_depend_on_what_is_beside_it() -> None:
    x = samples(5, 300)
    assert torch.equal(sketch(x)[2:3], sketch(x[2:3]))


def test_the_spread_is_the_root_mean_square_over_pairs() -> None:
    clean = samples(6, 3 * 40).reshape(6, 3, 40)
    pairs = [(a - b).square().mean(1) for a, b in itertools.combinations(clean, 2)]
    torch.testing.assert_close(spread(clean, 40), torch.stack(pairs).mean(0).sqrt())


def test_seeds_that_agree_have_no_spread_and_one_seed_none_that_is_known() -> None:
    clean = samples(1, 40).reshape(1, 1, 40)
    assert float(spread(clean.repeat(4, 1, 1), 40)) < 1e-6
    assert spread(clean, 40).isnan().all()
