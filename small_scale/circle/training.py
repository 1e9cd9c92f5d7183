"""Denoising score matching on the first K points, from checkpoints (App. A)."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m2g_audit.errors import OutputError
from m2g_audit.files import write_atomically
from m2g_audit.progress import Progress
from small_scale.circle.recipe import Recipe
from small_scale.circle.scores import ScoreNetwork

"""Called with (stage, done, total)."""


def checkpoint_path(folder: Path, size: int) -> Path:
    """Return where the training on `size` points keeps its state."""
    return folder / f"network-{size}.checkpoint"


def iterations_done(checkpoint: Path) -> int:
    """Return how many iterations a checkpoint holds; 0 where there is none."""
    return int(_read(checkpoint)["done"]) if checkpoint.exists() else 0


def generator_for(seed: int, *labels: int) -> torch.Generator:
    """Return the generator of one purpose: the same for the same labels, whatever ran before."""
    state = np.random.SeedSequence([seed, *labels]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def loss(
    network: ScoreNetwork, points: Tensor, recipe: Recipe, generator: torch.Generator
) -> Tensor:
    """Return the mean of |sigma sqrt(t) s(x_t, t) + epsilon|^2 over a batch, t in [t_min, 1]."""
    count = min(len(points), recipe.batch) if recipe.batch_within_k else recipe.batch
    chosen = torch.randint(len(points), (count,), generator=generator)
    t = recipe.t_min + (1 - recipe.t_min) * torch.rand(count, generator=generator)
    noise = torch.randn(count, 2, generator=generator)
    x = points[chosen] + recipe.sigma * t.sqrt()[:, None] * noise
    return (network.noise(x, t) - noise).square().sum(dim=1).mean()


def train(points: Tensor, recipe: Recipe, checkpoint: Path, on_step: Progress) -> ScoreNetwork:
    """Return the network trained on points [K, 2], taken up where `checkpoint` stands.

    Every batch is drawn from (seed, K, iteration): a training that was stopped continues as if it
    had not been.
    """
    size = len(points)
    points = points.float()
    network, average, optimizer = _fresh(recipe, size)
    first = _load(checkpoint, network, average, optimizer)
    for step in range(first, recipe.iterations):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, recipe)
        optimizer.zero_grad()
        loss(network, points, recipe, generator_for(recipe.seed, size, step)).backward()
        optimizer.step()
        with torch.no_grad():
            for kept, now in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(now, 1 - recipe.ema_decay)
        done = step + 1
        if done % recipe.checkpoint_every == 0 or done == recipe.iterations:
            _save(checkpoint, network, average, optimizer, done)
            on_step(f"network K = {size}", done, recipe.iterations)
    return average.eval().requires_grad_(False)


def _fresh(recipe: Recipe, size: int) -> tuple[ScoreNetwork, ScoreNetwork, torch.optim.Adam]:
    with torch.random.fork_rng():
        torch.manual_seed(int(generator_for(recipe.seed, size).initial_seed()))
        network = ScoreNetwork(recipe)
    average = ScoreNetwork(recipe)
    average.load_state_dict(network.state_dict())
    return network, average, torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)


def _learning_rate(step: int, recipe: Recipe) -> float:
    """A cosine from `learning_rate` down to `final_learning_rate` of it."""
    low = recipe.final_learning_rate
    share = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * step / recipe.iterations))
    return recipe.learning_rate * share


def _save(
    path: Path,
    network: ScoreNetwork,
    average: ScoreNetwork,
    optimizer: torch.optim.Adam,
    done: int,
) -> None:
    buffer = io.BytesIO()
    state = {
        "network": network.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "done": done,
    }
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def _load(
    path: Path, network: ScoreNetwork, average: ScoreNetwork, optimizer: torch.optim.Adam
) -> int:
    """Restore what `path` holds and return the iterations done; 0 where there is none."""
    if not path.exists():
        return 0
    state = _read(path)
    network.load_state_dict(state["network"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["done"])


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(torch.load(path, weights_only=True))
    except Exception as error:  # a damaged file is an error of many kinds to torch
        raise OutputError(
            f"The checkpoint {path} is damaged ({type(error).__name__}). Remove it: this one "
            "training then starts anew."
        ) from error
