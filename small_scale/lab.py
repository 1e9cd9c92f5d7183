"""The folder of a sweep: whose it is, its cells, and what each stage leaves behind.

settings.json, data.json           the sweep (identity), and the pictures that it began with;
                                   metric-weights.json: learned distances'
models/K000064-seed0/model/        the trained network, a DDPM pipeline of diffusers; log.jsonl
synthetic/K000064-seed0/*.npz      S', images uint8 [n, c, h, w]
neighbours/K000064-seed0.npz       distances (small_scale.classification.Neighbours)
geometry/K000064-seed0/*.npz       basin, spectra, energy, mixture (small_scale.geometry);
                                   unfinished ones in a folder of their name
sheets/K000064-seed0.npz           the pictures that figures show (small_scale.report.sheets)
tables/*.csv, figures/*.png, calibration.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from m2g_audit.errors import OutputError, UsageError
from m2g_audit.files import check_writable, digest, is_draft, write_atomically
from m2g_audit.verdict.states import State
from small_scale.arrays import load_arrays, save_arrays
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
from small_scale.settings import Geometry, Network, Settings, Synthesis, Training
from small_scale.sizes import transition

SETTINGS_FILE, DATA_FILE, WEIGHTS_FILE = "settings.json", "data.json", "metric-weights.json"
_PARTS: Mapping[str, Any] = {
    "network": Network,
    "training": Training,
    "synthesis": Synthesis,
    "geometry": Geometry,
}
GROUPS = ("training", "memorized", "spurious", "generalized")
"""What geometry is measured on: training points, and the samples of each state."""


@dataclass(frozen=True, order=True)
class Cell:
    """One model of a sweep: trained on the first K pictures with a seed."""

    K: int
    seed: int

    def __str__(self) -> str:
        return f"K{self.K:06d}-seed{self.seed}"


@dataclass(frozen=True)
class Data:
    """The pictures of a sweep: `images` to train on, of which the read ones hash to `sha256`.

    `scale`: standard deviation of their values as the network sees them, in [-1, 1].
    """

    name: str
    images: int
    scale: float
    sha256: str


@dataclass(frozen=True)
class Lab:
    """The folder of one sweep; `given` are thresholds set by hand, in place of both rules' own."""

    folder: Path
    settings: Settings
    given: tuple[float | None, float | None] = (None, None)

    @classmethod
    def create(cls, folder: Path, settings: Settings) -> Lab:
        """The sweep of these settings at `folder`, new or gone on with; raises as `at`."""
        lab = cls.at(folder, settings)
        lab.begin()
        return lab

    @classmethod
    def at(cls, folder: Path, settings: Settings) -> Lab:
        """The sweep of these settings that `folder` has or can take; nothing is written yet.

        Raises OutputError where the folder can't be written, holds another sweep, whose differences
        are named, or other files.
        """
        check_writable(folder)
        path = folder / SETTINGS_FILE
        if path.exists():
            there = cls.open(folder).settings
            if there != settings:
                raise OutputError(
                    f"{folder} holds another sweep ({_differences(there, settings)}). Choose "
                    "another --out, or continue that one by `m2g-audit calibrate "
                    f"{folder}`."
                )
            return cls(folder, settings)
        if folder.exists() and not all(is_draft(file) for file in folder.iterdir()):
            raise OutputError(
                f"{folder} has files in it but is no sweep's folder: nothing is written there. "
                "Choose an empty or a new folder with --out DIR."
            )
        return cls(folder, settings)

    def begin(self) -> None:
        """Writes whose sweep the folder is, unless it is there."""
        path = self.folder / SETTINGS_FILE
        if not path.exists():
            content = json.dumps(asdict(self.settings), indent=1)
            write_atomically(path, f"{content}\n".encode())

    @classmethod
    def open(cls, folder: Path) -> Lab:
        """The sweep at `folder`; UsageError where there is none, OutputError for a damaged one."""
        path = folder / SETTINGS_FILE
        if not path.is_file():
            raise UsageError(
                f"{folder} is no sweep's folder: there is no {SETTINGS_FILE} in it. Give one that "
                "`m2g-audit calibrate` made."
            )
        try:
            stored = json.loads(path.read_bytes())
            parts: dict[str, Any] = {
                name: kind(**_tuples(stored.pop(name))) for name, kind in _PARTS.items()
            }
            return cls(folder, Settings(**_tuples(stored), **parts))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise OutputError(
                f"{path} is not the settings of a sweep that this version reads ({error}). Give "
                "another folder, or start anew with --out DIR."
            ) from error

    # -- data

    @property
    def data(self) -> Data | None:
        """What is known of the pictures; None before they were read."""
        path = self.folder / DATA_FILE
        return Data(**json.loads(path.read_bytes())) if path.exists() else None

    def keep_data(self, data: Data) -> None:
        """Keeps what the pictures are; OutputError where they are not those of before."""
        if self.data is None:
            content = json.dumps(asdict(data), indent=1)
            write_atomically(self.folder / DATA_FILE, f"{content}\n".encode())
        elif self.data.sha256 != data.sha256:
            raise OutputError(
                f"{data.name} no longer holds the pictures that the sweep in {self.folder} began "
                f"with ({self.data.images:,} then, {data.images:,} now). Bring them back, or start "
                "another sweep with --out DIR."
            )

    @property
    def weights(self) -> dict[str, str]:
        """The hashes of the weights of learned distances by their names, once they were used."""
        path = self.folder / WEIGHTS_FILE
        return json.loads(path.read_bytes()) if path.exists() else {}

    def keep_weights(self, metric: str, sha256: str | None) -> None:
        """Keeps which weights a distance has; OutputError where it had others before."""
        known = self.weights
        if sha256 is None or known.get(metric) == sha256:
            return
        if metric in known:
            raise OutputError(
                f"The sweep in {self.folder} was measured with other weights of {metric} "
                f"(SHA-256 {known[metric][:12]}, now {sha256[:12]}): give those, or start another "
                "sweep with --out DIR."
            )
        content = json.dumps({**known, metric: sha256}, indent=1)
        write_atomically(self.folder / WEIGHTS_FILE, f"{content}\n".encode())

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
            neighbours = self.neighbours(cell)
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
        found = []
        for path in sorted((self.folder / "neighbours").glob("K*-seed*.npz")):
            K, seed = path.stem.removeprefix("K").split("-seed")
            found.append(Cell(int(K), int(seed)))
        return sorted(found)

    def model(self, cell: Cell) -> Path:
        """Where a cell's training is; its pipeline is in `model` below."""
        return self.folder / "models" / str(cell)

    def synthetic(self, cell: Cell) -> Path:
        """Where a cell's synthetic set is."""
        return self.folder / "synthetic" / str(cell)

    def neighbours_file(self, cell: Cell) -> Path:
        """Where a cell's distances are."""
        return self.folder / "neighbours" / f"{cell}.npz"

    def neighbours(self, cell: Cell) -> Neighbours:
        """The distances of a cell."""
        return Neighbours.load(self.neighbours_file(cell))

    # -- states

    @cached_property
    def classified(self) -> Mapping[RuleName, Mapping[Cell, Classified]]:
        """The states of every measured cell by each rule."""
        all_neighbours = {cell: self.neighbours(cell) for cell in self.measured}
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
        own = Lab(self.folder, self.settings)
        missing = {*own.first_cells, *own.around_peak()} - set(own.measured)
        if missing:
            sizes = ", ".join(f"{K:,}" for K in sorted({cell.K for cell in missing}))
            raise UsageError(
                f"The sweep in {self.folder} is not finished: the states at K = {sizes} are not "
                f"known yet. Continue it by `m2g-audit calibrate {self.folder}`."
            )

    # -- geometry

    def geometry_file(self, cell: Cell, what: str) -> Path:
        """Where one measurement of a cell is: "basin", "spectra", "energy" or "mixture"."""
        return self.folder / "geometry" / str(cell) / f"{what}.npz"

    def geometry(self, cell: Cell, what: str) -> dict[str, np.ndarray] | None:
        """The arrays of one measurement of a cell, named "group/quantity"; None before it.

        Each sample is in the group of the state that it has now, whichever it was measured in.
        """
        path = self.geometry_file(cell, what)
        if not path.exists():
            return None
        return by_state(load_arrays(path), self.classified["per-K"][cell])

    def save_geometry(self, cell: Cell, what: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps the arrays of one measurement, in place of its parts."""
        path = self.geometry_file(cell, what)
        save_arrays(path, arrays)
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)

    def geometry_part(self, cell: Cell, what: str, asked: Mapping[str, Any]) -> Path:
        """Where some samples of an unfinished measurement are; `asked`: which, and by what."""
        return self.geometry_file(cell, what).with_suffix("") / f"{digest(asked)[:16]}.npz"

    # -- other processes

    @contextmanager
    def claim(self, work: str) -> Iterator[bool]:
        """A block that has a piece of work to itself; False where another process has it.

        The operating system gives the claim of a process that died to the next one.
        """
        path = self.folder / "locks" / f"{work}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


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


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _differences(there: Settings, now: Settings) -> str:
    first, second = _flat(asdict(there)), _flat(asdict(now))
    return "; ".join(
        f"{key}: {first.get(key)} there, {second.get(key)} now"
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
