"""Calibrations, and audits with one."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np

from m2g_audit.calibration.calibration_record import (
    Calibration,
    CalibrationData,
    CalibrationModel,
    CriticalTimes,
    DistanceFacts,
    ModelKind,
    SpectrumQuantiles,
    StateFacts,
    Trained,
    Transfer,
)
from m2g_audit.models.levels import stable_diffusion_ratios
from m2g_audit.pictures.tensors import to_picture
from m2g_audit.records.record import (
    AuditRecord,
)
from tests.support.fakes import FakePipeline, picture
from tests.support.samples import interval
from tests.support.setups import fake_job, run_job

PROMPT = "a print of the old harbour"


REPEATING = [1] * 8 + [2, 2, 1, 1, 3] + [1] * 7


def training_folder(path: Path, *numbers: int) -> Path:
    path.mkdir()
    for number in numbers:
        to_picture(picture(number)).save(path / f"{number}.png")
    return path


DATE = datetime.date(2026, 11, 20)


# Where an audit of it takes curvature: at the noise of Stable Diffusion's step 5.
_T0 = FakePipeline.schedule.nearest(float(stable_diffusion_ratios()[5]))
SIGMA = float(FakePipeline.schedule.sigma(_T0))


KIND = ModelKind(
    architecture="Fake", shape=FakePipeline.latent_shape, space="latents", score="conditional"
)


def transfer(**changes: Any) -> Transfer:
    defaults: dict[str, Any] = {
        "name": "a small model",
        "to": KIND,
        "sha256": "ef" * 32,
        "readout": "quantile 0.1",
        "threshold": 0.5,
        "auroc": interval(0.86, 0.71, 0.95),
        "balanced_accuracy": interval(0.8, 0.7, 0.9),
        "base_rate": 0.6,
        "memorized": 40,
        "spurious": 30,
        "date": DATE,
    }
    return Transfer(**{**defaults, **changes})


def calibration(**changes: Any) -> Calibration:
    """Return a calibration that fits `FACTS`: two models, one state measured."""
    states = [
        StateFacts(
            state="memorized",
            count=900,
            spectrum=SpectrumQuantiles.of(np.linspace(0, 1, 20).reshape(2, 10)),
            critical_time=CriticalTimes.of([101, 201], "bisection"),
        ),
        StateFacts(state="spurious", count=90),
    ]
    distance = DistanceFacts(
        metric="l2",
        delta_m=0.05,
        delta_s=0.06,
        rule="1% quantiles over fresh pictures",
        fresh=4096,
        samples=1000,
        states=states,
    )
    trained = [Trained(K=K, seed=0, sha256="ab" * 32, distances=[distance]) for K in (2, 256)]
    defaults: dict[str, Any] = {
        "date": DATE,
        "data": CalibrationData(name="digits", images=60_000, shape=(1, 28, 28), scale=1.0),
        "model": CalibrationModel(kind=KIND, parameters=1000, configuration="cd" * 32),
        "t0": _T0,
        "sigma_t0": SIGMA,
        "trained": trained,
        "peak_K": 256,
        "transfers": [transfer()],
        "versions": {"m2g-audit": "0.1.0"},
    }
    return Calibration(**{**defaults, **changes})


def audit(folder: Path, file: Calibration, **options: Any) -> AuditRecord:
    """Return the audit of a prompt that repeats itself; all its spectra are 1 throughout."""
    file.save(folder / "calibration.json")
    pipeline = FakePipeline(PROMPT, REPEATING)
    job = fake_job(pipeline, calibration=folder / "calibration.json", **options)
    return run_job(job, folder / "run")
