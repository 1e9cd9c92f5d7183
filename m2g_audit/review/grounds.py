"""What verdicts rest on, in a line each: where thresholds come from, power, how near seeds are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from m2g_audit.records.record import (
    AuditRecord,
    FindingsRecord,
    PowerRecord,
    SeedRecord,
    ThresholdRecord,
)
from m2g_audit.records.vocabulary import RuleWord, VerdictWord
from m2g_audit.verdict.sentences import least_found, model_lines

_RULES: Mapping[RuleWord, str] = {
    "unseen pictures": "pictures that the model never saw",
    "leave-one-out": "the reference's own pictures, each against the others (leave-one-out)",
    "base": "pictures of the base model for the same and other prompts",
    "own controls": "this model's own pictures for control prompts",
    "rule of thumb": "a published rule of thumb",
    "by hand": "numbers given by hand",
    "truth": "what is known of this model's training set",
    "older": "an earlier version of this program, which did not write down its rule",
}

MEANINGS: Mapping[VerdictWord, str] = {
    "memorized": "more than half of the pictures are copies of pictures in the reference",
    "collapsed": "they repeat, but so do those of any prompt of this model; they may be copies",
    "attractor": "more than half repeat or copy; which of the two can't be told",
    "mixed": "none of these prevails, and some repeat or copy",
    "spurious": "more than half repeat, although the whole training set holds no such picture",
    "undecided": "what was seen allows more than one of these words",
    "generalized": "more than half are new, and a copy or a frequent repeat would have been found",
}
"""What each verdict says of a prompt's pictures."""

GLOSSARY: Mapping[str, tuple[str, str]] = {
    "repeats": (
        "Different seeds of a prompt give the same picture, where each should give another.",
        "duplicates, within delta_s of each other (Eq. 10); many of one picture are an attractor, "
        "spurious where it is no training picture",
    ),
    "copies": (
        "A generated picture is, but for small differences, one that the model was trained on.",
        "memorized: within delta_m of the training set S (Eq. 9)",
    ),
    "new": (
        "A generated picture is like that of no other seed, and like no picture of the reference.",
        "generalized: neither of the two (Eq. 11)",
    ),
}
"""Each plain word of a report with what it means, and the paper's words for it."""


def mark(thresholds: ThresholdRecord | None) -> str | None:
    """Return a mark for thresholds that were not measured, None for others."""
    if thresholds is None or thresholds.calibrated:
        return None
    return "thresholds by hand" if thresholds.rule == "by hand" else "uncalibrated"


def origin(thresholds: ThresholdRecord, power: PowerRecord | None) -> str:
    """Return in sentences where thresholds come from, how often they err, and their power."""
    rate = thresholds.false_alarms
    said = "not measured" if rate is None else f"{100 * rate:.3g}% of new pictures"
    hint = "" if thresholds.calibrated else " Uncalibrated: take verdicts as hints."
    return (
        f"Thresholds from {_RULES[thresholds.rule]}. False alarms: {said}. "
        f"Power: {_power(power)}.{hint}"
    )


def _power(power: PowerRecord | None) -> str:
    if power is None:
        return "not measured"
    least = least_found(power)
    enough = "enough" if power.suffices else "too little"
    return (
        f"{least.estimate:.0%} of planted copies are found ({least.low:.0%} or more), {enough} to "
        "clear a prompt"
    )


def own_warnings(record: AuditRecord) -> list[str]:
    """Return a record's warnings without those about the model, which stand before."""
    about = model_lines(record)
    return [warning for warning in record.warnings if warning not in about]


def missed(record: AuditRecord) -> str | None:
    """Return what attractors may have been missed; None where that would be any at all."""
    mass = record.verdict.undetected_mass
    if mass is None or mass >= 1:
        return None
    return f"Attractors of less than {mass:.0%} of the mass may have been missed."


def ordinary(findings: FindingsRecord) -> str:
    """Return what a model that is neither contaminated nor collapsed does for ordinary prompts."""
    return (
        f"Of the pictures for {findings.prompts} ordinary prompts {findings.flagged.estimate:.0%} "
        f"repeat each other or copy ({findings.flagged.high:.0%} or less, 99% sure)."
    )


def margins(record: AuditRecord) -> str | None:
    """Return how near the nearest seeds are, over their thresholds; None where that is unknown."""
    parts = []
    to_reference = [s for s in record.seeds if _to_reference(s) is not None]
    if to_reference:
        seed = min(to_reference, key=lambda s: _to_reference(s) or 0.0)
        parts.append(
            f"Nearest to the reference: seed {seed.index}, at {_to_reference(seed):.2f} of delta_m."
        )
    within = [s for s in record.seeds if _to_sample(s) is not None]
    if within:
        seed = min(within, key=lambda s: _to_sample(s) or 0.0)
        assert seed.nearest_sample is not None
        parts.append(
            f"Nearest to each other: seeds {seed.index} and {seed.nearest_sample.index}, at "
            f"{_to_sample(seed):.2f} of delta_s."
        )
    return " ".join(parts) or None


def smallest_margins(seeds: Sequence[SeedRecord]) -> tuple[float | None, float | None]:
    """Return the smallest distance over delta_m and over delta_s, None where there is none."""
    to_reference = [m for seed in seeds if (m := _to_reference(seed)) is not None]
    to_sample = [m for seed in seeds if (m := _to_sample(seed)) is not None]
    return min(to_reference, default=None), min(to_sample, default=None)


def _to_reference(seed: SeedRecord) -> float | None:
    return None if seed.nearest_reference is None else seed.nearest_reference.margin


def _to_sample(seed: SeedRecord) -> float | None:
    return None if seed.nearest_sample is None else seed.nearest_sample.margin


def hanging(record: AuditRecord) -> str | None:
    """Return what a verdict would be by other quantiles, None where it would be the same."""
    verdict = record.verdict
    if not verdict.hangs_on_threshold:
        return None
    parts = [
        f"{word} by {thresholds} thresholds (the {alpha} quantile of the same distances)"
        for word, thresholds, alpha in (
            (verdict.strict, "stricter", "0.3%"),
            (verdict.loose, "looser", "3%"),
        )
        if word not in (None, verdict.state)
    ]
    return f"It would be {' and '.join(parts)}."
