"""The basin of attraction of a sample: critical time, radius and log-volume (Alg. 1, Eq. 34).

`critical_time` searches by bisection, many samples at once; `algorithm1` is the paper's search as
printed, which looks at one time after the other. The authors' code differs from the print: it
starts t_c at 1 and stops a batch of samples only when all of them have stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from math import ceil, log2

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln
from torch import Tensor

from m2g_audit.diagnostics.numerics import check_finite, in_batches, noises_for, seed_for
from m2g_audit.diagnostics.score_model import ScoreModel, ddim, ddim_timesteps, perturb
from m2g_audit.errors import UsageError
from m2g_audit.progress import OnProgress

Distance = Callable[[Float[Tensor, " b *shape"], Float[Tensor, " b *shape"]], Float[Tensor, " b"]]
"""Called with the denoisings done, and the most that the search is expected to need."""

Checks = dict[int, Bool[np.ndarray, " M"]]
"""Index in the grid -> which trials recovered there."""

COARSE = 4


@dataclass(frozen=True, eq=False)
class Basin:
    """What a search finds for one sample with M trials.

    `critical_time`: t_c of the sample, a 0-based index, 0 where even the first check failed.
    `times`: t_c of each trial, at most that of the sample, 0 where the trial never recovered.
    `radii`: R, the distance of the sample to the trial's perturbation at its t_c, or where it never
    recovered at t = 1 (with R = 0 the log-volume would be minus infinity). `checked` and
    `recovery`: the times, ascending, at which all trials were looked at, and the share of them that
    recovered. `stopped`: whether that share fell under delta_p; else the search reached the end of
    the schedule. `denoisings`: perturbations led back; `evaluations`: of the network, for them.
    """

    critical_time: int
    times: Int[np.ndarray, " M"]
    radii: Float[np.ndarray, " M"]
    log_volumes: Float[np.ndarray, " M"]
    checked: Int[np.ndarray, " c"]
    recovery: Float[np.ndarray, " c"]
    stopped: bool
    denoisings: int
    evaluations: int

    @property
    def never_recovered(self) -> float:
        """The share of trials with t_c = 0, whose radius is that of t = 1."""
        return float((self.times == 0).mean())


@dataclass(frozen=True)
class CriticalTimeSearch:
    """The numbers of a search for critical times, by default the paper's (App. C.1), all data sets.

    delta_d: up to this distance a sample counts as recovered; delta_p: the share of trials that
    has to; trials: M; steps: N', of DDIM; stride: s, steps of the schedule between checks.
    """

    delta_d: float
    delta_p: float = 0.8
    trials: int = 20
    steps: int = 10
    stride: int = 10


@torch.no_grad()
def critical_time(
    model: ScoreModel,
    x0: Float[Tensor, " n *shape"],
    distance: Distance,
    *,
    search: CriticalTimeSearch,
    coarse: int = COARSE,
    seeds: Sequence[int],
    block: int = 32,
    on_progress: OnProgress | None = None,
) -> list[Basin]:
    """The basins of n samples, by bisection over the times 1, 1 + stride, ... of Alg. 1.

    Each trial has one noise, which belongs to (seed of its sample, trial), for all t. At a check of
    t all trials of a sample are led back by min(steps, t) steps of DDIM; one has recovered where
    `distance(recovered, x_0)` is at most `delta_d`, and t passes where `delta_p` of them have.

    t_c of a sample passes, as does every check below it, and the next time of the grid fails or
    there is none. Checked are first `coarse` times spread evenly over the grid, the last at its
    end, upwards until one fails; then the gap below that one is bisected. Where all passing times
    lie below all failing ones this is the largest passing time. Where recovery is lost and comes
    back, the loss is noticed for certain if it is longer than a 1/coarse of the grid.

    t_c of a trial is that of its sample if it recovered at every check up to there. Otherwise the
    gap below the first check that it failed is bisected for this trial alone. So times, radii and
    log-volumes are those of `algorithm1` under the same noise, wherever recovery once lost stays
    lost; the number of denoisings grows with the logarithm of the grid. Measured on 16 samples of
    pocket (benchmarks/results/critical_time.md): t_c that of Alg. 1 in all 16, by 9.4 times fewer
    evaluations; other noise alone moves Alg. 1's by 20 (median, largest 40).

    All samples advance together: what they ask for at the same t shares network calls of up to
    `block` items, which changes nothing else, as samples do not change each other. Raises
    UsageError for a stride longer than the schedule, ValueError where there is not one seed for
    each sample, NumericsError for a network that overflows, ResourceError if one trial does not fit
    in memory.
    """
    if len(seeds) != len(x0):
        raise ValueError(f"need one seed for each of {len(x0)} samples, got {len(seeds)}")
    grid = np.array(check_times(len(model.schedule), search.stride))
    most = len(x0) * most_denoisings(len(grid), search, coarse)
    trials = _Trials(
        model,
        x0,
        seeds,
        distance,
        search,
        block,
        shared_noise=True,
        on_denoised=partial(_report, on_progress, most),
    )
    last, seen = _search_samples(trials, grid, search, _coarse_checks(len(grid), coarse))
    trial_last = _search_trials(trials, grid, search.trials, last, seen)
    times = np.append(grid, 0)  # index -1, below the first check, is no time at all
    return [
        trials.basin(
            i,
            critical_time=int(times[last[i]]),
            times=times[trial_last[i]],
            recovery={int(grid[k]): float(row.mean()) for k, row in sorted(seen[i].items())},
            stopped=bool(last[i] < len(grid) - 1),
        )
        for i in range(len(x0))
    ]


@torch.no_grad()
def algorithm1(
    model: ScoreModel,
    x0: Float[Tensor, " *shape"],
    distance: Distance,
    *,
    search: CriticalTimeSearch,
    seed: int,
    shared_noise: bool = False,
    block: int = 32,
    on_progress: OnProgress | None = None,
) -> Basin:
    """The basin of one sample by Alg. 1 as printed.

    At t = 1, 1 + stride, ... up to T - stride - 1, fresh noise is added and min(steps, t) steps of
    DDIM lead back; a trial has recovered where `distance(recovered, x_0)` is at most `delta_d`. A
    trial that fails once keeps its t_c; the search ends where fewer than `delta_p` recover. Noise
    belongs to (seed, t, trial), so that `block`, the items in one network call, changes nothing.
    With `shared_noise`, which is not in the paper, it is that of `critical_time` for the same seed.
    Raises UsageError for a stride longer than the schedule, NumericsError for a network that
    overflows, ResourceError if one trial does not fit in memory.
    """
    grid = check_times(len(model.schedule), search.stride)
    trials = _Trials(
        model,
        x0[None],
        [seed],
        distance,
        search,
        block,
        shared_noise,
        on_denoised=partial(_report, on_progress, search.trials * len(grid)),
    )
    reached = 0
    times = np.zeros(search.trials, dtype=np.int64)
    going = np.ones(search.trials, dtype=bool)
    recovery: dict[int, float] = {}
    for t in grid:
        recovered = trials.recovered([(0, trial, t) for trial in range(search.trials)])
        recovery[t] = float(recovered.mean())
        if not _passes(recovered, search.delta_p):
            break
        reached = t
        going &= recovered
        times[going] = t
    return trials.basin(
        0,
        critical_time=reached,
        times=times,
        recovery=recovery,
        stopped=reached < grid[-1],
    )


def check_times(schedule: int, stride: int) -> range:
    """The times 1, 1 + stride, ..., T - stride - 1 of Alg. 1 on a schedule of T steps.

    Raises UsageError where there is none.
    """
    last = schedule - stride - 1
    if stride < 1 or last < 1:
        raise UsageError(
            f"A stride of {stride} leaves no time to check on a schedule of {schedule} steps: give "
            f"1 to {schedule - 2}."
        )
    return range(1, last + 1, stride)


def most_denoisings(times: int, search: CriticalTimeSearch, coarse: int = COARSE) -> int:
    """The most denoisings for one sample in `critical_time` on a grid of so many times.

    Checks of all trials; and those of single trials, as many as may have failed at a check that
    passed. It is more only where different trials fail at different checks and recover above.
    """
    checks = _coarse_checks(times, coarse)
    gaps = [high - low for low, high in pairwise([-1, *checks, times])]
    depths = [ceil(log2(gap)) for gap in gaps]
    whole = max(min(k + 1, len(checks)) + depth for k, depth in enumerate(depths))
    return search.trials * whole + round(search.trials * (1 - search.delta_p)) * max(depths)


def log_volume(N: int, radii: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The natural logarithms of the volumes of N-balls, Eq. 34 (Eq. 12): -inf for radius 0.

    >>> np.exp(log_volume(2, np.array([1.0]))).round(4).tolist()  # pi r^2
    [3.1416]
    """
    with np.errstate(divide="ignore"):
        return N / 2 * np.log(np.pi) - gammaln(N / 2 + 1) + N * np.log(radii)


