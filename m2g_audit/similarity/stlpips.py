"""Shift-tolerant LPIPS (Ghildyal & Liu 2022, ECCV) as an embedding: trained weights that install.

LPIPS's arithmetic (`lpips`) over networks that were trained so that a shift by a pixel changes
little: each halving of the resolution is a blur, pooling keeps every position. The weights, of the
networks and of their channels, are those of the package `stlpips_pytorch` (BSD-2). Of it nothing
else is used: its modules import packages that it does not declare. Pair by pair the distance is the
package's; pictures are never resized. One of 32 x 32 pixels has 32,000 numbers with AlexNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from m2g_audit.files import file_sha256
from m2g_audit.similarity.lpips import Lpips
from m2g_audit.similarity.weights import require_checkpoint

LAYERS = 5


@dataclass(frozen=True)
class _Network:
    """What a network is beside its convolutions, which the weights tell.

    pool: side of the largest value taken before a blur; halved: the layers (from 1) that begin with
    it; blurs_pixels: whether the first convolution is blurred, before its ReLU; smallest: side in
    pixels under which a blur would have nothing to mirror.
    """

    pool: int
    halved: frozenset[int]
    blurs_pixels: bool
    smallest: int


_NETWORKS = {
    "alex": _Network(3, frozenset({2, 3}), blurs_pixels=True, smallest=21),
    "vgg": _Network(2, frozenset({2, 3, 4, 5}), blurs_pixels=False, smallest=18),
}


def trained_stlpips(
    net: str, weights: Path | None = None, device: torch.device | str = "cpu"
) -> Lpips:
    """Return shift-tolerant LPIPS with the trained network "alex" or "vgg".

    weights: a copy of the package's file; by default the one installed. ModelError says how to get
    it where it is missing, and refuses any other file.
    """
    name = f"stlpips-{net}"
    path = require_checkpoint(name, weights)
    state = torch.load(path, map_location="cpu", weights_only=True)
    channels = [state[f"lin{i}.model.1.weight"].flatten() for i in range(LAYERS)]
    layers = [_layer(_NETWORKS[net], i, state) for i in range(1, LAYERS + 1)]
    metric = Lpips(name, layers, channels, _NETWORKS[net].smallest, device)
    metric.weights_sha256 = file_sha256(path)
    return metric


class Blur(nn.Module):
    """Half the resolution: a binomial filter of 3 x 3 at every second position (Zhang 2019).

    Two pixels are mirrored at each border, one more than the filter needs, as the weights were
    trained: n pixels become floor((n + 1) / 2) + 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return [b, c, h', w'] of [b, c, h, w]."""
        line = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
        kernel = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
        padded = functional.pad(x, (2, 2, 2, 2), mode="reflect")
        return functional.conv2d(padded, kernel, stride=2, groups=x.shape[1])


def _layer(network: _Network, number: int, state: Mapping[str, Tensor]) -> nn.Sequential:
    """What leads to the layer of that number (from 1) from the one before."""
    stages: list[nn.Module] = []
    if number in network.halved:
        stages += [nn.MaxPool2d(network.pool, stride=1), Blur()]
    prefix, suffix = f"net.slice{number}.", ".weight"
    places = [k.removesuffix(suffix) for k in state if k.startswith(prefix) and k.endswith(suffix)]
    for place in sorted(places, key=lambda place: int(place.rsplit(".", 1)[1])):
        stages.append(_convolution(state[f"{place}.weight"], state[f"{place}.bias"]))
        if number == 1 and network.blurs_pixels:
            stages.append(Blur())
        stages.append(nn.ReLU())
    return nn.Sequential(*stages)


def _convolution(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    outputs, inputs, side, _ = weight.shape
    with torch.device("meta"):  # nothing is drawn that would be dropped
        made = nn.Conv2d(inputs, outputs, side, padding=min(side // 2, 2))
    made.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return made
