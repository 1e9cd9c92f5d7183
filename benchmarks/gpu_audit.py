"""What does an audit cost on one GPU, at Stable Diffusion 1.4's size?

A model of SD 1.4's configuration with random weights, which have the cost of trained ones, and a
folder of made-up pictures as its training set. In one process, each beside its reference in pairs:

- 16 pictures by this program and by a plain `StableDiffusionPipeline`, in float16 and one batch;
- thresholds, probe and power with the pictures, nothing kept from before;
- a forward pass, forward mode and reverse mode of the fp32 network, and one whole fast spectrum.

Peak memory is torch's own. Then the whole command, `m2g-audit prompt` with its defaults. Written to
results/gpu_audit.{md,json}.

    python benchmarks/gpu_audit.py                              # on a machine with a GPU
    python benchmarks/gpu_audit.py --tiny --device cpu          # a rehearsal, not written
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from fast_spectrum_large import SD_14, SD_14_PARAMETERS, TINY
from PIL import Image
from resumable import in_words, machine
from transformers import CLIPTextConfig, CLIPTextModel

from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import set_up
from m2g_audit.audits.yardstick_search import find_yardstick
from m2g_audit.diagnostics.fast_spectrum import fast_spectra
from m2g_audit.diagnostics.numerics import noises_for
from m2g_audit.diagnostics.operators import ScoreJacobian
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pocket import components
from m2g_audit.pocket.captions import trained_captions
from m2g_audit.pocket.recipe import Recipe
from m2g_audit.progress import silent
from m2g_audit.references.reference import load_folder

RESULTS = Path(__file__).parent / "results"
PROMPT = "a print of the old harbour"
SEEDS, T0 = 16, 5
Result = dict[str, Any]


def main() -> None:
    """Writes results/gpu_audit.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal, not written")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--pictures", type=int, default=2000, help="of the training set")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        os.environ["M2G_CACHE"] = str(room / "cache")
        make_model(room / "model", tiny=asked.tiny)
        make_pictures(room / "pictures", asked.pictures, 64 if asked.tiny else 512)
        found = measure(room, asked)
    print(report(found))
    if not asked.tiny:
        asked.results.mkdir(exist_ok=True)
        (asked.results / "gpu_audit.json").write_text(json.dumps(found, indent=1) + "\n")
        (asked.results / "gpu_audit.md").write_text(report(found))


# -- what is measured on


def make_model(folder: Path, *, tiny: bool) -> None:
    """Writes a pipeline of SD 1.4's configuration with random weights, in float16 as released."""
    torch.manual_seed(0)
    config = TINY if tiny else SD_14
    width, layers = (32, 1) if tiny else (768, 12)
    unet = UNet2DConditionModel(**config)
    if not tiny and sum(part.numel() for part in unet.parameters()) != SD_14_PARAMETERS:
        raise SystemExit("The network has not the size of Stable Diffusion 1.4's.")
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8) if tiny else (128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1 if tiny else 2,
        norm_num_groups=8 if tiny else 32,
        latent_channels=4,
        sample_size=8 * config["sample_size"],
    )
    texts = [caption.text for caption in trained_captions()]
    tokenizer = components.make_tokenizer(folder / "tokenizer", Recipe(text_tokens=77), texts)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // 64),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    pipe = components.assemble(vae, text_encoder, tokenizer, unet)
    pipe.to(torch.float16).save_pretrained(folder)


