"""Is a spectrum from some tens of evaluations that of thousands? Samples of pocket, all states.

For each sample, at its own latent: the reference is the mean of exact Jacobians on several noise
shells, and Algs. 2 and 3 as printed; the candidates are `fast_spectra` at tolerances of 2% and 3%,
and two shells turned into "paper" units. The error is the relative L1 distance of the
sorted curves. The reference is itself a mean over few shells: half of the distance between two
exact shells is about its own error. Products with the Jacobian by central differences are held
against forward mode, for several steps. Then a grid over t0, score, shells, directions and steps.

Samples: captions with a high share of a state by the truth table, 16 seeds of their own each,
classified with the thresholds of the table and all training pictures.

    python benchmarks/fast_spectrum.py                    # a quarter of an hour on two cores
    python benchmarks/fast_spectrum.py --grid-samples 0   # without the grid
    python benchmarks/fast_spectrum.py --model runs/pocket/weights

The truth table is truth.json in the weights' folder, as `m2g-audit pocket measure` leaves it,
or the shipped one for `pocket`. Finished pieces stay in --work, and an interrupted run continues
from them. Writes results/fast_spectrum.{md,json}.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations, zip_longest
from pathlib import Path

import numpy as np
import torch
from pocket_curvature import STATES
from resumable import Pieces, Result, in_words, machine
from torch import Tensor

from m2g_audit.diagnostics import exact_spectrum, fast_spectrum, free_probability, krylov, operators
from m2g_audit.diagnostics.exact_spectrum import Spectrum, alg2, alg3, exact_jacobian
from m2g_audit.diagnostics.fast_spectrum import (
    FastSpectrum,
    fast_spectra,
    in_paper_units,
    pooled,
    relative_l1,
)
from m2g_audit.diagnostics.krylov import Bidiagonalisation, curve
from m2g_audit.diagnostics.numerics import exact_numerics, noises_for, seed_for
from m2g_audit.diagnostics.operators import DIFFERENCE_COST, GRAPH_COST, REVERSE_COST, ScoreJacobian
from m2g_audit.diagnostics.score_model import ScoreModel, perturb
from m2g_audit.files import write_atomically
from m2g_audit.models.loading import load_model
from m2g_audit.models.model_folder import POCKET_FOLDER
from m2g_audit.models.names import POCKET
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.pocket.captions import Caption, all_captions
from m2g_audit.pocket.training_pictures import TrainingPictures, load_index, nearest_training
from m2g_audit.pocket.truth import sample
from m2g_audit.pocket.truth_table import TABLE, TruthTable, load_table
from m2g_audit.records.vocabulary import ScoreKind
from m2g_audit.similarity import distances, load_metric
from m2g_audit.verdict.states import State, classify

T0 = 5
STEPS = (0.1, 0.3, 1.0, 3.0, 10.0)
SEED = 77_000
SEEDS, TOGETHER = 16, 8
MOST_FALSE = 0.01
FINE, COARSE = 0.02, 0.03
PAPER_TOLERANCE, PAPER_SHELLS = 0.03, 2
GOAL, PAPER_GOAL = 0.02, 0.03
GRID_T0 = (2, 5, 20, 50, 100)
GRID_SCORES: tuple[ScoreKind, ...] = ("conditional", "guided")
GRID_SHELLS, GRID_DIRECTIONS, GRID_STEPS = (1, 2, 4), (1, 2), (4, 6, 8, 10, 12, 16)
RESULTS = Path(__file__).parent / "results"
NAME = "fast_spectrum"


@dataclass(frozen=True)
class Sample:
    """One generation: its caption, number among the caption's seeds, state and final latent."""

    caption: Caption
    number: int
    state: State
    latent: Tensor

    @property
    def seed(self) -> int:
        """The seed of everything measured on it."""
        return seed_for(SEED, self.caption.text, self.number)

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.caption.text.replace(' ', '-')}-{self.number}"


