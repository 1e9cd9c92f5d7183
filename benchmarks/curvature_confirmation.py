"""Does the read-out that looked best in pocket_curvature.py tell the states apart elsewhere?

That benchmark compared 140 conditions in 8 captions; the best, by 7 of its 8 choices, was the 10%
quantile of the unconditional spectrum at t0 = 5. Here that one condition, fixed before any of these
samples was measured, is judged on all other captions whose truth has samples of both states. The
same read-out of the conditional spectrum, which an audit measures anyway, stands beside it. A
calibration has one threshold for all prompts, so AUROC is also given over all samples at once, with
the share that a threshold chosen on the other captions names right (mean of both states).

    python benchmarks/curvature_confirmation.py runs/pocket      # what `pocket measure` worked in

Finished captions stay in --work, and an interrupted run continues from them.
"""

import argparse
import json
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import torch
from pocket_curvature import (
    LEAST_SAMPLES,
    RESAMPLES,
    RESULTS,
    STATES,
    TOLERANCE,
    Groups,
    areas,
    draw,
    interval,
    sample_states,
)
from resumable import Pieces, Result, in_words, machine

from m2g_audit.diagnostics import fast_spectrum, krylov, operators
from m2g_audit.diagnostics.fast_spectrum import FIRST_SHELLS, fast_spectra
from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.files import write_atomically
from m2g_audit.models.loading import load_model
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pocket.captions import Caption, all_captions
from m2g_audit.pocket.truth import SAMPLES, TRUTH_SEED, sample
from m2g_audit.pocket.truth_table import TruthTable, load_table
from m2g_audit.records.vocabulary import ScoreKind
from m2g_audit.verdict.states import State

T0, QUANTILE = 5, 0.1
SCORES: tuple[ScoreKind, ...] = ("unconditional", "conditional")
NAME = "curvature_confirmation"


