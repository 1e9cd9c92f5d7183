"""What the generations of every prompt are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from m2g_audit.records.record import ReferenceFiles
from m2g_audit.references.plants import Plants
from m2g_audit.references.power import Power, power_of
from m2g_audit.references.reference import Reference
from m2g_audit.verdict.screening import Findings
from m2g_audit.verdict.thresholds import Thresholds


@dataclass(frozen=True)
class Yardstick:
    """What the generations of every prompt are judged by.

    files: how those of S were read, where it is a folder; plants: planted copies, None where they
    were not measured; findings: about the model, None without control prompts; thumb: the published
    rule of thumb that a calibration must not contradict; near_duplicates: up to which distance two
    pictures of S are, None where no ratio is taken; notes: what was noticed on the way, a sentence
    each; by_caption: pocket's thresholds of a caption of its own.
    """

    reference: Reference | None
    thresholds: Thresholds
    files: ReferenceFiles | None = None
    plants: Plants | None = None
    findings: Findings | None = None
    thumb: Thresholds | None = None
    near_duplicates: float | None = None
    notes: tuple[str, ...] = ()
    by_caption: Mapping[str, Thresholds] = field(default_factory=dict)

    @property
    def power(self) -> Power | None:
        """Return the share of planted copies that the thresholds find."""
        return None if self.plants is None else power_of(self.plants, self.thresholds)

    def of(self, prompt: str, negative_prompt: str | None = None) -> Yardstick:
        """Return the yardstick of one prompt: pocket has thresholds for each of its captions."""
        if prompt not in self.by_caption or negative_prompt is not None:
            return self
        return replace(self, thresholds=self.by_caption[prompt])
