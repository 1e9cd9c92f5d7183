"""delta_m and delta_s of one model from its distance histograms (App. B.3), without a person.

The paper's authors saw where a histogram has two peaks and put the threshold between them. Here a
test says whether there are two (Hartigan & Hartigan 1985), the valley between them is that of a
kernel density in the middle of the bandwidths that give two modes (Silverman 1981), and it counts
only if 99% of pictures that the model never saw lie on its far side. Where there is one peak, the
distance that 1% of such pictures fall under stands in (DEFINITIONS: Thresholds).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from diptest import diptest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from m2g_audit.errors import UsageError
from m2g_audit.verdict.thresholds import ALPHA, low_quantile

FloatArray = NDArray[np.float64]
Rule = Literal["valley", "fresh", "by hand"]
Phase = Literal["below", "above", "both"]

LEVEL = 0.05
_GRID = 1024
_MOST_FOR_DIP = 20_000  # the dip's own table of critical values ends at 72,000
_BISECTIONS = 14  # leave 0.05% of the bandwidth open, which moves a valley by less than the grid
_MARGIN = 4.0  # bandwidths around the data, so that no mode lies on the edge


@dataclass(frozen=True)
class Threshold:
    """A threshold with where it comes from.

    `rule`: "valley" between two modes, "fresh" for the 1% quantile of pictures never trained on, or
    "by hand". `p_one_mode`: of the dip test that the histogram has one mode only. `phase`: whether
    the samples lie below the threshold (copies), above it, or on both sides of a valley. `fresh`:
    the 1% quantile. `n` distances of samples, and `n_fresh` fresh ones.
    """

    value: float
    rule: Rule
    phase: Phase
    p_one_mode: float
    fresh: float
    n: int
    n_fresh: int


def find_threshold(distances: FloatArray, fresh: FloatArray, alpha: float = ALPHA) -> Threshold:
    """The threshold for nearest-neighbour distances [n] of samples, beside those [m] of fresh ones.

    A valley is taken if the dip test refuses one mode at 5% and the valley separates two modes with
    the fresh pictures' `alpha` quantile between it and the upper one: two modes of one kind, such
    as the copies of two training pictures, are no transition, and a valley that more fresh pictures
    lie under is no bound of copies. Raises UsageError for too few fresh distances (99 for 1%), and
    where that many of them are 0.
    """
    limit = low_quantile(fresh, alpha)
    if limit <= 0:
        raise UsageError(
            f"More than {alpha:.1%} of the pictures that no model was trained on are at distance 0 "
            "to another one: no copy could be told from them. Give a --metric that tells these "
            "pictures apart, or take out what is there twice."
        )
    p = _p_one_mode(distances)
    found = valley(distances) if p < LEVEL else None
    if found is not None:
        _, at, high = found
        if at <= limit < high:
            return Threshold(at, "valley", "both", p, limit, len(distances), len(fresh))
    return Threshold(
        limit, "fresh", phase_of(distances, limit), p, limit, len(distances), len(fresh)
    )


def phase_of(distances: FloatArray, threshold: float) -> Phase:
    """On which side of a threshold the distances have their median."""
    return "below" if np.median(distances) <= threshold else "above"


def rate_in(size: int, n_fresh: int) -> float:
    """The share of n_fresh pictures' nearest neighbours under what is 1% in a set of `size`.

    The chance of a neighbour within r grows, where it is small, with the number of others: a
    quantile among fewer pictures than there are samples must be lower in proportion. Of too few
    pictures (size > n_fresh^2 / 100) it is their least distance, and more than 1% lie under it.
    """
    return max(ALPHA * min(1.0, (n_fresh - 1) / max(1, size - 1)), 1 / (n_fresh + 1))


def valley(distances: FloatArray) -> tuple[float, float, float] | None:
    """Lower mode, valley and upper mode of positive distances [n]; None where there are not two.

    Found on a logarithmic scale, on which copies at 0.001 and at 0.01 are one peak.
    """
    logs = np.log(distances[distances > 0])
    if len(logs) < 2 or np.ptp(logs) == 0:
        return None
    merged = _smallest_bandwidth(logs, 1)
    split = _smallest_bandwidth(logs, 2)
    modes, density, grid = _modes(logs, (split * merged) ** 0.5)
    if len(modes) != 2:
        return None
    first, last = modes[0], modes[-1]
    lowest = first + int(np.argmin(density[first : last + 1]))
    lower, at, upper = np.exp(grid[[first, lowest, last]])
    return float(lower), float(at), float(upper)


def _smallest_bandwidth(logs: FloatArray, modes: int) -> float:
    """The bandwidth from which on the kernel density has at most `modes` modes (Silverman 1981)."""
    low, high = 1e-3 * float(np.ptp(logs)), 2 * float(np.ptp(logs))
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5
        if len(_modes(logs, middle)[0]) > modes:
            low = middle
        else:
            high = middle
    return high


def _modes(logs: FloatArray, bandwidth: float) -> tuple[NDArray[np.intp], FloatArray, FloatArray]:
    """Indices of the maxima of the kernel density, the density, and the grid of both."""
    reach = float(np.ptp(logs)) * (1 + 1e-9)
    edges = np.linspace(logs.min() - reach, logs.max() + reach, _GRID + 1)
    counts, _ = np.histogram(logs, edges)
    step = edges[1] - edges[0]
    density = gaussian_filter1d(
        counts.astype(np.float64), bandwidth / step, mode="constant", truncate=_MARGIN * 2
    )
    inside = density[1:-1]
    peaks = np.flatnonzero((inside > density[:-2]) & (inside >= density[2:])) + 1
    return peaks, density, (edges[:-1] + edges[1:]) / 2


def _p_one_mode(distances: FloatArray) -> float:
    if len(distances) < 4:
        return 1.0
    chosen = np.sort(distances)
    if len(chosen) > _MOST_FOR_DIP:  # evenly spaced quantiles have the same shape
        chosen = chosen[np.linspace(0, len(chosen) - 1, _MOST_FOR_DIP).round().astype(int)]
    return float(diptest(np.log(np.maximum(chosen, 1e-12)))[1])
