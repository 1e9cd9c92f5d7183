"""`m2g-audit models`, and `m2g-audit doctor MODEL`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from m2g_audit import cli
from m2g_audit.models.families import known_families
from m2g_audit.models.pipeline import Pipeline
from tests.models.test_families import GUIDANCES, REFUSED
from tests.support import tiny

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["m2g-audit", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        streams = capsys.readouterr()
        said = streams.out if "json" in arguments else streams.out + streams.err
        return int(ended.value.code or 0), " ".join(said.split())

    return run


def test_the_list_says_what_the_tests_hold(run: Run) -> None:
    code, out = run("models")
    assert code == 0
    assert "StableDiffusion3 (sd3) flow linear pictures and scores" in out
    assert "Flux (flux_schnell) flow none pictures" in out
    _, families = known_families()
    scored = {family.family for family in families if family.refused is None}
    assert {name for name, kind in GUIDANCES.items() if kind != "none"} <= scored
    assert not scored & REFUSED.keys()
    assert json.loads(run("models", "--format", "json")[1])[0]["family"] == "stable_diffusion_1"


def test_a_model_is_looked_at(run: Run, tmp_path: Path) -> None:
    folder = str(tiny.save(tiny.text_to_image(), tmp_path / "model"))
    code, out = run("doctor", folder, "--device", "cpu")
    assert code == 0
    assert "✓ pictures are those of plain diffusers (up to 0 of 255 levels)" in out
    assert "✓ scores are those of its pipeline" in out
    assert "16 x 16 pixels, latents 4 x 8 x 8" in out
    found = json.loads(run("doctor", folder, "--device", "cpu", "--format", "json")[1])
    assert (found["guidance_kind"], found["steps"], found["no_score"]) == ("linear", 50, None)


def test_what_has_no_score_says_why(run: Run, tmp_path: Path) -> None:
    folder = str(tiny.save(tiny.text_to_image(), tmp_path / "sd-turbo"))
    code, out = run("doctor", folder, "--device", "cpu")
    assert code == 0
    assert "its model card has to say them" in out
    assert "– no spectra or basins: " in out
    assert "by its name, sd-turbo" in out


def test_pictures_that_depend_on_their_batch_are_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_batch = Pipeline._generate_batch

    def shifted(self, texts, seeds, *rest):  # type: ignore[no-untyped-def]
        latents, clean, images, followed = generate_batch(self, texts, seeds, *rest)
        shift = 0.1 * torch.arange(len(seeds))[:, None, None, None]
        return latents, clean, images + shift, followed

    monkeypatch.setattr(Pipeline, "_generate_batch", shifted)
    folder = str(tiny.save(tiny.text_to_image(), tmp_path / "model"))
    assert "– a picture in a batch differs from plain diffusers" in run("doctor", folder)[1]


def test_a_folder_that_is_no_model_is_exit_3(run: Run, tmp_path: Path) -> None:
    code, out = run("doctor", str(tmp_path))
    assert code == 3
    assert "is not a diffusers model" in out
