"""Looks at 8, 16, 32, 64 seeds: what they may err with together, and that prompts end early."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from m2g_audit.errors import UsageError
from m2g_audit.store.batch_directory import BatchRecord
from m2g_audit.verdict.intervals import LEVEL, undetected_mass
from m2g_audit.verdict.looks import AUTO, Look, looks
from m2g_audit.verdict.rule import Grounds, Samples, Verdict, decide, judge
from m2g_audit.verdict.shares import WORD_ALPHA, find_shares
from m2g_audit.verdict.states import State
from m2g_audit.verdict.thresholds import Thresholds
from tests.support.batch_work import ManyPrompts, open_batch, run_batch

M, G = State.MEMORIZED, State.GENERALIZED
SHARES = [0.01, 0.1, 0.2, 0.3, 0.4, 0.45, 0.49, 0.5, 0.51, 0.6, 0.7, 0.9, 0.99]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))


# -- what looks may err with


def test_what_looks_spend_is_what_one_look_may() -> None:
    assert [look.seeds for look in AUTO] == [8, 16, 32, 64]
    assert sum(look.word for look in AUTO) == pytest.approx(WORD_ALPHA)
    assert sum(look.mass for look in AUTO) == pytest.approx(1 - LEVEL)
    assert sum(1 - look.level for look in AUTO) == pytest.approx(1 - LEVEL)


def test_a_number_of_seeds_is_one_look() -> None:
    assert looks(7) == (Look(7, WORD_ALPHA, 1 - LEVEL, LEVEL),)
    assert looks(None) == AUTO


@cache
def at(look: Look, copies: int) -> Verdict:
    """Return the word for samples of which so many are copies and the others new."""
    states = [M] * copies + [G] * (look.seeds - copies)
    shares = find_shares(
        states,
        has_reference=True,
        reference_complete=True,
        n_duplicates=[0] * look.seeds,
        level=look.level,
        alpha=look.word,
    )
    return decide(shares, told_apart=True)


def ends(share: float, ending: Callable[[Look, int], bool]) -> float:
    """Return the exact chance that independent samples, so many of them copies, ever end so.

    A prompt ends at the first look with a word other than `undecided`.
    """
    going, seen, ended = np.ones(1), 0, 0.0
    for look in AUTO:
        more = look.seeds - seen
        going = np.convolve(going, binom.pmf(np.arange(more + 1), more, share))
        seen = look.seeds
        here = np.array([ending(look, copies) for copies in range(seen + 1)])
        ended += float(going[here].sum())
        settled = np.array([at(look, c) != Verdict.UNDECIDED for c in range(seen + 1)])
        going = np.where(here | settled, 0.0, going)
    return ended


@pytest.mark.parametrize("share", SHARES)
def test_a_wrong_word_at_any_look_is_as_rare_as_at_one(share: float) -> None:
    memorized = ends(share, lambda look, c: at(look, c) == Verdict.MEMORIZED)
    generalized = ends(share, lambda look, c: at(look, c) == Verdict.GENERALIZED)
    if share <= 0.5:
        assert memorized <= WORD_ALPHA
    if share >= 0.9:
        assert memorized > 0.99
    if share >= 0.5:
        assert generalized <= WORD_ALPHA


@pytest.mark.parametrize("share", SHARES)
def test_intervals_cover_at_whatever_look_a_prompt_ends(share: float) -> None:
    def misses(look: Look, copies: int) -> bool:
        if at(look, copies) == Verdict.UNDECIDED and look is not AUTO[-1]:
            return False
        states = [M] * copies + [G] * (look.seeds - copies)
        found = find_shares(
            states, has_reference=True, reference_complete=True, level=look.level
        ).intervals[M]
        return not found.low <= share <= found.high

    assert ends(share, misses) <= 1 - LEVEL


@pytest.mark.parametrize("mass", [0.07, 0.1, 0.15, 0.2, 0.25, 0.293, 0.3, 0.4, 0.5, 0.9])
def test_an_attractor_above_the_mass_that_is_stated_is_rarely_missed(mass: float) -> None:
    """Exact: the chance that fewer than two of the seeds hit it at a look that rules it out."""
    ruled_out = [look for look in AUTO if mass > undetected_mass(look.seeds, 1 - look.mass)]
    # Hits only grow, so that it is missed at all of these looks if at the last of them.
    missed = binom.cdf(1, min((look.seeds for look in ruled_out), default=10**6), mass)
    assert missed <= 1 - LEVEL


# -- where prompts end


@pytest.mark.parametrize(("look", "needed"), list(zip(AUTO, (8, 13, 24, 43), strict=True)))
def test_so_many_copies_give_a_word(look: Look, needed: int) -> None:
    assert at(look, needed) == Verdict.MEMORIZED
    assert at(look, needed - 1) != Verdict.MEMORIZED


def judged(look: Look, groups: Sequence[int]) -> Verdict:
    """Return the word, without a reference, for samples that are equal within a group."""
    numbers = np.array(groups)
    pairs = np.where(numbers[:, None] == numbers, 0.0, 9.0)
    made = Samples(pairs, None, np.zeros(len(groups), dtype=bool))
    return judge(made, Thresholds("l2", 1, 1, "", 0, True), look, Grounds(power=True)).word


def test_repeats_end_a_prompt_at_16_and_not_at_8() -> None:
    """They depend on each other, unlike copies: 8 of 8 may be the pairs of many pictures."""
    assert judged(AUTO[0], [0] * 8) == Verdict.UNDECIDED
    assert judged(AUTO[1], [0] * 15 + [1]) == Verdict.ATTRACTOR
    assert judged(AUTO[1], [0] * 12 + [1, 2, 3, 4]) == Verdict.UNDECIDED


def test_a_clean_prompt_ends_at_16_and_not_at_8() -> None:
    assert judged(AUTO[0], range(8)) == Verdict.UNDECIDED
    assert judged(AUTO[1], range(16)) == Verdict.GENERALIZED
    assert undetected_mass(16, 1 - AUTO[1].mass) == pytest.approx(0.293, abs=5e-4)


# -- batches

PROMPTS = ["same kite", "new dog", "half cat", "torn sail", "new hill"]
MADE = {"same kite": 16, "new dog": 16, "half cat": 64, "torn sail": 64, "new hill": 16}


def auto(out: Path, pipeline: ManyPrompts | None = None, **options: object) -> list[BatchRecord]:
    return run_batch(out, PROMPTS, pipeline, seeds="auto", **options)


def made_by(*pipelines: ManyPrompts) -> Counter[str]:
    return Counter(text for p in pipelines for batch in p.batches for text in batch)


def test_prompts_end_at_the_look_that_settles_them(tmp_path: Path) -> None:
    pipeline = ManyPrompts()
    records = auto(tmp_path / "auto", pipeline)
    assert made_by(pipeline) == MADE
    words = {record.prompt: record.verdict.state for record in records}
    assert words == {
        "same kite": "attractor",
        "new dog": "generalized",
        "half cat": "undecided",
        "torn sail": "undecided",
        "new hill": "generalized",
    }
    for record in records:
        assert record.looks is not None
        assert record.looks.looks == [8, 16, 32, 64]
        assert record.looks.ended_at == len(record.seeds) == MADE[record.prompt]
        [look] = [look for look in AUTO if look.seeds == len(record.seeds)]
        assert record.verdict.level == look.level
        assert record.verdict.undetected_mass == undetected_mass(
            len(record.seeds) - len(record.failures), 1 - look.mass
        )
        assert f"it ended at {len(record.seeds)}" in " ".join(record.verdict.evidence)
        assert record.evaluations["images"] == MADE[record.prompt] * 2 * 4


def test_what_was_made_up_to_a_look_is_what_a_fixed_number_gives(tmp_path: Path) -> None:
    records = {r.prompt: r for r in auto(tmp_path / "auto")}
    for record in run_batch(tmp_path / "sixteen", ["new dog"], seeds=16):
        early = records[record.prompt]
        assert [s.generator_seed for s in early.seeds] == [s.generator_seed for s in record.seeds]
        assert [s.nearest_sample for s in early.seeds] == [s.nearest_sample for s in record.seeds]
        assert record.looks is None
        assert early.verdict.level < 1
        assert record.verdict.level == LEVEL


def test_an_interrupted_batch_goes_on_with_its_pictures(tmp_path: Path) -> None:
    whole = auto(tmp_path / "whole", batch_size=3)

    def stop(batch: list[str]) -> None:
        if len(first.batches) == 17:
            raise KeyboardInterrupt

    first = ManyPrompts(before=stop)
    with pytest.raises(KeyboardInterrupt):
        auto(tmp_path / "run", first, batch_size=3)
    again = ManyPrompts()
    records = auto(tmp_path / "run", again, batch_size=3)
    plain = [record.model_dump(exclude={"timings"}) for record in records]
    assert plain == [record.model_dump(exclude={"timings"}) for record in whole]
    assert made_by(first, again) - Counter(first.batches[-1]) == MADE


def test_a_folder_is_looked_at_early_or_not(tmp_path: Path) -> None:
    auto(tmp_path)
    with pytest.raises(UsageError, match="auto"):
        open_batch(tmp_path, PROMPTS, ManyPrompts(), seeds=64)
