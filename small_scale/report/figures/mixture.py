"""Whether samples are mixtures of the training pictures around them (Sec. 4), by state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from small_scale.lab import GROUPS, Cell, Lab
from small_scale.report.figures.style import (
    COLOURS,
    FEW,
    INK,
    about,
    band,
    label,
    near_peak,
    new_page,
    plain,
    size_axis,
)
from small_scale.report.summaries import FRESH, first_seed, values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GROUPS = (*GROUPS[1:], FRESH)


def mixture_figure(lab: Lab) -> bytes | None:
    """Distance from mixtures of the top-4 over that from the nearest, as PNG.

    At the peak the whole distribution, over K the median and the middle half. Only beside pictures
    never trained on does it mean something: a hull comes nearer to any picture than one point.
    """
    cells = [cell for cell in first_seed(lab) if lab.folder.geometry_file(cell, "mixture").exists()]
    if not cells:
        return None
    page = new_page(10.6, 3.7, "Are samples mixtures of their training neighbours?", about(lab))
    left, right = page.body.subplots(1, 2, width_ratios=(1, 1.1))
    _distributions(left, lab, near_peak(lab, cells)[0])
    _medians(right, lab, cells)
    for axes in (left, right):
        plain(axes)
    return page.png()


def _distributions(axes: Axes, lab: Lab, cell: Cell) -> None:
    for group in _GROUPS:
        found = values(lab, cell, group, "mixture")
        if found is None:
            continue
        ordered = np.sort(found)
        shares = np.arange(1, len(ordered) + 1) / len(ordered)
        axes.step(ordered, shares, where="post", color=COLOURS[group], lw=1.8, label=label(group))
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1)
    axes.set_xlabel("distance to the best mixture / to the nearest", color=INK)
    axes.set_ylabel("share of samples at or under", color=INK)
    axes.set_title(f"at $K$ = {cell.K:,}", loc="left", fontsize=10, color=INK)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left")


def _medians(axes: Axes, lab: Lab, cells: list[Cell]) -> None:
    for group in _GROUPS:
        found = {cell.K: values(lab, cell, group, "mixture") for cell in cells}
        there = {K: each for K, each in found.items() if each is not None}
        if there:
            low, middle, high = np.array(
                [np.quantile(each, (0.25, 0.5, 0.75)) for each in there.values()]
            ).T
            band(axes, list(there), middle, low, high, group, list(map(len, there.values())))
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("the same: median, middle half", color=INK)
    title = f"over $K$; a cross: fewer than {FEW} samples"
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    size_axis(axes, [cell.K for cell in cells])
