"""The report of a sweep: its tables and figures, from its stored numbers alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from m2g_audit.runs import write_atomically
from small_scale.figures.contact import neighbours_sheet, thresholds_sheet
from small_scale.figures.histograms import all_histograms_figure, histograms_figure
from small_scale.figures.mixture import mixture_figure
from small_scale.figures.over_sizes import (
    critical_time_figure,
    energy_figure,
    energy_references_figure,
    log_volume_figure,
)
from small_scale.figures.spectra import all_spectra_figure, spectra_figure
from small_scale.figures.transition import transition_figure
from small_scale.lab import Lab
from small_scale.tables import all_tables, to_csv

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


def write_report(lab: Lab) -> list[Path]:
    """The tables and figures that a sweep has numbers for so far, each written whole."""
    written: dict[Path, bytes] = {
        lab.folder / "tables" / f"{name}.csv": to_csv(rows).encode()
        for name, rows in all_tables(lab).items()
        if rows
    }
    for name, draw in FIGURES.items():
        content = draw(lab)
        if content is not None:
            written[lab.folder / "figures" / f"{name}.png"] = content
    for path, content in written.items():
        write_atomically(path, content)
    return list(written)
