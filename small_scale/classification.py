"""States of a synthetic set (Eq. 9-11) from distances that are measured once and kept.

Nothing here needs a model: thresholds can be set again, also by hand, from the distances alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from m2g_audit.pictures.tensors import is_failed
from m2g_audit.similarity import Metric, nearest
from m2g_audit.verdict.intervals import Interval
from m2g_audit.verdict.shares import find_shares
from m2g_audit.verdict.states import State, classify
from m2g_audit.verdict.thresholds import Thresholds
from small_scale.arrays import damaged, load_arrays, save_arrays
from small_scale.histogram_thresholds import Rule, Threshold, find_threshold, phase_of, rate_in
from small_scale.models.pictures import Pictures, in_colour

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
TOP = 4
STATES = (State.MEMORIZED, State.SPURIOUS, State.GENERALIZED)

RuleName = Literal["per-K", "fixed"]
RULES: tuple[RuleName, ...] = ("per-K", "fixed")
"""Thresholds from each K's own histograms, as the paper has them; and one pair for all K."""


@dataclass(frozen=True)
class Neighbours:
    """Distances of the n samples of S', and of pictures never trained on.

    `training`, `training_rows` and `samples`, `sample_rows` [n, k]: the nearest k <= 4 pictures of
    S and of the other samples, nearest first. `control` [n, r]: the nearest picture of r sets that
    the model never saw, of `n_control` each: as many as S has where there are so many. `fresh` [m]:
    of held-out pictures to S; `among_fresh` [m']: of pictures outside S among as many as S' has, or
    all there are (`rate_in` allows for fewer). `failed` [n]: flat or non-finite samples.
    """

    training: FloatArray
    training_rows: IntArray
    samples: FloatArray
    sample_rows: IntArray
    control: FloatArray
    n_control: int
    fresh: FloatArray
    among_fresh: FloatArray
    failed: NDArray[np.bool_]

    def save(self, path: Path) -> None:
        """Writes all to one file, whole or not at all."""
        save_arrays(path, {name: np.asarray(value) for name, value in asdict(self).items()})

    @classmethod
    def load(cls, path: Path) -> Neighbours:
        """What `save` wrote; OutputError where it is damaged."""
        values = load_arrays(path)
        if values.keys() != {each.name for each in fields(cls)}:
            raise damaged(path, "it holds other arrays than distances")
        n_control = int(values.pop("n_control"))
        found = cls(**values, n_control=n_control)
        if not found._fits():
            raise damaged(path, "its arrays are no distances of one set of samples")
        return found

    def _fits(self) -> bool:
        """Whether there is a row of each sample, and no distance is NaN or negative."""
        n = len(self.failed)
        tables = (self.training, self.training_rows, self.samples, self.sample_rows, self.control)
        flat = (self.failed, self.fresh, self.among_fresh)
        distances = (self.training, self.samples, self.control, self.fresh, self.among_fresh)
        return (
            all(each.ndim == 2 and len(each) == n for each in tables)
            and all(each.ndim == 1 and len(each) for each in flat)
            and all(bool((each >= 0).all()) for each in distances)
        )


def find_neighbours(metric: Metric, synthetic: Tensor, pictures: Pictures, K: int) -> Neighbours:
    """The neighbours of a synthetic set, uint8 [n, c, h, w], of the model trained on S_K."""
    samples, training, fresh, unseen = (
        metric.embed(in_colour(images))
        for images in (
            synthetic,
            pictures.training(K),
            pictures.fresh,
            pictures.unseen(K, len(synthetic)),
        )
    )
    controls = [metric.embed(in_colour(images)) for images in pictures.controls(K)]
    failed = is_failed(synthetic.float() / 255)
    to_training, rows = nearest(metric, samples, training, min(TOP, K))
    # A failed sample is nobody's duplicate.
    usable = np.flatnonzero(~failed)
    among = np.full((len(samples), TOP), np.inf)
    among_rows = np.zeros((len(samples), TOP), np.int64)
    found, where = nearest(metric, samples[usable], samples[usable], TOP, exclude_self=True)
    among[usable], among_rows[usable] = found, usable[where]
    return Neighbours(
        training=to_training,
        training_rows=rows,
        samples=among,
        sample_rows=among_rows,
        control=np.column_stack([nearest(metric, samples, each)[0][:, 0] for each in controls]),
        n_control=len(controls[0]),
        fresh=nearest(metric, fresh, training)[0][:, 0],
        among_fresh=nearest(metric, unseen, unseen, exclude_self=True)[0][:, 0],
        failed=failed,
    )


