"""Do pocket's thresholds hold on a second pocket, trained by the same recipe from another seed?

The calibration of named_by_curvature.py, unchanged, on a model that had no part in it. Captions and
training pictures are pocket's; the first weights and the order of all batches are others.

- Distances: pocket's delta_m and delta_s of each caption against the second pocket's own, in audits
  of all captions by 16 seeds.
- Curvature: the read-out and its threshold on samples of known states, and the words that it gives
  to prompts that are `attractor` without a reference, by pocket's delta_s.

Writes results/second_pocket.{md,json}, and the transfer into results/pocket_calibration.json, in
front of the one within pocket: this one is to another model, whatever it shows.

    m2g-audit pocket train --out runs/second --seed 1 && m2g-audit pocket measure runs/second
    python benchmarks/second_pocket.py runs/second

Finished captions stay in --work, and an interrupted run continues from them.
"""

import argparse
import datetime
import json
from collections import Counter
from pathlib import Path

import numpy as np
from curvature_confirmation import SCORES, at_once, groups_of, measure_all, over_captions
from named_by_curvature import CALIBRATION, SCORE, name_attractors, words_by_truth
from pocket_curvature import RESULTS, Groups, areas, interval
from pocket_verdicts import BENCHMARK_SEED, SEEDS, agreement
from resumable import Result, in_words, machine

from m2g_audit.calibration.calibration import Transfer, load
from m2g_audit.files import write_atomically
from m2g_audit.models.loading import load_model
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.pocket.captions import all_captions
from m2g_audit.pocket.training_pictures import TrainingPictures, load_index, nearest_training
from m2g_audit.pocket.truth import sample
from m2g_audit.pocket.truth_table import TruthTable, load_table
from m2g_audit.records.record import IntervalRecord
from m2g_audit.similarity import distances, load_metric
from m2g_audit.verdict.intervals import LEVEL
from m2g_audit.verdict.looks import Look
from m2g_audit.verdict.rule import Grounds, Samples, Verdict, judge, label
from m2g_audit.verdict.states import State
from m2g_audit.verdict.thresholds import Thresholds

NAME = "second_pocket"
RULES = ("pocket's", "its own")
"""Whose thresholds of distance an audit of the second pocket takes."""
SHOWN = ("with the reference", "without")


