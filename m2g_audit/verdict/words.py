"""A verdict in sentences for somebody who has not read the paper."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from m2g_audit.records.record import (
    AttractorRecord,
    AuditRecord,
    CalibrationRecord,
    CurvatureRecord,
    FindingsRecord,
    IntervalRecord,
    LooksRecord,
    PowerRecord,
    ReferenceRecord,
    SeedRecord,
    ThresholdRecord,
    Wording,
)
from m2g_audit.records.vocabulary import VerdictWord

METRICS = {
    "l2": "root-mean-square difference of pixels",
    "tiled_l2": "largest root-mean-square difference of pixels over 4 x 4 tiles",
    "lpips-alex": "LPIPS with AlexNet",
    "lpips-vgg": "LPIPS with VGG-16",
    "clip": "1 - cosine of CLIP embeddings, which see meaning more than copies",
    "sscd": "1 - cosine of SSCD copy-detection embeddings",
}
_DESCRIBED = 3
_DESCRIBED_WORDS = 8


@dataclass(frozen=True)
class Findings:
    """All that the sentences speak of; the parts are those of the record."""

    word: VerdictWord
    shares: dict[str, IntervalRecord]
    level: float
    undetected_mass: float
    undetected_limit: float
    seeds: Sequence[SeedRecord]
    attractors: Sequence[AttractorRecord]
    loose: Sequence[int]
    unseen: IntervalRecord
    thresholds: ThresholdRecord
    reference: ReferenceRecord | None
    wording: Wording
    curvature: Sequence[CurvatureRecord] = field(default=())
    calibration: CalibrationRecord | None = None
    looks: LooksRecord | None = None
    power: PowerRecord | None = None
    model: FindingsRecord | None = None
    withheld: list[str] = field(default_factory=list)
    hangs_on_threshold: bool = False

    @property
    def valid(self) -> int:
        """How many generations did not fail."""
        return sum(seed.state != "failed" for seed in self.seeds)

    @property
    def complete(self) -> bool:
        """Whether the whole training set is known."""
        return self.reference is not None and self.reference.complete

    def count(self, state: str) -> int:
        """How many generations are in a state."""
        return sum(seed.state == state for seed in self.seeds)


def summary(f: Findings) -> str:
    """Return the verdict as one or two sentences."""
    if f.calibration is not None and f.calibration.word is not None:
        return _named(f, f.calibration)
    if f.word == "undecided":
        return _undecided(f)
    if f.word == "memorized":
        return f"This prompt gives back pictures of the training set: {_share(f, 'memorized')}."
    if f.word == "spurious":
        return (
            "Seeds of this prompt fall into pictures that repeat although no training picture "
            f"looks like them: {_share(f, 'spurious')}."
        )
    if f.word == "generalized":
        return (
            f"This prompt gives new pictures: {_share(f, 'generalized')}. "
            f"No attractor of mass above {_percent(f.undetected_mass)} was missed "
            f"({_level(f)} sure)."
        )
    if f.word == "collapsed":
        return _collapsed(f)
    if f.word == "mixed":
        return (
            "No behaviour prevails: some seeds repeat each other or the training set "
            f"({_repeating(f)} of {f.valid}), the others are new."
        )
    return _attractor(f)


def _named(f: Findings, calibration: CalibrationRecord) -> str:
    other = "spurious" if calibration.word == "memorized" else "memorized"
    return (
        f"Seeds of this prompt repeat each other ({_repeating(f)} of {f.valid}). By its curvature "
        f"what repeats is {calibration.word} rather than {other}, says a calibration that told the "
        f"two apart with AUROC {_auroc(calibration)} on such a model. That is an inference, not a "
        "match with training pictures."
    )


def _attractor(f: Findings) -> str:
    start = f"Seeds of this prompt repeat each other ({_repeating(f)} of {f.valid})"
    if f.complete:
        return (
            f"{start}; {f.valid} seeds are too few to say whether copies of training pictures or "
            "repeating pictures of the model's own prevail."
        )
    if f.reference is None:
        return (
            f"{start}. Whether they repeat training pictures can't be told without a reference: "
            "give the training pictures with --reference."
        )
    return (
        f"{start}. Most of what repeats is not in the given reference; it may come from the base "
        "model's training data. If the reference is all that the model saw, say "
        "--reference-complete."
    )


def _undecided(f: Findings) -> str:
    if f.wording.unknown_words:
        unknown = f.wording.unknown_words
        words = ", ".join(f"“{word}”" for word in unknown[:_DESCRIBED_WORDS])
        if len(unknown) > _DESCRIBED_WORDS:
            more = len(unknown) - _DESCRIBED_WORDS
            words += f" and {more} more word{'s' if more > 1 else ''}"
        return (
            f"The model was never taught {words}, so its pictures say nothing about this prompt. "
            "`m2g-audit pocket prompts` lists captions that it knows."
        )
    if f.valid < 2:
        return (
            f"{len(f.seeds) - f.valid} of {len(f.seeds)} pictures are blank or not finite, so "
            "there is nothing to compare. In half precision, try --dtype float32."
        )
    if f.withheld:
        return f"Most pictures are new ({_share(f, 'generalized')}), but {_withheld(f)}"
    return (
        f"{f.valid} seeds allow more than one word: {_repeating(f)} of their pictures repeat each "
        f"other or match the reference, {f.count('generalized')} are new."
        + _unsure(f)
        + " Take more --seeds."
    )


def _unsure(f: Findings) -> str:
    unsure = f.count("unsure")
    if not unsure:
        return ""
    return (
        f" Near the threshold, for {unsure} of them, the distance says one thing and its ratio to "
        "that of other pictures another."
    )


def _withheld(f: Findings) -> str:
    """Why new pictures clear nothing, and what to do, each reason a clause."""
    clauses = {
        "an attractor may have been missed": (
            f"{f.valid} seeds may miss an attractor of up to {_percent(f.undetected_mass)} of the "
            f"mass, more than the {_percent(f.undetected_limit)} that `generalized` allows: take "
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
    return "; ".join(clauses[reason] for reason in f.withheld) + "."


def _collapsed(f: Findings) -> str:
    return (
        f"Seeds of this prompt repeat each other ({_repeating(f)} of {f.valid}), but in this model "
        "seeds do little for any prompt, so that repeats tell nothing of this one. Whether it "
        "copies training pictures, only a --reference can tell."
    )


def model_lines(record: AuditRecord) -> list[str]:
    """Return what was found about a record's model, whatever the prompt, a sentence each."""
    return [] if record.findings is None else _model(record.findings, record.thresholds)


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


