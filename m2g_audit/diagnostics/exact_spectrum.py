"""Exact singular-value spectra of the score's Jacobian, the energy's Hessian (Sec. 4.2, App. D).

Two kinds, never mixed. "paper": singular values of the N x 4N matrix M of Alg. 2 or 3, as printed.
"jacobian": those of ds/dx itself, exact, on the noise shell. Both are normalised so that one memory
alone is of order 1 in every direction, and a flat direction about 0.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from m2g_audit.diagnostics.free_probability import Kind
from m2g_audit.diagnostics.numerics import (
    check_finite,
    exact_numerics,
    in_batches,
    noises_for,
    probe_determinism,
    seed_for,
)
from m2g_audit.diagnostics.operators import GRAPH_COST, REVERSE_COST, Operator, ScoreJacobian
from m2g_audit.diagnostics.score_model import ScoreModel, perturb
from m2g_audit.errors import UsageError

Algorithm = Literal["exact-alg2", "exact-alg3", "exact-jacobian"]
Progress = Callable[[int], None]

EXACT_LIMIT = 4096
BLOCK = 64
_COLUMNS = 4  # M has 4N columns
_LEAST = {"jacobian": 1.0, "paper": 0.5}  # of the values of a point mass
_LONG_BLOCK_SECONDS = 10.0
_ALGEBRA_SAMPLE = 256
_SAVE_EVERY_SECONDS = 600.0


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The spectrum at one sample: normalised singular values, from largest, float64, length N.

    `scale` turns raw values into these: sigma_t^2 for "jacobian" (a point mass is 1 throughout),
    sigma_t / sqrt(4N) for "paper" (a point mass follows Marchenko-Pastur, 0.5 to 1.5). `score` says
    which score of a conditional model; `evaluations` counts forward passes of the network, and a
    backward pass to the input as one more.
    """

    singular_values: Float[np.ndarray, " N"]
    kind: Kind
    scale: float
    t0: int
    score: str
    algorithm: str
    evaluations: int
    seconds: float

    @property
    def raw(self) -> Float[np.ndarray, " N"]:
        """The singular values as the paper plots them, without normalisation."""
        return self.singular_values / self.scale

    @property
    def median(self) -> float:
        """The median normalised singular value."""
        return float(np.median(self.singular_values))

    @property
    def rank(self) -> int:
        """The number of stiff directions: values above half of a point mass's least one."""
        return int((self.singular_values > _LEAST[self.kind] / 2).sum())


@dataclass(frozen=True)
class Cost:
    """What a spectrum will take: network evaluations, seconds, bytes beside the network's own."""

    evaluations: int
    seconds: float
    bytes: int


def alg2(
    model: ScoreModel,
    x0: Float[Tensor, " *shape"],
    t0: int,
    *,
    seed: int,
    block: int = BLOCK,
    kept: Path | None = None,
    on_progress: Progress | None = None,
) -> Spectrum:
    """The "paper" spectrum by Alg. 2, central differences: column i is (s(x+) - s(x-)) / 2.

    x+ and x- are F(x_0, eps_i, t_0) and F(x_0, -eps_i, t_0), i = 1 .. 4N; t0 is the 0-based
    index of the schedule. Noise belongs to (seed, i), so that `block`, the items in one network
    call, changes no column. Columns are folded as they come into a triangle of N x N; at `kept` it
    is written every ten minutes, and found again by a second call with the same arguments.
    `on_progress` gets the evaluations done, of 8N. Raises UsageError for an x0 of another shape,
    NumericsError for a network that is random or overflows, ResourceError if a pair does not fit in
    memory.
    """
    return _paper(model, x0, t0, "exact-alg2", seed, block, kept, on_progress)


def alg3(
    model: ScoreModel,
    x0: Float[Tensor, " *shape"],
    t0: int,
    *,
    seed: int,
    block: int = BLOCK,
    kept: Path | None = None,
    on_progress: Progress | None = None,
) -> Spectrum:
    """The "paper" spectrum by Alg. 3: column i is s(F(x_0, eps_i, t_0)); 4N evaluations.

    Differs from Alg. 2 mostly in the largest value, which is the mean score. Arguments and errors
    as for `alg2`.
    """
    return _paper(model, x0, t0, "exact-alg3", seed, block, kept, on_progress)


