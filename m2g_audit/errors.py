"""Errors that a user can act on: what happened, why, and what to do."""


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
