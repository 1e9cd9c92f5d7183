"""Whether a calibration may speak about the model that is audited."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from m2g_audit.calibration.calibration_record import (
    Calibration,
    ModelKind,
    Transfer,
    parse,
    read,
)
from m2g_audit.errors import UsageError

SIGMA_TOLERANCE = 0.2
"""How far apart sigma_t0 over the data's scale may be, as a share of the calibration's."""


@dataclass(frozen=True)
class Facts:
    """What decides whether a calibration fits a model that is audited.

    `spectrum`: the kind that the audit measures, None for none; `sigma_t0`: of the model's schedule
    at the audit's `t0`; `scale`: standard deviation of the data as the model sees it.
    """

    kind: ModelKind
    spectrum: Literal["jacobian", "paper"] | None
    t0: int
    sigma_t0: float
    scale: float


@dataclass(frozen=True)
class Fitting:
    """A calibration that fits a model, with its file's content and the transfer that counts."""

    calibration: Calibration
    content: bytes
    transfer: Transfer

    @property
    def sha256(self) -> str:
        """The hash of the calibration's file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def source(self) -> str:
        """Where its word comes from, in a sentence without a full stop."""
        sizes = sorted(entry.K for entry in self.calibration.trained)
        auroc, transfer = self.transfer.auroc, self.transfer
        models = f"{len(sizes)} models, K from {sizes[0]:,} to {sizes[-1]:,}"
        if len(sizes) == 1:
            models = f"one model of {sizes[0]:,} pictures"
        return (
            f"the calibration of {self.calibration.date} on {self.calibration.data.name} "
            f"({models}), tried on "
            f"{transfer.name}: there the {transfer.readout} of the spectrum told "
            f"{transfer.memorized} memorized from {transfer.spurious} spurious samples with AUROC "
            f"{auroc.estimate:.2f} ({auroc.low:.2f} to {auroc.high:.2f})"
        )


def check_fit(calibration: Calibration, facts: Facts) -> list[str]:
    """The reasons why a calibration says nothing about a model; none where it fits."""
    ours, theirs = calibration.model.kind, facts.kind
    reasons = []
    if ours.space != theirs.space:
        reasons.append(f"it was measured in {ours.space}, and this model works in {theirs.space}")
    if ours.score != theirs.score:
        reasons.append(
            f"it is about the {ours.score} score, and this audit takes the {theirs.score} one"
        )
    if facts.spectrum is None:
        reasons.append("it is about spectra, and this audit measures none")
    elif facts.spectrum != calibration.spectrum:
        reasons.append(
            f"it is about `{calibration.spectrum}` spectra, and this audit measures `paper` ones"
        )
    there = calibration.sigma_t0 / calibration.data.scale
    here = facts.sigma_t0 / facts.scale
    if abs(here / there - 1) > SIGMA_TOLERANCE:
        reasons.append(
            f"sigma_t0 over the data's scale is {there:.3g} there (t0 = {calibration.t0}) and "
            f"{here:.3g} here (t0 = {facts.t0}); up to {SIGMA_TOLERANCE:.0%} apart is allowed"
        )
    if calibration.transfer_to(theirs) is None:
        measured = "; ".join(f"{t.name} ({t.to})" for t in calibration.transfers)
        reasons.append(
            f"no transfer to this kind of model ({theirs}) was measured"
            + (f", only to {measured}" if measured else "")
        )
    return reasons


def fit(path: Path, facts: Facts) -> Fitting:
    """The calibration at `path`, if it fits the model; else UsageError, with all reasons."""
    content = read(path)
    calibration = parse(content, path)
    reasons = check_fit(calibration, facts)
    transfer = calibration.transfer_to(facts.kind)
    if reasons or transfer is None:
        raise UsageError(
            f"The calibration {path} does not fit this audit: {'; '.join(reasons)}. Leave out "
            "--calibration, or give one that was made for such a model."
        )
    return Fitting(calibration, content, transfer)
