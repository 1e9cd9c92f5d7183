"""Do verdicts hold on a model that nobody had tuned to? The strangers, audited as a user would.

    python benchmarks/stranger_models.py A --out runs/strangers    # trains it
    python benchmarks/strangers.py truth A --work runs/strangers   # 128 samples a caption
    python benchmarks/strangers.py audit A --work runs/strangers   # `m2g-audit batch`, every mode

Truth comes from S and from fresh photographs of each caption's class, which no audit gets to see.
An audit gets the model's folder, the captions and, by mode, the reference, unseen pictures or the
base. A was looked at while the rules were written; B's truth and audits were made once, after they
were. Writes results/strangers_{A,B}.{md,json}. What is finished stays in --work.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from stranger_models import STRANGERS, Stranger, Taught, fresh_rows, pictures_of, taught
from torch import Tensor

from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import set_up
from m2g_audit.audits.yardstick_search import find_yardstick
from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.models.loading import load_model
from m2g_audit.models.protocol import TextToImage
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.pocket.training_pictures import to_levels
from m2g_audit.pocket.truth import Seen
from m2g_audit.progress import silent
from m2g_audit.records.record import AuditRecord
from m2g_audit.references.reference import load_folder
from m2g_audit.similarity import Metric, distances, load_metric, nearest
from m2g_audit.store.stored_run import StoredRun
from m2g_audit.verdict.intervals import clopper_pearson
from m2g_audit.verdict.rule import label
from m2g_audit.verdict.states import S_PRIME
from m2g_audit.verdict.thresholds import Thresholds, fresh_thresholds

SAMPLES = 128
TRUTH_SEED, AUDIT_SEED = 256_000, 16_000
COSTED = 10
"""Prompts over which the time of a prompt is the median."""
METRICS = ("tiled_l2", "l2")
RESULTS = Path(__file__).parent / "results"

REFERENCE = ("--reference", "reference", "--reference-complete")
MODES: dict[str, tuple[str, ...]] = {
    "complete reference": REFERENCE,
    "complete reference, --seeds auto": (*REFERENCE, "--seeds", "auto"),
    "complete reference, l2": (*REFERENCE, "--metric", "l2"),
    "reference and unseen pictures": (*REFERENCE, "--unseen", "unseen"),
    "nothing at hand": (),
    "with --base": ("--base", "base"),
    "with --base, --seeds auto": ("--base", "base", "--seeds", "auto"),
    "own controls": ("--controls",),
}
"""Options of `m2g-audit batch` beside model, steps and guidance; folders are the stranger's."""

SINCE = (
    "The rule was committed before B's truth and audits were made (`Judge the report's other "
    "thresholds by the shares among 16`); B was audited once. Changed since: what planted copies "
    "set, near-duplicates and thresholds of under 500 pictures, is at most the published rule of "
    "thumb. Here 90% of them lie within 0.04 of S, where that is 0.15, so that nothing changes."
)
"""What was changed of the rule after B was audited."""


@dataclass(frozen=True)
class CaptionTruth:
    """The true shares of one caption by one metric, at |S'| = 16.

    half, twice: memorized, spurious, generalized with both thresholds at half and at twice.
    """

    caption: str
    k: int
    metric: str
    memorized: float
    spurious: float
    generalized: float
    half: tuple[float, float, float]
    twice: tuple[float, float, float]
    delta_m: float
    delta_s: float
    nearer_to_s: float | None

    @property
    def word(self) -> str:
        """The verdict that these shares give."""
        return label(self.memorized, self.spurious, self.generalized).value

    @property
    def kind(self) -> str:
        """What a goal is stated for: at least 90% copies, at least 90% new, or neither."""
        if self.memorized >= 0.9:
            return "copies"
        return "new" if self.generalized >= 0.9 else "between"


