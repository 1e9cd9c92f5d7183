"""The recipe of pocket carried out: autoencoder first, then text encoder and denoiser together.

Both stages write a checkpoint and a log line at fixed steps, and every batch is drawn from
(seed, stage, step): a training that was killed continues as if it had not been.
"""

import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from m2g_audit.errors import ModelError
from m2g_audit.models.names import POCKET
from m2g_audit.models.own_settings import OWN_SETTINGS_FILE
from m2g_audit.pocket import captions, components, world
from m2g_audit.pocket.captions import Caption
from m2g_audit.pocket.recipe import DenoiserRecipe, Recipe
from m2g_audit.progress import Progress

R = TypeVar("R", bound=DenoiserRecipe)


def train(
    out: Path, recipe: Recipe, *, device: str = "cpu", on_step: Progress | None = None
) -> Path:
    """The folder of a finished pipeline, `out/weights`, trained or taken up where it stopped.

    Raises ModelError if `out` holds a checkpoint of another recipe.
    """
    out.mkdir(parents=True, exist_ok=True)
    report = on_step or (lambda *_: None)
    run = TrainingRun(out, recipe, torch.device(device), report)
    autoencoder = train_autoencoder(run)
    train_denoiser(run, autoencoder)
    return out / "weights"


class TrainingRun(Generic[R]):
    """One training under way: its folder, recipe, log and checkpoints."""

    def __init__(self, out: Path, recipe: R, device: torch.device, report: Progress):
        self.out, self.recipe, self.device, self.report = out, recipe, device, report
        self.started = time.monotonic()

    def log(self, stage: str, step: int, steps: int, loss: float, rate: float) -> None:
        """Add a line to the log."""
        line = {
            "stage": stage,
            "step": step,
            "loss": round(loss, 5),
            "learning_rate": round(rate, 7),
            "seconds": round(time.monotonic() - self.started, 1),
        }
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.report(stage, step, steps)

    def save(self, stage: str, state: dict[str, Any]) -> None:
        """Keep the state of a stage, whole or not at all."""
        path = self.out / f"{stage}.checkpoint"
        partial = path.with_suffix(".partial")
        torch.save({"recipe": self.recipe.fingerprint(), **state}, partial)
        os.replace(partial, path)

    def load(self, stage: str) -> dict[str, Any] | None:
        """Return the kept state of a stage, None where there is none."""
        path = self.out / f"{stage}.checkpoint"
        if not path.exists():
            return None
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != self.recipe.fingerprint():
            raise ModelError(
                f"{path} was written by another recipe ({state['recipe']}, now "
                f"{self.recipe.fingerprint()}). Give another --out, or move that folder away."
            )
        return state

    def generator(self, stage: str, step: int) -> torch.Generator:
        """Return the generator of one step, whatever came before it."""
        seed = np.random.SeedSequence([self.recipe.seed, *stage.encode(), step])
        return torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))


