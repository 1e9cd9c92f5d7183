"""How what a denoiser is handed grows with the batch, learned from a batch of one and one of two.

A pipeline hands its network tensors, lists and plain values, some of them for each picture and
some for all. Tensors of pictures hold `copies` rows for each: of classifier-free guidance the
unconditional and the conditional one, all of the first before all of the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Path = tuple[Any, ...]


class NoLayout(Exception):
    """What a network is handed does not grow in a way that is known."""


@dataclass(frozen=True)
class Shared:
    """A value that all pictures share."""


@dataclass(frozen=True)
class Rows:
    """A tensor or a list with rows for each picture."""


@dataclass(frozen=True)
class Inside:
    """A list or a dict whose parts grow each in its way."""

    parts: dict[Any, Layout]


Layout = Shared | Rows | Inside


def learn(one: Any, two: Any, where: Path = ()) -> Layout:
    """Return how a value grows, from the same of a batch of one and of a batch of two.

    Raises:
        NoLayout: It neither stays nor doubles.
    """
    match one, two:
        case Tensor(), Tensor():
            if one.shape == two.shape:
                return Shared()
            if one.ndim == two.ndim and two.shape == (2 * len(one), *one.shape[1:]):
                return Rows()
        case dict(), dict() if one.keys() == two.keys():
            return Inside({key: learn(one[key], two[key], (*where, key)) for key in one})
        case ((list() | tuple()), (list() | tuple())):
            if len(two) == len(one):
                pairs = enumerate(zip(one, two, strict=True))
                return Inside({i: learn(a, b, (*where, i)) for i, (a, b) in pairs})
            if len(two) == 2 * len(one):
                return Rows()
        case _ if type(one) is type(two):
            return Shared()
    raise NoLayout(f"{'.'.join(map(str, where))} does not grow with the batch in a known way")


def take(value: Any, layout: Layout, rows: list[int]) -> Any:
    """Return a value of a batch with the rows of each tensor and list that are named."""
    match layout, value:
        case Rows(), Tensor():
            return value[torch.tensor(rows, device=value.device)]
        case Rows(), _:
            return type(value)(value[row] for row in rows)
        case Inside(parts), dict():
            return {key: take(inner, parts[key], rows) for key, inner in value.items()}
        case Inside(parts), _:
            return type(value)(take(inner, parts[i], rows) for i, inner in enumerate(value))
    return value


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every value that is no list, tuple or dict, with its place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*path, i))
    else:
        yield path, value


def at(value: Any, path: Path) -> Any:
    """Return the value at a place."""
    for key in path:
        value = value[key]
    return value


def replaced(value: Any, path: Path, new: Any) -> Any:
    """Return a value with another at one place; what is not on the way there is shared."""
    if not path:
        return new
    key, *rest = path
    if isinstance(value, dict):
        return {**value, key: replaced(value[key], tuple(rest), new)}
    parts = list(value)
    parts[key] = replaced(parts[key], tuple(rest), new)
    return type(value)(parts)


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(inner, change) for inner in value)
    return value
