"""What generations are judged by: S, thresholds, their power, and what the model does anyway.

Thresholds come from the first of these that applies (DEFINITIONS: Thresholds): pictures that the
model never saw, S without each of its pictures, the base's generations, the model's own control
prompts, a published rule of thumb. Numbers given by hand go before all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from m2g_audit.audits.ordinary_prompts import (
    PROBE_PROMPTS,
    base_controls,
    controls_give_thresholds,
    controls_of,
)
from m2g_audit.audits.planted import planted, plants_file
from m2g_audit.audits.setup import Setup
from m2g_audit.audits.threshold_sources import (
    from_base,
    from_controls,
    from_pictures,
    given_thresholds,
)
from m2g_audit.audits.yardstick import Yardstick
from m2g_audit.pocket.provenance import of_these_weights
from m2g_audit.pocket.truth_table import TruthTable
from m2g_audit.progress import Progress
from m2g_audit.references import power
from m2g_audit.references.plants import Plants
from m2g_audit.references.reference import Reference, ReferenceSet
from m2g_audit.verdict.screening import ControlResult, Findings, look_into
from m2g_audit.verdict.thresholds import Thresholds, published_rule, rule_of_thumb


def find_yardstick(
    setup: Setup,
    reference: Reference | None,
    unseen: ReferenceSet | None,
    prompts: Sequence[str],
    on_progress: Progress,
) -> Yardstick:
    """Return what generations of `prompts` are judged by.

    Raises UsageError where the metric has no rule of thumb and nothing else gives thresholds and
    for unseen pictures that overlap the reference; NumericsError where no picture can be planted.
    """
    truth = own_truth(setup)
    if truth is not None:
        return _of_truth(setup, truth, reference)
    plants = planted(setup, reference, on_progress)
    found = _find(setup, reference, unseen, plants, prompts, on_progress)
    return replace(
        found,
        plants=plants,
        thumb=published_rule(setup.metric.name),
        findings=found.findings or _probe(setup, reference, found.thresholds, on_progress),
    )


def own_truth(setup: Setup) -> TruthTable | None:
    """Return the model's own truth, where it was measured by this audit's distance."""
    if setup.provenance is None or setup.contents is not None or setup.given is not None:
        return None
    truth = setup.provenance.truth
    return truth if truth is not None and truth.metric == setup.metric.name else None


def images_needed(setup: Setup, prompts: Sequence[str]) -> int:
    """Return how many pictures besides the prompts' own an audit still has to make."""
    reference = cast("Reference | None", setup.contents)
    runs = [controls_of(setup, reference), base_controls(setup, prompts, reference)]
    needed = sum(run.images_needed for run in runs if run is not None)
    if own_truth(setup) is None and power.load(plants_file(setup, reference)) is None:
        # A plant takes a few steps, its decoding as long as some more.
        needed += power.PLANTS // 16 + (0 if reference is not None else PROBE_PROMPTS)
    return needed


def _find(
    setup: Setup,
    reference: Reference | None,
    unseen: ReferenceSet | None,
    plants: Plants,
    prompts: Sequence[str],
    on_progress: Progress,
) -> Yardstick:
    if setup.given is not None:
        return Yardstick(reference, given_thresholds(setup, reference))
    base = _base_results(setup, prompts, reference, on_progress)
    if isinstance(reference, ReferenceSet):
        return from_pictures(setup, reference, unseen, plants, base, on_progress)
    if reference is not None:  # pocket's own, by a distance that its table has not
        return Yardstick(reference, rule_of_thumb(setup.metric.name))
    if base is not None:
        return Yardstick(None, from_base(setup, base, capped=False))
    controls = controls_of(setup, None)
    if controls is None or not controls_give_thresholds(setup):
        return Yardstick(None, rule_of_thumb(setup.metric.name))
    return from_controls(setup, controls, on_progress)


def _base_results(
    setup: Setup, prompts: Sequence[str], reference: Reference | None, on_progress: Progress
) -> list[ControlResult] | None:
    controls = base_controls(setup, prompts, reference)
    if controls is None:
        return None
    return controls.run(setup.settings.batch_size, partial(on_progress, "the base"))


def _probe(
    setup: Setup, reference: Reference | None, thresholds: Thresholds, on_progress: Progress
) -> Findings | None:
    controls = controls_of(setup, reference)
    if controls is None:
        return None
    report = partial(on_progress, "control prompts")
    results = controls.run(setup.settings.batch_size, report)
    return look_into(results, controls.settings.seeds_per_prompt, thresholds)


def _of_truth(setup: Setup, truth: TruthTable, reference: Reference | None) -> Yardstick:
    """The model's own thresholds, caption by caption, and its power, as its truth was measured."""
    weights = setup.pipeline.identity.sha256

    def used(thresholds: Thresholds) -> Thresholds:
        return of_these_weights(thresholds, truth, weights)

    return Yardstick(
        reference,
        used(truth.thresholds),
        plants=truth.plants,
        by_caption={row.caption: used(truth.thresholds_of(row)) for row in truth.captions},
    )
