"""What a fine-tune gives back of its training set: which pictures, how often, and what to do.

Made of the records of a batch whose prompts try a training set (prompts/training_set.py), and of
those of its base for the same seeds. A picture of S comes back where a generation is `memorized`
and it is the nearest one. One that came back twice is confirmed, and so is one that came back once
at half of delta_m: at 1% false alarms among a thousand pictures some ten lie within delta_m by
chance, but hardly two of them at one training picture. What the base gives as often is not
confirmed: it never saw the training set.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from m2g_audit.errors import OutputError
from m2g_audit.files import write_atomically
from m2g_audit.foreign_files import read_file
from m2g_audit.prompts import Entry
from m2g_audit.records.part import Part
from m2g_audit.records.record import Distance, Index, IntervalRecord, Share
from m2g_audit.records.vocabulary import PromptKind
from m2g_audit.store.batch_directory import BatchDirectory, BatchRecord

FINETUNE_FILE = "finetune.json"
FINETUNE_VERSION = "1.0"
MIRRORED = " (mirrored)"
"""What the names of a reference's mirrored pictures end in."""

Word = Literal["gives back", "nothing found", "undecided"]

_KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
_TWICE = 2
_NEAR = 0.5  # of delta_m
_MISSED = 0.05


class ReturnedPicture(Part):
    """A picture of the training set that came back."""

    name: str
    """Its name in the training set."""
    caption: str | None
    """Its own caption; null for one without."""
    confirmed: bool
    """Whether this is no false alarm: it came back twice, or once at half of delta_m, and the base
    does not give it as often."""
    seeds: Index
    """How many generations were copies of it."""
    prompts: Index
    """Of how many prompts these were."""
    kinds: dict[PromptKind, Index]
    """Generations by how their prompt stands to what was trained."""
    own: IntervalRecord | None
    """Its share of the seeds of its own caption; null where that was not audited."""
    distance: Distance
    """Of the nearest generation, in the run's metric."""
    margin: Distance | None
    """The distance over delta_m."""
    prompt: str
    """The prompt of the nearest generation."""
    generation: str
    """The nearest generation, relative to the batch's folder."""
    picture: str | None
    """A copy of the training picture, relative to the batch's folder."""
    base_seeds: Index | None
    """How often the base gave it, for the seeds that gave it here; null without a base."""
    base_distance: Distance | None
    """How near the base came to the training set with these seeds; null without a base."""


class KindCount(Part):
    """What prompts of one kind gave."""

    prompts: Index
    """How many have a verdict."""
    generations: Index
    """How many pictures were made, failed ones not counted."""
    copies: Index
    """How many of them are copies of training pictures."""
    pictures: Index
    """How many training pictures these are copies of."""


class FinetuneSummary(Part):
    """What a fine-tune gives back of its training set."""

    schema_version: str = FINETUNE_VERSION
    """Of this schema."""
    word: Word
    """gives back: a picture is confirmed to come back; nothing found: none does, and it would have
    been seen; undecided: anything else."""
    summary: str
    """The same in a sentence or two."""
    data: str
    """Where the training set lies."""
    pictures: Index
    """How many pictures it has."""
    tried: Index
    """How many of them have a caption that was audited."""
    seeds: Index
    """How many seeds a prompt got at most."""
    extractable: IntervalRecord | None
    """The share of the pictures tried that come back, confirmed, under this protocol: with so many
    seeds of each caption. The interval is of what other seeds would give; null if none was
    tried."""
    base: str | None
    """The model that was asked for the same seeds; null without one."""
    kinds: dict[PromptKind, KindCount]
    """What was given, by how the prompt stands to what was trained."""
    returned: list[ReturnedPicture]
    """Pictures that came back, nearest first, those that may be false alarms too."""
    advice: list[str]
    """What to do, a sentence each."""
    notices: list[str]
    """What to keep in mind, a sentence each."""


