"""How long work says how far it is."""

from collections.abc import Callable
from typing import Protocol

Count = Callable[[int, int], None]
"""What one stage tells while it works: how much is done, and how much there is."""


class Progress(Protocol):
    """What an audit tells while it works: a stage in plain words, and how much of it is done."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """Tell nothing."""
