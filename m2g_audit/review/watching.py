"""What the checkpoints of a training give back, look by look, and from which step on.

The unit is a caption of the training set: drawn at random, it gives back where a picture comes
back, confirmed (review/finetune.py), under its seeds. Looks are many, so each has a part of the 5%
that all may err with: 6 / (pi k)^2 of it for the k-th, which sums to one however many there are
(a convergent alpha-spending series). With 95% all intervals of a training hold at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from m2g_audit.errors import OutputError
from m2g_audit.files import write_atomically
from m2g_audit.foreign_files import read_file
from m2g_audit.records.part import Part
from m2g_audit.records.record import Index, IntervalRecord
from m2g_audit.verdict.intervals import LEVEL, clopper_pearson

CHECKS_FILE = "checks.jsonl"
CHECK_VERSION = "1.0"


class Check(Part):
    """What one checkpoint of a training gave back."""

    schema_version: str = CHECK_VERSION
    """Of this schema."""
    look: Index
    """Which look of the training it was, from 1; its interval is as wide as that asks for."""
    step: Index
    """The step of the training."""
    model: str
    """The checkpoint, or the pipeline in memory."""
    captions: Index
    """How many captions of the training set have a verdict."""
    giving: Index
    """How many of them gave back a picture, confirmed."""
    share: IntervalRecord
    """The share of the training set's captions that do, over all looks at once 95% sure."""
    generations: Index
    """How many pictures were made of these captions."""
    copies: Index
    """How many of them are copies of training pictures, those by chance too."""
    calibrated: bool
    """Whether the thresholds were measured for such pictures; if not, nothing can be confirmed."""
    pictures: list[str]
    """The training pictures that came back, confirmed, from any prompt, nearest first."""
    folder: str
    """The batch's folder, relative to that of the training's checks."""
    seconds: float
    """How long the check took."""

    @property
    def scalars(self) -> dict[str, float]:
        """Return the numbers for a tracker, as `accelerator.log(check.scalars, step=step)`."""
        return {
            "m2g/gives_back": self.share.estimate,
            "m2g/gives_back_low": self.share.low,
            "m2g/gives_back_high": self.share.high,
            "m2g/copies": self.copies / self.generations if self.generations else 0.0,
            "m2g/seconds": self.seconds,
        }


def share_at_look(giving: int, captions: int, look: int) -> IntervalRecord:
    """Return the share of captions that give back, with the interval of the `look`-th look.

    >>> share_at_look(0, 16, 1).high < share_at_look(0, 16, 9).high
    True
    """
    spent = (1 - LEVEL) * 6 / (math.pi * look) ** 2
    found = clopper_pearson(giving, captions, 1 - spent)
    return IntervalRecord.model_validate(asdict(found))


def find_onset(checks: Sequence[Check], limit: float) -> Check | None:
    """Return the first check by step whose share surely passes `limit`, None where none does."""
    by_step = sorted(checks, key=lambda check: check.step)
    return next((check for check in by_step if check.share.low > limit), None)


def last_clean(checks: Sequence[Check]) -> Check | None:
    """Return the last check before any caption gave back; None where the first one did.

    One whose thresholds can't confirm anything is not clean.
    """
    clean = None
    for check in sorted(checks, key=lambda check: check.step):
        if check.giving or not check.calibrated:
            break
        clean = check
    return clean


def in_words(checks: Sequence[Check], limit: float) -> str:
    """Return what the checks come to, in a sentence or two."""
    if not checks:
        return "No checkpoint was checked yet."
    last = max(checks, key=lambda check: check.step)
    onset, clean = find_onset(checks, limit), last_clean(checks)
    if onset is not None:
        kept = (
            "No earlier check was clean."
            if clean is None
            else f"The last checkpoint that gave nothing back is that of step {clean.step:,}."
        )
        return (
            f"GIVES BACK from step {onset.step:,} on: {onset.giving:,} of {onset.captions:,} "
            f"captions, surely more than {limit:.0%} of the training set's. {kept}"
        )
    if not last.calibrated:
        return (
            f"Not decided at step {last.step:,}: {last.copies:,} of {last.generations:,} pictures "
            "may be copies, but the thresholds were not measured for such pictures, so nothing is "
            "confirmed. Give --base, or --unseen pictures of the same kind."
        )
    if last.giving:
        return (
            f"Not sure at step {last.step:,}: {last.giving:,} of {last.captions:,} captions gave "
            f"back a picture; of the training set's these are {last.share.low:.0%} to "
            f"{last.share.high:.0%}."
        )
    return (
        f"Nothing came back at step {last.step:,}: of the training set's captions at most "
        f"{last.share.high:.0%} do, as far as so many seeds show."
    )


def read_checks(folder: Path) -> list[Check]:
    """Return the checks that a folder holds, in the order in which they were made.

    Raises:
        OutputError: A line is no check.
    """
    path = folder / CHECKS_FILE
    try:
        lines = read_file(path).splitlines()
        return [Check.model_validate_json(line) for line in lines if line]
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        raise OutputError(
            f"{path} holds something that is no check of a training: move it away, and the "
            "checkpoints that are still there are checked again."
        ) from error


def write_checks(folder: Path, checks: Sequence[Check]) -> None:
    """Write all checks, a line each; OutputError where that is not possible."""
    text = "".join(f"{check.model_dump_json()}\n" for check in checks)
    write_atomically(folder / CHECKS_FILE, text.encode())
