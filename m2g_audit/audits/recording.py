"""The record of one prompt, from what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TypeVar, cast

from pydantic import BaseModel

from m2g_audit.audits.job import Job
from m2g_audit.audits.judging import Judged
from m2g_audit.audits.run_tensors import read_tensors
from m2g_audit.audits.yardstick import Yardstick
from m2g_audit.calibration.naming import name_attractors
from m2g_audit.errors import AuditError
from m2g_audit.records.record import (
    AttractorRecord,
    AuditRecord,
    CalibrationRecord,
    CurvatureRecord,
    ErrorRecord,
    Failure,
    FindingsRecord,
    IntervalRecord,
    LooksRecord,
    ModelRecord,
    PowerRecord,
    ReferenceRecord,
    ThresholdRecord,
    Timings,
    TrajectoryRecord,
    VerdictRecord,
)
from m2g_audit.records.vocabulary import RuleWord, VerdictWord
from m2g_audit.references import reference_files
from m2g_audit.store.run_directory import RunDirectory
from m2g_audit.verdict import sentences
from m2g_audit.verdict.intervals import LEVEL
from m2g_audit.verdict.rule import Verdict
from m2g_audit.verdict.thresholds import ALPHA, LOOSE_ALPHA, STRICT_ALPHA
from m2g_audit.versions import versions

_Part = TypeVar("_Part", bound=BaseModel)


def record_of(
    job: Job,
    run: RunDirectory,
    started: str,
    judged: Judged,
    attractors: list[AttractorRecord],
    spectra: list[CurvatureRecord],
    yardstick: Yardstick,
    trajectory: TrajectoryRecord | None,
) -> AuditRecord:
    """Return the record of an audit that came to its end."""
    judgement, check, seeds = judged.judgement, judged.check, judged.seeds
    named = _name(job, run, judged, spectra)
    record = AuditRecord(
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        wording=job.wording,
        model=_model_record(job),
        settings=job.setup.settings,
        reference=_reference_record(yardstick),
        thresholds=_threshold_record(yardstick),
        power=_optional(PowerRecord, yardstick.power),
        findings=_optional(FindingsRecord, yardstick.findings),
        verdict=VerdictRecord(
            state=(named and named.word) or cast(VerdictWord, judgement.word.value),
            summary="",
            evidence=[],
            fractions={
                state.value: IntervalRecord.model_validate(interval)
                for state, interval in judgement.reading.shares.intervals.items()
            },
            level=judged.look.level,
            undetected_mass=check.undetected_mass,
            withheld=[doubt.value for doubt in judgement.withheld],
            strict=_word(judgement.strict),
            loose=_word(judgement.loose),
            hangs_on_threshold=judgement.hangs_on_threshold,
        ),
        attractors=attractors,
        seeds=seeds,
        loose=list(check.loose),
        unseen=IntervalRecord.model_validate(check.unseen),
        collision=IntervalRecord.model_validate(check.collision),
        trajectory=trajectory,
        curvature=spectra,
        calibration=named,
        looks=_looks_record(job, judged),
        warnings=[
            *job.warnings,
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
    return sentences.worded(record)


def _word(verdict: Verdict | None) -> VerdictWord | None:
    return None if verdict is None else cast(VerdictWord, verdict.value)


def _looks_record(job: Job, judged: Judged) -> LooksRecord | None:
    if len(job.setup.looks) == 1:
        return None
    return LooksRecord(looks=[look.seeds for look in job.setup.looks], ended_at=judged.look.seeds)


def _name(
    job: Job,
    run: RunDirectory,
    judged: Judged,
    spectra: Sequence[CurvatureRecord],
) -> CalibrationRecord | None:
    """What the job's calibration says; the spectra are read from the run, long ones lie only there.

    That of an attractor is its medoid's.
    """
    if job.setup.calibration is None:
        return None
    stored = {
        entry.attractor: read_tensors(run, entry.file)
        for entry in spectra
        if entry.attractor is not None
    }
    return name_attractors(
        job.setup.calibration,
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
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        wording=job.wording,
        model=_model_record(job),
        settings=job.setup.settings,
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
        warnings=list(job.warnings),
        failures=[],
        error=ErrorRecord(kind=type(error).__name__, message=str(error), exit_code=error.exit_code),
        timings=Timings(started=started, seconds=job.seconds),
        versions=versions(),
    )


def _model_record(job: Job) -> ModelRecord:
    identity = job.setup.pipeline.identity
    return ModelRecord(
        **asdict(identity),
        guidance_kind=job.setup.pipeline.guidance_kind,
        configuration_sha256=identity.configuration_sha256,
        latent_shape=job.setup.pipeline.latent_shape,
        image_size=job.setup.pipeline.image_size,
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


def _optional(kind: type[_Part], found: object | None) -> _Part | None:
    """A part of the record from a result with the same fields, None without one."""
    return None if found is None else kind.model_validate(found)
