"""`m2g-audit schema`."""

from typing import Annotated, Any, Literal

import typer


def schema(
    of: Annotated[
        Literal[
            "record",
            "batch",
            "summary",
            "finetune",
            "check",
            "results",
            "comparison",
            "calibration",
        ],
        typer.Argument(
            help="Of the record that an audit writes, of a line of a batch's records.jsonl, of its "
            "summary.json, of a fine-tune's finetune.json, of the columns of results.parquet, of "
            "what compare prints, or of a calibration file."
        ),
    ] = "record",
) -> None:
    """Print the JSON schema of a file of this program, with what each field means."""
    import json

    from m2g_audit.cli.options import print_json

    print_json(json.dumps(_schema(of), indent=2))


def _schema(of: str) -> Any:
    from pydantic import BaseModel

    from m2g_audit.calibration.calibration_record import Calibration
    from m2g_audit.records.record import AuditRecord
    from m2g_audit.records.schemas import schema_of
    from m2g_audit.review.compare import Comparison
    from m2g_audit.review.finetune import FinetuneSummary
    from m2g_audit.review.summary import Summary, results_schema
    from m2g_audit.review.watching import Check
    from m2g_audit.store.batch_directory import BatchRecord

    if of == "results":
        return results_schema()
    kinds: dict[str, type[BaseModel]] = {
        "record": AuditRecord,
        "batch": BatchRecord,
        "summary": Summary,
        "finetune": FinetuneSummary,
        "check": Check,
        "comparison": Comparison,
        "calibration": Calibration,
    }
    return schema_of(kinds[of])
