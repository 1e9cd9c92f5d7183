"""How many prompts a second does a batch audit, beside a loop over single audits and diffusers?

Whole processes, from start to exit, on the same prompts of pocket's and the same seeds:

- `m2g-audit batch`, one process for all prompts;
- a loop of `m2g-audit prompt`, one process a prompt;
- plain diffusers, as the reference: one process that loads a `StableDiffusionPipeline` and makes
  and saves the same pictures prompt by prompt, without any audit.

Both audits are run with the default spectrum and without, and without a reference, whose search is
the same work in both. Each repeat runs all of them, in another order each time; ratios are of
processes of one repeat. That the pictures agree to 1/255 is checked.

    python benchmarks/batch_throughput.py --prompts 12 --repeats 3      # needs an idle machine
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from audit_seconds import RESULTS, program, timed
from PIL import Image
from resumable import in_words, machine

from m2g_audit.models.model_folder import POCKET_FOLDER
from m2g_audit.models.names import POCKET
from m2g_audit.pocket.captions import trained_captions
from m2g_audit.prompts import from_python
from m2g_audit.store.batch_directory import BatchDirectory

SEEDS = 16
WITHOUT_SPECTRUM = ("--spectrum", "none")
REFERENCE = "plain diffusers"
BATCH, LOOP = "batch", "loop of prompt"
OPTIONS: dict[str, tuple[str, ...]] = {"default": (), "--spectrum none": WITHOUT_SPECTRUM}

DIFFUSERS = """
import json, sys
import torch
from diffusers import StableDiffusionPipeline

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
pipe.set_progress_bar_config(disable=True)
for number, (prompt, seeds) in enumerate(asked["prompts"]):
    pictures = pipe(
        [prompt] * len(seeds),
        num_inference_steps=asked["steps"],
        guidance_scale=asked["guidance"],
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
    ).images
    for i, picture in enumerate(pictures):
        picture.save(f"{out}/{number:04d}-{i:04d}.png")
"""


def main() -> None:
    """Writes results/batch_throughput.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    prompts = spread_over_k(arguments.prompts)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        seconds, difference = measure(Path(name), prompts, arguments.repeats)
    found = {"seconds": seconds, "prompts": prompts, "difference": difference, "load": load}
    RESULTS.mkdir(exist_ok=True)
    text = report(seconds, prompts, difference, load)
    (RESULTS / "batch_throughput.md").write_text(text)
    (RESULTS / "batch_throughput.json").write_text(
        json.dumps({**found, "machine": machine()}, indent=1) + "\n"
    )
    print(text)


def spread_over_k(count: int) -> list[str]:
    """Captions from few training pictures to many, evenly."""
    captions = sorted(trained_captions(), key=lambda caption: caption.k)
    places = np.linspace(0, len(captions) - 1, count).round().astype(int)
    return [captions[place].text for place in places]


def measure(
    room: Path, prompts: Sequence[str], repeats: int
) -> tuple[dict[str, list[float]], float]:
    """Seconds of each way in each repeat, and by how much pictures differ at most, of 255."""
    asked = warm_up(room, prompts)
    names = [REFERENCE, *(f"{way}, {options}" for options in OPTIONS for way in (BATCH, LOOP))]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    difference = 0.0
    for repeat in range(repeats):
        out = room / str(repeat)
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(run(name, out / str(names.index(name)), prompts, asked))
            print(f"{repeat + 1} of {repeats}: {name} {seconds[name][-1]:.1f} s", flush=True)
        expected = pictures(REFERENCE, out / "0", prompts)
        for k, name in enumerate(names[1:], start=1):
            made = pictures(name, out / str(k), prompts)
            difference = max(difference, float(np.abs(made - expected).max()))
        shutil.rmtree(out)
    assert difference <= 1, f"pictures differ by {difference} of 255"
    return seconds, difference


