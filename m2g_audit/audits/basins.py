"""How far from each attractor of one prompt the model still falls back into it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from m2g_audit.audits.job import Job
from m2g_audit.diagnostics.basin import (
    Basin,
    CriticalTimeSearch,
    Distance,
    algorithm1,
    check_times,
    critical_time,
    most_denoisings,
)
from m2g_audit.models.protocol import TextToImage
from m2g_audit.progress import OnProgress
from m2g_audit.records.record import AttractorRecord, BasinRecord
from m2g_audit.similarity import Metric, paired
from m2g_audit.verdict.thresholds import Thresholds


def measure_basins(
    job: Job,
    attractors: Sequence[AttractorRecord],
    latents: Tensor,
    thresholds: Thresholds,
    on_progress: OnProgress,
) -> list[AttractorRecord]:
    """Return the attractors with the critical times of their medoids, at the paper's numbers.

    The score is the guided one, which made the pictures. Recovery is judged on pictures by the
    run's metric, up to delta_m as in the paper, or delta_s where there is no delta_m.
    """
    model = job.bind("guided")
    delta_d = thresholds.delta_s if thresholds.delta_m is None else thresholds.delta_m
    assert delta_d is not None
    medoids = [attractor.medoid for attractor in attractors]
    seeds = [job.seed_of("basin", i) for i in medoids]
    distance = picture_distance(job.setup.pipeline, job.setup.metric)

    def report(done: int, most: int, before: int = 0) -> None:
        on_progress(before * most + done, len(medoids) * most)

    search = CriticalTimeSearch(delta_d)
    if job.setup.settings.basin_exact:
        basins = [
            algorithm1(
                model,
                latents[i],
                distance,
                search=search,
                seed=seed,
                on_progress=partial(report, before=k),
            )
            for k, (i, seed) in enumerate(zip(medoids, seeds, strict=True))
        ]
    else:
        basins = critical_time(
            model, latents[medoids], distance, search=search, seeds=seeds, on_progress=on_progress
        )
    return [
        attractor.model_copy(update={"basin": _basin_record(job, basin, search)})
        for attractor, basin in zip(attractors, basins, strict=True)
    ]


def picture_distance(pipeline: TextToImage, metric: Metric) -> Distance:
    """Return the distance of latents [b, c, h, w] that a metric sees in their pictures, [b]."""

    def distance(recovered: Tensor, originals: Tensor) -> Tensor:
        # Trials of one sample have one original, which is decoded and embedded once.
        samples, which = originals.unique(dim=0, return_inverse=True)
        pair = [metric.embed(pipeline.decode(x)) for x in (recovered, samples)]
        return paired(metric, pair[0], pair[1][which.cpu()])

    return distance


def _basin_record(job: Job, basin: Basin, search: CriticalTimeSearch) -> BasinRecord:
    return BasinRecord(
        algorithm="alg1" if job.setup.settings.basin_exact else "bisection",
        critical_time=basin.critical_time,
        noise_ratio=(
            float(job.setup.pipeline.schedule.ratio(basin.critical_time))
            if basin.critical_time
            else None
        ),
        critical_times=basin.times.tolist(),
        radius=float(basin.radii.mean()),
        log_volume=float(basin.log_volumes.mean()),
        never_recovered=basin.never_recovered,
        stopped=basin.stopped,
        checked=basin.checked.tolist(),
        recovery=basin.recovery.tolist(),
        evaluations=basin.evaluations,
        delta_d=search.delta_d,
        delta_p=search.delta_p,
        steps=search.steps,
        stride=search.stride,
    )


def basin_steps(schedule: int, *, exact: bool) -> int:
    """Return the most sampling steps that the search for one critical time can take."""
    search = CriticalTimeSearch(delta_d=0.0)  # which costs the same at any distance
    times = check_times(schedule, search.stride)
    if exact:
        return search.trials * sum(min(search.steps, t) for t in times)
    return search.steps * most_denoisings(len(times), search)
