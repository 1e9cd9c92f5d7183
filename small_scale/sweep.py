"""The K-sweep (Sec. 4), stage by stage: each piece is done once, by the process that claims it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator

from m2g_audit.errors import UsageError
from small_scale.calibration_file import write_calibration
from small_scale.lab import Lab
from small_scale.lab_folder import Cell, LabFolder
from small_scale.models.network import make_network
from small_scale.models.pictures import as_input
from small_scale.report.whole_report import write_report
from small_scale.settings import SweepSettings
from small_scale.stages import BY_NAME, NAMES, REPORT, STAGES, Stage
from small_scale.workshop import Workshop

_PATIENCE = 1.0


class Teller(Protocol):
    """Who is told of progress: of the stage under way, and of the whole sweep."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take in how much of a stage is done."""

    def overall(self, done: int, total: int) -> None:
        """Tell how much of all work is done, in units of cost."""


class Silent:
    """Tells nobody."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Pass over how much of a stage is done."""

    def overall(self, done: int, total: int) -> None:
        """Pass over how much of all work is done."""


@dataclass(frozen=True)
class Work:
    """One piece of a sweep: a stage of a cell."""

    stage: Stage
    cell: Cell

    def __str__(self) -> str:
        return f"{self.cell}-{self.stage.name}"

    @property
    def label(self) -> str:
        """What to call it on a screen."""
        seed = f", seed {self.cell.seed}" if self.cell.seed else ""
        return f"K = {self.cell.K:,}{seed}: {self.stage.said}"


class Sweep:
    """A sweep at work on its folder.

    given: thresholds by hand; weights: files of learned distances by name, where they are not those
    available.
    """

    def __init__(
        self,
        folder: LabFolder,
        tell: Teller,
        *,
        given: tuple[float | None, float | None] = (None, None),
        accelerator: Accelerator | None = None,
        weights: Mapping[str, Path] | None = None,
    ) -> None:
        self.folder, self._tell = folder, tell
        self._accelerator = accelerator
        self._shop = Workshop(folder, given, accelerator, weights or {}, tell)

    def run(self, stages: Sequence[str] = NAMES) -> None:
        """Does what is not done yet of the stages, for every K, then for more seeds at the peak.

        Raises whatever a piece of work raises; what was finished stays. A piece that another
        process has claimed is waited for.
        """
        wanted = [stage for stage in STAGES if stage.name in stages]
        # Which cells come next rests on the states of those before.
        models = [stage for stage in wanted if stage.by_cell]
        self._do(lambda lab: plan(lab.sparse_cells, models), wanted)
        self._do(lambda lab: plan(lab.first_cells, models), wanted)
        self._do(lambda lab: plan(_cells(lab), wanted), wanted)
        if REPORT in stages and (self._accelerator is None or self._accelerator.is_main_process):
            write_report(self._shop.reading())
            write_calibration(self._shop.reading())

    def look_at_pictures(self) -> Sequence[str]:
        """Reads the pictures; returns what is to be told of them before anything is trained.

        Raises ReferenceFolderError or UsageError for those that no sweep can be made of.
        """
        return self._shop.pictures.remarks

    def cost(self, stages: Sequence[str]) -> tuple[int, int]:
        """What is left of the stages, and all of it, in forward passes of one picture.

        The cells around the transition and its peak count as middle ones before they are known.
        """
        settings, lab = self.folder.settings, Lab(self.folder)
        wanted = [stage for stage in STAGES if stage.name in stages]
        known = plan(_cells(lab), wanted)
        total = sum(_cost(settings, work) for work in known)
        unknown = 0
        if not set(lab.measured).issuperset(lab.first_cells):
            unknown = max(0, _expected_cost(settings, wanted) - total)
        left = sum(_cost(settings, work) for work in known if not self._is_done(work))
        return left + unknown, total + unknown

    def _is_done(self, work: Work) -> bool:
        return work.stage.done(self._shop.reading(), work.cell)

    # -- doing it

    def _do(self, planned: Callable[[Lab], list[Work]], wanted: Sequence[Stage]) -> None:
        # Thresholds by hand change states, but not which models a sweep has.
        all_work = planned(Lab(self.folder))
        while True:
            pending = [work for work in all_work if not self._is_done(work)]
            self._tell_overall(wanted)
            if not pending:
                return
            self._check_possible(pending)
            if not any(self._claimed(work) for work in pending):
                time.sleep(_PATIENCE)

    def _tell_overall(self, wanted: Sequence[Stage]) -> None:
        left, total = self.cost([stage.name for stage in wanted])
        self._tell.overall(total - left, total)

    def _check_possible(self, pending: Sequence[Work]) -> None:
        """Raises UsageError for a stage whose predecessor is neither done nor asked for."""
        asked = {str(work) for work in pending}
        for work in pending:
            for before in self._before(work):
                if not self._is_done(before) and str(before) not in asked:
                    name = before.stage.name
                    raise UsageError(
                        f"{work.label} needs what the stage `{name}` makes for {before.cell}: add "
                        f"--stage {name}, or leave --stage out."
                    )

    def _claimed(self, work: Work) -> bool:
        """Whether this process did a piece of work: not if it must wait, or another is at it."""
        if any(not self._is_done(before) for before in self._before(work)):
            return False
        if self._accelerator is not None and self._accelerator.num_processes > 1:
            self._share(work, self._accelerator)
            return True
        with self.folder.claim(str(work)) as mine:
            if not mine or self._is_done(work):
                return False
            self._work(work)
        return True

    def _share(self, work: Work, accelerator: Accelerator) -> None:
        """A piece of work under `accelerate launch`: all processes train, the first does the rest.

        Claims are not for them: all go through the same plan in the same order.
        """
        if work.stage.name == "train" or accelerator.is_main_process:
            self._work(work)
        # No barrier, whose patience ends after minutes.
        while not self._is_done(work):
            time.sleep(_PATIENCE)

    def _before(self, work: Work) -> Iterator[Work]:
        """What must be finished before a piece of work can begin."""
        for name, cell in work.stage.needs(Lab(self.folder), work.cell):
            yield Work(BY_NAME[name], cell)

    def _work(self, work: Work) -> None:
        work.stage.do(self._shop, work.cell, partial(self._tell, work.label))


