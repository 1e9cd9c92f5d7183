"""When a prompt is looked at: after a fixed number of seeds, or after 8, 16, 32, 64 until it ends.

The numbers of seeds are fixed in advance and each look may err with a part of what is allowed in
all, so that the chance of a wrong word, of a missed attractor or of an interval that does not
cover, whenever a prompt ends, is at most what a single look may err with (Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass

from m2g_audit.verdict.intervals import LEVEL
from m2g_audit.verdict.shares import WORD_ALPHA


@dataclass(frozen=True)
class Look:
    """A number of seeds after which a prompt is looked at, and what this look may err with.

    word: one-sided, for the bound of a word; mass: for an attractor that was missed; level: of the
    intervals that are printed.
    """

    seeds: int
    word: float = WORD_ALPHA
    mass: float = 1 - LEVEL
    level: float = LEVEL


AUTO = (
    Look(8, word=0.005, mass=0.0, level=0.99),
    Look(16, word=0.011, mass=0.03, level=0.98),
    Look(32, word=0.0045, mass=0.01, level=0.99),
    Look(64, word=0.0045, mass=0.01, level=0.99),
)
"""The looks of `--seeds auto`: word adds up to 2.5%, mass and 1 - level to 5%.

All of 8 pictures, 13 of 16, 24 of 32 or 43 of 64 give a word. 16 new pictures leave 29.3% of the
mass, within the limit of `generalized`, so that a clean prompt ends there.
"""


def looks(seeds: int | None) -> tuple[Look, ...]:
    """Return the looks at a prompt: one at `seeds`, or those of `--seeds auto` (None)."""
    return AUTO if seeds is None else (Look(seeds),)
