"""The report of a sweep: its tables and figures, from its stored numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from m2g_audit.files import write_atomically
from small_scale.lab import Lab
from small_scale.report.figures.contact import neighbours_sheet, thresholds_sheet
from small_scale.report.figures.histograms import all_histograms_figure, histograms_figure
from small_scale.report.figures.mixture import mixture_figure
from small_scale.report.figures.over_sizes import (
    critical_time_figure,
    energy_figure,
    energy_references_figure,
    log_volume_figure,
)
from small_scale.report.figures.spectra import all_spectra_figure, spectra_figure
from small_scale.report.figures.transition import compared_figure, transition_figure
from small_scale.report.tables import Row, all_tables, compared, to_csv

FIGURES: dict[str, Callable[[Lab], bytes | None]] = {
    "transition": transition_figure,
    "histograms": histograms_figure,
    "histograms-all": all_histograms_figure,
    "neighbours": neighbours_sheet,
    "thresholds": thresholds_sheet,
    "log_volume": log_volume_figure,
    "critical_time": critical_time_figure,
    "spectra": spectra_figure,
    "spectra-all": all_spectra_figure,
    "energy": energy_figure,
    "energy-references": energy_references_figure,
    "mixture": mixture_figure,
}
"""Every figure by the name of its file; None where there is nothing to draw yet."""
BESIDE = "beside"
"""The name of the table and of the figure that compare several sweeps."""


def write_report(lab: Lab) -> list[Path]:
    """The tables and figures that a sweep has numbers for so far, each written whole."""
    drawn = {name: draw(lab) for name, draw in FIGURES.items()}
    figures = {name: content for name, content in drawn.items() if content is not None}
    return _write(lab, all_tables(lab), figures)


def write_beside(lab: Lab, others: Sequence[Lab]) -> list[Path]:
    """The table and the figure, in `lab`, of its transition beside those of other sweeps.

    UsageError where one of them is not finished.
    """
    labs = [lab, *others]
    for each in labs:
        each.check_measured()
    return _write(lab, {BESIDE: compared(labs)}, {BESIDE: compared_figure(labs)})


def _write(
    lab: Lab, tables: Mapping[str, Sequence[Row]], figures: Mapping[str, bytes]
) -> list[Path]:
    written = {
        lab.path / "tables" / f"{name}.csv": to_csv(rows).encode()
        for name, rows in tables.items()
        if rows
    }
    written |= {lab.path / "figures" / f"{name}.png": content for name, content in figures.items()}
    for path, content in written.items():
        write_atomically(path, content)
    return list(written)
