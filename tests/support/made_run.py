"""A batch's folder without a model: pictures of the pocket world, seed by seed, and judged."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from m2g_audit.pocket.captions import all_captions
from m2g_audit.pocket.world import pictures
from m2g_audit.prompts import Entry, from_python
from m2g_audit.records.record import (
    AttractorRecord,
    CurvatureRecord,
    ErrorRecord,
    FindingsRecord,
    IntervalRecord,
    NearestReference,
    NearestSample,
    PowerRecord,
    SeedRecord,
    ThresholdRecord,
    VerdictRecord,
)
from m2g_audit.store.batch_directory import BatchDirectory, BatchRecord
from m2g_audit.verdict.attractors import RepeatSeedCheck
from m2g_audit.verdict.intervals import Interval
from m2g_audit.verdict.looks import Look
from m2g_audit.verdict.rule import Grounds, Judgement, Samples, judge
from m2g_audit.verdict.sentences import worded
from m2g_audit.verdict.thresholds import LOOSE_ALPHA, STRICT_ALPHA, Thresholds
from tests.support.samples import interval, sample_record

IDENTITY = {"model": "pocket", "seeds": 16, "guidance": 3.0}
THRESHOLDS = ThresholdRecord(
    metric="l2",
    delta_m=0.05,
    delta_s=0.04,
    source="1% quantiles of the distance of 812 pictures of the reference to the rest of it, and "
    "of the nearest among 16 of the pictures",
    calibrated=True,
    controls=812,
    rule="leave-one-out",
    false_alarms=0.01,
    strict=(0.042, 0.031),
    loose=(0.061, 0.05),
    notes=["12 of 824 pictures of the reference near-duplicate another one of it."],
)
POWER = PowerRecord(
    to_reference=interval(0.98, 0.96, 1.0),
    between=interval(0.97, 0.94, 0.99),
    suffices=True,
    edits={"cropped to 90%": 0.31, "shifted by 4%": 0.12, "mirrored": 0.0, "JPEG at 75": 1.0},
)
_N = 768
_REFERENCE = 8


def findings(repeats: float, flagged: float) -> FindingsRecord:
    """Return what 16 control prompts with two seeds show, with intervals of 0.05 to each side."""
    shares = [interval(p, max(0, p - 0.05), min(1, p + 0.05)) for p in (repeats, flagged)]
    return FindingsRecord(
        prompts=16,
        seeds=2,
        repeats=shares[0],
        flagged=shares[1],
        contaminated=shares[1].low > 0.05,
        collapsed=shares[0].low > 0.5,
    )


@dataclass(frozen=True)
class Made:
    """A prompt and what each seed gives: `t3` is training picture 3, `s1` one that repeats and is
    in no training set, `f` a new one, `n3` is training picture 3 less and less well from seed to
    seed; `error` makes the prompt fail."""

    prompt: str
    gives: Sequence[str]
    label: str | None = None
    extra: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    caption: int = 0


def gives(**counts: int) -> list[str]:
    """Return what seeds give: `gives(t0=3, f=2)` is three times t0, and two new ones."""
    return [name for name, count in counts.items() for _ in range(count)]


RELEASE = (
    Made("a print of the old castle", gives(t0=16), "K = 1", caption=0),
    Made("a sketch of the snowy harbour", gives(t0=9, t1=7), "K = 2", caption=6),
    Made("a postcard of the quiet village", gives(t0=8, t1=5, t2=2, f=1), "K = 12", caption=25),
    Made("a print of the stormy garden", gives(t0=5, s1=6, s2=4, f=1), "K = 16", caption=33),
    Made("a painting of the snowy mountain", gives(s1=15, f=1), "K = 32", caption=40),
    Made("a poster of the quiet forest", gives(f=16), "pool", caption=55),
    Made("a photograph of the stormy desert", gives(f=14, s1=2), "pool", caption=58),
    Made("a sketch of the golden lighthouse", gives(f=9, t0=3, s1=4), "pool", caption=61),
    Made("a print of the moonlit village", [], "pool", error="None of the pictures is finite."),
)

HANGING = Made("a print of the frozen lake", gives(n0=16), "K = 4", caption=10)
"""Near copies, of which the null's other quantiles take all, or none, for copies."""


