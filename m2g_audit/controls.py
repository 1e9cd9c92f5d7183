"""Thresholds from control prompts: how near two seeds come when nothing is memorized."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from m2g_audit.attractors import is_failed
from m2g_audit.errors import NumericsError, OutputError, UsageError
from m2g_audit.numerics import seed_for
from m2g_audit.reference import Identity, Reference
from m2g_audit.runs import digest, write_atomically
from m2g_audit.similarity import Metric, distances
from m2g_audit.states import ALPHA, Thresholds, low_quantile

_VERSION = 1


class HasImages(Protocol):
    """The part of a pipeline's generations that this module needs."""

    @property
    def images(self) -> Tensor: ...


class Pipeline(Protocol):
    """The part of a text-to-image pipeline that this module needs."""

    @property
    def identity(self) -> Identity: ...

    def generate(
        self,
        prompt: str,
        seeds: Sequence[int],
        *,
        steps: int,
        guidance: float,
        batch_size: int,
        scheduler: Any,
    ) -> HasImages: ...


@dataclass(frozen=True)
class ControlSettings:
    """How control prompts are run: as the audit that uses their thresholds.

    seeds_per_prompt must be the audit's number of seeds: among more seeds the smallest distance is
    smaller, and an ordinary prompt would be flagged more often than `alpha`.
    """

    seeds_per_prompt: int
    steps: int
    guidance: float
    scheduler: str = "ddim"
    seed: int = 0
    alpha: float = ALPHA


@dataclass(frozen=True)
class ControlResult:
    """Of one control prompt: the smallest distances, None where fewer pictures than needed.

    within: between two seeds; to_reference: from a seed to S; valid: pictures that did not fail.
    """

    within: float | None
    to_reference: float | None
    valid: int


def load_prompts(path: Path | None = None) -> list[str]:
    """Return the control prompts of a file, by default this project's own, in its order.

    One a line; empty lines and lines that start with # are left out. UsageError if there is none.
    """
    if path is None:
        installed = files("m2g_audit") / "controls.txt"
        checkout = Path(__file__).parents[1] / "prompts" / "controls.txt"
        text = (installed if installed.is_file() else checkout).read_text(encoding="utf-8")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"Can't read control prompts from {path}: {error}.") from error
    lines = [line.strip() for line in text.splitlines()]
    prompts = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not prompts:
        raise UsageError(f"There are no control prompts in {path}: write one on each line.")
    return prompts


def images_needed(
    pipeline: Pipeline,
    metric: Metric,
    settings: ControlSettings,
    *,
    cache_dir: Path,
    prompts: Sequence[str] | None = None,
    reference: Reference | None = None,
) -> int:
    """Return how many images run_controls would still have to generate; 0 if all is at hand."""
    done = _load(_cache_file(pipeline, metric, settings, reference, cache_dir))
    missing = [p for p in (prompts or load_prompts()) if p not in done]
    return len(missing) * settings.seeds_per_prompt


