"""Spectra of N = 16,384 singular values, Stable Diffusion's number, from tens of evaluations.

Families: operators A = Q D W Q^T whose singular values D are known (Q orthogonal, made of Hartley
transforms and random signs; W turns pairs of directions, so that the antisymmetric part has 0.15 of
the Frobenius norm), given to the estimator as a linear score model of which it knows nothing else.
The error is the relative L1 distance of the sorted curve to D: after 64 evaluations (two directions
of ten steps), after as many steps as `densities` takes for two directions, and after as many
directions too as `fast_spectra` takes. An evaluation: a product with A counts 2, with A^T 1.

    python benchmarks/fast_spectrum_large.py                 # some minutes on one core

`--unet`: one spectrum, end to end, of a U-Net with the configuration of Stable Diffusion 1.4 and
random weights, with its seconds and memory beside the extrapolated seconds of Alg. 2. `--tiny` is
a rehearsal with a small network of the same classes, and is not written to the results.

    python benchmarks/fast_spectrum_large.py --unet          # under an hour on two cores, 20 GB

Writes results/fast_spectrum_large.{md,json}; each part keeps what the other wrote. Finished pieces
stay in --work, and an interrupted run continues from them.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from math import asin
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from resumable import Pieces, Result, in_words, machine
from scipy.stats import norm
from torch import Tensor

from m2g_audit.diagnostics import fast_spectrum, krylov, operators
from m2g_audit.diagnostics.fast_spectrum import (
    TOLERANCE,
    Density,
    densities,
    fast_spectra,
    pooled,
    relative_l1,
)
from m2g_audit.diagnostics.free_probability import point_mass_curve
from m2g_audit.diagnostics.krylov import Bidiagonalisation, curve
from m2g_audit.diagnostics.numerics import exact_numerics, noises_for, seed_for
from m2g_audit.diagnostics.operators import ScoreJacobian
from m2g_audit.diagnostics.score_model import NoiseSchedule, ScoreModel
from m2g_audit.files import write_atomically

N = 16_384
ASYMMETRY = 0.15
BUDGET, BUDGET_STEPS = 64, 10
SMALL = 256
T0 = 5
UNET_SEED = 14
QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
MEASURES = (fast_spectrum, krylov, operators)
RESULTS = Path(__file__).parent / "results"
NAME = "fast_spectrum_large"

SD_14: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD_14_PARAMETERS = 859_520_964
TINY = {
    **SD_14,
    "sample_size": 16,
    "block_out_channels": (32, 32, 64, 64),
    "cross_attention_dim": 32,
}
TOKENS = 77


def main() -> None:
    """Measures one part and writes both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="runs of each family")
    parser.add_argument("--unet", action="store_true", help="the network instead of the families")
    parser.add_argument("--tiny", action="store_true", help="with --unet: a rehearsal, not written")
    parser.add_argument("--repeats", type=int, default=3, help="with --unet: timings of each kind")
    parser.add_argument("--work", type=Path, default=Path("runs/fast_spectrum_large"))
    asked = parser.parse_args()
    file = RESULTS / f"{NAME}.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    if asked.unet:
        found["unet"] = measure_unet(TINY if asked.tiny else SD_14, asked.repeats, asked.work)
    else:
        found["families"] = measure_families(asked.seeds, asked.work)
    print(report(found))
    if not asked.tiny:
        write_atomically(file, (json.dumps(found, indent=1) + "\n").encode())
        write_atomically(RESULTS / f"{NAME}.md", report(found).encode())


# --- operators with a known spectrum ----------------------------------------------------------


def quantiles_of_normal(count: int, mean: float, deviation: float) -> Float[np.ndarray, " count"]:
    """Evenly spaced quantiles of a normal distribution."""
    return norm.ppf((np.arange(count) + 0.5) / count, mean, deviation)


