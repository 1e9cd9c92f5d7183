"""Audits of diffusion models for memorized, spurious and generalized samples (arXiv 2505.21777)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2g_audit.api import audit, compare, find_attractors, report
    from m2g_audit.audits.options import AuditOptions
    from m2g_audit.batch.auditor import Auditor
    from m2g_audit.batch.monitor import Monitor
    from m2g_audit.diagnostics.spectrum import spectrum
    from m2g_audit.models.loading import load_model
    from m2g_audit.reports.run import Run, open_run
    from small_scale.sweep import run_sweep

__all__ = [
    "AuditOptions",
    "Auditor",
    "Monitor",
    "Run",
    "audit",
    "compare",
    "find_attractors",
    "load_model",
    "open_run",
    "report",
    "run_sweep",
    "spectrum",
]

_HOMES = {
    "AuditOptions": "m2g_audit.audits.options",
    "Auditor": "m2g_audit.batch.auditor",
    "Monitor": "m2g_audit.batch.monitor",
    "Run": "m2g_audit.reports.run",
    "audit": "m2g_audit.api",
    "compare": "m2g_audit.api",
    "find_attractors": "m2g_audit.api",
    "load_model": "m2g_audit.models.loading",
    "open_run": "m2g_audit.reports.run",
    "report": "m2g_audit.api",
    "run_sweep": "small_scale.sweep",
    "spectrum": "m2g_audit.diagnostics.spectrum",
}


def __getattr__(name: str) -> Any:
    # Loaded when asked for, so that the command's help need not wait for torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
