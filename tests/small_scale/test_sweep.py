"""A whole sweep on a folder of pictures, killed and gone on with."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2g_audit.calibration.calibration_record import load
from m2g_audit.errors import OutputError, UsageError
from m2g_audit.files import draft_of
from m2g_audit.progress import OnProgress
from small_scale.arrays import load_arrays, save_arrays
from small_scale.lab import Lab
from small_scale.lab_folder import Cell, LabFolder
from small_scale.settings import SweepSettings, settings_for
from small_scale.stages import STAGES, Stage
from small_scale.sweep import Sweep, run_sweep
from small_scale.workshop import Workshop


class Silent:
    """Told of progress; interrupts the sweep when so much of a stage of this label is done."""

    def __init__(self, stop_at: str | None = None, after: float = 0) -> None:
        self.stop_at, self.after = stop_at, after
        self.stages, self.shares = list[str](), list[float]()

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.stages.append(stage)
        if self.stop_at is not None and stage.endswith(self.stop_at) and done > self.after * total:
            raise KeyboardInterrupt

    def overall(self, done: int, total: int) -> None:
        self.shares.append(done / max(1, total))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for i in range(240):
        levels = random.integers(0, 256, (8, 8, 1)).repeat(3, axis=2).astype(np.uint8)
        Image.fromarray(levels).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(autouse=True, scope="module")
def blocks_of_one() -> Iterator[None]:
    """What is kept of an unfinished measurement has several parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("small_scale.geometry.BLOCK", 1)
        yield


def settings(pictures: Path) -> SweepSettings:
    return settings_for("smoke", str(pictures), 140, channels=1, sizes=(2, 8))


@pytest.fixture(scope="module")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = LabFolder.create(tmp_path_factory.mktemp("lab") / "whole", settings(pictures))
    tell = Silent()
    Sweep(lab, tell).run()
    assert tell.shares[-1] == 1
    return Lab.open(lab.path)


def arrays(lab: Lab) -> Iterator[tuple[str, np.ndarray]]:
    """Everything that a sweep measured, by the name of its file and its own."""
    for path in sorted(lab.path.rglob("*.npz")):
        with np.load(path) as stored:
            for name in stored.files:
                yield f"{path.relative_to(lab.path)}/{name}", stored[name]


def test_a_sweep_leaves_all_that_it_is_about(finished: Lab) -> None:
    assert finished.measured == [Cell(2, 0), Cell(8, 0)]
    for cell in finished.measured:
        for what in ("basin", "spectra", "energy", "mixture"):
            assert finished.geometry(cell, what) is not None
    shares = finished.classified["per-K"][Cell(2, 0)].shares
    assert sum(share.estimate for share in shares.values()) == pytest.approx(1)
    spectra = finished.geometry(Cell(8, 0), "spectra")
    assert spectra is not None
    assert spectra["training/values"].shape == (2, 64)


def test_its_calibration_is_one_that_an_audit_reads(finished: Lab) -> None:
    written = load(finished.path / "calibration.json")
    assert [entry.K for entry in written.trained] == [2, 8]
    assert written.model.kind.space == "pixels"
    assert written.data.images == 140


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["training", "sampling", "basins", "spectra"])
def test_a_killed_sweep_ends_like_one_never_stopped(
    finished: Lab, pictures: Path, tmp_path: Path, stage: str
) -> None:
    lab = LabFolder.create(tmp_path / "lab", settings(pictures))
    with pytest.raises(KeyboardInterrupt):
        Sweep(lab, Silent(stop_at=stage, after=0.3)).run()
    Sweep(LabFolder.create(tmp_path / "lab", settings(pictures)), Silent()).run()
    there = dict(arrays(finished))
    here = dict(arrays(lab))
    assert here.keys() == there.keys()
    for name, values in there.items():
        np.testing.assert_array_equal(here[name], values, err_msg=name)


@pytest.mark.slow
def test_samples_measured_before_a_kill_are_not_measured_again(
    pictures: Path, tmp_path: Path
) -> None:
    lab = LabFolder.create(tmp_path / "lab", settings(pictures))
    with pytest.raises(KeyboardInterrupt):
        # The first training point is kept when the second reports.
        Sweep(lab, Silent(stop_at="energies", after=0.3)).run()
    [part] = (lab.path / "geometry").glob("*/energy/*.npz")
    save_arrays(part, {"energies": load_arrays(part)["energies"] + 1000})
    Sweep(lab, Silent()).run()
    measured = load_arrays(lab.geometry_file(Cell(2, 0), "energy"))["training/energies"]
    assert measured[0].min() > 900 > measured[1].max()
    assert not part.parent.exists()


