"""calibration.json: what a sweep measured, in the form that an audit takes."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch

from m2g_audit.calibration.calibration import (
    Calibration,
    CalibrationData,
    CalibrationModel,
    CriticalTimes,
    DistanceFacts,
    ModelKind,
    SpectrumQuantiles,
    StateFacts,
    Trained,
)
from m2g_audit.files import digest
from m2g_audit.models.ddpm import UnconditionalModel
from m2g_audit.versions import versions
from small_scale.classification import Classified, RuleName
from small_scale.histogram_thresholds import Threshold
from small_scale.lab import Cell, Lab
from small_scale.models.network import make_network
from small_scale.models.training import MODEL
from small_scale.report.summaries import possible_peaks

FILE = "calibration.json"
StateName = Literal["memorized", "spurious", "generalized"]
_STATES: tuple[StateName, ...] = ("memorized", "spurious", "generalized")
_FRESH_IN_WORDS: Mapping[RuleName, str] = {
    "per-K": "the 1% quantile of pictures never trained on",
    "fixed": "the least such quantile of all K",
}


def write_calibration(lab: Lab, today: datetime.date | None = None) -> Path | None:
    """The calibration.json of a sweep, from what is measured.

    None while spectra are missing, and where models are gone, of which it holds the hashes.
    """
    measured = [cell for cell in lab.measured if lab.geometry(cell, "spectra") is not None]
    data = lab.data
    models = [lab.model(cell) / MODEL for cell in measured]
    if not measured or data is None or not all(model.exists() for model in models):
        return None
    settings = lab.settings
    spectra = lab.geometry(measured[0], "spectra")
    assert spectra is not None
    model = UnconditionalModel.load(models[0], device="cpu")
    with torch.device("meta"):
        network = make_network(settings.network, settings.side, settings.channels)
    peak = lab.peak() if possible_peaks(lab) else None
    trained_with = {name: asdict(settings)[name] for name in ("network", "training", "side")}
    calibration = Calibration(
        date=today or datetime.date.today(),
        data=CalibrationData(
            name=data.name, images=data.images, shape=model.shape, scale=data.scale
        ),
        model=CalibrationModel(
            kind=ModelKind(
                architecture=model.identity.architecture,
                shape=model.shape,
                space="pixels",
                score="unconditional",
            ),
            parameters=sum(values.numel() for values in network.parameters()),
            configuration=digest(trained_with),
        ),
        t0=int(spectra["t0"]),
        sigma_t0=float(spectra["sigma_t0"]),
        trained=[_trained(lab, cell) for cell in measured],
        peak_K=peak.K if peak in measured and peak is not None else None,
        versions=versions(),
    )
    path = lab.folder / FILE
    calibration.save(path)
    return path


def _trained(lab: Lab, cell: Cell) -> Trained:
    model = UnconditionalModel.load(lab.model(cell) / MODEL, device="cpu")
    return Trained(
        K=cell.K,
        seed=cell.seed,
        sha256=model.identity.sha256,
        distances=[
            _distance(lab, cell, rule, lab.classified[rule][cell]) for rule in lab.classified
        ],
    )


def _distance(lab: Lab, cell: Cell, rule: RuleName, classified: Classified) -> DistanceFacts:
    return DistanceFacts(
        metric=lab.settings.metric,
        delta_m=classified.delta_m.value,
        delta_s=classified.delta_s.value,
        rule=f"delta_m: {_in_words(rule, classified.delta_m)}; delta_s: "
        f"{_in_words(rule, classified.delta_s)}",
        fresh=classified.delta_m.n_fresh,
        samples=len(classified.states),
        # Geometry was measured on the states by each K's own thresholds.
        states=[_state(lab, cell, classified, name, geometry=rule == "per-K") for name in _STATES],
    )


def _in_words(rule: RuleName, threshold: Threshold) -> str:
    if threshold.rule == "fresh":
        return _FRESH_IN_WORDS[rule]
    return {"valley": "the valley between this K's two modes", "by hand": "by hand"}[threshold.rule]


def _state(
    lab: Lab, cell: Cell, classified: Classified, name: StateName, *, geometry: bool
) -> StateFacts:
    # An audit reads "jacobian" spectra, which Alg. 2's own are not.
    fast = geometry and lab.settings.geometry.spectrum == "fast"
    spectra = (lab.geometry(cell, "spectra") or {}) if fast else {}
    basin = (lab.geometry(cell, "basin") or {}) if geometry else {}
    values, times = spectra.get(f"{name}/values"), basin.get(f"{name}/critical_time")
    return StateFacts(
        state=name,
        count=sum(state.value == name for state in classified.states),
        spectrum=None if values is None else SpectrumQuantiles.of(values),
        critical_time=None
        if times is None
        else CriticalTimes.of(times, lab.settings.geometry.basin_search),
    )
