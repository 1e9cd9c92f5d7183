"""Generations of ordinary prompts: how near they come to each other and to S, kept by prompt.

They show what a model does for any prompt, whether it is contaminated or collapsed (findings.py);
those of a base model are a null for what a fine-tune added (yardstick.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from torch import Tensor

from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.errors import NumericsError, OutputError, UsageError
from m2g_audit.files import digest, read_kept, write_atomically
from m2g_audit.models.base_model import BaseModel
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.progress import OnProgress
from m2g_audit.prompts import read_prompts
from m2g_audit.records.vocabulary import SchedulerChoice
from m2g_audit.references.reference import Reference
from m2g_audit.similarity import Metric, nearest
from m2g_audit.verdict.screening import ControlResult

_VERSION = 2


@dataclass(frozen=True)
class ControlSettings:
    """How control prompts are run: sampled as the audit that they are for."""

    seeds_per_prompt: int
    steps: int
    guidance: float
    scheduler: SchedulerChoice = "ddim"
    seed: int = 0


def load_prompts(path: Path | None = None) -> list[str]:
    """Return the control prompts of a list, by default of this project's own, in its order.

    UsageError where it can't be read without being told how, or has negative prompts.
    """
    if path is None:
        installed = files("m2g_audit") / "controls.txt"
        checkout = Path(__file__).parents[2] / "prompts" / "controls.txt"
        with as_file(installed if installed.is_file() else checkout) as own:
            return [entry.prompt for entry in read_prompts(own)]
    try:
        listed = read_prompts(path)
    except UsageError as error:
        raise UsageError(
            f"Control prompts: {error} Nothing can be said of how they are to be read: give a txt "
            "file with a prompt a line, or a table with a column `prompt`."
        ) from error
    if any(entry.negative_prompt for entry in listed):
        raise UsageError(
            f"Control prompts are sampled without negative prompts, and {path} has some: leave "
            "that column out."
        )
    return [entry.prompt for entry in listed]


@dataclass(frozen=True)
class Controls:
    """Prompts to be run on a model, and where their results are kept."""

    pipeline: TextToImage | BaseModel
    metric: Metric
    settings: ControlSettings
    prompts: Sequence[str]
    reference: Reference | None
    cache_dir: Path

    @property
    def missing(self) -> list[str]:
        """Return the prompts whose results are not available."""
        done = _load(self._cache)
        return [prompt for prompt in self.prompts if prompt not in done]

    @property
    def images_needed(self) -> int:
        """Return how many images `run` would still generate."""
        return len(self.missing) * self.settings.seeds_per_prompt

    def run(self, batch_size: int, on_progress: OnProgress | None = None) -> list[ControlResult]:
        """Return the result of each prompt, in order.

        Results are kept as soon as they are known, by model, settings, metric and reference, so
        that an interrupted run goes on where it stopped. on_progress gets images done and in all.
        OutputError if the cache can't be written.
        """
        results, missing = _load(self._cache), self.missing
        each, report = self.settings.seeds_per_prompt, on_progress or (lambda *_: None)
        at_once = max(1, batch_size // each)
        for start in range(0, len(missing), at_once):
            report((len(self.prompts) - len(missing) + start) * each, len(self.prompts) * each)
            results |= self._measure(missing[start : start + at_once], batch_size)
            _save(self._cache, results)
        report(len(self.prompts) * each, len(self.prompts) * each)
        return [results[prompt] for prompt in self.prompts]

    def _measure(self, prompts: Sequence[str], batch_size: int) -> dict[str, ControlResult]:
        try:
            images = self._generate(prompts, batch_size)
        except NumericsError:  # not one picture of these prompts is finite
            nothing = ControlResult([], None if self.reference is None else [])
            return dict.fromkeys(prompts, nothing)
        parts = images.split(self.settings.seeds_per_prompt)
        return {prompt: self._compare(part) for prompt, part in zip(prompts, parts, strict=True)}

    def _generate(self, prompts: Sequence[str], batch_size: int) -> Tensor:
        each = range(self.settings.seeds_per_prompt)
        return self.pipeline.generate(
            [prompt for prompt in prompts for _ in each],
            [seed_for(self.settings.seed, prompt, i) for prompt in prompts for i in each],
            steps=self.settings.steps,
            guidance=self.settings.guidance,
            batch_size=batch_size,
            scheduler=self.settings.scheduler,
        ).images

    def _compare(self, images: Tensor) -> ControlResult:
        images = images[~is_failed(images)]
        to_reference = None
        if self.reference is not None:
            to_reference = []
            if len(images):
                to_reference = list(self.reference.nearest(self.metric, images)[0])
        if len(images) < 2:
            return ControlResult([], to_reference)
        embedded = self.metric.embed(images)
        among = nearest(self.metric, embedded, embedded, exclude_self=True)[0][:, 0]
        return ControlResult(among.tolist(), to_reference)

    @property
    def _cache(self) -> Path:
        """The file is named by all that can change a prompt's result."""
        identity = {
            **asdict(self.settings),
            "version": _VERSION,
            "model": self.pipeline.identity.sha256,
            "configuration": self.pipeline.identity.configuration_sha256,
            "dtype": self.pipeline.identity.dtype,
            "metric": self.metric.name,
            "metric_weights": self.metric.weights_sha256,
            "reference": None if self.reference is None else self.reference.sha256,
        }
        return self.cache_dir / f"controls-{digest(identity)[:32]}.json"


def all_among(results: Sequence[ControlResult]) -> np.ndarray:
    """Return the nearest-neighbour distances of all prompts' pictures, [m]."""
    return np.array([d for result in results for d in result.among])


def _load(cache: Path) -> dict[str, ControlResult]:
    """Return the results kept, none if there is no such file or it is damaged."""
    return read_kept(cache, _read) or {}


def _read(cache: Path) -> dict[str, ControlResult]:
    kept = json.loads(cache.read_text(encoding="utf-8"))
    return {prompt: _result(**result) for prompt, result in kept.items()}


def _result(among: Sequence[float], to_reference: Sequence[float] | None) -> ControlResult:
    return ControlResult(
        [float(d) for d in among],
        None if to_reference is None else [float(d) for d in to_reference],
    )


def _save(cache: Path, results: dict[str, ControlResult]) -> None:
    content = {prompt: asdict(result) for prompt, result in results.items()}
    try:
        write_atomically(cache, json.dumps(content, ensure_ascii=False, indent=1).encode())
    except OutputError as error:
        raise OutputError(
            f"Can't keep the results of control prompts in {cache.parent}: {error.__cause__}. "
            "Point the cache to a folder that can be written."
        ) from error