def exact_jacobian(
    model: ScoreModel,
    x0: Float[Tensor, " *shape"],
    t0: int,
    *,
    shells: int = 1,
    seed: int,
    block: int = BLOCK,
    on_progress: Progress | None = None,
) -> Spectrum:
    """The "jacobian" spectrum: singular values of ds/dx on the noise shell, by reverse mode.

    Evaluated at alpha x_0 + sigma eps for `shells` draws of eps; the curve is the mean of the
    sorted ones. (At the noiseless centre the network is off its manifold.) `on_progress` gets the
    evaluations done, of which a shell takes N and a block. Raises UsageError for N above
    EXACT_LIMIT, and what `alg2` raises.
    """
    _check_exact(model.size)
    start = time.perf_counter()
    x0 = check_sample(model, x0)
    points = perturb(model.schedule, x0, _noise(model, seed, range(shells)), t0)
    probe_determinism(model, points[:1], t0)
    done = 0

    def report(evaluations: int) -> None:
        nonlocal done
        done += evaluations * model.evaluations_per_call
        if on_progress is not None:
            on_progress(done)

    matrices = (jacobian_rows(ScoreJacobian(model, x[None], t0), block, report) for x in points)
    curves = [torch.linalg.svdvals(matrix).numpy() for matrix in matrices]
    scale = float(model.schedule.sigma(t0)) ** 2
    return Spectrum(
        singular_values=np.mean(curves, axis=0),
        kind="jacobian",
        scale=scale,
        t0=t0,
        score=model.kind,
        algorithm="exact-jacobian",
        evaluations=evaluations(model, "exact-jacobian", shells, block),
        seconds=time.perf_counter() - start,
    )


def evaluations(
    model: ScoreModel, algorithm: Algorithm, shells: int = 1, block: int = BLOCK
) -> int:
    """The network evaluations of a spectrum: 8N for Alg. 2, 4N for Alg. 3, N for each exact shell.

    There the graph of a block of rows comes on top. Times 2 for guided scores.
    """
    if algorithm == "exact-jacobian":
        return shells * row_evaluations(model.size, block) * model.evaluations_per_call
    sides = 2 if algorithm == "exact-alg2" else 1
    return sides * _COLUMNS * model.size * model.evaluations_per_call


def estimate_cost(
    model: ScoreModel, t0: int, *, algorithm: Algorithm, shells: int = 1, block: int = BLOCK
) -> Cost:
    """The predicted cost of one spectrum; runs the network a few times and a small factorisation.

    `seconds` is an estimate by extrapolation, good to about a factor of 1.5; `bytes` counts the
    matrices of the linear algebra, not the network. Raises UsageError for the exact Jacobian above
    EXACT_LIMIT.
    """
    N = model.size
    if algorithm == "exact-jacobian":
        _check_exact(N)
    # A block of a large network may take minutes by itself: a single item tells enough there.
    gradient = algorithm == "exact-jacobian"
    alone = time_call(model, t0, 1, gradient=gradient)
    small = alone * block < _LONG_BLOCK_SECONDS
    each = time_call(model, t0, block, gradient=gradient) / block if small else alone
    calls = evaluations(model, algorithm, shells, block) // model.evaluations_per_call
    if algorithm == "exact-jacobian":
        each /= 2  # what is timed is a pass there and back
    fold, values = _time_algebra(min(N, _ALGEBRA_SAMPLE))
    growth = (N / min(N, _ALGEBRA_SAMPLE)) ** 3
    if algorithm == "exact-jacobian":
        return Cost(
            evaluations(model, algorithm, shells, block),
            calls * each + shells * values * growth,
            2 * 8 * N**2,
        )
    algebra = ((_COLUMNS - 1) * fold + values) * growth
    # The buffer of 2N rows, LAPACK's copy of it, and the triangle.
    return Cost(evaluations(model, algorithm, shells), calls * each + algebra, 5 * 8 * N**2)


