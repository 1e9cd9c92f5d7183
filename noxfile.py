"""The project's chores: `nox -s check`, `test`, `test-fast`, `docs`, `wheel`, `floors`.

All but `wheel` and `floors` run in the environment that nox is installed in, the one of README's
*Tests*.
"""

import sys
import tomllib
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["check", "test"]

_TOOLS = Path(sys.executable).parent
_DOCS = (
    "tests/test_readme.py",
    "tests/pictures/test_kinds.py",
    "tests/prompts/test_kinds.py",
)


def _tool(session: nox.Session, name: str, *arguments: str) -> None:
    session.run(str(_TOOLS / name), *arguments, external=True)


@nox.session
def check(session: nox.Session) -> None:
    """Format, lint, types and which room imports which."""
    _tool(session, "ruff", "format", "--check", ".")
    _tool(session, "ruff", "check", ".")
    _tool(session, "mypy")
    _tool(session, "lint-imports")


@nox.session
def test(session: nox.Session) -> None:
    """All tests, or what is named after `--`."""
    _tool(session, "pytest", "-n", "2", *session.posargs)


@nox.session(name="test-fast")
def test_fast(session: nox.Session) -> None:
    """All tests but those marked slow."""
    _tool(session, "pytest", "-n", "2", "-m", "not slow", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The tests that run what the pages show, or write pages themselves."""
    _tool(session, "pytest", *_DOCS)


@nox.session(venv_backend="venv", reuse_venv=False)
def wheel(session: nox.Session) -> None:
    """The wheel alone, without extras in a fresh environment, audits a prompt."""
    folder = Path(session.create_tmp()).resolve()
    for old in folder.glob("*.whl"):
        old.unlink()
    session.run("python", "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), ".")
    [built] = folder.glob("*.whl")
    session.install("-c", "constraints.txt", str(built))
    session.run("python", "-m", "pip", "check")
    python = str(Path(session.bin) / "python")
    with session.chdir(folder):  # where the checkout's packages are not imported
        session.run("m2g-audit", "--version")
        prompt = ("prompt", "a print of the old harbour", "--seeds", "4", "--model", "pocket")
        session.run("m2g-audit", *prompt, "--out", str(folder / "audit"))
        session.run("m2g-audit", "report", str(folder / "audit"))
        # What uses either package is checked by mypy: py.typed is there.
        mypy = ("--config-file=", "--follow-imports=skip", "--python-executable", python)
        _tool(session, "mypy", *mypy, "-c", "import m2g_audit.errors, small_scale.sizes")


@nox.session(venv_backend="venv", reuse_venv=False)
def floors(session: nox.Session) -> None:
    """The fast tests with the lowest versions that pyproject.toml allows, or what is after `--`."""
    folder = Path(session.create_tmp()).resolve()
    lowest = folder / "floors.txt"
    lowest.write_text("".join(f"{line}\n" for line in _floors()))
    session.install("-c", str(lowest), "-e", ".[dev]")
    session.run("python", "-m", "pip", "check")
    session.run("python", "-m", "pytest", "-n", "2", "-m", "not slow", *session.posargs)


def _floors() -> list[str]:
    """The lower bound of each dependency, as constraints of pip; of tools the newest will do."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["formats"]]
    return [requirement.replace(">=", "==") for requirement in named]
