"""The one way to a terminal: whatever text is printed, it steers nothing there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from m2g_audit.text import printable


class Terminal(Console):
    """A console that shows text as it is: no markup, no escape sequences, no marks of direction.

    Names of files and models, texts of lists and records come from others. What rich itself sends,
    such as colours and movements of its own bars, is no text and stays.
    """

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        super().__init__(stderr=stderr, markup=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of what is printed, with their texts made harmless."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_harmless(segment.text), segment.style)


def _harmless(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))
