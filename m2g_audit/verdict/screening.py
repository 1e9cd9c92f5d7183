"""What control prompts show about a model: does it repeat or copy for any prompt?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m2g_audit.verdict.intervals import Interval, clopper_pearson
from m2g_audit.verdict.thresholds import Thresholds

CONTAMINATED = 0.05
COLLAPSED = 0.5
_LEVEL = 0.98  # two-sided, so that its lower end is the one-sided 99% bound


@dataclass(frozen=True)
class ControlResult:
    """Of one prompt: the distances of its pictures that did not fail.

    among: [k] to the nearest other one, empty for fewer than two; to_reference: [k] to S, None
    without one.
    """

    among: list[float]
    to_reference: list[float] | None


@dataclass(frozen=True)
class Findings:
    """Shares of the pictures for control prompts, of `prompts` prompts with `seeds` seeds each.

    repeats: within delta_s of another one of its prompt; flagged: that, or within delta_m of S.
    Intervals are clustered by prompt: pictures of one prompt count as one.
    """

    prompts: int
    seeds: int
    repeats: Interval
    flagged: Interval

    @property
    def contaminated(self) -> bool:
        """Return whether the model repeats or copies for ordinary prompts too."""
        return self.flagged.low > CONTAMINATED

    @property
    def collapsed(self) -> bool:
        """Return whether seeds do little in this model, for any prompt."""
        return self.repeats.low > COLLAPSED


def look_into(results: Sequence[ControlResult], seeds: int, thresholds: Thresholds) -> Findings:
    """Return what the results of control prompts, of `seeds` seeds each, show by thresholds."""
    assert thresholds.delta_s is not None
    repeats, flagged = [], []
    for result in results:
        if not result.among:
            continue
        repeating = np.array(result.among) <= thresholds.delta_s
        copies = np.zeros(len(repeating), dtype=bool)
        if result.to_reference is not None and thresholds.delta_m is not None:
            copies = np.array(result.to_reference) <= thresholds.delta_m
        repeats.append(float(repeating.mean()))
        flagged.append(float((repeating | copies).mean()))
    n = len(repeats)
    return Findings(
        n, seeds, clopper_pearson(sum(repeats), n, _LEVEL), clopper_pearson(sum(flagged), n, _LEVEL)
    )
