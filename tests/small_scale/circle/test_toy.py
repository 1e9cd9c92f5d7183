"""`m2g-audit toy`: what it writes, that it continues, and that it keeps runs apart."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from PIL import Image

from m2g_audit.cli import main
from m2g_audit.store.run_directory import RunDirectory
from small_scale.circle import cost, stages, toy
from small_scale.circle.recipe import PRESETS

SMOKE = PRESETS["smoke"]


@dataclass
class Finished:
    """A run of the command: its folder, and what went to stdout and stderr."""

    out: Path
    printed: str
    said: str


def call(*arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process; return exit code, stdout and stderr."""
    stdout, stderr = StringIO(), StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        patch.setattr(sys, "argv", ["m2g-audit", "toy", "--preset", "smoke", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
    return int(exit_.value.code or 0), stdout.getvalue(), stderr.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    out = tmp_path_factory.mktemp("toy") / "run"
    code, printed, said = call("--out", str(out))
    assert code == 0, said
    return Finished(out, printed, said)


def numbers(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "results.json").read_text())
    del found["seconds"]
    return found


def test_the_command_says_what_it_takes_and_where_the_results_are(finished: Finished) -> None:
    assert finished.printed.split() == [str(finished.out / name) for name in toy.RESULTS]
    assert "This will take about" in finished.said
    for name in ("circle.png", "minima.png"):
        with Image.open(finished.out / name) as picture:
            assert picture.width > picture.height / 2 > 200


def test_tables_and_csv_hold_every_size_and_temperature(finished: Finished) -> None:
    with (finished.out / "minima.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(SMOKE.curve_sizes) * len(SMOKE.betas)
    for row in rows:
        kinds = sum(float(row[kind]) for kind in ("one", "several", "none"))
        assert float(row["minima"]) == pytest.approx(kinds)
        assert int(row["least"]) <= float(row["minima"]) <= int(row["most"])
    text = (finished.out / "tables.md").read_text()
    for size in SMOKE.sizes:
        assert f"| {size} | 3.33 | " in text


def test_a_finished_run_is_drawn_again_without_networks(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("nothing is left to be computed")

    before = {name: (finished.out / name).read_bytes() for name in toy.RESULTS}
    for name in toy.RESULTS:
        (finished.out / name).unlink()
    for name in ("train", "euler_maruyama", "flow", "find_minima"):
        monkeypatch.setattr(toy, name, never)
    toy.run(toy.open_run(finished.out, SMOKE), SMOKE, lambda *_: None)
    assert {name: (finished.out / name).read_bytes() for name in toy.RESULTS} == before


def test_a_stopped_run_continues_to_the_same_numbers(finished: Finished, tmp_path: Path) -> None:
    for when in ("network K = 9", "sampling, K = 9 (exact score)", "exact minima, K = 9"):

        def stop(stage: str, done: int, total: int, when: str = when) -> None:
            if stage == when and done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            toy.run(toy.open_run(tmp_path, SMOKE), SMOKE, stop)
    assert not stages.done(RunDirectory(tmp_path, {}), "curve-9")
    toy.run(toy.open_run(tmp_path, SMOKE), SMOKE, lambda *_: None)
    assert numbers(tmp_path) == numbers(finished.out)


def test_another_configuration_is_refused_with_the_difference(finished: Finished) -> None:
    code, printed, said = call("--seed", "1", "--out", str(finished.out))
    assert (code, printed) == (7, "")
    assert "seed: 0 there, 1 now" in said


def test_what_is_there_costs_nothing(finished: Finished, tmp_path: Path) -> None:
    assert cost.seconds_left(toy.open_run(finished.out, SMOKE), SMOKE) == 0
    assert cost.seconds_left(toy.open_run(tmp_path / "new", SMOKE), SMOKE) > 0
