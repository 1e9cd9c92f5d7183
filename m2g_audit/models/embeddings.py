"""Textual inversion files: words that a model was taught, put into its text encoders.

A file holds the vectors of one word: under the word itself (diffusers), as `emb_params`
(AUTOMATIC1111), or for each of two text encoders (`clip_l`, `clip_g`); without its own name the
word is that of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from m2g_audit.diagnostics.numerics import out_of_memory
from m2g_audit.errors import AuditError, ModelError
from m2g_audit.files import file_sha256
from m2g_audit.models.weight_files import read_small_header
from m2g_audit.text import first_line, printable

_NAMES = ("learned_embeds.safetensors", "embeddings.safetensors")
_NAMELESS = "emb_params"
_ENCODERS = {
    "clip_l": "text_encoder",
    "clip_g": "text_encoder_2",
    "text_encoders_0": "text_encoder",
    "text_encoders_1": "text_encoder_2",
}


@dataclass(frozen=True)
class Embedding:
    """A textual inversion file; shapes: of its vectors, by their names."""

    path: Path
    shapes: Mapping[str, Sequence[int]]

    @property
    def word(self) -> str:
        """What stands in prompts for it."""
        (first, *_) = self.shapes
        return self.path.stem if first == _NAMELESS or first in _ENCODERS else first

    @cached_property
    def sha256(self) -> str:
        """The hash of the file."""
        return file_sha256(self.path)

    @property
    def identity(self) -> dict[str, Any]:
        """What identities and records say of it, as JSON values."""
        vectors = max(shape[0] if len(shape) > 1 else 1 for shape in self.shapes.values())
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "word": self.word,
            "vectors": vectors,
        }


def find_embeddings(paths: Sequence[str]) -> tuple[Embedding, ...]:
    """Return the textual inversion files of paths, each a file or the folder of a training.

    Raises:
        ModelError: There is no such file, it is no textual inversion, or two have one word.
    """
    found = tuple(_read(path) for path in paths)
    words = [embedding.word for embedding in found]
    for word in words:
        if words.count(word) > 1:
            raise ModelError(
                f"Two --textual-inversion have the word {printable(word, 80)}: leave one out, or "
                "name its file otherwise."
            )
    return found


def _read(named: str) -> Embedding:
    path = Path(named).expanduser()
    if path.is_dir():
        path = next((path / name for name in _NAMES if (path / name).is_file()), path / _NAMES[0])
    if not path.is_file():
        raise ModelError(
            f"There is no textual inversion {path} on this machine. Of the hub's, `hf download "
            "OWNER/NAME --local-dir folder` gets one."
        )
    shapes = read_small_header(path, named, "an embedding", "The textual inversion")
    several = len(shapes) > 1 and not shapes.keys() <= _ENCODERS.keys()
    if not shapes or several or any(len(shape) not in (1, 2) for shape in shapes.values()):
        raise ModelError(
            f"{named} is no textual inversion: that has the vectors of one word, and this file "
            f"{len(shapes)} other tensors. A LoRA is given with --lora."
        )
    return Embedding(path, shapes)


def load_embeddings(pipe: Any, embeddings: Sequence[Embedding]) -> None:
    """Teach a pipeline the words of textual inversion files.

    Raises:
        ModelError: The vectors are of another text encoder, or the word is one that it knows.
    """
    if embeddings and not hasattr(pipe, "load_textual_inversion"):
        raise ModelError(
            f"{type(pipe).__name__} takes no textual inversion: diffusers has no loader for it."
        )
    for embedding in embeddings:
        parts = _parts(pipe, embedding)
        weights = load_file(embedding.path)
        for key, part in parts.items():
            _refuse_other_width(embedding, weights[key].shape[-1], part, getattr(pipe, part))
        for key, part in parts.items():
            try:
                pipe.load_textual_inversion(
                    {embedding.word: weights[key]},
                    text_encoder=getattr(pipe, part),
                    tokenizer=getattr(pipe, part.replace("text_encoder", "tokenizer")),
                )
            except Exception as error:
                if isinstance(error, AuditError) or out_of_memory(error):
                    raise
                raise ModelError(
                    f"The textual inversion {embedding.path} can't be loaded "
                    f"({type(error).__name__}: {first_line(error)}). If the model knows its word "
                    "already, leave it out."
                ) from error


def _parts(pipe: Any, embedding: Embedding) -> dict[str, str]:
    """Which text encoder each tensor of a file is for."""
    encoders = [
        name
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3")
        if getattr(pipe, name, None) is not None
    ]
    named = {key: _ENCODERS[key] for key in embedding.shapes if key in _ENCODERS}
    if not named and len(encoders) == 1:
        return {key: encoders[0] for key in embedding.shapes}
    if not named:
        raise ModelError(
            f"The textual inversion {embedding.path} has vectors for one text encoder, and this "
            f"model has {len(encoders)}: it was made for another model."
        )
    if lacking := set(named.values()) - set(encoders):
        raise ModelError(
            f"The textual inversion {embedding.path} has vectors for {', '.join(sorted(lacking))}, "
            "which this model lacks: it was made for another model."
        )
    return named


def _refuse_other_width(embedding: Embedding, width: int, part: str, encoder: Any) -> None:
    wanted = encoder.get_input_embeddings().weight.shape[-1]
    if width != wanted:
        raise ModelError(
            f"The textual inversion {embedding.path} has vectors of {width} numbers, the {part} of "
            f"this model {wanted}: it was made for another model. Give that with --model."
        )
