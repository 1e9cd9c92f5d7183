"""LPIPS (Zhang et al. 2018) as an embedding.

LPIPS sums, over layers, the mean over positions of w_c (f_c - g_c)^2, f and g being features
normalised over channels. That is the squared Euclidean distance of the features times
sqrt(w_c / (h w)), concatenated; so all pairs are one matrix product. It equals the `lpips` package
pair by pair. Channels of weight 0 (two fifths of AlexNet's embedding) add nothing and are left out:
a picture of 32 x 32 pixels has 3,490 numbers with AlexNet, 124,928 (0.5 MB) with VGG-16.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lpips as lpips_package
import torch
from torch import Tensor, nn

from m2g_audit.errors import UsageError
from m2g_audit.files import file_sha256
from m2g_audit.similarity.base import Metric
from m2g_audit.similarity.weights import require_checkpoint

# Numbers of `features` modules after which the package reads a layer (all of them ReLU).
_LAYER_ENDS = {"alex": (2, 5, 8, 10, 12), "vgg": (4, 9, 16, 23, 30)}
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_SMALLEST = {"alex": 32, "vgg": 16}
"""Sides in pixels below which a layer would be empty."""


class Lpips(Metric):
    """LPIPS version 0.1, squared as the package returns it.

    layers: what leads from each layer that is read to the next (the first from pixels); weights:
    of each one's channels, none negative; smallest: side in pixels below which a layer would be
    empty. The name belongs to trained layers alone (`trained_lpips`).
    """

    squared = True

    def __init__(
        self,
        name: str,
        layers: Sequence[nn.Sequential],
        weights: Sequence[Tensor],
        smallest: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.name = name
        self.device = torch.device(device)
        self._smallest = smallest
        self._slices = nn.ModuleList(layers).to(self.device).eval().requires_grad_(False)
        weights = [w.to(self.device) for w in weights]
        self._kept = [w.nonzero()[:, 0] for w in weights]
        self._weights = [w[kept] for w, kept in zip(weights, self._kept, strict=True)]
        self._shift = torch.tensor(_SHIFT, device=self.device)[:, None, None]
        self._scale = torch.tensor(_SCALE, device=self.device)[:, None, None]

    def _embed(self, images: Tensor) -> Tensor:
        if min(images.shape[-2:]) < self._smallest:
            raise UsageError(
                f"{self.name} needs images of at least {self._smallest} x {self._smallest} pixels, "
                f"these have {images.shape[-1]} x {images.shape[-2]}: give larger ones, or use "
                "--metric l2."
            )
        # The networks expect [-1, 1] before the package's own shift and scale.
        features = ((2 * images.to(self.device) - 1) - self._shift) / self._scale
        layers = []
        for part, kept, weight in zip(self._slices, self._kept, self._weights, strict=True):
            features = part(features)
            layers.append(_weighted(features, kept, weight).flatten(1))
        return torch.cat(layers, dim=1)[:, None]


def trained_lpips(
    net: str, weights: Path | None = None, device: torch.device | str = "cpu"
) -> Lpips:
    """Return LPIPS with torchvision's trained backbone ("alex" or "vgg").

    weights: torchvision's checkpoint file; by default the one in torch hub's cache. ModelError says
    how to get it where it is missing, and refuses any other file.
    """
    name = f"lpips-{net}"
    path = require_checkpoint(name, weights)
    state = torch.load(path, map_location="cpu", weights_only=True)
    backbone = empty_backbone(net)
    prefix = "features."
    features = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    backbone.load_state_dict(features, assign=True)
    metric = _over_backbone(name, net, backbone, device)
    metric.weights_sha256 = file_sha256(path)
    return metric


def random_backbone_distance(net: str, backbone: nn.Sequential) -> Lpips:
    """Return LPIPS's arithmetic over a backbone that was not trained, named as such (for tests)."""
    return _over_backbone(f"random-{net}-not-lpips", net, backbone)


def empty_backbone(net: str) -> nn.Sequential:
    """Return torchvision's `features` of a network without any weights (on the meta device)."""
    from torchvision.models import alexnet, vgg16

    # Off the meta device, most of the time would go into drawing a classifier that is dropped.
    with torch.device("meta"):
        return (alexnet if net == "alex" else vgg16)(weights=None).features


def _over_backbone(
    name: str, net: str, backbone: nn.Sequential, device: torch.device | str = "cpu"
) -> Lpips:
    """LPIPS over torchvision's `features` of AlexNet ("alex") or VGG-16 ("vgg")."""
    ends = _LAYER_ENDS[net]
    layers = [backbone[start:end] for start, end in zip((0, *ends[:-1]), ends, strict=True)]
    return Lpips(name, layers, _linear_weights(net), _SMALLEST[net], device)


def _weighted(features: Tensor, kept: Tensor, weight: Tensor) -> Tensor:
    norm = features.square().sum(dim=1, keepdim=True).sqrt()  # over all channels
    positions = features.shape[2] * features.shape[3]
    return features[:, kept] / (norm + 1e-10) * (weight / positions).sqrt()[:, None, None]


def _linear_weights(net: str) -> Sequence[Tensor]:
    """Return the package's own weights of each layer's channels; none is negative."""
    folder = Path(lpips_package.__file__).parent / "weights" / "v0.1"
    state = torch.load(folder / f"{net}.pth", map_location="cpu", weights_only=True)
    return [state[f"lin{i}.model.1.weight"].flatten() for i in range(len(_LAYER_ENDS[net]))]
