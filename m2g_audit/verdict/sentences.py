"""A verdict in sentences for somebody who has not read the paper."""

from collections.abc import Sequence
from typing import TypeVar

from m2g_audit.records.distances import said_of
from m2g_audit.records.record import (
    AuditRecord,
    CalibrationRecord,
    CurvatureRecord,
    FindingsRecord,
    IntervalRecord,
    LooksRecord,
    PowerRecord,
    ReferenceRecord,
    ThresholdRecord,
)
from m2g_audit.verdict.limits import UNDETECTED_LIMIT

_DESCRIBED = 3
_DESCRIBED_WORDS = 8


_Record = TypeVar("_Record", bound=AuditRecord)


def summary(r: AuditRecord) -> str:
    """Return the verdict as one or two sentences."""
    if r.calibration is not None and r.calibration.word is not None:
        return _named(r, r.calibration)
    if r.verdict.state == "undecided":
        return _undecided(r)
    if r.verdict.state == "memorized":
        return f"This prompt gives back pictures of the training set: {_share(r, 'memorized')}."
    if r.verdict.state == "spurious":
        return (
            "Seeds of this prompt fall into pictures that repeat although no training picture "
            f"looks like them: {_share(r, 'spurious')}."
        )
    if r.verdict.state == "generalized":
        return (
            f"This prompt gives new pictures: {_share(r, 'generalized')}. "
            f"No attractor of mass above {_percent(_undetected(r))} was missed "
            f"({_level(r)} sure)."
        )
    if r.verdict.state == "collapsed":
        return _collapsed(r)
    if r.verdict.state == "mixed":
        return (
            "No behaviour prevails: some seeds repeat each other or the training set "
            f"({_repeating(r)} of {_valid(r)}), the others are new."
        )
    return _attractor(r)


def worded(r: _Record) -> _Record:
    """Return a record with its summary, evidence and warnings said anew, from its numbers.

    Warnings that are there stay, before those of the numbers.
    """
    verdict = r.verdict.model_copy(update={"summary": summary(r), "evidence": evidence(r)})
    said = [*r.warnings, *(w for w in warnings(r) if w not in r.warnings)]
    return r.model_copy(update={"verdict": verdict, "warnings": said})


def _valid(r: AuditRecord) -> int:
    """How many generations did not fail."""
    return sum(seed.state != "failed" for seed in r.seeds)


def _complete(r: AuditRecord) -> bool:
    """Whether the whole training set is known."""
    return r.reference is not None and r.reference.complete


def _count(r: AuditRecord, state: str) -> int:
    """How many generations are in a state."""
    return sum(seed.state == state for seed in r.seeds)


def _thresholds(r: AuditRecord) -> ThresholdRecord:
    assert r.thresholds is not None  # of a finished audit
    return r.thresholds


def _undetected(r: AuditRecord) -> float:
    """The mass up to which an attractor may have been missed, all where none was looked for."""
    mass = r.verdict.undetected_mass
    return 1.0 if mass is None else mass


def _named(r: AuditRecord, calibration: CalibrationRecord) -> str:
    other = "spurious" if calibration.word == "memorized" else "memorized"
    return (
        f"Seeds of this prompt repeat each other ({_repeating(r)} of {_valid(r)}). By its "
        f"curvature what repeats is {calibration.word} rather than {other}, says a calibration "
        f"that told the two apart with AUROC {_auroc(calibration)} on such a model. That is an "
        "inference, not a match with training pictures."
    )


def _attractor(r: AuditRecord) -> str:
    start = f"Seeds of this prompt repeat each other ({_repeating(r)} of {_valid(r)})"
    if _complete(r):
        return (
            f"{start}; {_valid(r)} seeds are too few to say whether copies of training pictures or "
            "repeating pictures of the model's own prevail."
        )
    if r.reference is None:
        return (
            f"{start}. Whether they repeat training pictures can't be told without a reference: "
            "give the training pictures with --reference."
        )
    return (
        f"{start}. Most of what repeats is not in the given reference; it may come from the base "
        "model's training data. If the reference is all that the model saw, say "
        "--reference-complete."
    )


def _undecided(r: AuditRecord) -> str:
    if r.wording.unknown_words:
        unknown = r.wording.unknown_words
        words = ", ".join(f"“{word}”" for word in unknown[:_DESCRIBED_WORDS])
        if len(unknown) > _DESCRIBED_WORDS:
            more = len(unknown) - _DESCRIBED_WORDS
            words += f" and {more} more word{'s' if more > 1 else ''}"
        return (
            f"The model was never taught {words}, so its pictures say nothing about this prompt. "
            "`m2g-audit pocket prompts` lists captions that it knows."
        )
    if _valid(r) < 2:
        return (
            f"{len(r.seeds) - _valid(r)} of {len(r.seeds)} pictures are blank or not finite, so "
            "there is nothing to compare. In half precision, try --dtype float32."
        )
    if r.verdict.withheld:
        return f"Most pictures are new ({_share(r, 'generalized')}), but {_withheld(r)}"
    return (
        f"{_valid(r)} seeds allow more than one word: {_repeating(r)} of their pictures repeat "
        f"each other or match the reference, {_count(r, 'generalized')} are new."
        + _unsure(r)
        + " Take more --seeds."
    )


