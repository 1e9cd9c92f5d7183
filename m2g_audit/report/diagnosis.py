"""What `m2g-audit doctor` found, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from m2g_audit.diagnosis import Diagnosis, Item


def diagnosis_table(found: Diagnosis) -> RenderableType:
    """Return the findings: the machine, models, metrics, and how to get what is missing."""
    machine = Table.grid(padding=(0, 2))
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    for name, value in (
        ("device", f"{found.device} ({found.device_detail})"),
        ("memory", f"{_size(found.memory_free_bytes)} free of {_size(found.memory_total_bytes)}"),
        ("disk", f"{_size(found.disk_free_bytes)} free at {found.cache}"),
        ("versions", versions),
    ):
        machine.add_row(Text(name, style="dim"), Text(value))
    if found.device == "cuda":
        machine.add_row(Text("GPU", style="dim"), Text(f"{_size(found.device_free_bytes)} free"))
    return Group(
        Text("Machine", style="bold underline"),
        machine,
        Text("\nModels", style="bold underline"),
        _items(found.models),
        Text("\nMetrics", style="bold underline"),
        _items(found.metrics),
    )


def _items(items: Sequence[Item]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for item in items:
        mark = Text("✓", style="green") if item.at_hand else Text("–", style="yellow")
        table.add_row(mark, Text(item.name, style="bold"), Text(item.detail))
        if item.command:
            table.add_row("", "", Text(f"get it: {item.command}", style="cyan"))
    return table


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
