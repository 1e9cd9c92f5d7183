"""Basin, curvature and energy of the samples of each state and of training points (App. C to E).

Samples are the stored pictures, at 256 levels; rounding to them is a tenth of sigma at t0 = 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from m2g_audit.diagnostics.basin import (
    Basin,
    CriticalTimeSearch,
    Distance,
    algorithm1,
    critical_time,
)
from m2g_audit.diagnostics.energy import relative_energy
from m2g_audit.diagnostics.exact_spectrum import alg2
from m2g_audit.diagnostics.fast_spectrum import FastSpectrum, fast_spectra
from m2g_audit.diagnostics.numerics import check_finite, seed_for
from m2g_audit.models.ddpm import UnconditionalModel
from m2g_audit.progress import OnProgress
from m2g_audit.similarity import Metric, paired
from m2g_audit.verdict.states import State
from small_scale.arrays import load_arrays, save_arrays
from small_scale.lab import GROUPS, Lab, chosen
from small_scale.lab_folder import Cell
from small_scale.mixture import mixtures
from small_scale.models.pictures import Pictures, as_input, in_colour, to_levels
from small_scale.models.training import MODEL

Arrays = dict[str, np.ndarray]
_SEED = 34
MOST_MIXTURES = 1000
BLOCK = 16
"""How many samples are measured before they are kept: what a kill costs at most."""


class Measurements:
    """The four measurements of a cell; each gives arrays named "group/quantity".

    Groups are GROUPS: training points, and the samples of each state by the thresholds of the
    cell's own K. "group/rows" are which samples of S', or pictures of S, were measured. `metric`
    loads a distance by its name.
    """

    def __init__(
        self,
        lab: Lab,
        cell: Cell,
        pictures: Pictures,
        synthetic: Tensor,
        device: torch.device,
        metric: Callable[[str], Metric],
    ) -> None:
        self._lab, self._cell, self._pictures, self._synthetic = lab, cell, pictures, synthetic
        self._metric = metric
        self._settings = lab.settings.geometry
        self._neighbours = lab.folder.neighbours(cell)
        self._classified = lab.classified["per-K"][cell]
        self._device = device
        self._folder = lab.folder.model(cell) / MODEL

    def basin(self, on_progress: OnProgress) -> Arrays:
        """Critical times and log-volumes (Alg. 1, Eq. 34), of each trial.

        "times", "log_volumes" [n, M]; "critical_time" [n] of the sample; "evaluations" [n].
        """
        settings, model = self._settings, self._model()
        delta_d = settings.delta_d
        if delta_d is None:
            # Thresholds set by hand change states alone.
            own = Lab(self._lab.folder)
            delta_d = own.classified["fixed"][self._cell].delta_m.value
        distance = picture_distance(
            self._metric(settings.basin_metric or self._lab.settings.metric)
        )

        def measure(images: Tensor, seeds: list[int], report: OnProgress) -> Arrays:
            x0 = as_input(images)
            search = CriticalTimeSearch(
                delta_d,
                settings.delta_p,
                settings.trials,
                settings.denoising_steps,
                settings.stride,
            )
            found: list[Basin] = []
            if settings.basin_search == "bisection":
                found = critical_time(
                    model, x0, distance, search=search, seeds=seeds, block=64, on_progress=report
                )
            else:
                for i, seed in enumerate(seeds):
                    basin = algorithm1(model, x0[i], distance, search=search, seed=seed, block=64)
                    found.append(basin)
                    report(i + 1, len(seeds))
            return {
                "times": np.stack([each.times for each in found]),
                "log_volumes": np.stack([each.log_volumes for each in found]),
                "critical_time": np.array([each.critical_time for each in found]),
                "evaluations": np.array([each.evaluations for each in found]),
            }

        made = self._each_group(
            settings.basin_images, "basin", measure, on_progress, model, delta_d=delta_d
        )
        return made | {"delta_d": np.array(delta_d)}

    def spectra(self, on_progress: OnProgress) -> Arrays:
        """Spectra at t0 (Alg. 2, or the fast estimator of the "jacobian" kind), normalised.

        "values" [n, N], from largest; "evaluations" [n]; of fast ones also "error" and
        "intrinsic_dimension" [n].
        """
        settings, model = self._settings, self._model()

        def measure(images: Tensor, seeds: list[int], report: OnProgress) -> Arrays:
            x0 = as_input(images)
            if settings.spectrum == "exact-alg2":
                exact = []
                for i, seed in enumerate(seeds):
                    exact.append(alg2(model, x0[i], settings.t0, seed=seed))
                    report(i + 1, len(seeds))
                return {
                    "values": np.stack([each.singular_values for each in exact]),
                    "evaluations": np.array([each.evaluations for each in exact]),
                }
            fast: list[FastSpectrum] = []
            for i, seed in enumerate(seeds):
                fast += fast_spectra(
                    model,
                    x0[i : i + 1],
                    settings.t0,
                    seeds=[seed],
                    tolerance=settings.spectrum_tolerance,
                )
                report(i + 1, len(seeds))
            return {
                "values": np.stack([each.singular_values for each in fast]),
                "evaluations": np.array([each.evaluations for each in fast]),
                "error": np.array([each.error for each in fast]),
                "intrinsic_dimension": np.array([each.intrinsic_dimension for each in fast]),
            }

        made = self._each_group(settings.spectrum_images, "spectra", measure, on_progress, model)
        sigma = float(model.schedule.sigma(settings.t0))
        return made | {"t0": np.array(settings.t0), "sigma_t0": np.array(sigma)}

    def energy(self, on_progress: OnProgress) -> Arrays:
        """Energies above each reference, u(sample) - u(reference) (Alg. 4).

        "energies" [n, r]; "references" [r] are rows of S, its first, which are the same at every K.
        """
        settings, model = self._settings, self._model()
        K = self._cell.K
        rows = np.arange(min(settings.references, K))
        references = as_input(self._pictures.training(K)[rows])

        def measure(images: Tensor, seeds: list[int], report: OnProgress) -> Arrays:
            energies = relative_energy(
                model,
                as_input(images),
                references,
                points=settings.points,
                on_progress=report,
            )
            return {"energies": energies}

        made = self._each_group(settings.energy_images, "energy", measure, on_progress, model)
        return made | {"references": rows}

    def mixture(self, on_progress: OnProgress) -> Arrays:
        """How near each state comes to mixtures of its top-4 in S (Sec. 4), beside fresh pictures.

        "distance", "nearest" [n]: RMS from the best mixture and from the nearest picture. The group
        "fresh" are pictures that no model was trained on.
        """
        K, training = self._cell.K, self._pictures.training(self._cell.K)

        def measure(images: Tensor, seeds: list[int], report: OnProgress) -> Arrays:
            found = mixtures(images, training)
            return {"distance": found.distance, "nearest": found.nearest}

        made = self._each_group(MOST_MIXTURES, "mixture", measure, on_progress, block=MOST_MIXTURES)
        fresh = measure(self._pictures.fresh[:MOST_MIXTURES], [], on_progress)
        return (
            made | {f"fresh/{name}": values for name, values in fresh.items()} | {"K": np.array(K)}
        )

    # -- groups

    def _model(self) -> UnconditionalModel:
        return UnconditionalModel.load(self._folder, device=self._device)

    def _each_group(
        self,
        most: int,
        what: str,
        measure: Callable[[Tensor, list[int], OnProgress], Arrays],
        on_progress: OnProgress,
        model: UnconditionalModel | None = None,
        *,
        block: int | None = None,
        **asked: float,
    ) -> Arrays:
        """All groups, block by block; training points only where a model is asked about them.

        `asked`: what the numbers rest on beside the settings and the model.
        """
        block = block or BLOCK
        groups = self._groups(most, training=model is not None)
        weights = model.identity.sha256 if model is not None else None
        made: Arrays = {}
        for i, (group, (rows, images)) in enumerate(groups.items()):
            parts = []
            for start in range(0, len(rows), block):
                some = rows[start : start + block]
                seeds = [seed_for(_SEED, f"{what} {group} {self._cell}", int(row)) for row in some]
                share = len(some) / len(rows)
                report = partial(_part, on_progress, i + start / len(rows), share, len(groups))
                path = self._lab.folder.geometry_part(
                    self._cell,
                    what,
                    {"group": group, "rows": some.tolist(), "weights": weights, **asked},
                )
                if not path.exists():
                    save_arrays(path, measure(images[start : start + block], seeds, report))
                parts.append(load_arrays(path))
            made |= {
                f"{group}/{name}": np.concatenate([part[name] for part in parts])
                for name in parts[0]
            }
            made[f"{group}/rows"] = rows
        on_progress(1000 * len(groups), 1000 * len(groups))
        return made

    def _groups(self, most: int, *, training: bool) -> Mapping[str, tuple[np.ndarray, Tensor]]:
        found = {}
        for group in GROUPS:
            if group == "training":
                points = self._settings.training_points or most
                rows, images = np.arange(min(points, self._cell.K)), self._pictures.ordered
            else:
                rows = chosen(self._classified, self._neighbours, State(group), most)
                images = self._synthetic
            if len(rows) and (training or group != "training"):
                found[group] = rows, images[rows]
        return found


def picture_distance(metric: Metric) -> Distance:
    """The distance of Alg. 1 between network inputs, after rounding to 256 levels as pictures."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        # As a level, what is not finite would be black.
        levels = (to_levels(check_finite(x, "a recovered picture")) for x in (a, b))
        left, right = (metric.embed(in_colour(x)) for x in levels)
        return paired(metric, left, right)

    return distance


def _part(report: OnProgress, at: float, share: float, groups: int, done: int, total: int) -> None:
    # One bar for all groups of a measurement; `at` and `share` are in groups.
    report(round(1000 * (at + share * done / max(1, total))), 1000 * groups)
