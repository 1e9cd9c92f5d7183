"""The circle from data to pictures, in stages that are kept: what is there is not done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from m2g_audit.progress import Progress
from m2g_audit.store.run_directory import RunDirectory
from small_scale.circle import clusters, results
from small_scale.circle.data import COUNT, circle_points
from small_scale.circle.energy import flow
from small_scale.circle.minima import Exact, Learned, find_minima
from small_scale.circle.recipe import EXTENT, T_PICTURE, Recipe
from small_scale.circle.sampling import euler_maruyama
from small_scale.circle.scores import Score, ScoreNetwork, exact_score
from small_scale.circle.stages import Tensors, keep, load
from small_scale.circle.training import checkpoint_path, generator_for, train

_SAMPLING = (1, 0)
"""The labels of the sampler's noise beside K; a batch has the iteration alone."""
ARROWS = 20
"""Arrows of the score along each side, as many as the paper's grid has points."""


RESULTS = ("circle.png", "minima.png", "tables.md", "minima.csv", "results.json")


def open_run(out: Path, recipe: Recipe) -> RunDirectory:
    """Return the folder of a recipe's run; raises OutputError where it holds another one."""
    return RunDirectory.open(out, recipe.identity())


def run(folder: RunDirectory, recipe: Recipe, on_step: Progress) -> None:
    """Make all that is missing of a run, then write RESULTS from what it has kept."""
    stages = Lab(folder, recipe, on_step).stages()
    for stage, make in stages.items():
        keep(folder, stage, make)
    results.write(folder, recipe, stages)


@dataclass
class Lab:
    """One run under way: its folder, its recipe and whom it tells of its steps."""

    folder: RunDirectory
    recipe: Recipe
    report: Progress

    def stages(self) -> dict[str, Callable[[], Tensors]]:
        """Return all stages in their order; the first file also says whose folder it is."""
        recipe = self.recipe
        made: dict[str, Callable[[], Tensors]] = {"points": lambda: {"points": self.points(COUNT)}}
        for size in recipe.sizes:
            made[f"network-{size}"] = partial(self.trained, size)
            made[f"landscape-{size}"] = partial(self.landscape, size)
            made[f"clusters-{size}"] = partial(self.clusters, size)
            made[f"minima-{size}"] = partial(self.minima, size)
        made |= {f"curve-{size}": partial(self.curve, size) for size in recipe.curve_sizes}
        return made | {"chance": self.chance}

    def points(self, size: int, draw: int = 0) -> Tensor:
        """Return the training set of a size: [size, 2]."""
        return circle_points(self.recipe.seed, draw)[:size]

    def trained(self, size: int) -> Tensors:
        """Return the weights of the network of a size."""
        checkpoint = checkpoint_path(self.folder.path, size)
        network = train(self.points(size), self.recipe, checkpoint, self.report)
        return dict(network.state_dict())

    def network(self, size: int) -> ScoreNetwork:
        """Return the trained network of a size."""
        network = ScoreNetwork(self.recipe)
        network.load_state_dict(load(self.folder, f"network-{size}"))
        return network.requires_grad_(False)

    def landscape(self, size: int) -> Tensors:
        """Return samples, and the energy and the score on grids at Fig. 2's t."""
        network, places = self.network(size), grid(self.recipe.grid)
        exact = exact_score(self.points(size), self.recipe.sigma)
        tensors = {
            "samples": self._samples(network, size, "network"),
            "exact_samples": self._samples(exact, size, "exact score"),
        }
        network = network.double()
        self.report(f"energy, K = {size}", 0, 1)
        carried = flow(network, places, T_PICTURE, self.recipe.sigma)
        self.report(f"energy, K = {size}", 1, 1)
        tensors |= {"places": places, "ends": carried.ends, "gain": carried.gain}
        return tensors | {"arrows": network(grid(ARROWS), T_PICTURE)}

    def _samples(self, score: Score, size: int, whose: str) -> Tensor:
        """Samples of a score; those of the network and of the exact score share their noise."""
        return euler_maruyama(
            score,
            self.recipe,
            generator_for(self.recipe.seed, size, *_SAMPLING),
            lambda done, total: self.report(f"sampling, K = {size} ({whose})", done, total),
        )

    def clusters(self, size: int) -> Tensors:
        """Return the clusters of the network's and the exact score's samples, and energies.

        The flow is that of the centres of the network's clusters.
        """
        kept = load(self.folder, f"landscape-{size}")
        self.report(f"clusters, K = {size}", 0, 1)
        labels = torch.from_numpy(clusters.labels(kept["samples"].numpy()))
        exact_labels = torch.from_numpy(clusters.labels(kept["exact_samples"].numpy()))
        places = torch.stack([kept["samples"][labels == i].mean(0) for i in labels.unique()])
        carried = flow(self.network(size).double(), places, T_PICTURE, self.recipe.sigma)
        self.report(f"clusters, K = {size}", 1, 1)
        tensors = {"labels": labels, "exact_labels": exact_labels}
        return tensors | {"places": places, "ends": carried.ends, "gain": carried.gain}

    def minima(self, size: int) -> Tensors:
        """Return the minima of the network's and of the exact energy for one training set."""
        points, network = self.points(size), self.network(size).double()
        tensors = {}
        for i, beta in enumerate(self.recipe.learned_betas):
            self.report(f"minima, K = {size}", i, len(self.recipe.learned_betas))
            learned = Learned(network, beta, self.recipe.sigma)
            both = {
                "learned": find_minima(learned, points, self.recipe.learned_rounds),
                "exact": find_minima(Exact(points, beta), points),
            }
            for name, found in both.items():
                tensors[f"{name}-{i}-points"] = found.points
                tensors[f"{name}-{i}-basins"] = found.basins
                tensors[f"{name}-{i}-counts"] = torch.tensor(found.counts())
        self.report(f"minima, K = {size}", 1, 1)
        return tensors

    def curve(self, size: int) -> Tensors:
        """Return the counts of exact minima over beta and draws: [draws, betas, 4]."""
        recipe, counts = self.recipe, []
        for draw in range(recipe.draws):
            self.report(f"exact minima, K = {size}", draw, recipe.draws)
            points = self.points(size, draw)
            counts.append(
                [find_minima(Exact(points, beta), points).counts() for beta in recipe.betas]
            )
        self.report(f"exact minima, K = {size}", recipe.draws, recipe.draws)
        return {"counts": torch.tensor(counts)}

    def chance(self) -> Tensors:
        """Return the concentration up to which a cluster of samples may be chance."""
        self.report("clusters on the circle itself", 0, 1)
        limit = clusters.chance(self.recipe.samples, self.recipe.seed)
        self.report("clusters on the circle itself", 1, 1)
        return {"limit": torch.tensor(limit)}


def grid(count: int) -> Tensor:
    """Return the points of Fig. 2's panel, [count^2, 2], row by row from below."""
    axis = torch.linspace(-EXTENT, EXTENT, count, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis).flip(1)
