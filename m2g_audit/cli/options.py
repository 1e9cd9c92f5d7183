"""Options that mean the same in every verb."""

import sys
from typing import Annotated, Literal

import typer

Format = Annotated[
    Literal["text", "json"],
    typer.Option("--format", help="text for people, json for programs (alone on stdout)."),
]


def print_json(content: str) -> None:
    """Write JSON to stdout as UTF-8, whatever the terminal's own encoding is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content.encode() if content.endswith("\n") else f"{content}\n".encode())
    sys.stdout.buffer.flush()
