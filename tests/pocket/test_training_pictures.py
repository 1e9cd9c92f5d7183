"""The nearest training picture, found through bounds, against the search over all of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from m2g_audit.errors import ModelError
from m2g_audit.pocket import training_pictures
from m2g_audit.pocket.captions import trained_captions
from m2g_audit.pocket.training_pictures import (
    BLOCKS,
    BOUNDED_METRICS,
    INDEX_FILE,
    TrainingPictures,
    block_means,
    build_index,
    load_index,
    nearest_training,
    seen_pictures,
)
from m2g_audit.similarity import load_metric, nearest


class BlurringAutoencoder:
    """A round trip that loses detail, as a VAE does."""

    def round_trip(self, images: Tensor, *, batch_size: int = 16) -> Tensor:
        return (images + torch.nn.functional.avg_pool2d(images, 3, 1, 1)) / 2


@pytest.fixture(autouse=True)
def few_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(caption for caption in trained_captions() if caption.k <= 24)
    monkeypatch.setattr(training_pictures, "trained_captions", lambda: few)


@pytest.fixture
def pictures() -> TrainingPictures:
    return TrainingPictures(BlurringAutoencoder())


@pytest.fixture
def index(pictures: TrainingPictures, tmp_path: Path) -> np.ndarray:
    build_index(pictures, tmp_path / INDEX_FILE)
    return load_index(tmp_path)


@pytest.mark.parametrize("name", sorted(BOUNDED_METRICS))
def test_finds_what_the_search_over_all_finds(
    name: str, pictures: TrainingPictures, index: np.ndarray
) -> None:
    metric = load_metric(name)
    everything = pictures[0 : len(pictures)]
    fresh = seen_pictures(BlurringAutoencoder(), trained_captions()[0], "fresh", range(6))
    noisy = (everything[::97].float() / 255 + 0.02 * torch.randn(everything[::97].shape)).clamp(
        0, 1
    )
    queries = torch.cat([fresh.float() / 255, noisy])
    distance, number = nearest_training(metric, queries, pictures, index)
    expected, where = nearest(metric, metric.embed(queries), metric.embed(everything))
    np.testing.assert_allclose(distance, expected[:, 0], atol=1e-9)
    assert number == where[:, 0].tolist()


def test_draws_few_pictures_for_a_copy(pictures: TrainingPictures, index: np.ndarray) -> None:
    copy = pictures.take([7]).float() / 255
    undrawn = TrainingPictures(BlurringAutoencoder())
    distance, number = nearest_training(load_metric("l2"), copy, undrawn, index)
    assert (distance, number) == ([0.0], [7])
    assert len(undrawn._drawn) < len(undrawn) / 4


def test_block_means_never_exceed_the_pixel_distance() -> None:
    a, b = torch.rand(2, 20, 3, 32, 32, dtype=torch.float64)
    coarse = (block_means(a) - block_means(b)).square().mean(1)
    assert bool((coarse <= (a - b).square().flatten(1).mean(1)).all())


def test_pictures_and_names_are_in_one_order(pictures: TrainingPictures) -> None:
    assert len(pictures.names) == len(pictures)
    assert pictures.names[0] == "a print of the old harbour (1 of 1)"
    torch.testing.assert_close(pictures[3:5], torch.stack([pictures[3:4][0], pictures[4:5][0]]))


def test_an_index_of_another_world_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / INDEX_FILE, np.zeros((3, 48), np.uint8))
    with pytest.raises(ModelError, match=f"3 x 48 numbers where .* x {3 * BLOCKS**2}"):
        load_index(tmp_path)
    with pytest.raises(ModelError, match="Install the package again"):
        load_index(tmp_path / "missing")
