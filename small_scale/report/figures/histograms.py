"""Histograms of nearest-neighbour distances with their thresholds (Fig. 3, 10 to 12)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from small_scale.classification import STATES
from small_scale.histogram_thresholds import Rule
from small_scale.lab import Lab
from small_scale.lab_folder import Cell
from small_scale.report.figures.contact import neighbour_block
from small_scale.report.figures.style import (
    COLOURS,
    FAINT,
    INK,
    about,
    columns_for,
    distance_name,
    near_peak,
    new_page,
    plain,
    small_multiples,
)
from small_scale.report.figures.transition import shares_below
from small_scale.report.sheets import load_sheet
from small_scale.report.summaries import first_seed, possible_peaks

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

FloatArray = NDArray[np.float64]

# The paper's own two colours.
_OLIVE, _GREY = "#8f8f2c", "#8d949d"
_ALPHA = 0.55
_STYLES: dict[Rule, Any] = {"valley": "-", "fresh": (0, (4, 2)), "by hand": ":"}
_BINS, _SHOWN, _TICKS = 70, 2, 7
_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelcolor": INK}


def histograms_figure(lab: Lab) -> bytes | None:
    """Fig. 3 as PNG: both histograms at the peak, with thresholds and samples of each state.

    Lines: the same distances of pictures never trained on. None before any distances.
    """
    if not first_seed(lab):
        return None
    cell = near_peak(lab, first_seed(lab))[0]
    where = "at the peak, " if possible_peaks(lab) else "at "
    page = new_page(11.6, 6.6, f"Distances {where}K = {cell.K:,}", about(lab))
    parts: Any = page.body.subfigures(1, 2, width_ratios=(2.5, 1))
    left, right = parts
    top, bottom = left.subplots(2, 1, height_ratios=(1.9, 1))
    edges = _edges(lab, [cell])
    _histograms(top, lab, cell, edges)
    top.set_ylabel("samples in a bin", color=INK)
    top.set_xlabel(f"distance to the nearest neighbour: {distance_name(lab)}", color=INK)
    top.legend(handles=_handles(), ncols=2, loc="lower left", bbox_to_anchor=(-0.01, 1), **_LEGEND)
    shares_below(bottom, lab)
    bottom.axvline(cell.K, color=FAINT, lw=1, ls=":")
    _samples(right, lab, cell)
    return page.png()


def all_histograms_figure(lab: Lab) -> bytes | None:
    """Fig. 10 to 12 as PNG: both histograms of every K of the first seed."""
    cells = first_seed(lab)
    if not cells:
        return None
    columns, rows = columns_for(len(cells))
    page = new_page(2.9 * columns + 2, 2.2 * rows + 0.4, "Distances at every K", about(lab))
    edges = _edges(lab, cells)
    panels = small_multiples(page, len(cells), columns)
    for axes, cell in zip(panels, cells, strict=True):
        _histograms(axes, lab, cell, edges)
        axes.set_yticks([])
        axes.set_title(f"$K$ = {cell.K:,}", loc="left", fontsize=10, color=INK)
    page.body.supxlabel(
        f"distance to the nearest neighbour: {distance_name(lab)}", fontsize=10, color=INK
    )
    page.body.legend(handles=_handles(), loc="outside right upper", **_LEGEND)
    return page.png()


def _histograms(axes: Axes, lab: Lab, cell: Cell, edges: FloatArray) -> None:
    neighbours, classified = lab.folder.neighbours(cell), lab.classified["per-K"][cell]
    valid, bins = ~neighbours.failed, edges.tolist()
    for distances, fresh, colour, threshold in (
        (neighbours.samples[valid, 0], neighbours.among_fresh, _GREY, classified.delta_s),
        (neighbours.training[valid, 0], neighbours.fresh, _OLIVE, classified.delta_m),
    ):
        # Exact copies, at distance 0, stand in the first bin.
        inside = np.clip(distances, edges[0], None)
        axes.hist(inside, bins, color=colour, alpha=_ALPHA)
        # As many as there are samples, so that the areas compare.
        weights = np.full(len(fresh), len(inside) / len(fresh))
        axes.hist(fresh, bins, weights=weights, histtype="step", color=colour, lw=1)
        axes.axvline(threshold.value, color=colour, lw=1.8, ls=_STYLES[threshold.rule])
    plain(axes)
    axes.set_xscale("log")
    axes.set_xlim(edges[0], edges[-1])
    _plain_ticks(axes, edges)


def _plain_ticks(axes: Axes, edges: FloatArray) -> None:
    """At most seven ticks at 1, 2 and 5 times powers of ten, as decimal numbers."""
    from matplotlib.ticker import NullLocator

    powers = 10.0 ** np.arange(np.floor(np.log10(edges[0])), np.ceil(np.log10(edges[-1])) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = np.sort(np.outer(powers, steps), axis=None)
        ticks = ticks[(ticks >= edges[0]) & (ticks <= edges[-1])]
        if len(ticks) <= _TICKS:
            break
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _handles() -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    made: list[Artist] = []
    for colour, of, fresh, name in (
        (_GREY, "S'", "fresh pictures among themselves", r"$\delta_s$"),
        (_OLIVE, "S", "fresh pictures to S", r"$\delta_m$"),
    ):
        rules = "(dashed: 1% of fresh; dotted: by hand)"
        made += [
            Patch(color=colour, alpha=_ALPHA, lw=0, label=f"samples to {of}"),
            Patch(edgecolor=colour, facecolor="none", label=fresh),
            Line2D([], [], color=colour, lw=1.8, label=f"{name} {rules}"),
        ]
    return made


def _samples(figure: SubFigure, lab: Lab, cell: Cell) -> None:
    """Two samples of each state beside their top-4 in S, above, and in S', below."""
    sheet = load_sheet(lab, cell)
    grid = figure.subplots(len(STATES) * _SHOWN, 1, squeeze=False)[:, 0]
    for axes in grid:
        axes.set_axis_off()
    for row, state in enumerate(STATES):
        places = [] if sheet is None else list(sheet.groups[state.value])
        # From the middle of the state rather than from its edges.
        middle = places[len(places) // 2 - 1 :][:_SHOWN] if len(places) > 1 else places
        own = grid[row * _SHOWN : (row + 1) * _SHOWN]
        share = lab.classified["per-K"][cell].shares[state].estimate
        title = f"{state.value}  {share:.1%}"
        own[0].set_title(title, loc="left", fontsize=10, color=COLOURS[state], weight="bold")
        for axes, i in zip(own, middle, strict=False):
            assert sheet is not None
            axes.imshow(np.asarray(neighbour_block(sheet, i, state.value)), interpolation="nearest")
            axes.set_anchor("W")


def _edges(lab: Lab, cells: list[Cell]) -> FloatArray:
    """Bins with equal steps of the logarithm, over all distances of some cells."""
    every = []
    for cell in cells:
        found = lab.folder.neighbours(cell)
        every += [found.training[:, 0], found.samples[:, 0], found.fresh, found.among_fresh]
    values = np.concatenate(every)
    values = values[np.isfinite(values) & (values > 0)]
    low, high = (values.min(), values.max()) if len(values) else (0.1, 1)
    return np.geomspace(0.9 * low, 1.1 * high, _BINS + 1)
