"""Audits of diffusion models for memorized, spurious and generalized samples (arXiv 2505.21777)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2g_audit.batch.auditor import Auditor

__all__ = ["Auditor"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that the command's help need not wait for it.
    if name == "Auditor":
        from m2g_audit.batch.auditor import Auditor

        return Auditor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
