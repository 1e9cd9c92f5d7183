"""What `m2g-audit doctor` found, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from m2g_audit.doctor import Diagnosis, Item
from m2g_audit.models.examination import Examination
from m2g_audit.text import printable


def show(found: Diagnosis, console: Console) -> None:
    """Print the machine, models and metrics, and the command that gets what is missing."""
    for line in _lines(found):
        # Never wrapped: commands are there to be copied.
        console.print(line, soft_wrap=True)


def show_model(found: Examination, console: Console) -> None:
    """Print what a model is, and what of an audit it allows."""
    height, width = found.image_size
    usual = (
        "its model card has to say them (it was distilled to few steps)"
        if found.steps is None
        else f"{found.steps} with guidance {found.guidance:g}"
    )
    facts = [
        ("pipeline", found.architecture),
        ("runs in", f"{found.dtype} on {found.device}"),
        (
            "pictures",
            f"{width} x {height} pixels, latents {' x '.join(map(str, found.latent_shape))}",
        ),
        ("steps", usual),
        ("noise", f"{found.noise}, its network predicts {found.prediction_type}"),
        ("guidance", _GUIDANCES[found.guidance_kind]),
    ]
    console.print(Text(printable(found.model), style="bold underline"))
    for name, value in facts:
        console.print(Text.assemble((f"  {name:<10}", "dim"), value), soft_wrap=True)
    for mark, said in _allowed(found):
        style = {"✓": "green", "–": "yellow"}[mark]
        console.print(Text.assemble((f"{mark} ", style), said), soft_wrap=True)


_GUIDANCES = {
    "linear": "u + g (c - u)",
    "offset": "c + g (c - u), so that 0 means none",
    "renormalised": "u + g (c - u), brought to the norm of c: no score of any distribution",
    "distilled": "told to the network, which has no unconditional branch",
    "none": "none",
    None: "not understood",
}


def _allowed(found: Examination) -> Iterator[tuple[str, str]]:
    """What an audit can rest on, each with ✓ or – and its numbers."""
    if found.picture <= 1:
        yield (
            "✓",
            f"pictures are those of plain diffusers (up to {found.picture:.0f} of 255 levels)",
        )
    else:
        yield (
            "–",
            f"a picture in a batch differs from plain diffusers by {found.picture:.0f} of 255",
        )
    if found.no_score is not None:
        yield "–", f"no spectra or basins: {found.no_score}"
    elif found.prediction is not None:
        step = "" if found.step is None else f", steps to {found.step:.0e}"
        yield "✓", f"scores are those of its pipeline (predictions to {found.prediction:.0e}{step})"


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
