"""A batch's folder without a model: pictures of the pocket world, states given seed by seed."""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from m2g_audit import states, words
from m2g_audit.batch_directory import BatchDirectory, BatchRecord
from m2g_audit.intervals import attractor_mass, undetected_mass, unseen_mass
from m2g_audit.pocket.captions import all_captions
from m2g_audit.pocket.world import pictures
from m2g_audit.prompt_list import Entry, from_python
from m2g_audit.records import (
    AttractorRecord,
    CurvatureRecord,
    ErrorRecord,
    IntervalRecord,
    NearestReference,
    NearestSample,
    SeedRecord,
    VerdictRecord,
)
from tests.samples import sample_record

IDENTITY = {"model": "pocket", "seeds": 16, "guidance": 3.0}
_N = 768


@dataclass(frozen=True)
class Made:
    """A prompt and what each seed gives: `t3` is training picture 3, `s1` one that repeats and is
    in no training set, `f` a new one; `error` makes the prompt fail."""

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


def make_run(
    folder: Path, made: Iterable[Made] = RELEASE, *, identity: dict[str, Any] | None = None
) -> Path:
    """Write the folder of a finished batch of these prompts, and return it."""
    prompts = list(made)
    rows = [
        {"caption": one.prompt, **({"label": one.label} if one.label else {}), **one.extra}
        for one in prompts
    ]
    listed = from_python(rows)
    batch = BatchDirectory.open(folder, identity or IDENTITY, listed)
    for one, entry in zip(prompts, listed.entries, strict=True):
        batch.log.append(_record(batch, one, entry))
    return folder


def _record(batch: BatchDirectory, made: Made, entry: Entry) -> BatchRecord:
    base = sample_record()
    fields = {name: getattr(base, name) for name in type(base).model_fields}
    folder = batch.path / batch.folder(entry)
    fields |= {"prompt": made.prompt, "curvature": [], "warnings": [], "attractors": []}
    fields |= {"seeds": [], "loose": [], "unseen": None, "collision": None}
    seeds = len(made.gives) or 2
    fields["settings"] = base.settings.model_copy(
        update={"seeds": seeds, "asked": {"model": "pocket", "seeds": seeds}}
    )
    if made.error:
        fields["error"] = ErrorRecord(kind="NumericsError", message=made.error, exit_code=5)
    else:
        fields |= _findings(made, folder, fields)
    return BatchRecord(
        **fields,
        listed=entry.model_dump(exclude={"prompt"}),
        folder=batch.folder(entry),
        evaluations={"images": 480},
    )


def _findings(made: Made, folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    names = [f"f{i}" if name == "f" else name for i, name in enumerate(made.gives)]
    n = len(names)
    distances = _write_pictures(made, names, folder)
    members = defaultdict(list)
    for i, name in enumerate(names):
        members[name].append(i)
    groups = sorted((g for g in members.values() if len(g) > 1), key=len, reverse=True)
    found = {i: number for number, group in enumerate(groups) for i in group}
    state = {"t": "memorized", "s": "spurious", "f": "generalized"}
    words_of = [
        "generalized" if name[0] == "s" and i not in found else state[name[0]]
        for i, name in enumerate(names)
    ]
    seeds = [
        SeedRecord(
            index=i,
            generator_seed=zlib.crc32(f"{made.prompt} {i}".encode()),
            state=words_of[i],  # type: ignore[arg-type]
            image=f"images/{i:04d}.png",
            attractor=found.get(i),
            nearest_sample=_nearest(distances, i),
            nearest_reference=_reference(name),
        )
        for i, name in enumerate(names)
    ]
    attractors = [
        AttractorRecord(
            mass=_interval(attractor_mass(len(group), n)),
            seeds=group,
            medoid=group[0],
            diameter=float(distances[np.ix_(group, group)].max()),
            state=words_of[group[0]],  # type: ignore[arg-type]
            nearest_reference=_reference(names[group[0]]),
        )
        for group in groups
    ]
    n_duplicates = [len(members[name]) - 1 for name in names]
    missed = undetected_mass(n)
    word, shares = states.verdict(
        [states.State(one) for one in words_of],
        undetected_mass=missed,
        has_reference=True,
        reference_complete=True,
        n_duplicates=n_duplicates,
    )
    pairs = sum(len(group) == 2 for group in groups)
    unseen = _interval(unseen_mass(sum(k == 0 for k in n_duplicates), pairs, n))
    said = words.Findings(
        word=word.value,  # type: ignore[arg-type]
        shares={one.value: _interval(share) for one, share in shares.items()},
        level=0.95,
        undetected_mass=missed,
        undetected_limit=states.UNDETECTED_LIMIT,
        seeds=seeds,
        attractors=attractors,
        loose=[],
        unseen=unseen,
        thresholds=fields["thresholds"],
        reference=fields["reference"],
        wording=fields["wording"],
        curvature=(curvature := _curvature(words_of, found)),
    )
    verdict = VerdictRecord(
        state=said.word,
        summary=words.summary(said),
        evidence=words.evidence(said),
        fractions=said.shares,
        level=0.95,
        undetected_mass=missed,
    )
    return {
        "verdict": verdict,
        "seeds": seeds,
        "attractors": attractors,
        "unseen": unseen,
        "curvature": curvature,
    }


def _write_pictures(made: Made, names: Sequence[str], folder: Path) -> np.ndarray:
    """Write a prompt's pictures and their distances; copies differ by a little noise."""
    caption = all_captions()[made.caption]
    rng = np.random.default_rng(zlib.crc32(made.prompt.encode()))
    streams = {"t": "training", "s": "control", "f": "fresh"}
    (folder / "images").mkdir(parents=True)
    (folder / "reference").mkdir()
    drawn = []
    for i, name in enumerate(names):
        number = int(name[1:])
        [clean] = pictures(caption, streams[name[0]], [number])  # type: ignore[arg-type]
        levels = clean + rng.normal(0, 3, clean.shape)
        image = np.clip(levels, 0, 255).round().astype(np.uint8)
        Image.fromarray(image).save(folder / f"images/{i:04d}.png")
        if name[0] == "t":
            Image.fromarray(clean).save(folder / f"reference/{number:04d}.png")
        drawn.append(image.reshape(-1) / 255)
    flat = np.array(drawn)
    distances = np.sqrt(((flat[:, None] - flat[None]) ** 2).mean(-1))
    save_file({"samples": distances}, folder / "distances.safetensors")
    return distances


def _nearest(distances: np.ndarray, i: int) -> NearestSample:
    others = distances[i].copy()
    others[i] = np.inf
    return NearestSample(index=int(others.argmin()), distance=float(others.min()))


def _reference(name: str) -> NearestReference | None:
    if name[0] != "t":
        return None
    number = int(name[1:])
    return NearestReference(
        name=f"training picture {number}", distance=0.012, image=f"reference/{number:04d}.png"
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
