"""The recipe from end to end on a tiny setting: resumable, reproducible, loadable by diffusers."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from m2g_audit.errors import ModelError
from m2g_audit.pocket import training
from m2g_audit.pocket.captions import trained_captions
from m2g_audit.pocket.recipe import PRESETS, Recipe
from m2g_audit.pocket.training import draw_examples, told, train
from tests.support.pocket_training import Killed, kill_at, weights_of

SMOKE = PRESETS["smoke"]


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    few = trained_captions()[:6]
    monkeypatch.setattr(training.captions, "trained_captions", lambda: few)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    few = trained_captions()[:6]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.captions, "trained_captions", lambda: few)
        return train(tmp_path_factory.mktemp("pocket"), SMOKE)


def test_plain_diffusers_loads_it_and_draws(trained: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(trained)
    image = pipe("a print of the old harbour", num_inference_steps=2).images[0]
    assert image.size == (32, 32)
    assert json.loads((trained / "m2g.json").read_text())["metric"] == "l2"


def test_world_words_are_single_tokens_and_anything_can_be_spelt(trained: Path) -> None:
    tokenizer = StableDiffusionPipeline.from_pretrained(trained).tokenizer
    assert tokenizer.tokenize("a print of the old harbour") == [
        f"{word}</w>" for word in ("a", "print", "of", "the", "old", "harbour")
    ]
    assert tokenizer.unk_token_id not in tokenizer("Žluťoučký kůň!").input_ids[1:-1]


def test_an_interrupted_training_ends_with_the_sameweights_of(
    trained: Path, tmp_path: Path
) -> None:
    for stage in ("autoencoder", "denoiser"):
        with pytest.raises(Killed):
            train(tmp_path, SMOKE, on_step=kill_at(stage, 3))
    again = weights_of(train(tmp_path, SMOKE))
    for name, tensor in weights_of(trained).items():
        torch.testing.assert_close(again[name], tensor, msg=name)


def test_a_folder_of_another_recipe_is_refused(trained: Path) -> None:
    with pytest.raises(ModelError, match="another recipe"):
        train(trained.parent, dataclasses.replace(SMOKE, seed=1))


def test_another_seed_gives_otherweights_of(trained: Path, tmp_path: Path) -> None:
    other = weights_of(train(tmp_path, dataclasses.replace(SMOKE, seed=1)))
    assert not torch.equal(other["unet.conv_in.weight"], weights_of(trained)["unet.conv_in.weight"])


def test_every_setting_of_the_training_is_in_the_fingerprint() -> None:
    for field in dataclasses.fields(Recipe):
        if field.name in ("checkpoint_every", "log_every", "default_steps", "default_guidance"):
            continue
        value = getattr(Recipe(), field.name)
        changed = (*value, 1) if isinstance(value, tuple) else value + 1
        other = dataclasses.replace(Recipe(), **{field.name: changed})
        assert other.fingerprint() != Recipe().fingerprint()


def test_the_log_tells_of_both_stages(trained: Path) -> None:
    log = [json.loads(line) for line in (trained.parent / "log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in log} == {"autoencoder", "denoiser"}


def test_pictures_are_told_of_while_they_are_made() -> None:
    said: list[tuple[str, int, int]] = []
    batches = [np.zeros((n, 2, 2, 3), dtype=np.uint8) for n in (1, 4)]
    for batch in told(lambda *line: said.append(line), "training pictures", batches, 5):
        said.append(("given", len(batch), 5))
    assert said == [
        ("training pictures", 0, 5),
        ("given", 1, 5),
        ("training pictures", 1, 5),
        ("given", 4, 5),
        ("training pictures", 5, 5),
    ]


def test_captions_are_drawn_equally_often_and_so_are_the_pictures_of_each() -> None:
    sizes = torch.tensor([1, 2, 50])
    caption, picture = draw_examples(sizes, 60_000, torch.Generator().manual_seed(0))
    # five standard errors of a count of 60,000 / 3, and of the halves of one such
    assert bool(((caption.bincount() - 20_000).abs() < 580).all())
    assert bool(((picture[caption == 1].bincount() - 10_000).abs() < 500).all())
    for which, size in enumerate(sizes.tolist()):
        assert set(picture[caption == which].tolist()) == set(range(size))
