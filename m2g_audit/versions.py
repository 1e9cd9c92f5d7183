"""What software made a record."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "m2g-audit",
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "scipy",
    "safetensors",
    "pillow",
)


_CHECKOUT = Path(__file__).parents[1]


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a number can depend on.

    `commit` is there where the program runs from its own git checkout; see `checkout_commit`.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout without being installed
            continue
    commit = checkout_commit(_CHECKOUT)
    return found | ({"commit": commit} if commit else {})


def own_version() -> str:
    """Return the program's version as it was installed, and its checkout's commit if it has one."""
    try:
        installed = version("m2g-audit")
    except PackageNotFoundError:
        installed = "not installed"
    commit = checkout_commit(_CHECKOUT)
    return f"{installed} (commit {commit})" if commit else installed


@cache  # what is running is what was there when it was loaded
def checkout_commit(checkout: Path) -> str | None:
    """Return the commit of a git checkout, ending in `-dirty` where tracked files were changed.

    None where the folder is no checkout's top, or git is missing or refuses.
    """
    if not (checkout / ".git").exists():  # installed; a repository further up is somebody else's
        return None
    # A hook's variables name the repository that it runs for.
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"],
            cwd=checkout,
            env=environment | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
