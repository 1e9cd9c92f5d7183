"""Copies among pictures, saved anew or scaled perhaps: a set to train on has each picture once.

A picture on both sides of a split makes the distance between them 0, whatever a model learned.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

# A picture saved again as JPEG of quality 75 or WebP of 80, or scaled by 3/4 in between, stays
# within 1 to 3 levels of itself at these sizes. Different ones of MNIST are 4.7 apart at least,
# among 12,000 at 16 x 16, of CIFAR-10 8.1.
LEVELS = 4.0
"""The root mean square up to which two pictures are copies, in levels of 255."""
OF_CONTRAST = 0.1
"""The same as a share of the picture's own standard deviation, which must hold as well."""
_CELLS = 8
_SLACK = 0.5  # levels: what rounding may add to a distance that is a difference of large numbers
_BLOCK = 256


def first_of_each(levels: Tensor, known: int = 0) -> Tensor:
    """Which pictures, uint8 [n, c, h, w], are no copies of an earlier one, bool [n].

    The first `known` are taken to be none. Means of cells are compared first: they are never
    farther apart than the pictures.
    """
    means = adaptive_avg_pool2d(levels.float().mean(1), _CELLS).flatten(1)
    limits = levels.flatten(1).float().std(1, correction=0).mul(OF_CONTRAST).clamp(max=LEVELS)
    numbers, first = torch.arange(len(levels)), torch.ones(len(levels), dtype=torch.bool)
    for start in range(known, len(levels), _BLOCK):
        rows = slice(start, start + _BLOCK)
        apart = torch.cdist(means[rows], means) / _CELLS
        near = (apart <= limits[rows, None] + _SLACK) & (numbers < numbers[rows, None]) & first
        for row in near.any(1).nonzero().flatten().tolist():
            earlier = levels[near[row] & first]
            if _is_among(levels[start + row], earlier, float(limits[start + row])):
                first[start + row] = False
    return first


def _is_among(picture: Tensor, others: Tensor, limit: float) -> bool:
    differences = (others.float() - picture.float()).flatten(1)
    return bool((differences.square().mean(1).sqrt() <= limit).any())
