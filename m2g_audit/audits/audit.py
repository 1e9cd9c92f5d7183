"""One prompt, audited end to end: generate, compare, judge, look closer, record.

No number is computed here; each is another module's. What was finished by an earlier run of the
same job is read from its folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from m2g_audit.audits.basins import measure_basins
from m2g_audit.audits.generations import PromptPictures, generate
from m2g_audit.audits.job import Job
from m2g_audit.audits.judging import Judged, judge
from m2g_audit.audits.read_outs import measure_read_outs
from m2g_audit.audits.recording import error_record, record_of
from m2g_audit.audits.setup import Setup
from m2g_audit.audits.spectra import measure_curvature
from m2g_audit.audits.timing import now, timed
from m2g_audit.audits.trajectories import read_trajectories
from m2g_audit.audits.yardstick import Yardstick
from m2g_audit.audits.yardstick_search import find_yardstick
from m2g_audit.errors import AuditError
from m2g_audit.progress import OnProgress, Progress, silent
from m2g_audit.records.record import AuditRecord
from m2g_audit.references import reference_files
from m2g_audit.references.reference import Reference, ReferenceSet, load_folder
from m2g_audit.store.run_directory import RunDirectory


def execute(job: Job, run: RunDirectory, on_progress: Progress = silent) -> AuditRecord:
    """Return the record of a job, done or taken up where it stopped, and write it to the run.

    An error makes a record too, which carries it and does not count as finished; then it is raised.
    """
    started = now()
    try:
        yardstick = gather(job.setup, [job.prompt], job.seconds, on_progress)
        pictures = PromptPictures(job, run)
        for look in job.setup.looks:
            with timed(job.seconds, "images"):
                generated = generate(job, pictures, look.seeds, partial(on_progress, "images"))
            judged = judge(job, run, generated, yardstick, on_progress, look)
            if judged.settled:
                break
        record = conclude(job, run, judged, yardstick, started, on_progress)
    except AuditError as error:
        run.save_record(error_record(job, started, error))
        raise
    if job.setup.calibration is not None:
        run.save_calibration(job.setup.calibration.content)
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


def conclude(
    job: Job,
    run: RunDirectory,
    judged: Judged,
    yardstick: Yardstick,
    started: str,
    on_progress: Progress = silent,
) -> AuditRecord:
    """Return the record, after what the model is still asked for: curvature, and basins."""
    yardstick = yardstick.of(job.prompt, job.negative_prompt)
    latents, attractors = judged.generated.latents, judged.attractors
    trajectory, seeds = read_trajectories(job, run, judged.seeds)
    with timed(job.seconds, "curvature"):
        spectra = measure_curvature(
            job, run, latents, judged.seeds, attractors, partial(on_progress, "curvature")
        )
        attractors = measure_read_outs(
            job, attractors, judged.generated, partial(on_progress, "read-outs")
        )
    if job.setup.settings.basin:
        with timed(job.seconds, "basin"):
            attractors = measure_basins(
                job, attractors, latents, yardstick.thresholds, partial(on_progress, "basins")
            )
    judged = replace(judged, seeds=seeds)
    return record_of(job, run, started, judged, attractors, spectra, yardstick, trajectory)


def _load_reference(setup: Setup, on_progress: OnProgress) -> Reference | None:
    if setup.contents is not None:
        return load_folder(
            setup.contents,
            setup.pipeline,
            complete=setup.settings.reference_complete,
            on_progress=on_progress,
        )
    if setup.provenance is None or setup.settings.reference != setup.provenance.name:
        return None
    return setup.provenance.reference(setup.pipeline)


def _load_unseen(setup: Setup, on_progress: OnProgress) -> ReferenceSet | None:
    if setup.unseen is None:
        return None
    return load_folder(setup.unseen, setup.pipeline, on_progress=on_progress)
