"""The tables of a sweep, from its stored numbers: rows with the same columns, as CSV."""

from __future__ import annotations

import csv
import io
import itertools
import warnings
from collections.abc import Sequence

import numpy as np
from scipy.stats import ttest_ind

from m2g_audit.diagnostics.energy import gap
from m2g_audit.verdict.intervals import LEVEL
from small_scale.classification import RULES, STATES, classify_set, with_values
from small_scale.lab import Lab
from small_scale.lab_folder import Cell
from small_scale.report.summaries import (
    Quantity,
    Spread,
    groups_of,
    name_of,
    names_apart,
    possible_peaks,
    values,
)

Value = str | int | float
Row = dict[str, Value]

FACTORS = (0.5, 2.0)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_COMPARED: tuple[Quantity, ...] = (
    "log_volume", "median_singular_value", "energy_gap", "mixture",
)  # fmt: skip
_OF_SPECTRA: tuple[Quantity, ...] = ("median_singular_value", "intrinsic_dimension")


def all_tables(lab: Lab) -> dict[str, list[Row]]:
    """Every table of a sweep by name; one without a row yet is empty."""
    return {
        "transition": transition(lab),
        "samples": samples(lab),
        "sensitivity": sensitivity(lab),
        "thresholds": thresholds(lab),
        "threshold-ranges": threshold_ranges(lab),
        "geometry": geometry(lab),
        "differences": differences(lab),
    }


def to_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV; a column that some rows lack is empty there, and floats have six digits."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _shown(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def transition(lab: Lab) -> list[Row]:
    """Fig. 4A: the shares of each state with their intervals, for each cell and rule.

    `n`: samples that did not fail. `false_memorized`: the share within delta_m of `n_control`
    pictures that the model never saw. `peak`: "peak" at the first seed's largest spurious share,
    "possible" where the interval of a training on as many pictures reaches that one's lower end.
    """
    rows: list[Row] = []
    for rule in RULES:
        peak, possible = lab.peak(rule), possible_peaks(lab, rule)
        for cell, each in lab.classified[rule].items():
            row = _start(cell) | {"rule": rule, "n": each.n}
            for state in STATES:
                share = each.shares[state]
                row |= {
                    state.value: share.estimate,
                    f"{state.value}_low": share.low,
                    f"{state.value}_high": share.high,
                }
            rows.append(
                row
                | {
                    "false_memorized": each.false_memorized,
                    "n_control": each.n_control,
                    "failed": len(each.states) - each.n,
                    "peak": ("peak" if cell == peak else "possible") if cell in possible else "",
                }
            )
    return rows


def samples(lab: Lab) -> list[Row]:
    """Every sample with its state by each rule, and its distances to the nearest in S and in S'.

    `sample`: its place in S'.
    """
    rows: list[Row] = []
    for cell, each in lab.classified["per-K"].items():
        neighbours, fixed = lab.folder.neighbours(cell), lab.classified["fixed"][cell]
        near = zip(neighbours.training[:, 0], neighbours.samples[:, 0], strict=True)
        for i, (to_training, to_samples) in enumerate(near):
            rows.append(
                _start(cell)
                | {
                    "sample": i,
                    "state": each.states[i].value,
                    "state_fixed": fixed.states[i].value,
                    "to_training": float(to_training),
                    "to_samples": float(to_samples),
                }
            )
    return rows


def sensitivity(lab: Lab) -> list[Row]:
    """The shares again at half and at twice of both thresholds (DEFINITIONS: Thresholds)."""
    rows: list[Row] = []
    for rule in RULES:
        for cell, each in lab.classified[rule].items():
            neighbours = lab.folder.neighbours(cell)
            for factor in FACTORS:
                values = factor * each.delta_m.value, factor * each.delta_s.value
                pair = with_values((each.delta_m, each.delta_s), values, "by hand", neighbours)
                found = classify_set(neighbours, pair, lab.settings.metric, cell.K, cell.seed, rule)
                rows.append(
                    _start(cell)
                    | {"rule": rule, "factor": factor}
                    | {state.value: found.shares[state].estimate for state in STATES}
                    | {"false_memorized": found.false_memorized}
                )
    return rows


def compared(labs: Sequence[Lab]) -> list[Row]:
    """Fig. 7 to 9: the rows of `transition` of several sweeps, named by what sets each apart."""
    return [
        {"sweep": name, **row}
        for name, lab in zip(names_apart(labs), labs, strict=True)
        for row in transition(lab)
    ]


def thresholds(lab: Lab) -> list[Row]:
    """The thresholds of each cell and rule, and what they come from.

    For delta_m and delta_s: the value, how it was found, the phase, p of one mode, the 1% quantile
    of fresh pictures, and how many distances of samples and of fresh pictures.
    """
    rows: list[Row] = []
    for rule in RULES:
        for cell, each in lab.classified[rule].items():
            row = _start(cell) | {"rule": rule, "metric": lab.settings.metric}
            for name, threshold in (("delta_m", each.delta_m), ("delta_s", each.delta_s)):
                row |= {
                    name: threshold.value,
                    f"{name}_from": threshold.rule,
                    f"{name}_phase": threshold.phase,
                    f"{name}_p_one_mode": threshold.p_one_mode,
                    f"{name}_fresh": threshold.fresh,
                    f"{name}_n": threshold.n,
                    f"{name}_n_fresh": threshold.n_fresh,
                }
            rows.append(row)
    return rows


