"""Figures of one prompt for its page: SVG that holds no picture and no text of a prompt."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from m2g_audit.calibration.calibration_record import Calibration
from m2g_audit.current_folder import import_matplotlib
from m2g_audit.diagnostics.free_probability import point_mass_curve
from m2g_audit.records.record import AuditRecord, CurvatureRecord, ThresholdRecord
from m2g_audit.records.vocabulary import StateWord
from m2g_audit.reports.colours import STATE_COLOURS
from m2g_audit.reports.groups import grouped
from m2g_audit.reports.run_files import read_array
from m2g_audit.reports.sensitivity import FACTORS, shares_by_factor
from m2g_audit.store.run_directory import DISTANCES_FILE
from m2g_audit.text import printable
from m2g_audit.verdict.states import State

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _FAINT, _LINE = "#22262b", "#737a83", "#e6e8eb"
_POINTS = 200
_FARTHEST = 1e100  # a distance that can still be drawn
_LARGE, _NUMBERED = 16, 32
_STYLES = ("-", "--", ":", "-.")
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "m2g-audit",  # the same figure gives the same file
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _FAINT,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "axes.linewidth": 0.7,
    "mathtext.fontset": "dejavusans",
}
_UNITS = {
    "jacobian": "normalised singular value of the score's Jacobian",
    "paper": "normalised singular value of M (Alg. 2, 3)",
}


_State = Literal["memorized", "spurious", "generalized"]


@dataclass(frozen=True)
class Band:
    """Spectra of a calibration's samples in one state: mean and sd [q] of their quantiles `at`."""

    at: NDArray[np.float64]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]


Bands = Mapping[_State, Band]


def bands_of(calibration: Calibration) -> Bands:
    """Return the band of each state whose spectra a calibration has, over all its models.

    Models are weighted by their samples; the variance is that within models and between them.
    """
    parts = defaultdict(list)
    for model in calibration.trained:
        for facts in model.distances[0].states:
            if facts.spectrum is not None:
                parts[facts.state].append(facts.spectrum)
    found: dict[_State, Band] = {}
    for state, some in parts.items():
        alike = [part for part in some if part.at == some[0].at]
        weight = np.array([part.samples for part in alike], dtype=float)
        means = np.array([part.mean for part in alike])
        mean = np.average(means, axis=0, weights=weight)
        square = np.array([part.sd for part in alike]) ** 2 + (means - mean) ** 2
        sd = np.sqrt(np.average(square, axis=0, weights=weight))
        found[state] = Band(np.array(some[0].at), mean, sd)
    return found


def matrix_figure(record: AuditRecord, folder: Path) -> bytes | None:
    """Return the distances between a prompt's generations as SVG; None where there are none.

    Generations stand in the order of their groups, with a line between groups; the darker, the
    nearer, and the colour's end is at twice delta_s.
    """
    distances = _distances(folder)
    groups = [[seed.index for seed in group.seeds] for group in grouped(record)]
    order = [i for group in groups for i in group]
    if distances is None or distances.shape != (len(order), len(order)) or len(order) < 2:
        return None
    arranged = distances[np.ix_(order, order)]
    return _drawn((3.9, 3.3), lambda figure: _draw_matrix(figure, record, arranged, groups))


def spectrum_figure(record: AuditRecord, folder: Path, bands: Bands) -> bytes | None:
    """Return the spectra of a prompt as SVG, over a calibration's bands or a point mass's curve.

    None where no spectrum was measured, or none can be read.
    """
    from m2g_audit.errors import OutputError
    from m2g_audit.reports.spectrum_figure import singular_values

    curves = []
    for entry in record.curvature:
        try:
            curves.append((entry, singular_values(entry, folder)))
        except OutputError:
            continue
    if not curves:
        return None
    return _drawn((4.9, 3.3), lambda figure: _draw_spectra(figure, curves, bands))


def _drawn(size: tuple[float, float], draw: Any) -> bytes:
    import_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_SETTINGS):  # type: ignore[arg-type]
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


