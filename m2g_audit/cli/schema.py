"""`m2g-audit schema`."""

from typing import Annotated, Literal

import typer


def schema(
    of: Annotated[
        Literal["record", "batch", "calibration"],
        typer.Argument(
            help="Of the record that an audit writes, of a line of a batch's records.jsonl, or of "
            "a calibration file."
        ),
    ] = "record",
) -> None:
    """Print the JSON schema of a file of this program."""
    import json

    from m2g_audit.calibration import calibration
    from m2g_audit.cli.options import print_json
    from m2g_audit.records import record
    from m2g_audit.store import batch_directory

    modules = {"record": record, "batch": batch_directory, "calibration": calibration}
    print_json(json.dumps(modules[of].json_schema(), indent=2))
