"""Cheap curvature of what repeats: a few evaluations for each attractor, over its members."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from m2g_audit.audits.generations import Generated
from m2g_audit.audits.job import Job
from m2g_audit.diagnostics.read_outs import (
    ERROR_LEVEL,
    LINE_LEVEL,
    SPREAD_LEVEL,
    curvature_towards,
    denoising_error,
    freedom,
    time_at,
)
from m2g_audit.diagnostics.score_model import NoiseSchedule, ScoreModel
from m2g_audit.progress import OnProgress
from m2g_audit.records.record import AttractorRecord, ReadOutsRecord

ROWS, NOISES = 3, 2
"""Members whose spread is read, and noises of each; as many evaluations give the error."""
EVALUATIONS = 2 * ROWS * NOISES + 2


def measure_read_outs(
    job: Job, attractors: Sequence[AttractorRecord], generated: Generated, on_progress: OnProgress
) -> list[AttractorRecord]:
    """Return the attractors with their read-outs, by the conditional score.

    Nothing is asked with --spectrum none, which is for models whose scores can't be had. Members
    take turns, so that an attractor costs the same however many it has.
    """
    if job.setup.settings.spectrum == "none" or not attractors:
        return list(attractors)
    model, total, found = job.bind("conditional"), len(attractors) * EVALUATIONS, []
    for k, attractor in enumerate(attractors):
        on_progress(k * EVALUATIONS, total)
        read = _measure(job, model, attractor, generated)
        found.append(attractor.model_copy(update={"read_outs": read}))
    on_progress(total, total)
    return found


def _measure(
    job: Job, model: ScoreModel, attractor: AttractorRecord, generated: Generated
) -> ReadOutsRecord:
    latents, members = generated.latents, attractor.seeds
    times = {level: time_at(model.schedule, level) for level in (SPREAD_LEVEL, ERROR_LEVEL)}
    rows = _turns(members, ROWS)
    seeds = [[job.seed_of(f"spread {i}", ROWS * k + i) for k in range(NOISES)] for i in range(ROWS)]
    spreads = denoising_error(model, latents[rows], times[SPREAD_LEVEL], seeds)[1]
    rows = _turns(members, ROWS * NOISES)
    seeds = [[job.seed_of("denoising error", i)] for i in range(len(rows))]
    errors = denoising_error(model, latents[rows], times[ERROR_LEVEL], seeds)[0]
    spread, error = spreads.square().mean().sqrt(), errors.mean()
    line = _curvature_of_line(job, model, attractor, generated)
    return ReadOutsRecord(
        members=sorted(set(rows)),
        spread_level=_ratio(model.schedule, times[SPREAD_LEVEL]),
        spread=float(spread),
        error_level=_ratio(model.schedule, times[ERROR_LEVEL]),
        denoising_error=float(error),
        freedom=float(freedom(spread, error)) if spread * error > 0 else None,
        curvature_towards=line,
        evaluations=EVALUATIONS if line is not None else EVALUATIONS - 2,
    )


def _curvature_of_line(
    job: Job, model: ScoreModel, attractor: AttractorRecord, generated: Generated
) -> float | None:
    """Along the line from the medoid to the nearest picture outside, None where there is none."""
    outside = [
        i for i, failed in enumerate(generated.failed) if not failed and i not in attractor.seeds
    ]
    if not outside:
        return None
    own, others = generated.latents[[attractor.medoid]], generated.latents[outside]
    nearest = others[(others - own).flatten(1).norm(dim=1).argmin()][None]
    t, seed = time_at(model.schedule, LINE_LEVEL), job.seed_of("line", attractor.medoid)
    return float(curvature_towards(model, own, nearest, t, [seed]))


def _turns(members: Sequence[int], count: int) -> list[int]:
    """So many members, evenly over all of them; again from the first where there are fewer."""
    spaced = torch.linspace(0, len(members) - 1, min(count, len(members))).round().int().tolist()
    return [members[spaced[i % len(spaced)]] for i in range(count)]


def _ratio(schedule: NoiseSchedule, t: int) -> float:
    return float(schedule.sigma(t) / schedule.alpha(t))
