"""How a pipeline guides: what its conditional and unconditional predictions are mixed to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from m2g_audit.errors import UsageError

GuidanceKind = Literal["linear", "offset", "renormalised", "distilled", "none"]
"""linear: u + g (c - u). offset: c + g (c - u). renormalised: as linear, brought to the norm of c
along the last dimension. distilled: the network is told g, and has no unconditional branch. none:
whatever g is given, the network answers once and for the prompt."""

Mix = Callable[[Tensor, Tensor, float], Tensor]


def _linear(
    conditional: Float[Tensor, " *b"], unconditional: Float[Tensor, " *b"], scale: float
) -> Float[Tensor, " *b"]:
    return unconditional + scale * (conditional - unconditional)


def _offset(
    conditional: Float[Tensor, " *b"], unconditional: Float[Tensor, " *b"], scale: float
) -> Float[Tensor, " *b"]:
    return conditional + scale * (conditional - unconditional)


def _renormalised(
    conditional: Float[Tensor, " *b"], unconditional: Float[Tensor, " *b"], scale: float
) -> Float[Tensor, " *b"]:
    mixed = _linear(conditional, unconditional, scale)
    norms = (part.norm(dim=-1, keepdim=True) for part in (conditional, mixed))
    wanted, has = norms
    return mixed * (wanted / has)


MIXES: Mapping[GuidanceKind, Mix] = {
    "linear": _linear,
    "offset": _offset,
    "renormalised": _renormalised,
}
"""The guided prediction of (conditional, unconditional, scale), by kind."""


def argument_of(pipe: Any) -> str | None:
    """Return the name under which a pipeline is told its guidance, None where it takes none.

    Some have both: true_cfg_scale then mixes two branches, and guidance_scale is for networks that
    were distilled. A pipeline that mixes by itself has a default above 1 for it.
    """
    parameters = signature(pipe.__call__).parameters
    mixing = parameters.get("true_cfg_scale")
    if mixing is not None and mixing.default > 1:
        return "true_cfg_scale"
    return "guidance_scale" if "guidance_scale" in parameters else None


def resolve_guidance(guidance: float, unguided: float = 1.0) -> float:
    """Return the guidance that is used, `unguided` for 0, by which model cards mean none.

    Raises:
        UsageError: It is less than none.
    """
    if guidance == 0:
        return unguided
    if not unguided <= guidance < float("inf"):
        raise UsageError(
            f"A guidance of {guidance} is not possible: give 0 or {unguided:g} (no guidance) or "
            f"more than {unguided:g}."
        )
    return guidance
