"""How an audit that was asked for in Python comes by its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from m2g_audit.audits.options import AuditOptions
from m2g_audit.errors import UsageError
from m2g_audit.models.names import Which
from m2g_audit.models.protocol import TextToImage

_OF_LOADING = (*Which.__annotations__, "dtype", "device", "lora", "lora_scale", "textual_inversion")

Loader = Callable[..., TextToImage]


def loader_of(options: Mapping[str, Any]) -> tuple[Loader | None, AuditOptions]:
    """Return what loads the model, None for the usual way, and the checked options.

    Args:
        options: Those of AuditOptions; model may be a pipeline in memory.

    Raises:
        UsageError: An option is unknown or not possible, or is one of loading beside a pipeline
            that is loaded already.
    """
    model = options.get("model")
    if model is None or isinstance(model, str):
        return None, AuditOptions.of(**options)
    if isinstance(model, Path):
        return None, AuditOptions.of(**{**options, "model": str(model)})
    loaded = [name for name in _OF_LOADING if name in options]
    if loaded:
        raise UsageError(
            f"{loaded[0]} says how a model is loaded, and this one is in memory: leave it out, or "
            "change the pipeline itself."
        )
    from m2g_audit.models.loading import load_model

    named = f"{type(model).__name__} in memory"
    return partial(_give, load_model(model)), AuditOptions.of(**{**options, "model": named})


def _give(model: TextToImage, *_: object, **__: object) -> TextToImage:
    return model