def clusters(size: int) -> np.ndarray:
    most, some = int(0.6 * size), int(0.3 * size)
    flat = np.abs(quantiles_of_normal(size - most - some, 0, 1e-3))
    parts = (quantiles_of_normal(most, 1, 0.02), quantiles_of_normal(some, 0.5, 0.02), flat)
    return np.concatenate(parts)


def heavy_tail(size: int) -> np.ndarray:
    tail, low = size // 16, size // 8
    parts = (
        quantiles_of_normal(size - tail - low, 1, 0.01),
        quantiles_of_normal(low, 0.3, 0.01),
        1 + 30 * np.arange(1, tail + 1) ** -0.8,
    )
    return np.concatenate(parts)


FAMILIES: dict[str, Callable[[int], np.ndarray]] = {
    "clustered bulk (1, 0.5, near 0)": clusters,
    "point mass (70%) and flat directions": lambda n: (np.arange(n) < 0.7 * n).astype(float),
    "uniform on (0, 1)": lambda n: (np.arange(n) + 0.5) / n,
    "Marchenko-Pastur, ratio 1/4": lambda n: point_mass_curve("paper", n),
    "bulk (0.8, 0.1) and 20 outliers": lambda n: np.concatenate(
        [quantiles_of_normal(n - 20, 0.8, 0.1), np.linspace(2, 30, 20)]
    ),
    "clusters and a tail 1 + 30 i^-0.8": heavy_tail,
    "power law i^-0.5": lambda n: np.arange(1, n + 1) ** -0.5,
    "lognormal": lambda n: np.exp(quantiles_of_normal(n, 0, 1)),
}


def spectrum_of(family: str, size: int) -> Float[np.ndarray, " size"]:
    """The singular values of a family, from largest."""
    return np.sort(np.abs(FAMILIES[family](size)))[::-1].copy()


class LinearScore(ScoreModel):
    """A score whose normalised Jacobian is A = Q D W Q^T, everywhere and at its one t."""

    def __init__(self, singular_values: Float[np.ndarray, " N"]) -> None:
        self.schedule = NoiseSchedule.vp(torch.tensor([0.5]))
        self.shape = singular_values.shape
        self.device, self.dtype = torch.device("cpu"), torch.float64
        self._values = torch.from_numpy(singular_values)
        random = torch.Generator().manual_seed(0)
        self._signs = [self._values.new_ones(self.size) for _ in range(2)]
        for signs in self._signs:
            signs[torch.rand(self.size, generator=random) < 0.5] = -1
        self._angle = _angle(singular_values)

    def predict_noise(self, x: Float[Tensor, " b N"], t: int) -> Float[Tensor, " b N"]:
        """-A x / sigma."""
        first, second = self._signs
        inside = second * _hartley(first * _hartley(x))
        even, odd = inside.unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = np.cos(self._angle), np.sin(self._angle)
        turned = torch.stack([cos * even - sin * odd, sin * even + cos * odd], -1).flatten(-2)
        outside = _hartley(first * _hartley(second * (self._values * turned)))
        return -outside / float(self.schedule.sigma(t))


def _angle(values: Float[np.ndarray, " N"]) -> float:
    """The angle of W's turns that gives D W the antisymmetric share.

    That of diag(a, b) times a turn has the square (a + b)^2 sin^2 / 2, of a^2 + b^2.
    """
    sums = np.square(values[0::2] + values[1::2]).sum()
    return asin(ASYMMETRY * (2 * np.square(values).sum() / sums) ** 0.5)


def _hartley(x: Float[Tensor, " b N"]) -> Float[Tensor, " b N"]:
    """The discrete Hartley transform: orthogonal, symmetric, real."""
    transformed = torch.fft.fft(x, norm="ortho")
    return transformed.real - transformed.imag