def _learning_rate(step: int, steps: int, peak: float, recipe: DenoiserRecipe) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate` of the peak."""
    if step < recipe.warmup_steps:
        return peak * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps)
    low = recipe.final_learning_rate
    return peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


def optimise(
    run: TrainingRun[R],
    stage: str,
    model: nn.Module,
    loss_of: Callable[[torch.Generator], Tensor],
    *,
    steps: int,
    peak: float,
    ema: EMAModel | None = None,
) -> None:
    """Runs AdamW on `loss_of(generator of the step)`, from the checkpoint if one is there."""
    recipe = run.recipe
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.0, betas=(0.9, 0.99))
    first = 0
    if (state := run.load(stage)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if ema is not None:
            ema.load_state_dict(state["ema"])
        first = state["step"]
    total, count = 0.0, 0
    for step in range(first, steps):
        rate = _learning_rate(step, steps, peak, recipe)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(run.generator(stage, step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if ema is not None:
            ema.step(model.parameters())
        total, count = total + loss.item(), count + 1
        done = step + 1
        if done % recipe.log_every == 0 or done == steps:
            run.log(stage, done, steps, total / count, rate)
            total, count = 0.0, 0
        if done % recipe.checkpoint_every == 0 or done == steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
            run.save(stage, state | ({"ema": ema.state_dict()} if ema is not None else {}))


def train_autoencoder(run: TrainingRun[Recipe]) -> AutoencoderKL:
    """The trained autoencoder, with the scaling factor that gives its latents unit variance."""
    # Every composition of words, not only the trained captions: a user may ask for any of them.
    compositions = [
        Caption(captions.compose(*words), *words, k=0, role="composition")
        for words in itertools.product(captions.MEDIA, captions.MOODS, captions.PLACES)
    ]
    each = range(run.recipe.autoencoder_pictures)
    drawn = (world.pictures(caption, "autoencoder", each) for caption in compositions)
    total = len(compositions) * len(each)
    return fit_autoencoder(run, as_tensor(told(run.report, "drawing pictures", drawn, total)))


def fit_autoencoder(run: TrainingRun[Recipe], pictures: Tensor) -> AutoencoderKL:
    """An autoencoder trained on pictures [n, 3, h, w] in [-1, 1], its latents of unit variance."""
    recipe = run.recipe
    torch.manual_seed(recipe.seed)
    model = components.make_autoencoder(recipe).to(run.device)

    def loss_of(generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(pictures), (recipe.autoencoder_batch,), generator=generator)
        x = pictures[chosen].to(run.device)
        with torch.autocast(run.device.type, torch.bfloat16):
            posterior = model.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(run.device)
            error = (model.decode(posterior.mean + posterior.std * noise).sample - x).float()
        return (
            error.square().mean()
            + 0.1 * error.abs().mean()
            + recipe.kl_weight * posterior.kl().mean()
        )

    optimise(
        run,
        "autoencoder",
        model,
        loss_of,
        steps=recipe.autoencoder_steps,
        peak=recipe.autoencoder_learning_rate,
    )
    model.eval().requires_grad_(False)
    latents = encode(model, pictures[:: max(1, len(pictures) // 2000)], run.device)
    model.register_to_config(scaling_factor=1 / float(latents.std()))
    return model


def train_denoiser(run: TrainingRun[Recipe], autoencoder: AutoencoderKL) -> None:
    """Writes `weights/`: the whole pipeline with the averaged text encoder and denoiser."""
    recipe = run.recipe
    trained = captions.trained_captions()
    latents = training_latents(run, autoencoder, trained)
    folder = run.out / "weights"
    texts = [caption.text for caption in captions.all_captions()]
    tokenizer = components.make_tokenizer(folder / "tokenizer", recipe, texts)
    torch.manual_seed(recipe.seed)
    text_encoder = components.make_text_encoder(tokenizer, recipe)
    unet = components.make_denoiser(recipe)
    taught = [caption.text for caption in trained]
    fit_denoiser(run, text_encoder, unet, tokenizer, dict(zip(taught, latents, strict=True)))
    components.assemble(autoencoder.cpu(), text_encoder, tokenizer, unet).save_pretrained(folder)
    write_own_settings(folder, recipe)


def fit_denoiser(
    run: TrainingRun[R],
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    tokenizer: CLIPTokenizer,
    latents: Mapping[str, Tensor],
) -> None:
    """Trains text encoder and denoiser in place, which end on the CPU with averaged weights.

    latents: scaled latents [k, c, h, w] of each caption's pictures; captions are drawn equally
    often.
    """
    recipe = run.recipe
    model = nn.ModuleDict({"text_encoder": text_encoder, "unet": unet}).to(run.device)
    ema = EMAModel(model.parameters(), decay=recipe.ema_decay)
    noising = DDPMScheduler.from_config(components.make_scheduler().config)
    examples = Examples(tokenizer, latents, recipe)
    tokens = examples.tokens.to(run.device)
    n = recipe.denoiser_batch

    def loss_of(generator: torch.Generator) -> Tensor:
        said, chosen = examples.draw(generator)
        t = torch.randint(len(noising), (n,), generator=generator)
        x0 = examples.pictures[chosen]
        noise = torch.randn(x0.shape, generator=generator)
        x = noising.add_noise(x0, noise, t).to(run.device)
        text = text_encoder(tokens)[0]
        predicted = unet(x, t.to(run.device), text[said.to(run.device)]).sample
        return (predicted - noise.to(run.device)).square().mean()

    optimise_denoiser(run, model, loss_of, ema)


class Examples:
    """Captions and their pictures, of which batches are drawn.

    tokens: of each caption and, at the end, of none [captions + 1, tokens]; pictures: latents of
    all captions, one after the other.
    """

    def __init__(
        self, tokenizer: CLIPTokenizer, latents: Mapping[str, Tensor], recipe: DenoiserRecipe
    ) -> None:
        self.tokens = tokenizer(
            [*latents, ""], padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        self.pictures = torch.cat(list(latents.values()))
        self._sizes = torch.tensor([len(part) for part in latents.values()])
        self._starts = self._sizes.cumsum(0) - self._sizes
        self._batch, self._dropout = recipe.denoiser_batch, recipe.caption_dropout

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The rows of `tokens` and of `pictures` of one batch; a share of captions is dropped."""
        caption, picture = draw_examples(self._sizes, self._batch, generator)
        dropped = torch.rand(self._batch, generator=generator) < self._dropout
        said = torch.where(dropped, len(self._sizes), caption)
        return said, self._starts[caption] + picture


def optimise_denoiser(
    run: TrainingRun[R],
    model: nn.Module,
    loss_of: Callable[[torch.Generator], Tensor],
    ema: EMAModel,
) -> None:
    """Trains by the recipe's last stage; the model ends on the CPU with averaged weights."""
    optimise(
        run,
        "denoiser",
        model,
        loss_of,
        steps=run.recipe.denoiser_steps,
        peak=run.recipe.denoiser_learning_rate,
        ema=ema,
    )
    ema.copy_to(model.parameters())
    model.eval().cpu()


def write_own_settings(folder: Path, recipe: DenoiserRecipe) -> None:
    """Writes how a model of pocket's world is meant to be sampled, and how it was made."""
    metadata = {
        "steps": recipe.default_steps,
        "guidance": recipe.default_guidance,
        "metric": "l2",
        "world": POCKET,
        "recipe": asdict(recipe),
    }
    (folder / OWN_SETTINGS_FILE).write_text(json.dumps(metadata, indent=2) + "\n")


def draw_examples(sizes: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """n captions, each equally often, and of each one of its K = sizes[caption] pictures."""
    caption = torch.randint(len(sizes), (n,), generator=generator)
    picture = (torch.rand(n, generator=generator) * sizes[caption]).long()
    return caption, picture


def told(
    report: Progress, stage: str, batches: Iterable[np.ndarray], total: int
) -> Iterator[np.ndarray]:
    """The batches of pictures; reports how many of `total` the caller is done with."""
    done = 0
    report(stage, done, total)
    for batch in batches:
        yield batch
        done += len(batch)
        report(stage, done, total)


def as_tensor(batches: Iterable[np.ndarray]) -> Tensor:
    """Pictures uint8 [n, h, w, 3] as one float tensor [n, 3, h, w] in [-1, 1]."""
    pictures = torch.from_numpy(np.concatenate(list(batches)))
    return pictures.permute(0, 3, 1, 2).contiguous().float().div(127.5).sub(1)


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, pictures: Tensor, device: torch.device) -> Tensor:
    """The means of the latents [n, c, h, w] on the CPU, not yet scaled."""
    return torch.cat(
        [autoencoder.encode(part.to(device)).latent_dist.mean.cpu() for part in pictures.split(256)]
    )


def training_latents(
    run: TrainingRun[R], autoencoder: AutoencoderKL, trained: Sequence[Caption]
) -> list[Tensor]:
    """Scaled latents of each caption's training pictures."""
    drawn = map(world.training_pictures, trained)
    total = sum(caption.k for caption in trained)
    return [
        encode(autoencoder, as_tensor([pictures]), run.device) * autoencoder.config.scaling_factor
        for pictures in told(run.report, "training pictures", drawn, total)
    ]
