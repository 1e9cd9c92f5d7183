"""The HTML report: everything of a run is in it, and no prompt can do anything in it."""

from __future__ import annotations

import base64
import datetime
import hashlib
import html
import inspect
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from m2g_audit.calibration.calibration_record import Calibration, SpectrumQuantiles, StateFacts
from m2g_audit.cli.prompt import prompt as prompt_verb
from m2g_audit.files import write_atomically
from m2g_audit.records.record import AuditRecord, CalibrationRecord
from m2g_audit.reports.html import page as pages
from m2g_audit.reports.html.data_uris import THUMBNAIL, thumbnail
from m2g_audit.reports.html.page import write_report
from m2g_audit.reports.html.plots import bands_of, sensitivity_figure
from m2g_audit.reports.html.prompt_row import command
from m2g_audit.reports.sensitivity import FACTORS, shares_by_factor
from m2g_audit.review.gate import WORST_FIRST, badness
from m2g_audit.store.run_directory import CALIBRATION_FILE
from m2g_audit.store.stored_run import StoredRun
from m2g_audit.verdict.states import State
from tests.support.calibrations import audit, calibration
from tests.support.made_run import (
    HANGING,
    POWER,
    RELEASE,
    THRESHOLDS,
    Made,
    findings,
    gives,
    make_run,
)
from tests.support.samples import interval, sample_record

HOSTILE = [
    "<script>window.hacked=1</script>",
    "</script></template></title><img src=x onerror=window.hacked=1>",
    '"><svg onload=window.hacked=1> {{ 7 * 7 }} \u202e\u2028 \x00 javascript:hacked',
    "=cmd|' /C calc'!A0",
]
PROMPTS = [one.prompt for one in RELEASE] + HOSTILE


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    """A batch of which one prompt failed."""
    hostile = [Made(text, gives(f=3), text, {text: text}) for text in HOSTILE]
    return StoredRun.read(make_run(tmp_path_factory.mktemp("r") / "release", [*RELEASE, *hostile]))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    """A batch of one prompt."""
    return StoredRun.read(make_run(tmp_path_factory.mktemp("s") / "small", RELEASE[3:4]))


def written(run: StoredRun, out: Path, **options: Any) -> str:
    return write_report(run, out, **options).path.read_text()


