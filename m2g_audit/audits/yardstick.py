"""What generations are judged by: S, thresholds, their power, and what the model does anyway.

Thresholds come from the first of these that applies (DEFINITIONS: Thresholds): pictures that the
model never saw, S without each of its pictures, the base's generations, the model's own control
prompts, a published rule of thumb. Numbers given by hand go before all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray

from m2g_audit.diagnostics.numerics import seed_for
from m2g_audit.errors import NumericsError, UsageError
from m2g_audit.files import cache_folder
from m2g_audit.models.model_folder import POCKET
from m2g_audit.pictures.tensors import is_failed
from m2g_audit.pocket.truth_table import TruthTable, load_table
from m2g_audit.references import kept_nulls, power
from m2g_audit.references.controls import Controls, ControlSettings, all_among, load_prompts
from m2g_audit.references.nulls import Null, Nulls, find_nulls
from m2g_audit.references.power import Plants, Power, power_of
from m2g_audit.references.reference import ReferenceSet
from m2g_audit.verdict.screening import ControlResult, Findings, look_into
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

if TYPE_CHECKING:
    from pathlib import Path

    from m2g_audit.audits.request import Setup
    from m2g_audit.progress import Progress
    from m2g_audit.records.record import ReferenceFiles
    from m2g_audit.references.reference import Reference
    from m2g_audit.similarity import Metric

FloatArray = NDArray[np.float64]

FEW = 500
"""Under so many pictures the 1% quantile rests on a handful, and planted copies hold it up."""
OVERLAP = 0.01
"""Of unseen pictures at most this share may near-duplicate S."""
PROBE_PROMPTS, PROBE_SEEDS = 16, 2
BASE_PROMPTS = 13
"""With |S'| seeds each they give 208 pictures of the base; 200 are needed."""

_OTHER_KIND = 1.5
_NAMED = 10


@dataclass(frozen=True)
class Yardstick:
    """What the generations of every prompt are judged by.

    files: how those of S were read, where it is a folder; plants: planted copies, None where they
    were not measured; findings: about the model, None without control prompts; thumb: the published
    rule of thumb that a calibration must not contradict; near_duplicates: up to which distance two
    pictures of S are, None where no ratio is taken; notes: what was noticed on the way, a sentence
    each; by_caption: pocket's thresholds of a caption of its own.
    """

    reference: Reference | None
    thresholds: Thresholds
    files: ReferenceFiles | None = None
    plants: Plants | None = None
    findings: Findings | None = None
    thumb: Thresholds | None = None
    near_duplicates: float | None = None
    notes: tuple[str, ...] = ()
    by_caption: Mapping[str, Thresholds] = field(default_factory=dict)

    @property
    def power(self) -> Power | None:
        """Return the share of planted copies that the thresholds find."""
        return None if self.plants is None else power_of(self.plants, self.thresholds)

    def of(self, prompt: str, negative_prompt: str | None = None) -> Yardstick:
        """Return the yardstick of one prompt: pocket has thresholds for each of its captions."""
        if prompt not in self.by_caption or negative_prompt is not None:
            return self
        return replace(self, thresholds=self.by_caption[prompt])


def find_yardstick(
    setup: Setup,
    reference: Reference | None,
    unseen: ReferenceSet | None,
    prompts: Sequence[str],
    on_progress: Progress,
) -> Yardstick:
    """Return what generations of `prompts` are judged by.

    Raises UsageError where the metric has no rule of thumb and nothing else gives thresholds and
    for unseen pictures that overlap the reference; NumericsError where no picture can be planted.
    """
    if setup.request.model == POCKET and setup.contents is None:
        table = load_table()
        if table.metric == setup.metric.name and not _by_hand(setup):
            return _of_pocket(setup, table, reference)
    plants = _plants(setup, reference, on_progress)
    found = _find(setup, reference, unseen, plants, prompts, on_progress)
    return replace(
        found,
        plants=plants,
        thumb=published_rule(setup.metric.name),
        findings=found.findings or _probe(setup, reference, found.thresholds, on_progress),
    )


