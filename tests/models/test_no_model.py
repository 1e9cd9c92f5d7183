"""What is given as a model and is none: called what it is, with a way out that works."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

from m2g_audit.errors import ModelError
from m2g_audit.models.loading import load_model
from m2g_audit.models.model_folder import TEXT_TO_IMAGE, resolve
from tests.support import tiny

SUCH = "is a single file of weights, without the settings.*such as --config-from"
WAY = "give its base with --model, and with --lora"
WORD_WAY = "with --model, and with --textual-inversion the file"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.text_to_image(), tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "model")


def refused(model: Path, words: str, **options) -> str:
    with pytest.raises(ModelError, match=words) as caught:
        resolve(model, TEXT_TO_IMAGE, **options)
    assert "interrupted" not in str(caught.value)
    return str(caught.value)


# -- files


def weights(*names: str) -> Callable[[Path], object]:
    return lambda file: save_file({name: torch.zeros(2, 2) for name in names}, file)


def of_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


def large(file: Path) -> None:
    file.write_bytes(b"PK")
    os.truncate(file, 2 * 10**9)


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("a.safetensors", weights("unet.down.attn.to_q.lora_A.weight"), f"is a LoRA.*{WAY}"),
        ("a.safetensors", weights("lora_unet_down_to_q.lora_down.weight"), f"is a LoRA.*{WAY}"),
        ("a.safetensors", weights("unet.to_q.processor.lora.up.weight"), f"is a LoRA.*{WAY}"),
        ("a.safetensors", weights("<cat>"), f"is an embedding.*{WORD_WAY}"),
        ("a.safetensors", weights("lycoris.x.hada_w1_a"), f"is a LoRA.*{WAY}"),
        ("a.safetensors", weights("clip_g", "clip_l"), "is an embedding .textual inversion"),
        ("a.safetensors", weights("emb_params"), "is an embedding .textual inversion"),
        ("a.safetensors", weights("conditioner.x", "model.diffusion_model.x"), f"{SUCH}.*xl-base"),
        (
            "a.safetensors",
            weights("model.diffusion_model.joint_blocks.0.x"),
            f"{SUCH}.*-3.5-medium",
        ),
        ("a.safetensors", weights("double_blocks.0.x"), f"{SUCH}.*FLUX.1-dev"),
        ("a.safetensors", weights("cond_stage_model.model.x"), f"{SUCH}.*stable-diffusion-2-1"),
        ("a.safetensors", weights("cond_stage_model.x"), f"{SUCH}.*stable-diffusion-v1-5"),
        ("a.safetensors", weights("transformer_blocks.0.x"), "single file.*comes from: a hub id"),
        ("a.gguf", of_bytes(b"GGUF"), "is a GGUF file: its weights are quantised"),
        ("a.safetensors", weights("decoder.conv_in.weight"), "VAE.*AutoencoderKL.from_single_file"),
        ("a.safetensors", weights("transformer.h.0.weight"), "no checkpoint of a known family"),
        ("a.safetensors", of_bytes(b"x"), "can't be read .has 1 bytes that are no whole weights"),
        ("a.ckpt", large, "single file of a pickle.*from_single_file"),
        (
            "learned_embeds.bin",
            of_bytes(b"x" * 3_000),
            f"3,000 bytes, too small .*{WORD_WAY}",
        ),
        ("a.txt", of_bytes(b"a kite"), "is a file, and no model"),
        ("model_index.json", of_bytes(b"{}"), "is a file of a model: give the folder /"),
    ],
)
def test_a_file_is_called_what_it_is(
    tmp_path: Path, name: str, make: Callable[[Path], object], said: str
) -> None:
    make(tmp_path / name)
    refused(tmp_path / name, said)


def test_an_archive_is_to_be_unpacked(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(folder)
    refused(tmp_path / "model.tar.gz", "is an archive: unpack it")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_a_pipe_is_not_waited_for(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "is a pipe or a device")
    os.mkfifo(folder / "m2g.json")
    with pytest.raises(ModelError, match=r"m2g.json is not what .*it is a pipe, not a file"):
        resolve(folder, TEXT_TO_IMAGE).own_settings()


# -- folders


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_lora_weights.safetensors", f"holds a LoRA without its base.*{WAY}"),
        ("checkpoint-500/pytorch_lora_weights.safetensors", f"holds a LoRA.*{WAY}"),
        ("adapter_model.safetensors", f"holds a LoRA.*{WAY}"),
        ("checkpoint-500/adapter_model.safetensors", f"holds a LoRA.*{WAY}"),
        ("learned_embeds.bin", f"is an embedding .*{WORD_WAY}"),
        ("v1-5-pruned.safetensors", "lies in it, v1-5-pruned.safetensors, is a safetensors file"),
        ("picture.png", "has no model_index.json, and no part of a model lies in it"),
    ],
)
def test_a_folder_is_called_what_it_is(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path, said)


def test_a_part_leads_to_the_whole(folder: Path, tmp_path: Path) -> None:
    for file in ("model_index.json", "unet/config.json"):
        refused(folder / file, f"is a file of a model: give the folder {folder}")
    refused(folder / "unet", f"is a part of a model: give the folder above it, {folder}")
    refused(tmp_path, f"no model, but a folder above one: give {folder}")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "unet=UNet2DConditionModel.from_pretrained"),
        ({"_class_name": "AutoencoderKL"}, "vae=AutoencoderKL.from_pretrained"),
        ({"architectures": ["CLIPTextModel"]}, "text_encoder=CLIPTextModel.from_pretrained"),
        ({"_class_name": "ControlNetModel"}, "is a ControlNetModel, and no text-to-image model"),
        ({"architectures": ["LlamaForCausalLM"]}, "is a LlamaForCausalLM, and no text-to-image"),
        ({"architectures": 7}, "no part of a model lies in it"),
        ({"architectures": {}}, "no part of a model lies in it"),
        ([], "no part of a model lies in it"),
    ],
)
def test_a_part_alone_is_exchanged_in_its_base(tmp_path: Path, config: object, said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    refused(tmp_path, said)


def test_a_page_of_the_hub_leads_to_the_id() -> None:
    for page in ("https://huggingface.co/some/model", "huggingface.co/some/model/tree/main"):
        with pytest.raises(ModelError, match=r"is a page of the hub: .* --model some/model\."):
            resolve(page, TEXT_TO_IMAGE)


# -- weights in other files


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("diffusion_pytorch_model.fp16.safetensors", "as the variant fp16 .*say --variant fp16"),
        ("diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "as the variant fp16 .*"),
        (
            "diffusion_pytorch_model.non_ema.bin",
            "as the variant non_ema, a pickle .*variant='non_ema'",
        ),
        ("diffusion_pytorch_model.bin.index.json", "as shards of a pickle.*use_safetensors=False"),
        ("diffusion_flax_model.msgpack", "for Flax .*give a model with safetensors"),
        ("model.onnx", "for ONNX .*give a model with safetensors"),
    ],
)
def test_weights_in_another_format_are_not_called_missing(
    folder: Path, name: str, said: str
) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / name)
    refused(folder, f"lie here only {said}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LFS, "is a pointer of Git LFS, not the weights: run `git lfs pull`"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "is a page of the web, not the wei"),
    ],
)
@pytest.mark.parametrize("pickled", [False, True])
def test_what_lies_in_the_place_of_weights_is_named(
    folder: Path, content: bytes, said: str, pickled: bool
) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(content)
    if pickled:
        file.rename(file.with_suffix(".bin"))
    refused(folder, said, allow_pickle=pickled)


# -- the ways out, as they are told; those of a LoRA need peft


def audited(folder: Path) -> None:
    assert load_model(folder, device="cpu").generate("a kite", [0], steps=1).finite.all()


@pytest.fixture
def base(original: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(original)


def test_shards_of_a_pickle_are_saved_anew(base, folder: Path) -> None:
    shutil.rmtree(folder / "unet")
    base.unet.save_pretrained(folder / "unet", safe_serialization=False, max_shard_size="20KB")
    refused(folder, "as shards of a pickle")
    part = UNet2DConditionModel.from_pretrained(folder / "unet", use_safetensors=False)
    part.save_pretrained(folder / "unet")
    audited(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_without_its_file_is_missing_and_no_other_format(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    file.symlink_to("../../blobs/gone")
    with pytest.raises(ModelError, match=r"unet/diffusion_pytorch_model.safetensors is missing"):
        resolve(folder, TEXT_TO_IMAGE)
