"""`m2g-audit show`: finished runs, printed without anything heavy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.fresh_process import THE_COMMAND, run_code
from tests.support.made_run import RELEASE, make_run


def shown(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_code(THE_COMMAND, "show", *arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "release"
    make_run(path)
    return path


def test_a_batch_shows_what_it_came_to(folder: Path) -> None:
    done = shown(str(folder))
    assert done.returncode == 0
    assert "Prompts by verdict" in done.stdout
    assert done.stderr.strip() == "False", "torch was loaded"


def test_a_prompt_of_a_batch_shows_its_record(folder: Path) -> None:
    done = shown(str(folder), "--prompt", "1", "--format", "json")
    assert json.loads(done.stdout)["prompt"] == RELEASE[0].prompt
    assert "MEMORIZED" in shown(str(folder), "--prompt", "1").stdout
    assert "has no record of prompt 99" in shown(str(folder), "--prompt", "99").stderr


def test_the_summary_is_json_for_programs(folder: Path) -> None:
    assert json.loads(shown(str(folder), "--format", "json").stdout)["prompts"] == len(RELEASE)
