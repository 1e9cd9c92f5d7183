"""What is told before a sweep begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from small_scale.planning import is_sweep, settings_of, sizes_left_out
from tests.support.fake_lab import fake_lab

NOTHING: dict[str, Any] = dict.fromkeys(
    ("sizes", "side", "width", "metric", "multiple", "sampler", "spectrum")
)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(120):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
    return folder


def test_sizes_that_are_left_out_are_told_of(pictures: Path) -> None:
    settings = settings_of(str(pictures), "smoke", **NOTHING)  # 100 of them are held out
    assert settings.sizes == (2, 8)
    assert sizes_left_out(settings) == (
        "The sizes K = 32 of the preset smoke are left out: there are 20 pictures to train on."
    )


def test_nothing_is_told_where_nothing_is_left_out(pictures: Path) -> None:
    by_hand = settings_of(str(pictures), "smoke", **{**NOTHING, "sizes": "2,4"})
    assert sizes_left_out(by_hand) is None
    paper = settings_of(str(pictures), "lab", **NOTHING)
    assert sizes_left_out(paper) is None


def test_a_sweeps_folder_is_told_from_pictures(pictures: Path, tmp_path: Path) -> None:
    assert is_sweep(str(fake_lab(tmp_path / "sweep").path))
    assert not is_sweep(str(pictures))
    assert not is_sweep("mnist")
