"""`--config FILE`: options of a verb from TOML, which its flags go before."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from m2g_audit.errors import UsageError

TABLE = "m2g-audit"


def _take_in(context: typer.Context, file: Path | None) -> Path | None:
    """Make what a file says the defaults of the command whose flags are being parsed."""
    if file is not None:
        context.default_map = {**(context.default_map or {}), **_defaults(context, file)}
    return file


Config = Annotated[
    Path | None,
    typer.Option(
        help="A TOML file of options, or a pyproject.toml with a [tool.m2g-audit]; flags go "
        "before it.",
        is_eager=True,  # before the flags whose defaults it sets
        callback=_take_in,
        rich_help_panel="Output",
    ),
]


def read_config(file: Path) -> dict[str, Any]:
    """Return what a TOML file says: all of it, or its table [tool.m2g-audit].

    Raises:
        UsageError: It can't be read, or is no TOML.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {file} can't be read: {error.strerror or error}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--config {file} is not TOML: {error}.") from error
    if "tool" in content:
        tools = content["tool"]
        own = tools.get(TABLE) if isinstance(tools, dict) else None
        if not isinstance(own, dict):
            raise UsageError(f"--config {file} has no table [tool.{TABLE}].")
        return own
    return content


def _defaults(context: typer.Context, file: Path) -> dict[str, Any]:
    """The values of a file by the names of this command's parameters.

    A key is an option of any verb that takes a config, so that one file serves all of them.
    """
    here = dict(_names(context.command))
    verbs = getattr(getattr(context.parent, "command", None), "commands", {})
    elsewhere = {
        name
        for verb in verbs.values()
        if "config" in dict(_names(verb))
        for name, _ in _names(verb)
    }
    found = {}
    for key, value in read_config(file).items():
        name = key.replace("-", "_")
        if name in here:
            found[here[name]] = _checked(file, key, value)
        elif name not in elsewhere:
            from m2g_audit.audits.options import nearest

            known = sorted({*here, *elsewhere})
            raise UsageError(f"--config {file}: there is no option {key!r}{nearest(key, known)}")
    return found


def _names(command: Any) -> Iterator[tuple[str, str]]:
    """Every name of a command's options, with that of its parameter."""
    for parameter in getattr(command, "params", ()):
        if parameter.param_type_name != "option":
            continue
        yield parameter.name, parameter.name
        for flag in (*parameter.opts, *parameter.secondary_opts):
            if flag.startswith("--") and not flag.startswith("--no-"):
                yield flag[2:].replace("-", "_"), parameter.name


def _checked(file: Path, key: str, value: object) -> object:
    if isinstance(value, Mapping | list):
        raise UsageError(f"--config {file}: {key} has to be one text, number or true or false.")
    return value