def controls_of(setup: Setup, reference: Reference | None) -> Controls | None:
    """Return the control prompts that an audit runs on its model, None where they mean nothing.

    With S or a base they only tell what the model does for any prompt: two seeds of 16 prompts, or
    of all that are asked for. Without, all of them with |S'| seeds give the thresholds, if asked.
    Of the reference only the hash is looked at.
    """
    request = setup.request
    if request.model == POCKET:
        return None
    prompts = load_prompts(request.control_prompts)
    seeds = PROBE_SEEDS
    if not request.controls and request.control_prompts is None:
        prompts = _chosen(prompts, PROBE_PROMPTS)
    elif _gives_thresholds(setup):
        seeds = S_PRIME
    return _controls(setup, setup.pipeline, prompts, seeds, reference)


def _gives_thresholds(setup: Setup) -> bool:
    """Whether own control prompts are what thresholds come from."""
    asked = setup.request.controls or setup.request.control_prompts is not None
    other = setup.settings.reference is not None or setup.base is not None or _by_hand(setup)
    return asked and not other


def base_controls(
    setup: Setup, prompts: Sequence[str], reference: Reference | None
) -> Controls | None:
    """Return the prompts that the base runs, audited ones first, None without a base."""
    if setup.base is None:
        return None
    chosen = _chosen(list(dict.fromkeys(prompts)), BASE_PROMPTS)
    more = [p for p in load_prompts(setup.request.control_prompts) if p not in chosen]
    filled = [*chosen, *_chosen(more, BASE_PROMPTS - len(chosen))]
    return _controls(setup, setup.base, filled, S_PRIME, reference)


def images_needed(setup: Setup, prompts: Sequence[str]) -> int:
    """Return how many pictures besides the prompts' own an audit still has to make."""
    reference = cast("Reference | None", setup.contents)
    runs = [controls_of(setup, reference), base_controls(setup, prompts, reference)]
    needed = sum(run.images_needed for run in runs if run is not None)
    if setup.request.model != POCKET and power.load(_plants_file(setup, reference)) is None:
        # A plant takes a few steps, its decoding as long as some more.
        needed += power.PLANTS // 16 + (0 if reference is not None else PROBE_PROMPTS)
    return needed


def _controls(
    setup: Setup, pipeline: object, prompts: Sequence[str], seeds: int, reference: Reference | None
) -> Controls:
    settings = setup.settings
    return Controls(
        pipeline=pipeline,  # type: ignore[arg-type]
        metric=setup.metric,
        settings=ControlSettings(
            seeds_per_prompt=seeds,
            steps=settings.steps,
            guidance=settings.guidance,
            scheduler=settings.scheduler,
        ),
        prompts=prompts,
        reference=reference,
        cache_dir=cache_folder("controls"),
    )


def _chosen(prompts: Sequence[str], count: int) -> list[str]:
    """At most `count` of the prompts, the same ones in every run."""
    if len(prompts) <= count:
        return list(prompts)
    numbers = np.random.default_rng(0).choice(len(prompts), count, replace=False)
    return [prompts[int(i)] for i in sorted(numbers)]


# -- the rules, in order


def _find(
    setup: Setup,
    reference: Reference | None,
    unseen: ReferenceSet | None,
    plants: Plants,
    prompts: Sequence[str],
    on_progress: Progress,
) -> Yardstick:
    if _by_hand(setup):
        return Yardstick(reference, _given(setup, reference))
    base = _base_results(setup, prompts, reference, on_progress)
    if isinstance(reference, ReferenceSet):
        return _from_pictures(setup, reference, unseen, plants, base, on_progress)
    if reference is not None:  # pocket's own, by a distance that its table has not
        return Yardstick(reference, rule_of_thumb(setup.metric.name))
    if base is not None:
        return Yardstick(None, _from_base(setup, base, capped=False))
    controls = controls_of(setup, None)
    if controls is None or not _gives_thresholds(setup):
        return Yardstick(None, rule_of_thumb(setup.metric.name))
    return _from_controls(setup, controls, on_progress)


def _by_hand(setup: Setup) -> bool:
    return setup.request.delta_m is not None or setup.request.delta_s is not None


def _given(setup: Setup, reference: Reference | None) -> Thresholds:
    return Thresholds(
        metric=setup.metric.name,
        delta_m=setup.request.delta_m if reference is not None else None,
        delta_s=setup.request.delta_s,
        source="given by hand",
        n_controls=0,
        calibrated=False,
        rule=Rule.BY_HAND,
    )


def _from_pictures(
    setup: Setup,
    reference: ReferenceSet,
    unseen: ReferenceSet | None,
    plants: Plants,
    base: Sequence[ControlResult] | None,
    on_progress: Progress,
) -> Yardstick:
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
        **_compared_by(setup),
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
        thresholds = _from_base(setup, base, capped=True)
    return Yardstick(reference, thresholds, notes=(*notes, few))


