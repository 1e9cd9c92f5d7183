"""How a pipeline uses its network, learned from runs of it by trying what reproduces its numbers.

The network itself is asked twice: for one guided and one unguided step. All other runs are
answered with what it said then. What nothing reproduces is refused; `proof` holds the rest against
a run that was not learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from m2g_audit.models.denoiser import (
    GUIDED,
    SEED,
    Answers,
    Branch,
    Clock,
    Denoiser,
    Form,
    Run,
    Unlike,
    difference,
    is_list_of_samples,
    repeated,
)
from m2g_audit.models.guidance import MIXES, GuidanceKind
from m2g_audit.models.layout import NoLayout, Path, at, learn, leaves, take
from m2g_audit.models.tap import Call, Step

# At another guidance the ways of mixing give other numbers.
_GUIDED_MORE = 6.5
_PROMPT = "a picture"
_LONGER = "a picture of a tree"
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def learn_denoiser(
    network: nn.Module, run: Run, timesteps: Sequence[int | float], count: int
) -> Denoiser:
    """Return how a pipeline uses its network.

    Args:
        network: The pipeline's denoiser.
        run: The pipeline's tap.
        timesteps: Three of them, highest first.
        count: How many the scheduler counts from clean to noise.

    Raises:
        Unlike: What it does could not be made out.
    """
    middle, seeds = timesteps[1], [SEED, SEED + 1]
    (step,) = run([_PROMPT], None, GUIDED, seeds[:1], [middle], None)
    one = tuple(call.output for call in step.calls)
    two = tuple(repeated(output, 2) for output in one)
    several = run([_PROMPT], None, GUIDED, seeds[:1], timesteps, one)
    (pair,) = run([_PROMPT, _PROMPT], None, GUIDED, seeds, [middle], two)
    (mixed,) = run([_PROMPT, _LONGER], None, GUIDED, seeds, [middle], two)
    (more,) = run([_PROMPT], None, _GUIDED_MORE, seeds[:1], [middle], one)
    clocks = _Clocks(timesteps, count, _timestep_scale(network))
    forms = tuple(
        _form([other.calls[i] for other in several], pair.calls[i], several[0].sample, clocks)
        for i in range(len(one))
    )
    every = [Branch(i, copy) for i, form in enumerate(forms) for copy in range(form.copies)]
    if len(every) > 2:
        raise Unlike(f"Its network answers {len(every)} times a step, not once or twice.")
    unguided, alone = _without_guidance(run, len(every), seeds[:1], middle)
    tolerance = _TOLERANCES[_precision(network)]
    wanted = step.model_output if len(every) == 1 else alone.model_output
    answers, conditional = _conditional(step, every, wanted, tolerance)
    others = [branch for branch in every if branch != conditional]
    if others:
        parts = [
            answers.read(one[branch.call], 1)[branch.copy] for branch in (conditional, *others)
        ]
        guidance = _mixing(parts, {GUIDED: step, _GUIDED_MORE: more}, tolerance)
    else:
        guidance = "none" if _same_calls(step.calls, more.calls) else "distilled"
    return Denoiser(
        run=run,
        timestep=middle,
        forms=forms,
        answers=answers,
        conditional=conditional,
        unconditional=others[0] if others else None,
        guidance=guidance,
        unguided=unguided,
        shares_batches=_shares(mixed, step, forms),
        guided_one=one,
        unguided_one=tuple(call.output for call in alone.calls),
        tolerance=tolerance,
    )


class _Clocks:
    """Reads off how a value follows the scheduler's timesteps."""

    def __init__(self, timesteps: Sequence[int | float], count: int, scale: float) -> None:
        self._timesteps = timesteps
        self._usual = [(0.0, 1.0), (0.0, 1 / count), (1.0, -1 / count), (0.0, scale)]

    def read(self, path: Path, calls: Sequence[Call]) -> Clock:
        """Return the line on which a value lies; Unlike where it lies on none."""
        values = [at(call.arguments, path) for call in calls]
        if not all(isinstance(value, Tensor) and _is_constant(value) for value in values):
            raise Unlike(f"What follows the noise level ({path[0]}) is no time.")
        read = [float(value.flatten()[0]) for value in values]
        precision = torch.finfo(values[0].dtype).eps if values[0].is_floating_point() else 0.5
        slope = (read[0] - read[2]) / (self._timesteps[0] - self._timesteps[2])
        for start, step in (*self._usual, (read[0] - slope * self._timesteps[0], slope)):
            expected = [start + step * t for t in self._timesteps]
            pairs = zip(read, expected, strict=True)
            if all(abs(a - b) <= precision * max(abs(a), 1.0) for a, b in pairs):
                return Clock(path, start, step)
        raise Unlike(f"The times that its network is told ({path[0]}) follow no line.")


