"""The image distances that there are; a new one has its entry here and its file in similarity/.

Light on purpose: the command's help and readers of records ask it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Declared:
    """What is known of a distance before it is loaded.

    said: what people are told it is; made_by: the module of similarity/ and what in it makes one;
    arguments: for that; learned: whether it has weights, which similarity/weights.py finds;
    program: whether those are a program, which runs only if its hash is known or trusted; rule: up
    to which value its inventors call pictures copies, and who says so. Rules are written down from
    papers (2026-11), never measured.
    """

    said: str
    made_by: tuple[str, str]
    arguments: tuple[str, ...] = ()
    learned: bool = False
    program: bool = False
    rule: tuple[float, str] | None = None


_CARLINI = "Carlini et al. 2023 call pictures at {} distance of 0.15 copies"

DISTANCES: Mapping[str, Declared] = {
    "l2": Declared(
        "root-mean-square difference of pixels",
        ("l2", "L2"),
        rule=(0.15, _CARLINI.format("an L2")),
    ),
    "tiled_l2": Declared(
        "largest root-mean-square difference of pixels over 4 x 4 tiles",
        ("l2", "TiledL2"),
        rule=(0.15, _CARLINI.format("a tiled L2")),
    ),
    "lpips-alex": Declared(
        "LPIPS with AlexNet", ("lpips", "trained_lpips"), ("alex",), learned=True
    ),
    "lpips-vgg": Declared("LPIPS with VGG-16", ("lpips", "trained_lpips"), ("vgg",), learned=True),
    "stlpips-alex": Declared(
        "shift-tolerant LPIPS with AlexNet", ("stlpips", "trained_stlpips"), ("alex",), learned=True
    ),
    "stlpips-vgg": Declared(
        "shift-tolerant LPIPS with VGG-16", ("stlpips", "trained_stlpips"), ("vgg",), learned=True
    ),
    "clip": Declared(
        "1 - cosine of CLIP embeddings, which see meaning more than copies",
        ("clip", "trained_clip"),
        learned=True,
    ),
    "sscd": Declared(
        "1 - cosine of SSCD copy-detection embeddings",
        ("sscd", "trained_sscd"),
        learned=True,
        program=True,
        rule=(0.5, "Somepalli et al. 2023 call pictures at an SSCD similarity of 0.5 copies"),
    ),
}
AUTOMATIC = "auto"
"""The model's own distance, else the best that has its weights."""


def said_of(name: str) -> str:
    """Return what people are told a distance is; of one that is not known here its name."""
    return DISTANCES[name].said if name in DISTANCES else name
