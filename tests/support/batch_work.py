"""A model for many prompts whose pictures follow from the prompt's first word, and runs with it."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from m2g_audit.batch.batch import Batch
from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.errors import NumericsError, ResourceError
from m2g_audit.models.protocol import Generations
from m2g_audit.prompts import PromptList, from_python
from m2g_audit.references.controls import load_prompts
from m2g_audit.store.batch_directory import BatchDirectory, BatchRecord
from tests.support.fakes import FakePipeline, picture, to_latents
from tests.support.setups import fake_setup

CONTROLS = frozenset(load_prompts())


def number_of(prompt: str, index: int) -> int | None:
    """Return the picture that seed `index` of a prompt gives; None stands for an overflow.

    `same`: one picture; `half`: one for every second seed; `broken`: overflows; `torn`: some do;
    `late`: the first three do; all else: a new picture for each seed.
    """
    own = zlib.crc32(prompt.encode()) % 10**6
    kind = prompt.split()[0]
    if kind == "broken" or (kind == "torn" and index % 4 == 1):
        return None
    if kind == "late" and index < 3:
        return None
    if kind == "same" or (kind in ("half", "torn") and index % 2 == 0):
        return own
    return 10**6 + 100 * own + index


@dataclass
class ManyPrompts(FakePipeline):
    """Knows any prompt; `fits` pictures fit in memory, `crash` is raised for prompts with its word.

    `batches` are the prompts of each call, `before` is called first. Control prompts are no part of
    all that: each gives new pictures.
    """

    prompt: str = ""
    numbers: Sequence[int | None] = ()
    fits: int = 10**6
    crash: dict[str, Exception] = field(default_factory=dict)
    batches: list[list[str]] = field(default_factory=list)
    before: Callable[[list[str]], None] = lambda _: None
    seconds: float = 0.0

    def generate(  # type: ignore[override]
        self, prompt: str | Sequence[str], seeds: Sequence[int], *, steps: int, **_: object
    ) -> Generations:
        prompts = [prompt] * len(seeds) if isinstance(prompt, str) else list(prompt)
        if CONTROLS.issuperset(prompts):
            return self._of_others(prompts, seeds)
        self.batches.append(prompts)
        self.before(prompts)
        for text in prompts:
            if text.partition(" ")[0] in self.crash:
                raise self.crash[text.partition(" ")[0]]
        if self.fits < 1:
            raise ResourceError("There is not enough memory for generating one picture.")
        time.sleep(self.seconds * len(seeds))
        made = [self._make(text, seed) for text, seed in zip(prompts, seeds, strict=True)]
        finite = torch.tensor([image is not None for image in made])
        if not finite.any():
            raise NumericsError("None of the pictures is finite: use --dtype float32.")
        images = torch.stack([torch.zeros(3, 8, 8) if i is None else i for i in made])
        latents = to_latents(images)
        latents[~finite] = torch.nan
        fitted = len(seeds)
        while fitted > self.fits:
            fitted //= 2
        return Generations(latents, latents, images, finite, fitted)

    def _make(self, prompt: str, seed: int) -> Tensor | None:
        index = next(i for i in range(1000) if seed_for(self.run_seed, prompt, i) == seed)
        number = number_of(prompt, index)
        return None if number is None else picture(number)


def open_batch(
    out: Path, prompts: Sequence[str] | PromptList, pipeline: FakePipeline, **options: object
) -> Batch:
    """Return a batch at `out`, begun or taken up again."""
    listed = prompts if isinstance(prompts, PromptList) else from_python(prompts)
    setup = fake_setup(pipeline, **options)
    directory = BatchDirectory.open(out, setup.identity, listed)
    directory.log.repair()
    return Batch(setup, directory)


def run_batch(
    out: Path, prompts: Sequence[str], pipeline: FakePipeline | None = None, **options: object
) -> list[BatchRecord]:
    """Run a batch to its end; return the records of its folder in the order of the list."""
    for _ in open_batch(out, prompts, pipeline or ManyPrompts(), **options).run():
        pass
    return list(BatchDirectory.read(out).records())


def work(out: Path, prompts: Sequence[str], seconds: float = 0.0, hang: str | None = None) -> None:
    """Run a batch in a process of its own, which may be killed; at prompt `hang` it stops."""

    def before(batch: list[str]) -> None:
        while hang in batch:
            time.sleep(0.1)

    torch.set_num_threads(1)
    run_batch(out, prompts, ManyPrompts(seconds=seconds, before=before), batch_size=6)