def warnings(f: Findings) -> list[str]:
    """Return what a reader of the verdict must know beside it, a sentence each."""
    found = [] if f.model is None else _model(f.model, f.thresholds)
    if f.hangs_on_threshold:
        found.append(
            "The verdict hangs on the threshold: by the 0.3% or the 3% quantile of the same "
            "distances it would be another."
        )
    return [*found, *f.thresholds.notes]


def evidence(f: Findings) -> list[str]:
    """Return what the verdict rests on, one plain sentence or two each, most telling first."""
    sentences = [_rule(f), _counts(f)]
    sentences += [_one_attractor(f, i) for i in range(min(len(f.attractors), _DESCRIBED))]
    if len(f.attractors) > _DESCRIBED:
        sentences.append(f"{len(f.attractors) - _DESCRIBED} smaller attractors follow.")
    if f.loose:
        sentences.append(
            f"{_seeds(f.loose)} repeat another picture but belong to no group in which all are "
            "alike, as the pictures of a continuous family do."
        )
    sentences.append(_not_seen(f))
    if f.reference is not None:
        sentences.append(_reference(f.reference))
    if f.power is not None:
        sentences.append(_power(f.power))
    if f.looks is not None:
        sentences.append(_looks(f, f.looks))
    if f.curvature:
        sentences.append(_curvature(f.curvature, f.calibration))
    if f.calibration is not None:
        sentences.append(_calibration(f.calibration))
    return sentences


