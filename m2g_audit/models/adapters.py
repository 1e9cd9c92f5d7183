"""LoRA files on top of a model: found, read, and loaded whole or refused.

Layouts are diffusers' to know (its own, kohya's, those of other trainers); a folder of peft is
brought to diffusers' names here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from m2g_audit.diagnostics.numerics import out_of_memory
from m2g_audit.errors import AuditError, ModelError, UsageError
from m2g_audit.files import file_sha256
from m2g_audit.models.tap import denoiser_name
from m2g_audit.models.weight_files import count_and_names, read_object, read_small_header
from m2g_audit.text import first_line

_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_PEFT = "base_model.model."
# Of a peft folder's settings, those that change what is added.
_SETTINGS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora")
_PARTS = ("lora_A", "lora_B", "lora_down", "lora_up", "lora.down", "lora.up", "lora_linear_layer")


@dataclass(frozen=True)
class Lora:
    """A LoRA file, and how much of it is added."""

    path: Path
    scale: float

    @cached_property
    def sha256(self) -> str:
        """The hash of the file."""
        return file_sha256(self.path)

    @property
    def identity(self) -> dict[str, Any]:
        """What identities and records say of it, as JSON values."""
        return {"file": self.path.name, "sha256": self.sha256, "scale": self.scale}


def find_loras(paths: Sequence[str], scales: Sequence[float]) -> tuple[Lora, ...]:
    """Return the LoRA files of paths, each a file or the folder that a trainer wrote.

    Args:
        paths: As the user named them.
        scales: One for all, one for each, or none, which is 1.

    Raises:
        UsageError: There are not as many scales.
        ModelError: There is no such file, or it can't be read.
    """
    if len(scales) not in (0, 1, len(paths)):
        raise UsageError(
            f"{len(paths)} --lora and {len(scales)} --lora-scale: give one scale for all, or one "
            "for each in the same order."
        )
    each = list(scales) if len(scales) == len(paths) else list(scales or (1.0,)) * len(paths)
    return tuple(Lora(_file(path), scale) for path, scale in zip(paths, each, strict=True))


def _file(named: str) -> Path:
    path = Path(named).expanduser()
    if path.is_dir():
        found = next((path / name for name in _NAMES if (path / name).is_file()), None)
        if found is None:
            raise ModelError(
                f"The folder {named} holds no LoRA ({' or '.join(_NAMES)}). Give the file itself."
            )
        path = found
    if not path.is_file():
        raise ModelError(
            f"There is no LoRA file {named} on this machine. Of the hub's, `hf download "
            "OWNER/NAME --local-dir folder` gets one."
        )
    read_small_header(path, named, "a LoRA", "The LoRA")
    return path


def attach(pipe: Any, loras: Sequence[Lora]) -> None:
    """Load LoRA files into a pipeline, each with its scale.

    Raises:
        ModelError: One fits the pipeline not at all, or not whole.
    """
    if not loras:
        return
    if not hasattr(pipe, "load_lora_weights"):
        raise ModelError(f"{type(pipe).__name__} takes no LoRA: diffusers has no loader for it.")
    names = [_name(i) for i in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        with _fitting(lora):
            weights = _read(pipe, lora)
            if weights.of_peft:
                _attach_to(getattr(pipe, weights.part), name, weights)
            else:
                pipe.load_lora_weights(
                    lora.path.parent, weight_name=lora.path.name, adapter_name=name
                )
        networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
        _refuse_left_over(networks, name, lora, weights.matrices)
    pipe.set_adapters(names, [lora.scale for lora in loras])


def attach_to_denoiser(pipe: Any, network: Any, loras: Sequence[Lora]) -> None:
    """Load into another copy of a pipeline's denoiser what `attach` loads into its own."""
    for i, lora in enumerate(loras):
        with _fitting(lora):
            _attach_to(network, _name(i), _read(pipe, lora))
    network.set_adapters([_name(i) for i in range(len(loras))], [lora.scale for lora in loras])