# -- the matrix


def _distances(folder: Path) -> NDArray[np.float64] | None:
    try:
        return read_array(folder, DISTANCES_FILE, "samples", dimensions=2)
    except OSError:
        return None


def _draw_matrix(
    figure: Figure,
    record: AuditRecord,
    arranged: NDArray[np.float64],
    groups: Sequence[Sequence[int]],
) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list(
        "near", ["#2b2140", "#7b4fb3", "#d9cdea", "#f7f7f8"]
    )
    limit = None if record.thresholds is None else record.thresholds.delta_s
    finite = arranged[np.isfinite(arranged)]
    top = min(2 * limit if limit else float(finite.max(initial=1.0)), _FARTHEST)
    order = [i for group in groups for i in group]
    n = len(order)
    # Places are given, and there are no ticks: to have them computed takes most of a page's time.
    axes = figure.add_axes((0.09, 0.03, 0.7, 0.86))
    axes.set_axis_off()
    shown = np.where(np.isfinite(arranged), arranged, np.nan)
    axes.imshow(shown, cmap=colours.with_extremes(bad="#ffffff"), vmin=0, vmax=top)
    ends = np.cumsum([len(group) for group in groups])[:-1] - 0.5
    axes.vlines(ends, -0.5, n - 0.5, color="white", lw=1.6)
    axes.hlines(ends, -0.5, n - 0.5, color="white", lw=1.6)
    size = 8 if n <= _LARGE else 6
    for place, seed in enumerate(order if n <= _NUMBERED else []):
        left, above = (-0.5 - 0.012 * n, place), (place, -0.5 - 0.012 * n)
        axes.text(*left, str(seed), size=size, color=_FAINT, ha="right", va="center")
        axes.text(*above, str(seed), size=size, color=_FAINT, ha="center", va="bottom")
    axes.text(-0.5 - 0.012 * n, -0.5 - 0.012 * n, "seed", size=8, color=_FAINT, ha="right")
    bar = figure.add_axes((0.815, 0.2, 0.03, 0.52))
    bar.set_axis_off()
    gradient = np.linspace(0, top, 64)[:, None]
    bar.imshow(gradient, cmap=colours, extent=(0, 1, 0, top), aspect="auto", origin="lower")
    marks = {0.0: "0", top: f"{top:.3g}"} | ({limit: f"δs {limit:.3g}"} if limit else {})
    for value, label in marks.items():
        bar.text(1.4, value, label, size=8, color=_FAINT, va="center")
    bar.text(
        0, 1.08 * top, printable(record.settings.metric, 40), size=8, color=_FAINT, parse_math=False
    )


# -- spectra

_Curves = Sequence[tuple[CurvatureRecord, NDArray[np.float64]]]


