"""Prompts that would do harm to whoever trusts them."""

from __future__ import annotations

from m2g_audit.prompts import (
    MAX_PROMPT,
)

HOSTILE = [
    "<script>alert(1)</script>",
    '=HYPERLINK("http://example.org")',
    "bell \a and \x1b[31mcolour\x1b[0m",
    "nul \0 inside",
    "form\ffeed and next\x85line and \u2028separator",
    "مرحبا بالعالم",
    "right-to-left \u202eoverride",
    "emoji 👩‍👩‍👧 and 𝔉raktur",
    "a, comma; semicolon\tand tab | pipe",
    '"quoted"',
    "x" * MAX_PROMPT,
]
