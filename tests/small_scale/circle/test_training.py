"""The data's nesting, and a training that goes on as if it had not been stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m2g_audit.errors import OutputError
from small_scale.circle.data import COUNT, circle_points
from small_scale.circle.recipe import PRESETS, Recipe
from small_scale.circle.scores import ScoreNetwork, exact_score
from small_scale.circle.training import generator_for, iterations_done, loss, train

SMOKE = PRESETS["smoke"]


def test_points_lie_on_the_circle_all_around_and_draws_differ() -> None:
    points = circle_points(0)
    assert points.shape == (COUNT, 2)
    torch.testing.assert_close(points.norm(dim=1), torch.ones(COUNT, dtype=torch.float64))
    assert points.mean(dim=0).abs().max() < 4 / COUNT**0.5
    assert len(points.unique(dim=0)) == COUNT
    assert not torch.equal(points, circle_points(0, 1))
    assert not torch.equal(points, circle_points(1))
    torch.testing.assert_close(points, circle_points(0), rtol=0, atol=0)


def test_the_paper_preset_is_app_a() -> None:
    paper = PRESETS["paper"]
    assert (paper.iterations, paper.batch, paper.batch_within_k) == (800_000, 500, True)
    assert (paper.learning_rate, paper.width, paper.blocks) == (1e-4, 256, 4)
    assert (paper.sampler_steps, paper.sigma, paper.t_min) == (1000, 1.0, 1e-5)
    assert (paper.final_learning_rate, paper.ema_decay) == (1.0, 0.0)
    assert any(beta == pytest.approx(3.3, abs=0.04) for beta in paper.betas)
    assert 20.0 in paper.betas
    assert paper.draws >= 20


def test_a_batch_has_no_more_than_k_points_where_the_paper_says_so() -> None:
    asked = []

    class Spy(ScoreNetwork):
        def noise(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            asked.append(len(x))
            return super().noise(x, t)

    for within, batch in ((True, 3), (False, 32)):
        recipe = replace(SMOKE, batch_within_k=within)
        loss(Spy(recipe), circle_points(0)[:3].float(), recipe, generator_for(0))
        assert asked.pop() == batch


def test_the_loss_is_least_for_the_score_of_the_data() -> None:
    points, recipe = circle_points(0)[:5], replace(SMOKE, batch=20_000)

    class Exact(ScoreNetwork):
        def noise(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            weights = (-(x[:, None] - points).square().sum(2) / (2 * t[:, None])).softmax(dim=1)
            return ((x - weights @ points) / t.sqrt()[:, None]).float()

    def at(factor: float) -> float:
        network = Exact(recipe)
        true = network.noise
        network.noise = lambda x, t: factor * true(x, t)  # type: ignore[method-assign]
        return float(loss(network, points, recipe, generator_for(0)))

    assert at(1.0) < min(at(0.9), at(1.1))


def test_training_brings_the_score_towards_the_exact_one(tmp_path: Path) -> None:
    points = circle_points(0)[:1]
    recipe = replace(SMOKE, iterations=300, batch=64, width=32, learning_rate=5e-3)
    x, t = circle_points(1)[:50] * 0.7, 0.5

    def error(network: ScoreNetwork) -> float:
        return float((network(x, t) - exact_score(points, 1.0)(x, t)).square().mean().detach())

    with torch.random.fork_rng():
        fresh = error(ScoreNetwork(recipe))
    assert error(trained(points, recipe, tmp_path / "one")) < fresh / 4


def test_a_stopped_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    points, recipe = circle_points(0)[:9], replace(SMOKE, ema_decay=0.9)
    whole = trained(points, recipe, tmp_path / "whole")

    def stop(stage: str, done: int, total: int) -> None:
        if done == 16:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(points, recipe, checkpoint, stop)
    assert iterations_done(checkpoint) == 16
    torch.manual_seed(7)  # what ran in between must not matter
    again = train(points, recipe, checkpoint, lambda *_: None)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def trained(points: torch.Tensor, recipe: Recipe, checkpoint: Path) -> ScoreNetwork:
    return train(points, recipe, checkpoint, lambda *_: None)


def test_a_damaged_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "network-2.checkpoint"
    for content in (b"", b"text"):
        path.write_bytes(content)
        with pytest.raises(OutputError, match=r"is damaged .* Remove it"):
            iterations_done(path)