def run_controls(
    pipeline: Pipeline,
    metric: Metric,
    settings: ControlSettings,
    *,
    cache_dir: Path,
    batch_size: int,
    prompts: Sequence[str] | None = None,
    reference: Reference | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Thresholds:
    """Return thresholds under which an ordinary prompt is flagged with chance at most alpha.

    delta_s: the alpha quantile of each control prompt's smallest distance between two of its seeds;
    delta_m, if a reference is given: the same of its smallest distance to the reference. Each
    prompt's result is kept in cache_dir as soon as it is known, by model, settings, metric and
    reference, so an interrupted run goes on where it stopped. on_progress gets images done and in
    all. UsageError for too few prompts or seeds, NumericsError if too many pictures fail or if
    controls repeat themselves exactly, OutputError if the cache cannot be written.
    """
    prompts = list(prompts or load_prompts())
    needed = math.ceil(1 / settings.alpha - 1e-9) - 1
    if len(prompts) < needed:
        raise UsageError(
            f"{len(prompts)} control prompts cannot hold a rate of {settings.alpha:g}: "
            f"give at least {needed}."
        )
    if settings.seeds_per_prompt < 2:
        raise UsageError("A control prompt needs at least 2 seeds.")
    cache = _cache_file(pipeline, metric, settings, reference, cache_dir)
    results = _load(cache)
    for i, prompt in enumerate(prompts):
        if on_progress is not None:
            on_progress(i * settings.seeds_per_prompt, len(prompts) * settings.seeds_per_prompt)
        if prompt not in results:
            results[prompt] = _run_prompt(prompt, pipeline, metric, settings, batch_size, reference)
            _save(cache, results)
    if on_progress is not None:
        total = len(prompts) * settings.seeds_per_prompt
        on_progress(total, total)
    return _thresholds([results[p] for p in prompts], metric, settings, needed, reference)


def _run_prompt(
    prompt: str,
    pipeline: Pipeline,
    metric: Metric,
    settings: ControlSettings,
    batch_size: int,
    reference: Reference | None,
) -> ControlResult:
    seeds = [seed_for(settings.seed, prompt, i) for i in range(settings.seeds_per_prompt)]
    images = pipeline.generate(
        prompt,
        seeds,
        steps=settings.steps,
        guidance=settings.guidance,
        batch_size=batch_size,
        scheduler=settings.scheduler,
    ).images
    images = images[~is_failed(images)]
    if len(images) == 0:
        return ControlResult(None, None, 0)
    to_reference = None
    if reference is not None:
        to_reference = float(min(reference.nearest(metric, images)[0]))
    if len(images) < 2:
        return ControlResult(None, to_reference, len(images))
    embeddings = metric.embed(images)
    pairs = distances(metric, embeddings, embeddings)
    within = float(pairs[np.triu_indices(len(images), k=1)].min())
    return ControlResult(within, to_reference, len(images))


def _thresholds(
    results: Sequence[ControlResult],
    metric: Metric,
    settings: ControlSettings,
    needed: int,
    reference: Reference | None,
) -> Thresholds:
    within = [r.within for r in results if r.within is not None]
    to_reference = [r.to_reference for r in results if r.to_reference is not None]
    if len(within) < needed:
        raise NumericsError(
            f"Only {len(within)} of {len(results)} control prompts gave two pictures that are "
            f"neither flat nor non-finite; {needed} are needed. Try full precision (--dtype fp32)."
        )
    delta_s = low_quantile(within, settings.alpha)
    if delta_s == 0:
        raise NumericsError(
            "Ordinary prompts give the same picture twice under different seeds, so no distance "
            "sets a duplicate apart. The model does not seem to use its noise."
        )
    return Thresholds(
        metric=metric.name,
        delta_m=None if reference is None else low_quantile(to_reference, settings.alpha),
        delta_s=delta_s,
        source=(
            f"{settings.alpha:.0%} quantile of the smallest distance within each of "
            f"{len(within)} control prompts of {settings.seeds_per_prompt} seeds"
            + ("" if reference is None else ", and of the smallest to the reference")
        ),
        n_controls=len(within),
        calibrated=True,
    )


def _cache_file(
    pipeline: Pipeline,
    metric: Metric,
    settings: ControlSettings,
    reference: Reference | None,
    cache_dir: Path,
) -> Path:
    """Name the file by all that can change a prompt's result (alpha and other prompts cannot)."""
    run = {k: v for k, v in asdict(settings).items() if k != "alpha"}
    identity = {
        **run,
        "version": _VERSION,
        "model": pipeline.identity.sha256,
        "configuration": pipeline.identity.configuration_sha256,
        "dtype": pipeline.identity.dtype,
        "metric": metric.name,
        "metric_weights": metric.weights_sha256,
        "reference": None if reference is None else reference.sha256,
    }
    return cache_dir / f"controls-{digest(identity)[:32]}.json"


def _load(cache: Path) -> dict[str, ControlResult]:
    """Return the results kept, none if there is no such file or it is not one of ours."""
    try:
        kept = json.loads(cache.read_text(encoding="utf-8"))
        return {prompt: ControlResult(**result) for prompt, result in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _save(cache: Path, results: dict[str, ControlResult]) -> None:
    content = {prompt: asdict(result) for prompt, result in results.items()}
    try:
        write_atomically(cache, json.dumps(content, ensure_ascii=False, indent=1).encode())
    except OutputError as error:
        raise OutputError(
            f"Can't keep the results of control prompts in {cache.parent}: {error.__cause__}. "
            "Point the cache to a folder that can be written."
        ) from error