@dataclass(frozen=True)
class Classified:
    """A synthetic set with its states under one pair of thresholds.

    `shares`: of the samples that did not fail, with simultaneous intervals; they belong to |S'|.
    `false_memorized`: the share within delta_m of `n_control` pictures that the model never saw,
    the mean over the sets of them.
    """

    K: int
    seed: int
    rule: RuleName
    delta_m: Threshold
    delta_s: Threshold
    states: list[State]
    shares: Mapping[State, Interval]
    false_memorized: float
    n_control: int

    @property
    def n(self) -> int:
        """Samples that did not fail."""
        return sum(state != State.FAILED for state in self.states)

    def of(self, state: State) -> IntArray:
        """Which samples are in a state."""
        return np.flatnonzero(np.array(self.states, dtype=str) == state.value)

    def enough(self, state: State, share: float = 0.001) -> bool:
        """Whether a state has at least 0.1% of the set: statistics of fewer are left out (C.2)."""
        return bool(len(self.of(state)) >= max(1.0, share * len(self.states)))


def thresholds_per_K(neighbours: Neighbours) -> tuple[Threshold, Threshold]:
    """delta_m and delta_s of one model from its own two histograms."""
    valid, among = ~neighbours.failed, neighbours.among_fresh
    return (
        find_threshold(neighbours.training[valid, 0], neighbours.fresh),
        find_threshold(
            neighbours.samples[valid, 0], among, rate_in(len(neighbours.samples), len(among))
        ),
    )


def fixed_thresholds(pairs: Sequence[tuple[Threshold, Threshold]]) -> tuple[float, float]:
    """One delta_m and delta_s for all K: the least of the fresh pictures' 1% quantiles.

    `pairs`: those of each K by its own histograms. No histogram of a synthetic set has a part in
    the result, so it cannot make a peak.
    """
    delta_m, delta_s = zip(*pairs, strict=True)
    return min(each.fresh for each in delta_m), min(each.fresh for each in delta_s)


def classify_set(
    neighbours: Neighbours,
    pair: tuple[Threshold, Threshold],
    metric: str,
    K: int,
    seed: int,
    rule: RuleName,
) -> Classified:
    """The states of a synthetic set under a pair (delta_m, delta_s)."""
    delta_m, delta_s = pair
    thresholds = Thresholds(
        metric=metric,
        delta_m=delta_m.value,
        delta_s=delta_s.value,
        source=rule,
        n_controls=delta_m.n_fresh,
        calibrated=True,
    )
    states = classify(
        neighbours.training[:, 0],
        neighbours.samples[:, 0],
        thresholds,
        reference_complete=True,
        failed=neighbours.failed,
    )
    duplicates = (neighbours.samples <= delta_s.value).sum(axis=1)
    shares = find_shares(
        states, has_reference=True, reference_complete=True, n_duplicates=duplicates.tolist()
    ).intervals
    valid = ~neighbours.failed
    return Classified(
        K=K,
        seed=seed,
        rule=rule,
        delta_m=delta_m,
        delta_s=delta_s,
        states=states,
        shares=shares,
        false_memorized=float((neighbours.control[valid] <= delta_m.value).mean()),
        n_control=neighbours.n_control,
    )


def with_values(
    pair: tuple[Threshold, Threshold],
    values: tuple[float | None, float | None],
    rule: Rule,
    neighbours: Neighbours,
) -> tuple[Threshold, Threshold]:
    """The pair of one model with other values, where they are not None, found by `rule`."""
    valid = ~neighbours.failed
    delta_m, delta_s = (
        each
        if value is None
        else replace(each, value=value, rule=rule, phase=phase_of(distances[valid, 0], value))
        for each, value, distances in zip(
            pair, values, (neighbours.training, neighbours.samples), strict=True
        )
    )
    return delta_m, delta_s
