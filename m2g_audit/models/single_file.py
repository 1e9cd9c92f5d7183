"""A single file of weights, read by diffusers' own `from_single_file`, whole or refused.

Settings are those of the model that completes it; nothing is fetched.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from m2g_audit.diagnostics.numerics import out_of_memory
from m2g_audit.errors import AuditError, ModelError
from m2g_audit.models.model_folder import ModelFolder
from m2g_audit.text import first_line

OTHER_BASE = "Give with --config-from the model of its own family."
_LEFT_OUT = re.compile(r"^Some weights of the model checkpoint were not used.*?:", re.DOTALL)
_KEY = re.compile(r"[\w.]+")


def load_part(
    folder: ModelFolder, component: str, kind: Any
) -> tuple[Any, Mapping[str, Collection[Any]]]:
    """The network of one part in float32, and the weights that are missing or left over.

    Raises ModelError where diffusers can't make such a network of the file.
    """
    if not hasattr(kind, "from_single_file"):
        raise ModelError(
            f"diffusers reads no single files for {kind.__name__}, the {component} of "
            f"{folder.completed_from}. Give a folder, as save_pretrained writes it."
        )
    averaged = {"extract_ema": True} if folder.own.ema and component == "unet" else {}
    with _fitting(folder, component), _warnings() as said:
        network = kind.from_single_file(
            str(folder.own.file),
            config=str(folder.path),
            subfolder=component,
            local_files_only=True,
            torch_dtype=torch.float32,
            **averaged,
        )
    return network, {"missing_keys": missing(network), "unexpected_keys": _left_out(said)}


def load_encoders(folder: ModelFolder, kind: Any, loaded: Mapping[str, Any]) -> Any:
    """The pipeline of what is loaded already, with the text encoders of the file in float32."""
    if not hasattr(kind, "from_single_file"):
        raise ModelError(
            f"{folder.id} holds text encoders, and diffusers reads none of a single file for "
            f"{kind.__name__}. {OTHER_BASE}"
        )
    with _fitting(folder, "text encoder"), _warnings():
        return kind.from_single_file(
            str(folder.own.file),
            config=str(folder.path),
            local_files_only=True,
            torch_dtype=torch.float32,
            **loaded,
        )


def missing(network: torch.nn.Module) -> list[str]:
    """The weights that the file did not give, which have no values."""
    return [name for name, weight in network.named_parameters() if weight.is_meta]


def _left_out(said: Collection[str]) -> list[str]:
    """The names in what diffusers tells of weights that it did not use."""
    return [key for line in said for key in _KEY.findall(_LEFT_OUT.sub("", line))]


@contextmanager
def _fitting(folder: ModelFolder, part: str) -> Iterator[None]:
    """A block in which whatever diffusers raises means that the file is no such checkpoint."""
    try:
        yield
    except Exception as error:
        if isinstance(error, AuditError | ImportError) or out_of_memory(error):
            raise
        raise ModelError(
            f"The {part} of the single file {folder.id} does not fit {folder.completed_from} "
            f"({type(error).__name__}: {first_line(error)}). {OTHER_BASE}"
        ) from error


class _Kept(logging.Handler):
    """Messages, kept instead of shown."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """A block that gets what diffusers tells of weights that it leaves out: it tells only that."""
    logger = logging.getLogger("diffusers.loaders.single_file_model")
    level, handler, propagated = logger.level, _Kept(), logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield handler.said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagated
