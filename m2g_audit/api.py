"""The public face: what `import m2g_audit` offers, each a thin call of the room that does it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2g_audit.audits.job import check_prompt, make_job
from m2g_audit.audits.loaders import loader_of
from m2g_audit.audits.setup import set_up
from m2g_audit.batch.auditor import Auditor
from m2g_audit.errors import UsageError
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.progress import shown
from m2g_audit.records.distances import AUTOMATIC
from m2g_audit.reports.html.page import Page, write_report
from m2g_audit.reports.run import Run, open_run
from m2g_audit.review.compare import Comparison
from m2g_audit.review.compare import compare as compare_stored
from m2g_audit.similarity import Metric, default_metric, distances, load_metric
from m2g_audit.store.run_directory import RunDirectory, default_folder
from m2g_audit.store.stored_run import StoredRun
from m2g_audit.verdict import attractors
from m2g_audit.verdict.attractors import RepeatSeedCheck
from m2g_audit.verdict.thresholds import rule_of_thumb

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def audit(
    prompts: str | Path | Iterable[str | Mapping[str, Any]],
    *,
    out: str | Path | None = None,
    **options: Any,
) -> Run:
    """Audit a prompt, or many, and return the run; what its folder holds is not done again.

        run = audit("a print of the old harbour", model="pocket")
        print(run.record.verdict.summary)

    Args:
        prompts: One prompt's text; or a list's file as a Path, texts, or mappings with a column
            `prompt`.
        out: The run's folder, by default one below runs/.
        options: Those of AuditOptions: model (a name, a folder, or a diffusers pipeline in memory,
            which is audited as it is), seeds, reference, negative_prompt, ...

    Raises:
        UsageError: Prompts or options can't be used.
        ModelError, ReferenceFolderError, NumericsError, ResourceError, OutputError: As the
            command's exit codes 3 to 7.
    """
    if isinstance(prompts, str):
        return _audit_one(prompts, None if out is None else Path(out), options)
    auditor = Auditor(prompts, out=out, **options)
    with shown() as on_progress:
        for done, _ in enumerate(auditor, 1):
            on_progress("prompts", done, len(auditor))
    return open_run(auditor.directory.path)


def _audit_one(prompt: str, out: Path | None, options: Mapping[str, Any]) -> Run:
    from m2g_audit.audits.audit import execute

    load, asked = loader_of(options)
    check_prompt(prompt, asked.negative_prompt)
    with shown() as on_progress:
        setup = set_up(asked, out=out, load=load, on_progress=on_progress)
        job = make_job(setup, prompt, asked.away_from)
        folder = out or default_folder(prompt, job.identity)
        run = RunDirectory.open(folder, job.identity)
        if run.finished() is None:
            execute(job, run, on_progress)
    return open_run(folder)


def find_attractors(
    pictures: Float[Tensor, " n 3 h w"],
    *,
    metric: str | Metric = AUTOMATIC,
    delta_s: float | None = None,
) -> RepeatSeedCheck:
    """Return which pictures of one prompt under different seeds repeat each other.

    Args:
        pictures: In [0, 1]; black ones of an overflow count as failed.
        metric: The image distance, by name or loaded; auto: sscd where its file is available, else
            tiled_l2.
        delta_s: Up to which distance two pictures are the same, by default the metric's published
            rule of thumb, which no model was asked about.

    Raises:
        UsageError: The metric has no rule of thumb and delta_s is not given, or there are fewer
            than two pictures.
    """
    if len(pictures) < 2:
        raise UsageError("Repeats are found among at least 2 pictures.")
    if isinstance(metric, str):
        metric = load_metric(default_metric() if metric == AUTOMATIC else metric)
    if delta_s is None:
        delta_s = rule_of_thumb(metric.name).delta_s
        assert delta_s is not None
    embedded = metric.embed(pictures)
    pairs = distances(metric, embedded, embedded)
    return attractors.find_attractors(pairs, delta_s, failed=is_failed(pictures))


def compare(before: str | Path | Run, after: str | Path | Run) -> Comparison:
    """Return what got worse or better from one run to another, and what may be chance.

    Raises:
        OutputError: There is no run.
        UsageError: The runs can't be compared, as of different metrics.
    """
    return compare_stored(_stored(before), _stored(after))


def report(run: str | Path | Run, out: str | Path | None = None, *, redact: bool = False) -> Page:
    """Write the HTML report of a run and return where it lies.

    Args:
        run: A run or its folder.
        out: The HTML file, by default report.html in the folder.
        redact: Blur all pictures.

    Raises:
        OutputError: There is no run, or the file can't be written.
    """
    return write_report(_stored(run), None if out is None else Path(out), redact=redact)


def _stored(run: str | Path | Run) -> StoredRun:
    return StoredRun.read(run.path if isinstance(run, Run) else Path(run))
