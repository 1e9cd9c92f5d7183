"""The "jacobian" spectrum from some tens of network evaluations, with a stated error.

Golub-Kahan runs from random directions on a few noise shells give the density of singular values;
the curve is the quantiles of the shells' mean density. (A mean of the shells' curves would keep the
blur of a step, however many they are.) Its error has two parts. *Truncation*: a run of k steps is
compared with its own first k/2, and k - 2. *Chance*: the share F of values under a level, read off
one random direction, has the variance 2 F (1 - F) / (N + 2), and shells differ: the larger of what
this says and what the shells' spread says.

Where N is small chance is large, and the shells that it would take cost more than one Jacobian row
by row: then that is taken instead, at the first shell. All shells that the first two call for are
measured in one batch.

What it takes, on samples of three states at conditional and guided scores and t0 from 2 to 100
(N = 768, benchmarks/results/fast_spectrum.md): median relative L1 errors were 3.1% for one shell
with 8 steps (25 evaluations), 2.4% for two shells (50) and 1.6% for four (100). Beyond 8 steps more
directions help more than more steps. To come under 2% conditional scores took 952 evaluations at
t0 = 2, where rows are taken, and 120 at t0 = 100. Memorized samples take a tenth of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from m2g_audit.diagnostics import operators
from m2g_audit.diagnostics.exact_spectrum import (
    BLOCK,
    EXACT_LIMIT,
    Cost,
    Spectrum,
    check_sample,
    jacobian_rows,
    row_evaluations,
    time_call,
)
from m2g_audit.diagnostics.free_probability import broadened, paper_scale, with_mean
from m2g_audit.diagnostics.krylov import (
    Bidiagonalisation,
    Quadrature,
    curve,
    largest,
    lone_values,
    single,
)
from m2g_audit.diagnostics.numerics import (
    check_finite,
    exact_numerics,
    in_batches,
    noises_for,
    probe_determinism,
    seed_for,
)
from m2g_audit.diagnostics.operators import Operator, ScoreJacobian
from m2g_audit.diagnostics.score_model import ScoreModel, perturb
from m2g_audit.errors import UsageError

TOLERANCE = 0.03
FIRST_SHELLS, MOST_SHELLS = 2, 32
_FIRST_STEPS, _MORE_STEPS, _MOST_STEPS = 6, 2, 64
_ABSOLUTE_MEAN = (2 / np.pi) ** 0.5  # of a standard normal number
_TRACE_PROBES = 8
_NOMINAL_STEPS = 10
_ROW_SHARE = 0.5  # of an evaluation's seconds in smaller batches than a block of rows
_ORDINARY_CHANCE = 1.0  # times sqrt(N), of one direction: between a memorized and a new sample's
# Of each shell beside the Golub-Kahan steps: the score there and at the mirrored noise.
_MEAN_SCORE_COST = 2
_STEP_COST = operators.DIFFERENCE_COST + operators.REVERSE_COST


@dataclass(frozen=True, eq=False)
class FastSpectrum(Spectrum):
    """A "jacobian" spectrum with what was found on the way.

    `error`: the expected relative L1 error (no bound) of the curve against that of all noise
    shells' values together; of it `truncation` is by too few steps, the rest by chance. `shells`,
    each with a direction of its own, and the `steps` of each, whose products with the Jacobian are
    differences over a distance of `difference`, 0 for forward mode. `rows`: N where the curve is
    that of the Jacobian at the first shell row by row, else 0. `top`: the largest values found on
    the first shell, each with a singular value within `top_error` of it. `intrinsic_dimension`:
    FLIPD on the shell, N - sigma_t tr(d eps / dx), and `intrinsic_dimension_error` its standard
    error.
    """

    error: float
    truncation: float
    shells: int
    steps: tuple[int, ...]
    difference: tuple[float, ...]
    rows: int
    top: Float[np.ndarray, " k"]
    top_error: Float[np.ndarray, " k"]
    intrinsic_dimension: float
    intrinsic_dimension_error: float
    asymmetry: float
    mean_score: float


@dataclass(frozen=True, eq=False)
class Density:
    """One operator's spectrum, read off one run: its curve, what may be wrong, and its ends.

    `lone` nodes count as one value each in the curve; their weight is that of `lone_weight` values.
    """

    curve: Float[np.ndarray, " N"]
    truncation: float
    chance: float
    steps: int
    quadrature: Quadrature
    trace: float
    squares: float
    asymmetry_squared: float
    lone: int
    lone_weight: float

    @property
    def evaluations(self) -> int:
        """Network evaluations: a graph, a backward pass for the asymmetry, and the steps."""
        return operators.GRAPH_COST + operators.REVERSE_COST + self.steps * _STEP_COST


@dataclass(frozen=True, eq=False)
class _Shell:
    density: Density
    difference: float
    mean_score: Float[Tensor, " N"]
    top: Float[np.ndarray, " k"]
    top_error: Float[np.ndarray, " k"]
    evaluations: int


def fast_spectra(
    model: ScoreModel,
    x0: Float[Tensor, " n *shape"],
    t0: int,
    *,
    seeds: Sequence[int],
    tolerance: float = TOLERANCE,
    top: int = 1,
    most_shells: int = MOST_SHELLS,
    block: int = 32,
    on_progress: Callable[[int], None] | None = None,
) -> list[FastSpectrum]:
    """The "jacobian" spectra of n samples, each until its error estimate is under `tolerance`.

    The `top` largest values of the first shell are followed until each is within `tolerance` of the
    largest. Noise and directions of a sample belong to its seed alone, and so does the moment it
    stops: the result does not depend on `block`, the points in one network call. An evaluation is a
    forward pass; a difference counts 2, a backward pass to the input 1. `on_progress` gets those
    done. Raises UsageError for numbers out of range, NumericsError for a network that is random or
    overflows, ResourceError if one point does not fit in memory.
    """
    if not 0 < tolerance < 1 or not 1 <= top <= model.size or most_shells < FIRST_SHELLS:
        raise UsageError(
            f"A tolerance of {tolerance:g} with the {top} largest values and {most_shells} shells "
            f"is not possible: give a tolerance between 0 and 1, 1 to {model.size} values, and at "
            f"least {FIRST_SHELLS} shells."
        )
    start = time.perf_counter()
    if not seeds or len(seeds) != len(x0):
        raise UsageError(
            f"{len(x0)} samples with {len(seeds)} seeds: give at least one sample, and each a seed "
            "of its own."
        )
    x0 = torch.stack([check_sample(model, sample) for sample in x0])
    probe_determinism(model, _points(model, x0, t0, seeds, [(0, 0)]), t0)
    found: list[list[_Shell]] = [[] for _ in seeds]
    exact: dict[int, _Rows] = {}
    wanted = [FIRST_SHELLS] * len(seeds)
    done = 0

    def report(evaluations: int) -> None:
        nonlocal done
        done += evaluations * model.evaluations_per_call
        if on_progress is not None:
            on_progress(done)

    while pending := [
        (i, shell) for i, shells in enumerate(found) for shell in range(len(shells), wanted[i])
    ]:

        def work(batch: range, places: list[tuple[int, int]] = pending) -> list[_Shell]:
            chosen = places[batch.start : batch.stop]
            return _measure(model, x0, t0, seeds, chosen, tolerance, top)

        for batch, shells in in_batches(len(pending), block, work, "one point of a fast spectrum"):
            for (i, _), shell in zip(pending[batch.start : batch.stop], shells, strict=True):
                found[i].append(shell)
            report(sum(shell.evaluations for shell in shells))
        for i in {i for i, _ in pending}:
            wanted[i] = min(_shells_for(found[i], tolerance), most_shells)
            if _rows_are_cheaper(model, found[i], wanted[i]):
                wanted[i] = len(found[i])
                point = _points(model, x0, t0, seeds, [(i, 0)])
                exact[i] = _by_rows(model, point, t0, report)
    seconds = time.perf_counter() - start
    return [
        _spectrum(model, t0, shells, exact.get(i), top, seconds / len(found))
        for i, shells in enumerate(found)
    ]


def densities(
    operator: Operator,
    start: Float[Tensor, "B N"],
    tolerance: float,
    *,
    follow_largest: Sequence[bool],
) -> list[Density]:
    """The spectra of B operators from one run each, until half of `tolerance` is reached.

    `start`: a random direction each. Where `follow_largest` says so, a run also goes on until the
    residual of its largest value is under `tolerance` of it. A run ends where it breaks down. None
    depends on the others.
    """
    run = Bidiagonalisation(operator, start[:, None])
    settled: dict[int, Density] = {}
    most = min(_MOST_STEPS, operator.size)
    run.extend(min(_FIRST_STEPS, most))
    products = _first_products(operator, run)
    while True:
        last = run.exhausted | (run.steps >= most)
        for item in set(range(operator.batch)) - set(settled):
            density = _density(run, item, products)
            enough = density.truncation <= tolerance / 2
            if follow_largest[item]:
                quadrature = density.quadrature
                enough &= bool(quadrature.residuals[-1] <= tolerance * quadrature.nodes[-1])
            if enough or last[item]:
                settled[item] = density
        if len(settled) == operator.batch:
            return [settled[item] for item in range(operator.batch)]
        run.extend(min(_MORE_STEPS, most - run.steps))


def in_paper_units(spectrum: FastSpectrum, algorithm: Literal["alg2", "alg3"] = "alg2") -> Spectrum:
    """The "paper" spectrum that Alg. 2 or 3 would show, predicted from a "jacobian" one.

    The N x 4N normal numbers of the algorithm broaden every value (free multiplication with the
    Marchenko-Pastur law of ratio 1/4). Alg. 3 also adds the mean score to every column: a matrix of
    rank one, taken as having nothing to do with the Jacobian's directions, which adds a value.
    """
    values = broadened(spectrum.singular_values)
    if algorithm == "alg3":
        values = with_mean(values, spectrum.mean_score)
    return Spectrum(
        singular_values=values,
        kind="paper",
        scale=paper_scale(spectrum.scale, len(values)),
        t0=spectrum.t0,
        score=spectrum.score,
        algorithm=f"fast-{algorithm}",
        evaluations=spectrum.evaluations,
        seconds=spectrum.seconds,
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """The Jacobian at a first shell, row by row: its values, trace, and antisymmetric share."""

    values: Float[np.ndarray, " N"]
    trace: float
    asymmetry: float
    evaluations: int


@torch.no_grad()
def flipd(
    model: ScoreModel,
    x0: Float[Tensor, " *shape"],
    t0: int,
    *,
    seed: int,
    probes: int = _TRACE_PROBES,
) -> tuple[float, float]:
    """FLIPD at the noiseless centre alpha_t x_0 and its standard error (Kamkari et al. 2024).

    N - sigma_t tr(d eps / dx) + |eps|^2, the trace by Hutchinson's estimator over `probes` random
    orthogonal directions (N of them at most, which are exact); 1 + 2 * probes network evaluations.
    A point mass has 0, a flat d-dimensional subspace d. Raises UsageError for fewer than 2 probes
    or a sample of another shape, NumericsError for a network that overflows.
    """
    if probes < 2:
        raise UsageError(f"An error of FLIPD needs at least 2 probes, got {probes}.")
    count = min(probes, model.size)
    centre = (float(model.schedule.alpha(t0)) * check_sample(model, x0))[None]
    jacobian = ScoreJacobian(model, centre, t0)
    v = _directions(model.size, [seed_for(seed, "trace", i) for i in range(count)])[None]
    traces = model.size * (v.to(jacobian.device) * jacobian.matvec(v)).sum(2)[0]
    with exact_numerics():
        noise = check_finite(model.predict_noise(centre, t0), "the noise prediction")
    # Orthogonal directions leave the less to chance, the more of the N they are.
    unseen = 1 - count / model.size
    error = float(traces.std()) * (unseen / count) ** 0.5 if unseen else 0.0
    return model.size + float(traces.mean()) + float(noise.double().square().sum()), error


def nominal_evaluations(model: ScoreModel, tolerance: float = TOLERANCE) -> int:
    """What a spectrum takes where nothing unusual is found: as many shells as chance calls for."""
    shells = _nominal_shells(model.size, tolerance)
    return _nominal_calls(model.size, shells) * model.evaluations_per_call


def estimate_cost(model: ScoreModel, t0: int, tolerance: float = TOLERANCE) -> Cost:
    """The predicted cost of one fast spectrum and its `flipd`, from a few timed network calls.

    Good to about a factor of 2: it takes more where the spectrum is wide, and less where nearly all
    values are alike. `bytes` are those of the Krylov spaces, not of the network or its graph.
    """
    shells = _nominal_shells(model.size, tolerance)
    calls = _nominal_calls(model.size, shells)
    forward = time_call(model, t0, 2 * shells, gradient=False) / (2 * shells)
    both = time_call(model, t0, shells, gradient=True) / shells
    # Of three evaluations of a step two go forward and one back.
    each = (forward + max(forward, both)) / 3
    probes = 1 + 2 * _TRACE_PROBES
    krylov = shells * 2 * 8 * min(_MOST_STEPS, model.size) * model.size
    evaluations = (calls + probes) * model.evaluations_per_call
    return Cost(evaluations, calls * each + probes * forward, krylov)


def _nominal_shells(N: int, tolerance: float) -> int:
    """The shells with which chance is two thirds of the tolerance, for an ordinary spectrum."""
    chance = _ORDINARY_CHANCE / N**0.5
    return min(max(FIRST_SHELLS, ceil((chance / (tolerance * 2 / 3)) ** 2)), MOST_SHELLS)


def _nominal_calls(N: int, shells: int) -> int:
    """Evaluations of an unguided score, or of the first shells and all rows where that is less."""
    shell = (
        operators.GRAPH_COST
        + operators.REVERSE_COST
        + operators.DIFFERENCE_COST
        + _NOMINAL_STEPS * _STEP_COST
        + _MEAN_SCORE_COST
    )
    calls = shells * shell
    rows = row_evaluations(N, BLOCK)
    if N <= EXACT_LIMIT and calls - FIRST_SHELLS * shell > _ROW_SHARE * rows:
        return FIRST_SHELLS * shell + rows
    return calls


def _measure(
    model: ScoreModel,
    x0: Float[Tensor, " n *shape"],
    t0: int,
    seeds: Sequence[int],
    places: Sequence[tuple[int, int]],
    tolerance: float,
    top: int,
) -> list[_Shell]:
    """The shells at (sample, shell) places, as one batch."""
    points = _points(model, x0, t0, seeds, places)
    mirrored = _points(model, x0, t0, seeds, places, side=-1)
    start = [
        _directions(model.size, [seed_for(seeds[i], f"directions {j}", k) for k in range(top)])
        for i, j in places
    ]
    jacobian = ScoreJacobian(model, points, t0)
    found = densities(
        jacobian,
        torch.stack([directions[0] for directions in start]),
        tolerance,
        follow_largest=[j == 0 and top == 1 for _, j in places],
    )
    with torch.no_grad(), exact_numerics():
        both = [
            check_finite(model.score(side, t0), "the score").flatten(1).double().cpu()
            for side in (points, mirrored)
        ]
    shells = []
    for item, ((_, j), density) in enumerate(zip(places, found, strict=True)):
        values, errors = density.quadrature.nodes[:0], density.quadrature.nodes[:0]
        extra = 0
        if j == 0 and top == 1:
            values = density.quadrature.nodes[-1:]
            errors = density.quadrature.residuals[-1:]
        elif j == 0:
            # A single direction sees a repeated value once: several need as many directions.
            alone = ScoreJacobian(model, points[item : item + 1], t0)
            values, errors, steps = largest(alone, start[item][None], tolerance, most=_MOST_STEPS)
            extra = top * (operators.GRAPH_COST + steps * _STEP_COST)
            extra += int(alone.step_costs)
        shells.append(
            _Shell(
                density,
                float(jacobian.steps[item]),
                (both[0][item] + both[1][item]) / 2,
                values,
                errors,
                density.evaluations + int(jacobian.step_costs[item]) + _MEAN_SCORE_COST + extra,
            )
        )
    return shells


def _points(
    model: ScoreModel,
    x0: Float[Tensor, " n *shape"],
    t0: int,
    seeds: Sequence[int],
    places: Sequence[tuple[int, int]],
    side: int = 1,
) -> Float[Tensor, " b *shape"]:
    noise = noises_for([seed_for(seeds[i], "shell", shell) for i, shell in places], model.shape)
    samples = x0[[i for i, _ in places]]
    return perturb(model.schedule, samples, side * noise.to(samples), t0)


def _directions(N: int, seeds: Sequence[int]) -> Float[Tensor, "count N"]:
    """Random orthonormal directions, the first of them that of the first seed alone."""
    return torch.linalg.qr(noises_for(seeds, (N,), torch.float64).T).Q.T


def _first_products(
    operator: Operator, run: Bidiagonalisation
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    """<v, A v>, <A^T v, A v> and |A^T v|^2 of the first direction v of each run."""
    first, image = run.first_products()
    transposed = operator.rmatvec(first)
    return (
        (first * image).sum((1, 2)),
        (transposed * image).sum((1, 2)),
        transposed.square().sum((1, 2)),
    )


def _density(run: Bidiagonalisation, item: int, products: tuple[Tensor, Tensor, Tensor]) -> Density:
    N = run.size
    quadrature = run.quadrature(item, run.steps)
    values = curve(quadrature, N)
    # Two earlier ones, because one may agree by accident.
    earlier = {max(1, run.steps // 2), max(1, run.steps - _MORE_STEPS)}
    changes = [relative_l1(curve(run.quadrature(item, k), N), values) for k in earlier]
    lone = lone_values(quadrature, N)
    diagonal, crossed, squares = (float(part[item]) for part in products)
    both = (squares + float((quadrature.weights * quadrature.nodes**2).sum())) / 2
    return Density(
        curve=values,
        truncation=0.0 if run.exhausted[item] else max(changes),
        chance=_chance(values),
        steps=run.steps,
        quadrature=quadrature,
        trace=N * diagonal,
        squares=N * both,
        asymmetry_squared=N * (both - crossed) / 2,
        lone=int(lone.sum()),
        lone_weight=N * float(quadrature.weights[lone].sum()),
    )


def _chance(values: Float[np.ndarray, " N"]) -> float:
    """The expected relative L1 error of a curve read off one random direction."""
    N = len(values)
    share = np.arange(1, N) / N
    deviation = np.sqrt(2 * share * (1 - share) / (N + 2))
    total = max(float(values.sum()), 1e-300)
    return _ABSOLUTE_MEAN * N * float((deviation * -np.diff(values)).sum()) / total


def relative_l1(values: Float[np.ndarray, " N"], reference: Float[np.ndarray, " N"]) -> float:
    """The sum of absolute differences of two sorted curves over the sum of the second."""
    total = float(np.abs(reference).sum())
    return float(np.abs(values - reference).sum()) / total if total else float(np.any(values))


def pooled(curves: Float[np.ndarray, "S N"]) -> Float[np.ndarray, " N"]:
    """The N quantiles, from largest, of the values of S curves together."""
    return np.sort(curves, axis=None)[::-1].reshape(-1, len(curves)).mean(axis=1)


def _curves(shells: Sequence[_Shell]) -> Float[np.ndarray, "S N"]:
    """The shells' curves; by weights alone where these say that lone nodes are repeated values."""
    found = [shell.density for shell in shells]
    if single(sum(each.lone_weight for each in found), sum(each.lone for each in found)):
        return np.stack([each.curve for each in found])
    quadratures = [each.quadrature for each in found]
    return np.stack(
        [curve(each, len(found[0].curve), np.zeros(len(each.nodes), bool)) for each in quadratures]
    )


