"""What a run of many prompts found, in sentences that need no paper: the first thing a report says.

Every sentence and number comes from the records; nothing is measured here.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Literal

from m2g_audit.records.distances import said_of
from m2g_audit.records.record import AuditRecord, NearestReference, SeedRecord
from m2g_audit.review.gate import badness
from m2g_audit.store.batch_directory import BatchRecord

Kind = Literal["copies", "inferred", "repeats", "some", "unclear", "new"]
"""What a prompt gives, the worst first: training pictures; what spectra take for them; repeats in
most pictures or in a group that prevails over no other; some, while most are new or nothing was
decided; nothing that repeats, yet not cleared; new pictures."""

_WORST_FIRST: tuple[Kind, ...] = ("copies", "inferred", "repeats", "some", "unclear", "new")
_OWN = frozenset({"memorized", "spurious", "attractor", "unsure"})
_MAY_MATCH = _OWN - {"spurious"}
_ENOUGH_NEW = 10  # pictures, for a median


def kind(record: AuditRecord) -> Kind:
    """Return what the prompt of a finished record gives.

    A picture that matches the reference once may do so by chance, so that it counts as `some`; a
    group of seeds that gives the same training picture is `copies`, whatever the prompt's word.
    """
    word = record.verdict.state
    if any(attractor.state == "memorized" for attractor in record.attractors):
        return "copies"
    if word == "memorized":
        named = record.calibration is not None and record.calibration.word is not None
        return "inferred" if named else "copies"
    if word in ("attractor", "mixed", "spurious", "collapsed"):
        return "repeats"
    if any(seed.state in _OWN for seed in record.seeds):
        return "some"
    return "new" if word == "generalized" else "unclear"


@dataclass(frozen=True)
class Pair:
    """A generation beside the picture that it copies: of the reference, or another seed's."""

    record: BatchRecord
    seed: SeedRecord
    reference: NearestReference | None
    other: SeedRecord | None

    @property
    def distance(self) -> float:
        """Return how far apart the two are, in the run's metric."""
        near = self.reference or self.seed.nearest_sample
        assert near is not None
        return near.distance

    def title(self) -> str:
        """Return what the two are."""
        if self.reference is not None:
            return "The worst pair: a generated picture beside the training picture that it matches"
        return "The worst pair: two seeds of one prompt that give the same picture"

    def said(self, new: float | None) -> str:
        """Return how near they are in words; `new`: the median distance of the run's new pictures.

        That distance is one to the reference, or to another seed, as this pair's is.
        """
        limits = self.record.thresholds
        if limits is None:  # somebody's record, for which no program stands
            return f"They are {self.distance:.3g} apart."
        if self.reference is not None:
            limit, counts = limits.delta_m, "a copy"
        else:
            limit, counts = limits.delta_s, "the same picture"
        said = f"They are {self.distance:.3g} apart ({said_of(limits.metric)})"
        if self._as_near_as_repeats():
            said += ", as near as this prompt's own repeats of the picture are to each other"
        if limit is None:
            return f"{said}."
        said += f"; up to {limit:.3g} counts as {counts}."
        if not self.distance:
            return f"{said} Nothing is nearer."
        sentences = [said]
        times = limit / self.distance
        rate = limits.false_alarms
        if limits.calibrated and rate is not None and times >= 1.2:
            most = f"{100 * (1 - rate):.3g}% of new pictures"
            sentences.append(f"{most} lie at least {_times(times)} as far apart.")
        if new is not None:
            far = _times(new / self.distance)
            sentences.append(f"This run's new pictures lie {far} as far apart, in the median.")
        return " ".join(sentences)

    def _as_near_as_repeats(self) -> bool:
        if self.reference is None or self.seed.attractor is None:
            return False
        return self.distance <= self.record.attractors[self.seed.attractor].diameter


def _times(factor: float) -> str:
    return f"{factor:.2g} times" if factor < 10 else f"{factor:,.0f} times"


def pair(record: BatchRecord) -> Pair | None:
    """Return the pair that shows best what a prompt repeats; None where nothing repeats.

    Copies of the reference first, those of the largest attractor before single ones, then seeds
    that agree.
    """
    medoids = [record.seeds[attractor.medoid] for attractor in record.attractors]
    alone = sorted(record.seeds, key=lambda s: _distance(s.nearest_reference))
    for seed in [*medoids, *alone]:
        if seed.state == "memorized" and seed.nearest_reference is not None:
            return Pair(record, seed, seed.nearest_reference, None)
    loose = sorted(
        (record.seeds[i] for i in record.loose), key=lambda s: _distance(s.nearest_sample)
    )
    for seed in [*medoids, *loose]:
        if seed.nearest_sample is not None and seed.nearest_sample.index < len(record.seeds):
            return Pair(record, seed, None, record.seeds[seed.nearest_sample.index])
    return None


