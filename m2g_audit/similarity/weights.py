"""Where the weights of learned metrics lie, and how to get them. Nothing here downloads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from m2g_audit.errors import ModelError

CLIP_REPOSITORY = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_SSCD_FILE = "sscd_disc_mixup.torchscript.pt"
_SSCD_URL = f"https://dl.fbaipublicfiles.com/sscd-copy-detection/{_SSCD_FILE}"
# The eight digits in the names are the first of the files' SHA-256.
_CHECKPOINTS = {"lpips-alex": "alexnet-owt-7be5be79.pth", "lpips-vgg": "vgg16-397923af.pth"}
_CONSTRUCTORS = {"lpips-alex": "alexnet", "lpips-vgg": "vgg16"}


def find_weights(name: str) -> Path | None:
    """Return the file that a learned metric would load if none is given; None if it is not there.

    LPIPS and SSCD: torch hub's checkpoint folder; CLIP: the Hugging Face cache.
    """
    if name == "clip":
        return _cached_clip()
    path = _hub_folder() / _CHECKPOINTS.get(name, _SSCD_FILE)
    return path if path.is_file() else None


def how_to_get(name: str) -> str:
    """Return the shell command that puts a learned metric's weights where find_weights looks."""
    if name == "clip":
        return f"hf download {CLIP_REPOSITORY} {_CLIP_FILES[0]}"
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
    """Return torchvision's checkpoint of an LPIPS backbone, its hash compared with its name's.

    A number from other weights is not LPIPS, so any other file is a ModelError.
    """
    path = require_weights(name, given)
    expected = _CHECKPOINTS[name].rsplit("-", 1)[1].removesuffix(".pth")
    if not sha256(path).startswith(expected):
        raise ModelError(
            f"{path} is not torchvision's {_CHECKPOINTS[name]} (half-downloaded?). Delete it and "
            f"run\n    {how_to_get(name)}"
        )
    return path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _cached_clip() -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for file in _CLIP_FILES:
        path = try_to_load_from_cache(CLIP_REPOSITORY, file)
        if isinstance(path, str):
            return Path(path)
    return None
