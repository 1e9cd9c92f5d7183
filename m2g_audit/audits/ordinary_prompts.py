"""Ordinary prompts that an audit runs: on its model, on the base, and to have pictures to plant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from m2g_audit.audits.setup import Setup
from m2g_audit.files import cache_folder
from m2g_audit.models.base_model import BaseModel
from m2g_audit.models.protocol import TextToImage
from m2g_audit.references.controls import Controls, ControlSettings
from m2g_audit.references.reference import Reference
from m2g_audit.verdict.states import S_PRIME

PROBE_PROMPTS, PROBE_SEEDS = 16, 2
BASE_PROMPTS = 13
"""With |S'| seeds each they give 208 pictures of the base; 200 are needed."""


def controls_of(setup: Setup, reference: Reference | None) -> Controls | None:
    """Return the control prompts that an audit runs on its model, None where they mean nothing.

    With S or a base they only tell what the model does for any prompt: two seeds of 16 prompts, or
    of all that are asked for. Without, all of them with |S'| seeds give the thresholds, if asked.
    Of the reference only the hash is looked at.
    """
    if setup.provenance is not None:  # which knows what the model was taught
        return None
    prompts, seeds = setup.control_prompts, PROBE_SEEDS
    if not setup.all_controls:
        prompts = probe_prompts(setup)
    elif controls_give_thresholds(setup):
        seeds = S_PRIME
    return _controls(setup, setup.pipeline, prompts, seeds, reference)


def controls_give_thresholds(setup: Setup) -> bool:
    """Whether own control prompts are what thresholds come from."""
    other = (setup.settings.reference, setup.base, setup.given)
    return setup.all_controls and all(source is None for source in other)


def probe_prompts(setup: Setup) -> list[str]:
    """Return a few of the control prompts, the same ones in every run."""
    return _chosen(setup.control_prompts, PROBE_PROMPTS)


def base_controls(
    setup: Setup, prompts: Sequence[str], reference: Reference | None
) -> Controls | None:
    """Return the prompts that the base runs, audited ones first, None without a base."""
    if setup.base is None:
        return None
    chosen = _chosen(list(dict.fromkeys(prompts)), BASE_PROMPTS)
    more = [p for p in setup.control_prompts if p not in chosen]
    filled = [*chosen, *_chosen(more, BASE_PROMPTS - len(chosen))]
    return _controls(setup, setup.base, filled, S_PRIME, reference)


def _controls(
    setup: Setup,
    pipeline: TextToImage | BaseModel,
    prompts: Sequence[str],
    seeds: int,
    reference: Reference | None,
) -> Controls:
    settings = setup.settings
    return Controls(
        pipeline=pipeline,
        metric=setup.metric,
        settings=ControlSettings(
            seeds_per_prompt=seeds,
            steps=settings.steps,
            guidance=settings.guidance,
            scheduler=settings.scheduler,
        ),
        prompts=prompts,
        reference=reference,
        cache_dir=cache_folder("controls"),
    )


def _chosen(prompts: Sequence[str], count: int) -> list[str]:
    """At most `count` of the prompts, the same ones in every run."""
    if len(prompts) <= count:
        return list(prompts)
    numbers = np.random.default_rng(0).choice(len(prompts), count, replace=False)
    return [prompts[int(i)] for i in sorted(numbers)]
