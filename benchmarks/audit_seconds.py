"""How long is an audit, beside plain diffusers making the same pictures?

Whole processes, from start to exit: `m2g-audit --help`; the audit of one prompt on pocket with 16
seeds, into a fresh folder and with every cache of this project empty, with the default spectrum
and without; and, as the reference, a plain `StableDiffusionPipeline` that makes the same 16
pictures (same seeds, steps, guidance) and saves them. Each repeat runs all of them, each time in
another order; ratios are of two processes of one repeat. That the pictures are the same is checked.

    python benchmarks/audit_seconds.py                 # five repeats; needs an idle machine
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from resumable import in_words, machine

from m2g_audit.models.model_folder import POCKET_FOLDER
from m2g_audit.models.names import POCKET

PROMPT = "a print of the old harbour"
SEEDS = 16
DEFAULT: tuple[str, ...] = ()
WITHOUT_SPECTRUM = ("--spectrum", "none")
RESULTS = Path(__file__).parent / "results"

HELP, REFERENCE = "m2g-audit --help", "plain diffusers"
AUDITS = {"audit, default": DEFAULT, f"audit, {' '.join(WITHOUT_SPECTRUM)}": WITHOUT_SPECTRUM}

# What somebody without this program would run; seeds, steps and guidance are the audit's.
DIFFUSERS = """
import json, sys
import torch
from diffusers import StableDiffusionPipeline

folder, out, asked = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
generators = [torch.Generator("cpu").manual_seed(seed) for seed in asked["seeds"]]
pictures = pipe(
    [asked["prompt"]] * len(generators),
    num_inference_steps=asked["steps"],
    guidance_scale=asked["guidance"],
    generator=generators,
).images
for i, picture in enumerate(pictures):
    picture.save(f"{out}/{i:04d}.png")
"""


def main() -> None:
    """Writes results/audit_seconds.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        seconds, stages = measure(Path(name), repeats)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "audit_seconds.md").write_text(report(seconds, stages, load))
    found = {"seconds": seconds, "stages": stages, "load": load, "machine": machine()}
    (RESULTS / "audit_seconds.json").write_text(json.dumps(found, indent=1) + "\n")
    print((RESULTS / "audit_seconds.md").read_text())


def measure(
    room: Path, repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[dict[str, float]]]]:
    """Seconds of each process in each repeat, and of the stages that each audit recorded."""
    names = [HELP, REFERENCE, *AUDITS]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in AUDITS}
    asked = warm_up(room)
    for repeat in range(repeats):
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            out = room / f"{repeat}-{names.index(name)}"
            if name == HELP:
                seconds[name].append(timed(program("--help")))
            elif name == REFERENCE:
                seconds[name].append(make_pictures(out, asked))
            else:
                seconds[name].append(timed(audit(out, *AUDITS[name]), cache=out / "cache"))
                stages[name].append(record(out)["timings"]["seconds"])
            print(f"{repeat + 1} of {repeats}: {name} {seconds[name][-1]:.1f} s", flush=True)
        pictures = [read(room / f"{repeat}-{names.index(name)}") for name in names[1:]]
        assert all(np.abs(other - pictures[0]).max() <= 1 for other in pictures[1:])
    return seconds, stages


def warm_up(room: Path) -> dict[str, object]:
    """What the reference has to make, read from an audit that is not timed.

    It also brings the libraries' files into memory, so that the first repeat is as the others.
    """
    out = room / "warm-up"
    timed(audit(out, *WITHOUT_SPECTRUM), cache=out / "cache")
    made = record(out)
    settings = {key: made["settings"][key] for key in ("steps", "guidance")}
    seeds = [seed["generator_seed"] for seed in made["seeds"]]
    asked = {"prompt": PROMPT, "seeds": seeds, **settings}
    make_pictures(room / "warm-up-reference", asked)
    return asked


def program(*arguments: str) -> list[str]:
    """The command line of the installed program beside this Python."""
    return [str(Path(sys.executable).with_name("m2g-audit")), *arguments]


def audit(out: Path, *options: str) -> list[str]:
    """The command line of an audit into a fresh folder."""
    fixed = ("--seeds", str(SEEDS), "--model", POCKET, "--out", str(out / "run"))
    return program("prompt", PROMPT, *fixed, *options)


def make_pictures(out: Path, asked: Mapping[str, object]) -> float:
    """Seconds that plain diffusers takes for the pictures."""
    images = out / "run" / "images"
    images.mkdir(parents=True)
    command = [sys.executable, "-c", DIFFUSERS, str(POCKET_FOLDER), str(images), json.dumps(asked)]
    return timed(command)


def timed(command: Sequence[str], cache: Path | None = None) -> float:
    """Seconds from the start of a process to its end."""
    # Compiled files are written, as pip does for an installed package.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    if cache is not None:
        environment["M2G_CACHE"] = str(cache)
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return seconds


def record(out: Path) -> dict:
    """The record that an audit left."""
    return json.loads((out / "run" / "record.json").read_text())


def read(out: Path) -> np.ndarray:
    """The pictures of a process, in the order of their seeds."""
    files = sorted((out / "run" / "images").glob("*.png"))
    assert len(files) == SEEDS
    return np.stack([np.asarray(Image.open(file).convert("RGB"), dtype=int) for file in files])


# --- report ----------------------------------------------------------------------------------


def report(
    seconds: Mapping[str, Sequence[float]],
    stages: Mapping[str, Sequence[Mapping[str, float]]],
    load: float,
) -> str:
    repeats = len(seconds[REFERENCE])
    made_on = machine()
    diffusers = made_on["versions"]["diffusers"]
    rows = [
        f"| {name} | {spread(taken)} | {against(name, taken, seconds[REFERENCE])} |"
        for name, taken in seconds.items()
    ]
    lines = [
        "# Seconds of an audit, beside plain diffusers",
        "",
        f"`python benchmarks/audit_seconds.py --repeats {repeats}`. Whole processes; median and, "
        f"in brackets, smallest to largest of {repeats}. An audit of {SEEDS} seeds of `{PROMPT}` "
        "on pocket, with every cache of this project empty, against plain diffusers making the "
        "same pictures (same seeds, steps, guidance; at most 1/255 apart). The ratio is taken "
        "within each repeat.",
        "",
        "| process | seconds | ratio to plain diffusers |",
        "| --- | --- | --- |",
        *rows,
        "",
        "Medians of the seconds that the audits recorded of their own stages; the rest is imports, "
        "the estimate and the report:",
        "",
        *(f"- {name}: {stage_line(taken)}" for name, taken in stages.items()),
        "",
        f"{in_words(made_on)}; diffusers {diffusers}; load {load:.1f} before the first repeat.",
    ]
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def against(name: str, taken: Sequence[float], reference: Sequence[float]) -> str:
    if name in (HELP, REFERENCE):
        return ""
    return spread([a / b for a, b in zip(taken, reference, strict=True)])


def stage_line(taken: Sequence[Mapping[str, float]]) -> str:
    return ", ".join(
        f"{stage} {statistics.median(seconds[stage] for seconds in taken):.1f}"
        for stage in taken[0]
    )


if __name__ == "__main__":
    main()
