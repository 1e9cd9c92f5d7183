"""Distances of planted copies as they are kept: read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Plants:
    """Distances of planted copies.

    to_reference: [n] of each plant to S, which holds its picture; None without one; between: [n/2]
    of two versions of one picture; edits: by name, of each edit of a picture to S, or to the
    picture itself without one.
    """

    to_reference: FloatArray | None
    between: FloatArray
    edits: Mapping[str, FloatArray]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "to_reference": None if self.to_reference is None else self.to_reference.tolist(),
            "between": self.between.tolist(),
            "edits": {name: found.tolist() for name, found in self.edits.items()},
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Plants:
        """Return the plants of `to_json`; KeyError, TypeError or ValueError for anything else."""
        to_reference = kept["to_reference"]
        return cls(
            None if to_reference is None else np.array(to_reference, dtype=np.float64),
            np.array(kept["between"], dtype=np.float64),
            {name: np.array(found, dtype=np.float64) for name, found in kept["edits"].items()},
        )
