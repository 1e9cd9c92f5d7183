"""Tokenizers that are not the text encoder's are refused before any prompt goes through them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from m2g_audit.errors import ModelError
from m2g_audit.models.loading import load_model
from m2g_audit.models.model_folder import POCKET_FOLDER


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """The tokenizer of a copy of pocket, from vocabulary and merges alone, as older models have."""
    folder = shutil.copytree(POCKET_FOLDER, tmp_path / "model")
    (folder / "tokenizer" / "tokenizer.json").unlink()
    return folder / "tokenizer"


def no_vocabulary(tokenizer: Path) -> None:
    (tokenizer / "vocab.json").unlink()
    (tokenizer / "merges.txt").unlink()


def no_merges(tokenizer: Path) -> None:
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")


def more_tokens(tokenizer: Path) -> None:
    added = {f"<new{i}>": 610 + i for i in range(3)}
    (tokenizer / "added_tokens.json").write_text(json.dumps(added))


def no_length(tokenizer: Path) -> None:
    file = tokenizer / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["model_max_length"]
    file.write_text(json.dumps(settings))


def no_filling(tokenizer: Path) -> None:
    file = tokenizer / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": None}))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (no_vocabulary, "it has 2 tokens|could not be loaded"),
        (no_merges, "takes [0-9]+ apart, as if merges.txt were empty"),
        (more_tokens, "it has 613 tokens up to number 612, the text encoder knows 610"),
        (no_length, "`model_max_length` in tokenizer_config.json., the text encoder reads 16"),
        (no_filling, "`pad_token` in tokenizer_config.json"),
    ],
)
def test_a_tokenizer_of_another_text_encoder_is_refused(
    tokenizer: Path, fault: Callable[[Path], None], words: str
) -> None:
    load_model(tokenizer.parent, device="cpu")
    fault(tokenizer)
    with pytest.raises(ModelError, match=words):
        load_model(tokenizer.parent, device="cpu")
