"""Were the word of curvature taken, how often would it be right? Prompts of pocket, no reference.

The read-out that curvature_confirmation.py confirmed (the 10% quantile at t0 = 5, conditional) as a
calibration would use it: one threshold, here the best one on the samples of all other captions,
names the attractors of prompts whose verdict is `attractor`, by the spectrum at their medoids.
Audited are 16 seeds a caption that nothing else uses, with thresholds of distance from captions of
the other fold; the truth is that of 256 other samples.

Also writes results/pocket_calibration.json, with the threshold that is best on all samples, for
`m2g-audit prompt --model pocket --reference none --calibration`; second_pocket.py then adds what it
showed on another model.

    python benchmarks/named_by_curvature.py runs/pocket     # what `pocket measure` worked in
"""

import argparse
import datetime
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from curvature_confirmation import NAME as CONFIRMATION
from curvature_confirmation import (
    SCORES,
    T0,
    at_once,
    best_threshold,
    groups_of,
    over_captions,
)
from diffusers import UNet2DConditionModel
from pocket_curvature import RESULTS
from pocket_verdicts import BENCHMARK_SEED, SEEDS
from resumable import Pieces, Result, in_words, machine
from torch import Tensor

from m2g_audit.calibration.calibration import (
    Calibration,
    CalibrationData,
    CalibrationModel,
    DistanceFacts,
    ModelKind,
    Readout,
    StateFacts,
    Trained,
    Transfer,
    read_out,
)
from m2g_audit.diagnostics import fast_spectrum, krylov, operators
from m2g_audit.diagnostics.fast_spectrum import fast_spectra
from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.files import write_atomically
from m2g_audit.models.loading import load_model
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.pocket.captions import Caption, all_captions, trained_captions
from m2g_audit.pocket.truth import sample
from m2g_audit.pocket.truth_table import TruthTable, load_table
from m2g_audit.records.record import IntervalRecord
from m2g_audit.records.vocabulary import ScoreKind
from m2g_audit.similarity import distances, load_metric
from m2g_audit.verdict.attractors import RepeatSeedCheck
from m2g_audit.verdict.intervals import LEVEL
from m2g_audit.verdict.looks import Look
from m2g_audit.verdict.rule import Grounds, Samples, Verdict, judge, label, verdict_of_named
from m2g_audit.verdict.states import State
from m2g_audit.verdict.thresholds import Thresholds
from m2g_audit.versions import versions

SCORE: ScoreKind = "conditional"
READOUT: Readout = "quantile 0.1"
SPECTRA = 3  # as many as an audit measures
NAME = "named_by_curvature"
CALIBRATION = RESULTS / "pocket_calibration.json"
WORDS = (Verdict.MEMORIZED, Verdict.SPURIOUS, Verdict.ATTRACTOR)


def main() -> None:
    """Writes results/named_by_curvature.md and .json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `m2g-audit pocket measure` worked in")
    parser.add_argument("--work", type=Path, default=Path(f"runs/{NAME}"))
    asked = parser.parse_args()
    table = load_table(asked.folder / "weights" / "truth.json")
    pipeline = load_model(asked.folder / "weights")
    of_caption = {row.caption: row for row in table.captions}
    samples = json.loads((RESULTS / f"{CONFIRMATION}.json").read_text())["rows"]
    rows = name_attractors(
        pipeline,
        asked.folder,
        table,
        asked.work,
        lambda caption: table.thresholds_of(of_caption[caption.text]),
        lambda caption: threshold_of_others(samples, caption),
    )
    write_atomically(RESULTS / f"{NAME}.json", f"{json.dumps(rows, indent=1)}\n".encode())
    text = report(rows, table.model_sha256)
    write_atomically(RESULTS / f"{NAME}.md", text.encode())
    calibration(asked.folder, pipeline, table, samples).save(CALIBRATION)
    print(text)


def name_attractors(
    pipeline: TextToImage,
    folder: Path,
    table: TruthTable,
    work: Path,
    thresholds_of: Callable[[Caption], Thresholds],
    threshold_of: Callable[[Caption], float],
) -> list[Result]:
    """The prompts that are `attractor` without a reference, each with its truth and named.

    `thresholds_of` a caption: those of distance; `threshold_of`: that of the read-out. Finished
    captions stay in `work`.
    """
    metric = load_metric(table.metric)
    pieces = Pieces(
        work, {"model": table.model_sha256}, (fast_spectrum, krylov, operators, read_outs)
    )
    rows = []
    for number, caption in enumerate(all_captions()):
        images, latents = sample(pipeline, caption, BENCHMARK_SEED, SEEDS, folder / "samples")
        thresholds = thresholds_of(caption)
        embedded = metric.embed(images)
        seen = Samples(distances(metric, embedded, embedded), None, is_failed(images / 255))
        judgement = judge(seen, thresholds, Look(SEEDS), Grounds(power=True))
        check, found = judgement.reading.check, judgement.reading.states
        if judgement.word is not Verdict.ATTRACTOR:
            continue
        medoids = [attractor.medoid for attractor in check.attractors[:SPECTRA]]
        values = pieces.get(
            caption.text.replace(" ", "-"),
            lambda: {"values": read_outs(pipeline, caption, latents, medoids)},  # noqa: B023
        )["values"]
        threshold = threshold_of(caption)
        shares = table.captions[number].truth
        rows.append(
            {
                "caption": caption.text,
                "k": caption.k,
                "truth": label(shares.memorized, shares.spurious, shares.generalized).value,
                "named": name(check, found, values, threshold).value,
                "threshold": threshold,
                "values": values,
            }
        )
        print(rows[-1], flush=True)
    return rows


def read_outs(
    pipeline: TextToImage, caption: Caption, latents: Tensor, medoids: list[int]
) -> list[float]:
    """The read-out at the medoids of a prompt's attractors."""
    spectra = fast_spectra(
        pipeline.bind(caption.text, guidance=pipeline.default_guidance, kind=SCORE),
        latents[medoids],
        T0,
        seeds=[seed_for(BENCHMARK_SEED, f"curvature {caption.text}", i) for i in medoids],
    )
    return [read_out(READOUT, spectrum.singular_values) for spectrum in spectra]


