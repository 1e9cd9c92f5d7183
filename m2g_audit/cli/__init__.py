"""The command `m2g-audit`: one file a verb, heavy imports inside the verbs only."""

import errno
import os
import sys
from typing import NoReturn

import typer

from m2g_audit.cli import calibrate, doctor, pocket, prompt, schema
from m2g_audit.errors import AuditError, Interrupted, ResourceError

_EPILOG = (
    "Exit codes: 0 done, 2 usage, 3 model or metric, 4 reference, 5 numerics, 6 memory or other "
    "resources, 7 output, 130 interrupted. M2G_DEBUG=1 shows the traceback of an error, "
    "M2G_CACHE=DIR keeps elsewhere what later runs use: reference pictures, control results, "
    "hashes of weights."
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
app.command("prompt")(prompt.prompt)
app.command("calibrate")(calibrate.calibrate)
app.command("doctor")(doctor.doctor)
app.command("schema")(schema.schema)
app.add_typer(pocket.app, name="pocket")


def main() -> NoReturn:
    """Run the command line; errors become one message on stderr and an exit code."""
    if os.environ.get("M2G_DEBUG") != "1":
        for library in ("DIFFUSERS", "TRANSFORMERS"):
            # What they warn of, such as a prompt that is too long, the audit says itself.
            os.environ.setdefault(f"{library}_VERBOSITY", "error")
    try:
        app(prog_name="m2g-audit")
    except SystemExit:
        raise
    except BaseException as error:
        if os.environ.get("M2G_DEBUG") == "1":
            raise
        sys.exit(_report(error))
    sys.exit(0)


def _report(error: BaseException) -> int:
    """Write what happened and the way out to stderr; return the exit code."""
    known = as_audit_error(error)
    from rich.console import Console
    from rich.text import Text

    colour, word = ("yellow", "Stopped") if isinstance(known, Interrupted) else ("red", "Error")
    Console(stderr=True, soft_wrap=True).print(
        Text.assemble((f"{word}: ", f"bold {colour}"), str(known))
    )
    return known.exit_code


def as_audit_error(error: BaseException) -> AuditError:
    """Return the error that a user can act on, for whatever ended the command."""
    if isinstance(error, AuditError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted. The same command continues where this one stopped.")
    if _out_of_memory(error):
        return ResourceError(
            "There is not enough memory. Close other programs, use a smaller --batch-size (1 is "
            "the least) or --spectrum none; the same command then continues."
        )
    if isinstance(error, OSError) and error.errno in _WRITING:
        from m2g_audit.errors import OutputError

        where = f" {error.filename}" if error.filename else ""
        return OutputError(
            f"Can't write{where}: {error.strerror}. Free space or choose another folder with --out "
            "DIR; what is finished is kept, and the same command continues."
        )
    return AuditError(
        f"{type(error).__name__}: {error}. This is a fault of the program; M2G_DEBUG=1 shows where "
        "it is. What is finished is kept, and the same command continues."
    )


_WRITING = frozenset(
    {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.EIO, errno.EFBIG}
)


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; recognised by name, so that torch need not be imported for it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error)
    return isinstance(error, (RuntimeError, OSError)) and (
        "out of memory" in said or "an't allocate memory" in said
    )
