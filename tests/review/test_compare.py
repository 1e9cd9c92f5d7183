"""Comparing two runs: tests against scipy and closed forms, and what is called worse or chance."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from m2g_audit.cli import main
from m2g_audit.errors import UsageError
from m2g_audit.review.compare import (
    Comparison,
    PValues,
    Side,
    _n_duplicates,
    compare,
    difference,
    fisher_exact,
    p_values,
    wilson,
)
from m2g_audit.store.batch_directory import BatchRecord
from m2g_audit.store.stored_run import StoredRun
from m2g_audit.verdict.states import duplicate_chances
from tests.support.made_run import IDENTITY, THRESHOLDS, Made, gives, make_run
from tests.support.samples import sample_record

COUNT = st.integers(0, 12)


def side(duplicated: int, paired: int = 0, memorized: int | None = None, seeds: int = 16) -> Side:
    """Return what a run says of a prompt with so many duplicated seeds, some of them in pairs."""
    return Side(
        verdict="undecided",
        severity=1,
        seeds=seeds,
        states={},
        memorized=memorized,
        among=seeds,
        duplicated=duplicated,
        paired=paired,
    )


# -- the tests


@given(COUNT, COUNT, COUNT, COUNT)
def test_fishers_test_from_its_definition(a: int, b: int, c: int, d: int) -> None:
    n, m, k = a + b, c + d, a + c
    chances = [math.comb(n, i) * math.comb(m, k - i) for i in range(max(0, k - m), min(n, k) + 1)]
    here = math.comb(n, a) * math.comb(m, k - a)
    expected = sum(one for one in chances if one <= here) / math.comb(n + m, k)
    assert fisher_exact(a, n, c, m) == pytest.approx(expected if n and m else 1.0)


def test_seeds_that_repeat_in_pairs_count_half() -> None:
    assert p_values(side(0), side(6, paired=6)) == PValues(fisher_exact(0, 8, 3, 8), None)
    assert p_values(side(0), side(6)) == PValues(fisher_exact(0, 16, 6, 16), None)
    assert fisher_exact(0, 16, 6, 16) < 0.05 < fisher_exact(0, 8, 3, 8)


def test_the_variance_that_the_design_effect_rests_on() -> None:
    for m in (0.1, 1.0, 3.0):
        x = np.arange(60)
        p = stats.poisson.pmf(x, m)
        repeated = x * (x >= 2)
        mean, square = p @ repeated, p @ repeated**2
        assert square - mean**2 == pytest.approx(mean + 2 * 2 * p[2] - m**2 * math.exp(-2 * m))


@pytest.mark.parametrize("world", [(4, 0.5), (8, 0.5), (16, 0.5), (60, 0.0)])
def test_how_rarely_it_errs_where_nothing_changed(world: tuple[int, float]) -> None:
    """Equally likely pictures, and a share of new ones: duplicates taken for independent seeds
    err more often than in 5%, by their true variance they don't."""
    pictures, novel = world
    n, rng = 16, np.random.default_rng(0)
    p = [(1 - novel) / pictures] * pictures + [novel]
    seen = rng.multinomial(n, p, size=2000)[:, :-1]
    sides = [side(int((x * (x > 1)).sum()), paired=2 * int((x == 2).sum())) for x in seen]
    pairs = list(zip(sides[::2], sides[1::2], strict=True))
    plain = [fisher_exact(a.duplicated, n, b.duplicated, n) <= 0.05 for a, b in pairs]
    assert np.mean(plain) > 0.05
    assert np.mean([p_values(a, b).duplicated <= 0.05 for a, b in pairs]) < 0.05


def test_memorized_seeds_are_asked_where_both_runs_know_them() -> None:
    known = p_values(side(0, memorized=1), side(0, memorized=11))
    assert known.memorized == fisher_exact(1, 16, 11, 16)
    assert known.both == 2 * known.memorized
    assert p_values(side(0, memorized=1), side(0)) == PValues(1.0, None)


def test_newcombes_own_example() -> None:
    # Newcombe 1998, Table II: 56/70 - 48/80, method 10.
    low, high = difference(side(48, seeds=80), side(56, seeds=70))
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference(side(0, seeds=0), side(3, seeds=4)) == (-1.0, 1.0)


def test_wilsons_interval_is_scipys() -> None:
    for count, n in ((0, 16), (3, 16), (16, 16), (48, 80)):
        expected = stats.binomtest(count, n).proportion_ci(0.95, "wilson")
        assert wilson(count / n, n) == pytest.approx(tuple(expected))


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_the_interval_holds_the_change_and_turns_with_it(
    n: int, m: int, data: st.DataObject
) -> None:
    a, b = (side(data.draw(st.integers(0, size)), seeds=size) for size in (n, m))
    low, high = difference(a, b)
    assert low - 1e-12 <= b.share - a.share <= high + 1e-12
    turned = difference(b, a)
    assert (-turned[1], -turned[0]) == pytest.approx((low, high))


