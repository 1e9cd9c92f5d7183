"""Setups and jobs whose model is a test's own."""

from __future__ import annotations

from pathlib import Path

from m2g_audit.audits.audit import execute
from m2g_audit.audits.job import Job, make_job
from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import Setup, set_up
from m2g_audit.records.record import AuditRecord
from m2g_audit.store.run_directory import RunDirectory
from tests.support.fakes import FakePipeline


def fake_setup(pipeline: FakePipeline, *, out: Path | None = None, **options: object) -> Setup:
    """Return the setup of an audit with this pipeline; without spectra, unless asked for."""
    defaults = {"model": "fake", "seeds": 7, "spectrum": "none"}
    asked = AuditOptions.of(**{**defaults, **options})
    return set_up(asked, out=out, load=lambda *_, **__: pipeline)  # type: ignore[arg-type,return-value]


def fake_job(pipeline: FakePipeline, *, out: Path | None = None, **options: object) -> Job:
    """Return the job of the pipeline's one prompt, with as many seeds as it has pictures."""
    defaults = {"seeds": len(pipeline.numbers), "spectrum": "fast"}
    return make_job(fake_setup(pipeline, out=out, **{**defaults, **options}), pipeline.prompt)


def run_job(job: Job, out: Path) -> AuditRecord:
    """Return the record of a job whose run is at `out`."""
    return execute(job, RunDirectory.open(out, job.identity))
