"""Fig. 2's four panels, and the minima over beta, drawn from stored numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from m2g_audit.diagnostics.oracles import circle_energy, circle_score
from m2g_audit.records.vocabulary import StateWord
from m2g_audit.reports.colours import STATE_COLOURS
from small_scale.circle.clusters import Cluster
from small_scale.circle.minima import expected_of_many
from small_scale.circle.recipe import BETA_EXACT, EXTENT, T_PICTURE
from small_scale.report.figures.style import FAINT, INK, plain

# The square root of the energy, a distance, has the colours: valleys and slopes are both seen.
_NORM = PowerNorm(0.5, vmin=0, vmax=4)
_LINES = (0.05, 0.2, 0.45, 0.8, 1.25, 1.8, 2.45, 3.2)
_TICKS = (0, 0.25, 1, 2.25, 4)

_SAMPLES, _MANY = "#9fe8ff", 100
_ONE: StateWord = "memorized"
_SHARED: StateWord = "spurious"
_CHANCE: StateWord = "generalized"


@dataclass(frozen=True)
class Landscape:
    """One panel of Fig. 2.

    `energy` [grid, grid] at t = 0.15, least 0; `arrows` [n, n, 2]; `samples` [s, 2]; `points`
    [K, 2]; clusters, and the energy at the centre of each.
    """

    points: np.ndarray
    samples: np.ndarray
    energy: np.ndarray
    arrows: np.ndarray
    clusters: list[Cluster]
    heights: np.ndarray


def landscapes(panels: dict[int, Landscape], chance: float) -> bytes:
    """Return Fig. 2 as PNG: a panel for each K and the exact one; clusters marked.

    A cluster more concentrated than `chance` has the colour of memorized samples where it holds one
    training point, of spurious ones where it holds several or none; others that of generalized.
    """
    figure = Figure(figsize=(4.3 * (len(panels) + 1), 5.0), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels) + 1, sharey=True))
    for axis, (size, panel) in zip(axes, panels.items(), strict=False):
        _landscape(axis, panel.energy, panel.arrows)
        _title(axis, f"K = {size:,}", f"network, t = {T_PICTURE}")
        axis.scatter(*panel.samples.T, s=5, color=_SAMPLES, alpha=0.7, linewidths=0)
        # Many points would hide all else.
        area, edge = (26, 0.5) if size < _MANY else (1.5, 0)
        axis.scatter(*panel.points.T, s=area, color="white", edgecolors="black", linewidths=edge)
        _crosses(axis, panel, chance)
    axes[0].set_ylabel("x₂", color=INK)
    image = _exact(axes[-1])
    figure.legend(
        handles=_handles(), loc="outside lower center", ncols=5, frameon=False, labelcolor=INK
    )
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.01, ticks=_TICKS, extend="max")
    bar.set_label("energy above its least", color=INK)
    return _png(figure)


def _handles() -> list[Line2D]:
    round_marks = [
        Line2D([], [], linestyle="", marker="o", color=colour, markeredgecolor="black", label=label)
        for colour, label in (("white", "training points"), (_SAMPLES, "samples"))
    ]
    crosses = [
        Line2D([], [], linestyle="", marker="x", color=STATE_COLOURS[state], label=label)
        for state, label in (
            (_ONE, "attractor at one training point"),
            (_SHARED, "attractor at several or none"),
            (_CHANCE, "cluster no denser than chance"),
        )
    ]
    return [*round_marks, *crosses]


def _title(axis: Axes, name: str, about: str) -> None:
    axis.set_title(name, loc="left", weight="bold", color=INK)
    axis.set_title(about, loc="right", fontsize=9.5, color=FAINT)


def _landscape(axis: Axes, energy: np.ndarray, arrows: np.ndarray) -> AxesImage:
    side = np.linspace(-EXTENT, EXTENT, len(energy))
    half = (side[1] - side[0]) / 2
    ends = (-EXTENT - half, EXTENT + half)
    image = axis.imshow(
        energy, origin="lower", extent=(*ends, *ends), norm=_NORM, interpolation="bilinear"
    )
    axis.contour(side, side, energy, levels=_LINES, colors="white", linewidths=0.5, alpha=0.35)
    ticks = np.linspace(-EXTENT, EXTENT, len(arrows))
    long = np.linalg.norm(arrows, axis=2, keepdims=True)
    # Directions, with the long arrows of the corners cut.
    shown = arrows / np.maximum(long, np.quantile(long, 0.5))
    axis.quiver(ticks, ticks, *np.moveaxis(shown, 2, 0), color="white", alpha=0.55, scale=30)
    axis.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    axis.set_xlabel("x₁", color=INK)
    axis.tick_params(colors=FAINT)
    return image


def _crosses(axis: Axes, panel: Landscape, chance: float) -> None:
    for cluster, height in zip(panel.clusters, panel.heights, strict=True):
        if cluster.concentration == 0:
            continue
        state = _ONE if len(cluster.held) == 1 else _SHARED
        colour = STATE_COLOURS[state if cluster.concentration > chance else _CHANCE]
        centre = np.array(cluster.centre)
        x, y = 1.28 * centre / np.linalg.norm(centre)
        axis.scatter([centre[0]], [centre[1]], marker="x", s=70, color=colour, linewidths=1.8)
        axis.text(
            x,
            y,
            f"{height:z.2f}",
            color="white",
            fontsize=8,
            ha="center",
            va="center",
            bbox={"boxstyle": "round,pad=0.2", "facecolor": colour, "edgecolor": "none"},
        )


def _exact(axis: Axes) -> AxesImage:
    """The limit of many points at beta = 20 (Eq. 15 and 18)."""
    side, ticks = torch.linspace(-EXTENT, EXTENT, 121), torch.linspace(-EXTENT, EXTENT, 20)
    radius = torch.cartesian_prod(side, side).double().norm(dim=1).reshape(121, 121)
    heights = circle_energy(radius, BETA_EXACT)
    places = torch.cartesian_prod(ticks, ticks).double().flip(1)
    arrows = circle_score(places, BETA_EXACT).reshape(20, 20, 2)
    image = _landscape(axis, (heights - heights.min()).numpy(), arrows.numpy())
    angles = np.linspace(0, 2 * np.pi, 200)
    axis.plot(np.cos(angles), np.sin(angles), color="white", linewidth=1.6)
    _title(axis, "K → ∞", f"exact, β = {BETA_EXACT:g}")
    return image


def curves(found: dict[str, Any]) -> bytes:
    """Return as PNG: exact minima and their shared part over beta, and each network beside it."""
    networks = found["networks"]
    figure = Figure(figsize=(4.4 * max(3, len(networks)), 8.6), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.1, 1))
    above, below = parts
    counted, shared = above.subplots(1, 2)
    sizes = list(found["curves"])
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(sizes)))
    for colour, size in zip(shades, sizes, strict=True):
        rows = found["curves"][size]
        beta = [row["beta"] for row in rows]
        share = [1 - row["one"] / row["minima"] for row in rows]
        label = f"{int(size):,}"
        counted.plot(beta, [row["minima"] for row in rows], color=colour, lw=1.7, label=label)
        shared.plot(beta, share, color=colour, lw=1.7)
    many = np.geomspace(1, max(found["recipe"]["betas"]), 50)
    counted.plot(
        many, np.vectorize(expected_of_many)(many), color=INK, lw=1, ls=(0, (4, 3)),
        label="many: √(3β)",
    )  # fmt: skip
    counted.set_yscale("log")
    draws = found["recipe"]["draws"]
    _over_beta(counted, "minima of the exact energy", f"mean of {draws} draws", found)
    _over_beta(shared, "share that belongs to no single training point", "", found)
    above.legend(loc="outside right center", title="K", reverse=True, **_LEGEND)
    panels = np.atleast_1d(below.subplots(1, len(networks)))
    for axis, (size, network) in zip(panels, networks.items(), strict=True):
        _beside(axis, network["minima"])
        _over_beta(axis, f"K = {int(size):,}", "network and exact energy, same points", found)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_ylim(bottom=-0.04 * axis.get_ylim()[1])
    handles, labels = panels[0].get_legend_handles_labels()
    below.legend(handles, labels, loc="outside lower center", ncols=4, **_LEGEND)
    return _png(figure)


_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK}


def _over_beta(axis: Axes, name: str, about: str, found: dict[str, Any]) -> None:
    """A logarithmic axis of beta, on which the two of the paper's Fig. 2 are marked."""
    _title(axis, name, about)
    axis.set_xscale("log")
    axis.set_xlabel("β", color=INK)
    plain(axis)
    pictured = 1 / (2 * found["recipe"]["sigma"] ** 2 * T_PICTURE)
    for beta in (pictured, BETA_EXACT):
        axis.axvline(beta, color=FAINT, linewidth=0.9, linestyle=":")
        axis.text(
            beta, 1, f" {beta:.2g}", ha="left", va="top", fontsize=8.5, color=FAINT,
            transform=axis.get_xaxis_transform(),
        )  # fmt: skip


def _beside(axis: Axes, rows: Sequence[dict[str, Any]]) -> None:
    beta = [row["beta"] for row in rows]
    for state, kinds, held, marker in (
        (_ONE, ("one",), "one point", "o"),
        (_SHARED, ("several", "none"), "several or none", "s"),
    ):
        colour = STATE_COLOURS[state]
        exact, learned = (
            [sum(row[who][kind] for kind in kinds) for row in rows] for who in ("exact", "learned")
        )
        axis.plot(beta, exact, color=colour, lw=1.7, label=f"exact: minima that hold {held}")
        # Squares around circles: both are seen where they are equal.
        axis.plot(
            beta, learned, linestyle="", marker=marker, ms=5 if marker == "o" else 9, color=colour,
            markerfacecolor=colour if marker == "o" else "none", label=f"network: {held}",
        )  # fmt: skip


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
