"""The spectra of a run in one figure, in the manner of the paper's Fig. 5B."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from m2g_audit.curvature import Kind, point_mass_curve
from m2g_audit.errors import OutputError
from m2g_audit.records import AuditRecord, CurvatureRecord
from m2g_audit.report.colours import STATE_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_UNITS = {
    "jacobian": r"singular value of $\partial s/\partial x$, times $\sigma_t^2$",
    "paper": r"singular value of $M$, times $\sigma_t/\sqrt{4N}$",
}
_STYLES = ("-", "--", ":", "-.")


def spectrum_figure(record: AuditRecord, run_dir: Path) -> bytes:
    """Return a figure of the run's spectra as PNG: one curve per sample, its picture beside it.

    Values run from the largest to the smallest; what a point mass would show is drawn for
    comparison. As the paper clips its figure, the axis ends where the few largest values would
    press the rest together.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = [(entry, singular_values(entry, run_dir)) for entry in record.curvature]
    figure = Figure(figsize=(8.6, max(4.6, 1.35 * len(curves))), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(curves), 2, width_ratios=(5, 1.1))
    axes = figure.add_subplot(grid[:, 0])
    _draw_curves(axes, record, curves)
    for row, (entry, _) in enumerate(curves):
        _draw_picture(figure.add_subplot(grid[row, 1]), record, entry, run_dir)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def singular_values(entry: CurvatureRecord, run_dir: Path) -> NDArray[np.float64]:
    """Return a spectrum, largest value first: from the record, else from the run's file."""
    if entry.singular_values is not None:
        return np.asarray(entry.singular_values)
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(run_dir / entry.file)["singular_values"]
    except (OSError, SafetensorError, KeyError) as error:
        raise OutputError(
            f"The spectrum {run_dir / entry.file} is missing or broken ({error}). "
            "Move record.json away and run the same command again: it makes what is missing."
        ) from error


def _draw_curves(
    axes: Axes, record: AuditRecord, curves: list[tuple[CurvatureRecord, NDArray[np.float64]]]
) -> None:
    first = record.curvature[0]
    drawn: dict[str, int] = {}
    for entry, values in curves:
        style = _STYLES[drawn.get(entry.state, 0) % len(_STYLES)]
        drawn[entry.state] = drawn.get(entry.state, 0) + 1
        ranks = np.arange(1, len(values) + 1)
        colour = STATE_COLOURS[entry.state]
        axes.plot(ranks, values, style, color=colour, lw=1.9, label=_name(entry))
    size = len(curves[0][1])
    _draw_point_mass(axes, first.kind, size)
    axes.set_xlim(1, max(size, 2))
    axes.set_ylim(0, _top([values for _, values in curves]))
    axes.set_xlabel("rank of the singular value")
    axes.set_ylabel(_UNITS[first.kind])
    axes.set_title(
        f"Curvature of the {first.score} score at $t_0$ = {first.t0} ({first.algorithm})",
        loc="left",
        fontsize=11,
    )
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e8eb", lw=0.8)
    axes.set_axisbelow(True)


def _draw_point_mass(axes: Axes, kind: Kind, size: int) -> None:
    curve = point_mass_curve(kind, size)
    ranks = np.arange(1, size + 1)
    axes.plot(ranks, curve, color="#9aa1a9", lw=1, ls=(0, (4, 3)), label="a single picture")


def _top(curves: list[NDArray[np.float64]]) -> float:
    """The axis' end: above all values but the largest 2% of each curve, and above 1."""
    kept = [values[len(values) // 50] for values in curves]
    return 1.12 * max(1.0, *kept)


def _draw_picture(axes: Axes, record: AuditRecord, entry: CurvatureRecord, run_dir: Path) -> None:
    from PIL import Image

    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(STATE_COLOURS[entry.state])
        spine.set_linewidth(2.5)
    axes.set_title(f"seed {entry.image}", fontsize=8, pad=3)
    try:
        with Image.open(run_dir / record.seeds[entry.image].image) as picture:
            axes.imshow(np.asarray(picture.convert("RGB")), interpolation="nearest")
    except OSError:
        axes.text(0.5, 0.5, "missing", ha="center", va="center", transform=axes.transAxes)


def _name(entry: CurvatureRecord) -> str:
    return f"{entry.state}, seed {entry.image}"
