"""What a run's stored numbers say: results.json, minima.csv, tables and figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from m2g_audit.files import write_atomically
from m2g_audit.store.run_directory import RunDirectory
from small_scale.circle import clusters, figure, tables
from small_scale.circle.clusters import Cluster
from small_scale.circle.energy import energy, exact_prior, standard_prior
from small_scale.circle.figure import Landscape
from small_scale.circle.minima import shared_until
from small_scale.circle.recipe import T_PICTURE, Recipe
from small_scale.circle.sampling import last_beta
from small_scale.circle.scores import empirical
from small_scale.circle.stages import Tensors, load, seconds

KINDS = ("one", "several", "none")
"""Of minima and of clusters: those that hold one, several or none of the training points."""

_FOLLOWED = 64
"""Up to this K the groups of points that share a minimum are followed over beta."""
DATA_RADIUS = 1.5
"""The energy's error is taken over the grid's points nearer to the centre than this."""


def write(folder: RunDirectory, recipe: Recipe, stages: Iterable[str]) -> None:
    """Write results.json, minima.csv, tables.md, circle.png and minima.png from stored numbers."""
    chance = float(load(folder, "chance")["limit"])
    points = load(folder, "points")["points"]
    panels, networks = {}, {}
    for size in recipe.sizes:
        kept, grouped = load(folder, f"landscape-{size}"), load(folder, f"clusters-{size}")
        panel, error = _landscape(kept, grouped, points[:size], recipe)
        exact = _clusters(kept["exact_samples"], grouped["exact_labels"], points[:size])
        panels[size] = panel
        networks[str(size)] = {
            "samples": _counted(panel.clusters, chance),
            "exact_score_samples": _counted(exact, chance),
            "clusters": [
                asdict(cluster) | {"energy": float(height)}
                for cluster, height in zip(panel.clusters, panel.heights, strict=True)
            ],
            "energy_error": error,
            "minima": _minima(folder, recipe, size),
            "groups": _groups(folder, recipe, points[:size]),
        }
    found = {
        "recipe": recipe.identity(),
        "cluster_threshold": clusters.THRESHOLD,
        "chance_concentration": chance,
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


def _landscape(
    kept: Tensors, grouped: Tensors, points: Tensor, recipe: Recipe
) -> tuple[Landscape, dict[str, float]]:
    """The panel of one network, and its energy's error against Eq. 23 where the data is.

    The panel takes p_1 of Eq. 23 for the prior: the paper's N(0, sigma^2) tilts the energy by more
    than the network is off.
    """
    sigma, places = recipe.sigma, kept["places"]

    def height(log_density: Tensor) -> Tensor:
        return energy(log_density, T_PICTURE, sigma)

    with_p1 = height(exact_prior(kept["ends"], points, sigma) + kept["gain"])
    with_normal = height(standard_prior(kept["ends"], sigma) + kept["gain"])
    true = height(empirical(points, sigma, T_PICTURE).log_density(places, 0))
    near = places.norm(dim=1) < DATA_RADIUS
    error = {
        "total": _rms((with_normal - true)[near]),
        "prior": _rms((with_normal - with_p1)[near]),
        "network": _rms((with_p1 - true)[near]),
    }
    at_centres = height(exact_prior(grouped["ends"], points, sigma) + grouped["gain"])
    side = round(len(kept["arrows"]) ** 0.5)
    panel = Landscape(
        points.numpy(),
        kept["samples"].numpy(),
        (with_p1 - with_p1.min()).reshape(recipe.grid, recipe.grid).numpy(),
        kept["arrows"].reshape(side, side, 2).numpy(),
        _clusters(kept["samples"], grouped["labels"], points),
        (at_centres - with_p1.min()).numpy(),
    )
    return panel, error


def _clusters(samples: Tensor, labels: Tensor, points: Tensor) -> list[Cluster]:
    return clusters.describe(samples.numpy(), labels.numpy(), points.numpy())


def _counted(found: list[Cluster], chance: float) -> dict[str, Any]:
    """How many clusters there are, how many are denser than chance, and what those hold."""
    attractors = [cluster for cluster in found if cluster.concentration > chance]
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


def _minima(folder: RunDirectory, recipe: Recipe, size: int) -> list[dict[str, Any]]:
    """The network's and the exact energy's minima for one training set, beta by beta.

    `agreement`: the adjusted Rand index of the two partitions of the training points into basins;
    1 where they are the same.
    """
    kept, rows = load(folder, f"minima-{size}"), []
    for i, beta in enumerate(recipe.learned_betas):
        row: dict[str, Any] = {"beta": beta}
        for name in ("learned", "exact"):
            row[name] = _by_kind(kept[f"{name}-{i}-counts"])
        basins = (kept[f"{name}-{i}-basins"].numpy() for name in ("learned", "exact"))
        row["agreement"] = float(adjusted_rand_score(*basins))
        rows.append(row)
    return rows


def _groups(folder: RunDirectory, recipe: Recipe, points: Tensor) -> list[dict[str, Any]]:
    """The training points that share a minimum of the network at its largest beta.

    `exact_until`: the largest beta at which they share one of the exact energy. Empty for more
    points than can be followed one by one.
    """
    if len(points) > _FOLLOWED:
        return []
    basins = load(folder, f"minima-{len(points)}")[
        f"learned-{len(recipe.learned_betas) - 1}-basins"
    ]
    groups = [(basins == i).nonzero()[:, 0] for i in basins.unique() if i >= 0]
    return [
        {"points": group.tolist(), "exact_until": shared_until(points, group)}
        for group in groups
        if len(group) > 1
    ]


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