def test_pairs_make_the_interval_wider() -> None:
    few, many = (difference(side(0), side(6, paired=paired)) for paired in (0, 6))
    assert many[0] < few[0] < few[1] < many[1]


# -- runs

BEFORE = (
    Made("got worse", gives(f=12)),
    Made("got better", gives(t0=12)),
    Made("as before", gives(t0=6, t1=6)),
    Made("by chance", gives(f=10, s1=2)),
    Made("only before", gives(f=12)),
    Made("fails now", gives(f=12)),
    Made("named now", gives(s1=12)),
)
AFTER = (
    Made("named now", gives(t0=12)),
    Made("fails now", [], error="NaN"),
    Made("by chance", gives(f=12)),
    Made("as before", gives(t0=6, t1=6)),
    Made("got better", gives(f=12)),
    Made("got worse", gives(t0=11, f=1)),
    Made("only now", gives(f=12)),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("runs")
    other = {**IDENTITY, "guidance": 6.0}
    return make_run(base / "a", BEFORE), make_run(base / "b", AFTER, identity=other)


@pytest.fixture(scope="module")
def found(folders: tuple[Path, Path]) -> Comparison:
    before, after = map(StoredRun.read, folders)
    return compare(before, after)


def test_prompts_are_matched_by_text(found: Comparison) -> None:
    assert {one.prompt for one in found.changes} == {
        "got worse",
        "got better",
        "as before",
        "by chance",
        "named now",
    }
    assert (found.only_before, found.only_after) == (["only before"], ["only now"])
    assert found.failed == ["fails now"]
    assert any("guidance: 3.0 before, 6.0 now" in notice for notice in found.notices)


@pytest.mark.parametrize("kept", [True, False])
def test_what_an_older_version_did_not_keep_is_no_difference(tmp_path: Path, kept: bool) -> None:
    one, other = ({"configuration": {"vae/config.json": {"scale": x}}} for x in (0.18, 0.13))
    before = make_run(tmp_path / "a", BEFORE, identity=IDENTITY | (one if kept else {}))
    after = make_run(tmp_path / "b", AFTER, identity=IDENTITY | other)
    said = " ".join(compare(StoredRun.read(before), StoredRun.read(after)).notices)
    assert ("vae/config.json scale: 0.18 before, 0.13 now" in said) == kept
    assert ("configuration" in said) == kept


def test_worse_and_better_and_chance(found: Comparison) -> None:
    assert {one.prompt for one in found.significant("worse")} == {"got worse", "named now"}
    assert [one.prompt for one in found.significant("better")] == ["got better"]
    assert found.changes[0].direction == "worse"
    by = {one.prompt: one for one in found.changes}
    assert not by["by chance"].significant
    assert (by["as before"].direction, by["as before"].p_duplicated) == ("same", 1.0)


def test_the_size_of_a_change(found: Comparison) -> None:
    worse = next(one for one in found.changes if one.prompt == "got worse")
    assert (worse.before.duplicated, worse.after.duplicated, worse.after.seeds) == (0, 11, 12)
    assert worse.change == pytest.approx(11 / 12)
    assert worse.low < worse.change < worse.high
    assert worse.p_duplicated == pytest.approx(2 * math.comb(12, 11) / math.comb(24, 11))
    assert worse.after.states == {"memorized": 11, "generalized": 1}


def test_memorized_seeds_are_tested_where_duplicates_are_as_before(found: Comparison) -> None:
    named = next(one for one in found.changes if one.prompt == "named now")
    assert (named.change, named.p_duplicated) == (0.0, 1.0)
    assert (named.before.memorized, named.after.memorized) == (0, 12)
    assert named.p_memorized == pytest.approx(2 / math.comb(24, 12))
    assert named.p == pytest.approx(2 * named.p_memorized)
    assert named.significant


def test_q_is_benjamini_and_hochbergs(found: Comparison) -> None:
    p = sorted(one.p for one in found.changes)
    q = sorted(one.q for one in found.changes)
    m = len(p)
    by_hand = [min(min(1.0, p[j] * m / (j + 1)) for j in range(i, m)) for i in range(m)]
    assert q == pytest.approx(by_hand)


def compared(
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[BatchRecord], dict[str, Any]],
) -> Comparison:
    """Compare the two runs, of which the records of the earlier one are changed."""
    old, new = map(StoredRun.read, folders)
    records = {run.path: list(run.records()) for run in (old, new)}
    records[old.path] = [one.model_copy(update=before(one)) for one in records[old.path]]
    monkeypatch.setattr(StoredRun, "records", lambda self: iter(records[self.path]))
    return compare(old, new)


