"""What a file or folder is that is given as a model and is none, and how a model comes of it.

The ways out were tried with diffusers 0.42; those for LoRAs need `peft`.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from m2g_audit.errors import ModelError
from m2g_audit.models.own_parts import DENOISERS, OwnParts, class_in
from m2g_audit.models.weight_files import cached_repo, read_header
from m2g_audit.text import printable

_SAVE = "save_pretrained('folder'), and give that folder"
_LORA_WAY = "give its base with --model, and with --lora the LoRA itself, as safetensors"
_EMBEDDING_WAY = (
    "give its base with --model, and with --textual-inversion the file itself, as safetensors"
)
_EMBEDDING = (
    f"is an embedding (textual inversion) without its base model. To audit both, {_EMBEDDING_WAY}."
)
_OTHERS = "Give the folder of a text-to-image model in diffusers' layout."
_CHECKPOINTS = (".ckpt", ".pt", ".pth", ".bin")
# A Stable Diffusion in half precision has 1.7 GB.
_LEAST_CHECKPOINT = 5 * 10**8
# What the names of weights in a single file hold, the first that fits; kohya's and diffusers'.
_LORA = re.compile(r"lora_|\.lora\.|hada_|lokr_|oft_diag|dora_scale")
_VAE = re.compile(r"^(first_stage_model\.)?(en|de)coder\.")
_DENOISER = re.compile(
    r"^(cond_stage_model|conditioner)\.|diffusion_model\.|(^|\.)(joint|double|transformer|down|up|input|output)_blocks\.|"
    r"(^|\.)(layers|blocks|single_transformer_blocks)\.\d"
)
# Whose settings a single file may be meant for, the first that fits.
_LIKELY_BASES = (
    (re.compile(r"^conditioner\."), "stabilityai/stable-diffusion-xl-base-1.0"),
    (re.compile(r"^cond_stage_model\.model\."), "stabilityai/stable-diffusion-2-1"),
    (re.compile(r"^cond_stage_model\."), "stable-diffusion-v1-5/stable-diffusion-v1-5"),
    (re.compile(r"joint_blocks\."), "stabilityai/stable-diffusion-3.5-medium"),
    (re.compile(r"double_blocks\."), "black-forest-labs/FLUX.1-dev"),
)
_PARTS = {
    "UNet2DConditionModel": "unet",
    "AutoencoderKL": "vae",
    "AutoencoderTiny": "vae",
    "CLIPTextModel": "text_encoder",
}


def why_no_model(path: Path) -> str:
    """What lies at `path`, which has no model_index.json, and the way out; begins with a verb."""
    if path.is_dir():
        return next(_of_folder(path))
    if not path.is_file():
        return f"is a pipe or a device. {_OTHERS}"
    for above in (path.parent, path.parent.parent):
        if (above / "model_index.json").is_file():
            return f"is a file of a model: give the folder {above}."
    return _of_file(path)


def _is_checkpoint(keys: Collection[str]) -> bool:
    if any(map(_LORA.search, keys)):
        return False
    return any(_DENOISER.search(key) and not _VAE.search(key) for key in keys)


def is_checkpoint(path: Path) -> bool:
    """Whether what has no model_index.json may hold parts of a model, by the names of weights."""
    if path.is_dir():
        return not any(map(is_adapter, path.glob("*")))
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    with suppress(OSError, ValueError):
        return _is_checkpoint(read_header(path))
    return False


def lies_in_model(path: Path) -> bool:
    """Whether a file or folder is a part of a whole model."""
    above = (path.parent, path.parent.parent) if path.is_file() else (path.parent,)
    return any((folder / "model_index.json").is_file() for folder in above)


def why_incomplete(own: OwnParts, named: str | None) -> str:
    """What a checkpoint lacks, and how it is completed; begins with a verb."""
    if own.file is not None:
        keys = read_header(own.file)
        bases = [base for mark, base in _LIKELY_BASES if any(map(mark.search, keys))]
        such = f", such as --config-from {bases[0]}" if bases else ""
        return (
            "is a single file of weights, without the settings of its model. Name with "
            f"--config-from the model of its family that it comes from{such}: a hub id, or a "
            "folder on this machine."
        )
    held = f"holds only {', '.join(sorted(own.parts))} of a model."
    if named is None:
        return f"{held} Name with --config-from the model that it was trained from."
    return (
        f"{held} By its own files it was trained from {named}, which is not on this machine: "
        f"--config-from {named} fetches that, or name the folder of a copy."
    )


def why_none_on_hub(names: Collection[str]) -> str:
    """What a repository without model_index.json is, by the names of its files."""
    files = [Path(name) for name in names]
    if any(map(is_adapter, files)):
        return f"holds a LoRA without its base model. To audit both, {_LORA_WAY}."
    if any(file.name.startswith("learned_embeds") for file in files):
        return f"holds an embedding (textual inversion). To audit both, {_EMBEDDING_WAY}."
    return (
        "is not a diffusers model: on the hub it has no model_index.json. Give a model that has "
        "one, or download its checkpoint (`hf download OWNER/NAME FILE --local-dir folder`), and "
        "give that file, with --config-from the model of its family."
    )


def find_lora(path: Path) -> Path | None:
    """Return the LoRA that a file is, or that a trainer left in a folder; None for anything else.

    Raises:
        ModelError: A folder without a model has several LoRAs in it.
    """
    if path.is_file():
        return path if path.suffix == ".safetensors" and _is_lora(path) else None
    if (path / "model_index.json").is_file():
        return None
    found = [file for file in sorted(path.glob("*.safetensors")) if _is_lora(file)]
    if len(found) > 1:
        names = ", ".join(printable(file.name) for file in found[:5])
        raise ModelError(f"{path} has {len(found):,} LoRAs in it ({names}): give one of them.")
    return found[0] if found else None


def _is_lora(file: Path) -> bool:
    with suppress(OSError, ValueError):
        return any(map(_LORA.search, read_header(file)))
    return False


def is_adapter(file: Path) -> bool:
    """Whether a file is named as a LoRA's weights or a peft adapter's files are."""
    name = file.name.lower()
    is_lora = "lora" in name and file.suffix in (".safetensors", ".bin")
    return is_lora or name.startswith(("adapter_model.", "adapter_config."))


def _of_folder(path: Path) -> Iterator[str]:
    """What a folder may be, the surest first."""
    if any(map(is_adapter, (*path.glob("*"), *path.glob("checkpoint-*/*")))):
        yield f"holds a LoRA without its base model. To audit both, {_LORA_WAY}."
    if any(path.glob("learned_embeds*")):
        yield _EMBEDDING
    if (path.parent / "model_index.json").is_file():
        yield f"is a part of a model: give the folder above it, {path.parent}."
    if (class_name := class_in(path)) is not None:
        yield _single_part(path, class_name)
    if (path / "unet").is_dir() and (path / "vae").is_dir():
        yield _without_index(path)
    if networks := [n for part in DENOISERS for n in path.glob(f"checkpoint-*/{part}*")]:
        yield _training(path, max(networks, key=_step))
    if models := sorted(path.glob("*/model_index.json")) or sorted(
        path.glob("snapshots/*/model_index.json")
    ):
        yield f"is no model, but a folder above one: give {models[0].parent}."
    if files := sorted(f for f in path.glob("*") if f.suffix in (".safetensors", ".ckpt")):
        yield f"is no diffusers model. What lies in it, {files[0].name}, {_of_file(files[0])}"
    if cached_repo(path) is not None:
        yield _without_index(path)
    yield (
        f"is not a diffusers model: the folder {path} has no model_index.json, and no part of a "
        "model lies in it. Give the folder that save_pretrained wrote, or that `hf download "
        "OWNER/NAME --local-dir folder` filled."
    )


def _step(network: Path) -> int:
    """After how many steps of a training a checkpoint was saved, by its folder's name."""
    number = network.parent.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _of_file(path: Path) -> str:
    size = path.stat().st_size
    if path.suffix == ".safetensors":
        return _of_weights(path)
    if path.suffix == ".gguf":
        return (
            "is a GGUF file: its weights are quantised, which is not supported. Give the model "
            "that it was made from, in float16, bfloat16 or float32."
        )
    if path.suffix in _CHECKPOINTS and size >= _LEAST_CHECKPOINT:
        return _pickle(path)
    if path.suffix in _CHECKPOINTS:
        return (
            f"is a single file of {size:,} bytes, too small for a model: to audit an embedding "
            f"(textual inversion), {_EMBEDDING_WAY}; to audit a LoRA, {_LORA_WAY}."
        )
    if zipfile.is_zipfile(path) or tarfile.is_tarfile(path):
        return f"is an archive: unpack it, and give the folder. {_OTHERS}"
    return f"is a file, and no model. {_OTHERS}"


