"""A model whose seeds do little: pocket distilled to one or two steps, audited as a stranger.

The student regresses the posterior mean E[x_0 | x_t, caption] at the one or two times that its
sampler visits, which is what few-step distillation by regression does: at the first of them it is
nearly the mean of the caption's training pictures, whatever the seed. So every caption repeats
itself, and a repeat says nothing about a copy. Nothing that repeats may be called `generalized`;
copies (captions of K = 1) must still be found through the reference.

    python benchmarks/collapsed.py --work runs/collapsed      # some fifteen minutes of a core

Writes results/collapsed.{md,json}. What is finished stays in --work.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.utils import logging
from PIL import Image
from resumable import in_words, machine
from torch import Tensor

from m2g_audit.models.model_folder import POCKET_FOLDER
from m2g_audit.pocket import world
from m2g_audit.pocket.captions import Caption, all_captions
from m2g_audit.pocket.recipe import PRESETS
from m2g_audit.pocket.training import TrainingRun, as_tensor, draw_examples, encode, optimise
from m2g_audit.store.stored_run import StoredRun

MOST_PICTURES = 64
STEPS = (1, 2)
TRAINED_FOR = 800
RESULTS = Path(__file__).parent / "results"
MODES: dict[str, tuple[str, ...]] = {
    "nothing at hand": (),
    "with the reference": ("--reference", "../reference"),
}


def main() -> None:
    """Distils, audits, and writes results/collapsed.{md,json}."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/collapsed"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    write_what_its_user_has(asked.work)
    found: dict[str, Any] = {"machine": machine()}
    for steps in STEPS:
        folder = asked.work / f"{steps}-step"
        if not (folder / "student/model_index.json").exists():
            distil(folder, steps)
        for mode, options in MODES.items():
            found[f"{steps} steps, {mode}"] = audit(folder, steps, mode, options)
    (RESULTS / "collapsed.json").write_text(json.dumps(found, indent=1) + "\n")
    (RESULTS / "collapsed.md").write_text(report(found))
    print((RESULTS / "collapsed.md").read_text())


def captions() -> list[Caption]:
    """Captions of few training pictures, and those that were never trained."""
    return [caption for caption in all_captions() if caption.k <= MOST_PICTURES]


def write_what_its_user_has(work: Path) -> None:
    """Writes `reference` and `captions.csv`."""
    folder = work / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, caption in enumerate(c for c in captions() if c.k):
        for j, picture in enumerate(world.training_pictures(caption)):
            name = f"{i:03d}-{j:03d}.png"
            Image.fromarray(picture).save(folder / name)
            lines.append(json.dumps({"file_name": name, "text": caption.text}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    (work / "captions.csv").write_text("\n".join(["caption", *(c.text for c in captions())]) + "\n")


def distil(folder: Path, steps: int) -> None:
    """Writes `student`: pocket's network, trained to give the posterior mean at its few times."""
    pipe = StableDiffusionPipeline.from_pretrained(POCKET_FOLDER, safety_checker=None)
    # Trailing, as few-step models have it: the first step is then the noisiest.
    scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, prediction_type="sample", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps
    recipe = replace(PRESETS["full"], denoiser_steps=TRAINED_FOR, checkpoint_every=500)
    folder.mkdir(parents=True, exist_ok=True)
    run = TrainingRun(folder, recipe, torch.device("cpu"), lambda *_: None)
    trained = [caption for caption in captions() if caption.k]
    parts = [_latents(pipe, caption) for caption in trained]
    latents = torch.cat(parts)
    sizes = torch.tensor([len(part) for part in parts])
    starts = sizes.cumsum(0) - sizes
    tokens = pipe.tokenizer(
        [caption.text for caption in trained], padding="max_length", return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        texts = pipe.text_encoder(tokens)[0]
    pipe.unet.train().requires_grad_(True)

    def loss_of(generator: torch.Generator) -> Tensor:
        caption, picture = draw_examples(sizes, recipe.denoiser_batch, generator)
        x0 = latents[starts[caption] + picture]
        noise = torch.randn(x0.shape, generator=generator)
        t = times[torch.randint(len(times), (len(x0),), generator=generator)]
        x = scheduler.add_noise(x0, noise, t)
        return (pipe.unet(x, t, texts[caption]).sample - x0).square().mean()

    optimise(
        run, "student", pipe.unet, loss_of, steps=TRAINED_FOR, peak=recipe.denoiser_learning_rate
    )
    pipe.unet.eval()
    pipe.scheduler = scheduler
    pipe.save_pretrained(folder / "student")


def _latents(pipe: StableDiffusionPipeline, caption: Caption) -> Tensor:
    pictures = as_tensor([world.training_pictures(caption)])
    return encode(pipe.vae, pictures, torch.device("cpu")) * pipe.vae.config.scaling_factor


def audit(folder: Path, steps: int, mode: str, options: Sequence[str]) -> dict[str, Any]:
    """What `m2g-audit batch` says of every caption."""
    out = folder / mode.replace(" ", "-")
    words = [sys.executable, "-c", "from m2g_audit.cli import main; main()", "batch"]
    words += ["../captions.csv", "--model", "student", "--steps", str(steps), "--guidance", "1"]
    words += ["--spectrum", "none", "--yes", "--out", out.name, *options]
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    records = list(StoredRun.read(out).records())
    sizes = {caption.text: caption.k for caption in captions()}
    findings = records[0].findings
    return {
        "findings": findings and findings.model_dump(),
        "verdicts": [
            {
                "caption": record.prompt,
                "k": sizes[record.prompt],
                "verdict": record.verdict.state,
                "repeating": sum(s.state in ("spurious", "attractor") for s in record.seeds),
                "memorized": sum(s.state == "memorized" for s in record.seeds),
            }
            for record in records
        ],
    }


def report(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# A collapsed model: pocket distilled to one and two steps",
        "",
        f"{len(captions())} captions with at most {MOST_PICTURES} training pictures or none, 16 "
        f"seeds each; the student was trained for {TRAINED_FOR} steps. "
        f"{in_words(found['machine'])}",
        "",
        "| student | repeats of control prompts | `memorized` | `collapsed` | `attractor` "
        "| `generalized` | `undecided` | that repeat and are `generalized` |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, result in found.items():
        if name == "machine":
            continue
        words = Counter(v["verdict"] for v in result["verdicts"])
        wrong = sum(
            v["verdict"] == "generalized" and v["repeating"] + v["memorized"] > 0
            for v in result["verdicts"]
        )
        repeats = result["findings"]["repeats"]
        columns = ("memorized", "collapsed", "attractor", "generalized", "undecided")
        lines.append(
            f"| {name} | {repeats['estimate']:.0%} ({repeats['low']:.0%} or more) | "
            + " | ".join(str(words[word]) for word in columns)
            + f" | {wrong} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
