"""One prompt, audited end to end: a job becomes a record.

No number is computed here; each is another module's. What was finished by an earlier run of the
same job is read from its folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from m2g_audit.audits.generations import Generated, Pictures, generate
from m2g_audit.audits.request import Job, Setup
from m2g_audit.audits.run_tensors import read_tensors, write_tensors
from m2g_audit.audits.yardstick import Yardstick, find_yardstick
from m2g_audit.calibration.naming import name_attractors
from m2g_audit.diagnostics import exact_spectrum, fast_spectrum
from m2g_audit.diagnostics.basin import (
    Basin,
    Distance,
    algorithm1,
    check_times,
    critical_time,
    most_denoisings,
)
from m2g_audit.diagnostics.fast_spectrum import FastSpectrum, flipd
from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.diagnostics.score_model import ScoreModel
from m2g_audit.errors import AuditError
from m2g_audit.models.model_folder import POCKET
from m2g_audit.models.pipelines import TextToImage
from m2g_audit.pictures.tensors import to_picture
from m2g_audit.pocket.training_pictures import load_pocket
from m2g_audit.progress import Progress, silent
from m2g_audit.records.record import (
    AttractorRecord,
    AuditRecord,
    BasinRecord,
    CalibrationRecord,
    CurvatureRecord,
    ErrorRecord,
    Failure,
    FastRecord,
    FindingsRecord,
    IntervalRecord,
    IntrinsicDimensionRecord,
    LooksRecord,
    ModelRecord,
    NearestReference,
    NearestSample,
    PowerRecord,
    ReferenceRecord,
    RuleWord,
    SeedRecord,
    StateWord,
    ThresholdRecord,
    Timings,
    VerdictRecord,
    VerdictWord,
)
from m2g_audit.references import reference_files
from m2g_audit.references.nulls import nearest_and_ratios
from m2g_audit.references.power import Power
from m2g_audit.references.reference import Reference, ReferenceSet, load_folder
from m2g_audit.similarity import Metric, distances
from m2g_audit.store.run_directory import DISTANCES_FILE, RunDirectory
from m2g_audit.verdict import words
from m2g_audit.verdict.attractors import RepeatSeedCheck
from m2g_audit.verdict.intervals import LEVEL, Interval
from m2g_audit.verdict.looks import Look
from m2g_audit.verdict.rule import (
    UNDETECTED_LIMIT,
    Grounds,
    Judgement,
    Samples,
    Verdict,
    settles,
)
from m2g_audit.verdict.rule import judge as judge_samples
from m2g_audit.verdict.screening import Findings
from m2g_audit.verdict.states import State
from m2g_audit.verdict.thresholds import ALPHA, LOOSE_ALPHA, STRICT_ALPHA, Thresholds
from m2g_audit.versions import versions

_INLINE_SPECTRUM = 4096
# Appendix C.1: delta_p, M, N' and s, the same for all data sets.
_BASIN: dict[str, Any] = {"delta_p": 0.8, "trials": 20, "steps": 10, "stride": 10}

Count = Callable[[int, int], None]


@dataclass(frozen=True)
class _Comparison:
    """Generations against each other and against S: distances, and which pictures are nearest."""

    samples: Samples
    neighbours: list[int]
    matches: list[int] | None


@dataclass(frozen=True)
class Judged:
    """Generations of one prompt, judged after a look; no curvature or basins yet."""

    generated: Generated
    judgement: Judgement
    seeds: list[SeedRecord]
    attractors: list[AttractorRecord]
    look: Look
    settled: bool

    @property
    def check(self) -> RepeatSeedCheck:
        """What the seeds show of attractors."""
        return self.judgement.reading.check


def execute(job: Job, run: RunDirectory, on_progress: Progress = silent) -> AuditRecord:
    """Return the record of a job, done or taken up where it stopped, and write it to the run.

    An error makes a record too, which carries it and does not count as finished; then it is raised.
    """
    started = now()
    try:
        yardstick = gather(job, [job.request.prompt], job.seconds, on_progress)
        pictures = Pictures(job, run)
        for look in job.looks:
            with timed(job.seconds, "images"):
                generated = generate(job, pictures, look.seeds, partial(on_progress, "images"))
            judged = judge(job, run, generated, yardstick, on_progress, look)
            if judged.settled:
                break
        record = conclude(job, run, judged, yardstick, started, on_progress)
    except AuditError as error:
        run.save_record(error_record(job, started, error))
        raise
    if job.calibration is not None:
        run.save_calibration(job.calibration.content)
    run.save_record(record)
    return record


def gather(
    setup: Setup,
    prompts: Sequence[str],
    seconds: dict[str, float],
    on_progress: Progress = silent,
) -> Yardstick:
    """Return what the generations of `prompts` are judged by; `seconds` gets how long it took."""
    with timed(seconds, "reference"):
        reference = _load_reference(setup, partial(on_progress, "reference"))
        unseen = _load_unseen(setup, partial(on_progress, "unseen pictures"))
    with timed(seconds, "thresholds"):
        found = find_yardstick(setup, reference, unseen, prompts, on_progress)
    if setup.contents is None:
        return found
    return replace(found, files=reference_files.describe(setup.contents, setup.pipeline))


def judge(
    job: Job,
    run: RunDirectory,
    generated: Generated,
    yardstick: Yardstick,
    on_progress: Progress = silent,
    look: Look | None = None,
) -> Judged:
    """Return states, attractors and the word of a prompt; asks the metric, not the model.

    look: that which the generations are for, by default the job's last.
    """
    look, yardstick = (
        look or job.looks[-1],
        yardstick.of(job.request.prompt, job.request.negative_prompt),
    )
    with timed(job.seconds, "distances"):
        found = _compare(job, run, generated, yardstick, partial(on_progress, "distances"))
    grounds = _grounds(job, yardstick)
    judgement = judge_samples(found.samples, yardstick.thresholds, look, grounds)
    seeds = _seed_records(job, run, judgement, found, yardstick)
    return Judged(
        generated,
        judgement,
        seeds,
        _attractor_records(judgement.reading.check, seeds),
        look,
        settled=look == job.looks[-1] or settles(judgement, grounds),
    )


def _grounds(job: Job, yardstick: Yardstick) -> Grounds:
    findings = yardstick.findings
    return Grounds(
        reference_complete=job.settings.reference_complete,
        power=None if yardstick.power is None else yardstick.power.suffices,
        collapse=findings.repeats if findings is not None and findings.collapsed else None,
        thumb=yardstick.thumb,
        understood=not job.wording.unknown_words,
    )


def conclude(
    job: Job,
    run: RunDirectory,
    judged: Judged,
    yardstick: Yardstick,
    started: str,
    on_progress: Progress = silent,
) -> AuditRecord:
    """Return the record, after what the model is still asked for: curvature, and basins."""
    yardstick = yardstick.of(job.request.prompt, job.request.negative_prompt)
    latents, attractors = judged.generated.latents, judged.attractors
    with timed(job.seconds, "curvature"):
        spectra = measure_curvature(
            job, run, latents, judged.seeds, attractors, partial(on_progress, "curvature")
        )
    if job.settings.basin:
        with timed(job.seconds, "basin"):
            attractors = measure_basins(
                job, attractors, latents, yardstick.thresholds, partial(on_progress, "basins")
            )
    return _record(job, run, started, judged, attractors, spectra, yardstick)


def _load_reference(setup: Setup, on_progress: Count) -> Reference | None:
    if setup.contents is not None:
        return load_folder(
            setup.contents,
            setup.pipeline,
            complete=setup.settings.reference_complete,
            on_progress=on_progress,
        )
    return load_pocket(setup.pipeline) if setup.settings.reference == POCKET else None


def _load_unseen(setup: Setup, on_progress: Count) -> ReferenceSet | None:
    if setup.unseen is None:
        return None
    return load_folder(setup.unseen, setup.pipeline, on_progress=on_progress)


def _compare(
    job: Job, run: RunDirectory, generated: Generated, yardstick: Yardstick, on_progress: Count
) -> _Comparison:
    images, failed, metric = generated.images, generated.failed, job.metric
    embeddings = metric.embed(images)
    pairs = distances(metric, embeddings, embeddings)
    write_tensors(run, DISTANCES_FILE, {"samples": torch.from_numpy(pairs)}, metric=metric.name)
    others = np.where(np.eye(len(pairs), dtype=bool) | failed[None, :], np.inf, pairs)
    neighbours = [int(i) for i in others.argmin(axis=1)]
    reference, cut = yardstick.reference, yardstick.near_duplicates
    if reference is None:
        return _Comparison(Samples(pairs, None, failed), neighbours, None)
    if cut is None or not isinstance(reference, ReferenceSet):
        nearest, matches = reference.nearest(metric, images, on_progress)
        return _Comparison(Samples(pairs, np.array(nearest), failed), neighbours, matches)
    to_reference, numbers, ratios = nearest_and_ratios(
        reference, metric, embeddings, cut, on_progress
    )
    samples = Samples(pairs, to_reference, failed, ratios)
    return _Comparison(samples, neighbours, numbers.tolist())


# -- records of what was found


def _seed_records(
    job: Job,
    run: RunDirectory,
    judgement: Judgement,
    found: _Comparison,
    yardstick: Yardstick,
) -> list[SeedRecord]:
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
            nearest_reference=_nearest_reference(run, found, yardstick, i),
        )
        for i, state in enumerate(reading.states)
    ]


def _nearest_sample(
    check: RepeatSeedCheck, found: _Comparison, i: int, thresholds: Thresholds
) -> NearestSample | None:
    distance = float(check.nearest[i])
    if not np.isfinite(distance):
        return None
    return NearestSample(
        index=found.neighbours[i], distance=distance, margin=_margin(distance, thresholds.delta_s)
    )


def _nearest_reference(
    run: RunDirectory, found: _Comparison, yardstick: Yardstick, i: int
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


def _attractor_records(
    check: RepeatSeedCheck, seeds: Sequence[SeedRecord]
) -> list[AttractorRecord]:
    return [
        AttractorRecord(
            mass=_interval(attractor.mass),
            seeds=list(attractor.members),
            medoid=attractor.medoid,
            diameter=attractor.diameter,
            state=seeds[attractor.medoid].state,
            nearest_reference=seeds[attractor.medoid].nearest_reference,
        )
        for attractor in check.attractors
    ]


def _interval(interval: Interval) -> IntervalRecord:
    return IntervalRecord(
        estimate=interval.estimate,
        low=interval.low,
        high=interval.high,
        level=interval.level,
        method=interval.method,
    )


# -- curvature and basins


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
    on_progress: Count,
) -> list[CurvatureRecord]:
    """Return the spectra of a few samples at their own final latents, kept one by one."""
    settings = job.settings
    if settings.spectrum == "none":
        return []
    model = job.pipeline.bind(
        job.request.prompt,
        guidance=settings.guidance,
        kind=job.request.spectrum_score,
        negative_prompt=job.request.negative_prompt,
    )
    chosen = choose_samples(seeds, attractors, settings.spectrum_samples)
    if settings.spectrum == "fast":
        each = fast_spectrum.nominal_evaluations(model)
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
    settings = job.settings
    seed = seed_for(job.request.seed, f"curvature {job.request.prompt}", sample.index)
    if settings.spectrum == "fast":
        [fast] = fast_spectrum.fast_spectra(
            model,
            latents[None],
            settings.t0,
            seeds=[seed],
            tolerance=settings.spectrum_tolerance,
            block=settings.batch_size,
            on_progress=report,
        )
        centre = flipd(model, latents, settings.t0, seed=seed)
        return _keep_fast_spectrum(run, sample, fast, centre)
    if settings.spectrum == "exact-jacobian":
        exact = exact_spectrum.exact_jacobian(
            model, latents, settings.t0, seed=seed, on_progress=report
        )
        return _keep_spectrum(run, sample, exact)
    algorithm = exact_spectrum.alg2 if settings.spectrum == "exact-alg2" else exact_spectrum.alg3
    unfinished = run.path / f"curvature/{sample.index:04d}.unfinished.safetensors"
    exact = algorithm(model, latents, settings.t0, seed=seed, kept=unfinished, on_progress=report)
    return _keep_spectrum(run, sample, exact)


def _spectrum_name(i: int) -> str:
    return f"curvature/{i:04d}.safetensors"


def _keep_fast_spectrum(
    run: RunDirectory, sample: SeedRecord, spectrum: FastSpectrum, centre: tuple[float, float]
) -> CurvatureRecord:
    fast = FastRecord(
        error=spectrum.error,
        truncation=spectrum.truncation,
        shells=spectrum.shells,
        steps=list(spectrum.steps),
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
    return _keep_spectrum(run, sample, spectrum, fast, predicted)


def _keep_spectrum(
    run: RunDirectory,
    sample: SeedRecord,
    spectrum: exact_spectrum.Spectrum,
    fast: FastRecord | None = None,
    predicted: Mapping[str, exact_spectrum.Spectrum] | None = None,
) -> CurvatureRecord:
    values = torch.from_numpy(np.ascontiguousarray(spectrum.singular_values))
    short = len(values) <= _INLINE_SPECTRUM
    entry = CurvatureRecord(
        image=sample.index,
        state=sample.state,
        attractor=sample.attractor,
        t0=spectrum.t0,
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
    stored = read_tensors(run, _spectrum_name(sample.index))
    if stored is None:
        return None
    named = {"state": sample.state, "attractor": sample.attractor}
    return CurvatureRecord.model_validate({**json.loads(stored[1]["entry"]), **named})


def measure_basins(
    job: Job,
    attractors: Sequence[AttractorRecord],
    latents: Tensor,
    thresholds: Thresholds,
    on_progress: Count,
) -> list[AttractorRecord]:
    """Return the attractors with the critical times of their medoids, at the paper's numbers.

    The score is the guided one, which made the pictures. Recovery is judged on pictures by the
    run's metric, up to delta_m as in the paper, or delta_s where there is no delta_m.
    """
    model = job.pipeline.bind(
        job.request.prompt,
        guidance=job.settings.guidance,
        kind="guided",
        negative_prompt=job.request.negative_prompt,
    )
    delta_d = thresholds.delta_s if thresholds.delta_m is None else thresholds.delta_m
    assert delta_d is not None
    medoids = [attractor.medoid for attractor in attractors]
    seeds = [seed_for(job.request.seed, f"basin {job.request.prompt}", i) for i in medoids]
    distance = picture_distance(job.pipeline, job.metric)

    def report(done: int, most: int, before: int = 0) -> None:
        on_progress(before * most + done, len(medoids) * most)

    search: dict[str, Any] = {"delta_d": delta_d, **_BASIN}
    if job.settings.basin_exact:
        basins = [
            algorithm1(
                model,
                latents[i],
                distance,
                **search,
                seed=seed,
                on_progress=partial(report, before=k),
            )
            for k, (i, seed) in enumerate(zip(medoids, seeds, strict=True))
        ]
    else:
        basins = critical_time(
            model, latents[medoids], distance, **search, seeds=seeds, on_progress=on_progress
        )
    return [
        attractor.model_copy(update={"basin": _basin_record(job, basin, delta_d)})
        for attractor, basin in zip(attractors, basins, strict=True)
    ]


def picture_distance(pipeline: TextToImage, metric: Metric) -> Distance:
    """Return the distance of latents [b, c, h, w] that a metric sees in their pictures, [b]."""

    def distance(recovered: Tensor, originals: Tensor) -> Tensor:
        # Trials of one sample have one original, which is decoded and embedded once.
        samples, which = originals.unique(dim=0, return_inverse=True)
        pair = [metric.embed(pipeline.decode(x)) for x in (recovered, samples)]
        pairs = distances(metric, *pair)
        return torch.from_numpy(pairs[np.arange(len(pairs)), which.cpu().numpy()])

    return distance


def _basin_record(job: Job, basin: Basin, delta_d: float) -> BasinRecord:
    return BasinRecord(
        algorithm="alg1" if job.settings.basin_exact else "bisection",
        critical_time=basin.critical_time,
        critical_times=basin.times.tolist(),
        radius=float(basin.radii.mean()),
        log_volume=float(basin.log_volumes.mean()),
        never_recovered=basin.never_recovered,
        stopped=basin.stopped,
        checked=basin.checked.tolist(),
        recovery=basin.recovery.tolist(),
        evaluations=basin.evaluations,
        delta_d=delta_d,
        delta_p=_BASIN["delta_p"],
        steps=_BASIN["steps"],
        stride=_BASIN["stride"],
    )


def basin_steps(schedule: int, *, exact: bool) -> int:
    """Return the most sampling steps that the search for one critical time can take."""
    trials, steps = _BASIN["trials"], _BASIN["steps"]
    times = check_times(schedule, _BASIN["stride"])
    if exact:
        return trials * sum(min(steps, t) for t in times)
    return steps * most_denoisings(len(times), delta_p=_BASIN["delta_p"], trials=trials)


# -- the record


def _record(
    job: Job,
    run: RunDirectory,
    started: str,
    judged: Judged,
    attractors: list[AttractorRecord],
    spectra: list[CurvatureRecord],
    yardstick: Yardstick,
) -> AuditRecord:
    judgement, check, seeds = judged.judgement, judged.check, judged.seeds
    named = _name(job, run, judged, spectra)
    findings = words.Findings(
        word=(named and named.word) or cast(VerdictWord, judgement.word.value),
        shares={s.value: _interval(i) for s, i in judgement.reading.shares.intervals.items()},
        level=judged.look.level,
        undetected_mass=check.undetected_mass,
        undetected_limit=UNDETECTED_LIMIT,
        seeds=seeds,
        attractors=attractors,
        loose=check.loose,
        unseen=_interval(check.unseen),
        thresholds=_threshold_record(yardstick),
        power=_power_record(yardstick.power),
        model=_findings_record(yardstick.findings),
        withheld=[doubt.value for doubt in judgement.withheld],
        hangs_on_threshold=judgement.hangs_on_threshold,
        reference=_reference_record(yardstick),
        wording=job.wording,
        curvature=spectra,
        calibration=named,
        looks=_looks_record(job, judged),
    )
    return AuditRecord(
        prompt=job.request.prompt,
        negative_prompt=job.request.negative_prompt,
        wording=job.wording,
        model=_model_record(job),
        settings=job.settings,
        reference=findings.reference,
        thresholds=findings.thresholds,
        power=findings.power,
        findings=findings.model,
        verdict=VerdictRecord(
            state=findings.word,
            summary=words.summary(findings),
            evidence=words.evidence(findings),
            fractions=findings.shares,
            level=judged.look.level,
            undetected_mass=check.undetected_mass,
            withheld=findings.withheld,
            strict=_word(judgement.strict),
            loose=_word(judgement.loose),
            hangs_on_threshold=judgement.hangs_on_threshold,
        ),
        attractors=attractors,
        seeds=seeds,
        loose=list(check.loose),
        unseen=findings.unseen,
        collision=_interval(check.collision),
        curvature=spectra,
        calibration=named,
        looks=findings.looks,
        warnings=[
            *job.warnings,
            *words.warnings(findings),
            *(reference_files.remarks(yardstick.files) if yardstick.files else []),
        ],
        failures=[
            Failure(what="image", index=seed.index, reason="blank or not finite")
            for seed in seeds
            if seed.state == "failed"
        ],
        timings=Timings(started=started, seconds=job.seconds),
        versions=versions(),
    )


def _word(verdict: Verdict | None) -> VerdictWord | None:
    return None if verdict is None else cast(VerdictWord, verdict.value)


def _looks_record(job: Job, judged: Judged) -> LooksRecord | None:
    if len(job.looks) == 1:
        return None
    return LooksRecord(looks=[look.seeds for look in job.looks], ended_at=judged.look.seeds)


def _name(
    job: Job,
    run: RunDirectory,
    judged: Judged,
    spectra: Sequence[CurvatureRecord],
) -> CalibrationRecord | None:
    """What the job's calibration says; the spectra are read from the run, long ones lie only there.

    That of an attractor is its medoid's.
    """
    if job.calibration is None:
        return None
    stored = {
        entry.attractor: read_tensors(run, entry.file)
        for entry in spectra
        if entry.attractor is not None
    }
    return name_attractors(
        job.calibration,
        judged.judgement.word,
        judged.judgement.reading.states,
        judged.check.n_duplicates.tolist(),
        judged.attractors,
        {k: kept[0]["singular_values"].numpy() for k, kept in stored.items() if kept is not None},
        judged.look,
    )


def error_record(job: Job, started: str, error: AuditError) -> AuditRecord:
    """Return the record of an audit that an error ended."""
    return AuditRecord(
        prompt=job.request.prompt,
        negative_prompt=job.request.negative_prompt,
        wording=job.wording,
        model=_model_record(job),
        settings=job.settings,
        reference=None,
        thresholds=None,
        verdict=VerdictRecord(
            state="undecided",
            summary=f"The audit was not finished: {error}",
            evidence=[],
            fractions={},
            level=LEVEL,
            undetected_mass=None,
        ),
        attractors=[],
        seeds=[],
        unseen=None,
        collision=None,
        curvature=[],
        warnings=job.warnings,
        failures=[],
        error=ErrorRecord(kind=type(error).__name__, message=str(error), exit_code=error.exit_code),
        timings=Timings(started=started, seconds=job.seconds),
        versions=versions(),
    )


def _model_record(job: Job) -> ModelRecord:
    identity = job.pipeline.identity
    return ModelRecord(
        **asdict(identity),
        configuration_sha256=identity.configuration_sha256,
        latent_shape=job.pipeline.latent_shape,
        image_size=job.pipeline.image_size,
    )


def _threshold_record(yardstick: Yardstick) -> ThresholdRecord:
    thresholds = yardstick.thresholds
    return ThresholdRecord(
        metric=thresholds.metric,
        delta_m=thresholds.delta_m,
        delta_s=thresholds.delta_s,
        source=thresholds.source,
        calibrated=thresholds.calibrated,
        controls=thresholds.n_controls or None,
        rule=cast(RuleWord, thresholds.rule.value),
        false_alarms=ALPHA if thresholds.calibrated else None,
        ratio=thresholds.ratio,
        strict=thresholds.others.get(STRICT_ALPHA),
        loose=thresholds.others.get(LOOSE_ALPHA),
        notes=list(yardstick.notes),
    )


def _power_record(power: Power | None) -> PowerRecord | None:
    if power is None:
        return None
    return PowerRecord(
        to_reference=None if power.to_reference is None else _interval(power.to_reference),
        between=_interval(power.between),
        suffices=power.suffices,
        edits=dict(power.edits),
    )


def _findings_record(findings: Findings | None) -> FindingsRecord | None:
    if findings is None:
        return None
    return FindingsRecord(
        prompts=findings.prompts,
        seeds=findings.seeds,
        repeats=_interval(findings.repeats),
        flagged=_interval(findings.flagged),
        contaminated=findings.contaminated,
        collapsed=findings.collapsed,
    )


def _reference_record(yardstick: Yardstick) -> ReferenceRecord | None:
    reference = yardstick.reference
    if reference is None:
        return None
    return ReferenceRecord(
        source=reference.source,
        pictures=len(reference.names),
        sha256=reference.sha256,
        complete=reference.complete,
        flipped=reference.flipped,
        files=yardstick.files,
    )


def now() -> str:
    """Return the time as records write it: UTC, ISO 8601, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """A block whose duration is noted under the name of a stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = round(time.perf_counter() - start, 3)
