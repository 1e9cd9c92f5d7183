"""What sampling showed of a prompt on its way, from what was kept beside its latents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from m2g_audit.audits.job import Job
from m2g_audit.audits.run_tensors import load_trajectory
from m2g_audit.diagnostics.trajectory import Trajectory, spread
from m2g_audit.records.record import SeedRecord, TrajectoryRecord
from m2g_audit.store.run_directory import RunDirectory


def read_trajectories(
    job: Job, run: RunDirectory, seeds: Sequence[SeedRecord]
) -> tuple[TrajectoryRecord | None, list[SeedRecord]]:
    """Return what sampling showed of the prompt, and its seeds with what it showed of each.

    None of the prompt unless all of its seeds that did not fail were followed.
    """
    found = {s.index: load_trajectory(run, s.index) for s in seeds if s.state != "failed"}
    known = {index: trajectory for index, trajectory in found.items() if trajectory is not None}
    told = [
        seed.model_copy(update=_of_seed(known[seed.index])) if seed.index in known else seed
        for seed in seeds
    ]
    if not known or len(known) < len(found):
        return None, told
    return _of_prompt(list(known.values()), math.prod(job.setup.pipeline.latent_shape)), told


def _of_seed(trajectory: Trajectory) -> dict[str, float | None]:
    return {
        "noise_norm": _numbers(trajectory.noise_norms)[-1],
        "first_difference": _numbers(trajectory.differences)[0],
    }


def _of_prompt(trajectories: Sequence[Trajectory], size: int) -> TrajectoryRecord:
    return TrajectoryRecord(
        levels=_numbers(trajectories[0].levels),
        noise_norm=_numbers(torch.stack([t.noise_norms for t in trajectories]).mean(0)),
        difference=_numbers(torch.stack([t.differences for t in trajectories]).mean(0)),
        spread=_numbers(spread(torch.stack([t.clean for t in trajectories]), size)),
    )


def _numbers(values: Tensor) -> list[float | None]:
    """Six digits are more than single precision is worth here."""
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values.tolist()]
