"""What a sweep over training sizes measured, in a dated file, and the models that it is about.

A calibration says how spectra and critical times of memorized, spurious and generalized samples
differ where the training set is known. On another model it means something only if the two are
alike (`check_fit`) and its read-out was tried on that kind of model (`Transfer`).
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, ValidationError, field_validator, model_validator

from m2g_audit.errors import UsageError
from m2g_audit.files import write_atomically
from m2g_audit.foreign_files import read_file
from m2g_audit.records.part import Part
from m2g_audit.records.record import Distance, Finite, Index, IntervalRecord, Share
from m2g_audit.text import printable

SCHEMA_VERSION = "1.0"
QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)

Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Readout = Literal["mean", "median", "quantile 0.1", "quantile 0.9"]
"""A number read off a normalised spectrum."""


class ModelKind(Part):
    """What kind of model a number belongs to."""

    architecture: str
    """Class names."""
    shape: tuple[int, ...]
    """Of a sample."""
    space: Literal["pixels", "latents"]
    """What a sample is."""
    score: Literal["conditional", "unconditional", "guided"]
    """Which of its scores."""

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        return f"{self.architecture} with {size} {self.space} and the {self.score} score"


class CalibrationData(Part):
    """The data of the sweep."""

    name: str
    """Of the data set."""
    images: Count
    """How many pictures there are."""
    shape: tuple[int, ...]
    """Channels, height and width."""
    scale: Positive
    """Standard deviation of all values as the model sees them, such as pixels in [-1, 1]."""


class CalibrationModel(Part):
    """The models of the sweep."""

    kind: ModelKind
    """Of what kind."""
    parameters: Count
    """How many parameters."""
    configuration: str
    """Digest of what they were trained with."""


class SpectrumQuantiles(Part):
    """Normalised `jacobian` spectra of some samples, from their quantiles."""

    samples: Count
    """How many."""
    at: list[Share]
    """The quantiles."""
    mean: list[Finite]
    """Over samples, of each sample's quantile."""
    sd: list[Distance]
    """Over samples, of each sample's quantile."""
    medians: list[Finite]
    """Of each sample."""

    @classmethod
    def of(cls, spectra: ArrayLike, at: Sequence[float] = QUANTILES) -> SpectrumQuantiles:
        """Summary of spectra [n, N], normalised singular values in any order."""
        curves = np.asarray(spectra, dtype=np.float64)
        found = np.quantile(curves, at, axis=1)
        return cls(
            samples=len(curves),
            at=list(at),
            mean=found.mean(axis=1).tolist(),
            sd=found.std(axis=1).tolist(),
            medians=np.median(curves, axis=1).tolist(),
        )

    @model_validator(mode="after")
    def _lengths(self) -> SpectrumQuantiles:
        if not len(self.at) == len(self.mean) == len(self.sd):
            raise ValueError("`at`, `mean` and `sd` must be equally long")
        if len(self.medians) != self.samples:
            raise ValueError(f"{self.samples} samples need as many medians")
        return self


class CriticalTimes(Part):
    """Critical times t_c of some samples."""

    algorithm: Literal["bisection", "alg1"]
    """The search."""
    samples: Count
    """How many."""
    mean: Finite
    """Over samples."""
    sd: Distance
    """Over samples."""
    at: list[Share]
    """The quantiles."""
    quantiles: list[Finite]
    """Their values."""

    @classmethod
    def of(
        cls,
        times: ArrayLike,
        algorithm: Literal["bisection", "alg1"],
        at: Sequence[float] = QUANTILES,
    ) -> CriticalTimes:
        """Summary of times [n], 0-based indices of the schedule."""
        values = np.asarray(times, dtype=np.float64)
        return cls(
            algorithm=algorithm,
            samples=len(values),
            mean=float(values.mean()),
            sd=float(values.std()),
            at=list(at),
            quantiles=np.quantile(values, at).tolist(),
        )

    @model_validator(mode="after")
    def _lengths(self) -> CriticalTimes:
        if len(self.at) != len(self.quantiles):
            raise ValueError("`at` and `quantiles` must be equally long")
        return self


class StateFacts(Part):
    """Samples in one state."""

    state: Literal["memorized", "spurious", "generalized"]
    """Which."""
    count: Index
    """How many."""
    spectrum: SpectrumQuantiles | None = None
    """Of some of them."""
    critical_time: CriticalTimes | None = None
    """Of some of them."""


class DistanceFacts(Part):
    """Thresholds in one distance, and the states that they gave."""

    metric: str
    """The distance."""
    delta_m: Distance
    """Of Eq. 9."""
    delta_s: Distance
    """Of Eq. 10."""
    rule: str
    """How the thresholds were found, in a sentence."""
    fresh: Count
    """How many never trained pictures gave delta_m and, as many as `samples`, delta_s."""
    samples: Count
    """|S'|, the set in which a duplicate was looked for."""
    states: list[StateFacts]
    """What the samples are."""


