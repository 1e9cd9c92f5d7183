"""How long work says how far it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

OnProgress = Callable[[int, int], None]
"""What one stage tells while it works: how much is done, and how much there is."""


class Progress(Protocol):
    """What an audit tells while it works: a stage in plain words, and how much of it is done."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take in how much of a stage is done."""


def silent(stage: str, done: int, total: int) -> None:
    """Tell nothing."""


@contextmanager
def shown() -> Iterator[Progress]:
    """A block whose progress is shown by bars, on a terminal and in a notebook, nowhere else."""
    from tqdm.auto import tqdm

    bars: dict[str, Any] = {}

    def tell(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            bars[stage] = tqdm(desc=stage, total=total, leave=False, disable=None)
        bars[stage].total = total
        bars[stage].update(done - bars[stage].n)

    try:
        yield tell
    finally:
        for bar in bars.values():
            bar.close()