class _WideMatrix:
    """The singular values of M (N x 4N) from its columns, in O(N^2) memory.

    Columns are folded into a triangle by QR (the factor R of M^T has M's singular values). Unlike
    M M^T, whose small singular values drown below the square root of the machine's precision times
    the largest, this is backward stable: every value is right to float64's precision times the
    largest. A fold takes place after every N columns, whatever the blocks they come in.
    """

    def __init__(self, N: int, device: torch.device) -> None:
        self._N = N
        # MPS has no float64.
        place = device if device.type == "cuda" else torch.device("cpu")
        self._rows = torch.zeros(2 * N, N, dtype=torch.float64, device=place)
        self._filled = 0

    def add(self, columns: Float[Tensor, " b N"]) -> None:
        columns = columns.to(self._rows)
        while len(columns):
            if self._filled == 2 * self._N:
                self.fold()
            room = 2 * self._N - self._filled
            taken, columns = columns[:room], columns[room:]
            self._rows[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)

    def fold(self) -> Float[Tensor, " n N"]:
        """The triangle (at most N rows) that now stands for all columns so far."""
        triangle = torch.linalg.qr(self._rows[: self._filled], mode="r").R
        self._filled = len(triangle)
        self._rows[: self._filled] = triangle
        return triangle

    def singular_values(self) -> Float[np.ndarray, " N"]:
        return torch.linalg.svdvals(self.fold()).cpu().numpy()


class _Kept:
    """The triangle of an unfinished matrix on disk, with the number of columns in it."""

    def __init__(self, path: Path | None, settings: dict[str, str]) -> None:
        self._path, self._settings = path, settings
        self._written = time.monotonic()

    def restore(self, matrix: _WideMatrix) -> int:
        """The number of columns that were restored into `matrix`; 0 where none fit."""
        if self._path is None:
            return 0
        try:
            with safe_open(self._path, framework="pt") as file:
                found = dict(file.metadata() or {})
                columns = int(found.pop("columns"))
                if found != self._settings:
                    return 0
                matrix.add(file.get_tensor("triangle"))
        except (OSError, SafetensorError, KeyError, ValueError):
            return 0
        return columns

    def save_now_and_then(self, matrix: _WideMatrix, columns: int) -> None:
        if self._path is None or time.monotonic() - self._written < _SAVE_EVERY_SECONDS:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        triangle = matrix.fold().cpu().contiguous()
        save_file({"triangle": triangle}, partial, {**self._settings, "columns": str(columns)})
        partial.replace(self._path)
        self._written = time.monotonic()

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