def rows_of(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


class Elements(HTMLParser):
    """Collects the elements of a page and their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_table_has_every_prompt_the_worst_first(run: StoredRun, tmp_path: Path) -> None:
    rows = rows_of(written(run, tmp_path / "r.html"))
    assert len(rows) == len(PROMPTS)
    assert [row["rank"] for row in rows] == list(range(len(PROMPTS)))
    audited = [record for record in run.records() if record.error is None]
    worst = [record.listed.id for record in sorted(audited, key=badness, reverse=True)]
    assert [row["id"] for row in rows][: len(worst)] == worst
    assert [row["prompt"] for row in rows if row["verdict"] == "failed"] == [RELEASE[-1].prompt]


def test_each_prompt_has_its_details_with_pictures_and_evidence(
    run: StoredRun, tmp_path: Path
) -> None:
    page = written(run, tmp_path / "r.html")
    for record in run.records():
        part = page.split(f'<template id="p-{record.listed.id}">')[1].split("</template>")[0]
        said = [record.error.message] if record.error else record.verdict.evidence
        for sentence in said:
            assert sentence in html.unescape(part)
        assert part.count("<figure") >= len(record.seeds)
        assert "Make it again" in part


@pytest.mark.parametrize("redact", [False, True])
def test_the_page_asks_for_nothing_and_runs_nothing_of_others(
    run: StoredRun, tmp_path: Path, redact: bool
) -> None:
    page = written(run, tmp_path / "r.html", redact=redact)
    for tag, attributes in Elements(page).found:
        assert tag not in ("iframe", "object", "embed", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in ("src", "href"):
                assert value is not None
                assert value.startswith(("data:", "#"))
    scripts = [a for tag, a in Elements(page).found if tag == "script"]
    assert len(scripts) == 2
    [policy] = [a["content"] for _, a in Elements(page).found if "http-equiv" in a]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_policy_names_the_pages_own_style_and_script(small: StoredRun, tmp_path: Path) -> None:
    page = written(small, tmp_path / "r.html")
    for tag in ("style", "script"):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src &#39;sha256-{html.escape(digest)}&#39;" in page


def test_many_prompts_lie_beside_the_page(
    small: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = written(small, tmp_path / "r.html")
    monkeypatch.setattr(pages, "INLINE_BYTES", 0)
    monkeypatch.setattr(pages, "_PART", 10_000)
    made = write_report(small, tmp_path / "r.html")
    assert made.details == tmp_path / "r-files"
    page = made.path.read_text()
    assert "<template" not in page
    [record] = small.records()
    sheet = (made.details / f"{record.listed.id}.css").read_text()
    parts = re.findall(rf'--m2g-{record.listed.id}-(\d+): "(.*)";', sheet)
    assert [number for number, _ in parts] == [str(i) for i in range(len(parts))]
    assert len(parts) > 1
    assert base64.b64decode("".join(part for _, part in parts)).decode() in whole
    assert "script-src &#39;sha256-" in page
    assert "strict-dynamic" not in page
    monkeypatch.undo()
    written(small, tmp_path / "r.html")
    assert not made.details.exists()


def test_blurred_pictures_show_nothing(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
    levels[:, :16] = 200
    Image.fromarray(levels).save(tmp_path / "a.png")

    def shown(redact: bool) -> Image.Image:
        uri = thumbnail(tmp_path, "a.png", THUMBNAIL, redact=redact)
        assert uri is not None
        return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))

    assert shown(False).size == (80, 40)
    blurred = shown(True)
    assert blurred.size == (5, 2)
    colours = np.asarray(blurred.convert("RGB"), float)
    assert abs(colours[:, 0] - 200).max() < 25  # the mean of its cell, as WebP keeps it
    assert abs(colours[:, 2:] - 127.5).max() < 25


def pixels_in(page: str) -> set[bytes]:
    """Return the pixels of each picture in a page."""
    found = re.findall(r"data:image/(?:png|webp);base64,([\w+/=]+)", page)
    pictures = (Image.open(io.BytesIO(base64.b64decode(content))) for content in found)
    return {picture.convert("RGB").tobytes() for picture in pictures}


def test_no_picture_of_a_redacted_page_is_as_it_was(small: StoredRun, tmp_path: Path) -> None:
    [record] = small.records()
    files = [*(small.path / record.folder).glob("*/*.png")]
    originals = {Image.open(file).convert("RGB").tobytes() for file in files}
    assert len(originals) == 16 + 3
    plain = pixels_in(written(small, tmp_path / "a.html"))
    assert len(plain & originals) > 10
    assert not pixels_in(written(small, tmp_path / "b.html", redact=True)) & originals
    assert write_report(small, redact=True).path.name == "report-redacted.html"


def test_a_redacted_page_says_not_where_things_lay(
    small: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [record] = small.records()
    asked = {"model": "~/jdoe/model", "reference": "/home/jdoe/my pictures/cats", "seeds": 16}
    update = {"asked": asked, "reference": "/home/jdoe/my pictures/cats"}
    settings = record.settings.model_copy(update=update)
    warnings = ["Left out “/home/jdoe/a.png” (in /home/jdoe/x)."]
    changed = record.model_copy(
        update={"settings": settings, "warnings": warnings, "prompt": "9/10 and /jdoe/kept/"}
    )
    monkeypatch.setattr(StoredRun, "records", lambda self: iter([changed]))
    assert written(small, tmp_path / "a.html").count("/home/jdoe") == 4
    page = html.unescape(written(small, tmp_path / "b.html", redact=True))
    assert page.replace("/jdoe/kept/", "").count("jdoe") == 0
    assert "my pictures" not in page
    assert "“<bdi>…/a.png</bdi>” (in …/x)" in page
    assert "…/cats" in page
    assert "9/10 and /jdoe/kept/" in page


def test_missing_files_leave_gaps(small: StoredRun, tmp_path: Path) -> None:
    shutil.copytree(small.path, tmp_path / "run")
    copy = StoredRun.read(tmp_path / "run")
    [record] = copy.records()
    folder = copy.path / record.folder
    (folder / "images" / "0002.png").unlink()
    (folder / "images" / "0003.png").write_bytes(b"no picture")
    (folder / "distances.safetensors").unlink()
    page = written(copy, tmp_path / "r.html")
    assert page.count('<span class="missing">missing</span>') == 2
    assert "Which pictures are alike" not in page


def asking(prompt: str, **asked: Any) -> AuditRecord:
    record = sample_record()
    settings = record.settings.model_copy(update={"asked": asked})
    return record.model_copy(update={"prompt": prompt, "settings": settings})


def test_the_command_is_the_verbs_own() -> None:
    asked = {
        "model": "./a b",
        "seeds": 12,
        "basin": True,
        "basin_exact": True,
        "controls": False,
        "reference_complete": False,
        "guidance": None,
        "unseen": "./held-out",
    }
    words = shlex.split(command(asking("it's $(rm) -x", **asked)))
    assert words[:4] == ["m2g-audit", "prompt", "--model", "./a b"]
    assert words[-2:] == ["--", "it's $(rm) -x"]
    assert {"--exact", "--basin", "--unseen"} < {*words}
    assert not {"--reference-complete", "--guidance", "--controls"} & {*words}
    options = inspect.signature(prompt_verb).parameters
    names = [w[2:].replace("-", "_") for w in words[2:-2] if w.startswith("--")]
    assert {*names} - {"exact"} <= options.keys()


def test_a_prompt_that_ended_early_is_made_again_by_the_same_looks() -> None:
    assert command(asking("a", seeds="auto")) == "m2g-audit prompt --seeds auto -- a"


def test_what_can_not_be_seen_is_an_escape_in_the_command() -> None:
    shown = command(asking("a\u202eb\n'c\\"))
    assert shown == "m2g-audit prompt -- $'a\\U0000202eb\\U0000000a\\'c\\\\'"
    shown = command(asking("a", reference="b\u202ec\x1b"))
    assert shown == "m2g-audit prompt --reference $'b\\U0000202ec\\U0000001b' -- a"


def test_one_prompt_is_a_run_too(tmp_path: Path) -> None:
    record = sample_record()
    write_atomically(tmp_path / "record.json", record.model_dump_json().encode())
    page = written(StoredRun.read(tmp_path), tmp_path / "r.html")
    assert [row["prompt"] for row in rows_of(page)] == [record.prompt]
    assert "critical" not in page
    assert "from up to step 411" in page


@pytest.fixture
def copied(small: StoredRun, tmp_path: Path) -> StoredRun:
    """A batch of one prompt, to be changed."""
    return StoredRun.read(Path(shutil.copytree(small.path, tmp_path / "run")))


def calibrated(run: StoredRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the run's records say that the calibration in its folder was used."""
    file = run.path / CALIBRATION_FILE
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    said = CalibrationRecord(
        sha256=sha256,
        source="the calibration of a test",
        readout="median",
        threshold=0.5,
        auroc=interval(0.8, 0.7, 0.9),
        tells=True,
        readings=[],
        word=None,
    )
    found = []
    for record in run.records():
        found.append(record.model_copy(update={"calibration": said}))
    monkeypatch.setattr(StoredRun, "records", lambda self: iter(found))


def spectrum_in(page: str) -> str:
    [figure] = re.findall(
        r'<img class="figure spectrum" src="data:image/svg\+xml;base64,(.*?)"', page
    )
    return base64.b64decode(figure).decode()


def with_spectra(spectra: dict[str, list[np.ndarray]]) -> Calibration:
    """Return a calibration of two models, each with half of these spectra of each state."""
    trained = []
    for half, model in enumerate(calibration().trained):
        distance = model.distances[0]
        states = [
            StateFacts(state=state, count=9, spectrum=SpectrumQuantiles.of(curves[half::2]))
            for state, curves in spectra.items()
        ]
        distances = [distance.model_copy(update={"states": states})]
        trained.append(model.model_copy(update={"distances": distances}))
    return calibration(trained=trained)


def test_bands_are_those_of_all_samples_together() -> None:
    curves = list(np.random.default_rng(0).random((10, 40)))
    bands = bands_of(with_spectra({"memorized": curves, "spurious": curves[:6]}))
    assert bands.keys() == {"memorized", "spurious"}
    whole = SpectrumQuantiles.of(curves)
    assert bands["memorized"].mean == pytest.approx(whole.mean)
    assert bands["memorized"].sd == pytest.approx(whole.sd)
    assert bands["memorized"].at.tolist() == whole.at


def test_the_spectrum_lies_over_the_bands_of_its_calibration(
    copied: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = list(np.random.default_rng(0).random((10, 40)))
    found = with_spectra({"memorized": curves, "generalized": curves})
    found.save(copied.path / CALIBRATION_FILE)
    calibrated(copied, monkeypatch)
    page = written(copied, tmp_path / "r.html")
    figure = spectrum_in(page)
    assert "calibration, memorized" in figure
    assert "calibration, generalized" in figure
    assert "calibration, spurious" not in figure
    assert "a single picture" not in figure
    assert "The bands are mean and standard deviation" in page
    assert "No calibration was given" not in page


def test_an_audit_with_a_calibration_is_shown_over_its_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the option to the figure: the audit of a fake pipeline that the calibration fits."""
    audit(tmp_path, calibration())
    (tmp_path / "calibration.json").unlink()
    page = written(StoredRun.read(tmp_path / "run"), tmp_path / "r.html")
    assert "calibration, memorized" in spectrum_in(page)
    assert "The bands are mean and standard deviation" in page


def test_no_bands_are_drawn_that_the_record_does_not_rest_on(
    copied: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = written(copied, tmp_path / "r.html")
    assert "No calibration was given" in page
    assert "a single picture" in spectrum_in(page)
    file = copied.path / CALIBRATION_FILE
    calibration().save(file)
    calibrated(copied, monkeypatch)
    calibration(date=datetime.date(2020, 1, 1)).save(file)
    for change in (lambda: None, file.unlink):
        change()
        page = written(copied, tmp_path / "r.html")
        assert "A calibration was used, but the run's folder holds no copy" in page
        assert "The bands are" not in page
        assert "calibration, memorized" not in spectrum_in(page)


@pytest.mark.slow
def test_more_processes_make_the_same_page(run: StoredRun, tmp_path: Path) -> None:
    told: list[int] = []
    alone = written(run, tmp_path / "a.html")
    together = written(run, tmp_path / "b.html", processes=2, on_progress=told.append)
    assert together == alone
    assert told == list(range(1, len(PROMPTS) + 1))


def test_files_of_others_beside_the_page_are_left_alone(
    small: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "r-files"
    folder.mkdir()
    for name in ("bootstrap.css", "0123456789abcdef.css"):
        (folder / name).write_text("")
    (folder / "fedcba9876543210.css").write_bytes(pages._DETAILS_MARK)
    written(small, tmp_path / "r.html")
    assert {path.name for path in folder.iterdir()} == {"bootstrap.css", "0123456789abcdef.css"}


def test_quoted_words_turn_the_direction_of_nothing_else(
    small: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [record] = small.records()
    said = record.verdict.model_copy(update={"summary": "Not “مرحبا”, “<b>\u202e”."})
    changed = record.model_copy(update={"verdict": said})
    monkeypatch.setattr(StoredRun, "records", lambda self: iter([changed]))
    page = written(small, tmp_path / "r.html")
    assert "Not “<bdi>مرحبا</bdi>”, “<bdi>&lt;b&gt;�</bdi>”." in page


def test_what_changed_is_a_section(small: StoredRun, tmp_path: Path) -> None:
    earlier = make_run(tmp_path / "earlier", [Made(RELEASE[3].prompt, gives(f=16))])
    page = written(small, tmp_path / "r.html", against=StoredRun.read(earlier))
    assert "Of 1 prompts in both runs, 1 got worse and 0 better" in page
    assert "0 → 15 of 16" in page
    assert "got worse" not in written(small, tmp_path / "r.html")


# -- what verdicts rest on


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    """A run of a model that repeats for every prompt, without power."""
    folder = tmp_path_factory.mktemp("c") / "run"
    made = [HANGING, RELEASE[4], RELEASE[5]]
    return StoredRun.read(make_run(folder, made, findings=findings(0.8, 0.9), power=None))


def text_of(page: str) -> str:
    """What a page says, without its markup."""
    body = page.split("</style>")[1].split("<script")[0]
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", body)).split())


def test_the_head_says_where_thresholds_come_from_and_what_would_be_found(
    run: StoredRun, tmp_path: Path
) -> None:
    page = written(run, tmp_path / "r.html")
    head, rest = text_of(page).split("Verdicts", 1)
    assert "Thresholds from the reference's own pictures" in head
    assert "False alarms: 1% of new pictures. Power: 97% of planted copies are found" in head
    assert "the same up to 0.04 in l2; a copy of a reference picture up to 0.05." in head
    assert THRESHOLDS.notes[0] in head
    assert "Planted copies, near the reference 98% 96% or more" in rest
    for name, share in POWER.edits.items():
        assert f"Pictures {name} {share:.0%}" in rest


def test_thresholds_of_captions_are_a_range(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", RELEASE[:2])
    records = list(StoredRun.read(first).records())
    other = THRESHOLDS.model_copy(update={"delta_m": 0.07})
    less = POWER.model_copy(update={"between": interval(0.9, 0.86, 0.95)})
    records[0] = records[0].model_copy(update={"thresholds": other, "power": less})
    facts = pages._Facts(StoredRun.read(first))
    for record in records:
        facts.add(record)
    assert "a copy of a reference picture up to 0.05 to 0.07, by prompt" in facts.limits
    assert facts.power == less
    assert "Power: 90% of planted copies are found (86% or more)" in str(facts.origin)


def test_what_was_found_about_the_model_stands_in_the_head(
    collapsed: StoredRun, tmp_path: Path
) -> None:
    page = written(collapsed, tmp_path / "r.html")
    head, rest = text_of(page).split("Verdicts", 1)
    assert "seeds do little in it for any prompt: 80% of the pictures for 16 ordinary" in head
    assert "Power: not measured" in head
    assert "It was not measured, so no prompt is generalized." in rest
    assert "1 with new pictures not cleared: power was not measured." in rest
    by = {row["prompt"]: row["verdict"] for row in rows_of(page)}
    assert by == {
        HANGING.prompt: "undecided",
        RELEASE[4].prompt: "collapsed",
        RELEASE[5].prompt: "undecided",
    }
    clean = make_run(tmp_path / "clean", RELEASE[5:6], findings=findings(0.0, 0.02))
    said = text_of(written(StoredRun.read(clean), tmp_path / "clean.html"))
    assert "Of the pictures for 16 ordinary prompts 2% repeat each other or copy (7% or" in said


def test_every_verdict_has_its_place_on_the_page(run: StoredRun, tmp_path: Path) -> None:
    page = written(run, tmp_path / "r.html")
    [listed] = re.findall(r"const WORDS = (\[.*?\]);", page)
    assert json.loads(listed) == ["failed", *WORST_FIRST]
    for word in (*WORST_FIRST, "unsure"):
        assert f".{word}{{--own:#" in page
    for word in WORST_FIRST:
        assert f'<dt><span class="chip {word}">{word}</span></dt>' in page


def test_a_prompt_shows_margins_and_what_its_verdict_hangs_on(tmp_path: Path) -> None:
    run = StoredRun.read(make_run(tmp_path / "run", [HANGING], power=None))
    page = written(run, tmp_path / "r.html")
    assert rows_of(page)[0]["hangs"] is True
    detail = text_of(page.split("<template")[1].replace(">", "</style>", 1))
    assert "hangs on the threshold" in detail
    assert "It would be undecided" not in detail
    assert "memorized by looser thresholds (the 3% quantile of the same distances)" in detail
    [record] = run.records()
    for seed in record.seeds:
        assert seed.nearest_reference is not None
        assert seed.nearest_sample is not None
        margins = (seed.nearest_reference.margin, seed.nearest_sample.margin)
        assert f"seed {seed.index}" in detail
        assert f"δm {margins[0]:.2f} · δs {margins[1]:.2f}" in detail


def test_a_run_without_a_reference_has_one_threshold(tmp_path: Path) -> None:
    alone = THRESHOLDS.model_copy(update={"delta_m": None, "strict": None, "loose": None})
    made = make_run(tmp_path / "run", RELEASE[4:5], reference=None, thresholds=alone)
    said = text_of(written(StoredRun.read(made), tmp_path / "r.html"))
    assert "Two pictures count as the same up to 0.04 in l2." in said
    assert "a copy of a reference picture" not in said


def test_withheld_words_are_named(collapsed: StoredRun, tmp_path: Path) -> None:
    page = written(collapsed, tmp_path / "r.html")
    assert '<span class="tag">not cleared: power was not measured</span>' in page


def test_an_early_look_says_nothing_of_what_may_be_missed(
    small: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "may have been missed" in written(small, tmp_path / "r.html")
    [record] = small.records()
    early = record.verdict.model_copy(update={"undetected_mass": 1.0})
    changed = record.model_copy(update={"verdict": early})
    monkeypatch.setattr(StoredRun, "records", lambda self: iter([changed]))
    assert "may have been missed" not in written(small, tmp_path / "r.html")


# -- sensitivity


def test_shares_at_a_factor_of_one_are_the_records(run: StoredRun, tmp_path: Path) -> None:
    several = Made("64", [*gives(t0=10, t1=2, s1=3), *["f"] * 25], caption=25)
    other = StoredRun.read(make_run(tmp_path / "64", [several, HANGING]))
    middle = len(FACTORS) // 2
    assert FACTORS[middle] == 1
    seen = 0
    for one in (run, other):
        for record in one.records():
            if record.error is None:
                pairs = load_file(one.path / record.folder / "distances.safetensors")["samples"]
                shares = shares_by_factor(record, pairs)
                assert shares is not None
                assert sum(shares.values()) == pytest.approx(np.ones(len(FACTORS)))
                for state, share in record.verdict.fractions.items():
                    found = shares.get(State(state), np.zeros(len(FACTORS)))[middle]
                    assert found == pytest.approx(share.estimate)
                seen += 1
    assert seen > len(RELEASE)


def test_shares_move_with_the_thresholds(tmp_path: Path) -> None:
    run = StoredRun.read(make_run(tmp_path / "run", [HANGING]))
    [record] = run.records()
    pairs = load_file(run.path / record.folder / "distances.safetensors")["samples"]
    shares = shares_by_factor(record, pairs)
    assert shares is not None
    copied = shares[State.MEMORIZED]
    assert (copied[0], copied[-1]) == (0, 1)
    nearest = [s.nearest_reference.margin for s in record.seeds if s.nearest_reference]
    assert copied == pytest.approx([np.mean(np.array(nearest) <= f) for f in FACTORS])
    for change in ({"thresholds": None}, {"seeds": record.seeds[:3]}):
        assert shares_by_factor(record.model_copy(update=change), pairs) is None
    bare = [s.model_copy(update={"nearest_reference": None}) for s in record.seeds]
    assert shares_by_factor(record.model_copy(update={"seeds": bare}), pairs) is None


def test_seeds_that_distance_and_ratio_disagree_on_are_unsure(tmp_path: Path) -> None:
    run = StoredRun.read(make_run(tmp_path / "run", RELEASE[:1]))
    [record] = run.records()
    pairs = load_file(run.path / record.folder / "distances.safetensors")["samples"]
    seeds = [
        seed.model_copy(
            update={"nearest_reference": seed.nearest_reference.model_copy(update={"ratio": 0.9})}
        )
        for seed in record.seeds
        if seed.nearest_reference
    ]
    near = THRESHOLDS.model_copy(update={"delta_m": 0.013, "ratio": 0.5})
    change = {"seeds": seeds, "thresholds": near}
    shares = shares_by_factor(record.model_copy(update=change), pairs)
    assert shares is not None
    assert shares[State.UNSURE][len(FACTORS) // 2] == 1
    assert shares[State.UNSURE][-1] == 0  # nearer than delta_m / 1.5


def test_the_figure_marks_the_quantiles_of_the_null(small: StoredRun) -> None:
    [record] = small.records()
    folder = small.path / record.folder
    drawn = sensitivity_figure(record, folder)
    assert drawn is not None
    assert drawn.decode().count("0.3% to 3%") == 2
    bare = THRESHOLDS.model_copy(update={"strict": None, "loose": None})
    plain = sensitivity_figure(record.model_copy(update={"thresholds": bare}), folder)
    assert plain is not None
    assert "0.3% to 3%" not in plain.decode()
    assert sensitivity_figure(record, folder.parent) is None


def test_a_report_needs_no_torch() -> None:
    code = "import sys; import m2g_audit.reports.html.page; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_answer_stands_first(run: StoredRun, tmp_path: Path) -> None:
    page = html.unescape(written(run, tmp_path / "r.html"))
    answer = re.search('<p class="answer" id="answer">(.*?)</p>', page)
    assert answer is not None
    assert answer[1] == "5 of 12 prompts give back training pictures."
    assert page.index(answer[0]) < page.index("Thresholds from")
    assert "1 prompt failed, which says nothing of it." in page


def pair_in(page: str) -> str | None:
    found = re.search('<section id="pair">(.*?)</section>', page, re.S)
    return None if found is None else html.unescape(found[1])


def test_the_worst_pair_is_shown_large_with_its_distance(run: StoredRun, tmp_path: Path) -> None:
    pair = pair_in(written(run, tmp_path / "r.html"))
    assert pair is not None
    assert "a generated picture beside the training picture that it matches" in pair
    assert pair.count("<img") == 2
    assert "training picture: training picture 0" in pair
    assert "up to 0.05 counts as a copy" in pair
    assert RELEASE[0].prompt in pair


def test_without_repeats_or_pictures_there_is_no_pair(copied: StoredRun, tmp_path: Path) -> None:
    assert pair_in(written(copied, tmp_path / "a.html")) is not None
    shutil.rmtree(copied.path / next(copied.records()).folder / "reference")
    assert pair_in(written(copied, tmp_path / "b.html")) is None
    clean = StoredRun.read(make_run(tmp_path / "clean", RELEASE[5:6]))
    assert pair_in(written(clean, tmp_path / "c.html")) is None


def test_a_redacted_pair_shows_no_more_than_the_prompt_does(
    small: StoredRun, tmp_path: Path
) -> None:
    page = written(small, tmp_path / "r.html", redact=True)
    pair = pair_in(page)
    assert pair is not None
    shown, rest = pixels_in(pair), pixels_in(page.split("</section>", 1)[1])
    assert len(shown) == 2
    assert shown <= rest


def about_in(page: str) -> dict[str, str]:
    """Return what the page's block about the run says, by its headings."""
    block = page.split('<section id="about">')[1].split("<details")[0]
    parts = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", block, re.S)
    return {title: html.unescape(re.sub("<.*?>|\\s+", " ", said)) for title, said in parts}


def test_it_says_what_was_audited_what_it_can_not_see_and_what_now(
    run: StoredRun, tmp_path: Path
) -> None:
    about = about_in(written(run, tmp_path / "r.html"))
    assert list(about) == [
        "What was audited",
        "Thresholds and power",
        "What this cannot see",
        "What to do next",
    ]
    assert "pocket, 3 seeds a prompt" in about["What was audited"]
    assert f"{len(PROMPTS)} prompts." in about["What was audited"]
    assert "Power: 97% of planted copies are found" in about["Thresholds and power"]
    assert "Two pictures count as the same up to 0.04 in l2" in about["Thresholds and power"]
    assert "can miss is a picture" in about["What this cannot see"]
    assert "Do not release the model for these prompts" in about["What to do next"]


def test_of_prompts_that_all_failed_it_says_what_to_do(tmp_path: Path) -> None:
    failed = StoredRun.read(make_run(tmp_path / "failed", RELEASE[-1:]))
    page = written(failed, tmp_path / "r.html")
    assert "No answer: the prompt failed." in page
    about = about_in(page)
    assert list(about) == ["What was audited", "What to do next"]
    assert "Run the same m2g-audit batch again" in about["What to do next"]


def test_of_thresholds_that_were_not_measured_it_warns(tmp_path: Path) -> None:
    bare = THRESHOLDS.model_copy(update={"calibrated": False, "rule": "rule of thumb"})
    run = StoredRun.read(make_run(tmp_path / "bare", RELEASE[:1], thresholds=bare, power=None))
    page = written(run, tmp_path / "r.html")
    assert "The prompt may give back training pictures." in page
    about = about_in(page)
    assert "Uncalibrated: take verdicts as hints." in about["Thresholds and power"]
    assert "Have thresholds measured: give --unseen" in about["What to do next"]


def test_a_glossary_opens_with_plain_words_beside_those_of_the_paper(
    small: StoredRun, tmp_path: Path
) -> None:
    page = written(small, tmp_path / "r.html")
    glossary = page.split('<details class="meanings" id="glossary">')[1].split("</details>")[0]
    for word, paper in (("repeats", "duplicates"), ("copies", "memorized"), ("new", "generalized")):
        entry = glossary.split(f"<dt>{word}</dt>")[1].split("</dd>")[0]
        assert f"In the paper: {paper}" in entry
    assert "more than half of the pictures are copies" in glossary


def test_technical_measures_are_folded_away(small: StoredRun, tmp_path: Path) -> None:
    page = written(small, tmp_path / "r.html")
    folded = page.split('<details class="fold">')[1].split("</details>")[0]
    for heading in ("Which pictures are alike", "If the thresholds were others", "Curvature"):
        assert f"<h3>{heading}</h3>" in folded
    assert page.count("<details class") == 2
    assert "<details open" not in page


def test_a_basin_is_folded_away(tmp_path: Path) -> None:
    write_atomically(tmp_path / "record.json", sample_record().model_dump_json().encode())
    page = written(StoredRun.read(tmp_path), tmp_path / "r.html")
    folded = page.split('<details class="measures faint">')[1].split("</details>")[0]
    assert "from up to step 411" in folded


def test_without_javascript_the_rows_are_there_the_worst_first(
    run: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def static(page: str) -> list[str]:
        body = page.split('<tbody id="rows">')[1].split("</tbody>")[0]
        return [html.unescape(one) for one in re.findall('<span dir="auto">(.*?)</span>', body)]

    page = written(run, tmp_path / "r.html")
    rows = rows_of(page)
    assert static(page) == [row["prompt"] for row in rows]
    body = html.unescape(page.split('<tbody id="rows">')[1].split("</tbody>")[0])
    for row in rows:
        assert row["says"] in body
    assert "<script>window.hacked" not in page
    monkeypatch.setattr(pages, "_STATIC", 2)
    page = written(run, tmp_path / "few.html")
    assert static(page) == [row["prompt"] for row in rows[:2]]
    assert "only the 2 worst prompts stand here" in page
    assert 'data-shown="2"' in page
    assert '<form id="filters" role="search" hidden>' in page


def test_a_line_warns_of_training_pictures_and_offers_to_blur_them(
    run: StoredRun, tmp_path: Path
) -> None:
    line = '<p class="warning" id="people">'
    page = written(run, tmp_path / "r.html")
    assert f"{line}This report holds training pictures, people among them" in page
    assert "<code>m2g-audit report release --redact</code>" in page
    assert line not in written(run, tmp_path / "blurred.html", redact=True)
    alone = StoredRun.read(make_run(tmp_path / "alone", RELEASE[:1], reference=None))
    assert f"{line}Pictures that repeat may be" in written(alone, tmp_path / "a.html")
    clean = StoredRun.read(make_run(tmp_path / "clean", RELEASE[5:6], reference=None))
    assert line not in written(clean, tmp_path / "c.html")


def test_it_has_a_dark_mode_and_prints_ten_rows(small: StoredRun, tmp_path: Path) -> None:
    page = written(small, tmp_path / "r.html")
    assert "@media screen and (prefers-color-scheme:dark)" in page
    printed = page.split("@media print{")[1].split("</style>")[0]
    assert "#rows tr:nth-child(n+11)" in printed


def test_intervals_about_other_prompts_are_folded_away(
    run: StoredRun, small: StoredRun, tmp_path: Path
) -> None:
    page = written(run, tmp_path / "r.html")
    before, folded = page.split('<details class="meanings" id="longer">')
    folded = folded.split("</details>")[0]
    counted = before.split('<section id="overview">')[1]
    assert 'class="chip memorized"' in counted
    assert 'class="chip collapsed"' not in counted
    assert not re.search(r"\d% to \d", counted)
    assert len(re.findall(r"\d% to \d", folded)) == len(WORST_FIRST)
    assert 'id="longer"' not in written(small, tmp_path / "one.html")
    failed = StoredRun.read(make_run(tmp_path / "failed", RELEASE[-1:]))
    page = written(failed, tmp_path / "f.html")
    assert "No prompt has a verdict." in page
    assert 'id="longer"' not in page
