"""Follows a pipeline while it samples: what its network predicts at each step, by branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from m2g_audit.diagnostics.score_model import predict_sample
from m2g_audit.diagnostics.trajectory import Trajectory, sketch
from m2g_audit.models.denoiser import Branch, Denoiser, Unlike
from m2g_audit.models.layout import at
from m2g_audit.models.levels import Levels
from m2g_audit.models.prediction import noise_from_output
from m2g_audit.models.sampling import Taken
from m2g_audit.models.tap import Call

_Step = tuple[float, Tensor, Tensor, Tensor]
"""sigma / alpha; of each picture |eps_c|^2 / N, |eps_c - eps_u|, a sketch of its clean sample."""


class Follower:
    """Read-outs of the steps of one batch; `calls` is where its network's calls are recorded.

    Nothing is read of a step whose calls are not those that the denoiser was learned from.
    """

    def __init__(self, denoiser: Denoiser, levels: Levels) -> None:
        self.calls: list[Call] = []
        self._denoiser = denoiser
        self._levels = levels
        self._read: list[_Step | None] = []

    def on_step(self, taken: Taken) -> None:
        """Read a step that the scheduler has taken."""
        try:
            step = self._step(self.calls, float(taken.timestep), len(taken.sample))
        except Unlike:
            step = None
        self._read.append(step)
        self.calls.clear()

    def trajectories(self, count: int) -> list[Trajectory | None]:
        """Return those of the batch's pictures, None where not every step could be read."""
        steps = [step for step in self._read if step is not None]
        if not steps or len(steps) < len(self._read):
            return [None] * count
        levels, norms, differences, clean = zip(*steps, strict=True)
        stacked = (torch.stack(parts, dim=1) for parts in (norms, differences, clean))
        rows = zip(*stacked, strict=True)
        return [Trajectory(torch.tensor(levels), *row) for row in rows]

    def _step(self, calls: Sequence[Call], timestep: float, count: int) -> _Step | None:
        """One step of `count` pictures, their rows first."""
        branches = self._branches(calls, count)
        if branches is None:
            return None
        level, predicts = self._levels.at(timestep), self._levels.prediction_type
        handed = [self._of(calls, branch, count) for branch in branches]
        noises = [noise_from_output(predicts, output, x, 0, level) for x, output in handed]
        conditional, apart = noises[0], torch.full((count,), torch.nan)
        if noises[1:]:
            apart = (conditional - noises[1]).flatten(1).norm(dim=1).cpu()
        return (
            float(level.sigmas / level.alphas),
            conditional.flatten(1).square().mean(1).cpu(),
            apart,
            sketch(predict_sample(level, handed[0][0], conditional, 0).flatten(1)),
        )

    def _branches(self, calls: Sequence[Call], count: int) -> tuple[Branch, ...] | None:
        """The conditional one and the unconditional one if it was asked, None if neither is told.

        Without guidance a network answers once, for the prompt.
        """
        answered = [len(self._denoiser.answers.read(call.output, count)) for call in calls]
        if answered == [1]:
            return (Branch(0, 0),)
        told = [form.copies for form in self._denoiser.forms]
        return self._denoiser.branches if answered == told else None

    def _of(self, calls: Sequence[Call], branch: Branch, count: int) -> tuple[Tensor, Tensor]:
        """What the network was given and what it answered in a branch, [count, *shape]."""
        call, shape = calls[branch.call], self._denoiser.shape
        given = at(call.arguments, self._denoiser.forms[branch.call].sample)
        samples = given if isinstance(given, Tensor) else torch.stack(list(given))
        x = samples.float().reshape(-1, count, *shape)[branch.copy]
        return x, self._denoiser.answers.read(call.output, count)[branch.copy].float()
