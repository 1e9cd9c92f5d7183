"""Curvature spectra of a few samples of one prompt, kept one by one in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from m2g_audit.audits.job import Job
from m2g_audit.audits.run_tensors import write_tensors
from m2g_audit.diagnostics import exact_spectrum, fast_spectrum
from m2g_audit.diagnostics.fast_spectrum import FastSpectrum, flipd
from m2g_audit.diagnostics.score_model import ScoreModel
from m2g_audit.diagnostics.spectrum import Algorithm, spectrum
from m2g_audit.files import read_kept
from m2g_audit.progress import OnProgress
from m2g_audit.records.record import (
    AttractorRecord,
    CurvatureRecord,
    FastRecord,
    IntrinsicDimensionRecord,
    SeedRecord,
)
from m2g_audit.store.run_directory import RunDirectory

_INLINE_SPECTRUM = 4096
_NAMED = frozenset({"memorized", "spurious"})


def choose_samples(
    seeds: Sequence[SeedRecord], attractors: Sequence[AttractorRecord], count: int
) -> list[int]:
    """Return at most `count` samples to look at: medoids of attractors, and others beside them.

    The largest attractors come first; one place is left for a sample of no attractor, if there is
    one and room for it.
    """
    medoids = [attractor.medoid for attractor in attractors]
    others = [seed.index for seed in seeds if seed.attractor is None and seed.state != "failed"]
    of_attractors = medoids[: max(1, count - 1) if others else count]
    return of_attractors + others[: count - len(of_attractors)]


def measure_curvature(
    job: Job,
    run: RunDirectory,
    latents: Tensor,
    seeds: Sequence[SeedRecord],
    attractors: Sequence[AttractorRecord],
    on_progress: OnProgress,
) -> list[CurvatureRecord]:
    """Return the spectra of a few samples at their own final latents, kept one by one."""
    settings = job.setup.settings
    chosen = choose_samples(seeds, attractors, settings.spectrum_samples)
    if settings.spectrum_of == "unnamed":
        unnamed = [each.medoid for each in attractors if each.state not in _NAMED]
        chosen = unnamed[: settings.spectrum_samples]
    if settings.spectrum == "none" or not chosen:
        return []
    model = job.bind(settings.spectrum_score)
    if settings.spectrum == "fast":
        each = fast_spectrum.nominal_evaluations(model, settings.spectrum_tolerance)
    else:
        each = exact_spectrum.evaluations(model, cast(exact_spectrum.Algorithm, settings.spectrum))
    entries = []
    for k, i in enumerate(chosen):

        def report(done: int, k: int = k) -> None:
            # Of one that takes more than announced nothing is known but that it goes on.
            expected = each if done < each else done + each // 10 + 1
            on_progress(k * each + done, (len(chosen) - 1) * each + expected)

        report(0)
        kept = _kept_spectrum(run, seeds[i])
        if kept is None:
            kept = _measure_spectrum(job, run, model, latents[i], seeds[i], report)
        entries.append(kept)
    on_progress(len(chosen) * each, len(chosen) * each)
    return entries


def _measure_spectrum(
    job: Job,
    run: RunDirectory,
    model: ScoreModel,
    latents: Tensor,
    sample: SeedRecord,
    report: Callable[[int], None],
) -> CurvatureRecord:
    settings = job.setup.settings
    seed = job.seed_of("curvature", sample.index)
    found = spectrum(
        model,
        latents,
        t0=settings.t0,
        algorithm=cast(Algorithm, settings.spectrum),
        seed=seed,
        tolerance=settings.spectrum_tolerance,
        block=settings.batch_size,
        kept=run.path / f"curvature/{sample.index:04d}.unfinished.safetensors",
        on_progress=report,
    )
    if isinstance(found, FastSpectrum):
        centre = flipd(model, latents, settings.t0, seed=seed)
        return _keep_fast_spectrum(job, run, sample, found, centre)
    return _keep_spectrum(job, run, sample, found)


def _spectrum_name(i: int) -> str:
    return f"curvature/{i:04d}.safetensors"


def _keep_fast_spectrum(
    job: Job,
    run: RunDirectory,
    sample: SeedRecord,
    spectrum: FastSpectrum,
    centre: tuple[float, float],
) -> CurvatureRecord:
    fast = FastRecord(
        error=spectrum.error,
        truncation=spectrum.truncation,
        shells=spectrum.shells,
        steps=list(spectrum.steps),
        difference=list(spectrum.difference),
        rows=spectrum.rows,
        top=spectrum.top.tolist(),
        top_error=spectrum.top_error.tolist(),
        asymmetry=spectrum.asymmetry,
        mean_score=spectrum.mean_score,
        intrinsic_dimension=IntrinsicDimensionRecord(
            shell=spectrum.intrinsic_dimension,
            shell_error=spectrum.intrinsic_dimension_error,
            centre=centre[0],
            centre_error=centre[1],
        ),
    )
    predicted = {
        "alg2": fast_spectrum.in_paper_units(spectrum, "alg2"),
        "alg3": fast_spectrum.in_paper_units(spectrum, "alg3"),
    }
    return _keep_spectrum(job, run, sample, spectrum, fast, predicted)


def _keep_spectrum(
    job: Job,
    run: RunDirectory,
    sample: SeedRecord,
    spectrum: exact_spectrum.Spectrum,
    fast: FastRecord | None = None,
    predicted: Mapping[str, exact_spectrum.Spectrum] | None = None,
) -> CurvatureRecord:
    values = torch.from_numpy(np.ascontiguousarray(spectrum.singular_values))
    short = len(values) <= _INLINE_SPECTRUM
    pipeline, settings = job.setup.pipeline, job.setup.settings
    entry = CurvatureRecord(
        image=sample.index,
        state=sample.state,
        attractor=sample.attractor,
        t0=spectrum.t0,
        noise_ratio=float(pipeline.schedule.ratio(spectrum.t0)),
        last_noise_ratio=pipeline.last_ratio(steps=settings.steps, scheduler=settings.scheduler),
        kind=spectrum.kind,
        score=cast(Any, spectrum.score),
        algorithm=spectrum.algorithm,
        scale=spectrum.scale,
        median=spectrum.median,
        rank=spectrum.rank,
        evaluations=spectrum.evaluations,
        file=_spectrum_name(sample.index),
        singular_values=values.tolist() if short else None,
        fast=fast,
    )
    tensors = {"singular_values": values} | {
        name: torch.from_numpy(np.ascontiguousarray(other.singular_values))
        for name, other in (predicted or {}).items()
    }
    # What a sample is called follows from thresholds, which a spectrum outlives.
    measured = entry.model_dump_json(exclude={"state", "attractor"})
    write_tensors(run, _spectrum_name(sample.index), tensors, entry=measured)
    return entry


def _kept_spectrum(run: RunDirectory, sample: SeedRecord) -> CurvatureRecord | None:
    named = {"state": sample.state, "attractor": sample.attractor}

    def entry(path: Path) -> CurvatureRecord:
        with safe_open(path, framework="pt") as file:
            file.get_slice("singular_values")
            said = json.loads(file.metadata()["entry"])
        return CurvatureRecord.model_validate({**said, **named})

    return read_kept(run.path / _spectrum_name(sample.index), entry)
