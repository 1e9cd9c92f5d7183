"""Which thresholds an audit uses, and the rules of thumb that stand in where none were measured."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from m2g_audit.caches import cache_folder
from m2g_audit.controls import ControlSettings, images_needed, run_controls
from m2g_audit.errors import UsageError
from m2g_audit.model_folder import POCKET
from m2g_audit.pocket.truth_table import TruthTable, load_table
from m2g_audit.states import Thresholds

if TYPE_CHECKING:
    from m2g_audit.pipelines import TextToImage
    from m2g_audit.records import Settings
    from m2g_audit.reference import FolderContents, Reference
    from m2g_audit.request import Progress, Request, Setup
    from m2g_audit.similarity import Metric

# 2026-11: written down from the papers, never measured by this project on the model at hand.
_RULES_OF_THUMB = {
    "l2": (0.15, "Carlini et al. 2023 call pictures at an L2 distance of 0.15 copies"),
    "tiled_l2": (0.15, "Carlini et al. 2023 call pictures at a tiled L2 distance of 0.15 copies"),
    "sscd": (0.5, "Somepalli et al. 2023 call pictures at an SSCD similarity of 0.5 copies"),
}


def rule_of_thumb(metric: str) -> Thresholds:
    """Return uncalibrated thresholds of a metric; UsageError where no rule has been published."""
    if metric not in _RULES_OF_THUMB:
        known = ", ".join(sorted(_RULES_OF_THUMB))
        raise UsageError(
            f"Nobody has published a distance at which {metric} calls pictures copies. Calibrate "
            f"it on this model with --controls, or use one of {known}."
        )
    value, source = _RULES_OF_THUMB[metric]
    return Thresholds(
        metric=metric,
        delta_m=value,
        delta_s=value,
        source=f"a rule of thumb ({source})",
        n_controls=0,
        calibrated=False,
    )


def use_controls(
    request: Request,
    pipeline: TextToImage,
    metric: Metric,
    settings: Settings,
    contents: FolderContents | None,
) -> bool:
    """Return whether control prompts give the thresholds: if asked for, or if all are at hand.

    Raises UsageError for pocket, which knows no word of them; its thresholds are its own.
    """
    if request.model == POCKET:
        if request.controls:
            raise UsageError(
                "Control prompts mean nothing to pocket, whose words are few; its thresholds are "
                "measured on its own world. Leave out --controls."
            )
        return False
    if request.controls is not None:
        return request.controls
    # Of a reference, only the hash is looked at.
    reference = cast("Reference | None", contents)
    return _images_needed(pipeline, metric, settings, reference) == 0


def control_images(setup: Setup) -> int:
    """Return how many images of control prompts an audit still has to make."""
    if not setup.controls:
        return 0
    return _images_needed(
        setup.pipeline, setup.metric, setup.settings, cast("Reference | None", setup.contents)
    )


def find_thresholds(setup: Setup, reference: Reference | None, on_progress: Progress) -> Thresholds:
    """Return the thresholds of an audit: pocket's own, those of controls, else a rule of thumb.

    Pocket's belong to the distance that its truth was measured with. A rule of thumb says that it
    is uncalibrated.
    """
    if setup.request.model == POCKET:
        table = load_table()
        if table.metric == setup.metric.name:
            return _of_this_model(table, setup)
    if not setup.controls:
        return rule_of_thumb(setup.metric.name)
    return run_controls(
        setup.pipeline,
        setup.metric,
        _control_settings(setup.settings),
        cache_dir=cache_folder("controls"),
        batch_size=setup.settings.batch_size,
        reference=reference,
        on_progress=partial(on_progress, "controls"),
    )


def _images_needed(
    pipeline: TextToImage, metric: Metric, settings: Settings, reference: Reference | None
) -> int:
    return images_needed(
        pipeline,
        metric,
        _control_settings(settings),
        cache_dir=cache_folder("controls"),
        reference=reference,
    )


def _control_settings(settings: Settings) -> ControlSettings:
    return ControlSettings(
        seeds_per_prompt=settings.seeds,
        steps=settings.steps,
        guidance=settings.guidance,
        scheduler=settings.scheduler,
    )


def _of_this_model(table: TruthTable, setup: Setup) -> Thresholds:
    if table.model_sha256 == setup.pipeline.identity.sha256:
        return table.thresholds
    return replace(
        table.thresholds,
        source=f"{table.thresholds.source}, measured with other weights than these",
        calibrated=False,
    )