def _distance(near: object) -> float:
    distance = getattr(near, "distance", None)
    return float("inf") if distance is None else float(distance)


class Answer:
    """The answer of a run, gathered record by record; `prompts`: how many were asked for."""

    def __init__(self, prompts: int) -> None:
        self.prompts = prompts
        self.kinds: Counter[Kind] = Counter()
        self.words: Counter[str] = Counter()
        self.failed = 0
        self.pair: Pair | None = None
        self.calibrated = True
        self.referenced = False
        self.shown = False
        self._complete = True
        self._matching = False
        self._seeds: set[int] = set()
        self._missed = 0.0
        self._clears = True
        self._worst: tuple[float, ...] = ()
        self._new = {True: array("d"), False: array("d")}

    def add(self, record: BatchRecord) -> None:
        """Take in one record."""
        if record.error is not None:
            self.failed += 1
            return
        found = kind(record)
        self.kinds[found] += 1
        self.words[record.verdict.state] += 1
        self.calibrated &= record.thresholds is not None and record.thresholds.calibrated
        self.referenced |= record.reference is not None
        self._complete &= record.reference is not None and record.reference.complete
        if found == "repeats":
            self._matching |= any(seed.state in _MAY_MATCH for seed in record.seeds)
        self._seeds.add(sum(seed.state != "failed" for seed in record.seeds))
        missed = record.verdict.undetected_mass
        self._missed = max(self._missed, 1.0 if missed is None else missed)
        self._clears &= record.power is not None and record.power.suffices
        for seed in record.seeds:
            near = seed.nearest_reference
            self.shown |= near is not None and near.image is not None
            if seed.state == "generalized":
                for to_reference, one in ((True, near), (False, seed.nearest_sample)):
                    if one is not None:
                        self._new[to_reference].append(one.distance)
        rank = (-float(_WORST_FIRST.index(found)), *badness(record))
        if (not self._worst or rank > self._worst) and (shown := pair(record)) is not None:
            self.pair, self._worst = shown, rank

    @property
    def done(self) -> int:
        """How many prompts have a verdict."""
        return self.kinds.total()

    @property
    def missing(self) -> int:
        """How many prompts have no record."""
        return self.prompts - self.failed - self.done

    def headline(self) -> str:
        """Return the run's answer in one sentence."""
        return next(self._sentences())

    def more(self) -> list[str]:
        """Return what else is to be known of it at once, a sentence each."""
        found = list(self._sentences())[1:]
        if not self.done:
            return found
        if not self.calibrated:
            found.append(
                "Thresholds are not calibrated for this model: take all of this as a hint, and "
                "clear nothing by it."
            )
        if self.failed:
            found.append(
                f"{_prompts(self.failed)} failed, which says nothing of {_them(self.failed)}."
            )
        if self.missing:
            found.append(f"{_prompts(self.missing)} {_are(self.missing)} not audited yet.")
        return found

    def pair_said(self) -> str:
        """Return how near the worst pair is, in words."""
        assert self.pair is not None
        distances = self._new[self.pair.reference is not None]
        return self.pair.said(median(distances) if len(distances) >= _ENOUGH_NEW else None)

    def _sentences(self) -> Iterator[str]:
        if not self.done:
            yield self._nothing()
            return
        counted = [(one, self.kinds[one]) for one in _WORST_FIRST if self.kinds[one]]
        if counted[0][0] in ("unclear", "new"):
            yield self._none_repeats()
            return
        for number, (one, count) in enumerate(counted):
            if one not in ("unclear", "new"):
                yield self._has(one, count) if not number else self._also(one, count)
        if unclear := self.kinds["unclear"]:
            but = "undecided: nothing repeats, but that shows too little"
            yield f"{_prompts(unclear)} {_are(unclear)} {but}."
        if new := self.kinds["new"]:
            give = "gives" if new == 1 else "give"
            yield f"{_prompts(new)} {give} new pictures. {self.can_miss()}"

    def _nothing(self) -> str:
        if not self.prompts:
            return "Nothing was audited: the list is empty."
        if self.failed == self.prompts:
            all_ = "The prompt" if self.prompts == 1 else f"All {self.prompts:,} prompts"
            return f"No answer: {all_[0].lower()}{all_[1:]} failed."
        if not self.failed:
            none = (
                "the prompt is not" if self.prompts == 1 else f"none of {self.prompts:,} prompts is"
            )
            return f"No answer yet: {none} audited."
        return (
            f"No answer yet: {self.failed:,} of {_prompts(self.prompts)} failed, and "
            f"{self.missing:,} {_are(self.missing)} not audited."
        )

    def _none_repeats(self) -> str:
        unclear, of = self.kinds["unclear"], _prompts(self.done)
        none = "The prompt repeats nothing" if self.done == 1 else f"None of {of} repeats"
        if unclear == self.done:
            return f"{none}, but that shows too little to clear {_them(unclear)}. {self.can_miss()}"
        but = f", but {unclear:,} {_are(unclear)} not cleared" if unclear else ""
        return f"{none}{but}. {self.can_miss()}"

    def may_show(self) -> str:
        """Return whose pictures a report of the run may show; empty where none are in it."""
        if self.shown:
            return "This report holds training pictures, people among them if the training had any."
        if self.pair is not None:
            return (
                "Pictures that repeat may be training pictures, people among them if the training "
                "had any."
            )
        return ""

    def can_miss(self) -> str:
        """Return what the run's seeds can miss where nothing repeats."""
        low, high = min(self._seeds), max(self._seeds)
        seeds = f"{low:,} seeds" if low == high else f"{low:,} to {high:,} seeds"
        if self._missed >= 1:
            return f"What {seeds} can miss was not settled."
        return (
            f"What {seeds} can miss is a picture that fewer than {self._missed:.0%} of all seeds "
            "would give."
        )

    def _has(self, one: Kind, count: int) -> str:
        if self.done == 1:
            return f"The prompt {self._does(one, 1)}."
        return f"{count:,} of {_prompts(self.done)} {self._does(one, count)}."

    def _also(self, one: Kind, count: int) -> str:
        return f"{count:,} more {self._does(one, count)}."

    def _does(self, one: Kind, count: int) -> str:
        s = "s" if count == 1 else ""
        if one == "copies":
            return (
                f"give{s} back training pictures"
                if self.calibrated
                else ("may give back training pictures")
            )
        if one == "inferred":
            return (
                f"repeat{s} what is likely a training picture, by curvature and not by a match "
                "with one"
            )
        if one == "repeats":
            repeat = f"repeat{s}" if self.calibrated else "may repeat"
            return f"{repeat} the same pictures for different seeds{self._which()}"
        return (
            f"{'shows' if count == 1 else 'show'} some pictures that repeat or match, among others"
        )

    def _which(self) -> str:
        """What is known about pictures that repeat."""
        if self.words["collapsed"]:
            return ", as this model does for any prompt"
        if not self.referenced:
            return "; whether these are training pictures can't be told without a reference"
        if self._matching:
            return "; whether these are training pictures is not settled"
        if self._complete:
            return ", which are no training pictures"
        return "; these are not in the reference, which may lack training pictures"

    def cannot_see(self) -> list[str]:
        """Return what a run like this one is blind for, a sentence each."""
        if not self.done:
            return []
        found = [self.can_miss()]
        if not self._clears:
            found.append(
                "Planted copies were not shown to be found often enough, so that what looks new "
                "may be a copy."
            )
        if not self.referenced:
            found.append("Copies of training pictures as such: no reference was given.")
        elif not self._complete:
            found.append("Copies of training pictures that the reference lacks.")
        found.append(
            "Copies of a part of a picture, of a style, or of a picture that was mirrored, cropped "
            "or recoloured more than the distance forgives; and prompts that are not in the list."
        )
        return found

    def next_steps(self) -> list[str]:
        """Return what to do now, a sentence each, the most pressing first."""
        found = []
        if self.failed or self.missing:
            found.append("Run the same m2g-audit batch again: it does prompts without a verdict.")
        if not self.done:
            return found or ["Give a list with a prompt in it."]
        if not self.calibrated:
            found.append(
                "Have thresholds measured: give --unseen, pictures of the same kind that the model "
                "was not trained on."
            )
        if self.kinds["copies"] or self.kinds["inferred"]:
            found.append(
                "Do not release the model for these prompts: look at each below, find the training "
                "picture, take its duplicates out and train again, or filter the prompt; then "
                "compare both runs with m2g-audit report --against."
            )
        if not self.referenced and any(self.kinds[k] for k in ("repeats", "inferred", "some")):
            found.append("Give the training pictures with --reference to tell copies from repeats.")
        if not self._clears and self.calibrated:
            found.append(
                "Give --unseen pictures, or another --metric, so that planted copies are found: "
                "without that no prompt is cleared."
            )
        elif self.words["undecided"]:
            found.append("Take more --seeds for prompts that are undecided.")
        if not found:
            found.append(
                "Keep this run: m2g-audit report --against compares the next one with it."
                if self.kinds["new"] == self.done
                else "Look at the prompts that repeat, the worst first below."
            )
        return found


def _prompts(count: int) -> str:
    return "1 prompt" if count == 1 else f"{count:,} prompts"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _them(count: int) -> str:
    return "it" if count == 1 else "them"
