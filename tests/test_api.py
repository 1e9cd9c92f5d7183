"""The public face: what a notebook would do, on a model whose pictures a test chooses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import m2g_audit
from m2g_audit import api
from m2g_audit.diagnostics.exact_spectrum import exact_jacobian
from m2g_audit.errors import OutputError, UsageError
from tests.support import tiny
from tests.support.fakes import LATENT, FakePipeline, OneMemory, picture
from tests.support.made_run import make_run

PROMPT = "a print of the old harbour"
SAMPLING = {"steps": 2, "guidance": 2.0, "spectrum": "none"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> m2g_audit.Run:
    fake = FakePipeline(PROMPT, [1] * 15 + [2])
    monkeypatch.setattr("m2g_audit.audits.setup.load_model", lambda *_, **__: fake)
    return m2g_audit.audit(PROMPT, model="fake", seeds=16)


def test_all_names_are_there_and_nothing_is_loaded_for_them() -> None:
    code = "import sys, m2g_audit; dir(m2g_audit); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
    for name in m2g_audit.__all__:
        assert getattr(m2g_audit, name).__doc__, name
        assert name in dir(m2g_audit)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        m2g_audit.nothing  # noqa: B018


def test_one_prompt_is_a_run_with_a_record(run: m2g_audit.Run) -> None:
    record = run.record
    assert (len(run), record.prompt) == (1, PROMPT)
    assert record.verdict.state == "attractor"
    assert run.path.parent == Path("runs")
    assert repr(record) == f"RunRecord({record.verdict.state}, {PROMPT!r})"
    assert len(repr(run).splitlines()) == 1


def test_what_lies_in_files_is_read(run: m2g_audit.Run) -> None:
    record = run.record
    levels = np.array(record.pictures()[0])
    assert np.array_equal(levels, (picture(1) * 255).byte().permute(1, 2, 0).numpy())
    assert record.distances().shape == (16, 16)
    assert record.distances()[0, 1] == 0 < record.distances()[0, 15]
    spectra = record.spectra()
    assert set(spectra) == {entry.image for entry in record.curvature}
    assert all(len(values) == 64 for values in spectra.values())


def test_a_data_frame_has_a_row_per_record(tmp_path: Path, run: m2g_audit.Run) -> None:
    one = run.to_dataframe()
    assert list(one["prompt"]) == [PROMPT]
    make_run(tmp_path / "many")
    many = m2g_audit.open_run(tmp_path / "many")
    frame = many.to_dataframe()
    assert len(frame) == len(many.records())
    assert list(frame.columns[: len(one.columns)]) == list(one.columns)
    with pytest.raises(UsageError, match=r"take one of run\.records"):
        _ = many.record
    assert many.summary().prompts == len(many)
    with pytest.raises(UsageError, match="is of one prompt"):
        run.summary()


def test_a_notebook_shows_records_whose_markup_is_inert(run: m2g_audit.Run) -> None:
    page = run.record._repr_html_()
    assert PROMPT in page
    assert "data:image/" in page
    assert run.record.verdict.summary.split()[0] in page
    evil = run.record.model_copy(update={"prompt": "<script>alert(1)</script>"})
    evil._folder = run.path
    assert "<script>" not in evil._repr_html_()
    assert "<table>" in run._repr_html_()


def test_what_is_done_is_not_done_again(
    run: m2g_audit.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = FakePipeline(PROMPT, [1] * 15 + [2], stop_after=0)
    monkeypatch.setattr("m2g_audit.audits.setup.load_model", lambda *_, **__: again)
    same = m2g_audit.audit(PROMPT, model="fake", seeds=16)
    assert same.path == run.path
    assert again.made == []


def test_many_prompts_and_a_pipeline_in_memory() -> None:
    pipe = tiny.text_to_image()
    run = m2g_audit.audit(["a harbour", "a kite"], model=pipe, seeds=2, out="many", **SAMPLING)
    assert [record.prompt for record in run] == ["a harbour", "a kite"]
    assert run.records()[0].model.id.endswith("(in memory)")
    alone = m2g_audit.audit("a kite", model=pipe, seeds=2, **SAMPLING)
    for ours, theirs in zip(run.records()[1].pictures(), alone.record.pictures(), strict=True):
        assert np.abs(np.array(ours, dtype=int) - np.array(theirs, dtype=int)).max() <= 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: m2g_audit.audit("x", sedes=3), "did you mean 'seeds'"),
        (lambda: m2g_audit.audit(" "), "The prompt is empty"),
        (lambda: m2g_audit.audit([]), "prompts"),
        (lambda: m2g_audit.Auditor(["x"], modle="pocket"), "did you mean 'model'"),
        (lambda: m2g_audit.find_attractors(torch.zeros(1, 3, 8, 8)), "at least 2"),
    ],
    ids=["audit", "empty", "no prompts", "auditor", "one picture"],
)
def test_wrong_use_is_said(call, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        call()


def test_no_run_is_said(tmp_path: Path) -> None:
    for call in (m2g_audit.open_run, m2g_audit.report):
        with pytest.raises(OutputError, match="no folder"):
            call(tmp_path / "nowhere")


def test_attractors_of_pictures() -> None:
    pictures = torch.stack([picture(n) for n in (1, 2, 1, 3)])
    [attractor] = m2g_audit.find_attractors(pictures, metric="l2", delta_s=0.01).attractors
    assert attractor.members == (0, 2)
    assert m2g_audit.find_attractors(pictures, metric="tiled_l2").attractors


def test_the_spectrum_of_a_single_memory() -> None:
    model, at = OneMemory("conditional"), torch.zeros(LATENT)
    for algorithm in ("fast", "exact-jacobian"):
        found = m2g_audit.spectrum(model, at, t0=2, algorithm=algorithm)
        assert np.allclose(found.singular_values, 1, atol=1e-4)
    exact = exact_jacobian(model, at, 2, seed=0)
    assert np.allclose(found.singular_values, exact.singular_values)


def test_runs_are_compared_and_reported(tmp_path: Path) -> None:
    for name in ("before", "after"):
        make_run(tmp_path / name)
    assert all(c.direction == "same" for c in api.compare("before", "after").changes)
    page = m2g_audit.report(m2g_audit.open_run("before"), "page.html")
    assert page.path.read_text(encoding="utf-8").startswith("<!doctype html>")