@dataclass
class _Seen:
    """The generations that came back as one picture, nearest first: record, seed and distance."""

    hits: list[tuple[float, BatchRecord, int]] = field(default_factory=list)
    kinds: Counter[PromptKind] = field(default_factory=Counter)


def summarise_finetune(
    directory: BatchDirectory,
    captions: Mapping[str, str | None],
    data: str,
    *,
    base: tuple[str, BatchDirectory] | None = None,
    notices: Sequence[str] = (),
) -> FinetuneSummary:
    """Return what a batch on a training set shows about its pictures.

    Args:
        directory: Of the batch; the label of each entry is its PromptKind.
        captions: Of every picture of the training set by name.
        data: Where it lies.
        base: The base's name and its batch, if it was asked for the same seeds.
        notices: What was noticed before.
    """
    records = [r for r in directory.records() if r.error is None]
    seen: dict[str, _Seen] = defaultdict(_Seen)
    counts = {kind: [0, 0, 0] for kind in _KINDS}
    for record in records:
        kind = _kind(record)
        made = [seed for seed in record.seeds if seed.state != "failed"]
        copies = list(_copies(record))
        for total, more in enumerate((1, len(made), len(copies))):
            counts[kind][total] += more
        for name, distance, index in copies:
            seen[name].hits.append((distance, record, index))
            seen[name].kinds[kind] += 1
    for one in seen.values():
        one.hits.sort(key=lambda hit: hit[0])
    own = _own_prompts(directory.entries, records)
    asked = {} if base is None else {r.listed.id: r for r in base[1].records() if r.error is None}
    returned = [
        _returned(name, one, captions.get(name), own.get(name), None if base is None else asked)
        for name, one in seen.items()
    ]
    returned.sort(key=lambda picture: picture.distance)
    tried = sum(name in own for name in captions)
    kinds = {
        kind: KindCount(
            prompts=n,
            generations=made,
            copies=copies,
            pictures=sum(one.kinds[kind] > 0 for one in seen.values()),
        )
        for kind, (n, made, copies) in counts.items()
    }
    last = records[-1] if records else None
    seeds = max((len(record.seeds) for record in records), default=0)
    confirmed = [picture for picture in returned if picture.confirmed]
    said = list(notices) + _doubts(directory, records)
    word = _word(returned, last, complete=len(records) == len(directory.entries))
    extractable = _extractable(sum(picture.name in own for picture in confirmed), tried)
    return FinetuneSummary(
        word=word,
        summary=_sentence(word, confirmed, returned, tried, seeds, extractable),
        data=data,
        pictures=len(captions),
        tried=tried,
        seeds=seeds,
        extractable=extractable,
        base=None if base is None else base[0],
        kinds=kinds,
        returned=returned,
        advice=_advice(word, confirmed, kinds, last, seeds),
        notices=said,
    )


def gave_back(directory: BatchDirectory, summary: FinetuneSummary) -> list[Entry]:
    """Return the prompts of a batch that gave a picture which is confirmed to come back."""
    names = {picture.name for picture in summary.returned if picture.confirmed}
    return _prompts_that_gave(directory, names.__contains__)


def gave_copies(directory: BatchDirectory) -> list[Entry]:
    """Return the prompts of a batch that gave copies, whose seeds the base is asked for."""
    return _prompts_that_gave(directory, lambda _: True)


def write_finetune(directory: BatchDirectory, summary: FinetuneSummary) -> Path:
    """Write finetune.json and return where it lies; OutputError where it can't be written."""
    path = directory.path / FINETUNE_FILE
    write_atomically(path, f"{summary.model_dump_json(indent=1)}\n".encode())
    return path


def read_finetune(folder: Path) -> FinetuneSummary | None:
    """Return what `write_finetune` left in a folder, None where there is nothing.

    Raises:
        OutputError: There is something else under its name.
    """
    try:
        return FinetuneSummary.model_validate_json(read_file(folder / FINETUNE_FILE))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise OutputError(
            f"{folder / FINETUNE_FILE} can't be read. Remove it; the same m2g-audit finetune "
            "writes it again."
        ) from error


