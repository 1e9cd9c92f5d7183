"""Options that several verbs have: those of an audit, from where they are declared, and others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from m2g_audit.audits.options import FLAGS, AuditOptions, flag_of
from m2g_audit.cli.config import Config
from m2g_audit.records.vocabulary import FailOn

Format = Annotated[
    Literal["text", "json"],
    typer.Option("--format", help="text for people, json for programs (alone on stdout)."),
]

OUTPUT = "Output"
_GATE = "Gate"
GateAt = Annotated[
    FailOn | None,
    typer.Option(
        "--fail-on",
        metavar="<verdict>",
        help="End with exit code 1 if a prompt is found this bad or worse: undecided, "
        "spurious, attractor or memorized. Repeats that can't be told from copies count as "
        "copies; undecided counts by the upper end of its interval.",
        rich_help_panel=_GATE,
    ),
]
Junit = Annotated[
    Path | None,
    typer.Option(
        help="Write a JUnit XML file, in which findings at --fail-on are failures.",
        rich_help_panel=_GATE,
    ),
]
Annotate = Annotated[
    bool,
    typer.Option(
        "--annotate",
        help="Print findings and failed prompts as workflow commands too, which GitHub and its "
        "like show beside a change.",
        rich_help_panel=_GATE,
    ),
]
Yes = Annotated[
    bool,
    typer.Option(
        "--yes",
        "-y",
        help="Start without asking, however long it takes.",
        rich_help_panel=OUTPUT,
    ),
]


def with_audit_options(
    *, without: Collection[str] = (), defaults: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the flags of AuditOptions and --config; it gets them as its argument `options`.

    Typer reads the signature that is made here. The flags stand where `options` does.

    Args:
        without: Options that the verb decides itself.
        defaults: Of options that are others than an audit's.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        return _decorated(verb, [name for name in FLAGS if name not in without], defaults or {})

    return decorate


def _decorated(
    verb: Callable[..., None], names: Sequence[str], defaults: Mapping[str, Any]
) -> Callable[..., None]:
    hints = get_type_hints(verb, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in signature(verb).parameters.values()]
    place = next(i for i, parameter in enumerate(own) if parameter.name == "options")
    flags = [_parameter(name, defaults.get(name, _DEFAULTS[name])) for name in names]
    config = Parameter("config", Parameter.KEYWORD_ONLY, default=None, annotation=Config)
    whole = [*own[:place], *flags, config, *own[place + 1 :]]

    @wraps(verb)
    def command(**arguments: Any) -> None:
        del arguments["config"]  # taken in while flags were parsed
        values = {name: arguments.pop(name) for name in names}
        verb(**arguments, options=values)

    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in whole]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


_DEFAULTS = {field.name: field.default for field in fields(AuditOptions)}
_KINDS = get_type_hints(AuditOptions)


def _parameter(name: str, default: Any) -> Parameter:
    """One option of an audit as a parameter that Typer makes a flag of."""
    flag, kind = FLAGS[name], _KINDS[name]
    names = flag.names
    if kind is bool:
        names = names or (flag_of(name),)  # a switch, without a --no- beside it
    option = typer.Option(*names, help=flag.help, metavar=flag.metavar, rich_help_panel=flag.panel)
    if get_origin(kind) is tuple:
        kind, default = list[get_args(kind)[0]], []  # type: ignore[misc]  # which Typer repeats
    elif _takes_words_and_numbers(kind):
        kind, default = str, str(default)
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _takes_words_and_numbers(kind: Any) -> bool:
    """Whether an option takes a number or a word, which is text to the parser of flags."""
    parts = [part for part in get_args(kind) if part is not type(None)]
    return get_origin(kind) is not Literal and len(parts) > 1


def print_json(content: str) -> None:
    """Write JSON to stdout as UTF-8, whatever the terminal's own encoding is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content.encode() if content.endswith("\n") else f"{content}\n".encode())
    sys.stdout.buffer.flush()
