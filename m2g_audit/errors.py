"""Errors that a user can act on: what happened, why, and what to do."""

import errno


class AuditError(Exception):
    """An error whose message is shown to the user as it is; `exit_code` ends the process."""

    exit_code = 1


class UsageError(AuditError):
    """An argument or option that cannot be used as given."""

    exit_code = 2


class ModelError(AuditError):
    """A model or metric whose weights are missing, broken, refused or of the wrong kind."""

    exit_code = 3


class ReferenceFolderError(AuditError):
    """A reference folder that is missing, empty or unreadable."""

    exit_code = 4


class NumericsError(AuditError):
    """Non-finite or non-deterministic output where a number was needed."""

    exit_code = 5


class ResourceError(AuditError):
    """Not enough memory, disk or time allowance for what was asked."""

    exit_code = 6


class OutputError(AuditError):
    """An output folder that cannot be written, or that belongs to another run."""

    exit_code = 7


class Interrupted(AuditError):
    """The user's Ctrl-C; the message says how to go on."""

    exit_code = 130


_WRITING = frozenset(
    {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.EIO, errno.EFBIG}
)


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
        where = f" {error.filename}" if error.filename else ""
        return OutputError(
            f"Can't write{where}: {error.strerror}. Free space or choose another folder with --out "
            "DIR; what is finished is kept, and the same command continues."
        )
    return AuditError(
        f"{type(error).__name__}: {error}. This is a fault of the program; M2G_DEBUG=1 shows where "
        "it is. What is finished is kept, and the same command continues."
    )


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; recognised by name, so that torch need not be imported for it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error)
    return isinstance(error, (RuntimeError, OSError)) and (
        "out of memory" in said or "an't allocate memory" in said
    )
