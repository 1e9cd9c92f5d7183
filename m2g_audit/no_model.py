"""What people give that is no model: named as what it is, with the way to one."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

FUSE = (
    "load the base in diffusers, call load_lora_weights, fuse_lora and unload_lora_weights, then "
    "save_pretrained('folder'), and give that folder"
)
"""How a LoRA becomes part of a model that can be audited."""

_LORA = ("lora_", ".lora", "lora.", "hada_", "lokr_", "oft_diag", "dora_scale")
_HEADER_BYTES = 10**8
_FEW = 4


def is_adapter(file: Path) -> bool:
    """Return whether a file's name is that of a LoRA."""
    name = file.name.lower()
    is_lora = "lora" in name and file.suffix in (".safetensors", ".bin")
    return is_lora or name.startswith(("adapter_model.", "adapter_config."))


def why_no_model(path: Path, name: str) -> str:
    """Return what a path without a model_index.json is, and what to do about it."""
    if path.is_file():
        return _file(path, name)
    return _folder(path, name)


def _file(path: Path, name: str) -> str:
    if path.name == "model_index.json":
        return f"{name} is a file of a model: give the folder that it lies in."
    if is_adapter(path) or _has(path, *_LORA):
        return f"{name} is a LoRA without its base model. To audit both, {FUSE}."
    if _is_embedding(path):
        return (
            f"{name} is an embedding of textual inversion, without a model. To audit both, load "
            "the model in diffusers, call load_textual_inversion, then save_pretrained('folder'), "
            "and give that folder."
        )
    for above in path.parents[:2]:
        if (above / "model_index.json").is_file():
            return f"{name} is a file of a model: give the folder {above}."
    return (
        f"{name} is a single file. A diffusers folder is needed: convert a checkpoint with "
        f"`StableDiffusionPipeline.from_single_file({str(path)!r}).save_pretrained('folder')`."
    )


def _folder(path: Path, name: str) -> str:
    files = list(path.glob("*"))
    if any(map(is_adapter, files)):
        return f"{name} holds a LoRA without its base model. To audit both, {FUSE}."
    if (path.parent / "model_index.json").is_file():
        return f"{name} is a part of a model: give the folder above it, {path.parent}."
    networks = sorted(path.glob("checkpoint-*/unet"))
    if networks or ((path / "unet").is_dir() and not (path / "vae").is_dir()):
        network = networks[-1].relative_to(path) if networks else Path("unet")
        return (
            f"{name} is the folder of a training, and holds only networks, such as {network}. Load "
            "the base in diffusers with unet=UNet2DConditionModel.from_pretrained of that, "
            "save_pretrained('folder'), and give that folder."
        )
    if path.name.startswith("models--") and (path / "snapshots").is_dir():
        hub_id = path.name.removeprefix("models--").replace("--", "/", 1)
        return (
            f"{name} is a folder of the hub's cache, with all revisions of a model: give its hub "
            f"id, --model {hub_id}, which is then taken from there."
        )
    if any(file.suffix == ".safetensors" and _is_embedding(file) for file in files):
        return (
            f"{name} holds an embedding of textual inversion, without a model. To audit both, load "
            "the model in diffusers, call load_textual_inversion, then save_pretrained('folder'), "
            "and give that folder."
        )
    return (
        f"{name} is not a diffusers model: the folder {path} has no model_index.json. Give the "
        "folder that save_pretrained wrote; if it was downloaded, the download did not finish: "
        "`hf download OWNER/NAME --local-dir folder` goes on with it."
    )


def _keys(file: Path) -> list[str]:
    """The names of the tensors in a safetensors file, none for any other."""
    broken = (OSError, ValueError, RecursionError, TypeError)
    with suppress(*broken), file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if 0 < length <= _HEADER_BYTES:
            return [key for key in json.loads(stream.read(length)) if key != "__metadata__"]
    return []


def _has(file: Path, *parts: str) -> bool:
    return any(part in key for key in _keys(file) for part in parts)


def _is_embedding(file: Path) -> bool:
    """Whether a file holds nothing but a few vectors: a network has layers, parted by dots."""
    keys = _keys(file)
    return 0 < len(keys) <= _FEW and not any("." in key for key in keys)
