"""The model that a fine-tune was made from: it never saw what the fine-tune was taught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Unpack

from m2g_audit.errors import UsageError
from m2g_audit.files import digest
from m2g_audit.models.loading import load_folder
from m2g_audit.models.model_folder import TEXT_TO_IMAGE, ModelFolder, resolve
from m2g_audit.models.names import Which
from m2g_audit.models.protocol import Generations, TextToImage

_SAME = (
    "in_channels",
    "sample_size",
    "cross_attention_dim",
    "block_out_channels",
    "num_layers",
    "num_attention_heads",
    "attention_head_dim",
    "joint_attention_dim",
)


@dataclass(frozen=True)
class BaseIdentity:
    """What results of a base are kept by."""

    sha256: str
    configuration_sha256: str
    dtype: str


class BaseModel:
    """A base that is loaded once pictures of it are asked for."""

    def __init__(self, folder: ModelFolder, tuned: TextToImage) -> None:
        self._folder = folder
        self._dtype, self._device, self._size = tuned.dtype, tuned.device, tuned.size

    @property
    def id(self) -> str:
        """The base as the user named it."""
        return self._folder.id

    @cached_property
    def identity(self) -> BaseIdentity:
        """The hashes of its weights and of the rest, and the precision that it is sampled in."""
        return BaseIdentity(
            self._folder.sha256,
            digest(self._folder.configuration),
            str(self._dtype).removeprefix("torch."),
        )

    def generate(self, prompt: Sequence[str], seeds: Sequence[int], **sampling: Any) -> Generations:
        """Pictures of prompts as `TextToImage.generate` gives them."""
        return self.pipeline.generate(prompt, seeds, **sampling)

    @cached_property
    def pipeline(self) -> TextToImage:
        """The model itself, loaded when it is first asked for."""
        return load_folder(self._folder, dtype=self._dtype, device=self._device, size=self._size)


def find_base(model: str, tuned: TextToImage, **which: Unpack[Which]) -> BaseModel:
    """Return the base of a fine-tune; nothing of it is loaded yet.

    Raises ModelError for what is no model, UsageError for one that `tuned` can't come from: of
    another architecture or size, or the very same weights.
    """
    folder = resolve(model, TEXT_TO_IMAGE, **which)
    ours, theirs = tuned.network_config, folder.config(folder.networks[0])
    for name in _SAME:
        mine, other = ours.get(name), theirs.get(name)
        if _plain(mine) != _plain(other):
            raise UsageError(
                f"{folder.id} can't be the base of this model: its network has {name} {other}, "
                f"this model's {mine}. Give the model that the fine-tune started from."
            )
    if folder.sha256 == tuned.identity.sha256:
        raise UsageError(
            f"{folder.id} is the audited model itself. --base takes the model that it was "
            "fine-tuned from."
        )
    return BaseModel(folder, tuned)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
