"""Models of the hub: one format of each part is fetched, what is cached in part is told of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors.torch import load_file, save_file

from m2g_audit import doctor
from m2g_audit.errors import ModelError
from m2g_audit.models.downloads import pending_bytes
from m2g_audit.models.model_folder import TEXT_TO_IMAGE, resolve
from m2g_audit.models.networks import load_pipeline
from tests.support import original_layout, tiny

ID, COMMIT = "somebody/some--model", "0123456789abcdef0123456789abcdef01234567"
PICKLES = {
    "unet/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.bin",
    "text_encoder/pytorch_model.bin",
}


@dataclass
class File:
    """What a dry run tells of a file."""

    filename: str
    file_size: int
    will_download: bool


class Hub:
    """Stands for the hub with one model, and for the cache of what was fetched from it."""

    def __init__(self, origin: Path, cache: Path) -> None:
        self.origin = origin
        self.snapshot = cache / f"models--{ID.replace('/', '--', 1)}" / "snapshots" / COMMIT
        self.online = True

    def names(self) -> list[str]:
        files = (file for file in self.origin.rglob("*") if file.is_file())
        return sorted(file.relative_to(self.origin).as_posix() for file in files)

    def listed(self, *_: object, **__: object) -> list[str]:
        if not self.online:
            raise OfflineModeIsEnabled
        return self.names()

    def fetch(
        self,
        _: str,
        *,
        allow_patterns: Sequence[str],
        ignore_patterns: Sequence[str] = (),
        dry_run: bool = False,
        **__: object,
    ) -> str | list[File]:
        matched = [
            name
            for name in self.names()
            if any(fnmatch(name, one) for one in allow_patterns)
            and not any(fnmatch(name, one) for one in ignore_patterns)
        ]
        if dry_run:
            if not self.online:
                raise OfflineModeIsEnabled
            return [
                File(name, (self.origin / name).stat().st_size, not (self.snapshot / name).exists())
                for name in matched
            ]
        if not self.online:
            if not self.snapshot.exists():
                raise LocalEntryNotFoundError("offline")
            return str(self.snapshot)
        self.snapshot.mkdir(parents=True, exist_ok=True)
        for name in matched:
            (self.snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.origin / name, self.snapshot / name)
        return str(self.snapshot)

    def fetched(self) -> set[str]:
        files = (file for file in self.snapshot.rglob("*") if file.is_file())
        return {file.relative_to(self.snapshot).as_posix() for file in files}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    origin = tiny.save(tiny.text_to_image(), tmp_path / "origin")
    made = Hub(origin, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.fetch)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", made.listed)
    return made


def pickled(hub: Hub, *, beside: bool) -> None:
    """Put pickles in the place of safetensors, or beside them as many models have them."""
    for name in PICKLES:
        (file,) = (hub.origin / name).parent.glob("*.safetensors")
        shutil.copyfile(file, hub.origin / name)
        shutil.copyfile(file, (hub.origin / name).with_suffix(".fp16.bin"))
        if not beside:
            file.unlink()


def refused(words: str, **options) -> str:
    with pytest.raises(ModelError, match=words) as caught:
        resolve(ID, TEXT_TO_IMAGE, **options)
    return str(caught.value)


def test_beside_safetensors_no_pickles_are_fetched(hub: Hub) -> None:
    pickled(hub, beside=True)
    found = resolve(ID, TEXT_TO_IMAGE, allow_pickle=True)
    assert not found.pickled
    assert not any(name.endswith(".bin") for name in hub.fetched())


def test_where_there_is_nothing_else_one_pickle_of_each_part_is_fetched(hub: Hub) -> None:
    pickled(hub, beside=False)
    refused("come only as a pickle, .* insist with --allow-pickle")
    assert not any(name.endswith(".bin") for name in hub.fetched())
    found = resolve(ID, TEXT_TO_IMAGE, allow_pickle=True)
    assert found.pickled
    assert {name for name in hub.fetched() if name.endswith(".bin")} == PICKLES
    hub.online = False
    assert resolve(ID, TEXT_TO_IMAGE, allow_pickle=True).weights == found.weights


def test_of_a_mixed_model_only_the_parts_without_safetensors_are_pickles(hub: Hub) -> None:
    pickled(hub, beside=True)
    (hub.origin / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    resolve(ID, TEXT_TO_IMAGE, allow_pickle=True)
    fetched = {name for name in hub.fetched() if name.endswith(".bin")}
    assert fetched == {"vae/diffusion_pytorch_model.bin"}


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("allow_pickle", [True, False])
def test_what_is_to_come_is_what_is_fetched(hub: Hub, beside: bool, allow_pickle: bool) -> None:
    pickled(hub, beside=beside)
    announced = pending_bytes(ID, allow_pickle=allow_pickle)
    if beside or allow_pickle:
        resolve(ID, TEXT_TO_IMAGE, allow_pickle=allow_pickle)
    else:
        refused("pickle")
    assert announced == sum((hub.snapshot / name).stat().st_size for name in hub.fetched())
    assert pending_bytes(ID, allow_pickle=allow_pickle) == 0


def test_of_a_variant_the_plain_weights_are_not_fetched(hub: Hub) -> None:
    """Parts without the variant are."""
    for part, name in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        plain = hub.origin / part / f"{name}.safetensors"
        shutil.copyfile(plain, plain.with_name(f"{name}.fp16.safetensors"))
    announced = pending_bytes(ID, variant="fp16")
    found = resolve(ID, TEXT_TO_IMAGE, variant="fp16")
    assert announced == sum((hub.snapshot / name).stat().st_size for name in hub.fetched())
    assert {file.name for file in found.weights} == {
        "diffusion_pytorch_model.fp16.safetensors",
        "model.fp16.safetensors",
        "diffusion_pytorch_model.safetensors",
    }
    assert {name for name in hub.fetched() if name.endswith(".safetensors")} == {
        file.relative_to(found.path).as_posix() for file in found.weights
    }


def test_a_model_in_a_subfolder_is_fetched_alone(hub: Hub) -> None:
    whole = shutil.copytree(hub.origin, hub.origin.parent / "whole")
    shutil.rmtree(hub.origin)
    for name in ("large", "small"):
        shutil.copytree(whole, hub.origin / "models" / name)
    found = resolve(ID, TEXT_TO_IMAGE, subfolder="models/small")
    assert (found.path, found.revision) == (hub.snapshot / "models" / "small", COMMIT)
    assert all(name.startswith("models/small/") for name in hub.fetched())
    (found.path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    hub.online = False
    refused("Only a part of somebody/.* is in the hub's cache", subfolder="models/small")


def test_of_the_model_that_completes_a_checkpoint_only_what_lacks_is_fetched(
    hub: Hub, tmp_path: Path
) -> None:
    file = original_layout.save(tiny.text_to_image(), tmp_path / "merged.safetensors")
    found = resolve(file, TEXT_TO_IMAGE, config_from=ID)
    assert found.weights == (file,)
    assert not any(name.endswith(".safetensors") for name in hub.fetched())
    hub.online = False
    assert resolve(file, TEXT_TO_IMAGE, config_from=ID).sha256 == found.sha256


def test_a_file_whose_settings_are_not_at_hand_is_refused_offline(hub: Hub, tmp_path: Path) -> None:
    file = original_layout.save(tiny.text_to_image(), tmp_path / "merged.safetensors")
    hub.online = False
    with pytest.raises(ModelError, match="is not on this machine and could not be fetched"):
        resolve(file, TEXT_TO_IMAGE, config_from=ID)


def sharded(hub: Hub, part: str, *, beside: bool) -> set[str]:
    """Put the weights of a part into two shards with an index, beside the file or in its place."""
    (whole,) = (hub.origin / part).glob("*.safetensors")
    weights = load_file(whole)
    names = sorted(weights)
    place: dict[str, str] = {}
    for i, own in enumerate((names[::2], names[1::2]), start=1):
        shard = f"{whole.stem}-{i:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in own}, whole.parent / shard, {"format": "pt"})
        place |= dict.fromkeys(own, shard)
    index = whole.with_name(f"{whole.name}.index.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": place}))
    if not beside:
        whole.unlink()
    return {f"{part}/{name}" for name in (index.name, *place.values())}


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("beside", [True, False])
def test_weights_in_one_file_and_in_shards_are_fetched_once(
    hub: Hub, part: str, beside: bool
) -> None:
    shards = sharded(hub, part, beside=beside)
    announced = pending_bytes(ID, allow_pickle=False)
    found = resolve(ID, TEXT_TO_IMAGE)
    fetched = {name for name in hub.fetched() if name.endswith(".safetensors")}
    assert fetched == {file.relative_to(hub.snapshot).as_posix() for file in found.weights}
    of_shards = not beside or part != "text_encoder"
    assert bool(fetched & shards) == of_shards
    assert announced == sum((hub.snapshot / name).stat().st_size for name in hub.fetched())
    assert resolve(hub.origin, TEXT_TO_IMAGE).sha256 == found.sha256
    load_pipeline(found, torch.float32)


def test_a_cache_in_part_goes_on_with_the_network_back(hub: Hub) -> None:
    resolve(ID, TEXT_TO_IMAGE)
    (hub.snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    hub.online = False
    for model in (ID, hub.snapshot):
        with pytest.raises(ModelError) as caught:
            resolve(model, TEXT_TO_IMAGE)
        assert "vae/diffusion_pytorch_model.safetensors is missing" in str(caught.value)
        assert f"with a network connection --model {ID} fetches the rest" in str(caught.value)
    (hub.snapshot / "model_index.json").unlink()
    refused("has no model_index.json: only a part of somebody/some--model is in the hub's cache")
    hub.online = True
    resolve(ID, TEXT_TO_IMAGE)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "diffusion_pytorch_model.fp16.safetensors",
            "only as the variant fp16 .*say --variant fp16",
        ),
        ("diffusion_flax_model.msgpack", "only for Flax .*another --revision"),
        ("elsewhere.safetensors", "The hub's own copy has no such file: give another --revision"),
    ],
)
def test_what_the_hub_has_in_other_files_is_not_called_interrupted(
    hub: Hub, name: str, said: str
) -> None:
    (hub.origin / "unet" / "diffusion_pytorch_model.safetensors").rename(hub.origin / "unet" / name)
    refused(said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_lora_weights.safetensors", "holds a LoRA without its base model"),
        ("learned_embeds.safetensors", "holds an embedding"),
        ("v1-5-pruned.ckpt", "on the hub it has no model_index.json.*--config-from"),
    ],
)
def test_a_repository_without_a_model_is_called_what_it_is(hub: Hub, name: str, said: str) -> None:
    shutil.rmtree(hub.origin)
    hub.origin.mkdir()
    (hub.origin / name).write_bytes(b"x")
    refused(said)


# -- the doctor


@dataclass(frozen=True)
class Cached:
    """What huggingface_hub tells of a model in its cache."""

    snapshot_path: Path
    repo_id: str = ID
    repo_type: str = "model"
    size_on_disk: int = 10**9
    refs: frozenset[str] = frozenset({"main"})
    last_modified: float = 0
    file_name: str = "model_index.json"

    @property
    def repos(self) -> list[Cached]:
        return [self]

    revisions = files = repos


def told_by_the_doctor(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> doctor.Item:
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: Cached(hub.snapshot))
    (item,) = (item for item in doctor.diagnose().models if item.name == ID)
    return item


def test_the_doctor_ticks_a_complete_model(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(ID, TEXT_TO_IMAGE)
    item = told_by_the_doctor(hub, monkeypatch)
    assert (item.at_hand, item.detail) == (True, "in the hub's cache, 1.0 GB")


@pytest.mark.parametrize("fault", ["missing", "variant", "other task", "pickle"])
def test_the_doctor_says_what_loading_says(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    shutil.copytree(hub.origin, hub.snapshot)
    file = hub.snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    index = hub.snapshot / "model_index.json"
    if fault == "missing":
        file.unlink()
    elif fault == "variant":
        file.rename(file.with_suffix(".fp16.safetensors"))
    elif fault == "pickle":
        file.rename(file.with_suffix(".bin"))
    else:
        name = "StableDiffusionXLImg2ImgPipeline"
        index.write_text(index.read_text().replace("StableDiffusionPipeline", name))
    hub.online = False
    item = told_by_the_doctor(hub, monkeypatch)
    assert not item.at_hand
    assert refused(".").removeprefix(f"{ID} ") == item.detail