def make_run(
    folder: Path,
    made: Iterable[Made] = RELEASE,
    *,
    identity: dict[str, Any] | None = None,
    **fields: Any,
) -> Path:
    """Write the folder of a finished batch of these prompts, and return it.

    fields: of every record, in place of those of a model with thresholds and power.
    """
    prompts = list(made)
    rows = [
        {"caption": one.prompt, **({"label": one.label} if one.label else {}), **one.extra}
        for one in prompts
    ]
    listed = from_python(rows)
    batch = BatchDirectory.open(folder, identity or IDENTITY, listed)
    for one, entry in zip(prompts, listed.entries, strict=True):
        batch.log.append(_record(batch, one, entry, fields))
    return folder


def _record(batch: BatchDirectory, made: Made, entry: Entry, given: dict[str, Any]) -> BatchRecord:
    base = sample_record()
    fields = {name: getattr(base, name) for name in type(base).model_fields}
    folder = batch.path / batch.folder(entry)
    fields |= {"prompt": made.prompt, "curvature": [], "warnings": [], "attractors": []}
    fields |= {"seeds": [], "loose": [], "unseen": None, "collision": None}
    seeds = len(made.gives) or 2
    fields["settings"] = base.settings.model_copy(
        update={"seeds": seeds, "asked": {"model": "pocket", "seeds": seeds}}
    )
    fields |= {"thresholds": THRESHOLDS, "power": POWER, **given}
    if made.error:
        fields["error"] = ErrorRecord(kind="NumericsError", message=made.error, exit_code=5)
    else:
        fields |= _findings(made, folder, fields)
    record = BatchRecord(
        **fields,
        listed=entry.model_dump(exclude={"prompt"}),
        folder=batch.folder(entry),
        evaluations={"images": 480},
    )
    return record if made.error else worded(record)


