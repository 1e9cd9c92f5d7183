"""What the truth's shares mean, on distances whose answer is known; and the table itself."""

import dataclasses
from collections.abc import Sequence
from math import comb
from pathlib import Path

import numpy as np
import pytest

from m2g_audit.errors import ModelError
from m2g_audit.pocket.captions import all_captions, trained_captions
from m2g_audit.pocket.truth import FreshDistances, Seen, caption_truth
from m2g_audit.pocket.truth_table import (
    CaptionShares,
    CaptionTruth,
    TruthTable,
    load_table,
    save_table,
)
from m2g_audit.references.plants import Plants
from m2g_audit.verdict.thresholds import LOOSE_ALPHA, STRICT_ALPHA, Thresholds

OTHERS = {STRICT_ALPHA: (0.05, 0.06), LOOSE_ALPHA: (0.15, 0.16)}
THRESHOLDS = Thresholds("l2", 0.1, 0.1, "a test", 100, True, others=OTHERS)


def _pairs(groups: Sequence[int]) -> np.ndarray:
    """Distances of samples that are equal within a group and far otherwise."""
    labels = np.array(groups)
    return np.where(labels[:, None] == labels[None], 0.0, 1.0)


def _truth(
    to_known: Sequence[float],
    groups: Sequence[int],
    failed: Sequence[int] = (),
    to_own: tuple[Sequence[float], Sequence[float]] | None = None,
) -> CaptionTruth:
    n = len(groups)
    seen = Seen(
        to_training=np.array(to_known),
        to_control=np.full(n, 0.05),
        to_own=None if to_own is None else (np.array(to_own[0]), np.array(to_own[1])),
        pairs=_pairs(groups),
        failed=np.isin(np.arange(n), failed),
    )
    return caption_truth(trained_captions()[0], seen, THRESHOLDS)


def _chance(duplicates: int, n: int) -> float:
    """The chance that one of so many duplicates is among 15 of n - 1 others."""
    return 1 - comb(n - 1 - duplicates, 15) / comb(n - 1, 15)


def test_shares_follow_the_definitions() -> None:
    # 8 copies of one picture, 8 of a picture outside of S, 16 that are each their own
    row = _truth([0.0] * 8 + [1.0] * 24, [*[0] * 8, *[1] * 8, *range(2, 18)])
    spurious = 0.25 * _chance(7, 32)
    assert dataclasses.astuple(row.truth) == pytest.approx((0.25, spurious, 0.75 - spurious))
    assert dataclasses.astuple(row.of_256) == pytest.approx((0.25, 0.25, 0.5))
    assert row.false_memorized == 1.0


def test_duplicates_are_looked_for_among_16_whatever_the_number_of_samples() -> None:
    for n in (32, 64, 256):
        row = _truth([1.0] * n, [*range(n - 1), 0])
        assert row.truth.spurious == pytest.approx(2 / n * 15 / (n - 1))
        assert row.of_256.spurious == pytest.approx(2 / n)


def test_failed_samples_are_counted_and_duplicate_nothing() -> None:
    row = _truth([1.0] * 32, [*[0] * 4, *range(1, 29)], failed=[1, 2, 3])
    assert row.failed == 3
    assert row.truth == CaptionShares(0.0, 0.0, 1.0)


def test_twice_the_threshold_finds_no_fewer_matches() -> None:
    row = _truth([0.15] * 32, list(range(32)))
    assert (row.half.memorized, row.truth.memorized, row.twice.memorized) == (0, 0, 1)


def test_all_failed_has_no_shares() -> None:
    assert np.isnan(_truth([1.0] * 3, [0, 0, 0], failed=[0, 1, 2]).truth.memorized)


def test_thresholds_of_a_caption_are_kept_with_those_at_other_quantiles() -> None:
    row = _truth([1.0] * 16, list(range(16)))
    assert (row.delta_m, row.delta_s) == (0.1, 0.1)
    assert (row.strict, row.loose) == (OTHERS[STRICT_ALPHA], OTHERS[LOOSE_ALPHA])


