"""The model that a fine-tune was made from: what can't be it, and that it is loaded late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from m2g_audit.errors import ModelError, UsageError
from m2g_audit.models.base_model import find_base
from m2g_audit.models.loading import load_folder, load_model
from m2g_audit.models.protocol import TextToImage
from tests.support import tiny

SAMPLING = {"steps": 2, "guidance": 2.0, "batch_size": 2, "scheduler": "ddim"}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> TextToImage:
    folder = tiny.save(tiny.text_to_image(seed=1), tmp_path_factory.mktemp("tuned"))
    return load_model(folder, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.text_to_image(seed=0), tmp_path_factory.mktemp("base"))


def test_a_base_makes_its_own_pictures(folder: Path, tuned: TextToImage) -> None:
    base = find_base(str(folder), tuned)
    assert base.id == str(folder)
    made = base.generate(["a harbour", "a kite"], [1, 2], **SAMPLING)
    itself = load_model(folder, device="cpu")
    assert base.identity.sha256 == itself.identity.sha256 != tuned.identity.sha256
    assert base.identity.dtype == itself.identity.dtype
    expected = itself.generate(["a harbour", "a kite"], [1, 2], **SAMPLING)  # type: ignore[arg-type]
    assert torch.equal(made.images, expected.images)


def test_nothing_is_loaded_before_pictures_are_asked_for(
    folder: Path, tuned: TextToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(*arguments: Any, **named: Any) -> TextToImage:
        loaded.append(arguments)
        return load_folder(*arguments, **named)

    monkeypatch.setattr("m2g_audit.models.base_model.load_folder", load)
    base = find_base(str(folder), tuned)
    assert base.identity.sha256
    assert loaded == []
    for seed in (1, 2):
        base.generate(["a harbour"], [seed], **SAMPLING)
    assert len(loaded) == 1


def test_the_audited_model_is_not_its_own_base(folder: Path, tmp_path: Path) -> None:
    tuned = load_model(folder, device="cpu")
    copy = tiny.save(tiny.text_to_image(seed=0), tmp_path / "copy")
    for same in (folder, copy):
        with pytest.raises(UsageError, match="is the audited model itself"):
            find_base(str(same), tuned)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sample_size": 16}, "has sample_size 16, this model's 8"),
        ({"cross_attention_dim": 32}, "has cross_attention_dim 32, this model's 16"),
        ({"block_out_channels": (8, 8)}, r"has block_out_channels \[8, 8\], this model's"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_base_of_another_architecture_or_size_is_refused(
    tmp_path: Path, tuned: TextToImage, change: dict[str, object], said: str
) -> None:
    pipeline = tiny.text_to_image(seed=0)
    config = {**pipeline.unet.config, **change}
    pipeline.unet = type(pipeline.unet).from_config(config)
    other = tiny.save(pipeline, tmp_path / "other")
    with pytest.raises(UsageError, match=said):
        find_base(str(other), tuned)


def test_what_is_no_model_is_no_base(tmp_path: Path, tuned: TextToImage) -> None:
    with pytest.raises(ModelError, match="There is no model"):
        find_base(str(tmp_path / "nowhere"), tuned)
    with pytest.raises(ModelError):
        find_base(str(tiny.save(tiny.ddpm(), tmp_path / "ddpm")), tuned)
