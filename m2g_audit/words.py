"""A verdict in sentences for somebody who has not read the paper."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from m2g_audit.records import (
    AttractorRecord,
    CalibrationRecord,
    CurvatureRecord,
    IntervalRecord,
    ReferenceRecord,
    ScreeningRecord,
    SeedRecord,
    ThresholdRecord,
    VerdictWord,
    Wording,
)

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
    screening: ScreeningRecord | None = None

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
    if f.screening is not None and f.screening.stopped_at is not None:
        return _screened_out(f, f.screening)
    if f.shares["generalized"].low > 0.5:
        return (
            f"Most pictures are new ({_share(f, 'generalized')}), but {f.valid} seeds may miss an "
            f"attractor of up to {_percent(f.undetected_mass)} of the mass, more than the "
            f"{_percent(f.undetected_limit)} that `generalized` allows. Take more --seeds."
        )
    return (
        f"{f.valid} seeds allow more than one word: {_repeating(f)} of their pictures repeat each "
        f"other or match the reference, {f.count('generalized')} are new. Take more --seeds."
    )


def _screened_out(f: Findings, screening: ScreeningRecord) -> str:
    what = "each other and to the reference" if f.reference else "each other"
    near = "a copy" if screening.margin == 1 else f"{screening.margin:g} times a copy's distance"
    return (
        f"Screened out after {screening.stopped_at} of {screening.looks[-1]} seeds: none of their "
        f"pictures is as near as {near} to {what}. That ends the search and proves little: an "
        f"attractor of up to {_percent(f.undetected_mass)} of the mass may be missed."
    )


def evidence(f: Findings) -> list[str]:
    """Return what the verdict rests on, one plain sentence or two each, most telling first."""
    sentences = [_counts(f)]
    sentences += [_one_attractor(f, i) for i in range(min(len(f.attractors), _DESCRIBED))]
    if len(f.attractors) > _DESCRIBED:
        sentences.append(f"{len(f.attractors) - _DESCRIBED} smaller attractors follow.")
    if f.loose:
        sentences.append(
            f"{_seeds(f.loose)} repeat another picture but belong to no group in which all are "
            "alike, as the pictures of a continuous family do."
        )
    sentences += [_not_seen(f), _rule(f)]
    if f.reference is not None:
        sentences.append(_reference(f.reference))
    if f.screening is not None:
        sentences.append(_screening(f, f.screening))
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
    return (
        f"{f.valid} seeds can miss an attractor of up to {_percent(f.undetected_mass)} of the "
        "mass. One more seed would show something not seen yet with a chance of about "
        f"{_percent(f.unseen.estimate)} ({_percent(f.unseen.low)} to {_percent(f.unseen.high)})."
    )


def _rule(f: Findings) -> str:
    t = f.thresholds
    return (
        f"Two pictures count as the same up to a distance of {_number(t.delta_s)} in {t.metric} "
        f"({METRICS.get(t.metric, t.metric)}). Source: "
        f"{t.source.rstrip('.')}."
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


def _screening(f: Findings, screening: ScreeningRecord) -> str:
    early = " and ".join(map(str, screening.looks[:-1]))
    went_on = "and went on" if screening.stopped_at is None else "where clearly novel prompts end"
    return (
        f"Screening looked after {early} seeds, {went_on}; to allow for the looks, intervals are "
        f"at {_level(f)}."
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
        return f"{start} That may be chance, so it names nothing."
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


def duration(seconds: float) -> str:
    """Return seconds as a person says them: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