class Trained(Part):
    """One model of the sweep."""

    K: Count
    """Its training size."""
    seed: int
    """Of its training."""
    sha256: str
    """The hash of its weights."""
    distances: Annotated[list[DistanceFacts], Field(min_length=1)]
    """Results by distance."""


class Transfer(Part):
    """How a read-out told memorized from spurious samples on a model of another kind."""

    name: str
    """Of that model."""
    to: ModelKind
    """Of what kind that model is."""
    sha256: str
    """The hash of its weights."""
    readout: Readout
    """What of a spectrum is read."""
    threshold: Finite
    """A sample whose read-out is this or above is called memorized."""
    auroc: IntervalRecord
    """Of the read-out itself, memorized above spurious."""
    balanced_accuracy: IntervalRecord | None = None
    """Share named right by the threshold, mean of both states; null where it was not measured."""
    base_rate: Share = 0.5
    """Share right of always giving the commoner word, to the prompts that it names where that
    was measured."""
    memorized: Count
    """How many memorized samples."""
    spurious: Count
    """How many spurious samples."""
    date: datetime.date
    """When it was measured."""

    @property
    def tells(self) -> bool:
        """Whether the read-out may name: by its threshold it is right more often than a constant.

        The whole interval of the balanced accuracy lies above one half and the base rate. An AUROC
        above one half does not do: the threshold may be another model's.
        """
        right = self.balanced_accuracy
        return right is not None and right.low > max(0.5, self.base_rate)

    def state(self, spectrum: ArrayLike) -> Literal["memorized", "spurious"]:
        """The state of a sample with this normalised spectrum [N]."""
        return "memorized" if read_out(self.readout, spectrum) >= self.threshold else "spurious"


class Calibration(Part):
    """A sweep's measurements at one noise level."""

    schema_version: str = SCHEMA_VERSION
    """Of this schema."""
    date: datetime.date
    """When it was written."""
    data: CalibrationData
    """What was trained on."""
    model: CalibrationModel
    """What was trained."""
    t0: Index
    """The noise level, an index into the schedule."""
    sigma_t0: Positive
    """The schedule's sigma there."""
    spectrum: Literal["jacobian"] = "jacobian"
    """The kind of its spectra."""
    trained: Annotated[list[Trained], Field(min_length=1)]
    """What each model showed."""
    peak_K: Count | None
    """Where the spurious share is largest, if it is known."""
    transfers: list[Transfer] = []
    """To other kinds of model; of several to one kind the first counts, so that none is chosen
    by its result."""
    versions: dict[str, str]
    """Of packages, and the commit."""

    @field_validator("schema_version")
    @classmethod
    def _readable(cls, version: str) -> str:
        if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise ValueError(
                f"the calibration has schema version {version}; this program reads "
                f"{SCHEMA_VERSION.split('.')[0]}.x"
            )
        return version

    @model_validator(mode="after")
    def _consistent(self) -> Calibration:
        found = Counter((entry.K, entry.seed) for entry in self.trained)
        twice = [f"K = {K} with seed {seed}" for (K, seed), n in found.items() if n > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)} is there more than once")
        if self.peak_K is not None and self.peak_K not in {entry.K for entry in self.trained}:
            raise ValueError(f"nothing was trained at the peak, K = {self.peak_K}")
        return self

    def transfer_to(self, kind: ModelKind) -> Transfer | None:
        """The transfer to a kind of model that counts, or None where none was measured."""
        return next((transfer for transfer in self.transfers if transfer.to == kind), None)

    def save(self, path: Path) -> None:
        """Write the calibration as JSON, whole or not at all; OutputError where that fails."""
        write_atomically(path, f"{self.model_dump_json(indent=1)}\n".encode())


def read_out(name: Readout, spectrum: ArrayLike) -> float:
    """The named number of a normalised spectrum [N], its values in any order."""
    values = np.asarray(spectrum, dtype=np.float64)
    if name == "mean":
        return float(values.mean())
    return float(np.quantile(values, 0.5 if name == "median" else float(name.split()[1])))


def load(path: Path) -> Calibration:
    """The calibration written at `path`; UsageError where there is none that can be read."""
    return parse(read(path), path)


def read(path: Path) -> bytes:
    """Return a calibration's file; UsageError where it can't be read."""
    try:
        return read_file(path)
    except OSError as error:
        raise UsageError(
            f"No calibration can be read at {path} ({error.strerror}). Give the calibration.json "
            "of a sweep, or leave out --calibration."
        ) from error


def parse(content: bytes, path: Path) -> Calibration:
    """Return the calibration of a file's content; UsageError where it is none."""
    try:
        return Calibration.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise UsageError(
            f"{path} is not a calibration that this program reads "
            f"({printable(where + first['msg'], 200)}). Give the calibration.json of a sweep made "
            "with this version, or leave out --calibration."
        ) from error