def _report(on_progress: OnProgress | None, most: int, done: int) -> None:
    if on_progress is not None:
        on_progress(done, most)


def _passes(recovered: Bool[np.ndarray, " M"], delta_p: float) -> bool:
    return float(recovered.mean()) >= delta_p


def _coarse_checks(times: int, coarse: int) -> Int[np.ndarray, " c"]:
    """Indices spread evenly over 0 .. times-1, the last at its end."""
    return np.unique([ceil(times * k / coarse) - 1 for k in range(1, coarse + 1)]).astype(int)


def _search_samples(
    trials: _Trials,
    grid: Int[np.ndarray, " g"],
    search: CriticalTimeSearch,
    coarse: Int[np.ndarray, " c"],
) -> tuple[Int[np.ndarray, " n"], list[Checks]]:
    """The index of each sample's t_c in the grid, -1 for none, and what was seen on the way."""
    seen: list[Checks] = [{} for _ in trials.seeds]

    def passes(samples: Int[np.ndarray, " k"], at: Int[np.ndarray, " k"]) -> np.ndarray:
        pairs = [(int(i), int(k)) for i, k in zip(samples, at, strict=True)]
        asked = [(i, trial, int(grid[k])) for i, k in pairs for trial in range(search.trials)]
        table = trials.recovered(asked).reshape(-1, search.trials)
        for (i, k), row in zip(pairs, table, strict=True):
            seen[i][k] = row
        return np.array([_passes(row, search.delta_p) for row in table])

    whole = np.tile([-1, len(grid)], (len(trials.seeds), 1))
    return _bisect(whole, coarse, passes), seen