def test_prompts_with_other_numbers_of_seeds_are_compared_by_chance(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_four(one: BatchRecord) -> dict[str, Any]:
        # In the order of made_run.gives: the first four seeds of "as before" are one picture.
        groups = [a.model_copy(update={"seeds": [*range(4)]}) for a in one.attractors]
        return {"seeds": one.seeds[:4], "attractors": groups}

    found = compared(folders, monkeypatch, first_four)
    by = {one.prompt: one for one in found.changes}
    same, worse = by["as before"], by["got worse"]
    assert (same.before.duplicated, same.before.seeds, same.after.among) == (4, 4, 4)
    # Of 11 others 5 are duplicates, and 3 are drawn.
    drawn = 1 - math.comb(6, 3) / math.comb(11, 3)
    assert same.after.duplicated == pytest.approx(12 * drawn)
    assert same.change == pytest.approx(drawn - 1)
    assert (worse.before.duplicated, worse.after.duplicated) == (0, 11)
    assert (worse.before.seeds, worse.after.seeds, worse.after.memorized) == (4, 12, 11)
    assert worse.p_memorized == fisher_exact(0, 4, 11, 12)
    assert any("Prompts have 4 to 12 seeds" in notice for notice in found.notices)


def test_more_seeds_are_not_more_duplicates(tmp_path: Path) -> None:
    """64 seeds of equally likely pictures, and 16 of the same: chances are of 16 in both."""
    few = make_run(tmp_path / "few", [Made("a", gives(**{f"t{i}": 2 for i in range(8)}))])
    many = make_run(tmp_path / "many", [Made("a", gives(**{f"t{i}": 8 for i in range(8)}))])
    for one, other in ((few, many), (many, few)):
        [change] = compare(StoredRun.read(one), StoredRun.read(other)).changes
        sides = {side.seeds: side for side in (change.before, change.after)}
        assert (sides[16].duplicated, sides[16].among, sides[64].among) == (16, 16, 16)
        expected = 1 - math.comb(56, 15) / math.comb(63, 15)
        assert sides[64].share == pytest.approx(expected)
    alike = compare(StoredRun.read(many), StoredRun.read(many))
    assert (alike.changes[0].change, alike.changes[0].direction) == (0.0, "same")


def test_loose_seeds_count_by_their_chance() -> None:
    """A seed of no attractor repeats as many others as its chance says."""
    one = sample_record()
    seeds = [
        one.seeds[2].model_copy(update={"index": i, "chance": float(chance)})
        for i, chance in enumerate(duplicate_chances(np.array([0, 1, 3, 30]), 64))
    ]
    rest = [seeds[0].model_copy(update={"index": i}) for i in range(4, 64)]
    record = one.model_copy(update={"seeds": seeds + rest, "attractors": [], "loose": [1, 2, 3]})
    assert [*_n_duplicates(record, record.seeds)][:5] == [0, 1, 3, 30, 0]


def test_a_run_against_itself_changes_nothing(folders: tuple[Path, Path]) -> None:
    same = compare(StoredRun.read(folders[0]), StoredRun.read(folders[0]))
    assert same.notices == []
    assert {one.direction for one in same.changes} == {"same"}
    assert not any(one.significant for one in same.changes)


def test_another_distance_is_refused(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_sscd(one: BatchRecord) -> dict[str, Any]:
        return {"settings": one.settings.model_copy(update={"metric": "sscd"})}

    with pytest.raises(UsageError, match="different distances, sscd and l2"):
        compared(folders, monkeypatch, by_sscd)


def test_another_rule_of_the_thresholds_is_said(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def guessed(one: BatchRecord) -> dict[str, Any]:
        other = {"rule": "rule of thumb", "delta_s": 0.15}
        return {"thresholds": THRESHOLDS.model_copy(update=other)}

    notices = compared(folders, monkeypatch, guessed).notices
    assert (
        "Thresholds come from another rule, rule of thumb before and leave-one-out now: a change "
        "of a verdict may be one of the thresholds."
    ) in notices
    assert (
        "delta_s is 0.15 before and 0.04 now for 5 of 5 prompts: what counts as a duplicate "
        "differs."
    ) in notices
    assert not any(notice.startswith("delta_m") for notice in notices)


# -- the command


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["m2g-audit", "compare", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return exit_.value.code or 0  # type: ignore[return-value]


def test_the_command_prints_a_table(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert run(monkeypatch, *map(str, folders)) == 0
    shown = capsys.readouterr().out
    whole = "Of 5 prompts in both runs, 2 got worse and 1 better"
    for part in (whole, "got worse", "+92%", "0 → 11 of 12"):
        assert part in shown
    assert "1 prompt is only in the run before, such as “only before”." in shown


def test_the_command_gives_json(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *map(str, folders), "--format", "json") == 0
    out = capfd.readouterr().out
    assert Comparison.model_validate_json(out).changes
    assert json.loads(out)["level"] == 0.95


def test_a_folder_that_is_no_run(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(monkeypatch, str(folders[0]), str(tmp_path / "nowhere")) == 7
