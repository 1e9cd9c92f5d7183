"""Training of one denoiser (App. B.4), with checkpoints that a killed run continues from as before.

Every batch, its noise and its dropout are drawn from (seed, K, step), so that a resumed training is
the training that was never stopped.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from torch import Tensor

from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.errors import NumericsError, OutputError
from m2g_audit.progress import OnProgress
from small_scale.models.network import make_network, make_scheduler
from small_scale.models.pictures import as_input
from small_scale.settings import Settings, Training

MODEL, CHECKPOINT, LOG, STATE = "model", "checkpoint", "log.jsonl", "training.pt"
_LOG_EVERY = 50
_FINAL_RATE = 0.05


def train(
    folder: Path,
    settings: Settings,
    pictures: Tensor,
    seed: int,
    *,
    accelerator: Accelerator | None = None,
    on_step: OnProgress | None = None,
) -> Path:
    """The folder of a finished DDPM pipeline, `folder`/model, trained or gone on with.

    `pictures`: S_K as levels, uint8 [K, c, h, w]. The weights kept are the exponential moving
    average. `folder`/checkpoint holds the same as diffusers opens it, with the state of training
    beside it. Raises NumericsError where the loss is not finite, OutputError for a checkpoint that
    is damaged.
    """
    finished = folder / MODEL
    if (finished / "model_index.json").exists():
        return finished
    accelerator = accelerator or Accelerator(mixed_precision=settings.training.mixed_precision)
    folder.mkdir(parents=True, exist_ok=True)
    with _Run(folder, settings, pictures, seed, accelerator) as run:
        run.go(on_step or (lambda *_: None))
    if accelerator.is_main_process:
        run.save_model(finished)
    accelerator.wait_for_everyone()
    return finished


class _Run:
    """One training under way."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        pictures: Tensor,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        self.folder, self.training, self.seed = folder, settings.training, seed
        self.accelerator = accelerator
        self.images = as_input(pictures).to(accelerator.device)
        self.noising = make_scheduler()
        torch.manual_seed(seed)
        network = make_network(settings.network, settings.side, settings.channels)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.training.learning_rate)
        self.ema = EMAModel(network.parameters(), decay=self.training.ema_decay)
        self.step = self._restore(network, optimizer)
        self.network, self.optimizer = accelerator.prepare(network, optimizer)
        self.ema.to(accelerator.device)

    def __enter__(self) -> _Run:
        self._log = (self.folder / LOG).open("a")
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def go(self, report: OnProgress) -> None:
        settings, began, summed, count = self.training, time.monotonic(), 0.0, 0
        self.network.train()
        report(self.step, settings.iterations)
        while self.step < settings.iterations:
            loss = self._optimise()
            self.step += 1
            summed, count = summed + loss, count + 1
            if self.step % _LOG_EVERY == 0 or self.step == settings.iterations:
                self._write_log(summed / count, time.monotonic() - began)
                summed, count = 0.0, 0
                report(self.step, settings.iterations)
            # After the last step the model itself is written.
            if self.step % settings.checkpoint_every == 0 and self.step < settings.iterations:
                self._save_checkpoint()

    def _optimise(self) -> float:
        settings = self.training
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, settings)
        x, t, noise, weight = self._batch()
        with self.accelerator.autocast():
            predicted = self.network(x, t, return_dict=False)[0]
        loss = weight * (predicted.float() - noise).square().mean()
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.ema.step(self.network.parameters())
        return float(loss.detach())

    def _batch(self) -> tuple[Tensor, Tensor, Tensor, float]:
        """Noised pictures, their times and the noise, of this process's part of the batch.

        And the part's weight, with which the mean over processes is that over the batch.
        """
        K, settings = len(self.images), self.training
        size = settings.batch if settings.fill_batch else min(settings.batch, K)
        seed = seed_for(self.seed, f"training K={K}", self.step)
        generator = torch.Generator().manual_seed(seed)
        chosen = batch_rows(K, size, self.step, self.seed)
        t = torch.randint(len(self.noising), (size,), generator=generator)
        noise = torch.randn((size, *self.images.shape[1:]), generator=generator)
        # Dropout draws from the global generator.
        torch.manual_seed(seed + self.accelerator.process_index)
        processes, device = self.accelerator.num_processes, self.accelerator.device
        part = range(self.accelerator.process_index, size, processes)
        weight = len(part) * processes / size
        # A process without a part goes along with any picture, at weight 0.
        part = part or range(1)
        chosen, t, noise = (each[list(part)].to(device) for each in (chosen, t, noise))
        return self.noising.add_noise(self.images[chosen], noise, t), t, noise, weight

    def _write_log(self, own_loss: float, seconds: float) -> None:
        mine = torch.tensor([own_loss], device=self.accelerator.device)
        loss = float(self.accelerator.gather(mine).mean())
        if not math.isfinite(loss):
            raise NumericsError(
                f"The loss of the training in {self.folder} is no longer finite at step "
                f"{self.step}. Train without mixed precision, or with a smaller learning rate."
            )
        if self.accelerator.is_main_process:
            line = {"step": self.step, "loss": round(loss, 6), "seconds": round(seconds, 1)}
            self._log.write(json.dumps(line) + "\n")
            self._log.flush()
        if self.accelerator.trackers:
            self.accelerator.log({f"loss/{self.folder.name}": loss}, step=self.step)

    # -- checkpoints

    def save_model(self, folder: Path) -> None:
        """Writes the averaged network as a DDPM pipeline, whole or not at all, and cleans up."""
        network = self.accelerator.unwrap_model(self.network)
        self.ema.copy_to(network.parameters())
        with _draft(folder) as draft:
            DDPMPipeline(network.eval(), self.noising).save_pretrained(draft)
            draft.replace(folder)
        shutil.rmtree(self.folder / CHECKPOINT, ignore_errors=True)

    def _save_checkpoint(self) -> None:
        if not self.accelerator.is_main_process:
            return
        folder = self.folder / CHECKPOINT
        previous = folder.with_name(f"{CHECKPOINT}.previous")
        network = self.accelerator.unwrap_model(self.network)
        state = {
            "step": self.step,
            "network": network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
        }
        with _draft(folder) as draft:
            torch.save(state, draft / STATE)
            self.ema.store(network.parameters())
            self.ema.copy_to(network.parameters())
            DDPMPipeline(network, self.noising).save_pretrained(draft)
            self.ema.restore(network.parameters())
            # A folder can't be replaced by another at once: between the two the old one is kept.
            shutil.rmtree(previous, ignore_errors=True)
            if folder.exists():
                folder.replace(previous)
            draft.replace(folder)
        shutil.rmtree(previous, ignore_errors=True)

    def _restore(self, network: UNet2DModel, optimizer: torch.optim.Optimizer) -> int:
        for name in (CHECKPOINT, f"{CHECKPOINT}.previous"):
            path = self.folder / name / STATE
            if path.exists():
                return self._load(path, network, optimizer)
        return 0

    def _load(self, path: Path, network: UNet2DModel, optimizer: torch.optim.Optimizer) -> int:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
            self.ema.load_state_dict(state["ema"])
            return int(state["step"])
        except Exception as error:  # a damaged file is an error of many kinds to torch
            raise OutputError(
                f"The checkpoint {path.parent} is damaged ({type(error).__name__}: "
                f"{(str(error).splitlines() or ['empty'])[0]}). Remove that folder: this one "
                "training then starts anew, everything else continues."
            ) from error


def learning_rate(step: int, settings: Training) -> float:
    """The learning rate of a 0-based step: a linear warm-up, then constant or a cosine decay."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    if not settings.decay:
        return settings.learning_rate
    done = (step - settings.warmup) / max(1, settings.iterations - settings.warmup)
    share = _FINAL_RATE + (1 - _FINAL_RATE) * (1 + math.cos(math.pi * done)) / 2
    return settings.learning_rate * share


def batch_rows(K: int, size: int, step: int, seed: int) -> Tensor:
    """The rows of one batch: each epoch goes through all K pictures in an order of its own."""
    rows, position = [], step * size
    while size:
        epoch, start = divmod(position, K)
        generator = torch.Generator().manual_seed(seed_for(seed, f"epoch K={K}", epoch))
        part = torch.randperm(K, generator=generator)[start : start + size]
        rows.append(part)
        position, size = position + len(part), size - len(part)
    return torch.cat(rows)


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """An empty folder to write in; OutputError where the disk is full or refuses."""
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        yield draft
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors have errors of their own for a full disk.
        raise OutputError(
            f"Can't write {folder} ({str(error).splitlines()[0]}). Free space; the same command "
            "then continues from the checkpoint before."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
