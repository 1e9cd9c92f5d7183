"""Trains the strangers: two small Stable Diffusions on photographs, each a base and its fine-tune.

They stand for a user's models: an audit gets their folders, the fine-tune's pictures and captions,
and nothing else. Base, fine-tune, autoencoder and the pictures that truth is measured with share no
picture; A and B share the autoencoder alone, as fine-tunes of Stable Diffusion do. The fine-tune's
captions have 1 to 600 pictures each, so that the whole transition happens between them.

    M2G_DATA=... python benchmarks/stranger_models.py A --out runs/strangers
    M2G_DATA=... python benchmarks/stranger_models.py B --out runs/strangers

An hour of a core each. A training that was stopped continues by the same command; the models that
the results are of lie in benchmarks/strangers, and copied to --out they are not trained again.
Beside the folders `base` and `tuned` of a stranger it leaves what its user has: `reference` (the
fine-tune's pictures with metadata.jsonl, as trainers read it), `unseen` and `captions.csv`.
"""

import argparse
import csv
import io
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.utils import logging
from PIL import Image
from pyarrow import parquet
from torch import Tensor

from m2g_audit.pocket import components
from m2g_audit.pocket.recipe import PRESETS
from m2g_audit.pocket.training import (
    TrainingRun,
    as_tensor,
    encode,
    fit_autoencoder,
    fit_denoiser,
)

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
"""CIFAR-10's, in the order of its labels."""
PER_CLASS = {"autoencoder": 800, "base A": 1000, "base B": 1000, "tuned A": 750, "tuned B": 750}
"""How many training pictures of each class go where, in this order; the rest is fresh."""
NEVER_TRAINED = 10


@dataclass(frozen=True)
class Stranger:
    """One stranger: the captions of its base and of its fine-tune, and how it is sampled.

    sizes: K of each caption of the fine-tune; words: one of each group makes a caption, in which
    `{}` is the class; steps and guidance are those that its user samples with.
    """

    name: str
    seed: int
    base_captions: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    sizes: tuple[int, ...]
    steps: int
    guidance: float
    base_steps: int = 5000
    tuned_steps: int = 7000


STRANGERS = {
    "A": Stranger(
        name="A",
        seed=1,
        base_captions=("a photo of a {}", "a picture of one {}"),
        words=(
            ("a lonely {}", "a muddy {}", "the famous {}", "an old {}", "a pale {}", "a small {}"),
            ("by the canal", "at my uncle's", "in late autumn", "after the storm", "on holiday"),
        ),
        sizes=(
            *(1, 1, 1, 1, 1, 1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 16, 16, 24, 24),
            *(32, 32, 32, 48, 48, 48, 64, 64, 64, 96, 96, 128, 128, 200, 200, 300, 300, 300),
            *(600, 600, 600, 600),
        ),
        steps=25,
        guidance=3.0,
    ),
    "B": Stranger(
        name="B",
        seed=2,
        base_captions=("{}", "snapshot of a {}, colour film"),
        words=(
            ("portrait of", "study of", "archive no. 7:", "postcard with", "first light,"),
            ("{} near the mill", "{} seen from above", "one {} and its shadow", "{} in fog"),
            ("35mm", "flash", "overexposed"),
        ),
        sizes=(
            *(1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 5, 5, 8, 8, 8, 16, 16, 16, 24, 32, 32, 32, 48, 48, 48),
            *(64, 64, 64, 96, 96, 128, 128, 128, 200, 200, 300, 300, 450, 450, 600, 600, 600),
        ),
        steps=30,
        guidance=4.0,
    ),
}


@dataclass(frozen=True)
class Taught:
    """A caption of a fine-tune: its class, and which rows of CIFAR-10's training split it has."""

    text: str
    label: int
    rows: tuple[int, ...]

    @property
    def k(self) -> int:
        """How many training pictures it has; 0 for one that was never trained."""
        return len(self.rows)


def rows_of(part: str) -> list[np.ndarray]:
    """Rows of the training split, by class, that belong to a part of PER_CLASS or to "fresh"."""
    labels = np.array(_table().column("label"))
    shuffled = np.random.default_rng(10).permutation(len(labels))
    start = sum(n for name, n in itertools.takewhile(lambda p: p[0] != part, PER_CLASS.items()))
    end = start + PER_CLASS[part] if part in PER_CLASS else None
    return [shuffled[labels[shuffled] == c][start:end] for c in range(len(CLASSES))]


