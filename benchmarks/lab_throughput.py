"""Does the lab train and sample as fast as the plainest loop over the same diffusers objects?

Training: `small_scale.models.training.train` against a loop that a reader of diffusers' tutorial
would write: a DataLoader, UNet2DModel, DDPMScheduler.add_noise, EMAModel and Adam, in fp32.
Sampling: `small_scale.models.synthesis.synthesise` against DDIMPipeline-like calls of 64 pictures.
Networks, batches, pictures and numbers of steps are those of the desk preset. Both run in turn,
each repeat in another order; ratios are of one repeat. The plain loop is also run under the lab's
own mixed precision, so that what the lab adds (checkpoints, seeded batches) can be seen apart from
it.

    python benchmarks/lab_throughput.py              # five repeats; needs an idle machine
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from resumable import Result, in_words, machine
from torch import Tensor
from torch.utils.data import DataLoader

from m2g_audit.files import write_atomically
from small_scale.models.network import make_network, make_scheduler
from small_scale.models.pictures import as_input
from small_scale.models.synthesis import synthesise
from small_scale.models.training import train
from small_scale.settings import SweepSettings, Synthesis, settings_for

K, STEPS, IMAGES = 256, 60, 250
RESULTS = Path(__file__).parent / "results"
NAME = "lab_throughput"


def main() -> None:
    """Writes results/lab_throughput.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", default="cifar10", choices=["mnist", "cifar10"])
    asked = parser.parse_args()
    settings = settings_for("desk", asked.data, K, sizes=(2, K))
    training = replace(settings.training, iterations=STEPS, checkpoint_every=STEPS // 2)
    settings = replace(settings, training=training)
    generator = torch.Generator().manual_seed(0)
    shape = (K, settings.channels, settings.side, settings.side)
    pictures = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        model = train(Path(folder) / "model", settings, pictures, 0)  # also warms up
        ways: dict[str, Callable[[Path], None]] = {
            "training, lab": lambda out: _discard(train(out, settings, pictures, 0)),
            "training, plain fp32": lambda out: plain_training(settings, pictures, mixed=False),
            "training, plain bf16": lambda out: plain_training(settings, pictures, mixed=True),
            "sampling, lab": lambda out: lab_sampling(out, model, settings),
            "sampling, plain fp32": lambda out: plain_sampling(model, settings),
        }
        rows = [measure(ways, repeat) for repeat in range(asked.repeats)]
    found = {
        "data": asked.data,
        "repeats": asked.repeats,
        "machine": machine(),
        "seconds": rows,
        "settings": {"batch": settings.training.batch, "width": settings.network.width},
    }
    RESULTS.mkdir(exist_ok=True)
    write_atomically(RESULTS / f"{NAME}.json", (json.dumps(found, indent=1) + "\n").encode())
    write_atomically(RESULTS / f"{NAME}.md", report(found).encode())
    print(report(found))


def measure(ways: dict[str, Callable[[Path], None]], repeat: int) -> Result:
    """Seconds of each way, in an order of this repeat's own."""
    names = list(ways)
    turned = names[repeat % len(names) :] + names[: repeat % len(names)]
    seconds = {}
    for name in turned:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            ways[name](Path(folder) / "run")
            seconds[name] = time.perf_counter() - start
        print(f"{repeat + 1}: {name} {seconds[name]:.1f} s", flush=True)
    return {name: seconds[name] for name in names}


def plain_training(settings: SweepSettings, pictures: Tensor, *, mixed: bool) -> None:
    """The loop of diffusers' tutorial on unconditional generation, with its EMA."""
    torch.manual_seed(0)
    network = make_network(settings.network, settings.side, settings.channels)
    noising, ema = make_scheduler(), EMAModel(network.parameters())
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.training.learning_rate)
    loader = DataLoader(as_input(pictures), batch_size=settings.training.batch, shuffle=True)
    step = 0
    while step < settings.training.iterations:
        for clean in loader:
            noise = torch.randn_like(clean)
            t = torch.randint(len(noising), (len(clean),))
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                predicted = network(noising.add_noise(clean, noise, t), t).sample
            loss = torch.nn.functional.mse_loss(predicted.float(), noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.step(network.parameters())
            step += 1


def lab_sampling(out: Path, model: Path, settings: SweepSettings) -> None:
    """One shard of a synthetic set."""
    synthesis = Synthesis(multiple=1, at_least=IMAGES, sampler="ddim", steps=50)
    made = synthesise(out, model, synthesis, 2, device=torch.device("cpu"), mixed_precision=True)
    assert len(made) == IMAGES


def plain_sampling(model: Path, settings: SweepSettings) -> None:
    """As many pictures by diffusers' own pipeline, batches of 64."""
    network = UNet2DModel.from_pretrained(model, subfolder="unet")
    pipeline = DDIMPipeline(network, DDIMScheduler.from_config(make_scheduler().config))
    pipeline.set_progress_bar_config(disable=True)
    for start in range(0, IMAGES, 64):
        size = min(64, IMAGES - start)
        pipeline(batch_size=size, num_inference_steps=50, output_type="np")


def report(found: Result) -> str:
    """The result as Markdown."""
    rows, settings = found["seconds"], found["settings"]
    lines = [
        "# Training and sampling of the lab beside plain loops",
        "",
        f"Desk preset, {found['data']}: batches of {settings['batch']}, width {settings['width']}, "
        f"{STEPS} steps of training with one checkpoint and the saved model, {IMAGES} pictures by "
        f"50 steps of DDIM. Median (least to most) of {found['repeats']} repeats.",
        "",
        "| | per second | seconds |",
        "| --- | ---: | ---: |",
    ]
    for name in rows[0]:
        seconds = [row[name] for row in rows]
        count, unit = (STEPS, "steps") if name.startswith("training") else (IMAGES, "pictures")
        lines.append(
            f"| {name} | {count / statistics.median(seconds):.1f} {unit} "
            f"| {statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f}) |"
        )
    lines += ["", "| the lab is so many times faster than | ratio |", "| --- | ---: |"]
    for name in rows[0]:
        if "plain" in name:
            ratios = [row[name] / row[f"{name.split(',')[0]}, lab"] for row in rows]
            lines.append(
                f"| {name} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to "
                f"{max(ratios):.2f}) |"
            )
    return "\n".join([*lines, "", f"{in_words(found['machine'])}.", ""])


def _discard(_: Path) -> None:
    return None


if __name__ == "__main__":
    main()