def test_finished_work_is_not_done_again(finished: Lab) -> None:
    tell = Silent()
    Sweep(finished.folder, tell).run([stage.name for stage in STAGES])
    assert tell.stages == []


@pytest.fixture
def copied(finished: Lab, tmp_path: Path) -> LabFolder:
    shutil.copytree(finished.path, tmp_path / "lab")
    return LabFolder.open(tmp_path / "lab")


def test_lost_distances_are_found_again_and_nothing_else(finished: Lab, copied: LabFolder) -> None:
    copied.neighbours_file(Cell(2, 0)).unlink()
    assert Lab(copied).measured == [Cell(8, 0)]
    tell = Silent()
    Sweep(copied, tell).run()
    assert set(tell.stages) == {"pictures", "K = 2: neighbours"}
    there = dict(arrays(finished))
    for name, values in arrays(Lab(copied)):
        np.testing.assert_array_equal(values, there.pop(name), err_msg=name)
    assert not there


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"control": None}, "other arrays than distances"),
        ({"n_control": None}, "other arrays than distances"),
        ({"more": np.zeros(2)}, "other arrays than distances"),
        ({"training": np.zeros((3, 2))}, "no distances of one set"),
        ({"fresh": np.array([np.nan])}, "no distances of one set"),
        ({"among_fresh": np.zeros(0)}, "no distances of one set"),
        (None, "is damaged"),
    ],
)
def test_damaged_distances_are_removed_to_be_found_again(
    copied: LabFolder, change: dict[str, np.ndarray | None] | None, said: str
) -> None:
    file = copied.neighbours_file(Cell(8, 0))
    if change is None:
        file.write_bytes(file.read_bytes()[:-300])
    else:
        changed = {**load_arrays(file), **change}
        save_arrays(file, {name: value for name, value in changed.items() if value is not None})
    with pytest.raises(OutputError, match=said) as caught:
        Sweep(copied, Silent()).run()
    assert str(caught.value).startswith(f"{file} is damaged")
    assert str(caught.value).endswith("Remove it: it is made again, the same.")


def test_another_configuration_is_refused(finished: Lab, pictures: Path) -> None:
    other = settings_for("smoke", str(pictures), 140, channels=1, sizes=(2, 8), width=16)
    with pytest.raises(OutputError, match=r"network\.width: 8 there, 16 now"):
        LabFolder.create(finished.path, other)


def test_other_pictures_are_refused(finished: Lab, pictures: Path, tmp_path: Path) -> None:
    lab = LabFolder.create(tmp_path / "lab", settings(pictures))
    Sweep(lab, Silent()).run(["train"])
    for path in (lab.path / "models").iterdir():
        (path / "model" / "model_index.json").unlink()
    first = next(pictures.iterdir())
    content = first.read_bytes()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(first)
    try:
        with pytest.raises(OutputError, match="no longer holds the pictures"):
            Sweep(lab, Silent()).run(["train"])
    finally:
        first.write_bytes(content)


def test_a_damaged_model_says_what_to_do(pictures: Path, tmp_path: Path) -> None:
    lab = LabFolder.create(tmp_path / "lab", settings(pictures))
    Sweep(lab, Silent()).run(["train"])
    [weights] = (lab.model(Cell(2, 0)) / "model" / "unet").glob("*.safetensors")
    weights.write_bytes(b"")
    with pytest.raises(OutputError, match=r"model is damaged .* Remove .*K000002-seed0"):
        Sweep(lab, Silent()).run(["synthesise"])


def test_weights_of_a_distance_stay_the_same(pictures: Path, tmp_path: Path) -> None:
    lab = LabFolder.create(tmp_path, settings(pictures))
    lab.keep_weights("l2", None)
    lab.keep_weights("lpips-alex", "abc")
    lab.keep_weights("lpips-vgg", "def")
    lab.keep_weights("lpips-alex", "abc")
    assert lab.weights == {"lpips-alex": "abc", "lpips-vgg": "def"}
    with pytest.raises(OutputError, match=r"other weights of lpips-alex .*abc, now xyz"):
        lab.keep_weights("lpips-alex", "xyz")


def test_a_report_needs_no_models(finished: Lab, tmp_path: Path) -> None:
    shutil.copytree(finished.path, tmp_path / "lab")
    shutil.rmtree(tmp_path / "lab" / "models")
    shutil.rmtree(tmp_path / "lab" / "figures")
    before = (tmp_path / "lab" / "calibration.json").read_bytes()
    Sweep(LabFolder.open(tmp_path / "lab"), Silent()).run(["report"])
    assert (tmp_path / "lab" / "figures" / "transition.png").exists()
    assert (tmp_path / "lab" / "calibration.json").read_bytes() == before


