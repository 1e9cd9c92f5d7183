"""The program's own version, and the commit that records keep."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from m2g_audit import versions
from m2g_audit.cli import app
from m2g_audit.versions import checkout_commit

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path) -> Git:
    """A checkout of one commit in `tmp_path/checkout`; returns git in it."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()

    def call(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        done = subprocess.run(
            ["git", *who, *arguments], cwd=checkout, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    call("init")
    (checkout / "module.py").write_text("x = 1\n")
    call("add", "module.py")
    call("commit", "-m", "first")
    checkout_commit.cache_clear()
    return call


def test_a_clean_checkout_is_its_commit(git: Git, tmp_path: Path) -> None:
    (tmp_path / "checkout" / "notes.txt").write_text("not tracked")
    assert checkout_commit(tmp_path / "checkout") == git("rev-parse", "HEAD")


def test_a_tag_is_no_commit(git: Git, tmp_path: Path) -> None:
    git("tag", "-a", "v1", "-m", "first")
    assert checkout_commit(tmp_path / "checkout") == git("rev-parse", "HEAD")


def test_changed_files_mark_the_commit(git: Git, tmp_path: Path) -> None:
    (tmp_path / "checkout" / "module.py").write_text("x = 2\n")
    assert checkout_commit(tmp_path / "checkout") == git("rev-parse", "HEAD") + "-dirty"


def test_a_worktree_is_a_checkout(git: Git, tmp_path: Path) -> None:
    git("worktree", "add", "--detach", str(tmp_path / "worktree"))
    assert checkout_commit(tmp_path / "worktree") == git("rev-parse", "HEAD")


def test_a_folder_in_a_repository_of_others_has_no_commit(git: Git, tmp_path: Path) -> None:
    installed = tmp_path / "checkout" / "site-packages"
    installed.mkdir()
    assert checkout_commit(installed) is None


def test_a_hook_of_another_repository_does_not_lead_astray(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git("rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert checkout_commit(tmp_path / "checkout") == head


def test_without_git_no_commit_is_claimed(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checkout_commit(tmp_path / "checkout") is None


def test_version_names_the_installation_and_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "checkout_commit", lambda _: "c" * 40 + "-dirty")
    shown = CliRunner().invoke(app, ["--version"])
    assert shown.exit_code == 0
    assert re.fullmatch(rf"m2g-audit \S.* \(commit {'c' * 40}-dirty\)\n", shown.output)


def test_an_installed_version_has_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "checkout_commit", lambda _: None)
    monkeypatch.setattr(versions, "version", lambda _: "1.2.3")
    assert CliRunner().invoke(app, ["--version"]).output == "m2g-audit 1.2.3\n"
