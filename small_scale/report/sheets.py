"""The pictures that figures of a sweep show, kept so that they can be drawn without the data.

Examples of each state with their nearest neighbours (Fig. 1B, 13-15), and the samples on both sides
of each threshold, at which the authors looked (App. B.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from m2g_audit.errors import OutputError
from m2g_audit.verdict.states import State
from small_scale.arrays import load_arrays, save_arrays
from small_scale.classification import (
    STATES,
    Classified,
    Neighbours,
    thresholds_per_K,
    with_values,
)
from small_scale.lab import Lab, chosen
from small_scale.lab_folder import Cell
from small_scale.models.pictures import Pictures

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ImageArray = NDArray[np.uint8]
Delta = Literal["delta_m", "delta_s"]
Side = Literal["under", "over"]

EXAMPLES, EACH_SIDE = 6, 5
DELTAS: tuple[Delta, ...] = ("delta_m", "delta_s")
SIDES: tuple[Side, ...] = ("under", "over")


@dataclass(frozen=True, eq=False)
class Sheet:
    """Shown samples of one synthetic set, with their neighbours.

    `groups`: places among the m shown samples, by state, and by "delta_m/under" and the like,
    nearest to the threshold last under it and first over it. `rows` [m] of S', `images`
    [m, c, h, w]; `training` [m, k, c, h, w] and `samples` [m, 4, c, h, w] their nearest k <= 4 of S
    and of S', at `training_distances` [m, k] and `sample_distances` [m, 4]; all images uint8.
    `thresholds`: those that the groups are of.
    """

    rows: IntArray
    images: ImageArray
    training: ImageArray
    samples: ImageArray
    training_distances: FloatArray
    sample_distances: FloatArray
    groups: Mapping[str, IntArray]
    thresholds: Mapping[str, float]


def save_sheet(lab: Lab, cell: Cell, pictures: Pictures, synthetic: Tensor) -> None:
    """Keeps what is shown of a cell; `synthetic`: its S', uint8 [n, c, h, w]."""
    neighbours, classified = lab.folder.neighbours(cell), lab.classified["per-K"][cell]
    picked = _picked(classified, neighbours)
    rows = np.unique(np.concatenate(list(picked.values()))).astype(np.int64)
    arrays: dict[str, np.ndarray] = {
        "rows": rows,
        "images": synthetic[rows].numpy(),
        "training": pictures.ordered[neighbours.training_rows[rows]].numpy(),
        "samples": synthetic[neighbours.sample_rows[rows]].numpy(),
        "training_distances": neighbours.training[rows],
        "sample_distances": neighbours.samples[rows],
    }
    arrays |= {f"groups/{name}": np.searchsorted(rows, which) for name, which in picked.items()}
    arrays |= {f"thresholds/{name}": np.array(value) for name, value in _own(classified).items()}
    save_arrays(sheet_file(lab, cell), arrays)


def load_sheet(lab: Lab, cell: Cell) -> Sheet | None:
    """What is shown of a cell, None before `save_sheet`; OutputError where it is damaged."""
    path = sheet_file(lab, cell)
    if not path.exists():
        return None
    arrays = load_arrays(path)
    groups = _below("groups/", arrays)
    thresholds = {name: float(value) for name, value in _below("thresholds/", arrays).items()}
    return Sheet(**arrays, groups=groups, thresholds=thresholds)


def is_current(lab: Lab, cell: Cell) -> bool:
    """Whether the sheet of a cell is there, and of the thresholds that hold now.

    Not where the distances are lost that it was picked by: these come first.
    """
    if not lab.folder.neighbours_file(cell).exists():
        return False
    try:
        sheet = load_sheet(lab, cell)
    except OutputError:
        return False
    if sheet is None:
        return False
    neighbours = lab.folder.neighbours(cell)
    pair = thresholds_per_K(neighbours)
    delta_m, delta_s = with_values(pair, lab.given, "by hand", neighbours)
    return sheet.thresholds == {"delta_m": delta_m.value, "delta_s": delta_s.value}


def sheet_file(lab: Lab, cell: Cell) -> Path:
    """Where what is shown of a cell is."""
    return lab.path / "sheets" / f"{cell}.npz"


def _picked(classified: Classified, neighbours: Neighbours) -> dict[str, IntArray]:
    """The samples to show, by group."""
    picked = {state.value: chosen(classified, neighbours, state, EXAMPLES) for state in STATES}
    # Whether a sample repeats another is asked of those only that are not memorized (Eq. 10).
    valid = np.flatnonzero(~neighbours.failed)
    others = np.setdiff1d(valid, classified.of(State.MEMORIZED))
    asked = {"delta_m": (valid, neighbours.training), "delta_s": (others, neighbours.samples)}
    for name, value in _own(classified).items():
        rows, distances = asked[name]
        ordered = rows[np.argsort(distances[rows, 0], kind="stable")]
        split = int((distances[ordered, 0] <= value).sum())
        picked[f"{name}/under"] = ordered[max(0, split - EACH_SIDE) : split]
        picked[f"{name}/over"] = ordered[split : split + EACH_SIDE]
    return picked


def _own(classified: Classified) -> dict[str, float]:
    return {"delta_m": classified.delta_m.value, "delta_s": classified.delta_s.value}


def _below(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Takes the arrays of a prefix out of `arrays`."""
    names = [name for name in arrays if name.startswith(prefix)]
    return {name.removeprefix(prefix): arrays.pop(name) for name in names}
