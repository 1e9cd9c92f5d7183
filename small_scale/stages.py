"""The stages of a sweep, each one value: what it needs, whether it is done, its cost, its work.

A new stage is a value in STAGES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from m2g_audit.progress import OnProgress
from small_scale.classification import find_neighbours
from small_scale.geometry import Measurements
from small_scale.lab import Lab
from small_scale.lab_folder import Cell
from small_scale.models.training import MODEL, train
from small_scale.report.sheets import is_current, save_sheet
from small_scale.settings import Geometry, SweepSettings
from small_scale.workshop import Workshop

# In forward passes of one picture: a step of training is three; a spectrum takes some hundreds.
_SPECTRUM_COST, _PER_TRIAL = 400, 60


@dataclass(frozen=True)
class Stage:
    """What is done for each cell of a sweep.

    said: on a screen; needs: stages of cells that have to be done before, from a reading of the
    sweep; cost: for a training size K, in forward passes of one picture, rough for geometry;
    by_cell: whether a cell goes through it before the next cell begins, as what makes models does.
    """

    name: str
    said: str
    needs: Callable[[Lab, Cell], Iterable[tuple[str, Cell]]]
    done: Callable[[Lab, Cell], bool]
    cost: Callable[[SweepSettings, int], int]
    do: Callable[[Workshop, Cell, OnProgress], None]
    by_cell: bool = False


# -- what stages need


def _nothing(lab: Lab, cell: Cell) -> Iterable[tuple[str, Cell]]:
    return ()


def _of_this(stage: str, lab: Lab, cell: Cell) -> Iterable[tuple[str, Cell]]:
    return ((stage, cell),)


def _all_neighbours(lab: Lab, cell: Cell) -> Iterator[tuple[str, Cell]]:
    # One delta_m for all K needs all of them.
    yield from (("neighbours", each) for each in {*lab.first_cells, cell})


# -- models


def _trained(lab: Lab, cell: Cell) -> bool:
    return (lab.folder.model(cell) / MODEL / "model_index.json").exists()


def _training_cost(settings: SweepSettings, K: int) -> int:
    training = settings.training
    batch = training.batch if training.fill_batch else min(training.batch, K)
    return 3 * training.iterations * batch


def _train(shop: Workshop, cell: Cell, on_progress: OnProgress) -> None:
    train(
        shop.folder.model(cell),
        shop.folder.settings,
        shop.pictures.training(cell.K),
        cell.seed,
        accelerator=shop.accelerator,
        on_step=on_progress,
    )


def _synthesised(lab: Lab, cell: Cell) -> bool:
    # Its last shard is written last, and the next stage reads them all.
    n = lab.settings.synthesis.size(cell.K)
    return any(lab.folder.synthetic(cell).glob(f"*-{n:06d}.npz"))


def _synthesis_cost(settings: SweepSettings, K: int) -> int:
    return settings.synthesis.size(K) * settings.synthesis.steps


def _synthesise(shop: Workshop, cell: Cell, on_progress: OnProgress) -> None:
    shop.synthetic(cell, on_progress)


def _find_neighbours(shop: Workshop, cell: Cell, on_progress: OnProgress) -> None:
    synthetic = shop.synthetic(cell)
    on_progress(0, 1)
    metric = shop.metric(shop.folder.settings.metric)
    found = find_neighbours(metric, synthetic, shop.pictures, cell.K)
    found.save(shop.folder.neighbours_file(cell))
    on_progress(1, 1)


# -- geometry


def _geometry(name: str, said: str, cost: Callable[[SweepSettings, int], int]) -> Stage:
    """A measurement of `Measurements`, by its name."""

    def done(lab: Lab, cell: Cell) -> bool:
        return lab.folder.geometry_file(cell, name).exists()

    def do(shop: Workshop, cell: Cell, on_progress: OnProgress) -> None:
        measured = Measurements(
            shop.reading(), cell, shop.pictures, shop.synthetic(cell), shop.device, shop.metric
        )
        shop.folder.save_geometry(cell, name, getattr(measured, name)(on_progress))

    return Stage(name, said, _all_neighbours, done, cost, do)


def _measured(geometry: Geometry, images: int) -> int:
    """How many pictures a measurement takes at most, of three states and the training points."""
    return 3 * images + (geometry.training_points or images)


def _basin_cost(settings: SweepSettings, K: int) -> int:
    geometry = settings.geometry
    return _measured(geometry, geometry.basin_images) * geometry.trials * _PER_TRIAL


def _spectrum_cost(settings: SweepSettings, K: int) -> int:
    geometry = settings.geometry
    one = 8 * settings.channels * settings.side**2
    each = _SPECTRUM_COST if geometry.spectrum == "fast" else one
    return _measured(geometry, geometry.spectrum_images) * each


def _energy_cost(settings: SweepSettings, K: int) -> int:
    geometry = settings.geometry
    return _measured(geometry, geometry.energy_images) * geometry.references * geometry.points


def _little(settings: SweepSettings, K: int) -> int:
    return 1


# -- pictures to show


def _show(shop: Workshop, cell: Cell, on_progress: OnProgress) -> None:
    synthetic = shop.synthetic(cell)
    on_progress(0, 1)
    save_sheet(shop.reading(), cell, shop.pictures, synthetic)
    on_progress(1, 1)


STAGES = (
    Stage("train", "training", _nothing, _trained, _training_cost, _train, by_cell=True),
    Stage(
        "synthesise",
        "sampling",
        partial(_of_this, "train"),
        _synthesised,
        _synthesis_cost,
        _synthesise,
        by_cell=True,
    ),
    Stage(
        "neighbours",
        "neighbours",
        partial(_of_this, "synthesise"),
        lambda lab, cell: lab.folder.neighbours_file(cell).exists(),
        _little,
        _find_neighbours,
        by_cell=True,
    ),
    _geometry("basin", "basins", _basin_cost),
    _geometry("spectra", "spectra", _spectrum_cost),
    _geometry("energy", "energies", _energy_cost),
    _geometry("mixture", "mixtures", _little),
    Stage("sheet", "pictures to show", partial(_of_this, "neighbours"), is_current, _little, _show),
)
"""In their order. What comes after all of them is the report."""
BY_NAME = {stage.name: stage for stage in STAGES}
REPORT = "report"
NAMES = (*BY_NAME, REPORT)
