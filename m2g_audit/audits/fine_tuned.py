"""The options of an audit of a fine-tune: what is audited, and what stands beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from m2g_audit.audits.options import AuditOptions
from m2g_audit.errors import UsageError
from m2g_audit.models.no_model import find_lora


def of_fine_tune(options: AuditOptions, model: str, data: Path) -> AuditOptions:
    """Return the options for `model`: a LoRA goes on top of its base, a model stands beside it.

    Raises:
        UsageError: It is a LoRA, and there is no base.
        ModelError: The folder has several LoRAs in it.
    """
    asked = replace(options, model=model, reference=str(data))
    lora = find_lora(Path(model).expanduser())
    if lora is None:
        return asked
    if asked.base is None:
        raise UsageError(
            f"{model} is a LoRA: give with --base the model that it was trained on, as a folder or "
            "a hub id."
        )
    return replace(asked, model=asked.base, base=None, lora=(str(lora), *asked.lora))