def measure_families(seeds: int, work: Path) -> Result:
    """Every family under every seed."""
    pieces = Pieces(work, {"tolerance": TOLERANCE}, (*MEASURES, sys.modules[__name__]))
    rows = []
    for number, family in enumerate(FAMILIES):
        for seed in range(seeds):
            row = pieces.get(f"family-{number}-{seed}", partial(measure_family, family, seed))
            rows.append(row)
            used = row["fast_spectra"]
            print(f"{family}: error {used['error']:.4f}, {used['evaluations']}", flush=True)
    return {
        "N": N,
        "tolerance": TOLERANCE,
        "machine": machine(),
        "asymmetry of dense ones": [asymmetry_of_small(family) for family in FAMILIES],
        "rows": rows,
    }


def measure_family(family: str, seed: int) -> Result:
    """The errors of one operator by a fixed budget, by two directions, and by `fast_spectra`."""
    values = spectrum_of(family, N)
    model = LinearScore(values)
    twice = ScoreJacobian(model, torch.zeros(2, N), 0)
    start = torch.stack([_direction(seed, number) for number in range(2)])
    run = Bidiagonalisation(twice, start[:, None])
    run.extend(BUDGET_STEPS)
    budget = [curve(run.quadrature(item, BUDGET_STEPS), N) for item in range(2)]
    pair = densities(twice, start, TOLERANCE, follow_largest=[False, False])
    spectrum = fast_spectra(model, torch.zeros(1, N), 0, seeds=[seed])[0]
    return {
        "family": family,
        "seed": seed,
        "budget": {"evaluations": BUDGET, "error": _error(budget, values)},
        "two directions": {
            "evaluations": sum(density.evaluations for density in pair),
            "steps": [density.steps for density in pair],
            "error": _error([density.curve for density in pair], values),
            "stated": _stated(pair),
        },
        "fast_spectra": {
            "evaluations": spectrum.evaluations,
            "shells": spectrum.shells,
            "steps": spectrum.steps,
            "error": relative_l1(spectrum.singular_values, values),
            "stated": spectrum.error,
            "largest": spectrum.top[0] / values[0] - 1,
            "asymmetry": spectrum.asymmetry,
            "seconds": spectrum.seconds,
        },
    }


def _error(curves: list[np.ndarray], values: Float[np.ndarray, " N"]) -> float:
    return relative_l1(pooled(np.array(curves)), values)


def asymmetry_of_small(family: str) -> float:
    """The antisymmetric share of a dense operator of SMALL dimensions, whose D is checked."""
    values = spectrum_of(family, SMALL)
    model = LinearScore(values)
    matrix = ScoreJacobian(model, torch.zeros(1, SMALL), 0).matvec(
        torch.eye(SMALL, dtype=torch.float64)[None]
    )[0]
    np.testing.assert_allclose(torch.linalg.svdvals(matrix).numpy(), values, atol=1e-12)
    return float((matrix - matrix.mT).norm() / 2 / matrix.norm())


def _direction(seed: int, number: int) -> Float[Tensor, " N"]:
    noise = noises_for([seed_for(seed, "direction", number)], (N,), torch.float64)[0]
    return noise / noise.norm()


def _stated(pair: list[Density]) -> float:
    """The error estimate of the pooled curve of independent directions of one operator."""
    truncation = float(np.mean([density.truncation for density in pair]))
    return truncation + float(np.mean([density.chance for density in pair])) / len(pair) ** 0.5


# --- a network of Stable Diffusion's size -----------------------------------------------------


class RandomUNet(ScoreModel):
    """A conditional U-Net with random weights and a random text, on Stable Diffusion's schedule."""

    def __init__(self, config: dict[str, Any]) -> None:
        torch.manual_seed(UNET_SEED)
        self._unet: Any = UNet2DConditionModel(**config).eval().requires_grad_(False)
        self._text = torch.randn(1, TOKENS, config["cross_attention_dim"])
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.schedule = NoiseSchedule.vp((1 - betas).cumprod(0))
        self.shape = (config["in_channels"], config["sample_size"], config["sample_size"])
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.kind = "conditional"
        self.parameters = sum(part.numel() for part in self._unet.parameters())

    def predict_noise(self, x: Float[Tensor, " b c h w"], t: int) -> Float[Tensor, " b c h w"]:
        """epsilon(x, t)."""
        text = self._text.expand(len(x), -1, -1)
        with exact_numerics():
            return self._unet(x, t, encoder_hidden_states=text, return_dict=False)[0]