def main() -> None:
    """Writes results/fast_spectrum.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=POCKET, help="pocket, or a folder of its weights")
    parser.add_argument("--samples", type=int, default=10, help="of each state")
    parser.add_argument("--of-caption", type=int, default=3, help="at most, of each state")
    parser.add_argument("--shells", type=int, default=2, help="exact ones of each sample")
    parser.add_argument("--grid-samples", type=int, default=1, help="of each state")
    parser.add_argument("--work", type=Path, default=Path("runs/fast_spectrum"))
    asked = parser.parse_args()
    folder = POCKET_FOLDER if asked.model == POCKET else Path(asked.model)
    table = load_table(TABLE if asked.model == POCKET else folder / "truth.json")
    pipeline = load_model(folder)
    if table.model_sha256 != pipeline.identity.sha256:
        raise SystemExit("The truth table belongs to other weights than the model.")
    settings = {
        "model": table.model_sha256,
        "shells": asked.shells,
        "tolerance": FINE,
        "threads": torch.get_num_threads(),
    }
    code = (exact_spectrum, fast_spectrum, free_probability, krylov, operators)
    pieces = Pieces(asked.work, settings, (*code, measure, compared, measure_cell, errors_of_all))
    chosen = choose(pipeline, folder, table, asked.samples, asked.of_caption, asked.work)
    warm_up(pipeline.bind(chosen[0].caption.text), chosen[0])
    rows = measure_all(pieces, pipeline, chosen, asked.shells)
    together = measure_together(pieces, pipeline, chosen[: len(STATES)], asked.work)
    grid = measure_grid(pieces, pipeline, chosen[: len(STATES) * asked.grid_samples], asked.shells)
    found = {
        "model_sha256": table.model_sha256,
        "N": pipeline.N,
        "tolerance": FINE,
        "shells": asked.shells,
        "machine": machine(),
        "samples": rows,
        "together": together,
        "grid": grid,
    }
    RESULTS.mkdir(exist_ok=True)
    write_atomically(RESULTS / f"{NAME}.json", (json.dumps(found, indent=1) + "\n").encode())
    write_atomically(RESULTS / f"{NAME}.md", report(found).encode())
    print(report(found))


# --- samples ----------------------------------------------------------------------------------


def choose(
    pipeline: TextToImage,
    folder: Path,
    table: TruthTable,
    of_state: int,
    of_caption: int,
    work: Path,
) -> list[Sample]:
    """`of_state` samples of each state in turn, at most `of_caption` of them of one caption.

    Captions come in a random order from those with at least half of the largest share of the state
    among 16 samples, then the others by falling share. Left out: captions whose pictures match
    those that the model never saw.
    """
    pictures, index = TrainingPictures(pipeline), load_index(folder)
    made = samples_folder(work, pipeline)

    @cache
    def generated(row: int) -> list[Sample]:
        return classified(pipeline, pictures, index, table, all_captions()[row], made)

    chosen = []
    for state in STATES:
        found: list[Sample] = []
        for row in captions_of(table, state):
            if len(found) >= of_state:
                break
            own = [each for each in generated(row) if each.state == state][:of_caption]
            found += own[: of_state - len(found)]
            print(f"{state.value}: {len(found)} of {of_state}", flush=True)
        chosen.append(found)
    return [each for turn in zip_longest(*chosen) for each in turn if each is not None]


def samples_folder(work: Path, pipeline: TextToImage) -> Path:
    """Where generations of a model are kept."""
    return work / "samples" / pipeline.identity.sha256[:12]


def captions_of(table: TruthTable, state: State) -> Iterator[int]:
    """Rows of the table in the order in which `choose` tries them."""
    share = np.array(
        [
            getattr(row.truth, state.value) if row.false_memorized <= MOST_FALSE else 0.0
            for row in table.captions
        ]
    )
    high = np.random.default_rng(0).permutation(np.flatnonzero(share >= share.max() / 2))
    rest = [row for row in np.argsort(-share, kind="stable") if 0 < share[row] < share.max() / 2]
    yield from (int(row) for row in [*high, *rest])


def classified(
    pipeline: TextToImage,
    pictures: TrainingPictures,
    index: np.ndarray,
    table: TruthTable,
    caption: Caption,
    folder: Path,
) -> list[Sample]:
    """The 16 samples of a caption with their states (Eq. 9-11)."""
    metric = load_metric(table.metric)
    images, latents = sample(pipeline, caption, SEED, SEEDS, folder)
    shown = images / 255
    failed = is_failed(shown)
    embedded = metric.embed(shown)
    pairs = np.where(
        np.eye(SEEDS, dtype=bool) | failed, np.inf, distances(metric, embedded, embedded)
    )
    to_training = np.array(nearest_training(metric, shown, pictures, index)[0])
    states = classify(
        to_training,
        pairs.min(1),
        table.thresholds_for(caption.text),
        reference_complete=True,
        failed=failed,
    )
    return [Sample(caption, i, state, latents[i]) for i, state in enumerate(states)]


# --- each sample --------------------------------------------------------------------------------


def warm_up(model: ScoreModel, first: Sample) -> None:
    """Forward and reverse mode load code at their first use, which is no part of the seconds."""
    fast_spectra(model, first.latent[None], T0, seeds=[0], tolerance=0.5)


def measure_all(
    pieces: Pieces, pipeline: TextToImage, chosen: Sequence[Sample], shells: int
) -> list[Result]:
    """`measure` of every sample."""
    rows = []
    for each in chosen:
        row = pieces.get(f"sample-{each.name}", partial(measure, pipeline, each, shells))
        rows.append({"caption": each.caption.text, "state": each.state.value, **row})
        print(
            f"{len(rows)} of {len(chosen)}, {each.state.value}: error "
            f"{row['fast']['error']:.4f} in {row['fast']['evaluations']} evaluations; paper units "
            f"{row['paper']['alg2']['error']:.4f} in {row['paper']['evaluations']}",
            flush=True,
        )
    return rows


def measure(pipeline: TextToImage, each: Sample, shells: int) -> Result:
    """References and candidates of one sample, conditional score, t0 = T0."""
    model = pipeline.bind(each.caption.text)
    exact = exact_shells(model, each, T0, shells)
    second = alg2(model, each.latent, T0, seed=each.seed)
    third = alg3(model, each.latent, T0, seed=each.seed)
    x0, seeds = each.latent[None], [each.seed]
    fast = fast_spectra(model, x0, T0, seeds=seeds, tolerance=FINE)[0]
    coarser = fast_spectra(model, x0, T0, seeds=seeds, tolerance=COARSE)[0]
    quick = fast_spectra(
        model, x0, T0, seeds=seeds, tolerance=PAPER_TOLERANCE, most_shells=PAPER_SHELLS
    )[0]
    reference = np.mean([spectrum.singular_values for spectrum in exact], axis=0)
    return {
        "products": products(model, each),
        "spread": spread([spectrum.singular_values for spectrum in exact]),
        "fast": compared(fast, reference),
        "coarser": compared(coarser, reference),
        "paper": {
            "evaluations": quick.evaluations,
            "alg2": against(in_paper_units(quick, "alg2"), second),
            "alg3": against(in_paper_units(quick, "alg3"), third),
            "alg3 to alg2": relative_l1(third.singular_values, second.singular_values),
        },
        "evaluations": {
            "one exact shell": exact[0].evaluations,
            "Alg. 2": second.evaluations,
            "Alg. 3": third.evaluations,
        },
        "seconds": {
            "one exact shell": float(np.mean([spectrum.seconds for spectrum in exact])),
            "Alg. 2": second.seconds,
            "Alg. 3": third.seconds,
            "fast": fast.seconds,
            f"fast, tolerance {COARSE:.0%}": coarser.seconds,
            "fast, paper units": quick.seconds,
        },
        "load": os.getloadavg()[0],
    }


def products(model: ScoreModel, each: Sample) -> Result:
    """Errors of A v by central differences against forward mode, and the seconds of both."""
    x = perturb(model.schedule, each.latent[None], noises_for([each.seed], model.shape), T0)
    v = torch.nn.functional.normalize(noises_for([each.seed + 1], (1, 1, model.size))[0], dim=2)
    operator = ScoreJacobian(model, x, T0)
    operator.matvec(v.double())
    start = time.perf_counter()
    found = operator.matvec(v.double())[0, 0]
    middle = time.perf_counter()
    with torch.no_grad(), exact_numerics(math_attention=True):
        along = v.reshape(x.shape)
        expected = torch.func.jvp(lambda y: model.score(y, T0), (x,), (along,))[1]
        end = time.perf_counter()
        expected = operator_scale(model) * expected.double().flatten()
        h = float(operator.steps[0])
        by_step = {}
        for k in STEPS:
            sides = model.score(torch.cat([x + k * h * along, x - k * h * along]), T0).double()
            by_hand = operator_scale(model) * (sides[0] - sides[1]).flatten() / (2 * k * h)
            by_step[str(k)] = float((by_hand - expected).norm() / expected.norm())
    return {
        "error": float((found - expected).norm() / expected.norm()),
        "by step": by_step,
        "step": h,
        "seconds": middle - start,
        "forward mode": end - middle,
    }


def operator_scale(model: ScoreModel) -> float:
    """sigma^2, which turns ds/dx into the units of the "jacobian" spectrum."""
    return float(model.schedule.sigma(T0)) ** 2


def compared(fast: FastSpectrum, reference: np.ndarray) -> Result:
    """How far a spectrum is from the exact one, and what it took."""
    return {
        "error": relative_l1(fast.singular_values, reference),
        "stated": fast.error,
        "truncation": fast.truncation,
        "shells": fast.shells,
        "rows": fast.rows,
        "steps": fast.steps,
        "evaluations": fast.evaluations,
        "median": fast.median - float(np.median(reference)),
    }


def exact_shells(model: ScoreModel, each: Sample, t0: int, shells: int) -> list[Spectrum]:
    """The exact spectrum on each of some noise shells."""
    return [
        exact_jacobian(model, each.latent, t0, seed=seed_for(each.seed, "exact shell", shell))
        for shell in range(shells)
    ]


def spread(curves: Sequence[np.ndarray]) -> float:
    """The mean relative L1 distance of two shells' curves."""
    pairs = [relative_l1(a, b) for a, b in combinations(curves, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")


def against(predicted: Spectrum, printed: Spectrum) -> Result:
    """The error of a "paper" curve, and of its largest value."""
    return {
        "error": relative_l1(predicted.singular_values, printed.singular_values),
        "largest": float(predicted.singular_values[0] / printed.singular_values[0] - 1),
    }


def measure_together(
    pieces: Pieces, pipeline: TextToImage, chosen: Sequence[Sample], work: Path
) -> list[Result]:
    """Seconds of several samples of one caption in one call, as an audit takes them."""
    folder = samples_folder(work, pipeline)
    rows = []
    for each in chosen:
        row = pieces.get(f"together-{each.name}", partial(time_together, pipeline, each, folder))
        rows.append({"caption": each.caption.text, "state": each.state.value, **row})
        print(f"{TOGETHER} together: {row}", flush=True)
    return rows


def time_together(pipeline: TextToImage, each: Sample, folder: Path) -> Result:
    """Seconds and evaluations a sample, at the finer tolerance and for "paper" units."""
    text = each.caption.text
    latents = sample(pipeline, each.caption, SEED, SEEDS, folder)[1][:TOGETHER]
    seeds = [seed_for(SEED, text, i) for i in range(TOGETHER)]
    model = pipeline.bind(text)
    fast = fast_spectra(model, latents, T0, seeds=seeds, tolerance=FINE)
    quick = fast_spectra(
        model, latents, T0, seeds=seeds, tolerance=PAPER_TOLERANCE, most_shells=PAPER_SHELLS
    )
    return {
        name: {
            "seconds": found[0].seconds,
            "evaluations": float(np.mean([spectrum.evaluations for spectrum in found])),
        }
        for name, found in (("fast", fast), ("fast, paper units", quick))
    }


# --- the grid -----------------------------------------------------------------------------------


def measure_grid(
    pieces: Pieces, pipeline: TextToImage, chosen: Sequence[Sample], shells: int
) -> list[Result]:
    """`measure_cell` of every t0 and score on some samples."""
    rows = []
    for each in chosen:
        for score in GRID_SCORES:
            for t0 in GRID_T0:
                name = f"grid-{each.name}-{score}-{t0}"
                row = pieces.get(name, partial(measure_cell, pipeline, each, score, t0, shells))
                rows.append(
                    {"state": each.state.value, "score": score, "t0": t0, **row},
                )
                print(f"grid {len(rows)}: {score}, t0 = {t0}", flush=True)
    return rows


def measure_cell(
    pipeline: TextToImage, each: Sample, score: ScoreKind, t0: int, shells: int
) -> Result:
    """The errors of `fast_spectra`, and of every number of shells, directions and steps."""
    model = pipeline.bind(each.caption.text, kind=score)
    curves = [spectrum.singular_values for spectrum in exact_shells(model, each, t0, shells)]
    reference = np.mean(curves, axis=0)
    fast = fast_spectra(model, each.latent[None], t0, seeds=[each.seed], tolerance=FINE)[0]
    return {
        "spread": spread(curves),
        "fast": {
            "error": relative_l1(fast.singular_values, reference),
            "stated": fast.error,
            "shells": fast.shells,
            "evaluations": fast.evaluations,
        },
        "errors": errors_of_all(model, each, t0, reference),
    }


def errors_of_all(
    model: ScoreModel, each: Sample, t0: int, reference: np.ndarray
) -> list[list[list[float]]]:
    """Errors by shells, directions and steps: means over disjoint choices of the first two."""
    shells, directions = max(GRID_SHELLS), max(GRID_DIRECTIONS)
    seeds = [seed_for(each.seed, "grid shell", shell) for shell in range(shells)]
    points = perturb(model.schedule, each.latent, noises_for(seeds, model.shape), t0)
    start = noises_for(
        [seed_for(each.seed, "grid direction", i) for i in range(shells * directions)],
        (1, model.size),
        torch.float64,
    )
    run = Bidiagonalisation(ScoreJacobian(model, points.repeat(directions, 1, 1, 1), t0), start)
    run.extend(max(GRID_STEPS))
    errors = np.zeros((len(GRID_SHELLS), len(GRID_DIRECTIONS), len(GRID_STEPS)))
    for k, steps in enumerate(GRID_STEPS):
        quadratures = [run.quadrature(item, steps) for item in range(len(start))]
        curves = np.array([curve(each, model.size) for each in quadratures])
        for i, few in enumerate(GRID_SHELLS):
            for j, some in enumerate(GRID_DIRECTIONS):
                # Neighbours in the batch are different shells, `shells` apart different directions.
                parts = curves.reshape(-1, some, shells // few, few, model.size).swapaxes(1, 2)
                groups = parts.reshape(-1, some * few, model.size)
                errors[i, j, k] = np.mean([relative_l1(pooled(g), reference) for g in groups])
    return errors.tolist()


# --- report -------------------------------------------------------------------------------------


def report(found: Result) -> str:
    """The result as Markdown."""
    rows = found["samples"]
    lines = [
        "# Fast spectra against exact ones and against Algs. 2 and 3, on pocket",
        "",
        f"{len(rows)} samples of {len({row['caption'] for row in rows})} captions, t0 = {T0}, "
        f"conditional score, N = {found['N']}, {found['shells']} exact shells a sample; states by "
        f"{SEEDS} seeds a caption. Weights {found['model_sha256'][:12]}. Relative L1 errors of "
        "sorted curves in percent: median (worst). Evaluations: median (most).",
        "",
        *jacobian_section(found, "fast", found["tolerance"]),
        *jacobian_section(found, "coarser", COARSE),
        *paper_section(found),
        *seconds_section(found),
        *products_section(found),
    ]
    if found["grid"]:
        lines += grid_section(found)
    return "\n".join([*lines, f"{in_words(found['machine'])}.", ""])


def by_state(rows: Sequence[Result]) -> dict[str, list[Result]]:
    """Rows of each state, and all."""
    parts = {s.value: [row for row in rows if row["state"] == s.value] for s in STATES}
    return {name: part for name, part in parts.items() if part} | {"all": list(rows)}


def jacobian_section(found: Result, name: str, tolerance: float) -> list[str]:
    """What was found of the "jacobian" curve at one tolerance, kept under `name` in each row."""
    limit = 8 * found["N"] // 20
    lines = [
        f'## The "jacobian" curve at a tolerance of {tolerance:.0%}',
        "",
        f"Goal: under {GOAL:.0%} beyond the distance between two exact shells, with at most a "
        f"twentieth of Alg. 2's {8 * found['N']:,} evaluations, {limit}.",
        "",
        "| state | samples | error | between exact shells | error under "
        f"{GOAL:.0%} | under {GOAL:.0%} and that | evaluations | at most {limit} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for state, part in by_state(found["samples"]).items():
        errors = np.array([row[name]["error"] for row in part])
        between = np.array([row["spread"] for row in part])
        used = np.array([row[name]["evaluations"] for row in part])
        lines.append(
            f"| {state} | {len(part)} | {_percent(errors)} | {_percent(between)} "
            f"| {(errors < GOAL).sum()} | {(errors < GOAL + between).sum()} "
            f"| {_count(used)} | {(used <= limit).sum()} |"
        )
    fast = [row[name] for row in found["samples"]]
    errors, stated = (np.array([row[key] for row in fast]) for key in ("error", "stated"))
    own = np.array([row["spread"] for row in found["samples"]]) / 2
    shells = np.array([row["shells"] for row in fast])
    steps = np.concatenate([row["steps"] for row in fast])
    off = np.array([row["median"] for row in fast])
    return [
        *lines,
        "",
        f"Stated error: median {100 * np.median(stated):.2f}%. It covered the measured one in "
        f"{(errors <= stated).sum()} of {len(fast)} samples, and with half of the distance between "
        f"the exact shells added in {(errors <= stated + own).sum()}; measured over stated: median "
        f"{np.median(errors / stated):.2f}, largest {np.max(errors / stated):.2f}. Shells: "
        f"{_count(shells)}, steps: {_count(steps)}; "
        f"{sum(row['rows'] > 0 for row in fast)} took the Jacobian row by row. "
        f"The curve's median is off by {np.median(np.abs(off)):.4f} (at most "
        f"{np.max(np.abs(off)):.4f}).",
        "",
    ]


def paper_section(found: Result) -> list[str]:
    limit = round(found["N"] / 10)
    lines = [
        f'## "paper" units from {PAPER_SHELLS} shells at a tolerance of {PAPER_TOLERANCE:.0%}',
        "",
        f"Goal: under {PAPER_GOAL:.0%} of Alg. 2's and Alg. 3's curves with at most {limit} "
        "evaluations.",
        "",
        "| state | samples | Alg. 2: error | largest value | under the goal | Alg. 3: error "
        f"| largest value | under the goal | evaluations | at most {limit} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, part in by_state(found["samples"]).items():
        cells = [name, str(len(part))]
        for algorithm in ("alg2", "alg3"):
            errors = np.array([row["paper"][algorithm]["error"] for row in part])
            largest = np.array([row["paper"][algorithm]["largest"] for row in part])
            cells += [_percent(errors), _percent(np.abs(largest)), f"{(errors < PAPER_GOAL).sum()}"]
        used = np.array([row["paper"]["evaluations"] for row in part])
        cells += [_count(used), f"{(used <= limit).sum()}"]
        lines.append("| " + " | ".join(cells) + " |")
    printed = np.array([row["paper"]["alg3 to alg2"] for row in found["samples"]])
    return [*lines, "", f"Alg. 3 as printed is {_percent(printed)} away from Alg. 2.", ""]


def seconds_section(found: Result) -> list[str]:
    rows = found["samples"]
    evaluations = {
        **rows[0]["evaluations"],
        "fast": _count(np.array([row["fast"]["evaluations"] for row in rows])),
        f"fast, tolerance {COARSE:.0%}": _count(
            np.array([row["coarser"]["evaluations"] for row in rows])
        ),
        "fast, paper units": _count(np.array([row["paper"]["evaluations"] for row in rows])),
    }
    printed = np.array([row["seconds"]["Alg. 2"] for row in rows])
    lines = [
        "## Seconds, each sample alone, one way after the other",
        "",
        "| | evaluations | seconds: median (least to most) | Alg. 2 takes as many times |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in rows[0]["seconds"]:
        seconds = np.array([row["seconds"][name] for row in rows])
        lines.append(
            f"| {name} | {evaluations[name]} | {np.median(seconds):.2f} ({seconds.min():.2f} to "
            f"{seconds.max():.2f}) | {np.median(printed / seconds):.1f} |"
        )
    for together in found["together"]:
        for name in ("fast", "fast, paper units"):
            own = [row["seconds"]["Alg. 2"] for row in rows if row["state"] == together["state"]]
            seconds = together[name]["seconds"]
            lines.append(
                f"| {name}, {TOGETHER} of a {together['state']} one's caption in one call, each "
                f"| {together[name]['evaluations']:.0f} | {seconds:.2f} "
                f"| {np.median(own) / seconds:.1f} |"
            )
    lines += [
        "",
        "How many times as long Alg. 2 takes for the same sample: median (least to most).",
        "",
        "| state | one exact shell | tolerance 2% | tolerance 3% |",
        "| --- | ---: | ---: | ---: |",
    ]
    for state, part in by_state(rows).items():
        alg2_seconds = np.array([row["seconds"]["Alg. 2"] for row in part])
        cells = []
        for name in ("one exact shell", "fast", f"fast, tolerance {COARSE:.0%}"):
            times = alg2_seconds / np.array([row["seconds"][name] for row in part])
            cells.append(f"{np.median(times):.1f} ({times.min():.1f} to {times.max():.1f})")
        lines.append(f"| {state} | " + " | ".join(cells) + " |")
    load = np.median([row["load"] for row in rows])
    return [*lines, "", f"The machine's load was {load:.1f} (median).", ""]


def products_section(found: Result) -> list[str]:
    """Central differences against forward mode."""
    rows = [row["products"] for row in found["samples"]]
    errors = np.array([row["error"] for row in rows])
    faster = np.array([row["forward mode"] / row["seconds"] for row in rows])
    steps = np.array([row["step"] for row in rows])
    return [
        "## Products with the Jacobian: central differences against forward mode",
        "",
        f"A step of |h v| = {np.median(steps):.3f} ({steps.min():.3f} to {steps.max():.3f}) gives "
        f"products within {np.median(errors):.1e} (at most {errors.max():.1e}) of forward mode's, "
        f"which takes {np.median(faster):.1f} times as long for one point.",
        "",
        "| times that step | " + " | ".join(str(k) for k in STEPS) + " |",
        "| --- |" + " ---: |" * len(STEPS),
        "| relative error: median (worst) | "
        + " | ".join(
            f"{np.median(each):.1e} ({np.max(each):.1e})"
            for each in ([row["by step"][str(k)] for row in rows] for k in STEPS)
        )
        + " |",
        "",
    ]


def grid_section(found: Result) -> list[str]:
    rows = found["grid"]
    cells: dict[tuple[str, int], list[Result]] = {(row["score"], row["t0"]): [] for row in rows}
    for row in rows:
        cells[row["score"], row["t0"]].append(row)
    samples = len(rows) // len(cells)
    lines = [
        "## t0, score, shells, directions and steps",
        "",
        f"{samples} samples. `fast_spectra` at a tolerance of {FINE:.0%}; a guided evaluation "
        "counts two.",
        "",
        "| score | t0 | error | stated | between exact shells | shells | evaluations |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (score, t0), part in cells.items():
        values = {name: np.array([row["fast"][name] for row in part]) for name in part[0]["fast"]}
        between = np.array([row["spread"] for row in part])
        lines.append(
            f"| {score} | {t0} | {_percent(values['error'])} | {_percent(values['stated'])} "
            f"| {_percent(between)} | {_count(values['shells'])} "
            f"| {_count(values['evaluations'])} |"
        )
    lines += [
        "",
        "Errors of a number of shells, directions on each, and steps of each direction, over all "
        "of these; in brackets the evaluations of an unguided score.",
        "",
        "| shells | directions | " + " | ".join(f"{k} steps" for k in GRID_STEPS) + " |",
        "| ---: | ---: |" + " ---: |" * len(GRID_STEPS),
    ]
    errors = np.array([row["errors"] for row in rows])
    for i, shells in enumerate(GRID_SHELLS):
        for j, directions in enumerate(GRID_DIRECTIONS):
            each = [
                f"{_percent(errors[:, i, j, k])} "
                f"[{shells * directions * (GRAPH_COST + steps * (DIFFERENCE_COST + REVERSE_COST))}]"
                for k, steps in enumerate(GRID_STEPS)
            ]
            lines.append(f"| {shells} | {directions} | " + " | ".join(each) + " |")
    return [*lines, ""]


def _percent(values: np.ndarray) -> str:
    return f"{100 * np.median(values):.2f} ({100 * np.max(values):.2f})"


def _count(values: np.ndarray) -> str:
    return f"{np.median(values):g} ({values.max()})"


if __name__ == "__main__":
    main()