def _statistical(curves: Float[np.ndarray, "S N"]) -> float:
    """The expected relative L1 error of the pooled curve by chance."""
    S, together = len(curves), pooled(curves)
    seen = [relative_l1(each, together) for each in curves]
    return max(_chance(together) / S**0.5, float(np.mean(seen)) / (S - 1) ** 0.5)


def _truncation(shells: Sequence[_Shell]) -> float:
    return float(np.mean([shell.density.truncation for shell in shells]))


def _shells_for(shells: Sequence[_Shell], tolerance: float) -> int:
    """How many shells the error is expected to fall under `tolerance` with."""
    # Where the steps ran out, shells cannot repair it: chance then has half of the tolerance.
    left = max(tolerance - _truncation(shells), tolerance / 2)
    return ceil(len(shells) * max(1.0, _statistical(_curves(shells)) / left) ** 2)


def _rows_are_cheaper(model: ScoreModel, shells: Sequence[_Shell], wanted: int) -> bool:
    """Whether one Jacobian row by row takes less than the shells still wanted.

    By evaluations, not seconds, which would make one and the same audit take this way or that.
    """
    more = (wanted - len(shells)) * float(np.mean([shell.evaluations for shell in shells]))
    return model.size <= EXACT_LIMIT and more > _ROW_SHARE * row_evaluations(model.size, BLOCK)


