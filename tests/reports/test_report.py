"""Reports come from the run's folder alone, whatever the prompt, and miss no picture silently."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from m2g_audit.audits.run_tensors import save_generation, write_tensors
from m2g_audit.errors import OutputError
from m2g_audit.records.record import AuditRecord
from m2g_audit.records.vocabulary import RuleWord, VerdictWord
from m2g_audit.reports import last_made, rebuild
from m2g_audit.reports.colours import STATE_COLOURS, VERDICT_COLOURS
from m2g_audit.reports.contact_sheet import contact_sheet
from m2g_audit.reports.spectrum_figure import singular_values, spectrum_figure
from m2g_audit.reports.verdict_text import _ranges, show, verdict_panel
from m2g_audit.review.gate import WORST_FIRST
from m2g_audit.review.grounds import MEANINGS, mark, missed, origin
from m2g_audit.store.run_directory import RunDirectory
from m2g_audit.store.stored_run import StoredRun
from m2g_audit.verdict.sentences import model_lines
from tests.support.fakes import picture
from tests.support.made_run import HANGING, POWER, RELEASE, THRESHOLDS, findings, make_run
from tests.support.samples import sample_record


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory.open(tmp_path / "run", {"prompt": "a"})
    record = sample_record()
    for seed in record.seeds:
        save_generation(run, seed.index, picture(seed.index), picture(seed.index))
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


def test_what_was_drawn_of_a_finished_run_is_not_drawn_again(run: RunDirectory) -> None:
    made = rebuild(run.path)
    assert made.spectrum is not None
    for path in (made.contact_sheet, made.spectrum):
        path.write_bytes(b"drawn")
    assert last_made(run.path) == made
    assert made.spectrum.read_bytes() == made.contact_sheet.read_bytes() == b"drawn"


@pytest.mark.parametrize("change", ["missing", "older"])
def test_what_is_missing_or_older_than_the_record_is_drawn(run: RunDirectory, change: str) -> None:
    sheet = rebuild(run.path).contact_sheet
    first = sheet.read_bytes()
    if change == "missing":
        sheet.unlink()
    else:
        sheet.write_bytes(b"of another record")
        os.utime(sheet, (0, 0))
    assert last_made(run.path).contact_sheet.read_bytes() == first


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
    write_tensors(run, entry.file, {"singular_values": torch.tensor([2.0, 1.0]).double()})
    assert singular_values(entry, run.path).tolist() == [2.0, 1.0]


def test_paper_spectra_are_drawn_too(run: RunDirectory) -> None:
    record = sample_record()
    entries = [entry.model_copy(update={"kind": "paper"}) for entry in record.curvature]
    assert spectrum_figure(record.model_copy(update={"curvature": entries}), run.path)


# -- what verdicts rest on


def panel(record: AuditRecord) -> str:
    console = Console(file=io.StringIO(), width=400)
    console.print(verdict_panel(record))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> AuditRecord:
    folder = make_run(tmp_path_factory.mktemp("r") / "r", [HANGING], findings=findings(0.2, 0.37))
    return next(StoredRun.read(folder).records())


def test_the_first_lines_say_where_thresholds_come_from(hanging: AuditRecord) -> None:
    lines = panel(hanging).splitlines()
    first = next(i for i, line in enumerate(lines) if hanging.prompt in line)
    said = origin(THRESHOLDS, POWER)
    assert said in lines[first + 1]
    assert said.startswith("Thresholds from the reference's own pictures")
    assert "False alarms: 1% of new pictures. Power: 97% of planted copies are found" in said
    [about] = model_lines(hanging)
    assert about in lines[first + 2]
    assert panel(hanging).count("About the model") == 1
    assert "37% of the pictures for 16 ordinary prompts" in about


def test_every_rule_and_every_verdict_has_its_words() -> None:
    for rule in get_args(RuleWord):
        assert "Thresholds from " in origin(THRESHOLDS.model_copy(update={"rule": rule}), None)
    assert [*MEANINGS] == [*WORST_FIRST]
    assert {*MEANINGS} == {*get_args(VerdictWord)} == {*VERDICT_COLOURS}


def test_thresholds_that_were_not_measured_are_marked(hanging: AuditRecord) -> None:
    guessed = {"calibrated": False, "false_alarms": None, "rule": "rule of thumb"}
    for change, marked in ((guessed, "uncalibrated"), ({"rule": "by hand"}, "thresholds by hand")):
        thresholds = THRESHOLDS.model_copy(update={**guessed, **change})
        assert mark(thresholds) == marked
        record = hanging.model_copy(update={"thresholds": thresholds, "power": None})
        assert f" {marked} " in panel(record).splitlines()[0]
        assert "False alarms: not measured. Power: not measured." in panel(record)
    assert mark(THRESHOLDS) is None
    few = POWER.model_copy(update={"suffices": False})
    assert "too little to clear a prompt" in origin(THRESHOLDS, few)


def test_margins_and_what_hangs_on_the_threshold_are_said(
    hanging: AuditRecord, tmp_path: Path
) -> None:
    text = panel(hanging)
    assert "hangs on the threshold" in text.splitlines()[0]
    assert "It would be generalized by stricter thresholds (the 0.3% quantile" in text
    assert "and memorized by looser thresholds (the 3% quantile" in text
    nearest = min(hanging.seeds, key=lambda seed: seed.nearest_reference.distance)  # type: ignore[union-attr]
    margin = nearest.nearest_reference.distance / 0.05  # type: ignore[union-attr]
    assert f"Nearest to the reference: seed {nearest.index}, at {margin:.2f} of delta_m." in text
    clear = next(StoredRun.read(make_run(tmp_path / "clear", RELEASE[:1])).records())
    assert "hang" not in panel(clear)
    assert "training picture 0 is" in panel(clear)
    assert "(0.23 of delta_m)" in panel(clear) or "(0.24 of delta_m)" in panel(clear)


def test_an_early_look_does_not_say_that_anything_may_be_missed(hanging: AuditRecord) -> None:
    assert "Attractors of less than 26% of the mass may have been missed" in panel(hanging)
    early = hanging.verdict.model_copy(update={"undetected_mass": 1.0})
    record = hanging.model_copy(update={"verdict": early})
    assert missed(record) is None
    assert "may have been missed" not in panel(record)


@pytest.mark.parametrize(
    ("indices", "text"),
    [([0], "0"), ([0, 1], "0, 1"), ([0, 1, 2, 5], "0-2, 5"), ([1, 3, 4, 5, 6], "1, 3-6")],
)
def test_seed_numbers_are_joined(indices: list[int], text: str) -> None:
    assert _ranges(indices) == text