def _unsure(r: AuditRecord) -> str:
    unsure = _count(r, "unsure")
    if not unsure:
        return ""
    return (
        f" Near the threshold, for {unsure} of them, the distance says one thing and its ratio to "
        "that of other pictures another."
    )


def _withheld(r: AuditRecord) -> str:
    """Why new pictures clear nothing, and what to do, each reason a clause."""
    clauses = {
        "an attractor may have been missed": (
            f"{_valid(r)} seeds may miss an attractor of up to {_percent(_undetected(r))} of the "
            f"mass, more than the {_percent(UNDETECTED_LIMIT)} that `generalized` allows: take "
            "more --seeds"
        ),
        "the distance does not find planted copies": (
            "planted copies are not found by this distance and these thresholds, so new pictures "
            "say nothing: take another --metric, or give --unseen pictures"
        ),
        "power was not measured": "whether a copy would be found was not measured",
        "the published rule of thumb says otherwise": (
            "the published rule of thumb calls them copies, and no calibration clears that: look "
            "at the nearest pictures"
        ),
    }
    return "; ".join(clauses[reason] for reason in r.verdict.withheld) + "."


def _collapsed(r: AuditRecord) -> str:
    return (
        f"Seeds of this prompt repeat each other ({_repeating(r)} of {_valid(r)}), but in this "
        "model seeds do little for any prompt, so that repeats tell nothing of this one. Whether "
        "it copies training pictures, only a --reference can tell."
    )


def model_lines(r: AuditRecord) -> list[str]:
    """Return what was found about a record's model, whatever the prompt, a sentence each."""
    return [] if r.findings is None else _model(r.findings, r.thresholds)


def _model(model: FindingsRecord, thresholds: ThresholdRecord | None) -> list[str]:
    base = thresholds is not None and thresholds.rule == "base"
    of = f"{model.prompts} ordinary prompts"
    if model.collapsed:
        else_ = ", or its subject is narrower than its base's," if base else ""
        return [
            f"About the model: seeds do little in it{else_} for any prompt: "
            f"{_percent(model.repeats.estimate)} of the pictures for {of} repeat another one "
            f"({_percent(model.repeats.low)} or more, 99% sure)."
        ]
    if model.contaminated:
        return [
            f"About the model: {_percent(model.flagged.estimate)} of the pictures for {of} repeat "
            f"each other or copy ({_percent(model.flagged.low)} or more, 99% sure)."
        ]
    return []


def warnings(r: AuditRecord) -> list[str]:
    """Return what a reader of the verdict must know beside it, a sentence each."""
    found = [] if r.findings is None else _model(r.findings, r.thresholds)
    if r.verdict.hangs_on_threshold:
        found.append(
            "The verdict hangs on the threshold: by the 0.3% or the 3% quantile of the same "
            "distances it would be another."
        )
    return [*found, *_thresholds(r).notes]


def evidence(r: AuditRecord) -> list[str]:
    """Return what the verdict rests on, one plain sentence or two each, most telling first."""
    sentences = [_rule(r), _counts(r)]
    sentences += [_one_attractor(r, i) for i in range(min(len(r.attractors), _DESCRIBED))]
    if len(r.attractors) > _DESCRIBED:
        sentences.append(f"{len(r.attractors) - _DESCRIBED} smaller attractors follow.")
    if r.loose:
        sentences.append(
            f"{_seeds(r.loose)} repeat another picture but belong to no group in which all are "
            "alike, as the pictures of a continuous family do."
        )
    sentences.append(_not_seen(r))
    if r.reference is not None:
        sentences.append(_reference(r.reference))
    if r.power is not None:
        sentences.append(_power(r.power))
    if r.looks is not None:
        sentences.append(_looks(r, r.looks))
    if r.curvature:
        sentences.append(_curvature(r.curvature, r.calibration))
    if r.calibration is not None:
        sentences.append(_calibration(r.calibration))
    return sentences


def _counts(r: AuditRecord) -> str:
    new = "repeat nothing and match nothing" if r.reference else "repeat nothing"
    parts = [
        f"{n} {what}"
        for n, what in (
            (_count(r, "memorized"), "match a training picture"),
            (_count(r, "spurious"), "repeat each other and match no training picture"),
            (_count(r, "attractor"), "repeat each other"),
            (_count(r, "unsure"), "lie too near the threshold to say"),
            (_count(r, "generalized"), new),
            (_count(r, "failed"), "are blank or not finite and were left out"),
        )
        if n
    ]
    return f"Of {len(r.seeds)} pictures from {len(r.seeds)} seeds, {'; '.join(parts)}."


def _one_attractor(r: AuditRecord, number: int) -> str:
    attractor = r.attractors[number]
    mass, nearest = attractor.mass, attractor.nearest_reference
    start = (
        f"{_seeds(attractor.seeds)} give the same picture (attractor {number + 1}: "
        f"{_percent(mass.low)} to {_percent(mass.high)} of all seeds would)."
    )
    if nearest is None or _thresholds(r).delta_m is None:
        return start
    at = f"at {nearest.distance:.3g}, where up to {_thresholds(r).delta_m:.3g} counts as a copy"
    if attractor.state == "memorized":
        return f"{start} It is a training picture: {nearest.name} is {at}."
    if _complete(r):
        return f"{start} It is none of the training pictures: the nearest is {at}."
    return f"{start} It is not in the given reference, whose nearest picture is {at}."


