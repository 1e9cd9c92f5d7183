"""Image distances by name; each is an embedding (see `base`)."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import torch

from m2g_audit.errors import UsageError
from m2g_audit.records.distances import DISTANCES
from m2g_audit.similarity.base import Metric
from m2g_audit.similarity.search import Search, Vectors, distances, nearest, paired, within
from m2g_audit.similarity.weights import find_weights, how_to_get

__all__ = [
    "LEARNED",
    "METRICS",
    "Metric",
    "Search",
    "Vectors",
    "default_metric",
    "distances",
    "find_weights",
    "how_to_get",
    "load_metric",
    "nearest",
    "paired",
    "within",
]

METRICS = tuple(DISTANCES)
LEARNED = tuple(name for name, declared in DISTANCES.items() if declared.learned)


def default_metric() -> str:
    """Return the metric for models that bring none: SSCD if its file is available, else tiled l2.

    Never CLIP: likeness of content is not a copy. Of those that install tiled l2 alone finds copies
    everywhere and has a rule of thumb that new pictures pass (benchmarks/power_by_metric.py).
    """
    return "sscd" if find_weights("sscd") else "tiled_l2"


def load_metric(
    name: str,
    *,
    weights: str | Path | None = None,
    trust: bool = False,
    device: torch.device | str = "cpu",
) -> Metric:
    """Return the metric of that name (one of METRICS), its weights loaded.

    weights: file of a learned metric (LEARNED), by default the one available (`find_weights`);
    trust: run an SSCD file whose hash is not known. Missing or wrong weights: ModelError with the
    command that gets them; an unknown name: UsageError.
    """
    path = None if weights is None else Path(weights)
    if name not in METRICS:
        raise UsageError(f"There is no metric '{name}'. Choose one of: {', '.join(METRICS)}.")
    if path is not None and name not in LEARNED:
        raise UsageError(f"{name} has no weights: leave out --metric-weights.")
    declared = DISTANCES[name]
    module, maker = declared.made_by
    # Imported here because each brings a library that the others do not need.
    make = getattr(import_module(f"{__name__}.{module}"), maker)
    if not declared.learned:
        return make(*declared.arguments)
    trusted = {"trust": trust} if declared.program else {}
    return make(*declared.arguments, path, device=device, **trusted)
