"""What was shown for each family of models, on tiny networks (made by benchmarks/families.py)."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

FILE = Path(__file__).parent / "families.json"


class Family(BaseModel):
    """One family: largest relative differences from its own pipeline, or why it is refused."""

    family: str
    pipeline: str
    noise: str | None = None
    guidance: str | None = None
    prediction: float | None = None
    step: float | None = None
    picture: float | None = None
    beside_others: float | None = None
    product: float | None = None
    refused: str | None = None


def known_families() -> tuple[str, list[Family]]:
    """Return the version of diffusers that families were tried with, and what was found."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return content["diffusers"], [Family(**row) for row in content["families"]]
