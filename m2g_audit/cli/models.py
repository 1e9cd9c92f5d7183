"""`m2g-audit models`."""

from m2g_audit.cli.options import Format


def models(output_format: Format = "text") -> None:
    """List the families of models that were tried, and what was shown for each.

    On tiny networks with random weights; m2g-audit doctor MODEL shows it for a model itself.
    """
    import json

    from rich.table import Table
    from rich.text import Text

    from m2g_audit.cli.options import print_json
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.models.families import known_families

    version, families = known_families()
    if output_format == "json":
        print_json(json.dumps([family.model_dump() for family in families], indent=1))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("pipeline", "noise", "guidance", "an audit has"):
        table.add_column(column)
    for family in families:
        if family.refused is None:
            allowed = Text("pictures and scores", style="green")
        elif family.picture is not None:
            allowed = Text("pictures", style="yellow")
        else:
            allowed = Text("nothing", style="red")
        name = f"{family.pipeline.removesuffix('Pipeline')} ({family.family})"
        table.add_row(name, family.noise or "", family.guidance or "", allowed)
    console = Terminal()
    console.print(table)
    console.print(
        Text(f"Tried with diffusers {version}; others are tried when they are loaded.", style="dim")
    )