def _search_trials(
    trials: _Trials,
    grid: Int[np.ndarray, " g"],
    count: int,
    last: Int[np.ndarray, " n"],
    seen: list[Checks],
) -> Int[np.ndarray, " n M"]:
    """The index of each trial's t_c in the grid, -1 for none."""

    def passes(which: Int[np.ndarray, " k"], at: Int[np.ndarray, " k"]) -> np.ndarray:
        return trials.recovered(
            [
                (int(w) // count, int(w) % count, int(grid[k]))
                for w, k in zip(which, at, strict=True)
            ]
        )

    gaps = [_trial_gaps(checks, int(k), count) for checks, k in zip(seen, last, strict=True)]
    pairs = np.array(gaps, dtype=int).reshape(-1, 2)
    return _bisect(pairs, np.array([], dtype=int), passes).reshape(-1, count)


def _trial_gaps(checks: Checks, last: int, trials: int) -> Int[np.ndarray, "M 2"]:
    """For each trial (its last check before it fails, its first failed one), up to check `last`.

    Where a trial failed at none of them there is nothing between the two.
    """
    below = sorted(k for k in checks if k <= last)
    table = np.array([checks[k] for k in below]).reshape(-1, trials)
    kept = np.cumprod(table, axis=0).sum(axis=0).astype(int)
    bounds = np.array([-1, *below, last + 1])
    return np.stack([bounds[kept], bounds[kept + 1]], axis=1)


def _bisect(
    gaps: Int[np.ndarray, "n 2"],
    coarse: Int[np.ndarray, " c"],
    passes: Callable[[Int[np.ndarray, " k"], Int[np.ndarray, " k"]], Bool[np.ndarray, " k"]],
) -> Int[np.ndarray, " n"]:
    """The index below the first failure that each of n searches finds in its gap (passed, failed).

    Each looks at the lowest of `coarse` inside its gap, or where there is none at the middle.
    `passes` answers (searches, indices) of one round for all searches that are not done.
    """
    low, high = gaps[:, 0].copy(), gaps[:, 1].copy()
    while (which := np.flatnonzero(high - low > 1)).size:
        at = (low[which] + high[which]) // 2
        for k, i in enumerate(which):
            inside = coarse[(coarse > low[i]) & (coarse < high[i])]
            at[k] = inside[0] if inside.size else at[k]
        passed = passes(which, at)
        low[which[passed]], high[which[~passed]] = at[passed], at[~passed]
    return low


@dataclass
class _Trials:
    """Perturbations of n samples, led back from any t; counts what that takes, by sample."""

    model: ScoreModel
    x0: Float[Tensor, " n *shape"]
    seeds: Sequence[int]
    distance: Distance
    search: CriticalTimeSearch
    block: int
    shared_noise: bool
    on_denoised: Callable[[int], None]
    denoisings: Int[np.ndarray, " n"] = field(init=False)
    evaluations: Int[np.ndarray, " n"] = field(init=False)

    def __post_init__(self) -> None:
        self.x0 = self.x0.to(self.model.device, self.model.dtype)
        self.denoisings, self.evaluations = np.zeros((2, len(self.x0)), dtype=np.int64)

    def recovered(self, asked: Sequence[tuple[int, int, int]]) -> Bool[np.ndarray, " k"]:
        """Whether each (sample, trial, t) recovers, whatever stands beside it."""
        found = np.zeros(len(asked), dtype=bool)
        for t in sorted({t for _, _, t in asked}):
            rows = [k for k, item in enumerate(asked) if item[2] == t]
            pairs = [asked[k][:2] for k in rows]
            found[rows] = self._recovered_from(pairs, t)
            samples = [i for i, _ in pairs]
            calls = len(ddim_timesteps(t, self.search.steps)) * self.model.evaluations_per_call
            np.add.at(self.denoisings, samples, 1)
            np.add.at(self.evaluations, samples, calls)
            self.on_denoised(int(self.denoisings.sum()))
        return found

    def _recovered_from(self, pairs: Sequence[tuple[int, int]], t: int) -> Bool[np.ndarray, " k"]:
        def work(batch: range) -> Tensor:
            chosen = [pairs[k] for k in batch]
            originals = self.x0[[i for i, _ in chosen]]
            perturbed = self._perturbed(chosen, t)
            clean = ddim(self.model, perturbed, ddim_timesteps(t, self.search.steps))
            return check_finite(self.distance(clean, originals), "the recovered samples")

        parts = in_batches(len(pairs), self.block, work, "one trial of the basin")
        return torch.cat([part for _, part in parts]).double().cpu().numpy() <= self.search.delta_d

    def _perturbed(self, pairs: Sequence[tuple[int, int]], t: int) -> Float[Tensor, " k *shape"]:
        purpose = "basin" if self.shared_noise else f"basin t={t}"
        seeds = [seed_for(self.seeds[i], purpose, trial) for i, trial in pairs]
        noise = noises_for(seeds, self.model.shape).to(self.x0)
        return perturb(self.model.schedule, self.x0[[i for i, _ in pairs]], noise, t)

    def basin(
        self,
        i: int,
        *,
        critical_time: int,
        times: Int[np.ndarray, " M"],
        recovery: dict[int, float],
        stopped: bool,
    ) -> Basin:
        """What was found for one sample, with the radii that belong to the times."""
        radii = np.zeros(len(times))
        for t in np.unique(times):
            trials = np.flatnonzero(times == t)
            perturbed = self._perturbed([(i, int(trial)) for trial in trials], max(int(t), 1))
            reach = (perturbed - self.x0[i]).flatten(1).double().norm(dim=1)
            radii[trials] = reach.cpu().numpy()
        return Basin(
            critical_time=critical_time,
            times=times,
            radii=radii,
            log_volumes=log_volume(self.model.size, radii),
            checked=np.array(list(recovery)),
            recovery=np.array(list(recovery.values())),
            stopped=stopped,
            denoisings=int(self.denoisings[i]),
            evaluations=int(self.evaluations[i]),
        )
