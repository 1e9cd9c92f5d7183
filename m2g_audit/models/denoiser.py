"""The network of any pipeline at any sample, noise level and prompt: recorded once, then replayed.

What a pipeline hands its network in one step holds its embeddings, masks, positions and packing.
How that grows with the batch and follows the level, which of the answers is the conditional one,
and how they are mixed is learned from runs of the pipeline itself (`learning`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from m2g_audit.errors import ModelError
from m2g_audit.models.guidance import GuidanceKind
from m2g_audit.models.layout import Layout, Path, at, mapped, replaced, take
from m2g_audit.models.tap import Step, bound

GUIDED = 4.0
"""At which what is learned is looked at, and prompts are recorded."""
SEED = 20_505_217
Run = Callable[..., list[Step]]
"""The pipeline's tap, of (prompts, negative prompt, guidance, seeds, timesteps, answers)."""


class Unlike(ModelError):
    """What a pipeline does with its network is not understood: no score can be had of it."""


@dataclass(frozen=True)
class Branch:
    """One of the answers of a step: of which call, and which of its copies."""

    call: int
    copy: int


@dataclass(frozen=True)
class Clock:
    """A value that follows the scheduler's timestep: `start` + `slope` * timestep."""

    path: Path
    start: float
    slope: float


@dataclass(frozen=True)
class Form:
    """How one of the calls of a step is made.

    layout: how what is handed grows with the batch; sample: where x lies, a tensor or a list of
    them; clocks: what follows the level; copies: rows of each picture.
    """

    layout: Layout
    sample: Path
    clocks: tuple[Clock, ...]
    copies: int


@dataclass(frozen=True)
class Answers:
    """How samples are read from what a network answers: their shape, and the sign of it."""

    shape: tuple[int, ...]
    sign: int

    def read(self, output: Any, count: int) -> list[Float[Tensor, " b *shape"]]:
        """Return the answers of one call to `count` pictures, one for each copy.

        Raises:
            Unlike: There are not as many numbers as a sample has, or twice as many.
        """
        output = first_tensors(output)
        rows = output if isinstance(output, Tensor) else torch.stack(list(output))
        size = torch.Size(self.shape).numel()
        if rows[0].numel() == 2 * size:  # a learned variance beside it
            rows = rows.chunk(2, dim=1)[0]
        if rows[0].numel() != size:
            raise Unlike(
                f"Its network answers with {rows[0].numel():,} numbers for a sample of {size:,}."
            )
        return list((self.sign * rows).reshape(len(rows), *self.shape).split(count))


@dataclass(frozen=True)
class Conditioning:
    """What the calls of one step are handed for one prompt, in a batch of one."""

    calls: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Denoiser:
    """A pipeline's network, as its pipeline uses it; made by `learning.learn_denoiser`.

    run: the pipeline's tap; forms: of the calls of a guided step; answers: how samples are read
    from them; conditional, unconditional: the branches, the latter None where there is only one;
    guidance: how they are mixed; unguided: the scale that means no guidance; shares_batches:
    whether prompts of other lengths beside it change nothing of what is handed for a prompt;
    guided_one, unguided_one: what the network answered to one picture; tolerance: up to which
    differences count as rounding.
    """

    run: Run
    timestep: int | float
    forms: tuple[Form, ...]
    answers: Answers
    conditional: Branch
    unconditional: Branch | None
    guidance: GuidanceKind
    unguided: float
    shares_batches: bool
    guided_one: tuple[Any, ...]
    unguided_one: tuple[Any, ...]
    tolerance: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample as the scheduler sees it."""
        return self.answers.shape

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The conditional branch, and the unconditional one if there is one."""
        both = (self.conditional, self.unconditional)
        return tuple(branch for branch in both if branch is not None)

    def blank(self, count: int) -> tuple[Any, ...]:
        """Return answers of the right form for an unguided step of `count` pictures."""
        return tuple(repeated(output, count) for output in self.unguided_one)

    def condition(
        self, prompt: str, negative_prompt: str | None = None, scale: float | None = None
    ) -> Conditioning:
        """Return what the network is handed for a prompt; the network itself is not asked.

        `scale` counts for distilled guidance only, which is among what is handed.
        """
        told = scale if self.guidance == "distilled" and scale is not None else GUIDED
        (step,) = self.run(
            [prompt], negative_prompt, told, [SEED], [self.timestep], self.guided_one
        )
        return Conditioning(tuple(call.arguments for call in step.calls))

    def predict(
        self,
        network: nn.Module,
        conditioning: Conditioning,
        branches: Sequence[Branch],
        x: Float[Tensor, " b *shape"],
        timestep: int | float,
    ) -> list[Float[Tensor, " b *shape"]]:
        """Return what a network answers in each of the branches, in the scheduler's sign and shape.

        Args:
            network: The pipeline's own, or the same in another precision.
            conditioning: Of the prompt.
            branches: Those that are wanted; of one call they are asked together.
            x: Samples at the level of `timestep`.
            timestep: As the scheduler counts.
        """
        parts: dict[Branch, Tensor] = {}
        for i in sorted({branch.call for branch in branches}):
            together = sorted((b for b in branches if b.call == i), key=lambda b: b.copy)
            arguments = self._arguments(conditioning.calls[i], self.forms[i], together, x, timestep)
            positional, named = bound(signature(network.forward), arguments)
            output = network(*positional, **named)
            parts |= dict(zip(together, self.answers.read(output, len(x)), strict=True))
        return [parts[branch] for branch in branches]

    def _arguments(
        self,
        recorded: dict[str, Any],
        form: Form,
        branches: Sequence[Branch],
        x: Tensor,
        timestep: int | float,
    ) -> dict[str, Any]:
        rows = [branch.copy for branch in branches for _ in range(len(x))]
        arguments = take(recorded, form.layout, rows)
        for clock in form.clocks:
            value = clock.start + clock.slope * timestep
            told = at(arguments, clock.path)
            whole = value if told.is_floating_point() else round(value)
            arguments = replaced(arguments, clock.path, torch.full_like(told, whole))
        arguments = mapped(arguments, lambda t: t.to(x.dtype) if t.is_floating_point() else t)
        samples = torch.cat([x] * len(branches))
        place = at(arguments, form.sample)
        if isinstance(place, Tensor):
            return replaced(arguments, form.sample, samples.reshape(place.shape))
        listed = [s.reshape(p.shape) for s, p in zip(samples, place, strict=True)]
        return replaced(arguments, form.sample, type(place)(listed))


def difference(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest value of the second."""
    if one.shape != other.shape:
        return float("inf")
    largest = float(other.abs().max())
    return float((one.float() - other.float()).abs().max()) / max(largest, 1e-30)


def first_tensors(output: Any) -> Any:
    """Return the tensor, or the list of one tensor for each picture, that an answer begins with."""
    while not isinstance(output, Tensor) and not is_list_of_samples(output):
        output = output[0]
    return output


def repeated(output: Any, count: int) -> Any:
    """Return the answer to one picture as it would be to several."""
    if isinstance(output, Tensor):
        return output.repeat_interleave(count, 0)
    if is_list_of_samples(output):
        return [part for part in output for _ in range(count)]
    return (repeated(output[0], count),)


def is_list_of_samples(value: Any) -> bool:
    """Whether a value is a list of tensors of numbers."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(part, Tensor) and part.is_floating_point() for part in value)
    )