def _kind(record: BatchRecord) -> PromptKind:
    label = record.listed.label
    return next((kind for kind in _KINDS if kind == label), "caption")


def _prompts_that_gave(directory: BatchDirectory, counts: Callable[[str], bool]) -> list[Entry]:
    """The prompts with a copy of a training picture that counts, by its name."""
    found = {
        record.listed.id
        for record in directory.records()
        if record.error is None and any(counts(name) for name, _, _ in _copies(record))
    }
    return [entry for entry in directory.entries if entry.id in found]


def _copies(record: BatchRecord) -> Iterable[tuple[str, float, int]]:
    """The training picture, distance and index of each generation that is a copy."""
    for seed in record.seeds:
        nearest = seed.nearest_reference
        if seed.state == "memorized" and nearest is not None:
            yield nearest.name.removesuffix(MIRRORED), nearest.distance, seed.index


def _own_prompts(
    entries: Sequence[Entry], records: Sequence[BatchRecord]
) -> dict[str, BatchRecord]:
    """The record of each picture's own caption, by the picture's name."""
    by_id = {record.listed.id: record for record in records}
    found = {}
    for entry in entries:
        if entry.label != "caption" or entry.id not in by_id:
            continue
        for beside in (entry.extra, *entry.repeated):
            found[str(beside.get("picture"))] = by_id[entry.id]
    return found


def _returned(
    name: str,
    seen: _Seen,
    caption: str | None,
    own: BatchRecord | None,
    base: Mapping[str, BatchRecord] | None,
) -> ReturnedPicture:
    distance, record, index = seen.hits[0]
    seed = record.seeds[index]
    nearest = seed.nearest_reference
    assert nearest is not None
    base_seeds = base_distance = None
    if base is not None:
        base_seeds, base_distance = _of_base(name, seen, base)
    return ReturnedPicture(
        name=name,
        caption=caption,
        confirmed=_is_confirmed(seen, nearest.margin, record, base_seeds),
        seeds=len(seen.hits),
        prompts=len({r.listed.id for _, r, _ in seen.hits}),
        kinds=dict(seen.kinds),
        own=None if own is None else _share(name, own),
        distance=distance,
        margin=nearest.margin,
        prompt=record.prompt,
        generation=f"{record.folder}/{seed.image}",
        picture=None if nearest.image is None else f"{record.folder}/{nearest.image}",
        base_seeds=base_seeds,
        base_distance=base_distance,
    )


def _is_confirmed(
    seen: _Seen, margin: float | None, record: BatchRecord, base_seeds: int | None
) -> bool:
    often = len(seen.hits) >= _TWICE or (margin is not None and margin <= _NEAR)
    measured = record.thresholds is not None and record.thresholds.calibrated
    return often and measured and (base_seeds is None or base_seeds < len(seen.hits))


def _of_base(
    name: str, seen: _Seen, base: Mapping[str, BatchRecord]
) -> tuple[int | None, float | None]:
    """How often the base gave a picture with the seeds that gave it here, and how near it came."""
    same = [
        base[record.listed.id].seeds[index].nearest_reference
        for _, record, index in seen.hits
        if record.listed.id in base and index < len(base[record.listed.id].seeds)
    ]
    found = [nearest for nearest in same if nearest is not None]
    if not found:
        return None, None
    given = sum(
        nearest.name.removesuffix(MIRRORED) == name
        and nearest.margin is not None
        and nearest.margin <= 1
        for nearest in found
    )
    return given, min(nearest.distance for nearest in found)


def _share(name: str, own: BatchRecord) -> IntervalRecord:
    copies = sum(found == name for found, _, _ in _copies(own))
    made = sum(seed.state != "failed" for seed in own.seeds)
    return _interval(copies, made)


