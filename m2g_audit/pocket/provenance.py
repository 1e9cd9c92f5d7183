"""What a model of the pocket world brings along beside its weights: training set, truth, words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from m2g_audit.errors import ModelError
from m2g_audit.models.model_folder import POCKET_FOLDER
from m2g_audit.models.names import POCKET
from m2g_audit.models.own_settings import read_own_settings
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pocket.captions import unknown_words
from m2g_audit.pocket.training_pictures import (
    INDEX_FILE,
    PocketReference,
    TrainingPictures,
    load_index,
    world_hash,
)
from m2g_audit.pocket.truth_table import TRUTH_FILE, TruthTable, load_table
from m2g_audit.verdict.thresholds import Thresholds

FALSE_MEMORIZED_LIMIT = 0.01
"""Above this share of samples near pictures that were never trained on a match says little."""


@dataclass(frozen=True)
class Provenance:
    """How a model was made, as the files in the folder of its weights tell.

    name: of its training set, in `--reference` and in records.
    """

    folder: Path
    name: str = POCKET

    def reference(self, model: TextToImage) -> PocketReference:
        """Return the training set; ModelError where its index can't be read."""
        return PocketReference(TrainingPictures(model), load_index(self.folder), world_hash())

    @property
    def truth(self) -> TruthTable | None:
        """The truth as it was measured, None where it was not; ModelError for a broken file."""
        path = self.folder / TRUTH_FILE
        return load_table(path) if path.is_file() else None

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words of a prompt that the model was never taught."""
        return unknown_words(prompt)

    def remarks(self, prompt: str) -> list[str]:
        """Return what is to be told of a prompt, a sentence each."""
        truth = self.truth
        share = 0.0 if truth is None else truth.false_memorized(prompt)
        if share <= FALSE_MEMORIZED_LIMIT:
            return []
        return [
            f"For this caption {share:.0%} of samples are as near to pictures that the model never "
            "saw as to training pictures: its pictures are all alike, and a match says little."
        ]


def find_provenance(model: object) -> Provenance | None:
    """Return what a model's folder brings along, None for other models, hub ids and objects.

    A folder whose training set was not indexed (`m2g-audit pocket measure`) brings nothing.
    """
    if model == POCKET:
        return Provenance(POCKET_FOLDER)
    if not isinstance(model, str | Path):
        return None
    folder = Path(model).expanduser()
    if not (folder / INDEX_FILE).is_file():
        return None
    try:
        world = read_own_settings(folder).world
    except ModelError:  # loading says so
        return None
    return Provenance(folder) if world == POCKET else None


def of_these_weights(thresholds: Thresholds, truth: TruthTable, sha256: str) -> Thresholds:
    """Return thresholds of a truth table as they hold for weights of this hash."""
    if truth.model_sha256 == sha256:
        return replace(thresholds, calibrated=True)
    source = f"{thresholds.source}, measured with other weights than these"
    return replace(thresholds, source=source, calibrated=False)
