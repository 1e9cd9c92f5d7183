"""`m2g-audit finetune`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from m2g_audit.audits.options import AuditOptions
from m2g_audit.cli.batch_run import BatchRun
from m2g_audit.cli.options import OUTPUT, Format, GateAt, Junit, Yes, with_audit_options

_SET = "The training set"


@with_audit_options(
    without=("model", "reference", "reference_complete"), defaults={"spectrum": "none"}
)
def finetune(
    model: Annotated[
        str,
        typer.Argument(
            help="The fine-tune: a diffusers folder or a hub id; or a LoRA, as a file or the "
            "folder that a trainer wrote, of which --base is the base.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="What it was trained on: a folder of pictures with captions (beside them, in "
            "metadata.jsonl or metadata.csv, or kohya's 10_name folders), a parquet file, a tar "
            "archive of webdataset or a list of paths.",
            rich_help_panel=_SET,
            show_default=False,
        ),
    ],
    trigger: Annotated[
        str | None,
        typer.Option(
            help="The word that was taught, audited alone; the caption of pictures that have none. "
            "Else what all captions share.",
            rich_help_panel=_SET,
        ),
    ] = None,
    recombined: Annotated[
        int,
        typer.Option(
            min=0,
            help="How many prompts that join parts of two captions, as none of them does.",
            rich_help_panel=_SET,
        ),
    ] = 16,
    encoding: Annotated[
        str | None,
        typer.Option(help="Of captions that are not UTF-8.", rich_help_panel=_SET),
    ] = None,
    *,
    options: dict[str, Any],
    fail_on: GateAt = None,
    junit: Junit = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder; runs/NAME-HASH if left out. The same command continues.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output_format: Format = "text",
    yes: Yes = False,
) -> None:
    """Tell which pictures of its training set a fine-tune gives back.

    Audits every caption, prompts that join parts of two captions, the word that was taught, and
    the empty prompt; the base is asked for the same seeds. It is a batch: its folder, its gate,
    report, show and compare are those of m2g-audit batch, and so are its exit codes.

    Example: m2g-audit finetune ./lora-out --base ./base --data ./training-set --out runs/lora
    """
    run = BatchRun(fail_on, junit)
    try:
        from m2g_audit.audits.fine_tuned import of_fine_tune
        from m2g_audit.prompts.training_set import prompts_of, read_training_set

        asked = of_fine_tune(AuditOptions.of(**options), model, data)
        found = read_training_set(
            data.expanduser(),
            leave_out=[] if out is None else [out],
            encoding=encoding,
            trigger=trigger,
        )
        listed = prompts_of(found, recombined=recombined)
        listed = listed.with_negative_prompt(asked.negative_prompt)
        run.take(listed, listed.entries)
        run.start(asked, Path(model).stem or "finetune", out, yes)
        outcome = run.end(output_format, _summarise(run, asked, found.captions))
    except BaseException as error:
        if os.environ.get("M2G_DEBUG") == "1":
            raise
        raise run.stopped_by(error) from error
    raise typer.Exit(outcome.exit_code)


def _summarise(run: BatchRun, asked: AuditOptions, captions: dict[str, str | None]) -> Any:
    from m2g_audit.review.finetune import summarise_finetune, write_finetune

    of_base = run.ask_base(asked)
    assert run.directory is not None
    base = None if of_base is None or run.setup.base is None else (run.setup.base.id, of_base)
    summary = summarise_finetune(
        run.directory, captions, str(asked.reference), base=base, notices=run.notices
    )
    write_finetune(run.directory, summary)
    return summary
