"""A picture that is there twice counts once; different pictures are never taken for copies."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from small_scale.models.copies import LEVELS, OF_CONTRAST, first_of_each


def noise(n: int, seed: int, side: int = 16, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, side, side), generator=generator, dtype=torch.uint8)


def moved(levels: Tensor, by: float, seed: int) -> Tensor:
    """The same pictures with noise of a root mean square of `by` levels."""
    generator = torch.Generator().manual_seed(seed)
    return (
        (levels + by * torch.randn(levels.shape, generator=generator)).round().clamp(0, 255).byte()
    )


def brute_force(levels: Tensor, known: int) -> list[bool]:
    first: list[bool] = []
    for i, picture in enumerate(levels.double().flatten(1)):
        limit = min(LEVELS, OF_CONTRAST * float(picture.std(correction=0)))
        earlier = (levels[k].double().flatten() for k in range(i) if first[k])
        near = any(float((picture - e).square().mean().sqrt()) <= limit for e in earlier)
        first.append(i < known or not near)
    return first


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 2.0, 3.5, 5.0])), max_size=12),
    st.integers(0, 3),
    st.sampled_from([1, 3]),
    st.sampled_from([8, 12, 28]),
)
def test_it_is_what_a_comparison_of_all_pairs_says(
    drawn: list[tuple[int, float]], known: int, channels: int, side: int
) -> None:
    base = noise(5, 0, side, channels) // 2 + 64
    levels = torch.stack(
        [moved(base[which], by, i) for i, (which, by) in enumerate(drawn)] or [base[0]]
    )
    known = min(known, len(levels))
    assert first_of_each(levels, known).tolist() == brute_force(levels, known)


@pytest.mark.parametrize("block", [1, 3, 256])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr("small_scale.models.copies._BLOCK", block)
    levels = torch.cat([noise(40, 0), moved(noise(40, 0), 1, 1), noise(5, 2)])
    assert first_of_each(levels).tolist() == [True] * 40 + [False] * 40 + [True] * 5


def test_pictures_of_one_colour_are_copies_only_of_their_own() -> None:
    levels = torch.tensor([3, 4, 3, 200], dtype=torch.uint8)[:, None, None, None]
    assert first_of_each(levels.expand(4, 1, 8, 8)).tolist() == [True, True, False, True]


def test_faint_pictures_are_told_apart() -> None:
    """Within 4 levels of each other, which is all that they show."""
    faint = (noise(6, 0) / 255 * 4 + 100).byte()
    assert first_of_each(faint).all()
    assert first_of_each(torch.cat([faint, faint])).sum() == 6


def test_sketches_that_differ_in_a_corner_are_told_apart() -> None:
    white = torch.full((2, 1, 16, 16), 255, dtype=torch.uint8)
    white[:, :, :8] = 0
    white[1, :, 12:14, 12:14] = 0
    assert first_of_each(white).all()
