"""`m2g-audit toy`: what it writes, that it continues, and that it keeps runs apart."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from m2g_audit.cli import main
from m2g_audit.runs import RunDirectory
from small_scale.circle import cost, stages, toy
from small_scale.circle.recipe import PRESETS

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "run"
    toy.run(toy.open_run(out, SMOKE), SMOKE, lambda *_: None)
    return out


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["m2g-audit", "toy", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def numbers(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "results.json").read_text())
    del found["seconds"]
    return found


def test_the_command_writes_all_results_and_says_where(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    finished: Path,
) -> None:
    out = tmp_path / "run"
    assert call(monkeypatch, "--preset", "smoke", "--out", str(out)) == 0
    printed, said = capfd.readouterr()
    assert printed.split() == [str(out / name) for name in toy.RESULTS]
    assert "This will take about" in said
    for name in ("circle.png", "minima.png"):
        with Image.open(out / name) as picture:
            assert picture.width > picture.height / 2 > 200
    assert numbers(out) == numbers(finished)


def test_tables_and_csv_hold_every_size_and_temperature(finished: Path) -> None:
    with (finished / "minima.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(SMOKE.curve_sizes) * len(SMOKE.betas)
    for row in rows:
        kinds = sum(float(row[kind]) for kind in ("one", "several", "none"))
        assert float(row["minima"]) == pytest.approx(kinds)
        assert int(row["least"]) <= float(row["minima"]) <= int(row["most"])
    text = (finished / "tables.md").read_text()
    for size in SMOKE.sizes:
        assert f"| {size} | 3.33 | " in text


def test_a_finished_run_is_drawn_again_without_networks(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("nothing is left to be computed")

    before = {name: (finished / name).read_bytes() for name in toy.RESULTS}
    for name in toy.RESULTS:
        (finished / name).unlink()
    for name in ("train", "euler_maruyama", "flow", "find_minima"):
        monkeypatch.setattr(toy, name, never)
    toy.run(toy.open_run(finished, SMOKE), SMOKE, lambda *_: None)
    assert {name: (finished / name).read_bytes() for name in toy.RESULTS} == before


def test_a_stopped_run_continues_to_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    for when in ("network K = 9", "sampling, K = 9 (exact score)", "exact minima, K = 9"):

        def stop(stage: str, done: int, total: int, when: str = when) -> None:
            if stage == when and done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            toy.run(toy.open_run(tmp_path, SMOKE), SMOKE, stop)
    assert not stages.done(RunDirectory(tmp_path, {}), "curve-9")
    toy.run(toy.open_run(tmp_path, SMOKE), SMOKE, lambda *_: None)
    assert numbers(tmp_path) == numbers(finished)


def test_another_configuration_is_refused_with_the_difference(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--preset", "smoke", "--seed", "1", "--out", str(finished)) == 7
    assert "seed: 0 there, 1 now" in capfd.readouterr().err


def test_what_is_there_costs_nothing(finished: Path, tmp_path: Path) -> None:
    assert cost.seconds_left(toy.open_run(finished, SMOKE), SMOKE) == 0
    assert cost.seconds_left(toy.open_run(tmp_path / "new", SMOKE), SMOKE) > 0
