"""Where thresholds come from: pictures, the base, control prompts (DEFINITIONS: Thresholds)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from m2g_audit.audits.planted import compared_by
from m2g_audit.audits.setup import Setup
from m2g_audit.audits.yardstick import Yardstick
from m2g_audit.errors import UsageError
from m2g_audit.files import cache_folder
from m2g_audit.progress import Progress
from m2g_audit.references import kept_nulls, power
from m2g_audit.references.controls import Controls, all_among
from m2g_audit.references.nulls import FloatArray, Null, Nulls, find_nulls
from m2g_audit.references.plants import Plants
from m2g_audit.references.reference import Reference, ReferenceSet
from m2g_audit.similarity import Metric
from m2g_audit.verdict.screening import ControlResult, look_into
from m2g_audit.verdict.states import S_PRIME
from m2g_audit.verdict.thresholds import (
    ALPHA,
    LOOSE_ALPHA,
    STRICT_ALPHA,
    Rule,
    Thresholds,
    least_values,
    low_quantile,
    published_rule,
    quantile_or_smallest,
    rule_of_thumb,
)

FEW = 500
"""Under so many pictures the 1% quantile rests on a handful, and planted copies hold it up."""
OVERLAP = 0.01
"""Of unseen pictures at most this share may near-duplicate S."""

_OTHER_KIND = 1.5
_NAMED = 10


def given_thresholds(setup: Setup, reference: Reference | None) -> Thresholds:
    """Return those given by hand."""
    assert setup.given is not None
    delta_m, delta_s = setup.given
    return Thresholds(
        metric=setup.metric.name,
        delta_m=delta_m if reference is not None else None,
        delta_s=delta_s,
        source="given by hand",
        n_controls=0,
        calibrated=False,
        rule=Rule.BY_HAND,
    )


def from_pictures(
    setup: Setup,
    reference: ReferenceSet,
    unseen: ReferenceSet | None,
    plants: Plants,
    base: Sequence[ControlResult] | None,
    on_progress: Progress,
) -> Yardstick:
    """Return thresholds from unseen pictures, or from S without each of its own."""
    metric = setup.metric
    assert plants.to_reference is not None
    cut = _copies_up_to(plants.to_reference, metric)
    nulls = _nulls(setup, reference, unseen, cut, on_progress)
    null, within = nulls.used, nulls.within
    notes = _near_duplicates(nulls.left_out)
    if nulls.of_unseen is not None:
        notes += _check_unseen(nulls.of_unseen, nulls.left_out)
    if len(null.to_reference) < least_values():
        return _from_few(setup, reference, len(null.to_reference), base, notes)
    few = len(null.to_reference) < FEW

    def pair(alpha: float) -> tuple[float, float]:
        delta_m = quantile_or_smallest(null.to_reference, alpha)
        delta_s = quantile_or_smallest(nulls.among, alpha)
        if few:
            delta_m = max(delta_m, cut)
            delta_s = max(delta_s, _copies_up_to(plants.between, metric))
        return delta_m, delta_s if within is not None else min(delta_s, delta_m)

    ratios = null.ratios[np.isfinite(null.ratios)]
    delta_m, delta_s = pair(ALPHA)
    thresholds = Thresholds(
        metric=metric.name,
        delta_m=delta_m,
        delta_s=delta_s,
        source=_source(null, unseen, within is not None, few),
        n_controls=len(null.to_reference),
        calibrated=True,
        rule=Rule.LEAVE_ONE_OUT if unseen is None else Rule.UNSEEN,
        ratio=low_quantile(ratios) if len(ratios) >= least_values() else None,
        others={alpha: pair(alpha) for alpha in (STRICT_ALPHA, LOOSE_ALPHA)},
    )
    return Yardstick(reference, thresholds, near_duplicates=cut, notes=tuple(notes))


def _nulls(
    setup: Setup,
    reference: ReferenceSet,
    unseen: ReferenceSet | None,
    cut: float,
    on_progress: Progress,
) -> Nulls:
    """Nulls of this reference, as an earlier audit left them if it did."""
    sets = [s for s in (reference, unseen) if s is not None]
    identity = {
        **compared_by(setup),
        "pictures": [s.sha256 for s in sets],
        "captions": [list(s.captions) for s in sets],
        "cut": cut,
    }
    path = kept_nulls.cache_file(cache_folder("thresholds"), identity)
    kept = kept_nulls.load(path)
    if kept is not None:
        return kept
    report = partial(on_progress, "thresholds")
    nulls = find_nulls(reference, unseen, setup.metric, cut, report)
    kept_nulls.save(path, nulls)
    return nulls


def _copies_up_to(planted: FloatArray, metric: Metric) -> float:
    """Up to which distance pictures are near-duplicates: of planted copies 90% are within it.

    At most the published rule of thumb: a model that can't redraw a picture, as one distilled to a
    few steps, plants no copies, and must not have everything counted as one.
    """
    thumb = published_rule(metric.name)
    found = power.high_quantile(planted)
    return found if thumb is None or thumb.delta_m is None else min(found, thumb.delta_m)


def _source(null: Null, unseen: ReferenceSet | None, within: bool, few: bool) -> str:
    n = f"{len(null.to_reference):,}"
    if unseen is None:
        delta_m = f"the distance of {n} pictures of the reference to the rest of it"
    else:
        delta_m = f"the distance of {n} unseen pictures ({unseen.source}) to the reference"
    delta_s = "16 pictures of one caption" if within else "16 of the pictures"
    held = ", held up by planted copies, as these are few" if few else ""
    return f"{ALPHA:.0%} quantiles of {delta_m}, and of the nearest among {delta_s}{held}"


def _near_duplicates(left_out: Null) -> list[str]:
    if not left_out.dropped:
        return []
    return [
        f"{left_out.dropped:,} of {left_out.sampled:,} pictures of the reference near-duplicate "
        "another one of it, and were counted as one with it."
    ]


def _check_unseen(null: Null, left_out: Null) -> list[str]:
    """Refuse unseen pictures that training saw; say it where they are of another kind."""
    notes = []
    if null.overlap:
        names = ", ".join(null.overlap[:_NAMED])
        more = f" and {len(null.overlap) - _NAMED} more" if len(null.overlap) > _NAMED else ""
        said = f"{len(null.overlap):,} of {null.sampled:,} unseen pictures"
        if len(null.overlap) > OVERLAP * null.sampled:
            raise UsageError(
                f"{said} are in the reference, or nearly so: {names}{more}. What training saw can "
                f"set no threshold: take them out of --unseen.{_blind(left_out)}"
            )
        notes.append(f"{said} are in the reference, or nearly so, and were left out: {names}.")
    if len(null.to_reference) and len(left_out.to_reference):
        ratio = float(np.median(null.to_reference) / np.median(left_out.to_reference))
        if not 1 / _OTHER_KIND <= ratio <= _OTHER_KIND:
            notes.append(
                f"The unseen pictures are {ratio:.2g} times as far from the reference as its own "
                "pictures are from each other: they may be of another kind, and their thresholds "
                f"too {'lax' if ratio > 1 else 'strict'}."
            )
    return notes


def _blind(left_out: Null) -> str:
    """What else may be at fault where unseen pictures seem to be in the reference."""
    if 2 * left_out.dropped <= left_out.sampled:
        return ""
    return (
        " Most pictures of the reference near-duplicate each other too: if they do not, this "
        "distance can't tell copies from other pictures, and another --metric may."
    )


def _from_few(
    setup: Setup,
    reference: ReferenceSet,
    left: int,
    base: Sequence[ControlResult] | None,
    notes: list[str],
) -> Yardstick:
    few = (
        f"Only {left} pictures are left to set thresholds with, and {least_values()} are needed. "
        "--unseen FOLDER gives more of the kind, --base MODEL another way."
    )
    if base is None:
        thresholds = rule_of_thumb(setup.metric.name)
    else:
        thresholds = from_base(setup, base, capped=True)
    return Yardstick(reference, thresholds, notes=(*notes, few))


def from_base(setup: Setup, base: Sequence[ControlResult], *, capped: bool) -> Thresholds:
    """Thresholds from generations of the base, which never saw what the fine-tune added."""
    assert setup.base is not None
    thumb = published_rule(setup.metric.name) if capped else None
    to_reference = np.array([d for r in base for d in r.to_reference or ()])
    among = all_among(base)

    def pair(alpha: float) -> tuple[float | None, float]:
        delta_m = quantile_or_smallest(to_reference, alpha) if len(to_reference) else None
        delta_s = quantile_or_smallest(among, alpha)
        if thumb is None or thumb.delta_s is None:
            return delta_m, delta_s
        cap = thumb.delta_s
        return (None if delta_m is None else min(delta_m, cap)), min(delta_s, cap)

    if len(among) < least_values():
        raise UsageError(
            f"Only {len(among)} pictures of the base {setup.base.id} are neither flat nor "
            "non-finite. Give another --base, or --dtype float32."
        )
    delta_m, delta_s = pair(ALPHA)
    said = " to the reference and to each other" if len(to_reference) else " to each other"
    return Thresholds(
        metric=setup.metric.name,
        delta_m=delta_m,
        delta_s=delta_s,
        source=(
            f"{ALPHA:.0%} quantiles of the distance{said} of {len(among):,} pictures of the base "
            f"{setup.base.id} for the same and other prompts"
        ),
        n_controls=len(among),
        calibrated=True,
        rule=Rule.BASE,
        others={alpha: pair(alpha) for alpha in (STRICT_ALPHA, LOOSE_ALPHA)},
    )


def from_controls(setup: Setup, controls: Controls, on_progress: Progress) -> Yardstick:
    """Thresholds from the model's own ordinary prompts, if those neither repeat nor copy."""
    results = controls.run(setup.settings.batch_size, partial(on_progress, "control prompts"))
    thumb = rule_of_thumb(setup.metric.name)
    findings = look_into(results, controls.settings.seeds_per_prompt, thumb)
    among = all_among(results)
    if findings.contaminated or len(among) < least_values():
        why = (
            "Control prompts of this model repeat too, so they can set no threshold: a rule of "
            "thumb stands in."
            if findings.contaminated
            else f"Only {len(among)} pictures of control prompts came out: a rule of thumb stands "
            "in."
        )
        return Yardstick(None, thumb, findings=findings, notes=(why,))
    thresholds = Thresholds(
        metric=setup.metric.name,
        delta_m=None,
        delta_s=low_quantile(among),
        source=(
            f"{ALPHA:.0%} quantile of the nearest among {S_PRIME} pictures of each of "
            f"{len(results)} control prompts of this model itself"
        ),
        n_controls=len(among),
        calibrated=True,
        rule=Rule.CONTROLS,
        others={
            alpha: (None, quantile_or_smallest(among, alpha))
            for alpha in (STRICT_ALPHA, LOOSE_ALPHA)
        },
    )
    return Yardstick(None, thresholds, findings=findings)
