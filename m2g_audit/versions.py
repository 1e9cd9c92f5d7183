"""What software made a record."""

import platform
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


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a number can depend on.

    `commit` is there where the program runs from its own git checkout.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout without being installed
            continue
    commit = _commit(Path(__file__).parents[1])
    return found | ({"commit": commit} if commit else {})


def _commit(checkout: Path) -> str | None:
    """The commit of a checkout, read without git, which may not be there."""
    git = checkout / ".git"
    try:
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = (git / "packed-refs").read_text().splitlines()
    except OSError:
        return None
    return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
