"""A sweep as it is at one moment: which cells it has, their thresholds and states.

What is computed once is kept, so that a sweep that goes on needs another reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from m2g_audit.errors import UsageError
from m2g_audit.verdict.states import State
from small_scale.arrays import load_arrays
from small_scale.classification import (
    STATES,
    Classified,
    Neighbours,
    RuleName,
    classify_set,
    fixed_thresholds,
    thresholds_per_K,
    with_values,
)
from small_scale.histogram_thresholds import Threshold
from small_scale.lab_folder import Cell, LabFolder
from small_scale.settings import SweepSettings
from small_scale.sizes import transition

GROUPS = ("training", "memorized", "spurious", "generalized")
"""What geometry is measured on: training points, and the samples of each state."""


@dataclass(frozen=True)
class Lab:
    """A reading of a sweep's folder; `given`: thresholds by hand, in place of both rules' own."""

    folder: LabFolder
    given: tuple[float | None, float | None] = (None, None)

    @classmethod
    def open(cls, path: Path) -> Lab:
        """The sweep at `path`; UsageError where there is none, OutputError for a damaged one."""
        return cls(LabFolder.open(path))

    @property
    def settings(self) -> SweepSettings:
        """The sweep's settings."""
        return self.folder.settings

    @property
    def path(self) -> Path:
        """Where the sweep lies."""
        return self.folder.path

    # -- cells

    @property
    def sparse_cells(self) -> list[Cell]:
        """Every K of the settings with the first seed."""
        return [Cell(K, self.settings.seeds[0]) for K in self.settings.sizes]

    @cached_property
    def refined_cells(self) -> list[Cell]:
        """More K between A and B, the ends of the transition that the sparse cells show (B.1).

        Empty before all of those are measured.
        """
        count, measured = self.settings.refine, set(self.measured)
        if not count or not measured.issuperset(self.sparse_cells):
            return []
        memorized = {}
        for cell in self.sparse_cells:
            neighbours = self.folder.neighbours(cell)
            delta_m = thresholds_per_K(neighbours)[0].value
            valid = ~neighbours.failed
            memorized[cell.K] = float((neighbours.training[valid, 0] <= delta_m).mean())
        A, B = transition(memorized)
        between = {int(K) for K in np.linspace(A, B, count + 2)} - set(self.settings.sizes)
        return [Cell(K, self.settings.seeds[0]) for K in sorted(between)]

    @property
    def first_cells(self) -> list[Cell]:
        """Every K with the first seed, those between A and B among them once they are known."""
        return sorted([*self.sparse_cells, *self.refined_cells])

    @property
    def measured(self) -> list[Cell]:
        """The cells whose neighbours are known, in order of K and seed."""
        return self.folder.measured

    # -- states

    @cached_property
    def classified(self) -> Mapping[RuleName, Mapping[Cell, Classified]]:
        """The states of every measured cell by each rule."""
        all_neighbours = {cell: self.folder.neighbours(cell) for cell in self.measured}
        per_K = {cell: thresholds_per_K(each) for cell, each in all_neighbours.items()}
        first = [pair for cell, pair in per_K.items() if cell.seed == self.settings.seeds[0]]
        fixed = fixed_thresholds(first) if first else None
        found: dict[RuleName, dict[Cell, Classified]] = {"per-K": {}, "fixed": {}}
        for cell, neighbours in all_neighbours.items():
            pairs: dict[RuleName, tuple[Threshold, Threshold]] = {"per-K": per_K[cell]}
            if fixed is not None:
                pairs["fixed"] = with_values(per_K[cell], fixed, "fresh", neighbours)
            for rule, pair in pairs.items():
                found[rule][cell] = classify_set(
                    neighbours,
                    with_values(pair, self.given, "by hand", neighbours),
                    self.settings.metric,
                    cell.K,
                    cell.seed,
                    rule,
                )
        return found

    def peak(self, rule: RuleName = "per-K") -> Cell | None:
        """The cell of the first seed with the largest spurious share; None before any."""
        seed = self.settings.seeds[0]
        first = [each for cell, each in self.classified[rule].items() if cell.seed == seed]
        if not first:
            return None
        best = max(first, key=lambda each: each.shares[State.SPURIOUS].estimate)
        return Cell(best.K, best.seed)

    def around_peak(self) -> list[Cell]:
        """The cells of the other seeds: at the peak of the spurious share and beside it.

        Empty before all cells of the first seed are measured.
        """
        peak = self.peak()
        if peak is None or not set(self.measured).issuperset(self.first_cells):
            return []
        sizes = [cell.K for cell in self.first_cells]
        at = sizes.index(peak.K)
        near = sizes[max(0, at - 1) : at + 2]
        return [Cell(K, seed) for seed in self.settings.seeds[1:] for K in near]

    def check_measured(self) -> None:
        """Raises UsageError while the states of a cell are unknown, with the way to get them."""
        # Thresholds set by hand change states, but not which cells a sweep has.
        own = Lab(self.folder)
        missing = {*own.first_cells, *own.around_peak()} - set(own.measured)
        if missing:
            sizes = ", ".join(f"{K:,}" for K in sorted({cell.K for cell in missing}))
            raise UsageError(
                f"The sweep in {self.path} is not finished: the states at K = {sizes} are not "
                f"known yet. Continue it by `m2g-audit calibrate {self.path}`."
            )

    # -- geometry

    def geometry(self, cell: Cell, what: str) -> dict[str, np.ndarray] | None:
        """The arrays of one measurement of a cell, named "group/quantity"; None before it.

        Each sample is in the group of the state that it has now, whichever it was measured in.
        """
        path = self.folder.geometry_file(cell, what)
        if not path.exists():
            return None
        return by_state(load_arrays(path), self.classified["per-K"][cell])


def chosen(classified: Classified, neighbours: Neighbours, state: State, most: int) -> np.ndarray:
    """Which samples of a state are measured: at most so many, evenly spaced in order of distance.

    The paper takes the first 512 in the order of the distance that their state rests on (C.2);
    where there are more than `most`, evenly spaced ones stand for the whole state, not its edge.
    """
    rows = classified.of(state)
    if not classified.enough(state):
        return rows[:0]
    distance = neighbours.training if state is State.MEMORIZED else neighbours.samples
    ordered = rows[np.argsort(distance[rows, 0], kind="stable")]
    return ordered[np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int)]


def by_state(arrays: Mapping[str, np.ndarray], classified: Classified) -> dict[str, np.ndarray]:
    """Arrays "group/quantity" with every measured sample in the group of its state.

    The same arrays under the thresholds that they were measured with. Where others were set by
    hand, the samples are sorted anew; a state that has too few of the set for `chosen` is left out.
    """
    found, measured = dict(arrays), [name for name in GROUPS[1:] if f"{name}/rows" in arrays]
    names = [name for name in arrays if name.partition("/")[0] in measured]
    for name in names:
        del found[name]
    for quantity in dict.fromkeys(name.partition("/")[2] for name in names):
        rows, values = (
            np.concatenate([arrays[f"{group}/{each}"] for group in measured])
            for each in ("rows", quantity)
        )
        for state in STATES:
            its_own = np.isin(rows, classified.of(state))
            if classified.enough(state) and its_own.any():
                found[f"{state.value}/{quantity}"] = values[its_own]
    return found
