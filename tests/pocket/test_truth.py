"""What the truth's shares mean, on distances whose answer is known; and the table itself."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from m2g_audit.errors import ModelError
from m2g_audit.pocket.captions import all_captions, trained_captions
from m2g_audit.pocket.truth import FreshDistances, caption_truth, shares
from m2g_audit.pocket.truth_table import (
    Shares,
    TruthTable,
    false_memorized,
    load_table,
    save_table,
)
from m2g_audit.states import State, Thresholds

THRESHOLDS = Thresholds("l2", 0.1, 0.1, "a test", 100, True)


def _pairs(groups: list[int]) -> np.ndarray:
    """Distances of samples that are equal within a group and far otherwise."""
    labels = np.array(groups)
    return np.where(labels[:, None] == labels[None], 0.0, 1.0)


def _truth(to_known: list[float], groups: list[int], failed: list[int] = ()) -> object:  # type: ignore[assignment]
    n = len(groups)
    return caption_truth(
        trained_captions()[0],
        np.array(to_known),
        np.full(n, 0.05),
        _pairs(groups),
        np.isin(np.arange(n), failed),
        THRESHOLDS,
    )


def test_shares_follow_the_definitions() -> None:
    # 8 copies of one picture, 8 of a picture outside of S, 16 that are each their own
    row = _truth([0.0] * 8 + [1.0] * 24, [*[0] * 8, *[1] * 8, *range(2, 18)])
    assert row.truth == Shares(0.25, 0.25, 0.5)
    assert row.false_memorized == 1.0


def test_fewer_samples_show_fewer_duplicates() -> None:
    # one duplicate pair, whose halves fall into different subsamples of 16
    groups = [*range(31), 0]
    row = _truth([1.0] * 32, groups)
    assert row.truth.spurious == pytest.approx(2 / 32)
    assert row.of_16.spurious == 0


def test_failed_samples_are_counted_and_duplicate_nothing() -> None:
    row = _truth([1.0] * 32, [*[0] * 4, *range(1, 29)], failed=[1, 2, 3])
    assert row.failed == 3
    assert row.truth == Shares(0.0, 0.0, 1.0)


def test_twice_the_threshold_finds_no_fewer_matches() -> None:
    row = _truth([0.15] * 32, list(range(32)))
    assert (row.half.memorized, row.truth.memorized, row.twice.memorized) == (0, 0, 1)


def test_all_failed_has_no_shares() -> None:
    assert np.isnan(shares([State.FAILED] * 3).memorized)


def test_thresholds_of_a_fold_use_its_captions_alone(tmp_path: Path) -> None:
    near, far = np.full((1, 200), 0.1), np.full((1, 200), 0.4)
    fresh = FreshDistances("l2", np.concatenate([near, far]), np.concatenate([far, near]))
    assert (fresh.thresholds([0]).delta_m, fresh.thresholds([0]).delta_s) == (0.1, 0.4)
    fresh.save(tmp_path / "fresh.npz")
    again = FreshDistances.load(tmp_path / "fresh.npz", "l2")
    assert again.thresholds() == fresh.thresholds()


def _table() -> TruthTable:
    row = _truth([0.0] * 16, [0] * 16)
    return TruthTable("a", "b", "l2", 0.1, 0.2, 0.03, 64, 16, 25, 3.0, 0, (row,))  # type: ignore[arg-type]


def test_a_table_is_read_back_as_written(tmp_path: Path) -> None:
    save_table(_table(), tmp_path / "truth.json")
    assert load_table(tmp_path / "truth.json") == _table()


def test_a_broken_table_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text('{"captions": []}')
    with pytest.raises(ModelError, match="pocket measure"):
        load_table(tmp_path / "truth.json")


def test_the_shipped_table_belongs_to_the_shipped_world() -> None:
    table = load_table()
    assert [row.caption for row in table.captions] == [c.text for c in all_captions()]
    assert [row.k for row in table.captions] == [c.k for c in all_captions()]
    for row in table.captions:
        for part in (row.truth, row.of_16, row.half, row.twice):
            assert sum(dataclasses.astuple(part)) == pytest.approx(1)


def test_the_control_of_a_caption_is_known_before_its_audit() -> None:
    for row in load_table().captions:
        assert false_memorized(row.caption) == row.false_memorized
    assert false_memorized("no such caption") == 0


def test_the_shipped_world_is_rich_enough_for_its_threshold() -> None:
    table = load_table()
    assert table.delta_m >= 3 * table.round_trip_rms
    assert max(row.false_memorized for row in table.captions) < 0.5