@torch.no_grad()
def _paper(
    model: ScoreModel,
    x0: Float[Tensor, " *shape"],
    t0: int,
    algorithm: Literal["exact-alg2", "exact-alg3"],
    seed: int,
    block: int,
    kept: Path | None,
    on_progress: Progress | None,
) -> Spectrum:
    start = time.perf_counter()
    N, total = model.size, evaluations(model, algorithm)
    x0 = check_sample(model, x0)
    matrix = _WideMatrix(N, model.device)
    sides = 2 if algorithm == "exact-alg2" else 1
    content = hashlib.sha256(x0.cpu().double().numpy().tobytes()).hexdigest()
    settings = {"algorithm": algorithm, "seed": str(seed), "t0": str(t0), "x0": content}
    place = _Kept(kept, settings)
    first = place.restore(matrix)

    def columns(batch: range) -> Float[Tensor, " b N"]:
        noise = _noise(model, seed, range(first + batch.start, first + batch.stop))
        # Both sides of a pair in one call, so that they see the same kernels.
        noise = torch.cat([noise, -noise]) if sides == 2 else noise
        score = model.score(perturb(model.schedule, x0, noise, t0), t0).flatten(1)
        return (score[: len(batch)] - score[len(batch) :]) / 2 if sides == 2 else score

    with exact_numerics():
        probe_determinism(model, perturb(model.schedule, x0, _noise(model, seed, range(1)), t0), t0)
        what = "one column of a spectrum"
        for batch, part in in_batches(_COLUMNS * N - first, max(1, block // sides), columns, what):
            matrix.add(check_finite(part, "the score"))
            place.save_now_and_then(matrix, first + batch.stop)
            if on_progress is not None:
                on_progress(total * (first + batch.stop) // (_COLUMNS * N))
    scale = float(model.schedule.sigma(t0)) / (_COLUMNS * N) ** 0.5
    values = matrix.singular_values() * scale
    place.remove()
    return Spectrum(
        singular_values=values,
        kind="paper",
        scale=scale,
        t0=t0,
        score=model.kind,
        algorithm=algorithm,
        evaluations=total,
        seconds=time.perf_counter() - start,
    )


def _noise(model: ScoreModel, seed: int, indices: range) -> Float[Tensor, " b *shape"]:
    seeds = [seed_for(seed, "curvature", index) for index in indices]
    return noises_for(seeds, model.shape).to(model.device, model.dtype)


def jacobian_rows(
    jacobian: Operator, block: int, report: Progress | None = None
) -> Float[Tensor, " N N"]:
    """The matrix of an operator of batch 1, `block` rows at a time, in float64.

    `report` gets the evaluations of each block: a row each, and as many for a graph of another size
    than the last.
    """
    N = jacobian.size
    matrix = torch.empty(N, N, dtype=torch.float64)

    def rows(batch: range) -> Float[Tensor, "b N"]:
        unit = torch.zeros(1, len(batch), N, dtype=torch.float64)
        unit[0, range(len(batch)), list(batch)] = 1
        return jacobian.rmatvec(unit)[0]

    graph = 0
    for batch, part in in_batches(N, block, rows, "one row of a Jacobian"):
        matrix[batch.start : batch.stop] = part.cpu()
        if report is not None:
            report(len(batch) * (REVERSE_COST + (GRAPH_COST if len(batch) != graph else 0)))
        graph = len(batch)
    return matrix


def row_evaluations(N: int, block: int) -> int:
    """What `jacobian_rows` takes: N rows, a graph of a block, and one for what is left over."""
    return N * REVERSE_COST + GRAPH_COST * (min(block, N) + (N % block if block < N else 0))


def check_sample(model: ScoreModel, x0: Tensor) -> Float[Tensor, " *shape"]:
    """x0 on the model's device; UsageError if it has another shape, NumericsError if not finite."""
    if tuple(x0.shape) != tuple(model.shape):
        raise UsageError(
            f"A sample of this model has the shape {tuple(model.shape)}, got {tuple(x0.shape)}. "
            "Give the final latent of a generation, without a batch dimension."
        )
    return check_finite(x0, "the sample").to(model.device, model.dtype)


def _check_exact(N: int) -> None:
    if N > EXACT_LIMIT:
        raise UsageError(
            f"The exact Jacobian of a model with N = {N:,} dimensions has {N:,} rows of them; it "
            f"is offered up to N = {EXACT_LIMIT:,}. Use --spectrum fast."
        )


def time_call(model: ScoreModel, t0: int, items: int, *, gradient: bool) -> float:
    """Seconds of one network call on `items` items, after a first one that warms up.

    `gradient` adds the pass back to the input.
    """
    x = torch.zeros(items, *model.shape, device=model.device, dtype=model.dtype)
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        with torch.set_grad_enabled(gradient):
            points = x.clone().requires_grad_(gradient)
            score = model.score(points, t0)
            if gradient:
                score = torch.autograd.grad(score.sum(), points)[0]
        score.sum().item()  # waits for the device
        seconds = time.perf_counter() - start
    return seconds


def _time_algebra(n: int) -> tuple[float, float]:
    """Seconds of one fold of 2n rows, and of the singular values of an n x n matrix."""
    rows = torch.randn(2 * n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    triangle = torch.linalg.qr(rows, mode="r").R
    middle = time.perf_counter()
    torch.linalg.svdvals(triangle)
    return middle - start, time.perf_counter() - middle
