"""`m2g-audit schema`."""

from typing import Annotated, Literal

import typer


def schema(
    of: Annotated[
        Literal["record", "calibration"],
        typer.Argument(help="Of the record that an audit writes, or of a calibration file."),
    ] = "record",
) -> None:
    """Print the JSON schema of a file of this program."""
    import json

    from m2g_audit import calibration, records
    from m2g_audit.cli.options import print_json

    module = records if of == "record" else calibration
    print_json(json.dumps(module.json_schema(), indent=2))
