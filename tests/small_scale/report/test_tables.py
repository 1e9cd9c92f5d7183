"""Tables hold the stored numbers, and no row of what was not measured."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from m2g_audit.verdict.states import State
from small_scale.arrays import load_arrays
from small_scale.lab import Lab
from small_scale.lab_folder import Cell
from small_scale.mixture import relative
from small_scale.report.summaries import possible_peaks, spurious_range
from small_scale.report.tables import (
    Row,
    all_tables,
    compared,
    differences,
    geometry,
    samples,
    sensitivity,
    threshold_ranges,
    thresholds,
    to_csv,
    transition,
)
from tests.support.fake_lab import CELLS, COPIES, REPEATS, SIZES, N, measured_lab

STATES = ("memorized", "spurious", "generalized")


def row_is(row: Row, cell: Cell) -> bool:
    return (row["K"], row["seed"]) == (cell.K, cell.seed) and "basin_n" in row


def row_of(rows: list[Row], **asked: str | float) -> Row:
    [found] = [row for row in rows if asked.items() <= row.items()]
    return found


@pytest.mark.parametrize("K", SIZES)
def test_shares_are_those_of_the_set(finished: Lab, K: int) -> None:
    row = row_of(transition(finished), K=K, seed=0, rule="per-K")
    assert (row["n"], row["failed"], row["n_control"]) == (N - 1, 1, K)
    # One sample failed, and a few of one mode fall under the quantile of the other.
    assert row["memorized"] == pytest.approx(COPIES[K], abs=0.03)
    assert row["spurious"] == pytest.approx(REPEATS[K], abs=0.03)
    assert sum(float(row[state]) for state in STATES) == pytest.approx(1)
    for state in STATES:
        assert row[f"{state}_low"] <= row[state] <= row[f"{state}_high"]  # type: ignore[operator]


def test_every_cell_has_a_row_of_each_rule(finished: Lab) -> None:
    cells = [(row["K"], row["seed"], row["rule"]) for row in transition(finished)]
    assert len(set(cells)) == len(cells) == 2 * len(CELLS)


def test_the_peak_is_of_the_first_seed(finished: Lab) -> None:
    marked = {(row["K"], row["seed"]): row["peak"] for row in transition(finished)}
    assert [cell for cell, mark in marked.items() if mark] == [(64, 0)]


def test_without_spurious_samples_there_is_no_peak(tmp_path: Path) -> None:
    assert possible_peaks(measured_lab(tmp_path / "sweep", (Cell(2, 0),))) == []


def test_peaks_that_cannot_be_told_apart_are_all_possible(tmp_path: Path) -> None:
    lab = measured_lab(tmp_path / "sweep", (Cell(16, 0), Cell(256, 0)))
    assert possible_peaks(lab) == [Cell(16, 0), Cell(256, 0)]


def test_the_range_of_a_share_is_over_all_trainings(finished: Lab) -> None:
    per_K = finished.classified["per-K"]
    # Another training on 16 pictures that shows what 64 do.
    other = replace(per_K[Cell(64, 0)], K=16, seed=1)
    lab = replace(finished)
    lab.__dict__["classified"] = {"per-K": {**per_K, Cell(16, 1): other}}
    first, second = (each.shares[State.SPURIOUS] for each in (per_K[Cell(16, 0)], other))
    assert spurious_range(lab, 16) == (first.low, second.high)
    assert first.high < second.low
    assert possible_peaks(finished) == [Cell(64, 0)]
    assert possible_peaks(lab) == [Cell(16, 0), Cell(64, 0)]


def test_every_sample_has_its_state(finished: Lab) -> None:
    rows, each = samples(finished), finished.classified["per-K"][Cell(64, 0)]
    assert len(rows) == N * len(CELLS)
    of_cell = [row for row in rows if (row["K"], row["seed"]) == (64, 0)]
    assert [row["state"] for row in of_cell] == [state.value for state in each.states]
    memorized = [row["state"] == "memorized" for row in of_cell]
    near = [float(row["to_training"]) <= each.delta_m.value for row in of_cell]
    assert memorized[:-1] == near[:-1]
    assert of_cell[-1]["state"] == "failed"


def test_shares_again_at_half_and_twice(finished: Lab) -> None:
    rows, neighbours = sensitivity(finished), finished.folder.neighbours(Cell(64, 0))
    assert len(rows) == 2 * 2 * len(CELLS)
    own = finished.classified["per-K"][Cell(64, 0)].delta_m.value
    valid = ~neighbours.failed
    for factor in (0.5, 2.0):
        row = row_of(rows, K=64, seed=0, rule="per-K", factor=factor)
        within = (neighbours.training[valid, 0] <= factor * own).mean()
        assert row["memorized"] == pytest.approx(within)


def test_thresholds_say_where_they_come_from(finished: Lab) -> None:
    rows = thresholds(finished)
    peak = row_of(rows, K=64, seed=0, rule="per-K")
    assert (peak["delta_m_from"], peak["delta_m_phase"]) == ("valley", "both")
    last = row_of(rows, K=2, seed=0, rule="per-K")
    assert (last["delta_m_from"], last["delta_m_phase"]) == ("fresh", "below")
    assert last["delta_m"] == last["delta_m_fresh"]


def test_ranges_are_over_all_cells(finished: Lab) -> None:
    found = [row for row in thresholds(finished) if row["rule"] == "per-K"]
    row = row_of(threshold_ranges(finished), rule="per-K")
    for name in ("delta_m", "delta_s"):
        every = [float(each[name]) for each in found]
        assert (row[f"{name}_min"], row[f"{name}_max"]) == (min(every), max(every))
        valleys = sum(each[f"{name}_from"] == "valley" for each in found)
        assert row[f"{name}_valleys"] == valleys > 0
    fixed = row_of(threshold_ranges(finished), rule="fixed")
    assert fixed["delta_m_min"] == fixed["delta_m_max"]


def test_geometry_is_of_the_stored_arrays(finished: Lab) -> None:
    cell = Cell(64, 0)
    row = row_of(geometry(finished), K=64, seed=0, group="spurious")
    basin, spectra, energy, mixture = (
        finished.geometry(cell, what) or {} for what in ("basin", "spectra", "energy", "mixture")
    )
    volumes = basin["spurious/log_volumes"]
    assert row["basin_n"] == len(volumes)
    assert (row["log_volume_mean"], row["log_volume_sd"]) == (volumes.mean(), volumes.std())
    assert row["never_recovered"] == (basin["spurious/times"] == 0).mean()
    medians = np.median(spectra["spurious/values"], axis=1)
    assert row["median_singular_value_mean"] == medians.mean()
    gaps = energy["spurious/energies"] - energy["training/energies"].mean(axis=0)
    assert row["energy_gap_2_mean"] == pytest.approx(gaps[:, 1].mean())
    assert row["energy_gap_2_sd"] == pytest.approx(gaps[:, 1].std())
    found = relative(mixture["spurious/distance"], mixture["spurious/nearest"])
    assert row["mixture_q50"] == np.median(found)


def test_differences_are_welchs(finished: Lab) -> None:
    row = row_of(
        differences(finished), K=64, seed=0, quantity="log_volume", states="memorized - spurious"
    )
    basin = finished.geometry(Cell(64, 0), "basin") or {}
    a, b = (basin[f"{state}/log_volumes"].mean(axis=1) for state in ("memorized", "spurious"))
    assert row["difference"] == pytest.approx(a.mean() - b.mean())
    variances = [x.var(ddof=1) / len(x) for x in (a, b)]
    # Welch and Satterthwaite's degrees of freedom.
    freedom = sum(variances) ** 2 / sum(
        v**2 / (len(x) - 1) for v, x in zip(variances, (a, b), strict=True)
    )
    reach = t.ppf(0.975, freedom) * sum(variances) ** 0.5
    assert row["low"] == pytest.approx(a.mean() - b.mean() - reach)
    assert row["high"] == pytest.approx(a.mean() - b.mean() + reach)
    assert row["n"] == f"{len(a)} and {len(b)}"


def test_samples_are_sorted_anew_by_thresholds_set_by_hand(finished: Lab) -> None:
    cell = Cell(64, 0)
    stored = load_arrays(finished.folder.geometry_file(cell, "basin"))
    assert all(np.array_equal(v, stored[k]) for k, v in finished.geometry(cell, "basin").items())  # type: ignore[union-attr]
    # Nothing is as near as this to S: what was memorized repeats others, or is new.
    by_hand = replace(finished, given=(1e-6, None))
    found = by_hand.geometry(cell, "basin") or {}
    classified = by_hand.classified["per-K"][cell]
    assert "memorized/rows" not in found
    rows = np.concatenate([found[f"{state}/rows"] for state in ("spurious", "generalized")])
    assert sorted(rows) == sorted(np.concatenate([stored[f"{state}/rows"] for state in STATES]))
    for state in ("spurious", "generalized"):
        for row, volumes in zip(found[f"{state}/rows"], found[f"{state}/log_volumes"], strict=True):
            assert classified.states[row].value == state
            before = next(name for name in STATES if row in stored[f"{name}/rows"])
            at = list(stored[f"{before}/rows"]).index(row)
            np.testing.assert_array_equal(volumes, stored[f"{before}/log_volumes"][at])
    counts = {row["group"]: row["basin_n"] for row in geometry(by_hand) if row_is(row, cell)}
    assert counts["spurious"] == len(found["spurious/rows"])


def test_compared_sweeps_have_all_rows_of_each(finished: Lab) -> None:
    by_hand = replace(finished, given=(0.05, None))
    rows = compared([finished, by_hand])
    assert len(rows) == 2 * len(transition(finished))
    row = row_of(rows, sweep="thresholds by hand", K=64, seed=0, rule="per-K")
    assert (
        row["memorized"]
        == by_hand.classified["per-K"][Cell(64, 0)].shares[State.MEMORIZED].estimate
    )


def test_training_points_have_no_gap(finished: Lab) -> None:
    for row in geometry(finished):
        if row["group"] == "training":
            assert row["energy_gap_1_mean"] == row["energy_gap_2_mean"] == 0


def test_states_with_too_few_samples_are_left_out(finished: Lab) -> None:
    groups = [row["group"] for row in geometry(finished) if row["K"] == 2]
    assert groups == ["training", "memorized", "fresh"]


def test_half_a_sweep_gives_half_the_tables(tmp_path: Path) -> None:
    tables = all_tables(measured_lab(tmp_path / "sweep", (Cell(2, 0),)))
    assert not tables["geometry"]
    assert len(tables["transition"]) == len(tables["thresholds"]) == 2
    assert not any(all_tables(measured_lab(tmp_path / "none", ())).values())


def test_csv_keeps_rows_that_lack_columns() -> None:
    read = list(csv.DictReader(io.StringIO(to_csv([{"a": 1 / 3}, {"a": 2, "b": "x, y"}]))))
    assert read == [{"a": "0.333333", "b": ""}, {"a": "2", "b": "x, y"}]
