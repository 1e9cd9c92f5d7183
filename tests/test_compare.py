"""Comparing two runs: tests against scipy and closed forms, and what is called worse or chance."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from m2g_audit.cli import main
from m2g_audit.compare import Comparison, compare, fisher_exact, newcombe
from m2g_audit.errors import UsageError
from m2g_audit.stored_runs import StoredRun
from tests.report.made_run import IDENTITY, Made, gives, make_run

COUNT = st.integers(0, 12)


# -- the tests


@given(COUNT, COUNT, COUNT, COUNT)
def test_two_categories_are_scipys_fisher(a: int, b: int, c: int, d: int) -> None:
    expected = stats.fisher_exact([[a, b], [c, d]]).pvalue if a + b and c + d else 1.0
    assert fisher_exact((a, b), (c, d)) == pytest.approx(expected, rel=1e-9)


def test_three_categories_by_hand() -> None:
    # First rows of sum 2 with columns (1, 1, 2): weights 1, 2, 2, 1 of C(4, 2) = 6.
    assert fisher_exact((1, 1, 0), (0, 0, 2)) == pytest.approx(2 / 6)
    assert fisher_exact((1, 0, 1), (0, 1, 1)) == pytest.approx(1.0)


@given(st.tuples(COUNT, COUNT, COUNT), st.tuples(COUNT, COUNT, COUNT), st.permutations(range(3)))
def test_neither_runs_nor_categories_have_an_order(
    a: tuple[int, ...], b: tuple[int, ...], order: list[int]
) -> None:
    p = fisher_exact(a, b)
    assert 0 < p <= 1
    assert fisher_exact(b, a) == pytest.approx(p)
    turned = [tuple(row[i] for i in order) for row in (a, b)]
    assert fisher_exact(*turned) == pytest.approx(p)
    assert fisher_exact((*a, 0), (*b, 0)) == pytest.approx(p)


def test_newcombes_own_example() -> None:
    # Newcombe 1998, Table II: 56/70 - 48/80, method 10.
    low, high = newcombe(48, 80, 56, 70)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe(0, 0, 3, 4) == (-1.0, 1.0)


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_the_interval_holds_the_change_and_turns_with_it(
    n: int, m: int, data: st.DataObject
) -> None:
    a, b = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    low, high = newcombe(a, n, b, m)
    assert low - 1e-12 <= b / m - a / n <= high + 1e-12
    turned = newcombe(b, m, a, n)
    assert (-turned[1], -turned[0]) == pytest.approx((low, high))


def test_how_often_pairs_make_fisher_err() -> None:
    """Duplicates come in pairs, so seeds are not independent draws: at 5%, up to 10% err."""
    rng = np.random.default_rng(0)
    n, draws = 16, 1000

    def duplicated(pictures: int, novel: float) -> list[int]:
        p = [(1 - novel) / pictures] * pictures + [novel]
        seen = rng.multinomial(n, p, size=draws)[:, :-1]
        return (seen * (seen > 1)).sum(axis=1).tolist()

    rates = {}
    for world in ((1, 0.5), (4, 0.0), (16, 0.0), (60, 0.0), (8, 0.5)):
        pairs = zip(duplicated(*world), duplicated(*world), strict=True)
        errs = [fisher_exact((a, n - a), (b, n - b)) <= 0.05 for a, b in pairs]
        rates[world] = np.mean(errs)
    assert max(rates[1, 0.5], rates[4, 0.0], rates[16, 0.0]) <= 0.05
    assert 0.05 < rates[8, 0.5] <= 0.12
    assert rates[60, 0.0] <= 0.12


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


def test_states_are_tested_where_duplicates_are_as_before(found: Comparison) -> None:
    named = next(one for one in found.changes if one.prompt == "named now")
    assert (named.change, named.p_duplicated) == (0.0, 1.0)
    assert named.p_states == pytest.approx(2 / math.comb(24, 12))
    assert named.significant


def test_q_is_benjamini_and_hochbergs(found: Comparison) -> None:
    p = sorted(one.p_duplicated for one in found.changes)
    q = sorted(one.q_duplicated for one in found.changes)
    m = len(p)
    by_hand = [min(min(1.0, p[j] * m / (j + 1)) for j in range(i, m)) for i in range(m)]
    assert q == pytest.approx(by_hand)


def test_a_run_against_itself_changes_nothing(folders: tuple[Path, Path]) -> None:
    same = compare(StoredRun.read(folders[0]), StoredRun.read(folders[0]))
    assert same.notices == []
    assert {one.direction for one in same.changes} == {"same"}
    assert not any(one.significant for one in same.changes)


def test_other_numbers_of_seeds_are_refused(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = map(StoredRun.read, folders)
    records = list(after.records())
    settings = records[0].settings.model_copy(update={"seeds": 16})
    changed = [one.model_copy(update={"settings": settings}) for one in records]
    monkeypatch.setattr(
        StoredRun, "records", lambda self: iter(changed if self is after else records)
    )
    with pytest.raises(UsageError, match="12 and 16 seeds"):
        compare(before, after)


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
    for part in ("Of 5 prompts in both runs, 2 got worse and 1 better", "got worse", "+92%"):
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