def _extractable(confirmed: int, tried: int) -> IntervalRecord | None:
    """The share of pictures that come back.

    Pictures of unlike chances vary less in number than alike ones (Hoeffding 1956), and those of
    one caption share its seeds, so that the binomial interval errs to the safe side.
    """
    return _interval(confirmed, tried) if tried else None


def _interval(count: int, n: int) -> IntervalRecord:
    from m2g_audit.verdict.intervals import clopper_pearson

    return IntervalRecord.model_validate(clopper_pearson(count, n))


# -- words


def _word(returned: Sequence[ReturnedPicture], last: BatchRecord | None, *, complete: bool) -> Word:
    if any(picture.confirmed for picture in returned):
        return "gives back"
    would_be_seen = last is not None and last.power is not None and last.power.suffices
    measured = last is not None and last.thresholds is not None and last.thresholds.calibrated
    return (
        "nothing found"
        if would_be_seen and measured and complete and not returned
        else ("undecided")
    )


def _sentence(
    word: Word,
    confirmed: Sequence[ReturnedPicture],
    returned: Sequence[ReturnedPicture],
    tried: int,
    seeds: int,
    extractable: IntervalRecord | None,
) -> str:
    if word == "gives back":
        said = f"{_count(len(confirmed), 'training picture')} came back"
        if extractable is None:
            return f"{said}."
        return (
            f"{said}. Of the {tried:,} with a caption that was audited, {extractable.estimate:.1%} "
            f"({extractable.low:.1%} to {extractable.high:.1%}) do so with {seeds} seeds of each "
            "caption."
        )
    if word == "nothing found":
        return (
            f"None of {_count(tried, 'training picture')} came back with {seeds} seeds of each "
            f"caption. One that {_least_share(seeds):.0%} of its caption's seeds give would have "
            f"been seen ({1 - _MISSED:.0%} sure)."
        )
    if returned:
        return f"{_count(len(returned), 'training picture')} may have come back: not confirmed."
    return "No training picture came back, but one might not have been seen."


def _advice(
    word: Word,
    confirmed: Sequence[ReturnedPicture],
    kinds: Mapping[PromptKind, KindCount],
    last: BatchRecord | None,
    seeds: int,
) -> list[str]:
    if word == "nothing found":
        return [f"More seeds see rarer copies: --seeds 64 those of {_least_share(64):.0%}."]
    if word == "undecided":
        return [
            "Audit with more --seeds, and give --base, or --unseen pictures of the same kind: then "
            "thresholds are measured, and chance can be told from copies."
        ]
    said = ["Take an earlier checkpoint, or train for fewer steps, and audit that."]
    if last is not None and last.model.loras:
        said.append("Try a lower scale of the LoRA: the same command with --lora-scale 0.7.")
    if any(kinds[kind].copies for kind in ("recombined", "trigger", "empty")):
        said.append(
            "Copies came for prompts that were never trained too: all of the model has learned "
            "them, so that leaving out single pictures will not do."
        )
    else:
        said.append(
            "Copies came for trained captions only: more pictures to each of these captions, "
            "or captions that several pictures share, keep one from being all that they mean."
        )
    names = ", ".join(picture.name for picture in confirmed[:3])
    said.append(f"Leave out what must not come back, as {names}; it does not once it is unseen.")
    return said


def _doubts(directory: BatchDirectory, records: Sequence[BatchRecord]) -> list[str]:
    missing = len(directory.entries) - len(records)
    said = [f"{_count(missing, 'prompt')} failed or have no record yet."] if missing else []
    if records and records[-1].thresholds is not None and not records[-1].thresholds.calibrated:
        said.append(
            "The thresholds were not measured for these pictures, so nothing is confirmed: give "
            "--base, or --unseen pictures of the same kind."
        )
    return said


def _least_share(seeds: int) -> Share:
    """The share of its caption's seeds from which on a picture is seen once, 95% sure."""
    return 1 - _MISSED ** (1 / max(1, seeds))


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
