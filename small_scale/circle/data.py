"""Points on the unit circle, whose first K are the training set of size K (App. A)."""

import numpy as np
import torch
from torch import Tensor

COUNT = 60_000


def circle_points(seed: int, draw: int = 0) -> Tensor:
    """Return COUNT points uniform on the unit circle, float64 [COUNT, 2]; draws are independent.

    Any first K of them are a uniform draw without replacement, and each a subset of the next.
    """
    angles = np.random.default_rng([seed, draw]).uniform(0, 2 * np.pi, COUNT)
    return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=1))