def main() -> None:
    """Writes results/second_pocket.md and .json, and the transfer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `m2g-audit pocket measure` worked in")
    parser.add_argument("--samples", type=int, default=8, help="of each state and caption")
    parser.add_argument("--work", type=Path, default=Path(f"runs/{NAME}"))
    asked = parser.parse_args()
    calibration, of_pocket = load(CALIBRATION), load_table()
    within = calibration.transfers[-1]
    table = load_table(asked.folder / "weights" / "truth.json")
    pipeline = load_model(asked.folder / "weights")
    audited = audit_all(pipeline, asked.folder, table, of_pocket)
    samples = measure_all(pipeline, asked.folder, table, asked.samples, asked.work)
    named = name_attractors(
        pipeline,
        asked.folder,
        table,
        asked.work,
        lambda caption: of_pocket.thresholds_of(
            next(row for row in of_pocket.captions if row.caption == caption.text)
        ),
        lambda _: within.threshold,
    )
    said = [row["truth"] for row in named if row["named"] != Verdict.ATTRACTOR.value]
    commonest = max(Counter(said).values(), default=0)
    transfer = transfer_of(samples, table, within, commonest / max(1, len(said)))
    calibration.model_copy(update={"transfers": [transfer, within]}).save(CALIBRATION)
    found = {
        "model": table.model_sha256,
        "delta": dict(
            zip(RULES, map(deltas, (of_pocket.thresholds, table.thresholds)), strict=True)
        ),
        "transfer": transfer.model_dump(mode="json"),
        "audited": audited,
        "named": named,
        "samples": samples,
        "machine": machine(),
    }
    write_atomically(RESULTS / f"{NAME}.json", f"{json.dumps(found, indent=0)}\n".encode())
    text = report(found, transfer)
    write_atomically(RESULTS / f"{NAME}.md", text.encode())
    print(text)


def deltas(thresholds: Thresholds) -> list[float | None]:
    """delta_m and delta_s."""
    return [thresholds.delta_m, thresholds.delta_s]


def audit_all(
    pipeline: TextToImage, folder: Path, table: TruthTable, of_pocket: TruthTable
) -> list[Result]:
    """The truth of every caption, and the words of 16 seeds by either pair of thresholds."""
    metric = load_metric(table.metric)
    pictures, index = TrainingPictures(pipeline), load_index(folder / "weights")
    rows = []
    for number, caption in enumerate(all_captions()):
        images = sample(pipeline, caption, BENCHMARK_SEED, SEEDS, folder / "samples")[0] / 255
        failed, embedded = is_failed(images), metric.embed(images)
        pairs = distances(metric, embedded, embedded)
        to_training = np.array(nearest_training(metric, images, pictures, index)[0])
        shares = table.captions[number].truth
        row: Result = {
            "caption": caption.text,
            "k": caption.k,
            "truth": label(shares.memorized, shares.spurious, shares.generalized).value,
        }
        pair = (t.thresholds_of(t.captions[number]) for t in (of_pocket, table))
        for rule, thresholds in zip(RULES, pair, strict=True):
            row[rule] = [
                judge(
                    Samples(pairs, known, failed),
                    thresholds,
                    Look(SEEDS),
                    Grounds(reference_complete=known is not None, power=True),
                ).word.value
                for known in (to_training, None)
            ]
        rows.append(row)
        print(row, flush=True)
    return rows


def states_apart(samples: list[Result], score: str) -> tuple[Groups, list[str]]:
    """The read-outs of memorized and of spurious samples by caption, one score, and captions."""
    groups, captions = groups_of(samples, State.MEMORIZED, State.SPURIOUS)
    column = [SCORES.index(score)]
    return [(high[:, column], low[:, column]) for high, low in groups], captions


def transfer_of(
    samples: list[Result], table: TruthTable, within: Transfer, base_rate: float
) -> Transfer:
    """What the read-out shows on the second pocket; its threshold is the one from pocket.

    base_rate: share right of always giving the commoner word to the prompts that it names.
    """
    groups, _ = states_apart(samples, SCORE)
    low, high = over_captions(groups, at_once)
    least, most = over_captions(groups, lambda drawn: right_by(drawn, within.threshold))
    return within.model_copy(
        update={
            "name": "a second pocket, trained from another seed",
            "sha256": table.model_sha256,
            "auroc": IntervalRecord(
                estimate=float(at_once(groups)[0]),
                low=float(low[0]),
                high=float(high[0]),
                level=LEVEL,
                method="bootstrap over captions",
            ),
            "balanced_accuracy": IntervalRecord(
                estimate=float(right_by(groups, within.threshold)[0]),
                low=float(least[0]),
                high=float(most[0]),
                level=LEVEL,
                method="bootstrap over captions",
            ),
            "base_rate": base_rate,
            "memorized": sum(len(pair[0]) for pair in groups),
            "spurious": sum(len(pair[1]) for pair in groups),
            "date": datetime.date.today(),
        }
    )


def right_by(groups: Groups, threshold: float) -> np.ndarray:
    """Share named right by the threshold, mean of both states [1]."""
    memorized, spurious = (np.concatenate([pair[side] for pair in groups]) for side in (0, 1))
    return ((memorized >= threshold).mean(0) + (spurious < threshold).mean(0)) / 2


def report(found: Result, transfer: Transfer) -> str:
    """The results as Markdown."""
    groups, captions = states_apart(found["samples"], SCORE)
    low, high = interval(groups, lambda by_caption, _: by_caption.mean(0))
    right = right_by(groups, transfer.threshold)
    least, most = over_captions(groups, lambda drawn: right_by(drawn, transfer.threshold))
    auroc, n = transfer.auroc, len(found["audited"])
    lines = [
        "# Pocket's thresholds on a second pocket",
        "",
        f"The recipe of pocket, trained from seed 1 (weights {found['model'][:12]}); captions and "
        "training pictures are the same.",
        "",
        "## Distances",
        "",
        f"Audits of all {n} captions by {SEEDS} seeds; the truth is that of 256 other samples by "
        "the second pocket's own thresholds, caption by caption. Wider: `attractor` where the "
        "truth is memorized, spurious or mixed.",
        "",
        "| thresholds | delta_m | delta_s | reference | truth's word | wider | undecided | wrong |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for rule in RULES:
        delta = " | ".join(f"{value:.4f}" for value in found["delta"][rule])
        for column, shown in enumerate(SHOWN):
            counts = agreement(
                Counter(
                    (Verdict(row["truth"]), Verdict(row[rule][column])) for row in found["audited"]
                )
            )
            lines.append(
                f"| {rule} | {delta} | {shown} | {counts.same} | {counts.wider} | "
                f"{counts.undecided} | {counts.wrong} |"
            )
    lines += [
        "",
        "## Curvature",
        "",
        f"The {transfer.readout} of the {SCORE} spectrum at t0 = 5, chosen on pocket, on "
        f"{transfer.memorized} memorized and {transfer.spurious} spurious samples of "
        f"{len(captions)} captions of the second pocket. 95% bootstrap intervals over captions.",
        "",
        "| | |",
        "| --- | --- |",
        f"| AUROC within captions | {areas(groups).mean():.3f} ({low[0]:.3f} to {high[0]:.3f}) |",
        f"| AUROC of all samples at once | {auroc.estimate:.3f} ({auroc.low:.3f} to "
        f"{auroc.high:.3f}) |",
        f"| named right by pocket's threshold, {transfer.threshold:.3f} | {right[0]:.1%} "
        f"({least[0]:.1%} to {most[0]:.1%}) |",
        "",
        f"Of the {n} captions {len(found['named'])} are `attractor` by {SEEDS} seeds without a "
        "reference, by pocket's delta_s. The read-out at their largest attractors, by pocket's "
        "threshold, names them:",
        "",
        *words_by_truth(found["named"]),
    ]
    return "\n".join([*lines, "", f"{in_words(found['machine'])}.", ""])


if __name__ == "__main__":
    main()
