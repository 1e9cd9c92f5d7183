"""How long work says how far it is."""

from typing import Protocol


class Progress(Protocol):
    """What an audit tells while it works: a stage in plain words, and how much of it is done."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def silent(stage: str, done: int, total: int) -> None:
    """Tell nothing."""
