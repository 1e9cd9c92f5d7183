"""Generations of one prompt against each other and against S."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from m2g_audit.audits.generations import Generated
from m2g_audit.audits.job import Job
from m2g_audit.audits.run_tensors import write_tensors
from m2g_audit.audits.yardstick import Yardstick
from m2g_audit.pictures.tensors import to_picture
from m2g_audit.progress import OnProgress
from m2g_audit.records.record import (
    AttractorRecord,
    IntervalRecord,
    NearestReference,
    NearestSample,
    SeedRecord,
)
from m2g_audit.records.vocabulary import StateWord
from m2g_audit.references.nulls import nearest_and_ratios
from m2g_audit.references.reference import ReferenceSet
from m2g_audit.similarity import distances
from m2g_audit.store.run_directory import DISTANCES_FILE, RunDirectory
from m2g_audit.verdict.attractors import RepeatSeedCheck
from m2g_audit.verdict.rule import Judgement, Samples
from m2g_audit.verdict.states import State
from m2g_audit.verdict.thresholds import Thresholds


@dataclass(frozen=True)
class PromptDistances:
    """Generations against each other and against S: distances, and which pictures are nearest."""

    samples: Samples
    neighbours: list[int]
    matches: list[int] | None


def compare(
    job: Job, run: RunDirectory, generated: Generated, yardstick: Yardstick, on_progress: OnProgress
) -> PromptDistances:
    """Return distances of the generations to each other, kept in the run, and to S."""
    images, failed, metric = generated.images, generated.failed, job.setup.metric
    embeddings = metric.embed(images)
    pairs = distances(metric, embeddings, embeddings)
    write_tensors(run, DISTANCES_FILE, {"samples": torch.from_numpy(pairs)}, metric=metric.name)
    others = np.where(np.eye(len(pairs), dtype=bool) | failed[None, :], np.inf, pairs)
    neighbours = [int(i) for i in others.argmin(axis=1)]
    reference, cut = yardstick.reference, yardstick.near_duplicates
    if reference is None:
        return PromptDistances(Samples(pairs, None, failed), neighbours, None)
    if cut is None or not isinstance(reference, ReferenceSet):
        nearest, matches = reference.nearest(metric, images, on_progress)
        return PromptDistances(Samples(pairs, np.array(nearest), failed), neighbours, matches)
    to_reference, numbers, ratios = nearest_and_ratios(
        reference, metric, embeddings, cut, on_progress
    )
    samples = Samples(pairs, to_reference, failed, ratios)
    return PromptDistances(samples, neighbours, numbers.tolist())


def seed_records(
    job: Job,
    run: RunDirectory,
    judgement: Judgement,
    found: PromptDistances,
    yardstick: Yardstick,
) -> list[SeedRecord]:
    """Return the record of each generation, whose nearest pictures of S are kept in the run."""
    reading, thresholds = judgement.reading, yardstick.thresholds
    home = {i: k for k, a in enumerate(reading.check.attractors) for i in a.members}
    return [
        SeedRecord(
            index=i,
            generator_seed=job.generator_seed(i),
            state=cast(StateWord, state.value),
            image=run.image_name(i),
            attractor=home.get(i),
            chance=None if state is State.FAILED else float(reading.chances[i]),
            nearest_sample=_nearest_sample(reading.check, found, i, thresholds),
            to_duplicates=_to_duplicates(reading.check, found, i),
            nearest_reference=_nearest_reference(run, found, yardstick, i),
        )
        for i, state in enumerate(reading.states)
    ]


def _nearest_sample(
    check: RepeatSeedCheck, found: PromptDistances, i: int, thresholds: Thresholds
) -> NearestSample | None:
    distance = float(check.nearest[i])
    if not np.isfinite(distance):
        return None
    return NearestSample(
        index=found.neighbours[i], distance=distance, margin=_margin(distance, thresholds.delta_s)
    )


def _to_duplicates(check: RepeatSeedCheck, found: PromptDistances, i: int) -> float | None:
    """The mean distance of a sample to its own duplicates, None where it has none."""
    others = np.arange(len(check.failed)) != i
    row = found.samples.pairs[i]
    near = row[others & ~check.failed & (row <= check.delta_s)]
    return None if check.failed[i] or not len(near) else float(near.mean())


def _nearest_reference(
    run: RunDirectory, found: PromptDistances, yardstick: Yardstick, i: int
) -> NearestReference | None:
    """The nearest picture of S; a copy of it is kept in the run, so that a report can show it."""
    reference, samples = yardstick.reference, found.samples
    if reference is None or found.matches is None or samples.nearest_reference is None:
        return None
    if samples.failed[i]:
        return None
    number, distance = found.matches[i], float(samples.nearest_reference[i])
    name = f"reference/{number:06d}.png"
    if not (run.path / name).exists():
        run.write_png(name, to_picture(reference.picture(number).float() / 255))
    ratio = None if samples.ratios is None else float(samples.ratios[i])
    return NearestReference(
        name=reference.names[number],
        distance=distance,
        margin=_margin(distance, yardstick.thresholds.delta_m),
        ratio=ratio if ratio is not None and np.isfinite(ratio) else None,
        image=name,
    )


def _margin(distance: float, delta: float | None) -> float | None:
    return distance / delta if delta else None


def attractor_records(check: RepeatSeedCheck, seeds: Sequence[SeedRecord]) -> list[AttractorRecord]:
    """Return the record of each attractor, without basins."""
    return [
        AttractorRecord(
            mass=IntervalRecord.model_validate(attractor.mass),
            seeds=list(attractor.members),
            medoid=attractor.medoid,
            diameter=attractor.diameter,
            state=seeds[attractor.medoid].state,
            nearest_reference=seeds[attractor.medoid].nearest_reference,
        )
        for attractor in check.attractors
    ]
