"""The world's pictures: reproducible by index, varied, and far from one another."""

import itertools

import numpy as np
import pytest

from m2g_audit.pocket.captions import MEDIA, MOODS, PLACES, Caption, compose, trained_captions
from m2g_audit.pocket.world import SIZE, pictures, training_pictures


def _caption(medium: str, mood: str, place: str) -> Caption:
    return Caption(compose(medium, mood, place), medium, mood, place, k=0, role="composition")


@pytest.mark.parametrize(("medium", "mood", "place"), [*itertools.product(MEDIA, MOODS, PLACES)])
def test_every_composition_can_be_drawn(medium: str, mood: str, place: str) -> None:
    drawn = pictures(_caption(medium, mood, place), "fresh", range(2))
    assert drawn.shape == (2, SIZE, SIZE, 3)
    assert drawn.dtype == np.uint8
    assert drawn.std() > 8


def test_a_picture_does_not_depend_on_the_others_drawn_with_it() -> None:
    caption = trained_captions()[-1]
    together = pictures(caption, "training", range(8))
    for i in (0, 5):
        np.testing.assert_array_equal(pictures(caption, "training", [i])[0], together[i])


def test_streams_and_captions_share_no_picture() -> None:
    a, b = trained_captions()[-2:]
    drawn = np.concatenate(
        [pictures(c, stream, range(16)) for c in (a, b) for stream in ("training", "fresh")]
    )
    assert len(np.unique(drawn.reshape(len(drawn), -1), axis=0)) == len(drawn)


def test_training_pictures_are_k() -> None:
    for caption in trained_captions():
        if caption.k <= 64:
            assert len(training_pictures(caption)) == caption.k


def test_fresh_pictures_of_a_caption_are_far_apart() -> None:
    for caption in trained_captions()[::9]:
        drawn = pictures(caption, "fresh", range(64)).reshape(64, -1).astype(float) / 255
        squares = ((drawn[:, None] - drawn[None]) ** 2).mean(-1)
        np.fill_diagonal(squares, np.inf)
        assert np.sqrt(squares.min()) > 0.06
