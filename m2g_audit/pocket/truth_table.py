"""The truth table of pocket: what was measured, read without loading a model."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from m2g_audit.errors import ModelError
from m2g_audit.pocket.captions import Role
from m2g_audit.runs import write_atomically
from m2g_audit.states import Thresholds

TABLE = Path(__file__).parent / "truth.json"
SOURCE = "1% quantiles over fresh pictures of the pocket world"


@dataclass(frozen=True)
class Shares:
    """Shares of the three states among samples that did not fail (Eq. 9-11)."""

    memorized: float
    spurious: float
    generalized: float


@dataclass(frozen=True)
class CaptionTruth:
    """The measured truth of one caption.

    truth: among 256 samples; of_16: mean over disjoint subsamples of 16; half, twice: of 256 with
    both thresholds at half and twice; false_memorized: share within delta_m of the control set.
    """

    caption: str
    k: int
    role: Role
    truth: Shares
    of_16: Shares
    half: Shares
    twice: Shares
    false_memorized: float
    failed: int


@dataclass(frozen=True)
class TruthTable:
    """The truth of all captions, and what it was measured with.

    round_trip_rms: RMS error of the VAE's round trip over training pictures, pixels in [0, 1];
    fresh_pictures: how many gave delta_m.
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
    captions: tuple[CaptionTruth, ...]

    @property
    def thresholds(self) -> Thresholds:
        """The pair that the states were read with."""
        return Thresholds(
            metric=self.metric,
            delta_m=self.delta_m,
            delta_s=self.delta_s,
            source=SOURCE,
            n_controls=self.fresh_pictures,
            calibrated=True,
        )


def load_table(path: Path = TABLE) -> TruthTable:
    """The committed truth table; ModelError where it is missing or can't be read."""
    try:
        content = json.loads(path.read_text())
        rows = [
            CaptionTruth(
                **{
                    **row,
                    **{name: Shares(**row[name]) for name in ("truth", "of_16", "half", "twice")},
                }
            )
            for row in content.pop("captions")
        ]
        return TruthTable(**content, captions=tuple(rows))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"The truth table of pocket can't be read ({path}: {error}). Install the package "
            "again, or measure it with m2g-audit pocket measure."
        ) from error


def false_memorized(prompt: str) -> float:
    """The shipped table's control of a caption: 0 for prompts that it does not list."""
    shares = {row.caption: row.false_memorized for row in load_table().captions}
    return shares.get(prompt, 0.0)


def save_table(table: TruthTable, path: Path) -> None:
    """Writes a truth table as JSON, whole or not at all."""
    write_atomically(path, (json.dumps(asdict(table), indent=1) + "\n").encode())