def measure_unet(config: dict[str, Any], repeats: int, work: Path) -> Result:
    """Seconds of each kind of evaluation, and one whole spectrum."""
    settings = {"config": config, "seed": UNET_SEED, "repeats": repeats, "tolerance": TOLERANCE}
    code = (*MEASURES, RandomUNet, time_evaluations, whole_spectrum)
    pieces = Pieces(work, settings, code)
    model = RandomUNet(config)
    if config is SD_14 and model.parameters != SD_14_PARAMETERS:
        raise SystemExit(f"{model.parameters:,} parameters instead of {SD_14_PARAMETERS:,}")
    print(f"{model.parameters:,} parameters, N = {model.size:,}", flush=True)
    x0 = noises_for([UNET_SEED], model.shape)
    timings = pieces.get("timings", lambda: time_evaluations(model, x0, repeats))
    print(timings, flush=True)
    spectrum = pieces.get("spectrum", lambda: whole_spectrum(model, x0))
    return {
        "N": model.size,
        "parameters": model.parameters,
        "t0": T0,
        "machine": machine(),
        "timings": timings,
        "spectrum": spectrum,
        "extrapolated seconds of Alg. 2": 8 * model.size * timings["forward"],
    }


def time_evaluations(model: ScoreModel, x0: Float[Tensor, "one c h w"], repeats: int) -> Result:
    """Median seconds of a forward pass, of forward and reverse mode, and of the kept graph."""
    jacobian = ScoreJacobian(model, x0, T0)
    v = noises_for([UNET_SEED + 1], (1, model.size), torch.float64)
    with torch.no_grad():
        model.predict_noise(x0, T0)  # warms up
        forward = _seconds(lambda: model.predict_noise(x0, T0), repeats)
    jvp = _seconds(lambda: jacobian.matvec(v), repeats)
    graph = _seconds(lambda: jacobian.rmatvec(v), 1)
    vjp = _seconds(lambda: jacobian.rmatvec(v), repeats)
    return {"forward": forward, "jvp": jvp, "graph and vjp": graph, "vjp": vjp}


def _seconds(work: Callable[[], object], repeats: int) -> float:
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return float(np.median(found))


def whole_spectrum(model: ScoreModel, x0: Float[Tensor, "one c h w"]) -> Result:
    """One spectrum of two shells by `fast_spectra`, with the process's peak memory."""
    start = time.perf_counter()

    def show(done: int) -> None:
        print(f"{done} evaluations, {time.perf_counter() - start:.0f} s", flush=True)

    found = fast_spectra(model, x0, T0, seeds=[UNET_SEED], most_shells=2, block=1, on_progress=show)
    spectrum = found[0]
    # Linux counts kibibytes, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": spectrum.seconds,
        "evaluations": spectrum.evaluations,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9,
        "shells": spectrum.shells,
        "steps": list(spectrum.steps),
        "stated error": spectrum.error,
        "of it truncation": spectrum.truncation,
        "largest": [float(spectrum.top[0]), float(spectrum.top_error[0])],
        "asymmetry": spectrum.asymmetry,
        "quantiles": {str(q): float(np.quantile(spectrum.singular_values, q)) for q in QUANTILES},
    }


# --- report -----------------------------------------------------------------------------------


def report(found: Result) -> str:
    """Both parts, as far as they were measured, as Markdown."""
    lines = [f"# Fast spectra of N = {N:,}", ""]
    if "families" in found:
        lines += families_section(found["families"])
    if "unet" in found:
        lines += unet_section(found["unet"])
    return "\n".join(lines)