def threshold_of_others(rows: list[Result], caption: Caption) -> float:
    """The threshold that names most samples of other captions right."""
    values = {
        state: np.array(
            [
                row[SCORE]
                for row in rows
                if row["state"] == state.value and row["caption"] != caption.text
            ]
        )
        for state in (State.MEMORIZED, State.SPURIOUS)
    }
    return best_threshold(values[State.MEMORIZED], values[State.SPURIOUS])


def calibration(
    folder: Path, pipeline: TextToImage, table: TruthTable, samples: list[Result]
) -> Calibration:
    """The calibration that pocket's samples give, tried on captions other than those it is from."""
    unet = UNet2DConditionModel.from_pretrained(folder / "weights" / "unet")
    groups, _ = groups_of(samples, State.MEMORIZED, State.SPURIOUS)
    column = SCORES.index(SCORE)
    both = [np.concatenate([pair[side][:, column] for pair in groups]) for side in (0, 1)]
    low, high = over_captions(groups, at_once)
    kind = ModelKind(
        architecture=pipeline.identity.architecture,
        shape=pipeline.latent_shape,
        space="latents",
        score=SCORE,
    )
    counts = {
        state: sum(row["state"] == state.value for row in samples)
        for state in (State.MEMORIZED, State.SPURIOUS, State.GENERALIZED)
    }
    pictures = sum(caption.k for caption in trained_captions())
    facts = DistanceFacts(
        metric=table.metric,
        delta_m=table.delta_m,
        delta_s=table.delta_s,
        rule="1% quantiles over fresh pictures of the pocket world",
        fresh=table.fresh_pictures,
        samples=table.samples,
        states=[StateFacts(state=state.value, count=n) for state, n in counts.items()],
    )
    transfer = Transfer(
        name="captions of pocket that it was not chosen on",
        to=kind,
        sha256=table.model_sha256,
        readout=READOUT,
        threshold=best_threshold(*both),
        auroc=IntervalRecord(
            estimate=at_once(groups)[column],
            low=low[column],
            high=high[column],
            level=LEVEL,
            method="bootstrap over captions",
        ),
        memorized=counts[State.MEMORIZED],
        spurious=counts[State.SPURIOUS],
        date=datetime.date.today(),
    )
    return Calibration(
        date=datetime.date.today(),
        data=CalibrationData(name="pocket", images=pictures, shape=kind.shape, scale=1.0),
        model=CalibrationModel(
            kind=kind, parameters=unet.num_parameters(), configuration=table.model_sha256
        ),
        t0=T0,
        sigma_t0=float(pipeline.schedule.sigma(T0)),
        trained=[Trained(K=pictures, seed=0, sha256=table.model_sha256, distances=[facts])],
        peak_K=None,
        transfers=[transfer],
        versions=versions(),
    )


def name(
    check: RepeatSeedCheck, found: list[State], values: list[float], threshold: float
) -> Verdict:
    """The word for a prompt whose largest attractors are named by the threshold."""
    named = list(found)
    for attractor, value in zip(check.attractors, values, strict=False):
        for i in attractor.members:
            named[i] = State.MEMORIZED if value >= threshold else State.SPURIOUS
    return verdict_of_named(named, found, check.n_duplicates.tolist(), look=Look(SEEDS))


def report(rows: list[Result], model: str) -> str:
    """The result as Markdown."""
    lines = [
        "# Attractors named by curvature, were it trusted",
        "",
        f"{len(rows)} of pocket's 94 captions are `attractor` by {SEEDS} seeds without a "
        f"reference. The 10% quantile of the {SCORE} spectrum at t0 = {T0} names their {SPECTRA} "
        "largest attractors, by the best threshold on the samples of the other captions. "
        f"Weights {model[:12]}.",
        "",
        *words_by_truth(rows),
        "",
        f"{in_words(machine())}.",
        "",
    ]
    return "\n".join(lines)


def words_by_truth(rows: list[Result]) -> list[str]:
    """The table of prompts by truth and word, and in a sentence how many words are right."""
    counts = Counter((row["truth"], row["named"]) for row in rows)
    truths = [word.value for word in Verdict if any(row["truth"] == word.value for row in rows)]
    said = [row for row in rows if row["named"] != Verdict.ATTRACTOR.value]
    right = sum(row["named"] == row["truth"] for row in said)
    always = sum(row["truth"] == Verdict.MEMORIZED.value for row in said)
    return [
        "| truth \\ word | " + " | ".join(word.value for word in WORDS) + " |",
        "| --- |" + " ---: |" * len(WORDS),
        *(
            f"| **{truth}** | "
            + " | ".join(str(counts[truth, word.value]) for word in WORDS)
            + " |"
            for truth in truths
        ),
        "",
        f"A word for {len(said)} prompts, the truth's for {right} of them. To say memorized of "
        f"each of these would be right for {always}.",
    ]


if __name__ == "__main__":
    main()