def _counts(f: Findings) -> str:
    new = "repeat nothing and match nothing" if f.reference else "repeat nothing"
    parts = [
        f"{n} {what}"
        for n, what in (
            (f.count("memorized"), "match a training picture"),
            (f.count("spurious"), "repeat each other and match no training picture"),
            (f.count("attractor"), "repeat each other"),
            (f.count("unsure"), "lie too near the threshold to say"),
            (f.count("generalized"), new),
            (f.count("failed"), "are blank or not finite and were left out"),
        )
        if n
    ]
    return f"Of {len(f.seeds)} pictures from {len(f.seeds)} seeds, {'; '.join(parts)}."


def _one_attractor(f: Findings, number: int) -> str:
    attractor = f.attractors[number]
    mass, nearest = attractor.mass, attractor.nearest_reference
    start = (
        f"{_seeds(attractor.seeds)} give the same picture (attractor {number + 1}: "
        f"{_percent(mass.low)} to {_percent(mass.high)} of all seeds would)."
    )
    if nearest is None or f.thresholds.delta_m is None:
        return start
    at = f"at {nearest.distance:.3g}, where up to {f.thresholds.delta_m:.3g} counts as a copy"
    if attractor.state == "memorized":
        return f"{start} It is a training picture: {nearest.name} is {at}."
    if f.complete:
        return f"{start} It is none of the training pictures: the nearest is {at}."
    return f"{start} It is not in the given reference, whose nearest picture is {at}."


def _not_seen(f: Findings) -> str:
    chance = (
        "One more seed would show something not seen yet with a chance of about "
        f"{_percent(f.unseen.estimate)} ({_percent(f.unseen.low)} to {_percent(f.unseen.high)})."
    )
    if f.undetected_mass >= 1:  # a look that spends nothing on what it may miss
        return chance
    missed = f"{f.valid} seeds can miss an attractor of up to {_percent(f.undetected_mass)}"
    return f"{missed} of the mass. {chance}"


def _rule(f: Findings) -> str:
    t = f.thresholds
    copy = "" if t.delta_m is None else f"; a copy of a reference picture up to {t.delta_m:.3g}"
    return (
        f"Two pictures count as the same up to a distance of {_number(t.delta_s)} in {t.metric} "
        f"({METRICS.get(t.metric, t.metric)}){copy}. Source: {t.source.rstrip('.')}."
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


def _looks(f: Findings, looks: LooksRecord) -> str:
    early = ", ".join(map(str, looks.looks[:-1]))
    return (
        f"Seeds were taken until the verdict was settled, with looks at {early} and "
        f"{looks.looks[-1]}; it ended at {looks.ended_at}. To allow for the looks, intervals are "
        f"at {_level(f)}."
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


def _share(f: Findings, state: str) -> str:
    share = f.shares[state]
    return (
        f"{f.count(state)} of {f.valid} seeds, that is {_percent(share.low)} to "
        f"{_percent(share.high)} ({_level(f)} sure)"
    )


def _auroc(calibration: CalibrationRecord) -> str:
    auroc = calibration.auroc
    return f"{auroc.estimate:.2f} ({auroc.low:.2f} to {auroc.high:.2f})"


def _repeating(f: Findings) -> int:
    return sum(f.count(state) for state in ("memorized", "spurious", "attractor"))


def _seeds(indices: Sequence[int]) -> str:
    if len(indices) == 1:
        return f"Seed {indices[0]}"
    if len(indices) > 12:
        return f"{len(indices)} seeds"
    return f"Seeds {', '.join(map(str, indices[:-1]))} and {indices[-1]}"


def _level(f: Findings) -> str:
    return f"{100 * f.level:.4g}%"


def _percent(share: float) -> str:
    return f"{share:.0%}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
