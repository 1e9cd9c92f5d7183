"""Image distances by name; each is an embedding (see `base`)."""

from __future__ import annotations

from m2g_audit.errors import UsageError
from m2g_audit.similarity.base import Metric, distances, nearest

__all__ = ["METRICS", "Metric", "distances", "load_metric", "nearest"]

METRICS = ("l2", "tiled_l2")


def load_metric(name: str) -> Metric:
    """Return the metric of that name (one of METRICS), its weights loaded."""
    from m2g_audit.similarity.l2 import L2, TiledL2

    if name == "l2":
        return L2()
    if name == "tiled_l2":
        return TiledL2()
    raise UsageError(f"There is no metric '{name}'. Choose one of: {', '.join(METRICS)}.")
