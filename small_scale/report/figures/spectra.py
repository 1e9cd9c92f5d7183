"""Spectra of the score's Jacobian by state and over K (Fig. 5A, 20 to 23)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from m2g_audit.diagnostics.free_probability import Kind, point_mass_curve
from small_scale.lab import GROUPS, Cell, Lab
from small_scale.report.figures.style import (
    COLOURS,
    FAINT,
    FEW,
    INK,
    Page,
    about,
    apart,
    columns_for,
    label,
    near_peak,
    new_page,
    plain,
    small_multiples,
)
from small_scale.report.summaries import first_seed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = NDArray[np.float64]

_UNITS = {
    "jacobian": r"singular value of $\partial s/\partial x$, times $\sigma_{t_0}^2$",
    "paper": r"singular value of $M$, times $\sigma_{t_0}/\sqrt{4N}$",
}
_CUT = 50  # the axis ends above all but the largest 2% of the values
_ONE = "a single memory"
_POINT_MASS: dict[str, Any] = {"color": FAINT, "lw": 1.0, "ls": ":"}


def spectra_figure(lab: Lab) -> bytes | None:
    """Both rows of Fig. 5A as PNG: spectra by state at one K, and of training points over K.

    The K is that of the peak of the spurious share, or, where it has no spectra, the nearest.
    """
    cells = _measured(lab)
    if not cells:
        return None
    shown = near_peak(lab, cells)[0]
    page = new_page(9.4, 7.4, "Curvature", about(lab))
    top, bottom = page.body.subplots(2, 1)
    _states(top, lab, shown)
    t0 = int(_arrays(lab, shown)["t0"])
    title = f"by state at $K$ = {shown.K:,}, $t_0$ = {t0}: mean and standard deviation"
    top.set_title(title, loc="left", fontsize=10, color=INK)
    _legend(top)
    _training_points(bottom, lab, cells)
    bottom.set_title("training points, mean", loc="left", fontsize=10, color=INK)
    for axes in (top, bottom):
        axes.set_ylabel(_UNITS[_kind(lab)], color=INK)
    bottom.set_xlabel("rank of the singular value", color=INK)
    return page.png()


def all_spectra_figure(lab: Lab) -> bytes | None:
    """Fig. 20 to 23 as PNG: spectra by state at every K of the first seed."""
    cells = _measured(lab)
    if not cells:
        return None
    columns, rows = columns_for(len(cells))
    page = new_page(2.7 * columns + 2, 2.3 * rows + 0.4, "Curvature at every K", about(lab))
    panels = small_multiples(page, len(cells), columns, sharey=True)
    for axes, cell in zip(panels, cells, strict=True):
        _states(axes, lab, cell)
        axes.set_title(f"$K$ = {cell.K:,}", loc="left", fontsize=10, color=INK)
    panels[0].set_ylim(0, max(_top(lab, cell) for cell in cells))
    page.body.supxlabel("rank of the singular value", fontsize=10, color=INK)
    page.body.supylabel(_UNITS[_kind(lab)], fontsize=10, color=INK)
    _groups_legend(page)
    return page.png()


def _measured(lab: Lab) -> list[Cell]:
    return [cell for cell in first_seed(lab) if lab.folder.geometry_file(cell, "spectra").exists()]


def _arrays(lab: Lab, cell: Cell) -> dict[str, np.ndarray]:
    arrays = lab.geometry(cell, "spectra")
    assert arrays is not None  # asked of measured cells
    return arrays


def _kind(lab: Lab) -> Kind:
    return "paper" if lab.settings.geometry.spectrum == "exact-alg2" else "jacobian"


def _states(axes: Axes, lab: Lab, cell: Cell) -> None:
    arrays = _arrays(lab, cell)
    for group in GROUPS:
        spectra = arrays.get(f"{group}/values")
        if spectra is None:
            continue
        ranks = np.arange(1, spectra.shape[1] + 1)
        mean, sd = spectra.mean(axis=0), spectra.std(axis=0)
        axes.fill_between(ranks, mean - sd, mean + sd, color=COLOURS[group], alpha=0.15, lw=0)
        line = _line(group, len(spectra))
        axes.plot(ranks, mean, label=f"{label(group)} ({len(spectra)})", **line)
    _finish(axes, lab, arrays["training/values"].shape[1])
    axes.set_ylim(0, _top(lab, cell))


def _training_points(axes: Axes, lab: Lab, cells: list[Cell]) -> None:
    from matplotlib import colormaps

    shades = colormaps["viridis"](np.linspace(0, 0.93, len(cells)))
    named, tops = apart([cell.K for cell in cells]), []
    for cell, colour in zip(cells, shades, strict=True):
        mean = _arrays(lab, cell)["training/values"].mean(axis=0)
        tops.append(_end(mean, lab))
        name = f"K = {cell.K:,}" if cell.K in named else None
        axes.plot(np.arange(1, len(mean) + 1), mean, color=colour, lw=1.8, label=name)
    _finish(axes, lab, len(mean))
    axes.set_ylim(0, max(tops))
    _legend(axes)


def _finish(axes: Axes, lab: Lab, N: int) -> None:
    curve = point_mass_curve(_kind(lab), N)
    axes.plot(np.arange(1, N + 1), curve, label=_ONE, **_POINT_MASS)
    axes.set_xlim(1, N)
    plain(axes)


def _top(lab: Lab, cell: Cell) -> float:
    arrays = _arrays(lab, cell)
    means = [arrays[f"{g}/values"].mean(axis=0) for g in GROUPS if f"{g}/values" in arrays]
    return max(_end(mean, lab) for mean in means)


def _end(mean: FloatArray, lab: Lab) -> float:
    one = float(np.median(point_mass_curve(_kind(lab), len(mean))))
    return 1.12 * max(one, float(mean[len(mean) // _CUT]))


def _line(group: str, count: int = FEW) -> dict[str, Any]:
    style = (0, (4, 2)) if group == "training" else "-"
    return {"color": COLOURS[group], "lw": 0.8 if count < FEW else 1.8, "ls": style}


def _legend(axes: Axes) -> None:
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.03), frameon=False, fontsize=9, labelcolor=INK
    )


def _groups_legend(page: Page) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], label=label(group), **_line(group)) for group in GROUPS]
    lines.append(Line2D([], [], color=FAINT, lw=0.8, label=f"thin: fewer than {FEW} samples"))
    lines.append(Line2D([], [], label=_ONE, **_POINT_MASS))
    page.body.legend(
        handles=lines, loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK
    )