def main() -> None:
    """Writes results/curvature_confirmation.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `m2g-audit pocket measure` worked in")
    parser.add_argument("--samples", type=int, default=16, help="of each state and caption")
    parser.add_argument("--work", type=Path, default=Path(f"runs/{NAME}"))
    asked = parser.parse_args()
    table = load_table(asked.folder / "weights" / "truth.json")
    pipeline = load_model(asked.folder / "weights")
    seen = {row["caption"] for row in json.loads((RESULTS / "pocket_curvature.json").read_text())}
    rows = measure_all(pipeline, asked.folder, table, asked.samples, asked.work, without=seen)
    content = {"rows": rows, "before": sorted(seen), "machine": machine()}
    write_atomically(RESULTS / f"{NAME}.json", f"{json.dumps(content, indent=0)}\n".encode())
    text = report(rows, len(seen), table.model_sha256)
    write_atomically(RESULTS / f"{NAME}.md", text.encode())
    print(text)


def measure_all(
    pipeline: TextToImage,
    folder: Path,
    table: TruthTable,
    samples: int,
    work: Path,
    without: Collection[str] = (),
) -> list[Result]:
    """The read-outs of so many samples of each state in captions that have enough of both.

    Finished captions stay in `work`; captions `without` are left out.
    """
    settings = {"model": table.model_sha256, "tolerance": TOLERANCE, "samples": samples}
    pieces = Pieces(work, settings, (fast_spectrum, krylov, operators, measure))
    rows = []
    for number, caption in enumerate(all_captions()):
        if caption.text in without:
            continue
        found = sample_states(pipeline, folder, table, number, caption)
        chosen = draw(found, samples, number)
        if min(len(chosen[state]) for state in STATES[:2]) < LEAST_SAMPLES:
            continue
        rows += pieces.get(
            caption.text.replace(" ", "-"),
            lambda: {"rows": measure(pipeline, folder, caption, chosen)},  # noqa: B023
        )["rows"]
        print(caption.text, len(rows), flush=True)
    return rows


def measure(
    pipeline: TextToImage, folder: Path, caption: Caption, chosen: dict[State, np.ndarray]
) -> list[Result]:
    """The read-out of the chosen samples at their own final latents, by each score."""
    latents = sample(pipeline, caption, TRUTH_SEED, SAMPLES, folder / "samples")[1]
    which = np.concatenate(list(chosen.values()))
    rows: list[Result] = [
        {"caption": caption.text, "k": caption.k, "state": state.value, "sample": int(i)}
        for state, indices in chosen.items()
        for i in indices
    ]
    for score in SCORES:
        spectra = fast_spectra(
            pipeline.bind(caption.text, guidance=pipeline.default_guidance, kind=score),
            latents[torch.from_numpy(which)],
            T0,
            seeds=[seed_for(1, caption.text, int(i)) for i in which],
            tolerance=TOLERANCE,
            most_shells=FIRST_SHELLS,
        )
        for row, spectrum in zip(rows, spectra, strict=True):
            row[score] = round(float(np.quantile(spectrum.singular_values, QUANTILE)), 6)
    return rows


def groups_of(rows: list[Result], high: State, low: State) -> tuple[Groups, list[str]]:
    """The readings of two states in captions that have enough samples of both, and which."""
    groups, captions = [], []
    for caption in dict.fromkeys(row["caption"] for row in rows):
        pair = tuple(
            np.array(
                [
                    [row[score] for score in SCORES]
                    for row in rows
                    if (row["caption"], row["state"]) == (caption, state.value)
                ]
            )
            for state in (high, low)
        )
        if min(len(values) for values in pair) >= LEAST_SAMPLES:
            groups.append(pair)
            captions.append(caption)
    return groups, captions


def at_once(groups: Groups) -> np.ndarray:
    """AUROC of the first against the second state over the samples of all captions [scores]."""
    high, low = (np.concatenate([pair[side] for pair in groups]) for side in (0, 1))
    return areas([(high, low)])[0]


def named_right(groups: Groups) -> np.ndarray:
    """Share named right, mean of both states, by the threshold best on other captions [scores]."""
    right = []
    for held_out, (high, low) in enumerate(groups):
        others = [pair for number, pair in enumerate(groups) if number != held_out]
        both = [np.concatenate([pair[side] for pair in others]) for side in (0, 1)]
        thresholds = [best_threshold(*(v[:, s] for v in both)) for s in range(len(SCORES))]
        right.append([((high >= thresholds).mean(0) + (low < thresholds).mean(0)) / 2])
    return np.concatenate(right).mean(0)


def best_threshold(high: np.ndarray, low: np.ndarray) -> float:
    """The threshold [values] that names the largest share right, mean of both states."""
    high, low = np.sort(high), np.sort(low)
    possible = np.concatenate([high, low])
    right = 1 - np.searchsorted(high, possible) / len(high)
    right += np.searchsorted(low, possible) / len(low)
    return float(possible[right.argmax()])


def over_captions(
    groups: Groups, statistic: Callable[[Groups], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """95% bootstrap interval of a statistic of all groups: captions drawn again."""
    rng = np.random.default_rng(0)
    drawn = [
        statistic([groups[g] for g in rng.integers(len(groups), size=len(groups))])
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def report(rows: list[Result], before: int, model: str) -> str:
    """The result as Markdown."""
    counts = ", ".join(
        f"{sum(row['state'] == state.value for row in rows)} {state.value}" for state in STATES
    )
    lines = [
        "# A read-out of curvature, confirmed or not on other captions of pocket",
        "",
        f"10% quantile of the Jacobian's singular values at t0 = {T0}, fast spectra of two shells "
        f"(tolerance {TOLERANCE:g}); chosen on {before} captions, judged on "
        f"{len({row['caption'] for row in rows})} others: {counts} samples. AUROC within captions, "
        "averaged over captions, with a 95% bootstrap interval over captions and samples. "
        f"Weights {model[:12]}.",
        "",
        "| | captions | " + " | ".join(SCORES) + " |",
        "| --- | ---: | " + "--- | " * len(SCORES),
    ]
    for high, low in ((0, 1), (0, 2), (1, 2)):
        groups, captions = groups_of(rows, STATES[high], STATES[low])
        if len(groups) < 3:
            continue
        estimate = areas(groups).mean(0)
        least, most = interval(groups, lambda by_caption, _: by_caption.mean(0))
        cells = " | ".join(
            f"{value:.3f} ({a:.3f} to {b:.3f})"
            for value, a, b in zip(estimate, least, most, strict=True)
        )
        lines.append(f"| {STATES[high].value} > {STATES[low].value} | {len(captions)} | {cells} |")
    groups, captions = groups_of(rows, STATES[0], STATES[1])
    once, (least, most) = at_once(groups), over_captions(groups, at_once)
    cells = [f"{v:.3f} ({a:.3f} to {b:.3f})" for v, a, b in zip(once, least, most, strict=True)]
    lines.append(f"| memorized > spurious, all at once | {len(captions)} | {' | '.join(cells)} |")
    shares = " | ".join(f"{share:.1%}" for share in named_right(groups))
    lines.append(f"| named right by another caption's threshold | {len(captions)} | {shares} |")
    of_k = {row["caption"]: row["k"] for row in rows}
    lines += [
        "",
        "| caption | K | memorized | spurious | " + " | ".join(SCORES) + " |",
        "| --- | ---: | ---: | ---: | " + "---: | " * len(SCORES),
    ]
    for caption, (high, low), by_score in zip(captions, groups, areas(groups), strict=True):
        cells = " | ".join(f"{value:.2f}" for value in by_score)
        lines.append(f"| {caption} | {of_k[caption]} | {len(high)} | {len(low)} | {cells} |")
    return "\n".join([*lines, "", f"{in_words(machine())}.", ""])


if __name__ == "__main__":
    main()
