"""Model folders: found, checked and hashed before anything heavy is loaded; one message a fault."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.errors import ModelError
from m2g_audit.models import model_folder
from m2g_audit.models.ddpm import UnconditionalModel
from m2g_audit.models.loading import load_model
from m2g_audit.models.model_folder import TEXT_TO_IMAGE, UNCONDITIONAL, ModelFolder, resolve
from tests.support import tiny

HUB_ID = "somebody/some-model"
WEIGHTS = {
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.text_to_image(), tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "model")


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refused(model: str | Path, words: str, family=TEXT_TO_IMAGE, **options) -> str:
    with pytest.raises(ModelError, match=words) as caught:
        resolve(model, family, **options)
    return str(caught.value)


def test_a_complete_folder_is_taken_as_it_is(folder: Path) -> None:
    found = resolve(folder, TEXT_TO_IMAGE)
    assert (found.id, found.revision, found.pickled) == (str(folder), None, False)
    assert found.class_name == "StableDiffusionPipeline"
    assert {file.relative_to(folder).as_posix() for file in found.weights} == WEIGHTS
    assert found.config("scheduler")["prediction_type"] == "epsilon"


# -- which model


@pytest.mark.parametrize("name", ["nonsense", "./not/here", "/no/such/folder", "a b/c"])
def test_an_unknown_model_says_what_a_model_is(name: str) -> None:
    assert "--model pocket" in refused(name, "neither a folder on this machine nor a hub id")


def test_a_local_model_has_no_revision(folder: Path) -> None:
    refused(folder, "has no revisions", revision="main")


@pytest.mark.parametrize(
    "class_name",
    ["StableDiffusionXLImg2ImgPipeline", "StableDiffusionInpaintPipeline", "FluxKontextPipeline"],
)
def test_other_tasks_are_named(folder: Path, class_name: str) -> None:
    edit(folder / "model_index.json", _class_name=class_name)
    refused(folder, f"not text-to-image: it is a {class_name}, whose task")


def test_a_model_without_prompts_is_not_text_to_image(tmp_path: Path) -> None:
    unconditional = tiny.save(tiny.ddpm(), tmp_path / "ddpm")
    refused(unconditional, "not text-to-image: it is a DDPMPipeline, which makes pictures without")
    assert resolve(unconditional, UNCONDITIONAL).class_name == "DDPMPipeline"


def test_text_to_image_is_not_unconditional(folder: Path) -> None:
    refused(folder, "is a StableDiffusionPipeline; .*DDPMPipeline", family=UNCONDITIONAL)


def test_code_from_elsewhere_is_never_run(folder: Path) -> None:
    edit(folder / "model_index.json", unet=["my_unet", "Evil"])
    refused(folder, "unet of .* is Evil of my_unet.*run their own code")
    edit(folder / "model_index.json", _class_name=["pipeline", "Evil"])
    refused(folder, "custom pipeline.*run its own code")


@pytest.mark.parametrize(
    "name",
    [
        "unet/pytorch_lora_weights.safetensors",
        "unet/My-LoRA.bin",
        "text_encoder/adapter_config.json",
        "pytorch_lora_weights.safetensors",
    ],
)
def test_a_lora_beside_its_base_is_not_left_out_in_silence(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    refused(folder, f"{name} lies in .* Move it elsewhere, and give it with --lora")


@pytest.mark.parametrize("entry", [None, 7, "UNet", ["diffusers"], ["diffusers", None], [1, 2, 3]])
def test_an_index_that_names_no_class_is_refused(folder: Path, entry: object) -> None:
    edit(folder / "model_index.json", unet=entry)
    refused(folder, "does not say what its unet is")


# -- the hub


def hub_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


@pytest.mark.parametrize(
    "error",
    [LocalEntryNotFoundError("offline"), OSError("disk full"), RuntimeError("client closed")],
)
def test_without_a_network_there_is_a_way_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    hub_raises(monkeypatch, error)
    message = refused(HUB_ID, f"could not be fetched from the hub .{type(error).__name__}")
    assert "--model pocket" in message
    assert f"from_pretrained({HUB_ID!r}).save_pretrained" in message
    assert "--model ./folder" in message


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (RepositoryNotFoundError, "no public model"),
        (GatedRepoError, "gated.*hf auth login"),
        (RevisionNotFoundError, "no revision 'v9'"),
    ],
)
def test_what_the_hub_answers_is_said(
    monkeypatch: pytest.MonkeyPatch, kind: type, words: str
) -> None:
    response = SimpleNamespace(headers={}, request=None)
    hub_raises(monkeypatch, kind("no", response=response))
    refused(HUB_ID, words, revision="v9")


def test_a_hub_model_is_loaded_from_its_snapshot(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = shutil.copytree(original, tmp_path / commit)
    asked: dict[str, Any] = {}

    def download(
        repo: str, *, revision: str | None, allow_patterns: list[str], **options: object
    ) -> str | list[object]:
        if options.get("dry_run"):
            return []
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = resolve(HUB_ID, TEXT_TO_IMAGE, revision="main")
    assert (found.id, found.revision) == (HUB_ID, commit)
    assert (asked["repo"], asked["revision"]) == (HUB_ID, "main")

    def fetched(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in asked["patterns"])

    files = [file.relative_to(original).as_posix() for file in original.rglob("*.*")]
    assert all(fetched(file) for file in files)
    assert fetched("unet/diffusion_pytorch_model-00001-of-00002.safetensors")
    for unneeded in (
        "safety_checker/model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "v1-5-pruned.ckpt",
        "pipeline.py",
    ):
        assert not fetched(unneeded)


# -- half-downloaded


@pytest.mark.parametrize(
    "name",
    [
        *sorted(WEIGHTS),
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer_config.json",
    ],
)
def test_every_missing_or_empty_file_is_named(folder: Path, name: str) -> None:
    file = folder / name
    file.write_bytes(b"")
    refused(folder, f"{name} is empty.*interrupted")
    file.unlink()
    assert "hf download" in refused(folder, f"{name} is missing.*interrupted")
    shutil.rmtree(file.parent)
    refused(folder, f"{file.parent.name}/.* is missing")


def test_without_an_index_nothing_is_guessed(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    refused(folder, "holds parts of a model, but no model_index.json: .*did not finish")
    (folder / "model_index.json").write_text('{"_class_name": "Stab')
    refused(folder, "not readable JSON")


@given(share=st.floats(0, 1, exclude_max=True))
def test_weights_cut_short_anywhere_are_found(
    original: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    folder = shutil.copytree(original, tmp_path_factory.mktemp("cut") / "model")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    refused(folder, "not complete: unet/diffusion_pytorch_model.safetensors")


def test_weights_with_a_broken_header_are_found(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    whole = bytearray(file.read_bytes())
    whole[8:12] = b"!!!!"
    file.write_bytes(whole)
    refused(folder, "invalid JSON in header")


def test_sharded_weights_are_complete_or_not(tmp_path: Path) -> None:
    pipe = tiny.text_to_image()
    tiny.save(pipe, tmp_path)
    shutil.rmtree(tmp_path / "unet")
    pipe.unet.save_pretrained(tmp_path / "unet", max_shard_size="20KB")
    shards = sorted((tmp_path / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    found = resolve(tmp_path, TEXT_TO_IMAGE)
    assert set(shards) <= set(found.weights)
    load_model(tmp_path, device="cpu")
    shards[1].unlink()
    refused(tmp_path, f"{shards[1].name} is missing")


# -- pickles


def pickled(folder: Path, component: str, stem: str) -> None:
    from safetensors.torch import load_file

    file = next((folder / component).glob("*.safetensors"))
    torch.save(load_file(file), folder / component / f"{stem}.bin")
    file.unlink()


def test_pickles_are_refused_unless_insisted_on(folder: Path) -> None:
    pickled(folder, "unet", "diffusion_pytorch_model")
    pickled(folder, "text_encoder", "pytorch_model")
    assert "--allow-pickle" in refused(folder, "only as a pickle, which can run any code")
    with pytest.raises(ModelError, match="pickle"):
        load_model(folder, device="cpu")
    found = resolve(folder, TEXT_TO_IMAGE, allow_pickle=True)
    assert found.pickled
    model = load_model(folder, device="cpu", allow_pickle=True)
    assert model.generate("a kite", [0], steps=1, guidance=1.0).finite.all()


def test_a_pickled_unconditional_model(tmp_path: Path) -> None:
    folder = tiny.save(tiny.ddpm(), tmp_path)
    pickled(folder, "unet", "diffusion_pytorch_model")
    refused(folder, "pickle", family=UNCONDITIONAL)
    UnconditionalModel.load(folder, device="cpu", allow_pickle=True)


def test_an_early_unconditional_model_lies_in_one_folder(tmp_path: Path) -> None:
    folder = tiny.save(tiny.ddpm(), tmp_path)
    for file in [*(folder / "unet").iterdir(), *(folder / "scheduler").iterdir()]:
        file.rename(folder / file.name)
    (folder / "unet").rmdir()
    (folder / "scheduler").rmdir()
    assert UnconditionalModel.load(folder, device="cpu").shape == (3, 8, 8)


# -- the hash


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_the_hash_is_that_of_the_weights_alone(original: Path, folder: Path) -> None:
    before = resolve(original, TEXT_TO_IMAGE).sha256
    assert resolve(folder, TEXT_TO_IMAGE).sha256 == before
    (folder / "README.md").write_text("words")
    edit(folder / "model_index.json", _diffusers_version="0.0.1")
    assert resolve(folder, TEXT_TO_IMAGE).sha256 == before
    flip_a_bit(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert resolve(folder, TEXT_TO_IMAGE).sha256 != before


CONFIGURATION = {
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
}


@pytest.mark.parametrize("name", sorted(CONFIGURATION))
def test_a_setting_of_any_part_is_in_the_configuration(folder: Path, name: str) -> None:
    before = resolve(folder, TEXT_TO_IMAGE).configuration
    assert set(before) >= CONFIGURATION
    edit(folder / name, some_setting=2.5)
    after = resolve(folder, TEXT_TO_IMAGE).configuration
    assert after.pop(name) == {**before.pop(name), "some_setting": 2.5}
    assert after == before


def test_all_files_of_the_tokenizer_and_own_settings_are_in_the_configuration(folder: Path) -> None:
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    before = resolve(folder, TEXT_TO_IMAGE).configuration
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\nt h\n")
    (folder / "m2g.json").write_text('{"steps": 9}')
    after = resolve(folder, TEXT_TO_IMAGE).configuration
    assert after.pop("m2g.json") == {"steps": 9}
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"tokenizer/merges.txt"}


def test_where_a_model_lies_is_not_in_the_configuration(original: Path, folder: Path) -> None:
    edit(folder / "unet" / "config.json", _name_or_path="/elsewhere/unet")
    (folder / "tokenizer" / ".DS_Store").write_bytes(b"x")
    configurations = [resolve(place, TEXT_TO_IMAGE).configuration for place in (original, folder)]
    assert configurations[0] == configurations[1]


@pytest.mark.parametrize("value", ["NaN", "1e999", r'"\ud800"'])
def test_what_an_identity_cannot_hold_is_told_apart_by_its_hash(folder: Path, value: str) -> None:
    file = folder / "tokenizer" / "tokenizer_config.json"
    file.write_text(file.read_text().replace("{", f'{{"some_setting": {value}, ', 1))
    content = resolve(folder, TEXT_TO_IMAGE).configuration["tokenizer/tokenizer_config.json"]
    assert content == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "7", '{"steps": "9"}', '{"steps": 0}', '{"guidance": NaN}', '{"metric": 1}'],
)
def test_own_settings_that_make_no_sense_are_refused(folder: Path, content: str) -> None:
    (folder / "m2g.json").write_text(content)
    with pytest.raises(ModelError, match=r"m2g.json is not what this program reads .*leave it out"):
        resolve(folder, TEXT_TO_IMAGE).own_settings()


# -- the files that the loaders choose


def sharded(pipe: StableDiffusionPipeline, folder: Path, component: str) -> None:
    """Put shards with an index beside the single file of one part's weights."""
    (single,) = (folder / component).glob("*.safetensors")
    kept = single.read_bytes()
    getattr(pipe, component).save_pretrained(folder / component, max_shard_size="20KB")
    assert len(list((folder / component).glob("*-of-*.safetensors"))) > 1
    single.write_bytes(kept)


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_what_is_hashed_is_what_is_loaded(folder: Path, component: str) -> None:
    sharded(tiny.text_to_image(seed=1), folder, component)
    model = load_model(folder, device="cpu")
    (single,) = (folder / component).glob("*[!0-9].safetensors")
    loaded_single = single in resolve(folder, TEXT_TO_IMAGE).weights
    seed = 0 if loaded_single else 1
    own = getattr(tiny.text_to_image(seed=seed), component).state_dict()
    loaded = getattr(model._pipe, component).state_dict()
    assert all(torch.equal(loaded[key], own[key]) for key in own)
    plain = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    plainly = getattr(plain, component).state_dict()
    assert all(torch.equal(loaded[key], plainly[key]) for key in own)