def _form(calls: Sequence[Call], two: Call, sample: Tensor, clocks: _Clocks) -> Form:
    """How a call is made, from the same at three levels, and for two pictures."""
    one = calls[0].arguments
    try:
        layout = learn(one, two.arguments)
    except NoLayout as error:
        raise Unlike(f"What its network is handed is not understood: {error}.") from error
    where, copies = _find_sample(one, sample)
    pairs = zip(leaves(one), leaves(calls[1].arguments), strict=True)
    following = [path for (path, value), (_, other) in pairs if not _equal(value, other)]
    return Form(layout, where, tuple(clocks.read(path, calls) for path in following), copies)


def _find_sample(arguments: dict[str, Any], sample: Tensor) -> tuple[Path, int]:
    """Where the network is handed the sample, and how often."""
    size = sample.numel()
    for name, value in arguments.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() % size == 0:
            rows = value.reshape(-1, size)
        elif is_list_of_samples(value) and all(part.numel() == size for part in value):
            rows = torch.stack([part.flatten() for part in value])
        else:
            continue
        # It may be handed over in half precision.
        if len(rows) and difference(rows, sample.flatten().expand_as(rows)) <= 1e-2:
            return (name,), len(rows)
    raise Unlike("Its network is not handed the sample as the scheduler has it.")


def _without_guidance(
    run: Run, branches: int, seeds: Sequence[int], timestep: int | float
) -> tuple[float, Step]:
    for scale in (1.0, 0.0):
        (step,) = run([_PROMPT], None, scale, seeds, [timestep], None)
        copies = sum(_find_sample(call.arguments, step.sample)[1] for call in step.calls)
        if copies == 1 or branches == 1:
            return scale, step
    raise Unlike("Its guidance can't be switched off.")


def _conditional(
    step: Step, branches: Sequence[Branch], wanted: Tensor, tolerance: float
) -> tuple[Answers, Branch]:
    """How answers are read, and the branch whose answer is what the scheduler gets unguided."""
    for sign in (1, -1):
        answers = Answers(tuple(step.sample.shape[1:]), sign)
        for branch in branches:
            read = answers.read(step.calls[branch.call].output, 1)[branch.copy]
            if difference(read, wanted) <= tolerance:
                return answers, branch
    raise Unlike("What its scheduler is given is none of its network's answers.")


def _mixing(parts: Sequence[Tensor], steps: dict[float, Step], tolerance: float) -> GuidanceKind:
    conditional, unconditional = parts
    for kind, mix in MIXES.items():
        errors = [
            difference(mix(conditional, unconditional, scale), step.model_output)
            for scale, step in steps.items()
        ]
        if max(errors) <= tolerance:
            return kind
    raise Unlike("How it mixes its conditional and unconditional answers is not known.")


def _shares(mixed: Step, step: Step, forms: Sequence[Form]) -> bool:
    """Whether a prompt is handed over alike alone and beside a longer one."""
    firsts = [
        take(call.arguments, form.layout, [2 * copy for copy in range(form.copies)])
        for call, form in zip(mixed.calls, forms, strict=True)
    ]
    return all(
        _alike(a, b)
        for first, call in zip(firsts, step.calls, strict=True)
        for (_, a), (_, b) in zip(leaves(first), leaves(call.arguments), strict=True)
    )


def _same_calls(one: Sequence[Call], other: Sequence[Call]) -> bool:
    return all(
        _equal(a, b)
        for first, second in zip(one, other, strict=True)
        for (_, a), (_, b) in zip(leaves(first.arguments), leaves(second.arguments), strict=True)
    )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one is other or bool(one == other)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and one.is_floating_point() and isinstance(other, Tensor):
        return difference(one, other) <= 1e-4
    return _equal(one, other)


def _is_constant(value: Tensor) -> bool:
    return value.numel() > 0 and bool((value == value.flatten()[0]).all())


def _timestep_scale(network: nn.Module) -> float:
    return getattr(network.config, "timestep_scale", None) or 1.0


def _precision(network: nn.Module) -> torch.dtype:
    return next(p.dtype for p in network.parameters() if p.is_floating_point())