def main() -> None:
    """Measures truth, or audits, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["truth", "audit", "cost", "table"])
    parser.add_argument("stranger", choices=list(STRANGERS))
    parser.add_argument("--work", type=Path, default=Path("runs/strangers"))
    parser.add_argument("--modes", nargs="*", default=list(MODES))
    asked = parser.parse_args()
    stranger = STRANGERS[asked.stranger]
    folder = asked.work / stranger.name
    if asked.what == "truth":
        measure_truth(folder, stranger)
        return
    if asked.what == "cost":
        measure_cost(folder, stranger)
    if asked.what == "audit":
        for mode in asked.modes:
            audit(folder, stranger, mode)
    text, content = table(folder, stranger)
    (RESULTS / f"strangers_{stranger.name}.md").write_text(text)
    (RESULTS / f"strangers_{stranger.name}.json").write_text(json.dumps(content, indent=1) + "\n")
    print(text)


# -- truth


def measure_truth(folder: Path, stranger: Stranger) -> None:
    """Writes `truth.json`: the shares of each caption, by both metrics."""
    pipeline = load_model(folder / "tuned")
    captions = taught(stranger)
    rows = [asdict(row) for name in METRICS for row in truths(folder, stranger, pipeline, name)]
    (folder / "truth.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(Counter(CaptionTruth(**row).word for row in rows[: len(captions)]))


def truths(
    folder: Path, stranger: Stranger, pipeline: TextToImage, name: str
) -> list[CaptionTruth]:
    """The truth of all captions by one metric."""
    metric, captions = load_metric(name), taught(stranger)
    known = metric.embed(seen(pipeline, [row for c in captions for row in c.rows]))
    fresh = {c: metric.embed(seen(pipeline, fresh_rows(c))) for c in {c.label for c in captions}}
    found = []
    for caption in captions:
        images = samples(folder, stranger, pipeline, caption.text)
        thresholds = own_thresholds(metric, fresh[caption.label], known)
        found.append(caption_truth(metric, pipeline, caption, images, thresholds, known, fresh))
        print(found[-1], flush=True)
    return found


def seen(pipeline: TextToImage, rows: Sequence[int] | np.ndarray) -> Tensor:
    """Pictures as the model can show them, uint8 [n, 3, h, w]."""
    images = torch.from_numpy(pictures_of(rows)).permute(0, 3, 1, 2).float() / 255
    return to_levels(pipeline.round_trip(images, batch_size=128))


def samples(folder: Path, stranger: Stranger, pipeline: TextToImage, text: str) -> Tensor:
    """SAMPLES pictures of a caption, uint8; kept and read again."""
    kept = folder / "truth" / f"{text.replace(' ', '-')}.npz"
    if not kept.exists():
        made = pipeline.generate(
            text,
            [seed_for(TRUTH_SEED, text, i) for i in range(SAMPLES)],
            steps=stranger.steps,
            guidance=stranger.guidance,
            batch_size=128,
        )
        kept.parent.mkdir(exist_ok=True)
        np.savez_compressed(kept, images=to_levels(made.images).numpy())
    with np.load(kept) as stored:
        return torch.from_numpy(stored["images"])


def own_thresholds(metric: Metric, fresh: Tensor, known: Tensor) -> Thresholds:
    """The thresholds of a caption: from fresh photographs of its class."""
    groups = [g for g in fresh.split(S_PRIME) if len(g) == S_PRIME]
    among = np.concatenate([nearest(metric, g, g, exclude_self=True)[0][:, 0] for g in groups])
    to_known = nearest(metric, fresh, known)[0][:, 0]
    return fresh_thresholds(metric.name, to_known, among, source="fresh photographs of the class")


def caption_truth(
    metric: Metric,
    pipeline: TextToImage,
    caption: Taught,
    images: Tensor,
    thresholds: Thresholds,
    known: Tensor,
    fresh: dict[int, Tensor],
) -> CaptionTruth:
    """The truth of one caption from its samples."""
    embedded = metric.embed(images)
    own = None
    if caption.k:
        unseen = fresh[caption.label][: caption.k]
        training = metric.embed(seen(pipeline, caption.rows[: len(unseen)]))
        own = (
            nearest(metric, embedded, training)[0][:, 0],
            nearest(metric, embedded, unseen)[0][:, 0],
        )
    to_known = nearest(metric, embedded, known)[0][:, 0]
    failed = is_failed(images.float() / 255)
    pairs = distances(metric, embedded, embedded)
    found = Seen(to_known, np.full(len(images), np.inf), own, pairs, failed)
    shares, half, twice = (found.shares(thresholds.scaled(f)) for f in (1.0, 0.5, 2.0))
    assert thresholds.delta_m is not None
    assert thresholds.delta_s is not None
    return CaptionTruth(
        caption=caption.text,
        k=caption.k,
        metric=metric.name,
        memorized=shares.memorized,
        spurious=shares.spurious,
        generalized=shares.generalized,
        half=(half.memorized, half.spurious, half.generalized),
        twice=(twice.memorized, twice.spurious, twice.generalized),
        delta_m=thresholds.delta_m,
        delta_s=thresholds.delta_s,
        nearer_to_s=found.nearer_to_own(thresholds),
    )


# -- audits


def audit(folder: Path, stranger: Stranger, mode: str) -> None:
    """Runs `m2g-audit batch` on all captions, as a user would; goes on where it stopped."""
    words = [sys.executable, "-c", "from m2g_audit.cli import main; main()"]
    words += ["batch", "captions.csv", "--model", "tuned", "--seed", str(AUDIT_SEED)]
    words += ["--steps", str(stranger.steps), "--guidance", str(stranger.guidance)]
    words += ["--spectrum", "none", "--yes", "--out", f"audits/{_slug(mode)}", *MODES[mode]]
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _slug(mode: str) -> str:
    return "-".join(mode.replace(",", "").replace("--", "").split())


def measure_cost(folder: Path, stranger: Stranger) -> None:
    """Writes `cost.json`: seconds of thresholds, probe and power, and of a prompt's pictures.

    With an empty cache but for the reference's own round trip through the VAE.
    """
    texts = [caption.text for caption in taught(stranger)][:COSTED]
    options = AuditOptions(
        model=str(folder / "tuned"),
        reference=str(folder / "reference"),
        reference_complete=True,
        steps=stranger.steps,
        guidance=stranger.guidance,
    )
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ["M2G_CACHE"] = cache
        setup = set_up(options)
        assert setup.contents is not None
        reference = load_folder(setup.contents, setup.pipeline, complete=True)
        started = time.perf_counter()
        find_yardstick(setup, reference, None, texts, silent)
        gathered = time.perf_counter() - started
    for text in texts:
        started = time.perf_counter()
        setup.pipeline.generate(
            text,
            list(range(S_PRIME)),
            steps=stranger.steps,
            guidance=stranger.guidance,
            batch_size=S_PRIME,
        )
        seconds.append(time.perf_counter() - started)
    found = {"thresholds": gathered, "a prompt": float(np.median(seconds))}
    (folder / "cost.json").write_text(json.dumps(found) + "\n")


# -- the table


def table(folder: Path, stranger: Stranger) -> tuple[str, dict[str, object]]:
    """The result as Markdown, and as JSON values."""
    truth = [CaptionTruth(**row) for row in json.loads((folder / "truth.json").read_text())]
    by_metric = {
        name: {row.caption: row for row in truth if row.metric == name} for name in METRICS
    }
    lines = [
        f"# Stranger {stranger.name}: verdicts on a model that the program does not know",
        "",
        f"{len(by_metric['tiled_l2'])} captions, 16 seeds each (run seed {AUDIT_SEED}) unless said "
        f"otherwise, {stranger.steps} steps, guidance {stranger.guidance:g}. Truth: {SAMPLES} "
        "other samples a caption against S, thresholds of each caption's own class from fresh "
        "photographs, duplicates among 16.",
        "",
        *([SINCE, ""] if stranger.name == "B" else []),
        *_truth_lines(list(by_metric["tiled_l2"].values())),
        "## Audits",
        "",
        "Copies: captions with at least 90% memorized samples in truth; new: with at least 90% "
        "generalized. Wrong: a word that contradicts the truth's, `attractor` for a generalized "
        "one included. Thresholds: delta_m, delta_s, or delta_s alone.",
        "",
        "| mode | thresholds | copies `memorized` | copies `generalized` | new `generalized` "
        "| truth's word | wider | undecided | wrong | seeds a prompt |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    content: dict[str, object] = {"truth": [asdict(row) | {"word": row.word} for row in truth]}
    audits = {}
    for mode in MODES:
        run = folder / "audits" / _slug(mode)
        if not (run / "records.jsonl").exists():
            continue
        records = [record for record in StoredRun.read(run).records() if record.error is None]
        known = by_metric[records[0].settings.metric]
        lines.append(_row(mode, records, known))
        audits[mode] = [
            {
                "caption": r.prompt,
                "k": known[r.prompt].k,
                "truth": known[r.prompt].word,
                "verdict": r.verdict.state,
                "seeds": len(r.seeds),
                "withheld": r.verdict.withheld,
            }
            for r in records
        ]
        content[f"findings, {mode}"] = records[0].findings and records[0].findings.model_dump()
        content[f"thresholds, {mode}"] = (
            records[0].thresholds and records[0].thresholds.model_dump()
        )
    content["audits"] = audits
    if (folder / "cost.json").exists():
        cost = json.loads((folder / "cost.json").read_text())
        content["cost"] = cost
        share = cost["thresholds"] / (100 * cost["a prompt"])
        lines += [
            "",
            f"Thresholds, probe and power with the reference, nothing kept from before: "
            f"{cost['thresholds']:.0f} s, {share:.1%} of what the pictures of 100 prompts take.",
        ]
    return "\n".join(lines) + "\n", content


def _truth_lines(rows: Sequence[CaptionTruth]) -> list[str]:
    lines = [
        "## Truth (tiled_l2)",
        "",
        "| K | captions | memorized | spurious | generalized | at half | at twice | spurious "
        "samples nearer to S |",
        "| ---: | ---: | ---: | ---: | ---: | --- | --- | ---: |",
    ]
    for k in sorted({row.k for row in rows}):
        group = [row for row in rows if row.k == k]
        means = [np.mean([getattr(r, s) for r in group]) for s in _STATES]
        half, twice = (np.mean([getattr(r, s) for r in group], axis=0) for s in ("half", "twice"))
        near = [(r.nearer_to_s, r.spurious) for r in group if r.nearer_to_s is not None]
        share = ""
        if near:
            values, weights = zip(*near, strict=True)
            share = f"{np.average(values, weights=weights):.0%}"
        lines.append(
            f"| {k or 'never trained'} | {len(group)} | "
            + " | ".join(f"{m:.0%}" for m in means)
            + f" | {_slashed(half)} | {_slashed(twice)} | {share} |"
        )
    return [*lines, ""]


_STATES = ("memorized", "spurious", "generalized")


def _slashed(shares: np.ndarray) -> str:
    return "/".join(f"{share:.0%}" for share in shares)


def _row(mode: str, records: Sequence[AuditRecord], truth: dict[str, CaptionTruth]) -> str:
    pairs = [(truth[record.prompt], record.verdict.state) for record in records]
    copies = [state for row, state in pairs if row.kind == "copies"]
    new = [state for row, state in pairs if row.kind == "new"]
    same = sum(state == row.word for row, state in pairs)
    wider = sum(_is_wider(row.word, state) for row, state in pairs)
    undecided = sum(state == "undecided" for _, state in pairs)
    wrong = (
        len(pairs)
        - same
        - wider
        - undecided
        + sum(state == row.word == "undecided" for row, state in pairs)
    )
    thresholds = records[0].thresholds
    assert thresholds is not None
    delta_m = "" if thresholds.delta_m is None else f"{thresholds.delta_m:.3f}, "
    seeds = np.mean([len(record.seeds) for record in records])
    return (
        f"| {mode} | {thresholds.rule}: {delta_m}{thresholds.delta_s:.3f} "
        f"| {_of(copies, 'memorized')} | {_of(copies, 'generalized')} | {_of(new, 'generalized')} "
        f"| {same} | {wider} | {undecided} | {wrong} | {seeds:.1f} |"
    )


def _is_wider(truth: str, said: str) -> bool:
    return truth != said and said in ("attractor", "collapsed") and truth != "generalized"


def _of(states: Sequence[str], word: str) -> str:
    count = sum(state == word for state in states)
    if not states:
        return "0 of 0"
    low, high = (getattr(clopper_pearson(count, len(states)), end) for end in ("low", "high"))
    return f"{count} of {len(states)} ({low:.0%} to {high:.0%})"


if __name__ == "__main__":
    main()
