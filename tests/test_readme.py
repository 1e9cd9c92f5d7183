"""The pages: every command shown parses, the cheap ones run, every link leads somewhere."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import click
import pytest
import typer

from m2g_audit.cli import app, main
from tests.support.made_run import RELEASE, make_run

_TOP = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(_TOP).as_posix()
    for folder in (".", "docs", "examples")
    for path in (_TOP / folder).glob("*.md")
)
# Its cells show files; tests/prompts/test_kinds.py runs what it says of them.
_MADE_OF_FILES = "docs/prompt-lists.md"
_BLOCK = re.compile(r"^ *```[\s\S]*?^ *```$|(?:^(?: {4}|\t)[^\n]*\n|^\n(?= {4}|\t))+", re.MULTILINE)
_FENCE = re.compile(r"^ *```.*$", re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_COMMAND = re.compile(r"(?:^|(?<=[\s/]))m2g-audit (?=[a-z-])")
_OTHERS = {"--durations", "--force-exclude"}
"""Options of other programs that pages name."""


@dataclass(frozen=True)
class Shown:
    """A command of a page, its words after `m2g-audit`; whole: in a block, to be typed."""

    page: str
    words: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}: m2g-audit {shlex.join(self.words)}"


def blocks(page: str) -> list[str]:
    """The blocks of a page's code, without the indent that makes them blocks."""
    found = _BLOCK.findall((_TOP / page).read_text())
    return [textwrap.dedent(_FENCE.sub("", block)).strip() for block in found]


def spans(page: str) -> list[str]:
    """What a page shows as code within its sentences."""
    return _SPAN.findall(_BLOCK.sub("", (_TOP / page).read_text()))


def commands(page: str) -> Iterator[Shown]:
    for line in "\n".join(blocks(page)).splitlines():
        for tail in _COMMAND.split(line)[1:]:
            yield Shown(page, tuple(_words(tail)), whole=True)
    for span in spans(page):
        for tail in _COMMAND.split(span)[1:]:
            yield Shown(page, tuple(_words(tail)), whole=False)


def _words(tail: str) -> list[str]:
    lexer = shlex.shlex(tail, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words = list(lexer)  # without the comment at the end
    end = next((i for i, word in enumerate(words) if set(word) <= set("|&;")), len(words))
    return words[:end]


ALL = [shown for page in PAGES for shown in commands(page)]


def leaf(words: tuple[str, ...]) -> tuple[click.Command, list[str]]:
    """The command that words name, and the words that are its own."""
    command: click.Command = typer.main.get_command(app)  # type: ignore[assignment]
    rest = list(words)
    while rest and not rest[0].startswith("-") and hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    return command, rest


def options(command: click.Command) -> set[str]:
    """The names of a command's options, --help among them."""
    named = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    return named | {"--help", "-h"}


def every_option(command: click.Command) -> set[str]:
    inner = getattr(command, "commands", {}).values()
    return options(command).union(*map(every_option, inner))


def test_blocks_end_where_the_text_goes_on() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert "](" not in block, block
    assert len(blocks("README.md")) > 4


def test_pages_show_commands() -> None:
    assert sum(shown.whole for shown in ALL) > 25
    assert {shown.page for shown in ALL} >= {"README.md", "docs/batches.md", "docs/lab.md"}


@pytest.mark.parametrize("shown", ALL, ids=str)
def test_every_command_shown_parses(shown: Shown) -> None:
    command, rest = leaf(shown.words)
    assert {word for word in rest if word.startswith("--")} <= options(command)
    if shown.whole and not {"--help", "--version"} & set(rest):
        command.make_context("m2g-audit", rest)  # checks values and raises what usage forbids


@pytest.mark.parametrize("page", [page for page in PAGES if page != _MADE_OF_FILES])
def test_every_option_named_is_one(page: str) -> None:
    named = {span.split()[0].split("=")[0] for span in spans(page) if span.startswith("--")}
    assert named <= every_option(typer.main.get_command(app)) | _OTHERS  # type: ignore[arg-type]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", _BLOCK.sub("", (_TOP / page).read_text()))
    there = {link for link in links if ((_TOP / page).parent / link).exists()}
    assert {link for link in links if "://" not in link} == there


def test_the_rooms_are_listed_with_their_sentences() -> None:
    rooms = [*_TOP.glob("m2g_audit/*/__init__.py"), *_TOP.glob("small_scale/*/__init__.py")]
    assert len(rooms) > 15
    page = (_TOP / "CONTRIBUTING.md").read_text()
    for room in rooms:
        sentence = str(ast.get_docstring(ast.parse(room.read_text()))).splitlines()[0]
        assert f"| `{room.parent.relative_to(_TOP)}/` | {sentence} |" in page


# Only what stands in the source counts: a name that moved is found out.
_NAME = re.compile(r"`((?:[a-z_]+\.)+[A-Za-z_]+)`")


def test_the_walk_of_a_prompt_is_the_code_s() -> None:
    page = (_TOP / "CONTRIBUTING.md").read_text()
    names = [name for name in _NAME.findall(page) if not name.endswith((".py", ".toml"))]
    assert len(names) > 12
    for name in names:
        module, _, attribute = name.rpartition(".")
        with contextlib.suppress(ModuleNotFoundError):  # a class and its method
            assert hasattr(import_module(f"m2g_audit.{module}"), attribute), name
            continue
        module, _, kind = module.rpartition(".")
        assert hasattr(getattr(import_module(f"m2g_audit.{module}"), kind), attribute), name


# -- what is cheap is run as it stands

# Of one training picture each: their spectra take the fewest evaluations.
CAPTIONS = (
    "a print of the old harbour",
    "a photograph of the stormy harbour",
    "a painting of the quiet lighthouse",
    "a sketch of the old lighthouse",
    "a painting of the quiet village",
    "a print of the old castle",
)


def cheap(shown: Shown) -> bool:
    """Whether a command reads what is there, or audits the model that ships with the program."""
    verb = shown.words[0]
    if not shown.whole or "--help" in shown.words:
        return False
    if verb in ("prompt", "batch"):
        return "pocket" in shown.words
    reading = ("doctor", "schema", "show", "report", "compare")
    return verb in reading or shown.words == ("pocket", "prompts")


def programs(page: str) -> list[str]:
    """The blocks of a page that are Python and need no model but pocket."""
    return [block for block in blocks(page) if block.startswith("from m2g_audit import")]


CHEAP = [page for page in PAGES if programs(page) or any(map(cheap, commands(page)))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages' commands name: lists, and two releases that were audited."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))
    Path("captions.txt").write_text("\n".join(CAPTIONS))
    Path("prompts.csv").write_text("\n".join(["caption", *CAPTIONS[:2]]))
    for name in ("release-2", "release-3"):
        make_run(tmp_path / "runs" / name, RELEASE[:2])
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", CHEAP)
def test_what_a_page_shows_runs(
    page: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for shown in filter(cheap, commands(page)):
        stdin = io.TextIOWrapper(io.BytesIO((folder / "captions.txt").read_bytes()))
        monkeypatch.setattr(sys, "stdin", stdin)
        words = (CAPTIONS[0] if word == "..." else word for word in shown.words)
        monkeypatch.setattr(sys, "argv", ["m2g-audit", *words])
        with pytest.raises(SystemExit) as exit_:
            main()
        findings = "--fail-on" in shown.words
        out, err = capfd.readouterr()
        assert exit_.value.code in ((0, 1) if findings else (0, None)), f"{shown}\n{out}{err}"
    for block in programs(page):
        exec(compile(block, page, "exec"), {})
        assert capfd.readouterr().out
