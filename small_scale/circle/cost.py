"""What a run of the circle will take, from a few of its steps on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from m2g_audit.store.run_directory import RunDirectory
from small_scale.circle.data import circle_points
from small_scale.circle.minima import Exact, find_minima
from small_scale.circle.recipe import Recipe
from small_scale.circle.scores import ScoreNetwork, exact_score
from small_scale.circle.stages import done
from small_scale.circle.training import checkpoint_path, iterations_done, loss

_FLOW, _SEARCH = 400, 300
"""Evaluations that the ODE and one search for a network's minima took in a run of `desk`."""


def seconds_left(folder: RunDirectory, recipe: Recipe) -> float:
    """Return the seconds that what is missing of a run takes; good to about a factor of 2."""
    points, network = circle_points(recipe.seed), ScoreNetwork(recipe)
    total = 0.0
    for size in recipe.sizes:
        chosen = points[:size]
        if not done(folder, f"network-{size}"):
            left = recipe.iterations - iterations_done(checkpoint_path(folder.path, size))
            total += left * _seconds(partial(_step, network, chosen.float(), recipe), 5)
        for stage, evaluations, places in (
            (f"landscape-{size}", recipe.sampler_steps, recipe.samples),
            (f"landscape-{size}", _FLOW, recipe.grid**2),
            (f"minima-{size}", _SEARCH * len(recipe.learned_betas), size + 100),
        ):
            if not done(folder, stage):
                total += evaluations * _evaluation(network, chosen, places)
    for size in recipe.curve_sizes:
        if not done(folder, f"curve-{size}"):
            search = partial(find_minima, Exact(points[:size], 10.0), points[:size])
            total += recipe.draws * len(recipe.betas) * _seconds(search, 1)
    return total


def _step(network: ScoreNetwork, points: Tensor, recipe: Recipe) -> None:
    loss(network, points, recipe, torch.Generator()).backward()


@torch.no_grad()
def _evaluation(network: ScoreNetwork, points: Tensor, places: int) -> float:
    """The seconds of the network and of the exact score at so many places."""
    x = torch.randn(places, 2, dtype=torch.float64)
    return sum(
        _seconds(partial(score, x, 0.5), 2)
        for score in (network, exact_score(points, network.sigma))
    )


def _seconds(call: Callable[[], object], times: int) -> float:
    call()
    began = time.monotonic()
    for _ in range(times):
        call()
    return (time.monotonic() - began) / times
