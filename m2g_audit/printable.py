"""Prompts are other people's text: how they are shown where text can do harm."""

import unicodedata

# Marks that turn the direction of what follows, beyond the text that holds them.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSHOWN = frozenset({"Cc", "Cs", "Co", "Cn"})
_SPACES = frozenset({"Zs", "Zl", "Zp"})


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