def _of_weights(path: Path) -> str:
    try:
        keys = read_header(path)
    except (OSError, ValueError) as error:
        return f"is a safetensors file that can't be read ({error}): get it again."

    def one(pattern: re.Pattern[str]) -> bool:
        return any(map(pattern.search, keys))

    if one(_LORA):
        return f"is a LoRA without its base model. To audit both, {_LORA_WAY}."
    if keys and not any("." in key for key in keys):
        return _EMBEDDING
    if _is_checkpoint(keys):
        return why_incomplete(OwnParts(file=path), None)
    if one(_VAE):
        return (
            "is a VAE without the rest of a model. To audit a model with it, load the base in "
            f"diffusers with vae=AutoencoderKL.from_single_file({str(path)!r}), {_SAVE}."
        )
    return f"is a single file of weights, and no checkpoint of a known family. {_OTHERS}"


def _pickle(path: Path) -> str:
    return (
        "is a single file of a pickle, which can run any code when it is loaded. If you trust it, "
        f"convert it with `StableDiffusionPipeline.from_single_file({str(path)!r})."
        f"{_SAVE.replace(',', '`,', 1)}."
    )


def _without_index(path: Path) -> str:
    if (repo := cached_repo(path)) is not None:
        return (
            f"has no model_index.json: only a part of {repo} is in the hub's cache. With a network "
            f"connection --model {repo} fetches the rest."
        )
    return (
        "holds parts of a model, but no model_index.json: the download or copy did not finish. Get "
        f"it again: `hf download OWNER/NAME --local-dir {path}` continues it."
    )


def _single_part(path: Path, class_name: str) -> str:
    if (part := _PARTS.get(class_name)) is None:
        return f"is a {printable(class_name, 80)}, and no text-to-image model. {_OTHERS}"
    return (
        f"is a {class_name} without the rest of a model. To audit a model with it, load the base "
        f"in diffusers with {part}={class_name}.from_pretrained({str(path)!r}), {_SAVE}."
    )


def _training(path: Path, network: Path) -> str:
    return (
        "is the folder of a training, and holds only checkpoints: give one of them, such as "
        f"--model {network.parent}."
    )
