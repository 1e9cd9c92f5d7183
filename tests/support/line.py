"""Pictures whose distances are known: each is a point on a line, or in a few dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from m2g_audit.references.reference import ReferenceSet
from m2g_audit.similarity import Metric

_UNIT = 1000


class Line(Metric):
    """The distance of pictures [3, 1, w] is the Euclidean one of the w coordinates they hold."""

    name = "line"

    def _embed(self, images: Tensor) -> Tensor:
        levels = (images * 255).round().double().squeeze(2)
        whole = levels[:, 0] * 65536 + levels[:, 1] * 256 + levels[:, 2]
        return (whole / _UNIT).float()[:, None]


def pictures(points: Sequence[float] | np.ndarray) -> Tensor:
    """Return uint8 pictures [n, 3, 1, w] of points [n] or [n, w] from 0 to 16,000, to 1/1000."""
    whole = (np.asarray(points, dtype=np.float64) * _UNIT).round().astype(np.int64)
    whole = whole.reshape(len(whole), 1, -1)
    levels = np.stack([whole >> 16, (whole >> 8) & 255, whole & 255], axis=1)
    return torch.from_numpy(levels.astype(np.uint8))


def reference(
    points: Sequence[float] | np.ndarray,
    *,
    captions: Sequence[str | None] = (),
    mirrors: Sequence[float] | np.ndarray | None = None,
) -> ReferenceSet:
    """Return a set of points named by their number, each followed by its mirror if there are."""
    names = [str(i) for i in range(len(points))]
    if mirrors is None:
        return ReferenceSet(pictures(points), names, captions=captions)
    both = np.stack([points, mirrors], axis=1).reshape(2 * len(points), *np.shape(points)[1:])
    return ReferenceSet(
        pictures(both),
        [name for i in names for name in (i, f"{i} (mirrored)")],
        flipped=True,
        captions=[caption for caption in captions for _ in range(2)],
    )