def families_section(found: Result) -> list[str]:
    rows, dense = found["rows"], found["asymmetry of dense ones"]
    runs = 1 + max(row["seed"] for row in rows)
    estimated = [row["fast_spectra"]["asymmetry"] for row in rows]
    lines = [
        "## Operators with a known spectrum",
        "",
        "`python benchmarks/fast_spectrum_large.py`: relative L1 error of the sorted curve in "
        f"percent, median (worst) of {runs} seeds; stated: the median of the estimates; tolerance "
        f"{found['tolerance']:.0%}. An exact spectrum by reverse mode takes {2 * N:,} evaluations, "
        f"Alg. 2 {8 * N:,}. `fast_spectra` also spends two evaluations a direction on the mean "
        "score, and follows the largest value.",
        "",
        f"The antisymmetric part's share of the norm is {min(dense):.4f} to {max(dense):.4f} at "
        f"N = {SMALL}, dense, and was estimated as {min(estimated):.3f} to {max(estimated):.3f} "
        f"at N = {N:,}.",
        "",
        f"| singular values | {BUDGET} evaluations: error | two directions: evaluations | error "
        "| stated | `fast_spectra`: directions | evaluations | error | stated | covered |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for family in FAMILIES:
        own = [row for row in rows if row["family"] == family]
        budget, two, adaptive = (
            {name: [row[way][name] for row in own] for name in own[0][way]}
            for way in ("budget", "two directions", "fast_spectra")
        )
        covered = sum(e <= s for e, s in zip(adaptive["error"], adaptive["stated"], strict=True))
        cells = [
            family,
            _errors(budget["error"]),
            _range(two["evaluations"]),
            _errors(two["error"]),
            f"{100 * np.median(two['stated']):.2f}",
            _range(adaptive["shells"]),
            _range(adaptive["evaluations"]),
            _errors(adaptive["error"]),
            f"{100 * np.median(adaptive['stated']):.2f}",
            f"{covered} of {runs}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", f"{in_words(found['machine'])}.", ""]


def unet_section(found: Result) -> list[str]:
    timings, spectrum = found["timings"], found["spectrum"]
    alg2 = found["extrapolated seconds of Alg. 2"]
    cheaper = alg2 / spectrum["seconds"]
    values = ", ".join(f"{q}: {value:.4g}" for q, value in spectrum["quantiles"].items())
    return [
        "## A network of Stable Diffusion 1.4's size",
        "",
        f"`python benchmarks/fast_spectrum_large.py --unet`: {found['parameters']:,} random "
        f"parameters, N = {found['N']:,}, t0 = {found['t0']}, conditional score, fp32, one point "
        "at a time. Random weights have the cost of trained ones, not their spectrum.",
        "",
        "| | seconds |",
        "| --- | ---: |",
        f"| a forward pass | {timings['forward']:.2f} |",
        f"| a product with the Jacobian (forward mode) | {timings['jvp']:.2f} |",
        f"| a product with its transpose (reverse mode, graph kept) | {timings['vjp']:.2f} |",
        f"| graph and first such product | {timings['graph and vjp']:.2f} |",
        f"| the spectrum, {spectrum['evaluations']} evaluations | {spectrum['seconds']:.0f} |",
        f"| Alg. 2, {8 * found['N']:,} forward passes, extrapolated, without its linear algebra "
        f"| {alg2:.0f} ({alg2 / 86400:.1f} days; {cheaper:.0f} times as many) |",
        "",
        f"Peak memory of the process: {spectrum['peak GB']:.1f} GB. {spectrum['shells']} shells of "
        f"{' and '.join(str(steps) for steps in spectrum['steps'])} steps; stated error "
        f"{spectrum['stated error']:.2%}, of it truncation {spectrum['of it truncation']:.2%}; "
        f"largest value {spectrum['largest'][0]:.4g} within {spectrum['largest'][1]:.2g}; "
        f"antisymmetric share {spectrum['asymmetry']:.3f}. Quantiles of the normalised curve: "
        f"{values}.",
        "",
        f"{in_words(found['machine'])}.",
        "",
    ]


def _errors(errors: list[float]) -> str:
    return f"{100 * np.median(errors):.2f} ({100 * max(errors):.2f})"


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


if __name__ == "__main__":
    main()
