"""What a command imports, and that it speaks before it imports what takes seconds.

Modules are asked for, not seconds: the first are the same on every machine.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from m2g_audit.audits.run_tensors import save_generation
from m2g_audit.store.run_directory import RunDirectory
from tests.support.fakes import picture
from tests.support.fresh_process import run_code
from tests.support.made_run import make_run
from tests.support.samples import sample_record

# Whatever takes longer than a person waits for a word. pydantic's tenth of a second does not.
SLOW = {"torch", "numpy", "scipy", "matplotlib", "pyarrow", "pandas", "diffusers", "transformers"}

COMMAND = """
import sys
from m2g_audit.cli import main
sys.argv = ["m2g-audit", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
print("imported:", *sorted(name for name in sys.modules if name.count(".") < 2), file=sys.stderr)
"""

# The first slow import ends the process: what was said until then is what a person sees at once.
UNTIL_SLOW = f"""
import sys
class First:
    def find_spec(self, name, path=None, target=None):
        if name in {SLOW!r}:
            sys.stderr.write("first: " + name)
            sys.stderr.flush()
            import os
            os._exit(0)
sys.meta_path.insert(0, First())
{COMMAND}
"""


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    last = done.stderr.splitlines()[-1]
    assert last.startswith("imported: "), done.stderr
    return set(last.split())


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """The finished run of one prompt."""
    run = RunDirectory.open(tmp_path / "run", {"prompt": "a"})
    record = sample_record()
    for seed in record.seeds:
        save_generation(run, seed.index, picture(seed.index), picture(seed.index))
    run.save_record(record)
    return run.path


@pytest.mark.parametrize(
    "arguments",
    [
        ["prompt", "a print of the old harbour", "--model", "pocket"],
        ["batch", "prompts.txt", "--model", "pocket"],
        ["doctor", "pocket"],
        ["calibrate", "somewhere"],
        ["toy"],
        ["pocket", "train", "--out", "pocket"],
        ["pocket", "measure", "pocket"],
    ],
    ids=" ".join,
)
def test_the_first_word_comes_before_anything_slow(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a print of the old harbour\n")
    said = run_code(UNTIL_SLOW, *arguments).stderr
    assert said.startswith("loading libraries\nfirst: "), said


@pytest.mark.parametrize("form", [[], ["--format", "json"]], ids=["text", "json"])
def test_a_finished_run_is_shown_without_anything_slow(one: Path, form: list[str]) -> None:
    done = run_code(COMMAND, "show", str(one), *form)
    assert "UNDECIDED" in done.stdout.upper()
    assert not imported(done) & SLOW


def test_a_batch_is_shown_without_anything_slow(tmp_path: Path) -> None:
    make_run(tmp_path / "batch")
    done = run_code(COMMAND, "show", str(tmp_path / "batch"))
    assert "memorized" in done.stdout
    assert not imported(done) & SLOW


def test_a_report_imports_what_draws_it_and_no_more(one: Path) -> None:
    done = run_code(COMMAND, "report", str(one))
    assert (one / "report.html").exists()
    found = imported(done)
    assert "matplotlib" in found
    assert not found & {"torch", "scipy.stats", "pandas", "pyarrow", "diffusers", "transformers"}


def test_pockets_captions_need_no_torch() -> None:
    done = run_code(COMMAND, "pocket", "prompts", "--format", "json")
    assert "old harbour" in done.stdout
    assert not imported(done) & {"torch", "scipy", "diffusers", "transformers"}
