"""Reports come from the run's folder alone, whatever the prompt, and miss no picture silently."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from m2g_audit.errors import OutputError
from m2g_audit.records import AuditRecord
from m2g_audit.report import rebuild
from m2g_audit.report.colours import STATE_COLOURS
from m2g_audit.report.contact_sheet import contact_sheet
from m2g_audit.report.spectrum import singular_values, spectrum_figure
from m2g_audit.report.text import _ranges, show
from m2g_audit.runs import RunDirectory
from tests.fakes import picture
from tests.samples import sample_record


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory.open(tmp_path / "run", {"prompt": "a"})
    record = sample_record()
    for seed in record.seeds:
        run.save_generation(seed.index, picture(seed.index), picture(seed.index))
    (run.path / "reference").mkdir()
    Image.new("RGB", (8, 8), "blue").save(run.path / "reference" / "0000.png")
    run.save_record(record)
    return run


def shown(record: AuditRecord, run: RunDirectory) -> str:
    console = Console(file=io.StringIO(), width=100)
    show(replace(rebuild(run.path), record=record), run.path, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_report_is_made_from_the_folder_alone(run: RunDirectory) -> None:
    first = rebuild(run.path)
    assert first.spectrum is not None
    before = [path.read_bytes() for path in (first.contact_sheet, first.spectrum)]
    first.contact_sheet.unlink()
    first.spectrum.unlink()
    again = rebuild(run.path)
    assert again.spectrum is not None
    assert [path.read_bytes() for path in (again.contact_sheet, again.spectrum)] == before


def test_no_record_no_report(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No record"):
        rebuild(tmp_path)


def test_the_sheet_shows_each_picture_in_its_colour(run: RunDirectory) -> None:
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet(sample_record(), run.path))))
    for state, cells in (("memorized", 3), ("generalized", 1)):
        colour = tuple(bytes.fromhex(STATE_COLOURS[state][1:]))  # type: ignore[index]
        framed = (sheet == colour).all(-1).sum()
        assert framed > cells * 4 * 136
    blue = (sheet == (0, 0, 255)).all(-1).sum()
    assert blue == 136**2


def test_missing_pictures_leave_empty_cells(run: RunDirectory) -> None:
    (run.path / RunDirectory.image_name(2)).unlink()
    (run.path / "reference" / "0000.png").unlink()
    assert contact_sheet(sample_record(), run.path)
    assert spectrum_figure(sample_record(), run.path)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=400))
def test_any_prompt_can_be_drawn_and_shown(prompt: str) -> None:
    record = sample_record().model_copy(update={"prompt": prompt})
    assert contact_sheet(record, Path("nowhere"))


def test_the_panel_says_what_there_is(run: RunDirectory) -> None:
    text = shown(sample_record(), run)
    for words in ("UNDECIDED", "20% to 98%", "Attractors", "411", "contact-sheet.png", "another"):
        assert words in text


def test_the_panel_shows_brackets_of_a_prompt_as_they_are(run: RunDirectory) -> None:
    record = sample_record().model_copy(update={"prompt": "[bold]x[/red] [link=y]"})
    assert "[bold]x[/red] [link=y]" in shown(record, run)


def test_nothing_that_others_wrote_steers_the_terminal(run: RunDirectory) -> None:
    sample = sample_record()
    verdict = sample.verdict.model_copy(update={"evidence": ["\x1b]0;owned\x07 a file's name"]})
    changed = sample.model_copy(update={"prompt": "a\x1b[2Jb\u202e", "verdict": verdict})
    text = shown(changed, run)
    assert "a�[2Jb�" in text
    assert not {"\x1b", "\x07", "\u202e"} & {*text}


def test_a_run_without_curvature_has_no_spectrum(run: RunDirectory) -> None:
    sample = sample_record()
    seeds = [seed.model_copy(update={"attractor": None}) for seed in sample.seeds]
    record = sample.model_copy(update={"curvature": [], "attractors": [], "seeds": seeds})
    run.save_record(record)
    assert rebuild(run.path).spectrum is None
    assert "Curvature" not in shown(record, run)


def test_long_spectra_come_from_their_file(run: RunDirectory) -> None:
    import torch

    entry = sample_record().curvature[0].model_copy(update={"singular_values": None})
    with pytest.raises(OutputError, match="missing"):
        singular_values(entry, run.path)
    run.write_tensors(entry.file, {"singular_values": torch.tensor([2.0, 1.0]).double()})
    assert singular_values(entry, run.path).tolist() == [2.0, 1.0]


def test_paper_spectra_are_drawn_too(run: RunDirectory) -> None:
    record = sample_record()
    entries = [entry.model_copy(update={"kind": "paper"}) for entry in record.curvature]
    assert spectrum_figure(record.model_copy(update={"curvature": entries}), run.path)


@pytest.mark.parametrize(
    ("indices", "text"),
    [([0], "0"), ([0, 1], "0, 1"), ([0, 1, 2, 5], "0-2, 5"), ([1, 3, 4, 5, 6], "1, 3-6")],
)
def test_seed_numbers_are_joined(indices: list[int], text: str) -> None:
    assert _ranges(indices) == text