def test_two_claims_exclude_each_other(finished: Lab) -> None:
    second_folder = LabFolder.open(finished.path)
    with finished.folder.claim("work") as first, second_folder.claim("work") as second:
        assert (first, second) == (True, False)
    with finished.folder.claim("work") as again:
        assert again


def test_a_folder_of_something_else_is_refused(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="no sweep's folder"):
        LabFolder.create(tmp_path, settings(pictures))
    with pytest.raises(UsageError, match=r"no settings\.json in it"):
        Lab.open(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(OutputError, match="not the settings of a sweep"):
        Lab.open(tmp_path)


def test_a_sweep_killed_while_it_wrote_its_first_file_goes_on(
    tmp_path: Path, pictures: Path
) -> None:
    draft_of(tmp_path / "settings.json").write_text('{"data"')
    lab = LabFolder.create(tmp_path, settings(pictures))
    assert Lab.open(tmp_path).settings == lab.settings


def test_thresholds_by_hand_change_states_alone(finished: Lab) -> None:
    by_hand = Lab(finished.folder, (1e9, None))
    classified = by_hand.classified["per-K"][Cell(8, 0)]
    assert classified.delta_m.rule == "by hand"
    assert {state.value for state in classified.states} <= {"memorized", "failed"}
    assert classified.delta_s == finished.classified["per-K"][Cell(8, 0)].delta_s


def test_a_stage_without_the_one_before_is_refused(pictures: Path, tmp_path: Path) -> None:
    lab = LabFolder.create(tmp_path / "lab", settings(pictures))
    with pytest.raises(UsageError, match=r"needs what the stage `neighbours` makes"):
        Sweep(lab, Silent()).run(["basin"])
    with pytest.raises(UsageError, match=r"--stage synthesise"):
        Sweep(lab, Silent()).run(["train", "neighbours"])


def test_more_sizes_and_seeds_follow_where_the_transition_is(
    pictures: Path, tmp_path: Path
) -> None:
    chosen = replace(settings(pictures), sizes=(2, 60), refine=2, seeds=(0, 1))
    lab = LabFolder.create(tmp_path / "lab", chosen)
    assert Lab(lab).first_cells == [Cell(2, 0), Cell(60, 0)]
    tell = Silent()
    Sweep(lab, tell).run(["train", "synthesise", "neighbours"])
    found = Lab(lab)
    assert [cell.K for cell in found.first_cells] == [2, 21, 40, 60]
    peak = found.peak()
    assert peak is not None
    others = [cell for cell in found.measured if cell.seed == 1]
    assert peak.K in [cell.K for cell in others]
    assert len(others) in (2, 3)
    assert sorted(tell.shares) == tell.shares
    assert tell.shares[-1] == 1


def test_a_sweep_from_python_is_the_same(finished: Lab, pictures: Path, tmp_path: Path) -> None:
    lab = run_sweep(settings(pictures), tmp_path / "lab", stages=["train", "synthesise"])
    assert lab.measured == []
    lab = run_sweep(settings(pictures), tmp_path / "lab", stages=["neighbours"])
    assert lab.measured == finished.measured
    cell = Cell(8, 0)
    here, there = (each.folder.neighbours(cell).training for each in (lab, finished))
    np.testing.assert_array_equal(here, there)
    with pytest.raises(UsageError, match="no stage 'paint'"):
        run_sweep(settings(pictures), tmp_path / "lab", stages=["paint"])


def test_a_stage_is_one_value(
    finished: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CONTRIBUTING shows: a stage of one's own is done, told of and not done again."""
    shutil.copytree(finished.path, tmp_path / "lab")

    def count(shop: Workshop, cell: Cell, on_progress: OnProgress) -> None:
        (shop.folder.path / f"{cell}.txt").write_text(f"{len(shop.synthetic(cell))} pictures")

    own = Stage(
        "count",
        "counting",
        needs=lambda lab, cell: [("synthesise", cell)],
        done=lambda lab, cell: (lab.path / f"{cell}.txt").exists(),
        cost=lambda settings, K: 1,
        do=count,
    )
    monkeypatch.setattr("small_scale.sweep.STAGES", (*STAGES, own))
    tell = Silent()
    Sweep(LabFolder.open(tmp_path / "lab"), tell).run(["count"])
    assert (tmp_path / "lab" / "K000002-seed0.txt").read_text().endswith("pictures")
    assert tell.shares[-1] == 1
