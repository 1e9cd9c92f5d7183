"""A pipeline whose round trip halves all levels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Identity:
    sha256: str = "00"
    dtype: str = "float32"
    configuration: dict[str, Any] = field(default_factory=dict)
    configuration_sha256: str = ""


class HalvingPipeline:
    """A VAE whose round trip darkens a picture to half, and counts how many it was given."""

    image_size = (8, 8)

    def __init__(self, sha256: str = "00", **configuration: Any) -> None:
        self.identity = Identity(sha256, configuration=configuration)
        self.seen = 0

    def round_trip(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images / 2