def threshold_ranges(lab: Lab) -> list[Row]:
    """Table 2: the least and the largest thresholds over all K, and how many are valleys."""
    rows: list[Row] = []
    for rule in RULES:
        cells = list(lab.classified[rule].values())
        if not cells:
            continue
        row: Row = {
            "data": name_of(lab),
            "width": lab.settings.network.width,
            "metric": lab.settings.metric,
            "rule": rule,
            "cells": len(cells),
        }
        for name, found in (
            ("delta_m", [each.delta_m for each in cells]),
            ("delta_s", [each.delta_s for each in cells]),
        ):
            row |= {
                f"{name}_min": min(each.value for each in found),
                f"{name}_max": max(each.value for each in found),
                f"{name}_valleys": sum(each.rule == "valley" for each in found),
            }
        rows.append(row)
    return rows


def geometry(lab: Lab) -> list[Row]:
    """Basin, curvature, energy and mixtures of each group of each cell: means and deviations.

    Each measurement has its own number of samples. Log-volumes and critical times are over all
    trials, by the error threshold `delta_d`; `never_recovered` of them took R from t = 1. Energy
    gaps are above each reference (Eq. 48), the same pictures at every K. `mixture_qNN`: quantiles
    of the distance from mixtures over that from the nearest.
    """
    rows: list[Row] = []
    for cell in lab.measured:
        for group in _groups(lab, cell):
            row = _start(cell) | {"group": group}
            rows.append(
                row
                | _spreads(lab, cell, group, "basin", ("log_volume", "trial_critical_time"))
                | _never_recovered(lab, cell, group)
                | _spreads(lab, cell, group, "spectra", _OF_SPECTRA)
                | _gaps(lab, cell, group)
                | _mixture(lab, cell, group)
            )
    return rows


def differences(lab: Lab) -> list[Row]:
    """How far the means of two states are apart, with Welch's 95% interval over their samples.

    Of each sample: the mean log-volume over its trials, the median singular value, the energy over
    all references, and the distance from mixtures over that from the nearest picture. States of
    fewer than two samples are left out.
    """
    rows: list[Row] = []
    for cell in lab.measured:
        for quantity in _COMPARED:
            found = {}
            for state in STATES:
                each = values(lab, cell, state.value, quantity)
                if each is not None and len(each) > 1:
                    found[state.value] = each.mean(axis=1) if each.ndim > 1 else each
            for first, second in itertools.combinations(found, 2):
                a, b = found[first], found[second]
                with warnings.catch_warnings():
                    # Samples that are all alike have no variance, and the interval is nan.
                    warnings.simplefilter("ignore", RuntimeWarning)
                    interval = ttest_ind(a, b, equal_var=False).confidence_interval(LEVEL)
                rows.append(
                    _start(cell)
                    | {
                        "quantity": quantity,
                        "states": f"{first} - {second}",
                        "difference": float(a.mean() - b.mean()),
                        "low": float(interval.low),
                        "high": float(interval.high),
                        "n": f"{len(a)} and {len(b)}",
                    }
                )
    return rows


def _start(cell: Cell) -> Row:
    return {"K": cell.K, "seed": cell.seed}


def _groups(lab: Lab, cell: Cell) -> list[str]:
    arrays = {
        name: values
        for what in ("basin", "spectra", "energy", "mixture")
        for name, values in (lab.geometry(cell, what) or {}).items()
    }
    return groups_of(arrays)


def _spreads(lab: Lab, cell: Cell, group: str, part: str, quantities: Sequence[Quantity]) -> Row:
    row: Row = {}
    for quantity in quantities:
        found = values(lab, cell, group, quantity)
        if found is None:
            continue
        spread = Spread.of(found)
        row[f"{part}_n"] = spread.n
        row |= {f"{quantity}_mean": spread.mean, f"{quantity}_sd": spread.sd}
    return row


def _never_recovered(lab: Lab, cell: Cell, group: str) -> Row:
    found, arrays = values(lab, cell, group, "never_recovered"), lab.geometry(cell, "basin") or {}
    if found is None:
        return {}
    return {"never_recovered": float(found.mean()), "delta_d": float(arrays["delta_d"])}


def _gaps(lab: Lab, cell: Cell, group: str) -> Row:
    arrays = lab.geometry(cell, "energy") or {}
    energies = arrays.get(f"{group}/energies")
    if energies is None:
        return {}
    found = gap(energies, arrays["training/energies"])
    row: Row = {"energy_n": len(energies)}
    for i, (mean, sd) in enumerate(zip(found.mean, found.sd, strict=True), start=1):
        row |= {f"energy_gap_{i}_mean": float(mean), f"energy_gap_{i}_sd": float(sd)}
    return row


def _mixture(lab: Lab, cell: Cell, group: str) -> Row:
    found = values(lab, cell, group, "mixture")
    if found is None:
        return {}
    row: Row = {"mixture_n": len(found)}
    for level, value in zip(_QUANTILES, np.quantile(found, _QUANTILES), strict=True):
        row[f"mixture_q{100 * level:02.0f}"] = float(value)
    return row


def _shown(value: Value) -> Value:
    return f"{value:.6g}" if isinstance(value, float) else value
