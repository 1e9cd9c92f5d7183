"""Numbers of a sweep that tables and figures share, from its stored arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from m2g_audit.verdict.states import State
from small_scale.classification import RuleName
from small_scale.lab import GROUPS, Cell, Lab
from small_scale.mixture import relative

FloatArray = NDArray[np.float64]
Arrays = Mapping[str, np.ndarray]
Quantity = Literal[
    "log_volume",
    "trial_critical_time",
    "never_recovered",
    "median_singular_value",
    "intrinsic_dimension",
    "energy_gap",
    "energy_gaps",
    "mixture",
]
FRESH = "fresh"
"""The group of pictures that no model was trained on, beside GROUPS."""

_NAMES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over n samples, and over the trials of each where it has some."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: FloatArray) -> Spread:
        """Those of values [n, ...], all axes together."""
        return cls(float(values.mean()), float(values.std()), len(values))


def name_of(lab: Lab) -> str:
    """What to call the data of a sweep: its name, or the last part of its path."""
    data = lab.settings.data
    return _NAMES.get(data) or data.replace("\\", "/").rstrip("/").rpartition("/")[2]


def names_apart(labs: Sequence[Lab]) -> list[str]:
    """What sets each sweep apart from the others, else its folder."""
    told = [_told(lab) for lab in labs]
    apart = [key for key in told[0] if len({each[key] for each in told}) > 1]
    for names in (
        [", ".join(each[key] for key in apart) for each in told],
        [lab.path.name for lab in labs],
    ):
        if len(set(names)) == len(labs):
            return names
    return [str(lab.path) for lab in labs]


def _told(lab: Lab) -> dict[str, str]:
    settings, synthesis = lab.settings, lab.settings.synthesis
    return {
        "data": name_of(lab),
        "side": f"{settings.side} px",
        "width": f"width {settings.network.width}",
        "training": f"{settings.training.iterations:,} training steps",
        "multiple": f"|S'| = {synthesis.multiple} K",
        "sampler": f"{synthesis.sampler.upper()} with {synthesis.steps:,} steps",
        "metric": settings.metric,
        "thresholds": "own thresholds" if lab.given == (None, None) else "thresholds by hand",
    }


def first_seed(lab: Lab) -> list[Cell]:
    """The measured cells of the first seed, by K: the curves of a sweep."""
    return [cell for cell in lab.measured if cell.seed == lab.settings.seeds[0]]


def other_seeds(lab: Lab) -> list[Cell]:
    """The measured cells of the other seeds, around the peak."""
    return [cell for cell in lab.measured if cell.seed != lab.settings.seeds[0]]


def values(lab: Lab, cell: Cell, group: str, quantity: Quantity) -> FloatArray | None:
    """A quantity of the samples of a group; None where it was not measured.

    [n, M] for the trials of "log_volume", "trial_critical_time" and "never_recovered" (1 where R is
    that of t = 1); [n] for the median of each normalised spectrum and its numerical intrinsic
    dimension; [n, r] for the gaps between a sample's energies above r references and the means of
    the training points' (Eq. 48), [n] for "energy_gap", the mean of them; [n] for the distance from
    mixtures over that from the nearest picture (1: mixing gains nothing).
    """
    what, needed, find = _QUANTITIES[quantity]
    arrays = lab.geometry(cell, what)
    if arrays is None or not all(name.format(group) in arrays for name in needed):
        return None
    return np.asarray(find(arrays, group), np.float64)


def over_sizes(
    lab: Lab, quantity: Quantity, group: str, cells: list[Cell], column: int | None = None
) -> dict[Cell, Spread]:
    """The spread of a quantity in the cells where it was measured; of one of its columns."""
    found = {}
    for cell in cells:
        each = values(lab, cell, group, quantity)
        # Where K is small, there are fewer references than elsewhere.
        if each is not None and (column is None or column < each.shape[1]):
            found[cell] = Spread.of(each if column is None else each[:, column])
    return found


def groups_of(arrays: Arrays) -> list[str]:
    """The groups that a measurement has, in their order."""
    there = {name.partition("/")[0] for name in arrays if "/" in name}
    return [group for group in (*GROUPS, FRESH) if group in there]


def spurious_range(lab: Lab, K: int, rule: RuleName = "per-K") -> tuple[float, float]:
    """The least and the largest spurious share that the intervals of all trainings on S_K reach.

    Trainings differ by more than the sampling of one of them does.
    """
    shares = [each.shares[State.SPURIOUS] for each in lab.classified[rule].values() if each.K == K]
    return min(share.low for share in shares), max(share.high for share in shares)


def possible_peaks(lab: Lab, rule: RuleName = "per-K") -> list[Cell]:
    """The cells of the first seed that may have the largest spurious share, in order of K.

    Those where a training's interval reaches the lower end of that of the peak; none where no
    sample is spurious.
    """
    peak = lab.peak(rule)
    if peak is None:
        return []
    share = lab.classified[rule][peak].shares[State.SPURIOUS]
    if share.estimate == 0:
        return []
    return [cell for cell in first_seed(lab) if spurious_range(lab, cell.K, rule)[1] >= share.low]


def _gaps(arrays: Arrays, group: str) -> FloatArray:
    gaps: FloatArray = arrays[f"{group}/energies"] - arrays["training/energies"].mean(axis=0)
    return gaps


def _relative(arrays: Arrays, group: str) -> FloatArray:
    return relative(arrays[f"{group}/distance"], arrays[f"{group}/nearest"])


_QUANTITIES: Mapping[
    Quantity, tuple[str, tuple[str, ...], Callable[[Arrays, str], np.ndarray]]
] = {
    "log_volume": ("basin", ("{}/log_volumes",), lambda a, g: a[f"{g}/log_volumes"]),
    "trial_critical_time": ("basin", ("{}/times",), lambda a, g: a[f"{g}/times"]),
    "never_recovered": ("basin", ("{}/times",), lambda a, g: a[f"{g}/times"] == 0),
    "median_singular_value": (
        "spectra", ("{}/values",), lambda a, g: np.median(a[f"{g}/values"], axis=1),
    ),
    "intrinsic_dimension": (
        "spectra", ("{}/intrinsic_dimension",), lambda a, g: a[f"{g}/intrinsic_dimension"],
    ),
    "energy_gap": (
        "energy", ("{}/energies", "training/energies"), lambda a, g: _gaps(a, g).mean(axis=1),
    ),
    "energy_gaps": ("energy", ("{}/energies", "training/energies"), _gaps),
    "mixture": ("mixture", ("{}/distance", "{}/nearest"), _relative),
}  # fmt: skip
