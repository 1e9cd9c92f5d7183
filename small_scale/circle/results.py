"""What a run's stored numbers say: results.json, minima.csv, tables and figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from torch import Tensor

from m2g_audit.runs import RunDirectory, write_atomically
from small_scale.circle import clusters, figure, tables
from small_scale.circle.clusters import Cluster
from small_scale.circle.energy import energy, exact_prior, standard_prior
from small_scale.circle.recipe import T_PICTURE, Recipe
from small_scale.circle.sampling import last_beta
from small_scale.circle.scores import empirical
from small_scale.circle.stages import Tensors, load, seconds

KINDS = ("one", "several", "none")
"""Of minima and of clusters: those that hold one, several or none of the training points."""

DATA_RADIUS = 1.5
"""The energy's error is taken over the grid's points nearer to the centre than this."""


@dataclass(frozen=True)
class Landscape:
    """One panel of Fig. 2: `energy` [grid, grid] at t = 0.15, least 0; `arrows` [n, n, 2];
    `samples` [s, 2]; `points` [K, 2]; clusters, and the energy at the centre of each."""

    points: np.ndarray
    samples: np.ndarray
    energy: np.ndarray
    arrows: np.ndarray
    clusters: list[Cluster]
    heights: np.ndarray


def write(folder: RunDirectory, recipe: Recipe, stages: Iterable[str]) -> None:
    """Write results.json, minima.csv, tables.md, circle.png and minima.png from stored numbers."""
    diameter = clusters.threshold()
    chance = float(load(folder, "chance")["mass"])
    points = load(folder, "points")["points"]
    panels, networks = {}, {}
    for size in recipe.sizes:
        kept = load(folder, f"landscape-{size}")
        panels[size], error = _landscape(kept, points[:size], recipe)
        exact = _clusters(kept, points[:size], "exact")
        networks[str(size)] = {
            "samples": _counted(panels[size].clusters, chance),
            "exact_score_samples": _counted(exact, chance),
            "clusters": [
                asdict(cluster) | {"energy": float(height)}
                for cluster, height in zip(panels[size].clusters, panels[size].heights, strict=True)
            ],
            "energy_error": error,
            "minima": _minima(folder, recipe, size, panels[size].clusters, chance),
        }
    found = {
        "recipe": recipe.identity(),
        "cluster_diameter": diameter,
        "chance_mass": chance,
        "sampler_last_beta": last_beta(recipe),
        "networks": networks,
        "curves": {str(size): _curve(folder, recipe, size) for size in recipe.curve_sizes},
        "seconds": {stage: seconds(folder, stage) for stage in stages},
    }
    _put(folder, "results.json", json.dumps(found, indent=1) + "\n")
    _put(folder, "minima.csv", _csv(found))
    _put(folder, "tables.md", tables.text(found))
    write_atomically(folder.path / "circle.png", figure.landscapes(panels, chance))
    write_atomically(folder.path / "minima.png", figure.curves(found))


def _landscape(kept: Tensors, points: Tensor, recipe: Recipe) -> tuple[Landscape, dict[str, float]]:
    """The panel of one network, and its energy's error against Eq. 23 where the data is.

    The panel takes p_1 of Eq. 23 for the prior: the paper's N(0, sigma^2) tilts the energy by more
    than the network is off.
    """
    sigma, places = recipe.sigma, kept["places"]
    with_p1, with_normal, true = (
        energy(log_density, T_PICTURE, sigma)
        for log_density in (
            exact_prior(kept["ends"], points, sigma) + kept["gain"],
            standard_prior(kept["ends"], sigma) + kept["gain"],
            empirical(points, sigma, T_PICTURE).log_density(places, 0),
        )
    )
    near = places.norm(dim=1) < DATA_RADIUS
    error = {
        "total": _rms((with_normal - true)[near]),
        "prior": _rms((with_normal - with_p1)[near]),
        "network": _rms((with_p1 - true)[near]),
    }
    cells, side = recipe.grid**2, round(len(kept["arrows"]) ** 0.5)
    heights = with_p1 - with_p1[:cells].min()
    panel = Landscape(
        points.numpy(),
        kept["samples"].numpy(),
        heights[:cells].reshape(recipe.grid, recipe.grid).numpy(),
        kept["arrows"].reshape(side, side, 2).numpy(),
        _clusters(kept, points, "samples"),
        heights[cells:].numpy(),
    )
    return panel, error


def _clusters(kept: Tensors, points: Tensor, name: str) -> list[Cluster]:
    samples, labels = kept[name].numpy(), kept[f"{name}_labels"].numpy()
    return clusters.describe(samples, labels, points.numpy(), clusters.threshold())


def _counted(found: list[Cluster], chance: float) -> dict[str, Any]:
    """How many clusters there are, how many are larger than chance, and what those hold."""
    attractors = [cluster for cluster in found if cluster.mass > chance]
    kinds = [KINDS[min(len(cluster.held), 2) - 1] for cluster in attractors]
    masses = [cluster.mass for cluster in attractors]
    return {
        "clusters": len(found),
        "attractors": len(attractors),
        "kinds": {kind: kinds.count(kind) for kind in KINDS},
        "masses": {
            kind: sum(m for k, m in zip(kinds, masses, strict=True) if k == kind) for kind in KINDS
        },
    }


def _minima(
    folder: RunDirectory, recipe: Recipe, size: int, found: list[Cluster], chance: float
) -> list[dict[str, Any]]:
    """The network's and the exact energy's minima for one training set, beta by beta.

    `distance`: Hausdorff distance between the exact minima and the centres of the clusters of
    samples that are larger than chance; None where there is no such cluster.
    """
    kept = load(folder, f"minima-{size}")
    centres = np.array([cluster.centre for cluster in found if cluster.mass > chance])
    rows = []
    for i, beta in enumerate(recipe.learned_betas):
        row: dict[str, Any] = {"beta": beta}
        for name in ("learned", "exact"):
            row[name] = _by_kind(kept[f"{name}-{i}-counts"])
        between = cdist(centres, kept[f"exact-{i}-points"].numpy()) if len(centres) else None
        row["distance"] = (
            None if between is None else float(max(between.min(0).max(), between.min(1).max()))
        )
        rows.append(row)
    return rows


def _by_kind(counts: Tensor) -> dict[str, int]:
    return dict(zip((*KINDS, "lost"), counts.tolist(), strict=True))


def _curve(folder: RunDirectory, recipe: Recipe, size: int) -> list[dict[str, Any]]:
    """Of the exact energy's minima over draws: mean, least and most, and the mean of each kind."""
    counts = load(folder, f"curve-{size}")["counts"].double()
    rows = []
    for i, beta in enumerate(recipe.betas):
        every = counts[:, i, :3].sum(dim=1)
        rows.append(
            {
                "beta": beta,
                "minima": float(every.mean()),
                "least": int(every.min()),
                "most": int(every.max()),
                **{kind: float(counts[:, i, j].mean()) for j, kind in enumerate(KINDS)},
                "lost": int(counts[:, i, 3].sum()),
            }
        )
    return rows


def _csv(found: dict[str, Any]) -> str:
    text = io.StringIO()
    columns = ["K", "beta", "minima", "least", "most", *KINDS, "lost"]
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for size, rows in found["curves"].items():
        table.writerows({"K": size} | row for row in rows)
    return text.getvalue()


def _put(folder: RunDirectory, name: str, text: str) -> None:
    write_atomically(folder.path / name, text.encode())


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
