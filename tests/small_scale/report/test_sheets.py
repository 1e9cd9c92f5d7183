"""What figures show of a sweep is kept with its neighbours, and of the thresholds that hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m2g_audit.errors import OutputError
from small_scale.lab import Lab
from small_scale.lab_folder import Cell
from small_scale.models.pictures import Pictures
from small_scale.report.sheets import DELTAS, SIDES, is_current, load_sheet, save_sheet, sheet_file
from tests.support.fake_lab import FRESH, SIZES, N, fake_pictures, measured_lab

PEAK = Cell(64, 0)
SYNTHETIC = fake_pictures(N, 2)
PICTURES = Pictures(fake_pictures(2 * SIZES[-1], 0), fake_pictures(FRESH, 1), "")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A sweep with the sheet of its peak."""
    lab = measured_lab(tmp_path_factory.mktemp("sweep"), (PEAK,))
    save_sheet(lab, PEAK, PICTURES, SYNTHETIC)
    return lab


def test_samples_stand_beside_their_neighbours(kept: Lab) -> None:
    sheet, neighbours = load_sheet(kept, PEAK), kept.folder.neighbours(PEAK)
    assert sheet is not None
    rows = sheet.rows
    np.testing.assert_array_equal(sheet.images, SYNTHETIC[rows])
    np.testing.assert_array_equal(
        sheet.training, PICTURES.training(PEAK.K)[neighbours.training_rows[rows]]
    )
    np.testing.assert_array_equal(sheet.samples, SYNTHETIC[neighbours.sample_rows[rows]])
    np.testing.assert_array_equal(sheet.sample_distances, neighbours.samples[rows])


def test_examples_are_of_their_state(kept: Lab) -> None:
    sheet, classified = load_sheet(kept, PEAK), kept.classified["per-K"][PEAK]
    assert sheet is not None
    for state in ("memorized", "spurious", "generalized"):
        shown = sheet.rows[sheet.groups[state]]
        assert len(set(shown)) == 6
        assert {classified.states[row] for row in shown} == {state}


def test_the_sides_of_a_threshold_are_the_nearest_to_it(kept: Lab) -> None:
    sheet, neighbours = load_sheet(kept, PEAK), kept.folder.neighbours(PEAK)
    assert sheet is not None
    valid = ~neighbours.failed
    copies = neighbours.training[:, 0] <= sheet.thresholds["delta_m"]
    asked = {
        "delta_m": neighbours.training[valid, 0],
        "delta_s": neighbours.samples[valid & ~copies, 0],
    }
    found = {"delta_m": sheet.training_distances[:, 0], "delta_s": sheet.sample_distances[:, 0]}
    for name in DELTAS:
        limit, every = sheet.thresholds[name], np.sort(asked[name])
        under, over = (found[name][sheet.groups[f"{name}/{side}"]] for side in SIDES)
        np.testing.assert_array_equal(under, every[every <= limit][-5:])
        np.testing.assert_array_equal(over, every[every > limit][:5])


def test_a_threshold_set_by_hand_asks_for_another_sheet(kept: Lab) -> None:
    assert is_current(kept, PEAK)
    by_hand = replace(kept, given=(0.05, None))
    assert not is_current(by_hand, PEAK)


def test_a_damaged_sheet_is_told_of_and_made_again(kept: Lab, tmp_path: Path) -> None:
    lab = measured_lab(tmp_path / "sweep", (PEAK,))
    assert load_sheet(lab, PEAK) is None
    assert not is_current(lab, PEAK)
    path = sheet_file(lab, PEAK)
    path.parent.mkdir()
    path.write_bytes(sheet_file(kept, PEAK).read_bytes()[:-50])
    with pytest.raises(OutputError, match="Remove it"):
        load_sheet(lab, PEAK)
    assert not is_current(lab, PEAK)
