"""The truth table of pocket: what was measured, read without loading a model."""

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from m2g_audit.errors import ModelError
from m2g_audit.files import write_atomically
from m2g_audit.models.model_folder import POCKET_FOLDER
from m2g_audit.pocket.captions import Role
from m2g_audit.references.plants import Plants
from m2g_audit.verdict.thresholds import LOOSE_ALPHA, STRICT_ALPHA, Thresholds

TRUTH_FILE = "truth.json"
TABLE = POCKET_FOLDER / TRUTH_FILE
SOURCE = "1% quantiles over fresh pictures of the pocket world"


@dataclass(frozen=True)
class CaptionShares:
    """Shares of the three states among samples that did not fail (Eq. 9-11)."""

    memorized: float
    spurious: float
    generalized: float


@dataclass(frozen=True)
class CaptionTruth:
    """The measured truth of one caption.

    truth: duplicates looked for among 16 samples, averaged over 256; of_256: among all 256; half,
    twice: as truth, with both thresholds at half and twice; delta_m, delta_s: the caption's own, of
    256 fresh pictures of it, strict and loose at the 0.3% and 3% quantiles; nearer_to_s: the share
    of spurious samples that are nearer to the caption's training pictures than to as many that the
    model never saw (one half by chance), None without any; false_memorized: share within delta_m of
    the control set.
    """

    caption: str
    k: int
    role: Role
    truth: CaptionShares
    of_256: CaptionShares
    half: CaptionShares
    twice: CaptionShares
    delta_m: float
    delta_s: float
    strict: tuple[float, float]
    loose: tuple[float, float]
    nearer_to_s: float | None
    false_memorized: float
    failed: int


@dataclass(frozen=True)
class TruthTable:
    """The truth of all captions, and what it was measured with.

    round_trip_rms: RMS error of the VAE's round trip over training pictures, pixels in [0, 1];
    delta_m, delta_s: of fresh pictures of all captions, for prompts that are not listed;
    fresh_pictures: how many of each caption gave thresholds; plants: planted copies.
    """

    model_sha256: str
    world_sha256: str
    metric: str
    delta_m: float
    delta_s: float
    round_trip_rms: float
    fresh_pictures: int
    samples: int
    steps: int
    guidance: float
    seed: int
    plants: Plants
    captions: tuple[CaptionTruth, ...]

    @property
    def thresholds(self) -> Thresholds:
        """The pair for prompts that are not listed."""
        return Thresholds(
            metric=self.metric,
            delta_m=self.delta_m,
            delta_s=self.delta_s,
            source=f"{SOURCE}, all captions together",
            n_controls=self.fresh_pictures * len(self.captions),
            calibrated=True,
        )

    def thresholds_for(self, caption: str) -> Thresholds:
        """The pair of a listed caption, by its text; KeyError for another."""
        return self.thresholds_of({row.caption: row for row in self.captions}[caption])

    def false_memorized(self, prompt: str) -> float:
        """The control of a caption: 0 for prompts that are not listed."""
        return next((row.false_memorized for row in self.captions if row.caption == prompt), 0.0)

    def thresholds_of(self, row: CaptionTruth) -> Thresholds:
        """A caption's own pair."""
        return Thresholds(
            metric=self.metric,
            delta_m=row.delta_m,
            delta_s=row.delta_s,
            source=f"{SOURCE}, of this caption",
            n_controls=self.fresh_pictures,
            calibrated=True,
            others={STRICT_ALPHA: row.strict, LOOSE_ALPHA: row.loose},
        )


@cache
def load_table(path: Path = TABLE) -> TruthTable:
    """The committed truth table, read once; ModelError where it is missing or can't be read."""
    try:
        content = json.loads(path.read_text())
        rows = [
            CaptionTruth(
                **{
                    **row,
                    **{
                        name: CaptionShares(**row[name])
                        for name in ("truth", "of_256", "half", "twice")
                    },
                    **{name: tuple(row[name]) for name in ("strict", "loose")},
                }
            )
            for row in content.pop("captions")
        ]
        plants = Plants.from_json(content.pop("plants"))
        return TruthTable(**content, plants=plants, captions=tuple(rows))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"The truth table of pocket can't be read ({path}: {error}). Install the package "
            "again, or measure it with m2g-audit pocket measure."
        ) from error


def save_table(table: TruthTable, path: Path) -> None:
    """Writes a truth table as JSON, whole or not at all."""
    content = {**asdict(table), "plants": _rounded(table.plants.to_json())}
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value
