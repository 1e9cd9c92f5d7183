"""From generations of one prompt to its word: states, attractors, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from m2g_audit.audits.comparison import attractor_records, compare, seed_records
from m2g_audit.audits.generations import Generated
from m2g_audit.audits.job import Job
from m2g_audit.audits.timing import timed
from m2g_audit.audits.yardstick import Yardstick
from m2g_audit.progress import Progress, silent
from m2g_audit.records.record import AttractorRecord, SeedRecord
from m2g_audit.store.run_directory import RunDirectory
from m2g_audit.verdict import rule
from m2g_audit.verdict.attractors import RepeatSeedCheck
from m2g_audit.verdict.looks import Look
from m2g_audit.verdict.rule import Grounds, Judgement, settles


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
        look or job.setup.looks[-1],
        yardstick.of(job.prompt, job.negative_prompt),
    )
    with timed(job.seconds, "distances"):
        found = compare(job, run, generated, yardstick, partial(on_progress, "distances"))
    grounds = _grounds(job, yardstick)
    judgement = rule.judge(found.samples, yardstick.thresholds, look, grounds)
    seeds = seed_records(job, run, judgement, found, yardstick)
    return Judged(
        generated,
        judgement,
        seeds,
        attractor_records(judgement.reading.check, seeds),
        look,
        settled=look == job.setup.looks[-1] or settles(judgement, grounds),
    )


def _grounds(job: Job, yardstick: Yardstick) -> Grounds:
    findings = yardstick.findings
    return Grounds(
        reference_complete=job.setup.settings.reference_complete,
        power=None if yardstick.power is None else yardstick.power.suffices,
        collapse=findings.repeats if findings is not None and findings.collapsed else None,
        thumb=yardstick.thumb,
        understood=not job.wording.unknown_words,
    )
