"""The folder of a sweep that never ran: random numbers with the structure of real ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from m2g_audit.verdict.states import State
from small_scale.classification import Neighbours
from small_scale.lab import Lab
from small_scale.lab_folder import Cell, LabFolder
from small_scale.models.pictures import Pictures
from small_scale.report.sheets import save_sheet
from small_scale.settings import SweepSettings, settings_for

SIZES = (2, 16, 64, 256)
CELLS = (*(Cell(K, 0) for K in SIZES), *(Cell(K, 1) for K in SIZES[1:]))
# Of each K: the shares of copies of S, and of others that repeat each other.
COPIES = {2: 1.0, 16: 0.85, 64: 0.4, 256: 0.0}
REPEATS = {2: 0.0, 16: 0.05, 64: 0.25, 256: 0.02}
N, FRESH, SIDE = 400, 300, 8
MEASURED = {"basin": 6, "spectra": 5, "energy": 7, "mixture": 30}
"""At most so many of each group."""
STEEPNESS = {"training": 0.9, "memorized": 0.9, "spurious": 0.6, "generalized": 0.3}
"""Of each group's spectra; basins and critical times are in the same order."""


def fake_settings() -> SweepSettings:
    made = settings_for("smoke", "mnist", 60_000, sizes=SIZES)
    synthesis = replace(made.synthesis, at_least=N, multiple=1)
    return replace(made, synthesis=synthesis, seeds=(0, 1), fresh=FRESH)


def fake_neighbours(K: int, seed: int) -> Neighbours:
    """Two modes a histogram: copies near 0.02, the rest near 0.2 as fresh pictures are."""
    rng = np.random.default_rng([K, seed])

    def near(centre: float, n: int) -> np.ndarray:
        return rng.lognormal(np.log(centre), 0.15, n)

    copied = np.arange(N) < round(COPIES[K] * N)
    repeated = copied | (np.arange(N) < round((COPIES[K] + REPEATS[K]) * N))
    training = np.where(copied, near(0.02, N), near(0.2, N))
    samples = np.where(repeated, near(0.03, N), near(0.2, N))
    growing = 1 + 0.2 * np.arange(4)
    failed = np.zeros(N, bool)
    failed[-1] = True
    return Neighbours(
        training=training[:, None] * growing[: min(4, K)],
        training_rows=rng.integers(0, K, (N, min(4, K))),
        samples=np.where(failed[:, None], np.inf, samples[:, None] * growing),
        sample_rows=rng.integers(0, N, (N, 4)),
        control=np.stack([near(0.2, N), near(0.2, N)], axis=1),
        n_control=K,
        fresh=near(0.2, FRESH),
        among_fresh=near(0.2, FRESH),
        failed=failed,
    )


def fake_pictures(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)


def fake_lab(folder: Path) -> Lab:
    """A finished sweep: every cell of the first seed, and another seed around the peak."""
    lab = measured_lab(folder)
    pictures = Pictures(fake_pictures(2 * SIZES[-1], 0), fake_pictures(FRESH, 1), "")
    for cell in CELLS:
        save_sheet(lab, cell, pictures, fake_pictures(N, 2))
        for what, arrays in fake_geometry(lab, cell).items():
            lab.folder.save_geometry(cell, what, arrays)
    return lab


def measured_lab(folder: Path, cells: tuple[Cell, ...] = CELLS) -> Lab:
    """A sweep that has come as far as the neighbours of some cells."""
    lab = Lab(LabFolder.create(folder, fake_settings()))
    for cell in cells:
        fake_neighbours(cell.K, cell.seed).save(lab.folder.neighbours_file(cell))
    return lab


def fake_geometry(lab: Lab, cell: Cell) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of the four measurements, for the states that the cell has enough samples of."""
    rng = np.random.default_rng([cell.K, cell.seed, 1])
    classified = lab.classified["per-K"][cell]
    states = [name for name in STEEPNESS if name == "training" or classified.enough(State(name))]
    references = min(3, cell.K)
    made: dict[str, dict[str, np.ndarray]] = {
        "basin": {"delta_d": np.array(0.05)},
        "spectra": {"t0": np.array(5), "sigma_t0": np.array(0.03)},
        "energy": {"references": np.arange(references)},
        "mixture": {"K": np.array(cell.K)},
    }
    for group in states:
        steep = STEEPNESS[group]
        own = np.arange(cell.K) if group == "training" else classified.of(State(group))
        rows = {what: own[:most] for what, most in MEASURED.items()}
        n = {what: len(each) for what, each in rows.items()}
        made["basin"] |= {
            f"{group}/times": rng.integers(0, round(900 * steep), (n["basin"], 4)),
            f"{group}/log_volumes": rng.normal(100 * steep, 5, (n["basin"], 4)),
        }
        spectra = np.sort(steep * rng.beta(8, 2, (n["spectra"], 64)))[:, ::-1]
        made["spectra"] |= {
            f"{group}/values": spectra,
            f"{group}/intrinsic_dimension": 64 * (1 - spectra.mean(axis=1)),
        }
        made["energy"][f"{group}/energies"] = rng.normal(
            (1 - steep) * 1e-3, 1e-4, (n["energy"], references)
        )
        for what, each in rows.items():
            if (what, group) != ("mixture", "training"):
                made[what][f"{group}/rows"] = each
    for group in (*states[1:], "fresh"):
        n_mixed = len(made["mixture"].get(f"{group}/rows", np.arange(30)))
        nearest = rng.uniform(0.05, 0.3, n_mixed)
        made["mixture"] |= {
            f"{group}/nearest": nearest,
            f"{group}/distance": nearest * rng.uniform(0.6, 1, n_mixed),
        }
    return made