@pytest.mark.parametrize("change", ["left out", "of another shard", "invented"])
def test_an_index_that_does_not_fit_its_shards_is_refused(folder: Path, change: str) -> None:
    sharded(tiny.text_to_image(), folder, "unet")
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    listed = content["weight_map"]
    key = next(iter(listed))
    shards = sorted(set(listed.values()))
    if change == "left out":
        del listed[key]
    elif change == "of another shard":
        listed[key] = next(shard for shard in shards if shard != listed[key])
    else:
        key = "one.more.weight"
        listed[key] = shards[0]
    index.write_text(json.dumps(content))
    refused(folder, rf"index.json of .* does not fit the files beside it: 1 \({re.escape(key)}\)")


@pytest.mark.parametrize("listed", [None, [], {}, {"a": 1}, {"a": "../unet/x.safetensors"}])
def test_an_index_that_names_no_file_beside_it_is_refused(folder: Path, listed: object) -> None:
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": listed}))
    refused(folder, "does not say which of the files beside it")


@pytest.fixture
def kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the hash of `folder` is kept."""
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(model_folder, "_TICK_NS", -(10**18))  # as if it lay there for long
    resolve(folder, TEXT_TO_IMAGE).sha256  # noqa: B018
    (file,) = (tmp_path / "cache" / "hashes").iterdir()
    return file


def test_weights_are_not_read_again(
    folder: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resolve(folder, TEXT_TO_IMAGE).sha256
    assert before == resolve(folder, TEXT_TO_IMAGE)._hash() == kept.read_text()
    monkeypatch.setattr(ModelFolder, "_hash", lambda _: pytest.fail("read again"))
    assert resolve(folder, TEXT_TO_IMAGE).sha256 == before


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder"])
def test_a_changed_file_is_noticed_at_the_same_size_and_date(
    folder: Path, kept: Path, component: str
) -> None:
    (file,) = (folder / component).glob("*.safetensors")
    before = file.stat()
    flip_a_bit(file)
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of a file system has ticks
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    found = resolve(folder, TEXT_TO_IMAGE)
    assert found.sha256 == found._hash() != kept.read_text()


@pytest.mark.parametrize("content", [b"", b"ab" * 31, b"\xff" * 64, b"AB" * 32, b"ab" * 32 + b"\n"])
def test_a_broken_hash_is_made_again(folder: Path, kept: Path, content: bytes) -> None:
    right = kept.read_text()
    kept.write_bytes(content)
    assert resolve(folder, TEXT_TO_IMAGE).sha256 == right
    assert kept.read_text() == right


def test_a_file_that_may_still_change_is_read_each_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(model_folder, "_TICK_NS", 10**18)
    found = resolve(folder, TEXT_TO_IMAGE)
    assert found.sha256 == found._hash()
    assert not (tmp_path / "cache").exists()


def test_a_hash_that_cannot_be_kept_is_found_all_the_same(
    folder: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2G_CACHE", "/dev/null")
    assert resolve(folder, TEXT_TO_IMAGE).sha256 == kept.read_text()


def test_finding_a_model_needs_no_torch() -> None:
    program = "import sys, m2g_audit.models.model_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
