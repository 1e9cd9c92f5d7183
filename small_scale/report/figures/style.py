"""What the figures of a sweep have in common: colours, axes, titles, PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from m2g_audit.current_folder import import_matplotlib
from m2g_audit.records.distances import said_of
from m2g_audit.reports.colours import STATE_COLOURS
from small_scale.lab import Lab
from small_scale.lab_folder import Cell
from small_scale.report.summaries import FRESH, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FloatArray = NDArray[np.float64]

INK, FAINT, RULE = "#22262b", "#737a83", "#e6e8eb"
COLOURS: dict[str, str] = {
    "training": "#2f3b52",
    "memorized": STATE_COLOURS["memorized"],
    "spurious": STATE_COLOURS["spurious"],
    "generalized": STATE_COLOURS["generalized"],
    FRESH: "#8a8f98",
}
LABELS = {"training": "training points", FRESH: "pictures never trained on"}
FEW = 5
"""Means of fewer samples are drawn as crosses or thin lines."""
_HEADING = 0.62
_TICKS = 9
_NEAR = 0.05


@dataclass(frozen=True)
class Page:
    """A figure with a heading; what it shows is drawn in `body`."""

    figure: Figure
    body: SubFigure

    def png(self, dpi: int = 130) -> bytes:
        """The figure as PNG; the same numbers give the same bytes."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        return buffer.getvalue()


def new_page(width: float, height: float, title: str, about: str) -> Page:
    """An empty page with a body of so many inches, under its title and a line about it."""
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height + _HEADING), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=(_HEADING, height))
    top, body = parts
    left, inch = 0.12 / width, 1 / _HEADING
    common: Any = {"ha": "left", "va": "baseline", "parse_math": False}
    top.text(left, 1 - 0.28 * inch, title, fontsize=13, weight="bold", color=INK, **common)
    top.text(left, 1 - 0.50 * inch, about, fontsize=9.5, color=FAINT, **common)
    return Page(figure, body)


def columns_for(count: int) -> tuple[int, int]:
    """Columns and rows of so many small panels."""
    columns = min(count, 4 if count <= 16 else 6)
    return columns, -(-count // columns)


def small_multiples(page: Page, count: int, columns: int, *, sharey: bool = False) -> list[Axes]:
    """So many panels in rows of `columns`; the lowest of each column has labels at its ticks."""
    rows = -(-count // columns)
    grid = page.body.subplots(rows, columns, squeeze=False, sharex=True, sharey=sharey)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    panels = list(grid.flat[:count])
    for axes in panels[-columns:]:
        axes.tick_params(labelbottom=True)
    return panels


def plain(axes: Axes) -> None:
    """Leaves of the frame what carries ticks, with faint horizontal rules."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#aab0b8")
    axes.tick_params(colors=FAINT, labelsize=9)
    axes.grid(axis="y", color=RULE, lw=0.8)
    axes.set_axisbelow(True)


def size_axis(axes: Axes, sizes: Sequence[int], *, name: bool = True) -> None:
    """A logarithmic axis of K with ticks at the sizes themselves, as many as have room."""
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    shown = apart(sizes)
    axes.set_xticks(shown, [f"{K:,}" for K in shown])
    if name:
        axes.set_xlabel("training size $K$", color=INK)


def apart(sizes: Sequence[int]) -> list[int]:
    """Sizes that leave room for a label each on a logarithmic axis, the largest among them."""
    logs = np.log(np.array(sizes, dtype=float))
    least = max(float(np.ptp(logs)) / _TICKS, _NEAR)
    shown: list[int] = []
    for K, log in zip(reversed(sizes), reversed(logs), strict=True):
        if not shown or np.log(shown[-1]) - log >= least * 0.75:
            shown.append(K)
    return shown[::-1]


def band(
    axes: Axes,
    x: Sequence[float],
    middle: FloatArray,
    low: FloatArray,
    high: FloatArray,
    group: str,
    counts: Sequence[int] | None = None,
) -> None:
    """A line in a group's colour with the region between `low` and `high` shaded.

    `counts`: the samples behind each point; those of fewer than FEW are crosses.
    """
    colour = COLOURS[group]
    axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)
    axes.plot(x, middle, color=colour, lw=1.9, label=label(group))
    _marks(axes, x, middle, colour, counts, s=20, color=colour, lw=0, zorder=3)


def points(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    group: str,
    counts: Sequence[int] | None = None,
) -> None:
    """Hollow points in a group's colour: other training seeds; `counts` as in `band`."""
    colour = COLOURS[group]
    _marks(axes, x, y, colour, counts, s=26, facecolor="white", edgecolor=colour, lw=1.1, zorder=4)


def _marks(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float] | FloatArray,
    colour: str,
    counts: Sequence[int] | None,
    **style: Any,
) -> None:
    few = np.array([count < FEW for count in counts or [FEW] * len(x)], bool)
    at = np.array([x, y], float)
    axes.scatter(at[0, ~few], at[1, ~few], **style)
    axes.scatter(at[0, few], at[1, few], marker="x", s=34, color=colour, lw=1.6, zorder=4)


def label(group: str) -> str:
    """What a legend calls a group."""
    return LABELS.get(group, group)


def near_peak(lab: Lab, cells: Sequence[Cell]) -> list[Cell]:
    """Cells in order of how near their K is to that of the peak of the spurious share."""
    peak = lab.peak()
    if peak is None:
        return []
    return sorted(cells, key=lambda cell: abs(float(np.log(cell.K / peak.K))))


def about(lab: Lab) -> str:
    """The sweep in a line: its data, the size of the pictures, |S'|, and the distance."""
    settings, synthesis = lab.settings, lab.settings.synthesis
    return "  ·  ".join(
        (
            f"{drawable(name_of(lab))} {settings.side} x {settings.side}",
            f"|S'| = {synthesis.multiple} K, at least {synthesis.at_least:,}",
            f"distance {settings.metric}",
        )
    )


def drawable(text: str) -> str:
    """Text with what not every font has as ?: beyond the letters of Latin scripts."""
    return "".join(c if c.isprintable() and ord(c) < 0x180 else "?" for c in text)


def distance_name(lab: Lab) -> str:
    """The distance of the states in words."""
    metric = lab.settings.metric
    return said_of(metric)
