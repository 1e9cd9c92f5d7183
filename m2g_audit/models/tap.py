"""A diffusers pipeline run at noise levels of our choice, and what its denoiser was handed there.

The pipeline does all of its own work: embedding, packing, guidance. Only its scheduler stands
still: it names the levels, changes nothing, and ends the run after the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import wraps
from inspect import Signature, signature
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

DENOISERS = ("transformer", "unet", "prior")


@dataclass(frozen=True)
class Call:
    """What a pipeline handed its denoiser, by parameter, and what that answered."""

    arguments: dict[str, Any]
    output: Any


@dataclass(frozen=True)
class Step:
    """One step: the denoiser's calls, and what the scheduler was given of them.

    model_output: guided as the pipeline guides, of the sample's shape; sample: [b, ...].
    """

    calls: tuple[Call, ...]
    model_output: Tensor
    sample: Tensor


class _Stop(Exception):
    """Ends a run where nothing of it is needed any more."""


def denoiser_name(pipe: Any) -> str | None:
    """Return the part of a pipeline that is asked at every step, None where there is none."""
    return next((n for n in DENOISERS if isinstance(getattr(pipe, n, None), nn.Module)), None)


def tap(
    pipe: Any,
    scheduler: Any,
    timesteps: Sequence[int | float],
    *,
    answers: Sequence[Any] | None = None,
    **call: Any,
) -> list[Step]:
    """Return what one run of a pipeline does at each of the timesteps, its sample never changed.

    Args:
        pipe: The pipeline, which is left alone.
        scheduler: Stands in for the pipeline's own, as what its timesteps are counted by.
        timesteps: As the scheduler counts them, highest first.
        answers: What the denoiser's calls of each step are answered with, instead of asking it.
        call: What the pipeline is called with: prompt, generator, ...
    """
    calls: list[Call] = []
    steps: list[Step] = []

    def on_step(model_output: Tensor, sample: Tensor) -> Tensor:
        steps.append(Step(tuple(calls), model_output, sample))
        calls.clear()
        if len(steps) == len(timesteps):
            raise _Stop
        return sample

    own = recording(pipe, calls, answers)
    own.scheduler = _standing(scheduler, timesteps, on_step)
    with suppress(_Stop):
        own(num_inference_steps=len(timesteps), output_type="latent", **call)
    return steps


def decode(
    pipe: Any,
    scheduler: Any,
    timestep: int | float,
    sample: Tensor,
    answers: Sequence[Any] | None,
    **call: Any,
) -> Tensor:
    """Return the pictures that a pipeline makes of final samples, [b, 3, H, W] in [0, 1].

    The one step before them is answered by `answers`, and its outcome passed over.
    """
    own = recording(pipe, [], answers)
    own.scheduler = _standing(scheduler, [timestep], lambda *_: sample)
    return own(num_inference_steps=1, output_type="pt", **call).images


def recording(pipe: Any, calls: list[Call], answers: Sequence[Any] | None = None) -> Any:
    """Return a pipeline of the same parts, of which all that its denoiser is asked is kept.

    The parts themselves are left alone: other threads may be using them.
    """
    own, name = copy(pipe), denoiser_name(pipe)
    assert name is not None
    # Not by the pipeline's own setter, which takes nothing but a network.
    own.__dict__[name] = _Recorder(getattr(pipe, name), calls, answers)
    return own


class _Recorder:
    """A network that keeps what it is asked; `answers`: what it says instead of being asked."""

    def __init__(
        self, network: nn.Module, calls: list[Call], answers: Sequence[Any] | None
    ) -> None:
        self._network = network
        self._calls = calls
        self._answers = answers
        self._parameters = signature(network.forward)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        given = dict(self._parameters.bind(*arguments, **named).arguments)
        if self._answers is None:
            output = self._network(*arguments, **named)
        else:
            output = self._answers[len(self._calls)]
        self._calls.append(Call(given, output))
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)


def _standing(
    scheduler: Any,
    timesteps: Sequence[int | float],
    on_step: Callable[[Tensor, Tensor], Tensor],
) -> Any:
    """Return a scheduler that goes where it is told.

    on_step: gets the model's output and the sample, and returns the next sample.
    """
    standing = deepcopy(scheduler)

    @wraps(scheduler.set_timesteps)
    def set_timesteps(*_: Any, device: Any = None, **__: Any) -> None:
        kind = torch.int64 if all(isinstance(t, int) for t in timesteps) else torch.float32
        standing.timesteps = torch.tensor(timesteps, dtype=kind, device=device)
        standing.num_inference_steps = len(timesteps)

    @wraps(scheduler.step)
    def step(model_output: Tensor, timestep: Any, sample: Tensor, *_: Any, **named: Any) -> Any:
        following = on_step(model_output, sample)
        if named.get("return_dict", True):
            return SimpleNamespace(prev_sample=following)
        # Some pipelines (LCM) want the clean sample beside it.
        return (following, following)

    standing.set_timesteps = set_timesteps
    if hasattr(scheduler, "scale_model_input"):
        standing.scale_model_input = lambda sample, *_, **__: sample
    standing.step = step
    return standing


def bound(parameters: Signature, arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict]:
    """Return the positional and the named part of recorded arguments."""
    given = parameters.bind_partial()
    given.arguments.update(arguments)
    return given.args, given.kwargs
