"""Prompts are other people's text: how they are shown where text can do harm."""

import unicodedata
from collections.abc import Sequence

# Marks that turn the direction of what follows, beyond the text that holds them.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSHOWN = frozenset({"Cc", "Cs", "Co", "Cn"})
_SPACES = frozenset({"Zs", "Zl", "Zp"})
_NUMBERS, _NAMES, _NAME = 5, 20, 60


def printable(text: str, limit: int | None = None) -> str:
    """Return `text` as one line that steers no terminal: at most `limit` letters, … for the rest.

    Control characters and marks of direction become �, every kind of space or line end a space.
    """
    shortened = text if limit is None or len(text) <= limit else text[: limit - 1] + "…"
    return "".join(map(_shown, shortened))


def _shown(letter: str) -> str:
    if letter in _BIDI:
        return "�"
    if letter in "\t\n\r":
        return " "
    category = unicodedata.category(letter)
    if category in _SPACES:
        return " "
    return "�" if category in _UNSHOWN else letter


def first_line(error: Exception) -> str:
    """What an error says, as one line that steers no terminal."""
    return printable(" ".join(str(error).split()), 200)


def some(numbers: Sequence[int], what: str = "line") -> str:
    """Return the first of `numbers` in words, as "lines 1, 2 and 7 more"."""
    shown = ", ".join(map(str, numbers[:_NUMBERS]))
    more = f" and {len(numbers) - _NUMBERS:,} more" if len(numbers) > _NUMBERS else ""
    return f"{what if len(numbers) == 1 else f'{what}s'} {shown}{more}"


def quoted(names: Sequence[str]) -> str:
    """Return the first of `names` as a message can hold them."""
    shown = ", ".join(repr(printable(name, _NAME)) for name in names[:_NAMES])
    more = len(names) - _NAMES
    return f"{shown} and {more:,} more" if more > 0 else shown


def duration(seconds: float) -> str:
    """Return seconds as a person says them: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
