"""Fig. 2's four panels, and the minima over beta, drawn from stored numbers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from m2g_audit.oracles import circle_energy, circle_score
from m2g_audit.records import StateWord
from m2g_audit.report.colours import STATE_COLOURS
from small_scale.circle.recipe import BETA_EXACT, EXTENT, T_PICTURE

if TYPE_CHECKING:
    from small_scale.circle.results import Landscape

_CEILING = 1.6
"""The energy at and above which a panel has one colour: the circle is what is to be seen."""

_SAMPLES, _MANY = "#9fe8ff", 100
_ONE: StateWord = "memorized"
_SHARED: StateWord = "spurious"
_CHANCE: StateWord = "generalized"


def landscapes(panels: dict[int, Landscape], chance: float) -> bytes:
    """Return Fig. 2 as PNG: a panel for each K and the exact one; clusters marked.

    A cluster more concentrated than `chance` has the colour of memorized samples where it holds one
    training point, of spurious ones where it holds several or none; others that of generalized.
    """
    figure = Figure(figsize=(4.6 * (len(panels) + 1), 5.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels) + 1, sharey=True))
    for axis, (size, panel) in zip(axes, panels.items(), strict=False):
        _landscape(axis, panel.energy, panel.arrows)
        axis.set_title(f"K = {size}, network, t = {T_PICTURE}")
        axis.scatter(*panel.samples.T, s=4, color=_SAMPLES, alpha=0.7, linewidths=0)
        # Many points would hide all else.
        area = 26 if size < _MANY else 3
        axis.scatter(*panel.points.T, s=area, color="white", edgecolors="black", linewidths=0.4)
        _crosses(axis, panel, chance)
    axes[0].set_ylabel("x₂")
    _exact(axes[-1])
    image = axes[-1].collections[0]
    figure.legend(handles=_handles(), loc="outside lower center", ncols=5, frameon=False)
    figure.colorbar(image, ax=axes, label="energy above its least", shrink=0.8, pad=0.01)
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


def _landscape(axis: Axes, energy: np.ndarray, arrows: np.ndarray) -> None:
    side = np.linspace(-EXTENT, EXTENT, len(energy))
    levels = np.linspace(0, _CEILING, 33)
    axis.contourf(side, side, energy, levels=levels, cmap="viridis", extend="max")
    ticks = np.linspace(-EXTENT, EXTENT, len(arrows))
    long = np.linalg.norm(arrows, axis=2, keepdims=True)
    # Directions, with the long arrows of the corners cut.
    shown = arrows / np.maximum(long, np.quantile(long, 0.5))
    axis.quiver(ticks, ticks, *np.moveaxis(shown, 2, 0), color="white", alpha=0.6, scale=30)
    axis.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), aspect="equal", xlabel="x₁")


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


def _exact(axis: Axes) -> None:
    """The limit of many points at beta = 20 (Eq. 15 and 18)."""
    side, ticks = torch.linspace(-EXTENT, EXTENT, 121), torch.linspace(-EXTENT, EXTENT, 20)
    radius = torch.cartesian_prod(side, side).double().norm(dim=1).reshape(121, 121)
    heights = circle_energy(radius, BETA_EXACT)
    places = torch.cartesian_prod(ticks, ticks).double().flip(1)
    arrows = circle_score(places, BETA_EXACT).reshape(20, 20, 2)
    _landscape(axis, (heights - heights.min()).numpy(), arrows.numpy())
    angles = np.linspace(0, 2 * np.pi, 200)
    axis.plot(np.cos(angles), np.sin(angles), color="white", linewidth=1)
    axis.set_title(f"K → ∞, exact, β = {BETA_EXACT:g}")


def curves(found: dict[str, Any]) -> bytes:
    """Return as PNG: exact minima and their shared part over beta, and each network beside it."""
    networks = found["networks"]
    figure = Figure(figsize=(4.4 * max(3, len(networks)), 8), layout="constrained")
    grid = figure.add_gridspec(2, 6)
    wide = figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])
    sizes = list(found["curves"])
    for colour, size in zip(
        colormaps["viridis"](np.linspace(0, 0.9, len(sizes))), sizes, strict=True
    ):
        rows = found["curves"][size]
        beta = [row["beta"] for row in rows]
        shared = [1 - row["one"] / row["minima"] for row in rows]
        wide[0].plot(beta, [row["minima"] for row in rows], color=colour, label=f"K = {size}")
        wide[1].plot(beta, shared, color=colour, label=f"K = {size}")
    wide[0].set(yscale="log", ylabel="minima of the exact energy")
    wide[1].set(ylabel="share that belongs to no single training point")
    wide[0].legend(fontsize=8, ncols=2)
    for i, (size, network) in enumerate(networks.items()):
        axis = figure.add_subplot(grid[1, 2 * i : 2 * i + 2])
        _beside(axis, network["minima"])
        axis.set_title(f"K = {size}: network and exact energy, same points", fontsize=10)
        if i == 0:
            axis.legend(fontsize=8)
    for axis in figure.axes:
        axis.set(xscale="log", xlabel="β")
        for mark in (1 / (2 * found["recipe"]["sigma"] ** 2 * T_PICTURE), BETA_EXACT):
            axis.axvline(mark, color="grey", linewidth=0.8, linestyle=":")
    return _png(figure)


def _beside(axis: Axes, rows: list[dict[str, Any]]) -> None:
    beta = [row["beta"] for row in rows]
    for who, name, style in (("exact", "exact", "-"), ("learned", "network", "o")):
        one = [row[who]["one"] for row in rows]
        shared = [row[who]["several"] + row[who]["none"] for row in rows]
        for values, state, held in ((one, _ONE, "one"), (shared, _SHARED, "several or none")):
            label = f"{name}: minima that hold {held}"
            axis.plot(beta, values, style, color=STATE_COLOURS[state], label=label)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
