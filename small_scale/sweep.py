"""The K-sweep (Sec. 4), stage by stage: each piece is done once, by the process that claims it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import torch
from accelerate import Accelerator

from m2g_audit.errors import UsageError
from m2g_audit.similarity import Metric, load_metric
from small_scale.calibration_file import write_calibration
from small_scale.classification import find_neighbours
from small_scale.geometry import Measurements
from small_scale.lab import Cell, Data, Lab
from small_scale.models.network import make_network
from small_scale.models.pictures import Pictures, as_input, load_pictures, open_source
from small_scale.models.synthesis import synthesise
from small_scale.models.training import MODEL, train
from small_scale.report.sheets import is_current, save_sheet
from small_scale.report.whole_report import write_report
from small_scale.settings import Geometry, Settings

Stage = Literal[
    "train", "synthesise", "neighbours", "basin", "spectra", "energy", "mixture", "sheet", "report"
]
STAGES: tuple[Stage, ...] = (
    "train", "synthesise", "neighbours", "basin", "spectra", "energy", "mixture", "sheet", "report",
)  # fmt: skip
_MODELS: tuple[Stage, ...] = ("train", "synthesise", "neighbours")
_GEOMETRY: tuple[Stage, ...] = ("basin", "spectra", "energy", "mixture")
_SAYING = {
    "train": "training",
    "synthesise": "sampling",
    "neighbours": "neighbours",
    "basin": "basins",
    "spectra": "spectra",
    "energy": "energies",
    "mixture": "mixtures",
    "sheet": "pictures to show",
}
_PATIENCE = 1.0
# In forward passes of one picture: a step of training is three; a spectrum takes some hundreds.
_SPECTRUM_COST, _PER_TRIAL = 400, 60


class Teller(Protocol):
    """Who is told of progress: of the stage under way, and of the whole sweep."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take in how much of a stage is done."""

    def overall(self, done: int, total: int) -> None:
        """Tell how much of all work is done, in units of cost."""


@dataclass(frozen=True)
class Work:
    """One piece of a sweep: a stage of a cell, and its cost in forward passes of a picture."""

    stage: Stage
    cell: Cell
    cost: int

    def __str__(self) -> str:
        return f"{self.cell}-{self.stage}"

    @property
    def label(self) -> str:
        """What to call it on a screen."""
        seed = f", seed {self.cell.seed}" if self.cell.seed else ""
        return f"K = {self.cell.K:,}{seed}: {_SAYING[self.stage]}"


def _cells(lab: Lab) -> list[Cell]:
    """All cells that are known so far."""
    return [*lab.first_cells, *lab.around_peak()]


