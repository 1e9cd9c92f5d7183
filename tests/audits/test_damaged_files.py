"""What is kept between runs and was damaged: set aside with a line, and made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from m2g_audit.audits.job import make_job
from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import set_up
from m2g_audit.records.record import AuditRecord, format_record
from m2g_audit.references.reference import embed_stored
from m2g_audit.similarity import Metric
from tests.support import tiny
from tests.support.setups import run_job

OPTIONS = {
    "seeds": 4,
    "steps": 2,
    "spectrum": "fast",
    "spectrum_samples": 1,
    "spectrum_tolerance": 0.5,
    "metric": "tiled_l2",
    "device": "cpu",
}
Damage = Callable[[Path], object]
WAYS: dict[str, Damage] = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "empty": lambda file: file.write_bytes(b""),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "noise": lambda file: file.write_bytes(np.random.default_rng(0).bytes(500)),
    "nested": lambda file: file.write_text("[" * 100_000),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.text_to_image(), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    random = np.random.default_rng(0)
    for i in range(12):
        levels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{i}.png")
    return folder


def audit(model: Path, reference: Path, out: Path) -> AuditRecord:
    options = AuditOptions.of(model=str(model), reference=str(reference), **OPTIONS)
    return run_job(make_job(set_up(options), "a harbour"), out)


def numbers(record: AuditRecord) -> dict[str, object]:
    return json.loads(format_record(record.model_copy(update={"timings": None})))


class Small(Metric):
    """Embeddings that are smaller than pictures, and kept for that."""

    name = "small"

    def _embed(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))[:, None]


def kept(folder: Path) -> list[Path]:
    """All files of a folder that a later run reads; of the hashes of weights a new one is made."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return [file for file in files if not file.name.startswith("identity")]


@pytest.fixture(scope="module")
def whole(
    model: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[AuditRecord, Path]:
    """The record of an audit, and the folder of its run and cache."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("M2G_CACHE", str(folder / "cache"))
        record = audit(model, reference, folder / "run")
    (folder / "run" / "record.json").unlink()
    return record, folder


@pytest.fixture
def folder(
    whole: tuple[AuditRecord, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of that folder, whose cache is in use; the record is to be made again."""
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "copy" / "cache"))
    return shutil.copytree(whole[1], tmp_path / "copy")


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_all_that_is_kept_is_made_again(
    model: Path,
    reference: Path,
    whole: tuple[AuditRecord, Path],
    folder: Path,
    way: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for file in kept(folder):
        WAYS[way](file)
    again = audit(model, reference, folder / "run")
    assert numbers(again) == numbers(whole[0])
    said = [line for line in caplog.messages if "set aside as" in line and "made again" in line]
    for kind in ("controls-", "plants-", "nulls-", "images/0000.png", "curvature/0", "reference/"):
        assert any(kind in line for line in said), kind
    assert not any("\n" in line for line in said)


def test_generations_of_another_shape_are_made_again(
    model: Path, reference: Path, whole: tuple[AuditRecord, Path], folder: Path
) -> None:
    save_file({"latents": torch.zeros(2)}, folder / "run" / "latents" / "0001.safetensors")
    Image.new("RGB", (8, 8)).save(folder / "run" / "images" / "0002.png")
    assert numbers(audit(model, reference, folder / "run")) == numbers(whole[0])
    for name in ("latents/0001.safetensors", "images/0002.png"):
        assert (folder / "run" / f"{name}.damaged").is_file()


@pytest.mark.parametrize("way", [*WAYS, "fewer"])
def test_damaged_embeddings_are_made_again(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path))
    metric = Small()
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    first = embed_stored(metric, images)
    (file,) = kept(tmp_path / "embeddings")
    if way == "fewer":
        save_file({"embeddings": first[:1].contiguous()}, file)
    else:
        WAYS[way](file)
    assert torch.equal(embed_stored(metric, images), first)
    assert "set aside as" in caplog.text
    assert torch.equal(embed_stored(metric, images), first)
