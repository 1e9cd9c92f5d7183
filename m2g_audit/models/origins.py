"""Where a loaded model comes from: what its records call it, and its weights once more in fp32."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from torch import nn

from m2g_audit.files import digest
from m2g_audit.models.model_folder import NOT_ASKED, ModelFolder
from m2g_audit.models.networks import load_network
from m2g_audit.models.own_settings import OwnSettings
from m2g_audit.models.protocol import ModelIdentity


class FromFolder:
    """The origin of a model that was read from a folder, the hub's cache among them.

    id: as the user named it; revision: the hub's commit, None elsewhere.
    """

    def __init__(self, folder: ModelFolder) -> None:
        self._folder = folder
        self.id, self.revision, self.path = folder.id, folder.revision, folder.path
        self.class_name = folder.class_name
        self.stored, self.completed_from = folder.stored, folder.completed_from

    @property
    def sha256(self) -> str:
        """The hash of the weights' files."""
        return self._folder.sha256

    @property
    def configuration(self) -> Mapping[str, Any]:
        """All else that the pipeline reads, by file."""
        return self._folder.configuration

    def own_settings(self) -> OwnSettings:
        """What m2g.json says."""
        return self._folder.own_settings()

    def exact(self, part: str) -> nn.Module:
        """One network, read again: in half precision its weights were rounded."""
        return load_network(self._folder, part)


class InMemory:
    """The origin of a pipeline object: named by its class, identified by its parameters."""

    revision = None
    path = None
    stored = None
    completed_from = None

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._parts = sorted(
            name
            for name, part in pipe.components.items()
            if isinstance(part, nn.Module) and name not in NOT_ASKED
        )
        self.class_name = type(pipe).__name__
        self.id = f"{pipe.config.get('_name_or_path') or self.class_name} (in memory)"

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over the parameters and buffers of all networks, adapters and scales included."""
        content = hashlib.sha256()
        for part in self._parts:
            network = getattr(self._pipe, part)
            for name, tensor in sorted(network.state_dict().items()):
                content.update(f"{part}.{name}|{tensor.dtype}|{tuple(tensor.shape)}\n".encode())
                values = tensor.detach().cpu().contiguous().flatten()
                content.update(values.view(torch.uint8).numpy().tobytes())
            for name, module in network.named_modules():
                # How much of each adapter is added is no parameter.
                if scaling := getattr(module, "scaling", None):
                    active = getattr(module, "active_adapters", None)
                    content.update(f"{part}.{name}|{scaling}|{active}\n".encode())
        return content.hexdigest()

    @cached_property
    def configuration(self) -> Mapping[str, Any]:
        """The settings of every part, and the hash of each tokenizer's words."""
        parts = {
            name: _plain(part.config)
            for name in (*self._parts, "scheduler")
            if (part := getattr(self._pipe, name, None)) is not None
        }
        words = {
            name: digest(part.get_vocab())
            for name, part in self._pipe.components.items()
            if hasattr(part, "get_vocab")
        }
        return parts | words | {"pipeline": self.class_name}

    def own_settings(self) -> OwnSettings:
        """Nothing: a pipeline in memory brings no m2g.json."""
        return OwnSettings()

    def exact(self, part: str) -> nn.Module:
        """A copy of one network in float32, from weights as they are in memory."""
        return deepcopy(getattr(self._pipe, part)).float()


Origin = FromFolder | InMemory


def _plain(config: Any) -> dict[str, Any]:
    """A configuration as JSON values, without the path that it was once loaded from."""
    content = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {key: value for key, value in content.items() if key != "_name_or_path"}
    return json.loads(json.dumps(kept, default=str))


def identify(origin: Origin, unet: Any, scheduler: str, prediction_type: str) -> ModelIdentity:
    """Return what records say of a model with this denoiser."""
    return ModelIdentity(
        id=origin.id,
        revision=origin.revision,
        sha256=origin.sha256,
        architecture=f"{origin.class_name}/{type(unet).__name__}",
        dtype=str(unet.dtype).removeprefix("torch."),
        device=str(unet.device),
        scheduler=scheduler,
        prediction_type=prediction_type,
        stored=origin.stored,
        completed_from=origin.completed_from,
        configuration=origin.configuration,
    )
