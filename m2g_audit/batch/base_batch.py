"""What the base gives for a fine-tune's prompts and seeds: a batch of its own, beside the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import Setup, set_up
from m2g_audit.batch.batch import Batch
from m2g_audit.batch.opening import open_directory
from m2g_audit.progress import Progress, silent
from m2g_audit.prompts import Entry, PromptList
from m2g_audit.records.record import ThresholdRecord
from m2g_audit.store.batch_directory import BatchDirectory

BASE_FOLDER = "base"
"""Where in a fine-tune's batch that of its base lies."""


def base_batch(
    setup: Setup,
    options: AuditOptions,
    directory: BatchDirectory,
    thresholds: ThresholdRecord,
    entries: Sequence[Entry],
    on_progress: Progress = silent,
) -> Batch:
    """Return the batch of the base for some of a fine-tune's prompts, its seeds and thresholds.

    Args:
        setup: The fine-tune's, with a base.
        options: What that was made of.
        directory: The fine-tune's batch, in which the base's lies.
        thresholds: What the fine-tune's generations were judged by.
        entries: The prompts to ask it for.
        on_progress: Is told of the loading.

    Raises:
        UsageError, ModelError, OutputError or ResourceError: As `set_up` and `open_directory`.
    """
    base = setup.base
    assert base is not None
    folder = directory.path / BASE_FOLDER
    own = replace(
        options,
        model=base.id,
        revision=None,
        lora=(),
        lora_scale=(),
        base=None,
        unseen=None,
        metric=setup.metric.name,
        delta_m=thresholds.delta_m,
        delta_s=thresholds.delta_s,
        steps=setup.settings.steps,
        guidance=setup.settings.guidance,
        calibration=None,
        controls=False,
        control_prompts=None,
        spectrum="none",
        basin=False,
        basin_exact=False,
    )
    asked = set_up(
        own, out=directory.path, load=lambda *_, **__: base.pipeline, on_progress=on_progress
    )
    inner = open_directory(asked, PromptList(tuple(directory.entries)), BASE_FOLDER, folder)
    inner.log.repair()
    return Batch(asked, inner, entries)