def run_sweep(
    settings: SweepSettings,
    folder: str | Path,
    *,
    stages: Sequence[str] = NAMES,
    given: tuple[float | None, float | None] = (None, None),
    tell: Teller | None = None,
) -> Lab:
    """Run a sweep, or what is left of it, and return it as it then is.

    Args:
        settings: Every number that it depends on, as `small_scale.settings.settings_for` makes.
        folder: Where it lies or is to lie.
        stages: Of NAMES; by default all.
        given: delta_m and delta_s by hand.
        tell: Is told of progress.

    Raises:
        OutputError: The folder holds something else, or can't be written.
        UsageError: There is no such stage, or one needs another that is neither done nor asked for.
    """
    lab_folder = LabFolder.create(Path(folder), settings)
    sweep = Sweep(lab_folder, tell or Silent(), given=given)
    sweep.run(parse_stages(stages))
    return Lab(lab_folder, given)


def plan(cells: Sequence[Cell], stages: Sequence[Stage]) -> list[Work]:
    """The work of some cells in its order: all models first, geometry after them."""
    models = [Work(stage, cell) for cell in cells for stage in stages if stage.by_cell]
    return models + [Work(stage, cell) for stage in stages if not stage.by_cell for cell in cells]


def _cells(lab: Lab) -> list[Cell]:
    """All cells that are known so far."""
    return [*lab.first_cells, *lab.around_peak()]


def _cost(settings: SweepSettings, work: Work) -> int:
    return work.stage.cost(settings, work.cell.K)


def _expected_cost(settings: SweepSettings, stages: Sequence[Stage]) -> int:
    sizes = settings.sizes
    more = settings.refine + 3 * (len(settings.seeds) - 1)
    cells = [*sizes, *(sizes[len(sizes) // 2] for _ in range(more))]
    return sum(stage.cost(settings, K) for K in cells for stage in stages)


def seconds_per_pass(settings: SweepSettings, device: torch.device) -> float:
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


def parse_stages(asked: Sequence[str]) -> tuple[str, ...]:
    """The stages of these names, in their order; UsageError for others."""
    unknown = [name for name in asked if name not in NAMES]
    if unknown:
        raise UsageError(
            f"There is no stage {unknown[0]!r}: give one or more of {', '.join(NAMES)}."
        )
    return tuple(name for name in NAMES if name in asked)
