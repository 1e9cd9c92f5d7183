"""Whatever a model's configurations say, it loads or is refused by one message, exit 3."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2g_audit.errors import ModelError
from m2g_audit.models.loading import load_model
from m2g_audit.models.model_folder import TEXT_TO_IMAGE, resolve
from tests.support import tiny

FILES = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer_config.json",
)
NESTED: Any = [[[[[[[[[[1]]]]]]]]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.text_to_image(), tmp_path_factory.mktemp("model"))


@contextmanager
def saying(file: Path, text: str) -> Iterator[None]:
    """A block in which a file holds other text."""
    kept = file.read_bytes()
    file.write_text(text)
    try:
        yield
    finally:
        file.write_bytes(kept)


def changed(file: Path, key: str, value: object) -> str:
    return json.dumps(json.loads(file.read_text()) | {key: value})


@pytest.mark.parametrize(
    ("name", "key", "value", "said"),
    [
        ("unet/config.json", "sample_size", None, "sample_size: "),
        ("unet/config.json", "sample_size", 10**6, "sample_size: "),
        ("unet/config.json", "sample_size", [8, 8, 8], "sample_size: "),
        ("unet/config.json", "in_channels", "4", "in_channels: "),
        ("unet/config.json", "in_channels", True, "in_channels: "),
        ("unet/config.json", "layers_per_block", 10**6, "layers_per_block: "),
        ("unet/config.json", "anything", NESTED, "anything is nested more than 8 deep"),
        ("unet/config.json", "anything", 10**30, "anything is a number beyond 10,000,000"),
        ("unet/config.json", "anything", "x" * 20_000, "anything has 20,000 letters"),
        (
            "unet/config.json",
            "quantization_config",
            {"load_in_4bit": True},
            "the weights are quanti",
        ),
        ("vae/config.json", "scaling_factor", 0, "scaling_factor: "),
        ("vae/config.json", "scaling_factor", float("nan"), "scaling_factor is a number beyond"),
        ("text_encoder/config.json", "num_hidden_layers", 10**6, "num_hidden_layers: "),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**6, "num_train_timesteps: "),
        ("scheduler/scheduler_config.json", "beta_end", [0.1], "beta_end: "),
        ("scheduler/scheduler_config.json", "timestep_spacing", "odd", "timestep_spacing: "),
    ],
)
def test_values_that_no_model_has_are_refused_before_loading(
    folder: Path, name: str, key: str, value: object, said: str
) -> None:
    file = folder / name
    with saying(file, changed(file, key, value)), pytest.raises(ModelError) as error:
        resolve(folder, TEXT_TO_IMAGE)
    assert f"{file} can't be the configuration of a model: {said}" in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"attn_implementation": "kernels-community/flash-attn"},
        {"_attn_implementation": "somebody/kernel@main:layer"},
        {"attn_implementation": {"": "flash_attention_2"}},
        {"text_config": {"_attn_implementation_internal": "somebody/kernel"}},
        {"experts_implementation": "somebody/kernel"},
    ],
)
def test_kernels_of_the_hub_are_refused(folder: Path, change: dict[str, object]) -> None:
    file = folder / "text_encoder" / "config.json"
    told = json.dumps(json.loads(file.read_text()) | change)
    with saying(file, told), pytest.raises(ModelError, match="code that would be fetched"):
        resolve(folder, TEXT_TO_IMAGE)


@pytest.mark.parametrize("way", ["eager", "sdpa", None, {"": "sdpa"}])
def test_ways_of_attending_that_are_no_code_are_taken(folder: Path, way: object) -> None:
    file = folder / "text_encoder" / "config.json"
    with saying(file, changed(file, "attn_implementation", way)):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "text", ["", "[]", "7", "null", "{", "[" * 100_000, '{"a":' * 50_000, "{}"]
)
def test_files_that_are_no_configuration_are_refused(folder: Path, name: str, text: str) -> None:
    with saying(folder / name, text), pytest.raises(ModelError):
        load_model(folder, device="cpu")


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([[], {}, [[]], [1, 2], ["a"], {"a": 1}, NESTED, "../../x"]),
)


@settings(max_examples=60)
@given(name=st.sampled_from(FILES), data=st.data(), value=VALUES)
def test_any_value_of_any_key_loads_or_is_refused(
    folder: Path, name: str, data: st.DataObject, value: object
) -> None:
    file = folder / name
    key = data.draw(st.sampled_from(sorted(json.loads(file.read_text()))))
    with saying(file, changed(file, key, value)), suppress(ModelError):
        load_model(folder, device="cpu")


def test_a_model_of_pictures_that_are_no_multiple_of_8_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "unet" / "config.json"
    file.write_text(changed(file, "sample_size", 9))
    with pytest.raises(ModelError, match="divisible by 8 but are 18 and 18"):
        load_model(copy, device="cpu")