def _by_rows(
    model: ScoreModel,
    point: Float[Tensor, " one *shape"],
    t0: int,
    report: Callable[[int], None],
) -> _Rows:
    """The Jacobian at a point, whole; `report` gets the evaluations of each block of rows."""
    matrix = jacobian_rows(ScoreJacobian(model, point, t0), BLOCK, report)
    norm = float(matrix.norm())
    return _Rows(
        values=torch.linalg.svdvals(matrix).cpu().numpy(),
        trace=float(matrix.trace()),
        asymmetry=float((matrix - matrix.T).norm()) / (2 * norm) if norm else 0.0,
        evaluations=row_evaluations(model.size, BLOCK),
    )


def _between_shells(shells: Sequence[_Shell], rows: _Rows) -> float:
    """The expected relative L1 distance of one shell's exact curve from that of all shells.

    What another shell's curve differs by is partly chance, which is known; the rest, over sqrt(2),
    is what one shell differs from the mean by. Less than half of the chance is not told from it.
    """
    chance = _chance(rows.values)
    apart = [relative_l1(shell.density.curve, rows.values) for shell in shells[1:]]
    beyond = max(0.0, float(np.mean(apart)) ** 2 - chance**2) ** 0.5
    return max(beyond, chance / 2) / 2**0.5


