"""`m2g-audit batch`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2g_audit.audits.options import OF_A_LIST, AuditOptions
from m2g_audit.cli.batch_run import BatchRun
from m2g_audit.cli.options import OUTPUT, Annotate, Format, GateAt, Junit, Yes, with_audit_options
from m2g_audit.records.vocabulary import ListFormat, Quotes

if TYPE_CHECKING:
    from m2g_audit.prompts import Entry, PromptList

_LIST = "The list"


@with_audit_options(defaults=OF_A_LIST)
def batch(
    prompts: Annotated[
        str,
        typer.Argument(
            help="The list of prompts: a txt, csv, tsv, json, jsonl or parquet file, a folder of "
            "pictures with captions (the reference too, if none is named), or - for stdin.",
            show_default=False,
        ),
    ],
    column: Annotated[
        str | None,
        typer.Option(
            help="The column of the prompts, by name or place (1), or a.b for what lies in "
            "another; else one named caption, prompt or text.",
            rich_help_panel=_LIST,
        ),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            help="The column of what prompts are known to be, counted beside the verdicts; else "
            "one named label, truth or expected.",
            rich_help_panel=_LIST,
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="The text's encoding, if it is not UTF-8.", rich_help_panel=_LIST),
    ] = None,
    read_as: Annotated[
        ListFormat | None,
        typer.Option(
            metavar="<format>",
            help="What the list is: txt (each line as it stands), csv, tsv, json, jsonl, parquet; "
            "a1111, kohya or infotext for lines with options, whose negative prompts are used. "
            "Else by its content.",
            rich_help_panel=_LIST,
        ),
    ] = None,
    quotes: Annotated[
        Quotes | None,
        typer.Option(
            metavar="<csv|none>",
            help="Whether quotes in a table surround fields, or are part of the text. Else by what "
            "fits all lines.",
            rich_help_panel=_LIST,
        ),
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="Whether a table's first row names its columns. Else by the names in it.",
            rich_help_panel=_LIST,
        ),
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            metavar="<i/n>",
            help="Audit every n-th prompt only, from the i-th on: 1/4 is the first of four shares.",
            rich_help_panel=_LIST,
        ),
    ] = "1/1",
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Audit the first prompts only, this many of the share, as a try.",
            rich_help_panel=_LIST,
        ),
    ] = None,
    *,
    options: dict[str, Any],
    fail_on: GateAt = None,
    junit: Junit = None,
    annotate: Annotate = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The batch's folder; runs/LIST-HASH if left out. The same command continues.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output_format: Format = "text",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what would be downloaded, made and how long it takes; audit nothing.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    yes: Yes = False,
) -> None:
    """Audit a list of prompts, and say which of them a release should not have.

    The same command continues after a crash or Ctrl-C; started twice, it shares the work.

    Exit codes: 0 every prompt has a verdict, 1 findings at --fail-on, 2 wrong usage, 3 incomplete
    (a prompt failed or is missing, or something stopped the run), 130 Ctrl-C.

    Example: m2g-audit batch prompts.csv --model pocket --out runs/release --fail-on memorized
    """
    run = BatchRun(fail_on, junit, annotate=annotate)
    try:
        from m2g_audit.prompts import read_prompts

        listed = read_prompts(
            prompts,
            column=column,
            label_column=label_column,
            encoding=encoding,
            read_as=read_as,
            quotes=quotes,
            header=header,
        )
        asked = AuditOptions.of(**options)
        listed = listed.with_negative_prompt(asked.negative_prompt)
        run.take(listed, _share(listed, shard)[:limit])
        name = Path(prompts).stem or "prompts"
        run.start(asked, name, out, yes, source=prompts, dry=dry_run)
        if dry_run:
            return
        outcome = run.end(output_format)
    except BaseException as error:
        if os.environ.get("M2G_DEBUG") == "1":
            raise
        raise run.stopped_by(error) from error
    raise typer.Exit(outcome.exit_code)


def _share(listed: PromptList, shard: str) -> tuple[Entry, ...]:
    from m2g_audit.errors import UsageError

    number, _, of = shard.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UsageError(f"--shard {shard} is not possible: give i/n, such as 1/4 to 4/4.")
    share = listed.entries[int(number) - 1 :: int(of)]
    if not share:
        raise UsageError(
            f"--shard {shard} has none of the {len(listed):,} prompts: use fewer shares."
        )
    return share
