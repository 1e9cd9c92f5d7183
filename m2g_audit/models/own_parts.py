"""What a checkpoint holds that is no whole model: a single file, or what a training left.

The rest comes from a model of its family (`--config-from`). Knows names, not networks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from m2g_audit.errors import ModelError, UsageError
from m2g_audit.foreign_files import read_file
from m2g_audit.models.weight_files import count_and_names, read_header, read_object, stored_as
from m2g_audit.text import printable

DENOISERS = ("unet", "transformer")
# By what a single file's weights begin with: the parts beside the denoiser that it holds.
_BEGINNINGS = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
}
_T5 = "text_encoders.t5xxl."
_STABLE_DIFFUSION_3 = "joint_blocks."
# What nothing can be loaded without: scales and tables of quantised weights.
_QUANTISED = re.compile(
    r"\.(absmax|quant_map|nested_absmax|quant_state\.\w+|scale_weight|weight_scale(_2)?|qweight|"
    r"qzeros|comfy_quant)$|^scaled_fp8$"
)
_WHOLE_NUMBERS = frozenset({"I8", "U8", "I16", "I32"})
_AVERAGED = "_ema"
_EMA_WEIGHTS = "model_ema."
# As many as diffusers asks for before it takes averaged weights for whole.
_LEAST_AVERAGED = 100
_NAMED_BASE = re.compile(r"^base_model:\s*(?:-\s*)?[\"']?([\w./-]+)", re.MULTILINE)


@dataclass(frozen=True)
class OwnParts:
    """The parts that a checkpoint holds itself, each in a folder of its own or all in one file.

    ema: whether of a file's weights the averaged ones are read.
    """

    folders: Mapping[str, Path] = field(default_factory=dict)
    file: Path | None = None
    held: frozenset[str] = frozenset()
    ema: bool = False

    @property
    def parts(self) -> frozenset[str]:
        """All of them by name."""
        return self.held | self.folders.keys()


def find_own_parts(path: Path, networks: Collection[str], *, ema: bool) -> OwnParts | None:
    """Return what a checkpoint at `path` holds of these networks, None where it is none.

    Args:
        path: A safetensors file, a folder of parts, or that of one part.
        networks: By name.
        ema: Read the averaged weights.

    Raises:
        ModelError: Its weights are quantised, or it is not clear which are meant.
        UsageError: It has no averaged weights.
    """
    if path.is_file():
        return _of_file(path, ema=ema)
    folders = dict(_folders(path, networks, ema=ema))
    if not folders and (part := _single_part(path, networks)) is not None:
        folders = {part: path}
    if not folders:
        return None
    return OwnParts(folders=folders)


def _of_file(path: Path, *, ema: bool) -> OwnParts:
    keys = read_header(path)
    _refuse_quantised(path, keys)
    averaged = sum(key.startswith(_EMA_WEIGHTS) for key in keys)
    if ema and averaged < _LEAST_AVERAGED:
        raise UsageError(f"{path} holds no averaged weights ({_EMA_WEIGHTS}...): leave --ema out.")
    return OwnParts(file=path, held=frozenset(_held(keys)), ema=ema)


def _held(keys: Collection[str]) -> Iterator[str]:
    yield from DENOISERS
    for part, beginnings in _BEGINNINGS.items():
        if any(key.startswith(beginnings) for key in keys):
            yield part
    if any(key.startswith(_T5) for key in keys):
        third = any(_STABLE_DIFFUSION_3 in key for key in keys)
        yield "text_encoder_3" if third else "text_encoder_2"


def _refuse_quantised(path: Path, keys: Collection[str]) -> None:
    marks = [key for key in keys if _QUANTISED.search(key)]
    whole = sorted(set(stored_as([path])) & _WHOLE_NUMBERS)
    if marks or whole:
        how = f"has {count_and_names(marks)}" if marks else f"is stored as {', '.join(whole)}"
        raise ModelError(
            f"The weights of {path} are quantised (it {how}), which is not supported: scores of "
            "rounded weights are not the model's. Give the checkpoint in float16, bfloat16 or "
            "float32."
        )


def _folders(path: Path, networks: Collection[str], *, ema: bool) -> Iterator[tuple[str, Path]]:
    for part in networks:
        plain, averaged = path / part, path / f"{part}{_AVERAGED}"
        has_plain, has_averaged = (_is_part(folder) for folder in (plain, averaged))
        if has_plain and has_averaged and not ema:
            raise ModelError(
                f"{path} holds the weights of {part} twice. Say --ema for the averaged ones "
                f"({averaged.name}), or give --model {plain} for those of the last step."
            )
        if has_averaged:
            yield part, averaged
        elif ema and part in DENOISERS and has_plain:
            raise UsageError(
                f"{path} holds no averaged weights ({averaged.name}): leave --ema out."
            )
        elif has_plain:
            yield part, plain


def _is_part(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(
        file.suffix in (".safetensors", ".bin") for file in folder.iterdir()
    )


def _single_part(path: Path, networks: Collection[str]) -> str | None:
    """Which part lies in a folder alone: by its name, else by its class."""
    if not _is_part(path):
        return None
    named = path.name.removesuffix(_AVERAGED)
    if named in networks:
        return named
    kind = class_in(path)
    return next((part for part in DENOISERS if kind and part in kind.lower()), None)


def class_in(folder: Path) -> str | None:
    """The class of the network that lies in a folder, where its config.json names one."""
    with suppress(ModelError):
        match read_object(folder / "config.json"):
            case {"_class_name": str(name)} | {"architectures": [str(name), *_]}:
                return name
    return None


def named_base(own: OwnParts, path: Path) -> str | None:
    """The model that a checkpoint was trained from, where its own files say it."""
    for part in DENOISERS:
        if folder := own.folders.get(part):
            with suppress(ModelError):
                said = read_object(folder / "config.json").get("_name_or_path")
                if isinstance(said, str) and said:
                    return printable(said, 200)
    for above in (path, path.parent):
        with suppress(OSError, UnicodeDecodeError):
            if found := _NAMED_BASE.search(read_file(above / "README.md").decode()):
                return found[1]
    return None
