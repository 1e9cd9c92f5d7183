"""Sampling with a pipeline: which schedulers can be kept, and what is seen of each step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any

from torch import Tensor

from m2g_audit.models.origins import Origin

# Their noise comes from a Brownian tree for a whole batch, not from the pictures' generators.
_OWN_NOISE = frozenset({"DPMSolverSDEScheduler"})
_FEW_STEPS = frozenset({"LCMScheduler", "TCDScheduler"})
_FEW_STEPS_NAME = re.compile(
    r"(?i)(?<![a-z])(lcm|tcd|turbo|lightning|hyper-?sd|schnell|sprint)(?![a-z])"
)
_STEP = ("model_output", "timestep", "sample")


def unkept(scheduler: Any) -> str | None:
    """Why a pipeline's own scheduler can't be sampled with, None where it can."""
    name = type(scheduler).__name__
    if name in _OWN_NOISE:
        return "draws noise that no seed decides, so that no picture could be made again"
    needed = [p.name for p in signature(scheduler.step).parameters.values() if p.default is p.empty]
    if "Inverse" in name or len(needed) > len(_STEP):
        return "does not go from noise and a prompt to a picture"
    return None


def distilled(origin: Origin, scheduler: str) -> str | None:
    """What tells that a model was distilled to few steps, None where nothing does."""
    if scheduler in _FEW_STEPS:
        return f"its scheduler is {scheduler}"
    name = Path(origin.id).name or (origin.path or Path()).resolve().name
    return f"by its name, {name}" if _FEW_STEPS_NAME.search(name) else None


def progress_of(
    report: Callable[[int], None] | None, before: int, batch: int, steps: int
) -> Callable[[int], None]:
    """Return what tells of the steps of one batch, after the `before` image-steps of others."""

    def on_step(step: int) -> None:
        if report is not None:
            # Some schedulers (PNDM) take more evaluations than steps.
            report(before + batch * min(step + 1, steps))

    return on_step


@dataclass(frozen=True)
class Taken:
    """A scheduler's step: what it was given, where it came from and to.

    timestep: as it counts them; clean: the clean sample that it predicted on the way, `following`
    where it tells none.
    """

    model_output: Tensor
    timestep: Any
    sample: Tensor
    following: Tensor
    clean: Tensor


@contextmanager
def watched(
    scheduler: Any, on_step: Callable[[int], None], follow: Callable[[Taken], None] | None
) -> Iterator[list[Taken]]:
    """A block in which a scheduler's last step is kept in a list, all are counted and followed."""
    taken: list[Taken] = []
    step = scheduler.step
    done = 0

    @wraps(step)  # the pipeline asks for its signature
    def keep(*arguments: Any, **named: Any) -> Any:
        nonlocal done
        outcome = step(*arguments, **named)
        parts = outcome if isinstance(outcome, tuple) else tuple(outcome.values())
        asked = dict(zip(_STEP, arguments, strict=False)) | named
        # Some give (next sample, predicted clean sample).
        output, timestep, sample = (asked[name] for name in _STEP)
        last = Taken(output, timestep, sample, parts[0], parts[-1])
        taken[:] = [last]
        if follow is not None:
            follow(last)
        on_step(done)
        done += 1
        return outcome

    scheduler.step = keep
    try:
        yield taken
    finally:
        del scheduler.step
