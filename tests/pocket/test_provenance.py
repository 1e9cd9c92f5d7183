"""What a model of the pocket world brings along, wherever its folder lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import set_up, with_list
from m2g_audit.audits.yardstick_search import own_truth
from m2g_audit.errors import UsageError
from m2g_audit.models.model_folder import POCKET_FOLDER
from m2g_audit.pocket.provenance import find_provenance
from m2g_audit.pocket.truth_table import TRUTH_FILE, load_table


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second pocket: the shipped weights with a truth of its own."""
    folder = shutil.copytree(POCKET_FOLDER, tmp_path_factory.mktemp("second") / "weights")
    truth = json.loads((folder / TRUTH_FILE).read_text())
    for row in truth["captions"]:
        row["delta_s"], row["false_memorized"] = 0.5, 0.25
    (folder / TRUTH_FILE).write_text(json.dumps(truth))
    return folder


def test_a_second_pocket_has_its_own_truth(second: Path) -> None:
    found = find_provenance(str(second))
    assert found is not None
    assert found.truth is not None
    caption = found.truth.captions[0].caption
    assert found.truth.thresholds_for(caption).delta_s == 0.5
    assert load_table().thresholds_for(caption).delta_s != 0.5
    assert "25% of samples" in found.remarks(caption)[0]


def test_an_audit_of_a_second_pocket_knows_its_training_set(second: Path) -> None:
    setup = set_up(AuditOptions(model=str(second), spectrum="none"))
    assert (setup.settings.reference, setup.settings.reference_complete) == ("pocket", True)
    truth = own_truth(setup)
    assert truth is not None
    assert truth.captions[0].delta_s == 0.5


def test_a_folder_that_was_not_indexed_brings_nothing(second: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(second, tmp_path / "bare")
    (bare / "training-index.npy").unlink()
    assert find_provenance(str(bare)) is None
    with pytest.raises(UsageError, match="--reference pocket is the training set of"):
        set_up(AuditOptions(model=str(bare), reference="pocket"))


def test_a_folder_without_truth_brings_its_training_set(second: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(second, tmp_path / "bare")
    (bare / TRUTH_FILE).unlink()
    found = find_provenance(bare)
    assert found is not None
    assert found.truth is None
    assert found.remarks(load_table().captions[0].caption) == []


@pytest.mark.parametrize("model", ["CompVis/stable-diffusion-v1-4", "nowhere", object()])
def test_other_models_bring_nothing(model: object) -> None:
    assert find_provenance(model) is None


def test_a_folder_of_captions_is_no_reference_of_a_model_with_its_own(
    second: Path, tmp_path: Path
) -> None:
    options = AuditOptions(model=str(second))
    assert with_list(options, tmp_path) == options
    assert with_list(AuditOptions(model="other/model"), tmp_path).reference == str(tmp_path)
