"""`m2g-audit doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from m2g_audit.cli.options import Format
from m2g_audit.models.names import Which


def doctor(
    model: Annotated[
        str | None,
        typer.Argument(help="A model to look at instead: a hub id, a folder, a file, or pocket."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps, for a model.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, float16 or bfloat16, for a model.")
    ] = None,
    subfolder: Annotated[
        str | None, typer.Option(help="Where in its repository or folder a model lies.")
    ] = None,
    config_from: Annotated[
        str | None,
        typer.Option(help="The model that a single file or a training's checkpoint belongs to."),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="The variant of a model's weights, such as fp16.")
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="A checkpoint's averaged weights.")] = False,
    output_format: Format = "text",
) -> None:
    """Tell what this machine has for an audit, what is missing, and the command that gets it.

    With a model: what it is, and whether an audit's scores and pictures are its pipeline's own.

    Example: m2g-audit doctor ./my-finetune
    """
    import json
    from dataclasses import asdict

    from m2g_audit.cli.options import print_json
    from m2g_audit.cli.terminal import Terminal

    console = Terminal(stderr=True)
    if model is not None:
        which: Which = {
            "subfolder": subfolder,
            "config_from": config_from,
            "variant": variant,
            "ema": ema,
        }
        _examine(model, device, dtype, which, output_format)
        return
    with console.status("looking around"):
        from m2g_audit.doctor import diagnose

        found = diagnose()
    if output_format == "json":
        print_json(json.dumps(asdict(found), indent=1))
        return
    from m2g_audit.cli.diagnosis import show

    show(found, Terminal())


def _examine(
    model: str, device: str | None, dtype: str | None, which: Which, output_format: str
) -> None:
    import json
    from dataclasses import asdict

    from m2g_audit.cli.bars import loading
    from m2g_audit.cli.options import print_json
    from m2g_audit.cli.terminal import Terminal

    console = Terminal(stderr=True)
    with loading(console):
        from m2g_audit.models.examination import examine
        from m2g_audit.models.loading import load_model
    with console.status("loading it and asking its network a few times"):
        found = examine(load_model(model, device=device, dtype=dtype, **which))
    if output_format == "json":
        print_json(json.dumps(asdict(found), indent=1))
        return
    from m2g_audit.cli.diagnosis import show_model

    show_model(found, Terminal())