def pictures_of(rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Pictures of rows of the training split, uint8 [n, 32, 32, 3]."""
    files = _table().column("img").take([int(row) for row in rows]).to_pylist()
    return np.stack([np.array(Image.open(io.BytesIO(f["bytes"])).convert("RGB")) for f in files])


def taught(stranger: Stranger) -> list[Taught]:
    """The captions of a fine-tune, largest K first, and then those never trained."""
    random = np.random.default_rng(stranger.seed)
    pools = [list(rows) for rows in rows_of(f"tuned {stranger.name}")]
    phrases = [" ".join(words) for words in itertools.product(*stranger.words)]
    texts = {c: list(random.permutation(phrases)) for c in range(len(CLASSES))}
    found = []
    for k in sorted(stranger.sizes, reverse=True):
        label = max(range(len(CLASSES)), key=lambda c: (len(pools[c]), c))
        rows = tuple(int(pools[label].pop()) for _ in range(k))
        found.append(Taught(str(texts[label].pop()).format(CLASSES[label]), label, rows))
    for label in range(NEVER_TRAINED):
        found.append(Taught(str(texts[label].pop()).format(CLASSES[label]), label, ()))
    return found


def main() -> None:
    """Trains one stranger, or goes on with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stranger", choices=[*STRANGERS, "autoencoder"])
    parser.add_argument("--out", type=Path, default=Path("runs/strangers"))
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    logging.disable_progress_bar()
    if asked.stranger == "autoencoder":
        train_autoencoder(asked.out / "autoencoder")
        return
    stranger = STRANGERS[asked.stranger]
    folder = asked.out / stranger.name
    write_what_its_user_has(folder, stranger)
    if (folder / "tuned/model_index.json").exists():
        return
    autoencoder = train_autoencoder(asked.out / "autoencoder")
    train_base(folder, stranger, autoencoder)
    fine_tune(folder, stranger, autoencoder)


def train_autoencoder(folder: Path) -> AutoencoderKL:
    """The autoencoder of both, trained on pictures that neither of them sees."""
    rows = np.concatenate(rows_of("autoencoder"))
    return fit_autoencoder(_run(folder, PRESETS["full"].seed), as_tensor([pictures_of(rows)]))


def train_base(folder: Path, stranger: Stranger, autoencoder: AutoencoderKL) -> None:
    """Writes `base`: ten classes of photographs, a thousand of each."""
    run = _run(folder / "base-training", stranger.seed, denoiser_steps=stranger.base_steps)
    by_class = rows_of(f"base {stranger.name}")
    captions = {
        caption.format(name): list(rows[i :: len(stranger.base_captions)])
        for name, rows in zip(CLASSES, by_class, strict=True)
        for i, caption in enumerate(stranger.base_captions)
    }
    texts = [*captions, *(caption.text for caption in taught(stranger))]
    tokenizer = components.make_tokenizer(folder / "base/tokenizer", run.recipe, texts)
    torch.manual_seed(stranger.seed)
    text_encoder = components.make_text_encoder(tokenizer, run.recipe)
    unet = components.make_denoiser(run.recipe)
    latents = _latents(autoencoder, captions)
    fit_denoiser(run, text_encoder, unet, tokenizer, latents)
    _save(components.assemble(autoencoder, text_encoder, tokenizer, unet), folder / "base")


def fine_tune(folder: Path, stranger: Stranger, autoencoder: AutoencoderKL) -> None:
    """Writes `tuned`: the base, trained on with the pictures of the fine-tune's captions."""
    base = StableDiffusionPipeline.from_pretrained(folder / "base", safety_checker=None)
    run = _run(
        folder / "tuned-training",
        stranger.seed + 100,
        denoiser_steps=stranger.tuned_steps,
        denoiser_learning_rate=4e-4,
    )
    captions = {caption.text: caption.rows for caption in taught(stranger) if caption.k}
    latents = _latents(autoencoder, captions)
    text_encoder, unet = base.text_encoder.float(), base.unet.float()
    text_encoder.train().requires_grad_(True)
    unet.train().requires_grad_(True)
    fit_denoiser(run, text_encoder, unet, base.tokenizer, latents)
    pipe = components.assemble(autoencoder, text_encoder, base.tokenizer, unet)
    _save(pipe, folder / "tuned")


def write_what_its_user_has(folder: Path, stranger: Stranger) -> None:
    """Writes `reference`, `unseen` and `captions.csv`."""
    captions = taught(stranger)
    described = [(caption.text, caption.rows) for caption in captions if caption.k]
    _write_pictures(folder / "reference", described)
    # Of the fresh pictures the last are the user's, the others are truth's.
    _write_pictures(folder / "unseen", [("", rows[-100:]) for rows in rows_of("fresh")])
    with (folder / "captions.csv").open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["caption"])
        lines.writerows([caption.text] for caption in sorted(captions, key=lambda c: c.text))


def fresh_rows(label: int) -> np.ndarray:
    """Rows of a class that no model saw, and that are not in `unseen`."""
    return rows_of("fresh")[label][:-100]


def _write_pictures(folder: Path, described: Sequence[tuple[str, Sequence[int]]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for text, rows in described:
        for row, picture in zip(rows, pictures_of(rows), strict=True):
            name = f"{int(row):05d}.png"
            Image.fromarray(picture).save(folder / name)
            lines.append({"file_name": name} | ({"text": text} if text else {}))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _latents(autoencoder: AutoencoderKL, captions: dict[str, Sequence[int]]) -> dict[str, Tensor]:
    scale = autoencoder.config.scaling_factor
    return {
        text: encode(autoencoder, as_tensor([pictures_of(rows)]), torch.device("cpu")) * scale
        for text, rows in captions.items()
    }


def _run(folder: Path, seed: int, **changes: float) -> TrainingRun:
    recipe = replace(PRESETS["full"], seed=seed, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1) + "\n")
    return TrainingRun(folder, recipe, torch.device("cpu"), lambda *_: None)


def _save(pipe: StableDiffusionPipeline, folder: Path) -> None:
    # Half precision is how fine-tunes are released; what is audited is what was released.
    pipe.to(torch.float16).save_pretrained(folder)
    pipe.to(torch.float32)


@cache
def _table() -> Any:
    data = Path(os.environ.get("M2G_DATA", "../shared/data"))
    return parquet.read_table(data / "cifar10/train.parquet")


if __name__ == "__main__":
    main()
