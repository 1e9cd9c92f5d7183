"""The spectra of a run in one figure, in the manner of the paper's Fig. 5B."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from m2g_audit.current_folder import import_matplotlib
from m2g_audit.diagnostics.free_probability import point_mass_curve
from m2g_audit.errors import OutputError
from m2g_audit.records.record import AuditRecord, CurvatureRecord
from m2g_audit.reports.colours import STATE_COLOURS
from m2g_audit.reports.run_files import read_array, read_picture
from m2g_audit.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNITS = {
    "jacobian": r"singular value of $\partial s/\partial x$, times $\sigma_t^2$",
    "paper": r"singular value of $M$, times $\sigma_t/\sqrt{4N}$",
}
_Curves = list[tuple[CurvatureRecord, NDArray[np.float64]]]
_MOST = 1e100  # so that axes with some room above the values can have numbers
_STYLES = ("-", "--", ":", "-.")


def spectrum_figure(record: AuditRecord, run_dir: Path) -> bytes:
    """Return a figure of the run's spectra as PNG: one curve per sample, its picture beside it.

    Values run from the largest to the smallest; what a point mass would show is drawn for
    comparison. As the paper clips its figure, the axis ends where the few largest values would
    press the rest together. Beside fast spectra stands what Alg. 2 would show, in the paper's own
    units.
    """
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = [(entry, singular_values(entry, run_dir)) for entry in record.curvature]
    predicted = [(entry, _predicted(entry, run_dir)) for entry in record.curvature if entry.fast]
    widths = (5, 5, 1.3) if predicted else (5, 1.1)
    figure = Figure(
        figsize=(1.6 * sum(widths) / 1.13, max(4.6, 1.35 * len(curves))), layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(curves), len(widths), width_ratios=widths)
    first = record.curvature[0]
    axes = figure.add_subplot(grid[:, 0])
    _draw_curves(axes, curves, point_mass_curve(first.kind, len(curves[0][1])))
    axes.set_ylabel(_UNITS[first.kind])
    axes.legend(frameon=False, fontsize=9)
    algorithm = first.algorithm.replace("$", r"\$")
    ratio = "" if first.noise_ratio is None else rf", $\sigma/\alpha$ = {first.noise_ratio:.3g}"
    title = f"Curvature of the {first.score} score at $t_0$ = {first.t0}{ratio} ({algorithm})"
    axes.set_title(title, loc="left", fontsize=11)
    if predicted:
        _draw_predicted(figure.add_subplot(grid[:, 1]), predicted)
    for row, (entry, _) in enumerate(curves):
        _draw_picture(figure.add_subplot(grid[row, len(widths) - 1]), record, entry, run_dir)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def singular_values(entry: CurvatureRecord, run_dir: Path) -> NDArray[np.float64]:
    """Return a spectrum, largest value first: from the record, else from the run's file."""
    if entry.singular_values is None:
        return _stored(entry, run_dir, "singular_values")
    values = np.asarray(entry.singular_values, dtype=np.float64)
    if not _can_be_drawn(values):
        raise OutputError(f"The spectrum of seed {entry.image} in {run_dir} can't be drawn.")
    return values


def _predicted(entry: CurvatureRecord, run_dir: Path) -> NDArray[np.float64]:
    """The raw singular values of Alg. 2 that a fast spectrum predicts."""
    from m2g_audit.diagnostics.free_probability import paper_scale

    values = _stored(entry, run_dir, "alg2")
    return values / paper_scale(entry.scale, len(values))


def _stored(entry: CurvatureRecord, run_dir: Path, name: str) -> NDArray[np.float64]:
    try:
        values = read_array(run_dir, entry.file, name, dimensions=1)
        if not _can_be_drawn(values):
            raise OSError("its values can't be drawn")
        return values
    except OSError as error:
        raise OutputError(
            f"The spectrum {printable(entry.file)} in {run_dir} is missing or broken "
            f"({printable(str(error))}). "
            "Move record.json away and run the same command again: it makes what is missing."
        ) from error


def _can_be_drawn(values: NDArray[np.float64]) -> bool:
    return bool(values.size) and bool((np.abs(values) < _MOST).all())  # none of them NaN


def _draw_curves(axes: Axes, curves: _Curves, point_mass: NDArray[np.float64]) -> None:
    drawn: dict[str, int] = {}
    for entry, values in curves:
        style = _STYLES[drawn.get(entry.state, 0) % len(_STYLES)]
        drawn[entry.state] = drawn.get(entry.state, 0) + 1
        ranks = np.arange(1, len(values) + 1)
        colour = STATE_COLOURS[entry.state]
        axes.plot(ranks, values, style, color=colour, lw=1.9, label=_name(entry))
    ranks = np.arange(1, len(point_mass) + 1)
    axes.plot(ranks, point_mass, color="#9aa1a9", lw=1, ls=(0, (4, 3)), label="a single picture")
    axes.set_xlim(1, max(len(point_mass), 2))
    axes.set_ylim(0, _top([values for _, values in curves], float(np.median(point_mass))))
    axes.set_xlabel("rank of the singular value")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", lw=0.8)
    axes.set_axisbelow(True)


def _draw_predicted(axes: Axes, predicted: _Curves) -> None:
    from m2g_audit.diagnostics.free_probability import paper_scale, point_mass_curve

    entry, values = predicted[0]
    scale = paper_scale(entry.scale, len(values))
    _draw_curves(axes, predicted, point_mass_curve("paper", len(values)) / scale)
    axes.set_ylabel("singular value of $M$")
    axes.set_title("The same as Alg. 2 would show it", loc="left", fontsize=11)


def _top(curves: list[NDArray[np.float64]], one: float) -> float:
    """The axis' end: above `one`, and above all values but the largest 2% of each curve."""
    kept = [values[len(values) // 50] for values in curves]
    return 1.12 * max(one, *kept)


def _draw_picture(axes: Axes, record: AuditRecord, entry: CurvatureRecord, run_dir: Path) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(STATE_COLOURS[entry.state])
        spine.set_linewidth(2.5)
    axes.set_title(f"seed {entry.image}", fontsize=8, pad=3)
    try:
        picture = read_picture(run_dir, record.seeds[entry.image].image)
        axes.imshow(np.asarray(picture), interpolation="nearest")
    except OSError:
        axes.text(0.5, 0.5, "missing", ha="center", va="center", transform=axes.transAxes)


def _name(entry: CurvatureRecord) -> str:
    return f"{entry.state}, seed {entry.image}"
