"""Weights that are not those of the network are refused: by part, count and names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from m2g_audit.errors import ModelError
from m2g_audit.models.ddpm import UnconditionalModel
from m2g_audit.models.loading import load_model
from m2g_audit.models.model_folder import TEXT_TO_IMAGE, resolve
from m2g_audit.models.networks import load_network
from tests.support import tiny

Weights = dict[str, Tensor]
PARTS = {"unet": "U-Net", "vae": "VAE", "text_encoder": "text encoder"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.text_to_image(), tmp_path_factory.mktemp("model"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "model")


def change(folder: Path, part: str, changed: Callable[[Weights], Weights]) -> None:
    (file,) = (folder / part).glob("*.safetensors")
    save_file(changed(load_file(file)), file, {"format": "pt"})


def refused(folder: Path, words: str) -> str:
    with pytest.raises(ModelError, match=words) as caught:
        load_model(folder, device="cpu")
    return str(caught.value)


def renamed(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + key: weight for key, weight in weights.items()}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
def test_a_wrapped_network_has_to_be_unwrapped(folder: Path, part: str, prefix: str) -> None:
    change(folder, part, renamed(prefix))
    said = refused(folder, f"{PARTS[part]} of .*: missing [0-9]+ .*; unknown to it [0-9]+ ")
    assert f"({prefix}" in said
    assert "model._orig_mod" in said


@pytest.mark.parametrize("part", PARTS)
def test_a_weight_too_few_is_named(folder: Path, part: str) -> None:
    (file,) = (folder / part).glob("*.safetensors")
    key = sorted(load_file(file))[-1]
    change(folder, part, lambda weights: {k: w for k, w in weights.items() if k != key})
    assert "unknown" not in refused(folder, f"{PARTS[part]} of .*: missing 1 .{key}.\\. Get")


def test_one_layer_too_few_is_counted(folder: Path) -> None:
    change(
        folder,
        "text_encoder",
        lambda weights: {k: w for k, w in weights.items() if "s.1." not in k},
    )
    refused(folder, r"text encoder of .*: missing 16 \(\S+, \S+, \S+, \.\.\.\)")


@pytest.mark.parametrize("part", PARTS)
def test_a_lora_among_the_weights_has_to_be_fused(folder: Path, part: str) -> None:
    change(folder, part, lambda weights: weights | {"mid.lora_A.weight": torch.zeros(2)})
    refused(folder, r"unknown to it 1 \(mid.lora_A.weight\).*save_lora_weights.*--lora")


@pytest.mark.parametrize("part", PARTS)
def test_a_weight_of_another_shape_is_named(folder: Path, part: str) -> None:
    (file,) = (folder / part).glob("*.safetensors")
    key = sorted(load_file(file))[0]
    change(folder, part, lambda weights: weights | {key: torch.zeros(3, 1)})
    refused(folder, f"{PARTS[part]} of .*: of another shape 1 .{key}.")


def test_an_unconditional_network_is_held_to_the_same(tmp_path: Path) -> None:
    folder = tiny.save(tiny.ddpm(), tmp_path)
    change(folder, "unet", renamed("module."))
    with pytest.raises(ModelError, match=r"U-Net of .*missing"):
        UnconditionalModel.load(folder, device="cpu")


def test_known_harmless_weights_pass_without_a_word(
    original: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The rest of a whole CLIP, and the places that old versions saved with the weights."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    vision = {**sizes, "num_hidden_layers": 1, "image_size": 8, "patch_size": 4}
    whole = CLIPModel(CLIPConfig(text_config=sizes, vision_config=vision, projection_dim=8))
    rest = {k: w for k, w in whole.state_dict().items() if not k.startswith("text_model.")}
    places = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    change(folder, "text_encoder", lambda weights: weights | rest | places)
    loaded, plain = (
        load_network(resolve(place, TEXT_TO_IMAGE), "text_encoder").state_dict()
        for place in (folder, original)
    )
    assert loaded.keys() == plain.keys()
    assert all(torch.equal(loaded[key], plain[key]) for key in plain)
    assert capfd.readouterr() == ("", "")


def test_a_precision_in_a_configuration_rounds_no_weight(original: Path, folder: Path) -> None:
    file = folder / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dtype": "float16"}))
    loaded, plain = (
        load_network(resolve(place, TEXT_TO_IMAGE), "text_encoder").state_dict()
        for place in (folder, original)
    )
    assert all(torch.equal(loaded[key], plain[key]) for key in plain)


@pytest.mark.parametrize("name", ["no_such_thing", "DDIMScheduler", "StableDiffusionPipeline"])
def test_a_class_that_is_no_network_is_refused(folder: Path, name: str) -> None:
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"unet": ["diffusers", name]}))
    refused(folder, f"U-Net of .* is a {name} of diffusers: no such part is known")
