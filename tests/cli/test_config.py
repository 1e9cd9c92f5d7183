"""`--config`: what a file says are defaults, flags go before, and nothing is passed over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

import m2g_audit
import small_scale
from m2g_audit.audits.options import FLAGS, OF_A_LIST, AuditOptions, flag_of
from m2g_audit.cli import app
from m2g_audit.errors import UsageError

GROUP = typer.main.get_command(app)


def parse(verb: str, *arguments: str) -> dict[str, object]:
    """Return the values that a verb would be called with."""
    command = GROUP.commands[verb]  # type: ignore[attr-defined]
    with GROUP.make_context("m2g-audit", [verb, *arguments]) as parent:
        return command.make_context(verb, list(arguments), parent=parent).params


@pytest.mark.parametrize("verb", ["prompt", "batch"])
@pytest.mark.parametrize("name", FLAGS)
def test_every_option_of_an_audit_is_a_flag_of_a_verb(verb: str, name: str) -> None:
    command = GROUP.commands[verb]  # type: ignore[attr-defined]
    [parameter] = [p for p in command.params if p.name == name]
    assert flag_of(name) in parameter.opts
    own = getattr(AuditOptions(), name)
    if verb == "batch":
        own = OF_A_LIST.get(name, own)
    assert str(parameter.default) == str(list(own) if isinstance(own, tuple) else own)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "audit.toml"
    path.write_text(
        'model = "pocket"\nseeds = "auto"\nreference-complete = true\nguidance = 2\n'
        'exact = true\nfail-on = "memorized"\nunseen = "held-out"\n'
    )
    return path


def test_a_file_sets_what_flags_do_not(config: Path) -> None:
    values = parse("prompt", "a harbour", "--config", str(config), "--guidance", "3")
    assert (values["model"], values["seeds"], values["guidance"]) == ("pocket", "auto", 3.0)
    assert values["reference_complete"] is True
    assert values["basin_exact"] is True
    assert values["unseen"] == Path("held-out")
    assert values["steps"] is None


def test_one_file_serves_both_verbs(config: Path) -> None:
    assert parse("batch", "list.csv", "--config", str(config))["fail_on"] == "memorized"
    assert "fail_on" not in parse("prompt", "x", "--config", str(config))


def test_a_pyproject_has_a_table(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text('[project]\nname = "x"\n[tool.m2g-audit]\nsteps = 7\n')
    assert parse("prompt", "x", "--config", str(path))["steps"] == 7
    path.write_text('[project]\nname = "x"\n[tool.other]\nsteps = 7\n')
    with pytest.raises(UsageError, match=r"has no table \[tool.m2g-audit\]"):
        parse("prompt", "x", "--config", str(path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("sedes = 3", r"no option 'sedes': did you mean 'seeds'\?"),
        ("seeds = ", "is not TOML"),
        ("[model]\nname = 3", "model has to be one text, number"),
        ("\xff", "is not TOML"),
    ],
)
def test_what_a_file_gets_wrong_is_said(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "audit.toml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=said):
        parse("prompt", "x", "--config", str(path))


def test_a_value_of_the_wrong_kind_names_its_flag(tmp_path: Path) -> None:
    path = tmp_path / "audit.toml"
    path.write_text('steps = "many"\n')
    with pytest.raises(typer.BadParameter) as refused:
        parse("prompt", "x", "--config", str(path))
    assert "'--steps'" in refused.value.format_message()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml can't be read"):
        parse("prompt", "x", "--config", str(tmp_path / "nowhere.toml"))


_OPTION = re.compile(r"(?<![\w-])--[a-z](?:[a-z0-9-]*[a-z0-9])?(?![\w-])")


def _flags() -> set[str]:
    found = {"--help", "--version"}
    groups = [GROUP]
    while groups:
        command = groups.pop()
        groups += getattr(command, "commands", {}).values()
        found |= {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)}
    return found


def test_every_option_in_a_message_exists() -> None:
    """What a message advises has to be an option; of other programs few are named."""
    of_others = {"--force-reinstall", "--no-deps"}  # pip's
    of_others |= {"--create-dirs", "--fail", "--location", "--output"}  # curl's
    of_others |= {"--local-dir"}  # hf download's
    # Options in prompt lists, which are other programs', and git's.
    others = {"read_options.py", "versions.py"}
    packages = (Path(package.__file__).parent for package in (m2g_audit, small_scale))
    for source in (
        p for package in packages for p in package.rglob("*.py") if p.name not in others
    ):
        named = set(_OPTION.findall(source.read_text(encoding="utf-8")))
        assert named <= _flags() | of_others, f"{source}: {named - _flags()}"
