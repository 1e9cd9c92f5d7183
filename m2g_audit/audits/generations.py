"""The pictures of one prompt: made seed by seed, kept as they come, read where a run left them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m2g_audit.audits.job import Job
from m2g_audit.audits.run_tensors import load_generation, save_generation
from m2g_audit.diagnostics.trajectory import Trajectory
from m2g_audit.errors import NumericsError
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.progress import OnProgress
from m2g_audit.store.run_directory import RunDirectory
from m2g_audit.verdict.states import S_PRIME

Made = tuple[Tensor, Tensor, Sequence[Trajectory | None]]
"""Images [k, 3, h, w], clean latents [k, c, h, w], and how each of the k came about."""


@dataclass(frozen=True)
class Generated:
    """Images [n, 3, h, w] in [0, 1], clean latents [n, c, h, w], and which of the n failed.

    Latents are the last predicted clean samples (pipelines.Generations).
    """

    images: Tensor
    latents: Tensor
    failed: NDArray[np.bool_]


class PromptPictures:
    """The pictures of one prompt in its folder: those that are there, and those still to make."""

    def __init__(self, job: Job, run: RunDirectory) -> None:
        self._run = run
        pipeline = job.setup.pipeline
        self._shapes = pipeline.image_size, pipeline.latent_shape
        self._first = min(S_PRIME, job.setup.settings.seeds)
        self._unsaved: dict[int, Trajectory | None] = {}
        self._kept = {
            i: pair
            for i in range(job.setup.settings.seeds)
            if (pair := load_generation(run, i, *self._shapes)) is not None
        }

    def missing(self, count: int) -> list[int]:
        """Return which of the first `count` indices are still to make, ascending."""
        return [i for i in range(count) if i not in self._kept]

    @property
    def _any_finite(self) -> bool:
        return any(bool(_finite(latents[None])) for _, latents in self._kept.values())

    def add(
        self,
        indices: Sequence[int],
        images: Tensor,
        latents: Tensor,
        trajectories: Sequence[Trajectory | None],
    ) -> None:
        """Keep generations: images [k, 3, h, w], clean latents [k, c, h, w], how they came about.

        All are read back from the folder, so that a resumed run sees what an undisturbed one sees.
        While none of the prompt is finite none is saved: a prompt that fails is made anew. Raises
        NumericsError once that is true of its first |S'| seeds, whatever is made at once.
        """
        for i, image, final in zip(indices, images, latents, strict=True):
            self._kept[i] = image, final
        self._unsaved |= dict(zip(indices, trajectories, strict=True))
        if not self._any_finite:
            if not self.missing(self._first):
                raise _overflow(self._first)
            return
        for i, trajectory in self._unsaved.items():
            save_generation(self._run, i, *self._kept[i], trajectory)
            stored = load_generation(self._run, i, *self._shapes)
            self._kept[i] = self._kept[i] if stored is None else stored
        self._unsaved.clear()

    def first(self, count: int) -> Generated:
        """Return the pictures of the first `count` seeds, once none of them is missing.

        Raises NumericsError where none of them, or of the first |S'|, is finite.
        """
        pairs = [self._kept[i] for i in range(count)]
        images = torch.stack([image for image, _ in pairs])
        latents = torch.stack([final for _, final in pairs])
        finite = _finite(latents).numpy()
        if not finite[: self._first].any():
            raise _overflow(min(count, self._first))
        return Generated(images, latents, is_failed(images) | ~finite)


def _overflow(count: int) -> NumericsError:
    return NumericsError(
        f"None of the first {count} pictures of this prompt is finite: the network overflows. Use "
        "--dtype float32; if it is used already, get the model's weights again."
    )


def generate(job: Job, pictures: PromptPictures, count: int, on_progress: OnProgress) -> Generated:
    """Return the first `count` pictures of a job, made or kept.

    `on_progress` gets image-steps done and in all. Raises NumericsError where nothing finite came;
    pictures that overflow beside finite ones count as failed.
    """
    steps, total = job.setup.settings.steps, count * job.setup.settings.steps
    missing = pictures.missing(count)
    for start in range(0, len(missing), job.setup.settings.batch_size):
        done = total - (len(missing) - start) * steps
        on_progress(done, total)

        def report(made: int, done: int = done) -> None:
            on_progress(done + made, total)

        batch = missing[start : start + job.setup.settings.batch_size]
        pictures.add(batch, *_make(job, batch, report))
    on_progress(total, total)
    return pictures.first(count)


def _make(job: Job, batch: Sequence[int], on_step: Callable[[int], None]) -> Made:
    try:
        made = job.setup.pipeline.generate(
            job.prompt,
            [job.generator_seed(i) for i in batch],
            negative_prompt=job.negative_prompt,
            steps=job.setup.settings.steps,
            guidance=job.setup.settings.guidance,
            batch_size=len(batch),
            scheduler=job.setup.settings.scheduler,
            on_progress=on_step,
        )
    except NumericsError:  # of these; whether of all of them is seen at the end
        return blank(job, len(batch))
    return made.images, made.clean, made.trajectories


def blank(job: Job, count: int) -> Made:
    """Return what stands for pictures that overflowed: black images and latents of NaN."""
    images = torch.zeros((count, 3, *job.setup.pipeline.image_size))
    latents = torch.full((count, *job.setup.pipeline.latent_shape), torch.nan)
    return images, latents, [None] * count


def _finite(latents: Tensor) -> Tensor:
    return torch.isfinite(latents).flatten(1).all(1)
