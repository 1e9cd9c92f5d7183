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
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from m2g_audit.errors import OutputError, UsageError
from m2g_audit.files import check_writable, digest, is_draft, write_atomically
from small_scale.arrays import save_arrays
from small_scale.classification import Neighbours
from small_scale.settings import Geometry, Network, SweepSettings, Synthesis, Training

SETTINGS_FILE, DATA_FILE, WEIGHTS_FILE = "settings.json", "data.json", "metric-weights.json"
_PARTS: Mapping[str, Any] = {
    "network": Network,
    "training": Training,
    "synthesis": Synthesis,
    "geometry": Geometry,
}


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
class LabFolder:
    """The folder of one sweep: where its files lie, and who may write them."""

    path: Path
    settings: SweepSettings

    @classmethod
    def create(cls, folder: Path, settings: SweepSettings) -> LabFolder:
        """The sweep of these settings at `folder`, new or continued; raises as `at`."""
        lab = cls.at(folder, settings)
        lab.begin()
        return lab

    @classmethod
    def at(cls, folder: Path, settings: SweepSettings) -> LabFolder:
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
        path = self.path / SETTINGS_FILE
        if not path.exists():
            content = json.dumps(asdict(self.settings), indent=1)
            write_atomically(path, f"{content}\n".encode())

    @classmethod
    def open(cls, folder: Path) -> LabFolder:
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
            return cls(folder, SweepSettings(**_tuples(stored), **parts))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise OutputError(
                f"{path} is not the settings of a sweep that this version reads ({error}). Give "
                "another folder, or start anew with --out DIR."
            ) from error

    # -- data

    @property
    def data(self) -> Data | None:
        """What is known of the pictures; None before they were read."""
        path = self.path / DATA_FILE
        return Data(**json.loads(path.read_bytes())) if path.exists() else None

    def keep_data(self, data: Data) -> None:
        """Keeps what the pictures are; OutputError where they are not those of before."""
        if self.data is None:
            content = json.dumps(asdict(data), indent=1)
            write_atomically(self.path / DATA_FILE, f"{content}\n".encode())
        elif self.data.sha256 != data.sha256:
            raise OutputError(
                f"{data.name} no longer holds the pictures that the sweep in {self.path} began "
                f"with ({self.data.images:,} then, {data.images:,} now). Bring them back, or start "
                "another sweep with --out DIR."
            )

    @property
    def weights(self) -> dict[str, str]:
        """The hashes of the weights of learned distances by their names, once they were used."""
        path = self.path / WEIGHTS_FILE
        return json.loads(path.read_bytes()) if path.exists() else {}

    def keep_weights(self, metric: str, sha256: str | None) -> None:
        """Keeps which weights a distance has; OutputError where it had others before."""
        known = self.weights
        if sha256 is None or known.get(metric) == sha256:
            return
        if metric in known:
            raise OutputError(
                f"The sweep in {self.path} was measured with other weights of {metric} "
                f"(SHA-256 {known[metric][:12]}, now {sha256[:12]}): give those, or start another "
                "sweep with --out DIR."
            )
        content = json.dumps({**known, metric: sha256}, indent=1)
        write_atomically(self.path / WEIGHTS_FILE, f"{content}\n".encode())

    # -- cells

    @property
    def measured(self) -> list[Cell]:
        """The cells whose neighbours are known, in order of K and seed."""
        found = []
        for path in sorted((self.path / "neighbours").glob("K*-seed*.npz")):
            K, seed = path.stem.removeprefix("K").split("-seed")
            found.append(Cell(int(K), int(seed)))
        return sorted(found)

    def model(self, cell: Cell) -> Path:
        """Where a cell's training is; its pipeline is in `model` below."""
        return self.path / "models" / str(cell)

    def synthetic(self, cell: Cell) -> Path:
        """Where a cell's synthetic set is."""
        return self.path / "synthetic" / str(cell)

    def neighbours_file(self, cell: Cell) -> Path:
        """Where a cell's distances are."""
        return self.path / "neighbours" / f"{cell}.npz"

    def neighbours(self, cell: Cell) -> Neighbours:
        """The distances of a cell."""
        return Neighbours.load(self.neighbours_file(cell))

    def geometry_file(self, cell: Cell, what: str) -> Path:
        """Where one measurement of a cell is: "basin", "spectra", "energy" or "mixture"."""
        return self.path / "geometry" / str(cell) / f"{what}.npz"

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
        path = self.path / "locks" / f"{work}.lock"
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


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _differences(there: SweepSettings, now: SweepSettings) -> str:
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