def test_spurious_samples_are_compared_with_as_many_unseen_pictures() -> None:
    """By chance one half is nearer to S than to equally many pictures that the model never saw."""
    groups, far = [0] * 8 + list(range(1, 9)), [1.0] * 16
    nearer, farther = [0.2] * 16, [0.3] * 16
    assert _truth(far, groups, to_own=(nearer, farther)).nearer_to_s == 1.0
    assert _truth(far, groups, to_own=(farther, nearer)).nearer_to_s == 0.0
    half = [0.2] * 4 + [0.4] * 4 + [0.2] * 8  # what is not spurious does not count
    assert _truth(far, groups, to_own=(half, farther)).nearer_to_s == 0.5
    assert _truth(far, list(range(16)), to_own=(nearer, farther)).nearer_to_s is None
    assert _truth(far, groups).nearer_to_s is None


def test_thresholds_of_a_fold_use_its_captions_alone(tmp_path: Path) -> None:
    near, far = np.full((1, 200), 0.1), np.full((1, 200), 0.4)
    fresh = FreshDistances("l2", np.concatenate([near, far]), np.concatenate([far, near]))
    assert (fresh.thresholds([0]).delta_m, fresh.thresholds([0]).delta_s) == (0.1, 0.4)
    fresh.save(tmp_path / "fresh.npz")
    again = FreshDistances.load(tmp_path / "fresh.npz", "l2")
    assert again.thresholds() == fresh.thresholds()


def _table() -> TruthTable:
    row = _truth([0.0] * 16, [0] * 16)
    plants = Plants(np.array([0.12346, 0.5]), np.array([0.25]), {"mirrored": np.array([1.0])})
    return TruthTable(
        "a", "b", "l2", 0.3, 0.2, 0.03, 64, 16, 25, 3.0, 0, plants=plants, captions=(row,)
    )


def _comparable(table: TruthTable) -> dict[str, object]:
    return {**dataclasses.asdict(table), "plants": table.plants.to_json()}


def test_a_table_is_read_back_as_written(tmp_path: Path) -> None:
    save_table(_table(), tmp_path / "truth.json")
    assert _comparable(load_table(tmp_path / "truth.json")) == _comparable(_table())


def test_a_listed_caption_has_its_own_thresholds_and_others_the_pair_of_all() -> None:
    table = _table()
    own = table.thresholds_of(table.captions[0])
    assert (own.delta_m, own.delta_s, own.n_controls) == (0.1, 0.1, 64)
    assert own.others == OTHERS
    assert "of this caption" in own.source
    assert (table.thresholds.delta_m, table.thresholds.delta_s) == (0.3, 0.2)
    assert "all captions together" in table.thresholds.source


def test_a_broken_table_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "truth.json").write_text('{"captions": []}')
    with pytest.raises(ModelError, match="pocket measure"):
        load_table(tmp_path / "truth.json")


def test_the_shipped_table_belongs_to_the_shipped_world() -> None:
    table = load_table()
    assert [row.caption for row in table.captions] == [c.text for c in all_captions()]
    assert [row.k for row in table.captions] == [c.k for c in all_captions()]
    for row in table.captions:
        for part in (row.truth, row.of_256, row.half, row.twice):
            assert sum(dataclasses.astuple(part)) == pytest.approx(1)


def test_the_control_of_a_caption_is_known_before_its_audit() -> None:
    table = load_table()
    for row in table.captions:
        assert table.false_memorized(row.caption) == row.false_memorized
    assert table.false_memorized("no such caption") == 0


def test_the_shipped_world_is_rich_enough_for_its_threshold() -> None:
    table = load_table()
    assert table.delta_m >= 3 * table.round_trip_rms
    assert max(row.false_memorized for row in table.captions if row.k) < 0.5
