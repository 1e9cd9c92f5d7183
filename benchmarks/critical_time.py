"""Does bisection find the critical times of Alg. 1, with how many fewer network evaluations?

Samples of pocket in all three states, each of another caption, are searched by Alg. 1 with one
noise a trial for all t (the reference), by bisection under the same noise, and by Alg. 1 as printed
under fresh noise with several seeds, which shows how far its own answer moves. All at delta_d =
delta_m of the truth table. An evaluation is a forward pass for one item; a step of the guided
score takes two.

    python benchmarks/critical_time.py                      # the paper's settings
    python benchmarks/critical_time.py --samples 3 --trials 4 --stride 100 --out /tmp/look

Writes critical_time.{md,json} into --out. Finished searches stay in --work, and an interrupted run
continues from them; a run for more samples or seeds takes them up, too.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from resumable import Pieces, Result, in_words, machine

from m2g_audit.audits.basins import picture_distance
from m2g_audit.diagnostics import basin, score_model
from m2g_audit.diagnostics.basin import (
    COARSE,
    Basin,
    Search,
    algorithm1,
    check_times,
    critical_time,
)
from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.files import write_atomically
from m2g_audit.models.loading import load_model
from m2g_audit.models.model_folder import POCKET_FOLDER
from m2g_audit.models.names import POCKET
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.pocket.captions import all_captions
from m2g_audit.pocket.training_pictures import TrainingPictures, load_index, nearest_training
from m2g_audit.pocket.truth_table import TABLE, TruthTable, load_table
from m2g_audit.similarity import distances, load_metric
from m2g_audit.verdict.states import State, classify

STATES = (State.MEMORIZED, State.SPURIOUS, State.GENERALIZED)
SEEDS = 16
SEED = 17_000
"""Run seed of samples and searches; the truth and other benchmarks use others."""

LEAST_SHARE = 0.2
"""A caption is asked for samples of a state that at least this share of its samples has."""

GOAL_FEWER, GOAL_WITHIN = 8, 0.95
RESULTS = Path(__file__).parent / "results"
NAME = "critical_time"


def main() -> None:
    """Measures what is missing and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=POCKET, help="or the weights of a measured folder")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--stride", type=int, default=10)
    parser.add_argument("--delta-p", type=float, default=0.8)
    parser.add_argument("--fresh", type=int, default=2, help="seeds of Alg. 1 as printed")
    parser.add_argument("--work", type=Path, default=Path("runs/critical_time"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    pipeline = load_model(asked.model)
    weights = POCKET_FOLDER if asked.model == POCKET else Path(asked.model)
    table = load_table(TABLE if asked.model == POCKET else weights / "truth.json")
    if table.model_sha256 != pipeline.identity.sha256:
        parser.error(f"the truth table beside {asked.model} belongs to other weights: measure it")
    search = Search(table.delta_m, asked.delta_p, asked.trials, asked.steps, asked.stride)
    settings = {"weights": table.model_sha256, **asdict(search)}
    pieces = Pieces(asked.work, settings, (basin, score_model))
    rows = []
    for chosen in choose(pipeline, table, weights, asked.samples, pieces):
        found = measure(pipeline, table, chosen, search, asked.fresh, pieces)
        rows.append({**chosen, **found})
        print(f"{chosen['caption']} ({chosen['state']}): {in_short(found)}", flush=True)
    result = {
        **settings,
        "schedule": len(pipeline.schedule),
        "made_on": machine(),
        "rows": rows,
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    write_atomically(asked.out / f"{NAME}.json", (json.dumps(result, indent=1) + "\n").encode())
    write_atomically(asked.out / f"{NAME}.md", report(result).encode())
    print(report(result))


# --- samples ----------------------------------------------------------------------------------


def choose(
    pipeline: TextToImage, table: TruthTable, weights: Path, count: int, pieces: Pieces
) -> list[Result]:
    """So many samples, the three states in turn, each of another caption, spread over their K."""
    pictures, index = TrainingPictures(pipeline), load_index(weights)

    def states_of(caption: str) -> list[str]:
        make = partial(sample_states, pipeline, table, pictures, index, caption)
        return pieces.get(f"states of {caption}", lambda: {"states": make()})["states"]

    chosen: list[Result] = []
    for state, part in zip(STATES, np.array_split(np.arange(count), len(STATES)), strict=True):
        texts = [
            caption.text
            for caption, row in zip(all_captions(), table.captions, strict=True)
            if getattr(row.truth, state.value) >= LEAST_SHARE
        ]
        for start in np.linspace(0, len(texts) - 1, len(part)).round().astype(int):
            taken = {sample["caption"] for sample in chosen}
            for caption in [*texts[start:], *texts[:start]]:
                if caption not in taken and state.value in states_of(caption):
                    number = states_of(caption).index(state.value)
                    chosen.append({"caption": caption, "state": state.value, "sample": number})
                    break
    return chosen


def sample_states(
    pipeline: TextToImage,
    table: TruthTable,
    pictures: TrainingPictures,
    index: np.ndarray,
    caption: str,
) -> list[str]:
    """The states of SEEDS samples of a caption, each looking for duplicates among the others."""
    metric = load_metric(table.metric)
    images = pipeline.generate(caption, _seeds(caption), batch_size=SEEDS).images
    embedded = metric.embed(images)
    pairs = distances(metric, embedded, embedded)
    np.fill_diagonal(pairs, np.inf)
    to_training = np.array(nearest_training(metric, images, pictures, index)[0])
    found = classify(
        to_training,
        pairs.min(1),
        table.thresholds_for(caption),
        reference_complete=True,
        failed=is_failed(images),
    )
    return [state.value for state in found]


def _seeds(caption: str) -> list[int]:
    return [seed_for(SEED, caption, i) for i in range(SEEDS)]


# --- searches ---------------------------------------------------------------------------------


def measure(
    pipeline: TextToImage,
    table: TruthTable,
    chosen: Result,
    search: Search,
    fresh: int,
    pieces: Pieces,
) -> Result:
    """What each search finds for one sample, and what it takes."""
    caption, number = chosen["caption"], chosen["sample"]
    x0 = pipeline.generate(caption, [_seeds(caption)[number]], batch_size=1).clean
    model = pipeline.bind(caption, kind="guided")
    distance = picture_distance(pipeline, load_metric(table.metric))
    seeds = [seed_for(SEED, f"search {caption}", i) for i in range(1 + fresh)]
    alg1 = partial(algorithm1, model, x0[0], distance, search=search)

    def bisection() -> Basin:
        return critical_time(model, x0, distance, search=search, seeds=seeds[:1])[0]

    def found(name: str, search: Callable[[], Basin]) -> Result:
        return pieces.get(f"{name} for {caption} {number}", partial(timed, search))

    return {
        "reference": found("Alg. 1", partial(alg1, seed=seeds[0], shared_noise=True)),
        "bisection": found("bisection", bisection),
        "fresh": [
            found(f"fresh {k}", partial(alg1, seed=seed)) for k, seed in enumerate(seeds[1:])
        ],
    }


def timed(search: Callable[[], Basin]) -> Result:
    """What a search finds, with its seconds."""
    start = time.perf_counter()
    found = search()
    seconds = time.perf_counter() - start
    return {
        "critical_time": found.critical_time,
        "stopped": found.stopped,
        "times": found.times.tolist(),
        "log_volume": float(found.log_volumes.mean()),
        "checked": found.checked.tolist(),
        "recovery": found.recovery.tolist(),
        "denoisings": found.denoisings,
        "evaluations": found.evaluations,
        "seconds": round(seconds, 2),
    }


def in_short(found: Result) -> str:
    """One sample's critical times and evaluations."""
    parts = {"Alg. 1": found["reference"], "bisection": found["bisection"]}
    parts |= {f"fresh {k}": search for k, search in enumerate(found["fresh"], start=1)}
    return "; ".join(
        f"{name} {search['critical_time']} ({search['evaluations']:,} evaluations, "
        f"{search['seconds']:.0f} s)"
        for name, search in parts.items()
    )


# --- the report -------------------------------------------------------------------------------


def report(result: Result) -> str:
    """The result as Markdown."""
    rows = result["rows"]
    times = check_times(result["schedule"], result["stride"])
    lines = [
        "# Critical times by bisection against Alg. 1",
        "",
        f"{len(rows)} samples of pocket, each of another caption; {result['trials']} trials, "
        f"{result['steps']} DDIM steps, delta_p {result['delta_p']:g}, delta_d "
        f"{result['delta_d']:.4f}, stride {result['stride']}: {len(times)} times from 1 to "
        f"{times[-1]}. Bisection after {COARSE} coarse checks. Weights {result['weights'][:12]}. "
        f"{in_words(result['made_on'])}.",
        "",
        "| search | evaluations | denoisings | seconds | times fewer evaluations, in all | sample "
        "by sample: median (range) |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        _cost("Alg. 1, noise shared over t", rows, "reference"),
        _cost("bisection, the same noise", rows, "bisection"),
        "",
        "| critical times compared | pairs | equal | within one stride | difference: median "
        "(largest) | of the trials' mean | of the log-volume |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        _agreement("bisection and Alg. 1, same noise", same_noise(rows), result["stride"]),
        _agreement("Alg. 1 as printed, seed to seed", seed_to_seed(rows), result["stride"]),
        "",
        "The last two, medians over pairs: of the mean t_c of a sample's trials, and of the mean "
        "natural logarithm of their volumes.",
        "",
        "| state | samples | t_c by Alg. 1: median (range) | its evaluations | by bisection | "
        "times fewer |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *[_state(state.value, rows) for state in STATES],
        "",
        verdict(result),
    ]
    return "\n".join(lines) + "\n"


Pairs = list[tuple[Result, Result]]


def same_noise(rows: list[Result]) -> Pairs:
    """Bisection with its reference, sample by sample."""
    return [(row["bisection"], row["reference"]) for row in rows]


def seed_to_seed(rows: list[Result]) -> Pairs:
    """Alg. 1 with itself, over all pairs of seeds of a sample."""
    return [
        (one, other)
        for row in rows
        for k, one in enumerate(row["fresh"])
        for other in row["fresh"][:k]
    ]


def verdict(result: Result) -> str:
    """Whether the goals were met, in a sentence."""
    rows = result["rows"]
    fewer = total(rows, "reference", "evaluations") / total(rows, "bisection", "evaluations")
    near = np.abs(differences(same_noise(rows))) <= result["stride"]
    return (
        f"Goals: {GOAL_FEWER} times fewer evaluations ({_met(fewer >= GOAL_FEWER)}, {fewer:.1f}); "
        f"the same critical time within one stride in {GOAL_WITHIN:.0%} of samples "
        f"({_met(near.mean() >= GOAL_WITHIN)}, {near.mean():.0%})."
    )


def _met(good: bool) -> str:
    return "met" if good else "missed"


def total(rows: list[Result], search: str, what: str) -> float:
    """A cost of one search summed over samples."""
    return sum(row[search][what] for row in rows)


def differences(pairs: Pairs) -> np.ndarray:
    """Of the samples' critical times."""
    return np.array([a["critical_time"] - b["critical_time"] for a, b in pairs])


def _cost(name: str, rows: list[Result], search: str) -> str:
    ratios = [row["reference"]["evaluations"] / row[search]["evaluations"] for row in rows]
    fewer = total(rows, "reference", "evaluations") / total(rows, search, "evaluations")
    cells = [
        *(f"{total(rows, search, what):,.0f}" for what in ("evaluations", "denoisings", "seconds")),
        f"{fewer:.1f}",
        f"{np.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def _agreement(name: str, pairs: Pairs, stride: int) -> str:
    if not pairs:
        return f"| {name} | 0 | – | – | – | – | – |"
    apart = np.abs(differences(pairs))
    means = [abs(np.mean(a["times"]) - np.mean(b["times"])) for a, b in pairs]
    volumes = [abs(a["log_volume"] - b["log_volume"]) for a, b in pairs]
    cells = [
        f"{len(pairs)}",
        f"{(apart == 0).sum()}",
        f"{(apart <= stride).sum()} ({(apart <= stride).mean():.0%})",
        f"{np.median(apart):.0f} ({apart.max()})",
        f"{np.median(means):.1f}",
        f"{np.median(volumes):.2f}",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def _state(state: str, rows: list[Result]) -> str:
    rows = [row for row in rows if row["state"] == state]
    if not rows:
        return f"| {state} | 0 | – | – | – | – |"
    found = [row["reference"]["critical_time"] for row in rows]
    costs = [total(rows, search, "evaluations") for search in ("reference", "bisection")]
    cells = [
        f"{len(rows)}",
        f"{np.median(found):.0f} ({min(found)} to {max(found)})",
        *(f"{cost:,.0f}" for cost in costs),
        f"{costs[0] / costs[1]:.1f}",
    ]
    return f"| {state} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