def _not_seen(r: AuditRecord) -> str:
    assert r.unseen is not None  # of a finished audit
    chance = (
        "One more seed would show something not seen yet with a chance of about "
        f"{_percent(r.unseen.estimate)} ({_percent(r.unseen.low)} to {_percent(r.unseen.high)})."
    )
    if _undetected(r) >= 1:  # a look that spends nothing on what it may miss
        return chance
    missed = f"{_valid(r)} seeds can miss an attractor of up to {_percent(_undetected(r))}"
    return f"{missed} of the mass. {chance}"


def _rule(r: AuditRecord) -> str:
    t = _thresholds(r)
    copy = "" if t.delta_m is None else f"; a copy of a reference picture up to {t.delta_m:.3g}"
    return (
        f"Two pictures count as the same up to a distance of {_number(t.delta_s)} in {t.metric} "
        f"({said_of(t.metric)}){copy}. Source: {t.source.rstrip('.')}."
        + ("" if t.calibrated else " It is uncalibrated: take the verdict as a hint.")
    )


def _reference(reference: ReferenceRecord) -> str:
    whole = "the whole training set"
    if not reference.complete:
        whole = f"not said to be {whole}"
    mirrored = ", mirrored as well" if reference.flipped else ""
    return (
        f"The reference is {reference.source}: {reference.pictures:,} pictures, {whole}, each as "
        f"training saw it, through the VAE and back{mirrored}."
    )


def _looks(r: AuditRecord, looks: LooksRecord) -> str:
    early = ", ".join(map(str, looks.looks[:-1]))
    return (
        f"Seeds were taken until the verdict was settled, with looks at {early} and "
        f"{looks.looks[-1]}; it ended at {looks.ended_at}. To allow for the looks, intervals are "
        f"at {_level(r)}."
    )


def least_found(power: PowerRecord) -> IntervalRecord:
    """Return the lower of the shares of planted copies that are found, which decides."""
    shares = [power.between] if power.to_reference is None else [power.to_reference, power.between]
    return min(shares, key=lambda share: share.low)


def _power(power: PowerRecord) -> str:
    least = least_found(power)
    edits = ", ".join(f"{_percent(share)} {name}" for name, share in power.edits.items())
    return (
        f"Planted copies, pictures as the model itself gives them back, are found in "
        f"{_percent(least.estimate)} of the cases ({_percent(least.low)} or more, 95% sure), "
        + ("enough" if power.suffices else "too few")
        + f" to clear a prompt. Of edited copies are found: {edits}."
    )


def _curvature(curvature: Sequence[CurvatureRecord], calibration: CalibrationRecord | None) -> str:
    readings = ", ".join(f"{c.median:.2f} for seed {c.image} ({c.state})" for c in curvature)
    one = "1 means that the model allows this one picture"
    if curvature[0].kind == "paper":
        one = "0.96 is what one single picture gives"
    unused = " No calibration of curvature was given, so it does not enter the verdict."
    return f"Median curvature: {readings}; {one}, towards 0 that it is free to vary." + (
        "" if calibration else unused
    )


def _calibration(calibration: CalibrationRecord) -> str:
    start = f"Curvature is read by {calibration.source}."
    if not calibration.tells:
        return (
            f"{start} It was not shown to be right more often than one word for all, so it names "
            "nothing."
        )
    if not calibration.readings:
        return f"{start} No attractor is left for it to name."
    readings = ", ".join(
        f"{r.value:.3g} for attractor {r.attractor + 1} ({r.state})" for r in calibration.readings
    )
    return (
        f"{start} Here it is {readings}; {calibration.threshold:.3g} and above is memorized. "
        + ("The verdict's word" if calibration.word else "No word of the verdict")
        + " rests on it."
    )


def _share(r: AuditRecord, state: str) -> str:
    share = r.verdict.fractions[state]
    return (
        f"{_count(r, state)} of {_valid(r)} seeds, that is {_percent(share.low)} to "
        f"{_percent(share.high)} ({_level(r)} sure)"
    )


def _auroc(calibration: CalibrationRecord) -> str:
    auroc = calibration.auroc
    return f"{auroc.estimate:.2f} ({auroc.low:.2f} to {auroc.high:.2f})"


def _repeating(r: AuditRecord) -> int:
    return sum(_count(r, state) for state in ("memorized", "spurious", "attractor"))


def _seeds(indices: Sequence[int]) -> str:
    if len(indices) == 1:
        return f"Seed {indices[0]}"
    if len(indices) > 12:
        return f"{len(indices)} seeds"
    return f"Seeds {', '.join(map(str, indices[:-1]))} and {indices[-1]}"


def _level(r: AuditRecord) -> str:
    return f"{100 * r.verdict.level:.4g}%"


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
