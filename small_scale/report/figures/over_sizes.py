"""Basins and energies of each state over K (Fig. 4B, 6, 16 to 19, 26 to 30)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from small_scale.lab import GROUPS, Lab
from small_scale.report.figures.style import (
    FAINT,
    FEW,
    INK,
    Page,
    about,
    band,
    new_page,
    plain,
    points,
    size_axis,
    small_multiples,
)
from small_scale.report.figures.transition import shares_below
from small_scale.report.summaries import Quantity, first_seed, other_seeds, over_sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GAP = r"energy gap $\tilde{u} - \tilde{u}_{\mathrm{training}}$"


def log_volume_figure(lab: Lab) -> bytes | None:
    """Fig. 4B, 16, 17 as PNG: log-volumes of basins (Eq. 34), mean and standard deviation."""
    page = _above_shares(lab, "log_volume", "Log-volume of basins of attraction", "log-volume")
    return None if page is None else page.png()


def critical_time_figure(lab: Lab) -> bytes | None:
    """Fig. 18, 19 as PNG: critical times (Alg. 1), mean and standard deviation."""
    page = _above_shares(lab, "trial_critical_time", "Critical time", "critical time $t_c$")
    return None if page is None else page.png()


def energy_figure(lab: Lab) -> bytes | None:
    """Fig. 6 and 26 as PNG: energy gaps to training points, mean over the references (Eq. 48)."""
    page = _above_shares(lab, "energy_gap", "Relative energy", _GAP)
    return None if page is None else page.png()


def energy_references_figure(lab: Lab) -> bytes | None:
    """Fig. 27 to 30 as PNG: energy gaps above each reference by itself."""
    found = [lab.geometry(cell, "energy") for cell in lab.measured]
    count = max((len(each["references"]) for each in found if each is not None), default=0)
    if count == 0:
        return None
    columns = min(count, 2)
    rows = -(-count // columns)
    page = new_page(4.6 * columns + 1.4, 2.9 * rows, "Relative energy by reference", about(lab))
    panels = small_multiples(page, count, columns, sharey=True)
    for i, axes in enumerate(panels):
        _curves(axes, lab, "energy_gaps", i)
        axes.set_title(f"reference {i + 1}", loc="left", fontsize=10, color=INK)
        size_axis(axes, [cell.K for cell in first_seed(lab)], name=i + columns >= count)
    for axes in panels[::columns]:
        axes.set_ylabel(_GAP, color=INK)
    _legend(panels[columns - 1], lab)
    return page.png()


def _above_shares(lab: Lab, quantity: Quantity, title: str, name: str) -> Page | None:
    if not any(over_sizes(lab, quantity, group, lab.measured) for group in GROUPS):
        return None
    page = new_page(9.2, 5.6, title, about(lab))
    top, bottom = page.body.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    _curves(top, lab, quantity)
    top.set_ylabel(name, color=INK)
    _legend(top, lab)
    shares_below(bottom, lab)
    return page


def _curves(axes: Axes, lab: Lab, quantity: Quantity, column: int | None = None) -> None:
    """Mean and standard deviation of each group over K; other seeds are hollow points."""
    for group in GROUPS:
        found = over_sizes(lab, quantity, group, first_seed(lab), column)
        if found:
            x = [cell.K for cell in found]
            mean, sd = (np.array([getattr(s, n) for s in found.values()]) for n in ("mean", "sd"))
            counts = [spread.n for spread in found.values()]
            band(axes, x, mean, mean - sd, mean + sd, group, counts)
        more = over_sizes(lab, quantity, group, other_seeds(lab), column)
        means, counts = [s.mean for s in more.values()], [s.n for s in more.values()]
        points(axes, [cell.K for cell in more], means, group, counts)
    plain(axes)


def _legend(axes: Axes, lab: Lab) -> None:
    from matplotlib.lines import Line2D

    handles, _ = axes.get_legend_handles_labels()
    mark: dict[str, Any] = {"lw": 0, "marker": "o", "color": FAINT}
    few = f"fewer than {FEW} samples"
    handles.append(Line2D([], [], lw=0, marker="x", ms=6, color=FAINT, label=few))
    if other_seeds(lab):
        label = "other training seeds"
        handles.append(Line2D([], [], ms=5, markerfacecolor="white", label=label, **mark))
    legend = axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.03),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        title="mean, standard deviation",
        title_fontsize=8.5,
        alignment="left",
    )
    legend.get_title().set_color(FAINT)