def _draw_spectra(figure: Figure, curves: _Curves, bands: Bands) -> None:
    axes = figure.add_axes((0.1, 0.13, 0.88, 0.84))
    first, values = curves[0]
    tops = [1.0]
    for state, band in bands.items():
        tops.append(_draw_band(axes, state, band))
    if not bands:
        share, one = _thinned(point_mass_curve(first.kind, len(values)))
        axes.plot(share, one, color="#9aa1a9", lw=1, ls=(0, (4, 3)), label="a single picture")
    drawn: dict[str, int] = {}
    for entry, values in curves:
        style = _STYLES[drawn.get(entry.state, 0) % len(_STYLES)]
        drawn[entry.state] = drawn.get(entry.state, 0) + 1
        colour = STATE_COLOURS[entry.state]
        label = f"seed {entry.image}, {entry.state}"
        axes.plot(*_thinned(values), style, color=colour, lw=1.7, label=label)
        tops.append(float(values[len(values) // 50]))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.12 * max(tops))
    axes.set_xlabel("share of singular values that are larger")
    axes.set_ylabel(_UNITS[first.kind])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_LINE, lw=0.7)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, labelcolor=_INK, loc="lower left", edgecolor="white", framealpha=0.85)


def _draw_band(axes: Axes, state: _State, band: Band) -> float:
    """Draw mean and standard deviation of a state; return the largest value drawn."""
    colour = STATE_COLOURS[state]
    low, high = np.maximum(band.mean - band.sd, 0), band.mean + band.sd
    label = f"calibration, {state}"
    axes.fill_between(1 - band.at, low, high, color=colour, alpha=0.16, lw=0, label=label)
    axes.plot(1 - band.at, band.mean, color=colour, alpha=0.4, lw=0.8)
    return float(high.max())


def _thinned(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A curve of at most 200 points: the share of larger values, and the value there."""
    share = (np.arange(len(values)) + 0.5) / len(values)
    if len(values) <= _POINTS:
        return share, np.asarray(values)
    picked = np.unique(np.linspace(0, len(values) - 1, _POINTS).round().astype(int))
    return share[picked], np.asarray(values)[picked]


# -- sensitivity


def sensitivity_figure(record: AuditRecord, folder: Path) -> bytes | None:
    """Return the shares of the states over a factor on both thresholds as SVG.

    Above it stand the null's 0.3% and 3% quantiles. None where distances are missing.
    """
    distances = _distances(folder)
    shares = None if distances is None else shares_by_factor(record, distances)
    if shares is None:
        return None
    return _drawn((4.9, 2.9), lambda figure: _draw_sensitivity(figure, record, shares))


def _draw_sensitivity(
    figure: Figure, record: AuditRecord, shares: Mapping[State, NDArray[np.float64]]
) -> None:
    axes = figure.add_axes((0.09, 0.17, 0.67, 0.63))
    axes.set_axis_off()
    axes.set_xlim(-1, 1)
    axes.set_ylim(0, 1)
    colours = [STATE_COLOURS[cast(StateWord, state.value)] for state in shares]
    axes.stackplot(np.log2(FACTORS), *shares.values(), colors=colours, lw=0)
    for number, (state, colour) in enumerate(zip(shares, colours, strict=True)):
        height = 0.94 - 0.11 * (len(shares) - 1 - number)  # as they are stacked
        axes.plot([1.08], [height], "s", color=colour, ms=6, clip_on=False)
        axes.text(1.15, height, state.value, size=8, color=_INK, va="center")
    for factor, label in ((0.5, "1/2"), (1 / 1.5, "1/1.5"), (1, "1"), (1.5, "1.5"), (2, "2")):
        place = np.log2(factor)
        if factor not in (0.5, 2):
            style = "-" if factor == 1 else (0, (3, 3))
            axes.plot([place, place], [0, 1], color="white", lw=1.4, ls=style)
        axes.text(place, -0.04, label, size=8, color=_FAINT, ha="center", va="top")
    for share in (0, 0.5, 1):
        axes.text(-1.03, share, f"{share:.0%}", size=8, color=_FAINT, ha="right", va="center")
    axes.text(0, -0.17, "factor on both thresholds", size=9, color=_FAINT, ha="center", va="top")
    _mark_quantiles(axes, record.thresholds)


def _mark_quantiles(axes: Axes, limits: ThresholdRecord | None) -> None:
    """Above the axes, for each threshold, from the null's 0.3% quantile to its 3% quantile."""
    if limits is None or limits.strict is None or limits.loose is None:
        return
    pairs = zip(("δm", "δs"), (limits.delta_m, limits.delta_s), strict=True)
    for number, (name, delta) in enumerate(pairs):
        ends = (limits.strict[number], limits.loose[number])
        if not delta or not ends[0] or not ends[1]:
            continue
        height = 1.16 - 0.09 * number
        low, high = np.clip(np.log2(np.array(ends) / delta), -1, 1)
        axes.plot([low, high], [height] * 2, "|-", color=_INK, lw=1, ms=6, clip_on=False)
        axes.text(-1.03, height, name, size=8, color=_FAINT, ha="right", va="center")
        axes.text(1.05, height, "0.3% to 3%", size=8, color=_FAINT, va="center")