def _from_base(setup: Setup, base: Sequence[ControlResult], *, capped: bool) -> Thresholds:
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


def _from_controls(setup: Setup, controls: Controls, on_progress: Progress) -> Yardstick:
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


def _base_results(
    setup: Setup, prompts: Sequence[str], reference: Reference | None, on_progress: Progress
) -> list[ControlResult] | None:
    controls = base_controls(setup, prompts, reference)
    if controls is None:
        return None
    return controls.run(setup.settings.batch_size, partial(on_progress, "the base"))


def _probe(
    setup: Setup, reference: Reference | None, thresholds: Thresholds, on_progress: Progress
) -> Findings | None:
    controls = controls_of(setup, reference)
    if controls is None:
        return None
    report = partial(on_progress, "control prompts")
    results = controls.run(setup.settings.batch_size, report)
    return look_into(results, controls.settings.seeds_per_prompt, thresholds)


# -- planted copies


def _plants(setup: Setup, reference: Reference | None, on_progress: Progress) -> Plants:
    """Planted copies of this model, as an earlier audit left them if it did."""
    path = _plants_file(setup, reference)
    kept = power.load(path)
    if kept is not None:
        return kept
    plants = power.plant(
        setup.pipeline,
        setup.metric,
        _to_plant(setup, reference),
        None if reference is None else lambda images: reference.nearest(setup.metric, images)[0],
        on_progress=partial(on_progress, "planted copies"),
    )
    power.save(path, plants)
    return plants


def _plants_file(setup: Setup, reference: Reference | None) -> Path:
    settings = setup.settings
    sampling: dict[str, object] = {}
    if reference is None:  # the pictures are the model's own
        prompts = load_prompts(setup.request.control_prompts)
        sampling = {
            "steps": settings.steps,
            "guidance": settings.guidance,
            "prompts": _chosen(prompts, PROBE_PROMPTS),
        }
    identity = {
        **_compared_by(setup),
        "reference": None if reference is None else reference.sha256,
        **sampling,
    }
    return power.cache_file(cache_folder("power"), identity)


def _compared_by(setup: Setup) -> dict[str, object]:
    """What pictures look like through this model, and the distance between them."""
    return {
        "model": setup.pipeline.identity.sha256,
        "configuration": setup.pipeline.identity.configuration_sha256,
        "dtype": setup.pipeline.identity.dtype,
        "metric": setup.metric.name,
        "metric_weights": setup.metric.weights_sha256,
    }


def _to_plant(setup: Setup, reference: Reference | None) -> torch.Tensor:
    """Pictures of S, [n, 3, h, w] in [0, 1]; without one the model's own for control prompts."""
    if reference is not None:
        count = min(power.PLANTS // 2, len(reference.names))
        numbers = np.random.default_rng(0).choice(len(reference.names), count, replace=False)
        pictures = [reference.picture(int(i)).float() / 255 for i in sorted(numbers)]
        return torch.stack(pictures)
    prompts = _chosen(load_prompts(setup.request.control_prompts), PROBE_PROMPTS)
    images = setup.pipeline.generate(
        prompts,
        [seed_for(0, f"plant {prompt}", 0) for prompt in prompts],
        steps=setup.settings.steps,
        guidance=setup.settings.guidance,
        batch_size=setup.settings.batch_size,
        scheduler=setup.request.scheduler,
    ).images
    failed = torch.from_numpy(is_failed(images))
    if failed.all():  # plants of blank pictures would all be found
        raise NumericsError(
            f"The pictures of {len(prompts)} control prompts are all blank or not finite. Use "
            "--dtype float32, or --control-prompts of what the model was taught."
        )
    return images[~failed]


# -- pocket


def _of_pocket(setup: Setup, table: TruthTable, reference: Reference | None) -> Yardstick:
    """Pocket's own thresholds, caption by caption, and its power, as its truth was measured."""
    ours = table.model_sha256 == setup.pipeline.identity.sha256
    source = "" if ours else ", measured with other weights than these"

    def used(thresholds: Thresholds) -> Thresholds:
        return replace(thresholds, source=f"{thresholds.source}{source}", calibrated=ours)

    return Yardstick(
        reference,
        used(table.thresholds),
        plants=table.plants,
        by_caption={row.caption: used(table.thresholds_of(row)) for row in table.captions},
    )