@dataclass(frozen=True)
class _Weights:
    """The weights of a file under diffusers' names, for the part that is asked at every step.

    alphas, metadata: what scales them beside their rank, by diffusers; of_peft: whether they lie in
    peft's layout, which a pipeline does not read.
    """

    part: str
    matrices: dict[str, Tensor]
    alphas: dict[str, float] | None
    metadata: dict[str, Any] | None
    of_peft: bool


def _name(i: int) -> str:
    return f"lora_{i}"


def _attach_to(network: Any, name: str, weights: _Weights) -> None:
    network.load_lora_adapter(
        weights.matrices,
        prefix=weights.part,
        network_alphas=weights.alphas,
        metadata=weights.metadata,
        adapter_name=name,
    )


def _read(pipe: Any, lora: Lora) -> _Weights:
    part = denoiser_name(pipe)
    assert part is not None
    raw = load_file(lora.path)
    if raw and all(key.startswith(_PEFT) for key in raw):
        _refuse_other_part(pipe, lora, part)
        matrices = {f"{part}.{key.removeprefix(_PEFT)}": value for key, value in raw.items()}
        return _Weights(part, matrices, None, _of_peft(lora, matrices, part), of_peft=True)
    found = pipe.lora_state_dict(
        lora.path.parent,
        weight_name=lora.path.name,
        return_lora_metadata=True,
        **({"return_alphas": True} if _has_alphas(pipe) else {}),
    )
    matrices, *others = found
    alphas = others[0] if len(others) == 2 else None
    return _Weights(part, matrices, alphas, others[-1] or None, of_peft=False)


def _has_alphas(pipe: Any) -> bool:
    return "return_alphas" in signature(pipe.lora_state_dict).parameters


def _refuse_other_part(pipe: Any, lora: Lora, part: str) -> None:
    """Raise ModelError for a peft folder of another network than the denoiser."""
    mapping = _said_by_peft(lora).get("auto_mapping")
    trained = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if trained is not None and trained != type(getattr(pipe, part)).__name__:
        raise ModelError(
            f"The LoRA {lora.path} was trained on a {trained}, and of peft's folders only those of "
            "the denoiser are read: load it in diffusers, and save it with save_lora_weights."
        )


def _said_by_peft(lora: Lora) -> dict[str, Any]:
    settings = lora.path.parent / "adapter_config.json"
    return read_object(settings) if settings.is_file() else {}


def _of_peft(lora: Lora, matrices: Mapping[str, Tensor], part: str) -> dict[str, Any] | None:
    """What a peft folder says of its LoRA, where it says it."""
    said = {key: value for key, value in _said_by_peft(lora).items() if key in _SETTINGS}
    if not said:
        return None
    modules = {key.partition(".lora_")[0].removeprefix(f"{part}.") for key in matrices}
    named = {**said, "target_modules": sorted(modules)}
    return {f"{part}.{key}": value for key, value in named.items()}


@contextmanager
def _fitting(lora: Lora) -> Iterator[None]:
    """A block in which whatever the loaders raise means that a LoRA does not fit."""
    try:
        yield
    except Exception as error:
        if isinstance(error, AuditError) or out_of_memory(error):
            raise
        raise ModelError(
            f"The LoRA {lora.path} does not fit this model ({type(error).__name__}: "
            f"{first_line(error)}). Give the base that it was trained on."
        ) from error


def _refuse_left_over(
    networks: Sequence[nn.Module], name: str, lora: Lora, weights: Mapping[str, Tensor]
) -> None:
    """Raise ModelError unless every matrix of a file has its place in the networks."""
    asked = [key for key in weights if any(part in key for part in _PARTS)]
    placed = sum(f".{name}." in key for part in networks for key, _ in part.named_parameters())
    if not asked or placed < len(asked):
        raise ModelError(
            f"The LoRA {lora.path} does not fit this model: {placed} of its {len(asked)} matrices "
            f"have a place in it; it has {count_and_names(asked)}. Give the base that it was "
            "trained on."
        )