def make_pictures(folder: Path, count: int, side: int) -> None:
    """Writes smooth random pictures, no two of them alike."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg")


# -- the measurements


def measure(room: Path, asked: argparse.Namespace) -> Result:
    options = AuditOptions(
        model=str(room / "model"),
        device=asked.device,
        steps=asked.steps,
        reference=str(room / "pictures"),
        reference_complete=True,
    )
    setup = set_up(options)
    pipeline = setup.pipeline
    found: Result = {
        "machine": machine(),
        "device": device_name(asked.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "steps": asked.steps,
        "pictures": compare_pictures(room / "model", pipeline, asked),
    }
    show(found["pictures"])
    assert setup.contents is not None
    read = partial(load_folder, setup.contents, pipeline, complete=True)
    seconds, reference = timed(read, asked.device)
    found["reading the training pictures"] = {"seconds": seconds, "pictures": asked.pictures}
    texts = [caption.text for caption in trained_captions()]
    gather = partial(find_yardstick, setup, reference, None, texts, silent)
    seconds, yardstick = timed(gather, asked.device)
    measured = yardstick.power is not None
    found["thresholds, probe and power"] = {"seconds": seconds, "power measured": measured}
    show(found["thresholds, probe and power"])
    found["curvature"] = measure_curvature(pipeline, asked)
    show(found["curvature"])
    del setup, pipeline
    if asked.device == "cuda":
        torch.cuda.empty_cache()
    found["the command"] = whole_command(room, asked)
    return found


def show(found: Result) -> None:
    print(found, flush=True)


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds of work(), the device's included, and what it returns."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    made = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, made


def peak(device: str) -> float | None:
    """Peak GB that torch held since it was asked last."""
    if device != "cuda":
        return None
    most = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return most


def compare_pictures(model: Path, pipeline: TextToImage, asked: argparse.Namespace) -> Result:
    """Seconds of 16 pictures by the program and by plain diffusers, in turns, after a warm-up."""
    plain = StableDiffusionPipeline.from_pretrained(
        model, torch_dtype=pipeline.dtype, safety_checker=None
    ).to(asked.device)
    plain.set_progress_bar_config(disable=True)
    seeds = list(range(SEEDS))

    def by_diffusers() -> np.ndarray:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        made = plain(
            [PROMPT] * SEEDS,
            num_inference_steps=asked.steps,
            generator=generators,
            output_type="np",
        )
        return (made.images * 255).round()

    def by_program() -> np.ndarray:
        made = pipeline.generate(PROMPT, seeds, steps=asked.steps, batch_size=SEEDS)
        return (made.images.permute(0, 2, 3, 1).numpy() * 255).round()

    ways = {"plain diffusers": by_diffusers, "this program": by_program}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory, difference = {}, 0.0
    for repeat in range(asked.repeats + 1):
        pictures = {}
        for name in list(ways)[:: 1 if repeat % 2 else -1]:
            peak(asked.device)
            taken, pictures[name] = timed(ways[name], asked.device)
            memory[name] = peak(asked.device)
            if repeat:
                seconds[name].append(taken)
        apart = np.abs(pictures["this program"] - pictures["plain diffusers"])
        difference = max(difference, float(apart.max()))
    return {"seconds": seconds, "peak GB": memory, "difference of 255": difference}


def measure_curvature(pipeline: TextToImage, asked: argparse.Namespace) -> Result:
    """Seconds of each kind of evaluation of the fp32 network, and of one fast spectrum."""
    model = pipeline.bind(PROMPT)
    x0 = noises_for([0], model.shape).to(model.device)
    jacobian = ScoreJacobian(model, x0, T0)
    v = noises_for([1], (1, model.size), torch.float64)

    @torch.no_grad()
    def forward() -> object:
        return model.predict_noise(x0, T0)

    kinds: dict[str, Callable[[], object]] = {
        "forward": forward,
        "forward mode": partial(jacobian.matvec, v),
        "reverse mode": partial(jacobian.rmatvec, v),
    }
    found: Result = {}
    for name, work in kinds.items():
        timed(work, asked.device)
        found[name] = [timed(work, asked.device)[0] for _ in range(asked.repeats)]
    del jacobian, kinds, work
    peak(asked.device)
    seconds, (spectrum,) = timed(
        lambda: fast_spectra(model, x0, T0, seeds=[0], block=1), asked.device
    )
    found["spectrum"] = {
        "seconds": seconds,
        "evaluations": spectrum.evaluations,
        "shells": spectrum.shells,
        "stated error": spectrum.error,
        "peak GB": peak(asked.device),
    }
    return found


def whole_command(room: Path, asked: argparse.Namespace) -> Result:
    """Seconds of `m2g-audit prompt` with the pictures, from start to exit, and of its stages."""
    words = [sys.executable, "-c", "from m2g_audit.cli import main; main()", "prompt", PROMPT]
    words += ["--model", str(room / "model"), "--reference", str(room / "pictures")]
    words += ["--reference-complete", "--device", asked.device, "--steps", str(asked.steps)]
    words += ["--yes", "--out", str(room / "run")]
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        return {"exit": done.returncode, "error": done.stderr[-2000:], "seconds": seconds}
    record = json.loads((room / "run/record.json").read_text())
    return {"seconds": seconds, "stages": record["timings"]["seconds"], "said": done.stdout[-3000:]}


# -- report


def report(found: Result) -> str:
    """The measurements as Markdown."""
    pictures, curvature = found["pictures"], found["curvature"]
    ratios = [
        a / b
        for a, b in zip(
            pictures["seconds"]["this program"], pictures["seconds"]["plain diffusers"], strict=True
        )
    ]
    own = statistics.median(pictures["seconds"]["this program"])
    thresholds = found["thresholds, probe and power"]["seconds"]
    reading, spectrum = found["reading the training pictures"], curvature["spectrum"]
    rows = [
        *(
            (f"{SEEDS} pictures, {name}", spread(values), pictures["peak GB"][name])
            for name, values in pictures["seconds"].items()
        ),
        (f"reading {reading['pictures']:,} training pictures", f"{reading['seconds']:.1f}", None),
        ("thresholds, probe and power", f"{thresholds:.1f}", None),
        *(
            (f"fp32 network: {name}", spread(curvature[name], 4), None)
            for name in ("forward", "forward mode", "reverse mode")
        ),
        (
            f"a fast spectrum: {spectrum['evaluations']} evaluations, {spectrum['shells']} shells",
            f"{spectrum['seconds']:.1f}",
            spectrum["peak GB"],
        ),
        ("`m2g-audit prompt`, all of it", f"{found['the command']['seconds']:.1f}", None),
    ]
    lines = [
        "# An audit on one GPU, at Stable Diffusion 1.4's size",
        "",
        f"`python benchmarks/gpu_audit.py` on one {found['device']}: random weights of SD 1.4's "
        f"configuration, {found['steps']} steps, {found['dtype']}; median and, in brackets, "
        "smallest to largest.",
        "",
        "| | seconds | peak GB |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {taken} | {'' if gb is None else f'{gb:.1f}'} |"
            for name, taken, gb in rows
        ),
        "",
        f"Pictures take {spread(ratios)} times as long as plain diffusers', in pairs, and are at "
        f"most {pictures['difference of 255']:.0f}/255 apart. Thresholds, probe and power are "
        f"{thresholds / (100 * own):.1%} of what the pictures of 100 prompts take. The spectrum "
        f"takes {spectrum['seconds'] / (own / SEEDS):.1f} times as long as one picture; its stated "
        f"error is {spectrum['stated error']:.1%}.",
        "",
        f"{in_words(found['machine'])}.",
    ]
    return "\n".join(lines) + "\n"


def gigabytes(most: float | None) -> str:
    return "" if most is None else f"{most:.1f}"


def spread(values: list[float], digits: int = 2) -> str:
    median = statistics.median(values)
    return f"{median:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