class Sweep:
    """A sweep at work on its folder; pictures are read when the first piece needs them.

    `weights`: files of learned distances by name, where they are not those available.
    """

    def __init__(
        self,
        lab: Lab,
        tell: Teller,
        *,
        accelerator: Accelerator | None = None,
        weights: Mapping[str, Path] | None = None,
    ) -> None:
        self.lab, self._tell = lab, tell
        self._accelerator = accelerator
        self._weights = weights or {}
        self._metrics: dict[str, Metric] = {}

    def run(self, stages: Sequence[Stage] = STAGES) -> None:
        """Does what is not done yet of the stages, for every K, then for more seeds at the peak.

        Raises whatever a piece of work raises; what was finished stays. A piece that another
        process has claimed is waited for.
        """
        wanted = [stage for stage in STAGES if stage in stages]
        # Which cells come next rests on the states of those before.
        models = [stage for stage in wanted if stage in _MODELS]
        self._do(lambda lab: self._part(lab.sparse_cells, models), wanted)
        self._do(lambda lab: self._part(lab.first_cells, models), wanted)
        self._do(lambda lab: self._part(_cells(lab), wanted), wanted)
        if "report" in wanted and (self._accelerator is None or self._accelerator.is_main_process):
            write_report(self._fresh_lab())
            write_calibration(self._fresh_lab())

    def look_at_pictures(self) -> Sequence[str]:
        """Reads the pictures; returns what is to be told of them before anything is trained.

        Raises ReferenceFolderError or UsageError for those that no sweep can be made of.
        """
        return self._pictures.remarks

    def cost(self, stages: Sequence[Stage]) -> tuple[int, int]:
        """What is left of the stages, and all of it, in forward passes of one picture.

        The cells around the transition and its peak count as middle ones before they are known.
        """
        lab = Lab(self.lab.folder, self.lab.settings)
        known = self._part(_cells(lab), stages)
        total = sum(work.cost for work in known)
        unknown = 0
        if not set(lab.measured).issuperset(lab.first_cells):
            unknown = max(0, _expected_cost(lab.settings, stages) - total)
        return sum(work.cost for work in known if not self.done(work)) + unknown, total + unknown

    def plan(self, cells: Sequence[Cell]) -> list[Work]:
        """The work of some cells in its order: all models first, geometry after them."""
        settings = self.lab.settings
        models = [
            Work(stage, cell, cost_of(settings, stage, cell.K))
            for cell in cells
            for stage in _MODELS
        ]
        geometry = [
            Work(stage, cell, cost_of(settings, stage, cell.K))
            for stage in (*_GEOMETRY, "sheet")
            for cell in cells
        ]
        return models + geometry

    def _part(self, cells: Sequence[Cell], stages: Sequence[Stage]) -> list[Work]:
        return [work for work in self.plan(cells) if work.stage in stages]

    def done(self, work: Work) -> bool:
        """Whether a piece of work is finished."""
        lab, cell = self.lab, work.cell
        if work.stage == "train":
            return (lab.model(cell) / MODEL / "model_index.json").exists()
        if work.stage == "synthesise":
            # Its last shard is written last, and the next stage reads them all.
            n = lab.settings.synthesis.size(cell.K)
            return any(lab.synthetic(cell).glob(f"*-{n:06d}.npz"))
        if work.stage == "neighbours":
            return lab.neighbours_file(cell).exists()
        if work.stage == "sheet":
            return is_current(lab, cell)
        return lab.geometry_file(cell, work.stage).exists()

    # -- doing it

    def _do(self, planned: Callable[[Lab], list[Work]], wanted: Sequence[Stage]) -> None:
        # Thresholds set by hand change states, but not which models a sweep has.
        plan = planned(Lab(self.lab.folder, self.lab.settings))
        while True:
            pending = [work for work in plan if not self.done(work)]
            self._tell_overall(wanted)
            if not pending:
                return
            self._check_possible(pending)
            if not any(self._claimed(work) for work in pending):
                time.sleep(_PATIENCE)

    def _tell_overall(self, wanted: Sequence[Stage]) -> None:
        left, total = self.cost(wanted)
        self._tell.overall(total - left, total)

    def _check_possible(self, pending: Sequence[Work]) -> None:
        """Raises UsageError for a stage whose predecessor is neither done nor asked for."""
        asked = {str(work) for work in pending}
        for work in pending:
            for before in self._before(work):
                if not self.done(before) and str(before) not in asked:
                    raise UsageError(
                        f"{work.label} needs what the stage `{before.stage}` makes for "
                        f"{before.cell}: add --stage {before.stage}, or leave --stage out."
                    )

    def _claimed(self, work: Work) -> bool:
        """Whether this process did a piece of work: not if it must wait, or another is at it."""
        if any(not self.done(before) for before in self._before(work)):
            return False
        if self._accelerator is not None and self._accelerator.num_processes > 1:
            self._share(work, self._accelerator)
            return True
        with self.lab.claim(str(work)) as mine:
            if not mine or self.done(work):
                return False
            self._work(work)
        return True

    def _share(self, work: Work, accelerator: Accelerator) -> None:
        """A piece of work under `accelerate launch`: all processes train, the first does the rest.

        Claims are not for them: all go through the same plan in the same order.
        """
        if work.stage == "train" or accelerator.is_main_process:
            self._work(work)
        # No barrier, whose patience ends after minutes.
        while not self.done(work):
            time.sleep(_PATIENCE)

    def _before(self, work: Work) -> Iterator[Work]:
        """What must be finished before a piece of work can begin."""
        if work.stage in _GEOMETRY:
            # One delta_m for all K needs all of them.
            first = Lab(self.lab.folder, self.lab.settings).first_cells
            yield from (Work("neighbours", cell, 0) for cell in {*first, work.cell})
        elif work.stage == "sheet":
            yield Work("neighbours", work.cell, 0)
        elif work.stage != "train":
            before = _MODELS[_MODELS.index(work.stage) - 1]
            yield Work(before, work.cell, 0)

    def _work(self, work: Work) -> None:
        lab, cell, settings = self.lab, work.cell, self.lab.settings

        def report(done: int, total: int) -> None:
            self._tell(work.label, done, total)

        if work.stage == "train":
            train(
                lab.model(cell),
                settings,
                self._pictures.training(cell.K),
                cell.seed,
                accelerator=self._accelerator,
                on_step=report,
            )
            return
        synthetic = synthesise(
            lab.synthetic(cell),
            lab.model(cell) / MODEL,
            settings.synthesis,
            cell.K,
            device=self._device,
            mixed_precision=settings.training.mixed_precision != "no",
            on_images=report if work.stage == "synthesise" else None,
        )
        if work.stage == "neighbours":
            report(0, 1)
            metric = self._metric(settings.metric)
            found = find_neighbours(metric, synthetic, self._pictures, cell.K)
            found.save(lab.neighbours_file(cell))
            report(1, 1)
        elif work.stage in _GEOMETRY:
            lab = self._fresh_lab()
            measured = Measurements(
                lab, cell, self._pictures, synthetic, self._device, self._metric
            )
            lab.save_geometry(cell, work.stage, getattr(measured, work.stage)(report))
        elif work.stage == "sheet":
            report(0, 1)
            save_sheet(self._fresh_lab(), cell, self._pictures, synthetic)
            report(1, 1)

    def _fresh_lab(self) -> Lab:
        # States are kept once computed, and more cells are measured meanwhile.
        return Lab(self.lab.folder, self.lab.settings, self.lab.given)

    @cached_property
    def _pictures(self) -> Pictures:
        settings = self.lab.settings
        source = open_source(settings.data)
        pictures = load_pictures(
            source, settings, lambda done, total: self._tell("pictures", done, total)
        )
        scale = float(as_input(pictures.ordered).std())
        self.lab.keep_data(Data(settings.data, source.train, scale, pictures.sha256))
        return pictures

    def _metric(self, name: str) -> Metric:
        if name not in self._metrics:
            weights = self._weights.get(name)
            metric = load_metric(name, weights=weights, device=self._device)
            self.lab.keep_weights(name, metric.weights_sha256)
            self._metrics[name] = metric
        return self._metrics[name]

    @property
    def _device(self) -> torch.device:
        if self._accelerator is not None:
            return self._accelerator.device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cost_of(settings: Settings, stage: Stage, K: int) -> int:
    """What a stage of a cell costs, in forward passes of one picture; rough for geometry."""
    training, geometry = settings.training, settings.geometry
    if stage == "train":
        batch = training.batch if training.fill_batch else min(training.batch, K)
        return 3 * training.iterations * batch
    if stage == "synthesise":
        return settings.synthesis.size(K) * settings.synthesis.steps
    if stage == "basin":
        return _measured(geometry, geometry.basin_images) * geometry.trials * _PER_TRIAL
    if stage == "spectra":
        one = 8 * settings.channels * settings.side**2
        each = _SPECTRUM_COST if geometry.spectrum == "fast" else one
        return _measured(geometry, geometry.spectrum_images) * each
    if stage == "energy":
        return _measured(geometry, geometry.energy_images) * geometry.references * geometry.points
    return 1


