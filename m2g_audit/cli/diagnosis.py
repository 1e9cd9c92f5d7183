"""What `m2g-audit doctor` found, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from m2g_audit.doctor import Diagnosis, Item


def show(found: Diagnosis, console: Console) -> None:
    """Print the machine, models and metrics, and the command that gets what is missing."""
    for line in _lines(found):
        # Never wrapped: commands are there to be copied.
        console.print(line, soft_wrap=True)


def _lines(found: Diagnosis) -> Iterator[Text]:
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    free, total = _size(found.memory_free_bytes), _size(found.memory_total_bytes)
    facts = [
        ("device", f"{found.device} ({found.device_detail})"),
        ("memory", f"{free} free of {total}"),
        ("disk", f"{_size(found.disk_free_bytes)} free at {found.cache}"),
        ("versions", versions),
    ]
    if found.device == "cuda":
        facts.insert(1, ("GPU memory", f"{_size(found.device_free_bytes)} free"))
    yield Text("Machine", style="bold underline")
    for name, value in facts:
        yield Text.assemble((f"  {name:<12}", "dim"), value)
    for title, items in (("Models", found.models), ("Metrics", found.metrics)):
        yield Text("")
        yield Text(title, style="bold underline")
        yield from _items(items)


def _items(items: Sequence[Item]) -> Iterator[Text]:
    width = max(len(item.name) for item in items)
    for item in items:
        mark = ("✓ ", "green") if item.at_hand else ("– ", "yellow")
        yield Text.assemble(mark, (f"{item.name:<{width}}  ", "bold"), item.detail)
        if item.command:
            yield Text.assemble(("    get it: ", "dim"), (item.command, "cyan"))


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
