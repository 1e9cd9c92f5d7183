"""`m2g-audit calibrate` on sweeps that are there: comparisons, thresholds by hand, refusals."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image

from m2g_audit.cli import main
from m2g_audit.errors import UsageError
from m2g_audit.similarity.l2 import L2
from small_scale.lab_folder import Cell, LabFolder
from small_scale.planning import weights_by_name
from small_scale.settings import settings_for
from small_scale.workshop import Workshop
from tests.support.fake_lab import CELLS, fake_lab, measured_lab

Run = Callable[..., tuple[int, str, str]]


class Silent:
    """Told of progress, and keeps it to itself."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...

    def overall(self, done: int, total: int) -> None: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `m2g-audit calibrate` in this process; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["m2g-audit", "calibrate", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        code = exit_.value.code
        return (0 if code is None else int(code)), *capfd.readouterr()

    return call


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_lab(tmp_path_factory.mktemp("made") / "narrow").path


@pytest.fixture
def narrow(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "narrow")
    return tmp_path / "narrow"


@pytest.fixture
def wide(made: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "wide"
    shutil.copytree(made, folder)
    settings = json.loads((folder / "settings.json").read_text())
    settings["network"]["width"] = 64
    (folder / "settings.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """Each test is a process of its own to accelerate, which keeps its first precision."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_sweep_stands_beside_another(run: Run, narrow: Path, wide: Path) -> None:
    code, out, err = run(narrow, "--stage", "report", "--beside", wide)
    assert code == 0, err
    figure = narrow / "figures" / "beside.png"
    assert str(figure) in out
    with Image.open(figure) as picture:
        assert picture.width > 500
    rows = rows_of(narrow / "tables" / "beside.csv")
    assert {row["sweep"] for row in rows} == {"width 8", "width 64"}
    assert len(rows) == 2 * 2 * len(CELLS)
    assert not (wide / "figures").exists()


def test_what_cannot_stand_beside_a_sweep_is_told_first(
    run: Run, narrow: Path, tmp_path: Path
) -> None:
    begun = measured_lab(tmp_path / "begun", (Cell(64, 0),)).path
    for other, said in (
        (tmp_path / "nowhere", "no sweep's folder"),
        (narrow, "this sweep itself"),
        (begun, "the states at K = 2, 16, 256 are not known yet. Continue it by"),
    ):
        code, out, err = run(narrow, "--stage", "report", "--beside", other)
        assert (code, out) == (2, "")
        assert said in err
    code, _, err = run(begun, "--stage", "report", "--beside", narrow)
    assert code == 2
    assert "is not finished" in err
    assert not list(tmp_path.rglob("beside.*"))


@pytest.mark.parametrize("option", ["--delta-m", "--delta-s"])
@pytest.mark.parametrize("value", ["0", "-0.1", "nan"])
def test_a_threshold_that_no_copy_could_meet_is_refused(
    run: Run, narrow: Path, option: str, value: str
) -> None:
    code, _, err = run(narrow, "--stage", "report", option, value)
    assert code == 2
    assert f"{option} {value} is no threshold" in err


def test_pictures_that_are_all_one_are_refused_before_training(run: Run, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for i in range(250):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "set" / f"{i}.png")
    code, _, err = run(tmp_path / "set", "--preset", "smoke", "--yes", "--cpu")
    assert code == 2
    assert "copies of others" in err
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


@pytest.mark.slow
def test_thresholds_by_hand_say_what_stays(run: Run, narrow: Path) -> None:
    code, plain, _ = run(narrow, "--stage", "report")
    assert code == 0
    before = rows_of(narrow / "tables" / "geometry.csv")
    code, out, _ = run(narrow, "--stage", "report", "--delta-m", "1e-6")
    assert code == 0
    assert "sorted anew" in out
    assert "sorted anew" not in plain
    after = rows_of(narrow / "tables" / "geometry.csv")
    assert any(row["group"] == "memorized" for row in before)
    assert not any(row["group"] == "memorized" for row in after)


def test_a_sweep_keeps_its_settings(run: Run, narrow: Path) -> None:
    for option, value in (("--preset", "desk"), ("--width", "64"), ("--out", "elsewhere")):
        code, _, err = run(narrow, option, value)
        assert code == 2
        assert "settings of its own" in err


def test_a_sweep_that_is_not_started_leaves_nothing(run: Run, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    random = np.random.default_rng(0)
    for i in range(300):
        levels = random.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(levels).save(pictures / f"{i}.png")
    code, _, err = run(pictures, "--out", "sweep", "--sizes", "2,16,32,64,100,128")
    assert code == 2
    assert "--yes" in err
    assert not Path("sweep").exists()


def test_a_tracker_that_cannot_be_is_refused(run: Run, narrow: Path) -> None:
    code, _, err = run(narrow, "--stage", "report", "--tracker", "nosuch")
    assert code == 2
    assert "Give another --tracker" in err


def test_metric_weights_are_of_the_distances_that_have_some() -> None:
    paper = settings_for("paper", "cifar10", 50_000)
    alex, vgg = Path("alex.pth"), Path("vgg.pth")
    assert weights_by_name(paper, []) == {}
    assert weights_by_name(paper, [alex]) == {"lpips-alex": alex}
    assert weights_by_name(paper, [alex, vgg]) == {"lpips-alex": alex, "lpips-vgg": vgg}
    digits = settings_for("paper", "mnist", 60_000)
    assert weights_by_name(digits, [vgg]) == {"lpips-vgg": vgg}
    desk = settings_for("desk", "mnist", 60_000)
    with pytest.raises(UsageError, match="have weights are: none"):
        weights_by_name(desk, [alex])


def test_a_sweep_loads_the_weights_that_it_is_given(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, object]] = []

    def load(name: str, *, weights: object, device: object) -> L2:
        asked.append((name, weights))
        return L2()

    monkeypatch.setattr("small_scale.workshop.load_metric", load)
    own = Path("alex.pth")
    shop = Workshop(LabFolder.open(made), weights={"lpips-alex": own})
    for name in ("lpips-alex", "lpips-vgg", "lpips-alex"):
        shop.metric(name)
    assert asked == [("lpips-alex", own), ("lpips-vgg", None)]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(110):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(folder / f"{i}.png")
    return folder


def test_missing_weights_are_told_of_before_anything_is_written(run: Run, pictures: Path) -> None:
    asked = ("--preset", "smoke", "--sizes", "2,8", "--size", "32", "--metric", "lpips-alex")
    code, _, err = run(pictures, *asked, "--out", "sweep", "--metric-weights", "nowhere.pth")
    assert code == 3
    assert "There is no file nowhere.pth" in err
    assert not Path("sweep").exists()


@pytest.mark.parametrize("preset", ["lab", "paper"])
def test_a_preset_without_its_gpu_says_so(
    run: Run, pictures: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = run(pictures, "--preset", preset, "--sizes", "2,8", "--metric", "l2")
    assert code != 0
    assert f"The preset {preset} is made for a GPU" in err
    assert not Path("runs").exists()


def test_pictures_too_small_for_a_distance_are_told_of_before_training(
    run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import alexnet

    from m2g_audit.similarity.lpips import random_backbone_distance

    metric = random_backbone_distance("alex", alexnet(weights=None).features)
    monkeypatch.setattr("small_scale.planning.load_metric", lambda *_, **__: metric)
    asked = ("--preset", "smoke", "--sizes", "2,8", "--metric", "lpips-alex")
    code, _, err = run(pictures, *asked, "--out", "sweep")
    assert code == 2
    assert "at least 32 x 32 pixels, these have 8 x 8" in err
    assert not Path("sweep").exists()
