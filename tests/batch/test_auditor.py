"""A batch in Python: records as they come, the same folder as the command's, shown with rich."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import m2g_audit
from m2g_audit import Auditor
from m2g_audit.errors import UsageError
from tests.support.batch_work import ManyPrompts, run_batch

PROMPTS = ["new dog", "same kite", "half cat"]
OPTIONS = {"model": "fake", "seeds": 7, "spectrum": "none"}


@pytest.fixture(autouse=True)
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ManyPrompts:
    fake = ManyPrompts()
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("m2g_audit.audits.setup.load_model", lambda *_, **__: fake)
    monkeypatch.chdir(tmp_path)
    return fake


def shown(auditor: Auditor) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(auditor)
    return console.export_text()


def test_records_come_as_they_are_finished_and_only_once(pipeline: ManyPrompts) -> None:
    auditor = Auditor(PROMPTS, out="run", **OPTIONS)
    assert len(auditor) == 3
    states = {record.prompt: record.verdict.state for record in auditor}
    assert list(states) == PROMPTS
    assert states["same kite"] == "attractor"
    made = len(pipeline.batches)
    assert [record.prompt for record in Auditor(PROMPTS, out="run", **OPTIONS)] == PROMPTS
    assert len(pipeline.batches) == made
    assert Path("run/results.parquet").exists()


def test_it_is_the_same_folder_as_the_batch(tmp_path: Path) -> None:
    records = run_batch(tmp_path / "run", PROMPTS)
    options = {**OPTIONS, "spectrum_of": "all"}
    assert list(Auditor(PROMPTS, out=tmp_path / "run", **options).records()) == records


def test_an_iteration_that_ends_early_goes_on_later(pipeline: ManyPrompts) -> None:
    for record in Auditor(PROMPTS, out="run", **OPTIONS):
        assert record.prompt == "new dog"
        break
    assert [r.prompt for r in Auditor(PROMPTS, out="run", **OPTIONS)] == PROMPTS


def test_what_it_came_to(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("caption;id\nsame kite;1\nbroken dog;2\n")
    auditor = Auditor("list.csv", **OPTIONS)
    summary = auditor.run()
    assert (summary.done, summary.failed) == (1, 1)
    assert auditor.gate("memorized").exit_code == 1
    assert auditor.directory.path.parent == Path("runs")
    assert auditor.directory.path.name.startswith("list-")


def test_it_shows_itself_without_loading_a_model() -> None:
    auditor = Auditor(["same [red]kite[/red] \x1b[31m", "new dog"], out="run", **OPTIONS)
    assert "2 prompts" in shown(auditor)
    assert not Path("run").exists()
    auditor.run()
    text = shown(auditor)
    assert "same [red]kite[/red] �[31m" in text
    assert "attractor" in text
    bundle = auditor._repr_mimebundle_([], [])
    assert {"text/plain", "text/html"} <= bundle.keys()
    assert "<script" not in bundle["text/html"]


def test_options_that_are_none() -> None:
    with pytest.raises(UsageError, match="colour"):
        Auditor(PROMPTS, colour="red")
    with pytest.raises(UsageError, match="Give at least 2"):
        Auditor(PROMPTS, seeds=1)
    with pytest.raises(UsageError, match="No such file"):
        Auditor("nowhere.csv")


def test_the_package_itself_is_light() -> None:
    code = "import sys, m2g_audit; print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    with pytest.raises(AttributeError, match="Nothing"):
        m2g_audit.__getattr__("Nothing")