def _measured(geometry: Geometry, images: int) -> int:
    """How many pictures a measurement takes at most, of three states and the training points."""
    return 3 * images + (geometry.training_points or images)


def _expected_cost(settings: Settings, stages: Sequence[Stage]) -> int:
    sizes = settings.sizes
    more = settings.refine + 3 * (len(settings.seeds) - 1)
    cells = [*sizes, *(sizes[len(sizes) // 2] for _ in range(more))]
    return sum(cost_of(settings, stage, K) for K in cells for stage in stages)


def seconds_per_pass(settings: Settings, device: torch.device) -> float:
    """The seconds of one picture's forward pass; with `Sweep.cost` good to a factor of 2."""
    network = make_network(settings.network, settings.side, settings.channels).to(device).eval()
    shape = (64, settings.channels, settings.side, settings.side)
    x = as_input(torch.zeros(shape, dtype=torch.uint8)).to(device)

    @torch.no_grad()
    def timed() -> float:
        start = time.perf_counter()
        network(x, 0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    timed()
    return min(timed() for _ in range(3)) / len(x)


def parse_stages(asked: Sequence[str]) -> tuple[Stage, ...]:
    """The stages of these names; UsageError for others."""
    unknown = [name for name in asked if name not in STAGES]
    if unknown:
        raise UsageError(
            f"There is no stage {unknown[0]!r}: give one or more of {', '.join(STAGES)}."
        )
    return tuple(stage for stage in STAGES if stage in asked)
