"""Textual inversion files: the pictures of plain diffusers with them, or one clear message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import set_up
from m2g_audit.errors import ModelError
from m2g_audit.models.embeddings import find_embeddings, load_embeddings
from m2g_audit.models.loading import load_model
from m2g_audit.models.pipeline import Pipeline
from m2g_audit.models.protocol import TextToImage
from tests.support import tiny
from tests.support.families import FAMILIES, SMALL, WIDTH

SEEDS = (1, 2)
WORD = "<harbour>"
PROMPT = f"a print of {WORD}"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def vectors(n: int = 3, width: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tiny.text_to_image(), tmp_path_factory.mktemp("base"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file({WORD: vectors()}, made := tmp_path / "learned_embeds.safetensors")
    return made


def pictures(model: TextToImage, prompt: str = PROMPT) -> Tensor:
    return model.generate(prompt, SEEDS, steps=2, guidance=3.0).images


def taught(base: Path, *files: Path) -> TextToImage:
    return load_model(base, device="cpu", embeddings=find_embeddings([str(f) for f in files]))


def test_pictures_are_those_of_diffusers_with_the_same_word(base: Path, file: Path) -> None:
    plain = tiny.text_to_image()
    plain.load_textual_inversion(file.parent, weight_name=file.name)
    model = taught(base, file)
    assert torch.equal(pictures(model), pictures(Pipeline.of(plain)))
    assert not torch.equal(pictures(model), pictures(load_model(base, device="cpu")))


def test_several_words_and_the_folder_of_a_training(base: Path, file: Path, tmp_path: Path) -> None:
    save_file({"emb_params": vectors(2, seed=1)}, other := tmp_path / "old-print.safetensors")
    model = taught(base, file.parent, other)
    assert [said["word"] for said in model.identity.embeddings] == [WORD, "old-print"]
    # Each vector is a token: two words of one letter, the vectors, and both marks.
    assert model.token_count(f"a {WORD} b old-print")[0] == 1 + 3 + 1 + 2 + 2


def test_the_two_encoders_of_xl_get_each_its_own(tmp_path: Path) -> None:
    weights = {"clip_l": vectors(2, WIDTH), "clip_g": vectors(2, WIDTH, seed=1)}
    save_file(weights, made := tmp_path / "harbour.safetensors")
    ours, plain = FAMILIES["sdxl"](), FAMILIES["sdxl"]()
    load_embeddings(ours, find_embeddings([str(made)]))
    for key, number in (("clip_l", ""), ("clip_g", "_2")):
        plain.load_textual_inversion(
            {"harbour": weights[key]},
            text_encoder=getattr(plain, f"text_encoder{number}"),
            tokenizer=getattr(plain, f"tokenizer{number}"),
        )
    size = SMALL.get("sdxl")
    of = (size["height"], size["width"]) if size else None
    found = [pictures(Pipeline.of(pipe, of), "a print of harbour") for pipe in (ours, plain)]
    assert torch.equal(*found)


def test_the_identity_has_file_and_word(base: Path, file: Path) -> None:
    with_it, without = taught(base, file).identity, load_model(base, device="cpu").identity
    assert with_it.sha256 != without.sha256
    (said,) = with_it.embeddings
    assert (said["file"], said["word"], said["vectors"]) == (file.name, WORD, 3)
    assert with_it.configuration["embeddings"] == [said]
    setup = set_up(
        AuditOptions.of(model=str(base), textual_inversion=(str(file),), device="cpu", metric="l2")
    )
    assert setup.pipeline.identity.sha256 == with_it.sha256


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({WORD: vectors(1, 32)}, "vectors of 32 numbers, the text_encoder of this model 16"),
        ({"clip_l": vectors(), "clip_g": vectors()}, "vectors for text_encoder_2, which this mod"),
        ({"a</w>": vectors()}, "can't be loaded .*the model knows its word already"),
    ],
)
def test_a_word_of_another_model_is_refused(
    base: Path, tmp_path: Path, weights: dict[str, Tensor], said: str
) -> None:
    save_file(weights, file := tmp_path / "word.safetensors")
    with pytest.raises(ModelError, match=said):
        taught(base, file)


def test_vectors_for_one_of_two_encoders_are_refused(file: Path) -> None:
    with pytest.raises(ModelError, match="for one text encoder, and this model has 2"):
        load_embeddings(FAMILIES["sdxl"](), find_embeddings([str(file)]))


def test_a_pipeline_without_a_loader_takes_none(file: Path) -> None:
    with pytest.raises(ModelError, match="takes no textual inversion"):
        load_embeddings(FAMILIES["qwen_image"](), find_embeddings([str(file)]))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nowhere.safetensors", None, "There is no textual inversion"),
        ("word.pt", b"x", "is no safetensors file"),
        ("cut.safetensors", b"\x08", "no whole weights"),
        ("lora.safetensors", {"a.lora_A": vectors(), "a.lora_B": vectors()}, "is no textual inv"),
        ("deep.safetensors", {"a": torch.zeros(1, 1, 16)}, "is no textual inversion"),
    ],
)
def test_what_is_no_textual_inversion_is_refused(
    tmp_path: Path, name: str, content: Any, said: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        save_file(content, tmp_path / name)
    with pytest.raises(ModelError, match=said):
        find_embeddings([str(tmp_path / name)])


def test_two_files_of_one_word_are_refused(file: Path) -> None:
    with pytest.raises(ModelError, match=r"have the word <harbour>"):
        find_embeddings([str(file), str(file)])