def _spectrum(
    model: ScoreModel,
    t0: int,
    shells: Sequence[_Shell],
    rows: _Rows | None,
    top: int,
    seconds: float,
) -> FastSpectrum:
    all_densities = [shell.density for shell in shells]
    n, curves = len(shells), _curves(shells)
    traces = np.array([density.trace for density in all_densities])
    squares = sum(density.squares for density in all_densities)
    antisymmetric = max(0.0, sum(density.asymmetry_squared for density in all_densities))
    sigma = float(model.schedule.sigma(t0))
    total = torch.stack([shell.mean_score for shell in shells])
    # Products of different shells: the square of a mean would count its noise.
    crossed = total.sum(0).square().sum() - total.square().sum()
    mean_square = sigma**2 * max(0.0, float(crossed)) / (n * (n - 1))
    truncation = _truncation(shells)
    evaluations = sum(shell.evaluations for shell in shells)
    seen = FastSpectrum(
        singular_values=pooled(curves),
        kind="jacobian",
        scale=sigma**2,
        t0=t0,
        score=model.kind,
        algorithm="fast",
        evaluations=evaluations * model.evaluations_per_call,
        seconds=seconds,
        error=truncation + _statistical(curves),
        truncation=truncation,
        shells=n,
        steps=tuple(density.steps for density in all_densities),
        difference=tuple(shell.difference for shell in shells),
        rows=0,
        top=shells[0].top,
        top_error=shells[0].top_error,
        intrinsic_dimension=model.size + float(traces.mean()),
        intrinsic_dimension_error=float(traces.std(ddof=1)) / n**0.5,
        asymmetry=(antisymmetric / squares) ** 0.5 if squares else 0.0,
        mean_score=mean_square**0.5,
    )
    if rows is None:
        return seen
    rounding = torch.finfo(model.dtype).eps * model.size**0.5 * float(rows.values[0])
    return replace(
        seen,
        singular_values=rows.values,
        evaluations=(evaluations + rows.evaluations) * model.evaluations_per_call,
        error=_between_shells(shells, rows),
        truncation=0.0,
        rows=model.size,
        top=rows.values[:top],
        top_error=np.full(top, rounding),
        intrinsic_dimension=model.size + rows.trace,
        asymmetry=rows.asymmetry,
    )
