"""Checks of a training while it runs: what each checkpoint gives back of the training set."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from m2g_audit.audits.fine_tuned import of_fine_tune
from m2g_audit.audits.loaders import loader_of
from m2g_audit.audits.options import OF_A_LIST
from m2g_audit.audits.setup import set_up
from m2g_audit.batch.batch import Batch
from m2g_audit.batch.opening import open_directory
from m2g_audit.errors import NumericsError, UsageError
from m2g_audit.files import check_writable
from m2g_audit.progress import Progress, silent
from m2g_audit.prompts.training_set import TrainingSet, prompts_of, read_training_set
from m2g_audit.review.finetune import (
    FinetuneSummary,
    gave_back,
    summarise_finetune,
    write_finetune,
)
from m2g_audit.review.summary import finish
from m2g_audit.review.watching import Check, read_checks, share_at_look, write_checks
from m2g_audit.store.batch_directory import BatchDirectory

CAPTIONS = 16
SEEDS = 8
_CHOICE = 0  # of captions; the same for all checkpoints, so that their checks are comparable


class Monitor:
    """Checks a training's pipeline, or its checkpoints, against the set that it is trained on.

        monitor = Monitor("./training-set", out="./output/m2g")
        ...
        if step % 500 == 0:  # where the script makes its validation pictures
            check = monitor.check(pipeline, step)
            accelerator.log(check.scalars, step=step)

    The training is left as it was: its random numbers, what is trained, which modules are in
    training mode. What was checked is kept in `out` and not checked again.
    """

    def __init__(
        self,
        data: str | Path,
        *,
        out: str | Path,
        captions: int = CAPTIONS,
        trigger: str | None = None,
        encoding: str | None = None,
        **options: Any,
    ) -> None:
        """Read the training set; nothing is loaded yet.

        Args:
            data: The training set, as `m2g-audit finetune --data` takes it.
            out: The folder of the checks.
            captions: How many of its captions are tried, drawn at random, the same each time.
            trigger: The word that was taught, by default one that all captions share.
            encoding: Of captions that are not UTF-8.
            options: Those of AuditOptions but model and reference; seeds are 8 if not given.

        Raises:
            UsageError: Options or captions can't be used, or captions is below 1.
            ReferenceFolderError: There are no pictures.
            OutputError: `out` can't be written, or holds something else.
        """
        if captions < 1:
            raise UsageError("A training is watched by at least one caption.")
        self.data, self.out = Path(data).expanduser(), Path(out)
        check_writable(self.out)
        self.training_set = read_training_set(
            self.data, leave_out=[self.out], encoding=encoding, trigger=trigger
        )
        chosen = _draw(self.training_set, captions)
        self.prompts = prompts_of(chosen, recombined=0)
        usual = {**OF_A_LIST, "spectrum": "none", "seeds": SEEDS}
        self._options = {**usual, **options, "reference": str(self.data)}
        self.checks = read_checks(self.out)

    def check(self, model: Any, step: int, *, on_progress: Progress = silent) -> Check:
        """Return what a model gives back after `step` steps; one that was checked is not again.

        Args:
            model: A diffusers pipeline in memory, or the path of a checkpoint: a model's folder, a
                trainer's `checkpoint-500`, a LoRA (with the option base).
            step: Of the training.
            on_progress: Told how far the loading is.

        Raises:
            NumericsError: No caption got a verdict.
            ModelError, UsageError, ResourceError, OutputError: As of an audit.
        """
        known = next((check for check in self.checks if check.step == step), None)
        if known is not None:
            return known
        start = time.monotonic()
        folder = self.out / f"step-{step:09d}"
        with _undisturbed(model):
            directory = self._audit(model, folder, on_progress)
        summary = summarise_finetune(
            directory, self.training_set.captions, str(self.data), notices=self.prompts.notices
        )
        write_finetune(directory, summary)
        named = str(model) if isinstance(model, str | Path) else f"{type(model).__name__} in memory"
        check = self._to_check(directory, summary, step, named, time.monotonic() - start)
        self.checks.append(check)
        write_checks(self.out, self.checks)
        return check

    def _audit(self, model: Any, folder: Path, on_progress: Progress) -> BatchDirectory:
        load, asked = loader_of({**self._options, "model": model})
        if load is None:
            asked = of_fine_tune(asked, str(model), self.data)
        setup = set_up(asked, out=folder, load=load, on_progress=on_progress)
        listed = self.prompts.with_negative_prompt(asked.negative_prompt)
        directory = open_directory(setup, listed, folder.name, folder)
        directory.log.repair()
        for _ in Batch(setup, directory).run():
            pass
        finish(directory, listed.notices)
        return directory

    def _to_check(
        self,
        directory: BatchDirectory,
        summary: FinetuneSummary,
        step: int,
        model: str,
        seconds: float,
    ) -> Check:
        count = summary.kinds["caption"]
        if not count.prompts:
            failed = next((r.error.message for r in directory.records() if r.error), "")
            raise NumericsError(f"Step {step}: none of the captions got a verdict. {failed}")
        captions = {entry.id for entry in directory.entries if entry.label == "caption"}
        giving = len(captions & {entry.id for entry in gave_back(directory, summary)})
        look = len(self.checks) + 1
        return Check(
            look=look,
            step=step,
            model=model,
            captions=count.prompts,
            giving=giving,
            share=share_at_look(giving, count.prompts, look),
            generations=count.generations,
            copies=count.copies,
            calibrated=any(r.thresholds.calibrated for r in directory.records() if r.thresholds),
            pictures=[picture.name for picture in summary.returned if picture.confirmed],
            folder=directory.path.name,
            seconds=round(seconds, 3),
        )


def _draw(found: TrainingSet, most: int) -> TrainingSet:
    """Return the pictures of at most `most` captions, drawn at random."""
    texts = sorted({text for text in found.captions.values() if text})
    kept = set(random.Random(_CHOICE).sample(texts, min(most, len(texts))))
    pictures: dict[str, str | None] = {
        name: text for name, text in found.captions.items() if text in kept
    }
    return replace(found, captions=pictures)


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Leave a pipeline in training as it was: random numbers, modes, what asks for gradients."""
    parts = getattr(model, "components", {})
    networks = [part for part in parts.values() if isinstance(part, nn.Module)]
    modes = [(module, module.training) for part in networks for module in part.modules()]
    trained = [(each, each.requires_grad) for part in networks for each in part.parameters()]
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for each, asks in trained:
            each.requires_grad_(asks)
