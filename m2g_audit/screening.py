"""Screening: few seeds for every prompt, all of them for those that are not clearly novel.

A prompt is looked at after a quarter and after half of its seeds. It ends there where it is clearly
novel, and without a word better than `undecided`: few seeds can show that something repeats, not
that nothing does. All others are audited as they are without screening.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from m2g_audit.intervals import LEVEL
from m2g_audit.records import SeedRecord
from m2g_audit.states import Thresholds

LEAST_SEEDS = 8
"""With fewer seeds there is no earlier look."""

_FEWEST = 4
_WIDE, _NARROW = 1.75, 1.0
_SPENT_EARLY = 0.05


@dataclass(frozen=True)
class Look:
    """A number of seeds, fixed in advance, after which a prompt may end.

    margin: by how many times both thresholds its pictures must be away from each other and from S
    to end here, None at the last look, where every prompt ends; level: of the intervals of a prompt
    that ends here.
    """

    seeds: int
    margin: float | None
    level: float


def looks(seeds: int, level: float = LEVEL) -> tuple[Look, ...]:
    """Return the looks at a prompt that is screened, the last one at all `seeds`.

    Early ones are at a quarter and at half of the seeds, if those are 4 or more. Each may err with
    1/20 of 1 - level and the last with the rest, so that the chance that any interval of a prompt
    misses, whenever it ends, is at most 1 - level (Bonferroni over the looks); little is spent
    early because nothing is claimed there.

    The margin is 1 at half of at least 16 seeds, as most of what repeats among all of them does
    among half, and 1.75 where fewer are seen. What that saves and misses on pocket, with margins
    chosen on other captions: benchmarks/results/screening.md.
    """
    early = [n for n in (seeds // 4, seeds // 2) if n >= _FEWEST]
    spent = _SPENT_EARLY * (1 - level)
    return (
        *(Look(n, _margin(n, seeds), 1 - spent) for n in early),
        Look(seeds, None, level + len(early) * spent),
    )


def _margin(n: int, seeds: int) -> float:
    return _NARROW if n == seeds // 2 and n >= 2 * _FEWEST else _WIDE


def is_clearly_novel(
    seeds: Sequence[SeedRecord], thresholds: Thresholds, margin: float | None
) -> bool:
    """Return whether no picture is within `margin` thresholds of another one or of S.

    Never without a margin, nor where a picture failed: what it would have shown is not known.
    """
    if margin is None or any(seed.state == "failed" for seed in seeds):
        return False
    pairs = [
        (near.distance, threshold)
        for seed in seeds
        for near, threshold in (
            (seed.nearest_sample, thresholds.delta_s),
            (seed.nearest_reference, thresholds.delta_m),
        )
        if near is not None and threshold is not None
    ]
    return all(distance > margin * threshold for distance, threshold in pairs)