def _findings(made: Made, folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    names = [f"f{i}" if name == "f" else name for i, name in enumerate(made.gives)]
    samples, matches = _write_pictures(made, names, folder)
    thresholds: ThresholdRecord = fields["thresholds"]
    judgement = _judge(samples, fields)
    check = judgement.reading.check
    home = {i: k for k, a in enumerate(check.attractors) for i in a.members}
    states = [state.value for state in judgement.reading.states]
    seeds = [
        SeedRecord(
            index=i,
            generator_seed=zlib.crc32(f"{made.prompt} {i}".encode()),
            state=states[i],  # type: ignore[arg-type]
            image=f"images/{i:04d}.png",
            attractor=home.get(i),
            chance=float(judgement.reading.chances[i]),
            nearest_sample=_nearest(samples.pairs, i, thresholds),
            nearest_reference=None if fields["reference"] is None else matches[i],
        )
        for i in range(len(names))
    ]
    attractors = _attractors(check, seeds)
    unseen = _interval(check.unseen)
    verdict = VerdictRecord(
        state=judgement.word.value,
        summary="",
        evidence=[],
        fractions={s.value: _interval(i) for s, i in judgement.reading.shares.intervals.items()},
        level=0.95,
        undetected_mass=check.undetected_mass,
        withheld=[doubt.value for doubt in judgement.withheld],
        strict=judgement.strict and judgement.strict.value,
        loose=judgement.loose and judgement.loose.value,
        hangs_on_threshold=judgement.hangs_on_threshold,
    )
    return {
        "verdict": verdict,
        "seeds": seeds,
        "attractors": attractors,
        "loose": list(check.loose),
        "unseen": unseen,
        "curvature": _curvature(states, home),
    }


def _judge(samples: Samples, fields: dict[str, Any]) -> Judgement:
    record: ThresholdRecord = fields["thresholds"]
    others = {STRICT_ALPHA: record.strict, LOOSE_ALPHA: record.loose}
    thresholds = Thresholds(
        record.metric,
        record.delta_m,
        record.delta_s,
        record.source,
        record.controls or 0,
        record.calibrated,
        ratio=record.ratio,
        others={alpha: pair for alpha, pair in others.items() if pair is not None},
    )
    model: FindingsRecord | None = fields["findings"]
    collapse = None
    if model is not None and model.collapsed:
        share = model.repeats
        collapse = Interval(share.estimate, share.low, share.high, 0.98, "made")
    grounds = Grounds(
        reference_complete=fields["reference"] is not None and fields["reference"].complete,
        power=None if fields["power"] is None else fields["power"].suffices,
        collapse=collapse,
    )
    if fields["reference"] is None:
        samples = Samples(samples.pairs, None, samples.failed)
    return judge(samples, thresholds, Look(len(samples.failed)), grounds)


def _attractors(check: RepeatSeedCheck, seeds: Sequence[SeedRecord]) -> list[AttractorRecord]:
    return [
        AttractorRecord(
            mass=_interval(found.mass),
            seeds=list(found.members),
            medoid=found.medoid,
            diameter=found.diameter,
            state=seeds[found.medoid].state,
            nearest_reference=seeds[found.medoid].nearest_reference,
        )
        for found in check.attractors
    ]


def _write_pictures(
    made: Made, names: Sequence[str], folder: Path
) -> tuple[Samples, list[NearestReference]]:
    """Write a prompt's pictures and their distances; copies differ by a little noise.

    Its reference are the first training pictures of its caption.
    """
    caption = all_captions()[made.caption]
    rng = np.random.default_rng(zlib.crc32(made.prompt.encode()))
    streams = {"t": "training", "n": "training", "s": "control", "f": "fresh"}
    (folder / "images").mkdir(parents=True)
    (folder / "reference").mkdir()
    drawn = []
    for i, name in enumerate(names):
        [clean] = pictures(caption, streams[name[0]], [int(name[1:])])  # type: ignore[arg-type]
        levels = clean + rng.normal(0, 11 + i / 4 if name[0] == "n" else 3, clean.shape)
        image = np.clip(levels, 0, 255).round().astype(np.uint8)
        Image.fromarray(image).save(folder / f"images/{i:04d}.png")
        drawn.append(image.reshape(-1) / 255)
    training = pictures(caption, "training", range(_REFERENCE))
    flat, known = np.array(drawn), np.array([one.reshape(-1) / 255 for one in training])
    distances = np.sqrt(((flat[:, None] - flat[None]) ** 2).mean(-1))
    save_file({"samples": distances}, folder / "distances.safetensors")
    to_reference = np.sqrt(((flat[:, None] - known[None]) ** 2).mean(-1))
    nearest = to_reference.argmin(axis=1)
    for number in set(nearest.tolist()):
        Image.fromarray(training[number]).save(folder / f"reference/{number:04d}.png")
    found = to_reference.min(axis=1)
    matches = [
        NearestReference(
            name=f"training picture {number}",
            distance=float(distance),
            margin=float(distance) / 0.05,
            image=f"reference/{number:04d}.png",
        )
        for number, distance in zip(nearest.tolist(), found, strict=True)
    ]
    return Samples(distances, found, np.zeros(len(names), dtype=bool)), matches


def _nearest(distances: np.ndarray, i: int, thresholds: ThresholdRecord) -> NearestSample:
    others = distances[i].copy()
    others[i] = np.inf
    delta_s = thresholds.delta_s
    assert delta_s is not None
    return NearestSample(
        index=int(others.argmin()), distance=float(others.min()), margin=others.min() / delta_s
    )


def _curvature(states_of: Sequence[str], found: dict[int, int]) -> list[CurvatureRecord]:
    """Return one spectrum a state: flat for memorized samples, falling for the others."""
    falls = {"memorized": 0.15, "spurious": 0.55, "generalized": 1.4}
    entries = []
    for state, fall in falls.items():
        if state not in states_of:
            continue
        image = states_of.index(state)
        values = 1.15 * np.exp(-fall * np.linspace(0, 1, _N)) * np.linspace(1, 0.8, _N) ** 2
        entries.append(
            CurvatureRecord(
                image=image,
                state=state,  # type: ignore[arg-type]
                attractor=found.get(image),
                t0=5,
                kind="jacobian",
                score="conditional",
                algorithm="fast",
                scale=194.0,
                median=float(np.median(values)),
                rank=int((values > 0.5).sum()),
                evaluations=77,
                file=f"curvature/{image:04d}.safetensors",
                singular_values=values.tolist(),
            )
        )
    return entries


def _interval(found: Any) -> IntervalRecord:
    return IntervalRecord(
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        level=found.level,
        method=found.method,
    )


def prompts_in(folder: Path) -> list[str]:
    """Return the prompts of a batch's folder in the order of the list."""
    lines = (folder / "prompts.jsonl").read_text().splitlines()
    return [json.loads(line)["prompt"] for line in lines]