def warm_up(room: Path, prompts: Sequence[str]) -> dict[str, object]:
    """What the reference has to make; the audit it is read from also warms the file cache."""
    out = room / "warm-up"
    audit(BATCH, out, prompts, WITHOUT_SPECTRUM)
    records = list(BatchDirectory.read(out / "run").records())
    settings = records[0].settings
    return {
        "steps": settings.steps,
        "guidance": settings.guidance,
        "prompts": [[r.prompt, [seed.generator_seed for seed in r.seeds]] for r in records],
    }


def run(name: str, out: Path, prompts: Sequence[str], asked: Mapping[str, object]) -> float:
    """Seconds that one way takes."""
    out.mkdir(parents=True)
    if name == REFERENCE:
        arguments = [str(POCKET_FOLDER), str(out), json.dumps(asked)]
        return timed([sys.executable, "-c", DIFFUSERS, *arguments])
    way, options = name.split(", ")
    return audit(way, out, prompts, OPTIONS[options])


def audit(way: str, out: Path, prompts: Sequence[str], options: Sequence[str]) -> float:
    """Seconds of the audits of all prompts, with this project's caches empty at the start."""
    out.mkdir(parents=True, exist_ok=True)
    fixed = ("--model", POCKET, "--reference", "none", "--seeds", str(SEEDS), *options)
    cache = out / "cache"
    if way == BATCH:
        (out / "list.txt").write_text("\n".join(prompts))
        arguments = ("batch", str(out / "list.txt"), "--out", str(out / "run"), "--yes", *fixed)
        return timed(program(*arguments), cache=cache)
    start = time.perf_counter()
    for number, prompt in enumerate(prompts):
        timed(program("prompt", prompt, "--out", str(out / str(number)), *fixed), cache=cache)
    return time.perf_counter() - start


def pictures(name: str, out: Path, prompts: Sequence[str]) -> np.ndarray:
    """All pictures of one way, by prompt and seed."""
    if name == REFERENCE:
        files = sorted(out.glob("*.png"))
    elif name.startswith(BATCH):
        entries = from_python(prompts).entries
        folders = [out / "run" / BatchDirectory(out / "run", entries).folder(e) for e in entries]
        files = [file for folder in folders for file in sorted((folder / "images").iterdir())]
    else:
        folders = [out / str(number) / "images" for number in range(len(prompts))]
        files = [file for folder in folders for file in sorted(folder.iterdir())]
    assert len(files) == len(prompts) * SEEDS
    return np.stack([np.asarray(Image.open(file).convert("RGB"), dtype=int) for file in files])


# --- report ----------------------------------------------------------------------------------


def report(
    seconds: Mapping[str, Sequence[float]], prompts: Sequence[str], difference: float, load: float
) -> str:
    made_on = machine()
    rows = [
        f"| {name} | {spread([len(prompts) / taken for taken in values])} | "
        f"{against(name, seconds)} | {spread(ratios(seconds[REFERENCE], values))} |"
        for name, values in seconds.items()
    ]
    repeats = len(seconds[REFERENCE])
    lines = [
        "# Prompts a second: a batch, a loop of single audits, plain diffusers",
        "",
        f"`python benchmarks/batch_throughput.py --prompts {len(prompts)} --repeats {repeats}`. "
        f"Whole processes on {len(prompts)} captions of pocket, spread evenly over K, {SEEDS} "
        "seeds each, no reference; median and, in brackets, smallest to largest. The loop starts "
        "one process a prompt. Plain diffusers makes and saves the same pictures in one process "
        f"and audits nothing; pictures of all ways are at most {difference:.0f}/255 apart. Ratios "
        "are taken within each repeat.",
        "",
        "| way | prompts a second | times as fast as the loop | times as fast as plain diffusers |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        f"{in_words(made_on)}; diffusers {made_on['versions']['diffusers']}; "
        f"load {load:.1f} before the first repeat.",
    ]
    return "\n".join(lines) + "\n"


def against(name: str, seconds: Mapping[str, Sequence[float]]) -> str:
    if not name.startswith(BATCH):
        return ""
    return spread(ratios(seconds[name.replace(BATCH, LOOP)], seconds[name]))


def ratios(of: Sequence[float], to: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(of, to, strict=True)]


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
