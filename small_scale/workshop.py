"""What the stages of a sweep work with: its folder, pictures, distances, and where networks run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from m2g_audit.progress import OnProgress, Progress, silent
from m2g_audit.similarity import Metric, load_metric
from small_scale.lab import Lab
from small_scale.lab_folder import Cell, Data, LabFolder
from small_scale.models.pictures import Pictures, as_input, load_pictures, open_source
from small_scale.models.synthesis import synthesise
from small_scale.models.training import MODEL


@dataclass
class Workshop:
    """A sweep's folder and what its stages share; pictures are read when the first asks for them.

    given: thresholds by hand; weights: files of learned distances by name, where they are not those
    available; tell: gets progress of reading pictures.
    """

    folder: LabFolder
    given: tuple[float | None, float | None] = (None, None)
    accelerator: Accelerator | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    tell: Progress = silent
    _metrics: dict[str, Metric] = field(default_factory=dict)

    def reading(self) -> Lab:
        """The sweep as it is now, with thresholds by hand; more cells are measured meanwhile."""
        return Lab(self.folder, self.given)

    @cached_property
    def pictures(self) -> Pictures:
        """The pictures; ReferenceFolderError or UsageError for those no sweep can be made of."""
        settings = self.folder.settings
        source = open_source(settings.data)
        pictures = load_pictures(
            source, settings, lambda done, total: self.tell("pictures", done, total)
        )
        scale = float(as_input(pictures.ordered).std())
        self.folder.keep_data(Data(settings.data, source.train, scale, pictures.sha256))
        return pictures

    def synthetic(self, cell: Cell, on_progress: OnProgress | None = None) -> Tensor:
        """The synthetic set of a cell, made where it is not there: uint8 [n, c, h, w]."""
        settings = self.folder.settings
        return synthesise(
            self.folder.synthetic(cell),
            self.folder.model(cell) / MODEL,
            settings.synthesis,
            cell.K,
            device=self.device,
            mixed_precision=settings.training.mixed_precision != "no",
            on_images=on_progress,
        )

    def metric(self, name: str) -> Metric:
        """A distance by its name, whose weights stay the same through the sweep."""
        if name not in self._metrics:
            metric = load_metric(name, weights=self.weights.get(name), device=self.device)
            self.folder.keep_weights(name, metric.weights_sha256)
            self._metrics[name] = metric
        return self._metrics[name]

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        if self.accelerator is not None:
            return self.accelerator.device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
