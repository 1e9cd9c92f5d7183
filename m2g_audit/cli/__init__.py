"""The command `m2g-audit`: one file a verb, heavy imports inside the verbs only."""

import io
import logging
import os
import sys
from typing import Annotated, NoReturn

import typer

from m2g_audit.cli import (
    batch,
    calibrate,
    compare,
    doctor,
    finetune,
    models,
    pocket,
    prompt,
    report,
    schema,
    show,
    toy,
    watch,
)
from m2g_audit.errors import Interrupted, as_audit_error
from m2g_audit.text import printable

_EPILOG = (
    "Exit codes: 0 done, 2 usage, 3 model or metric, 4 reference, 5 numerics, 6 memory or other "
    "resources, 7 output, 130 interrupted; batch has its own. M2G_DEBUG=1 shows the traceback of "
    "an error, M2G_CACHE=DIR keeps elsewhere what later runs use: reference pictures, control "
    "results, hashes of weights."
)

app = typer.Typer(
    name="m2g-audit",
    help="Tell memorized, spurious and generalized samples of a diffusion model apart.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from m2g_audit.versions import own_version

        typer.echo(f"m2g-audit {own_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None: ...


app.command("prompt")(prompt.prompt)
app.command("batch")(batch.batch)
app.command("finetune")(finetune.finetune)
app.command("watch")(watch.watch)
app.command("show")(show.show)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("calibrate")(calibrate.calibrate)
app.command("toy")(toy.toy)
app.command("doctor")(doctor.doctor)
app.command("models")(models.models)
app.command("schema")(schema.schema)
app.add_typer(pocket.app, name="pocket")


def main() -> NoReturn:
    """Run the command line; errors become one message on stderr and an exit code."""
    if os.environ.get("M2G_DEBUG") != "1":
        for library in ("DIFFUSERS", "TRANSFORMERS"):
            # What they warn of, such as a prompt that is too long, the audit says itself.
            os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        # What a console's encoding lacks becomes a question mark: no reason to lose a result.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    said = logging.getLogger("m2g_audit")
    if not said.handlers:
        said.addHandler(_Said())
    try:
        app(prog_name="m2g-audit")
    except SystemExit:
        raise
    except BaseException as error:
        if os.environ.get("M2G_DEBUG") == "1":
            raise
        sys.exit(_report(error))
    sys.exit(0)


class _Said(logging.Handler):
    """What is said in passing, such as of a damaged cache: a line on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        from m2g_audit.cli.terminal import Terminal

        Terminal(stderr=True, soft_wrap=True).print(record.getMessage())


def _report(error: BaseException) -> int:
    """Write what happened and the way out to stderr; return the exit code."""
    known = as_audit_error(error)
    from rich.text import Text

    from m2g_audit.cli.terminal import Terminal

    colour, word = ("yellow", "Stopped") if isinstance(known, Interrupted) else ("red", "Error")
    Terminal(stderr=True, soft_wrap=True).print(
        Text.assemble((f"{word}: ", f"bold {colour}"), printable(str(known)))
    )
    return known.exit_code
