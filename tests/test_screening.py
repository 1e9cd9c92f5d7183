"""Screening: which prompts end early, that they do, and what is said of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from m2g_audit.screening import Look, is_clearly_novel, looks
from scipy.stats import binom
from typer.testing import CliRunner

from m2g_audit.batch_directory import BatchDirectory, BatchRecord
from m2g_audit.batch_results import summarise
from m2g_audit.cli import app
from m2g_audit.errors import UsageError
from m2g_audit.gate import Severity, severity
from m2g_audit.records import NearestReference, NearestSample, SeedRecord, StateWord
from m2g_audit.request import Request, prepare
from m2g_audit.states import State, Thresholds, fractions
from tests.batch_work import ManyPrompts, open_batch, run_batch


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))


# -- looks


def test_looks_are_at_a_quarter_a_half_and_all_seeds() -> None:
    assert [(look.seeds, look.margin) for look in looks(16)] == [(4, 1.75), (8, 1.0), (16, None)]
    assert [(look.seeds, look.margin) for look in looks(8)] == [(4, 1.75), (8, None)]
    assert [(look.seeds, look.margin) for look in looks(64)] == [(16, 1.75), (32, 1.0), (64, None)]
    assert looks(7) == (Look(7, None, 0.95),)


@given(st.integers(2, 1000), st.floats(0.5, 0.999))
def test_looks_together_err_no_more_than_one_look_may(seeds: int, level: float) -> None:
    made = looks(seeds, level)
    assert sum(1 - look.level for look in made) == pytest.approx(1 - level)
    assert [look.seeds for look in made] == sorted({look.seeds for look in made})
    assert made[-1].level < made[0].level or len(made) == 1


@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_intervals_cover_whatever_the_rule_that_ends_a_prompt(share: float) -> None:
    """Exact: the chance that those of no look miss the share of samples that match S."""
    chance, seen = np.ones(1), 0
    for look in looks(16):
        chance = np.convolve(
            chance, binom.pmf(np.arange(look.seeds - seen + 1), look.seeds - seen, share)
        )
        seen = look.seeds
        chance *= [covers(matches, look, share) for matches in range(seen + 1)]
    assert chance.sum() >= 0.95


def covers(matches: int, look: Look, share: float) -> bool:
    states = [State.MEMORIZED] * matches + [State.GENERALIZED] * (look.seeds - matches)
    found = fractions(states, has_reference=True, reference_complete=True, level=look.level)
    return found[State.MEMORIZED].low <= share <= found[State.MEMORIZED].high


# -- clearly novel

THRESHOLDS = Thresholds("l2", 0.1, 0.2, "test", 0, True)


def seed(pair: float | None, match: float | None, state: StateWord = "generalized") -> SeedRecord:
    return SeedRecord(
        index=0,
        generator_seed=1,
        state=state,
        image="images/0000.png",
        nearest_sample=None if pair is None else NearestSample(index=1, distance=pair),
        nearest_reference=None if match is None else NearestReference(name="a", distance=match),
    )


@pytest.mark.parametrize(
    ("pair", "match", "margin", "novel"),
    [
        (0.31, None, 1.5, True),
        (0.29, None, 1.5, False),
        (0.29, None, 1.0, True),
        (0.2, None, 1.0, False),
        (0.31, 0.14, 1.5, False),
        (0.31, 0.16, 1.5, True),
        (None, None, 1.5, True),
        (9.0, 9.0, None, False),
    ],
)
def test_near_a_copy_is_not_clearly_novel(
    pair: float | None, match: float | None, margin: float | None, novel: bool
) -> None:
    seeds = [seed(9.0, 9.0), seed(pair, match)]
    assert is_clearly_novel(seeds, THRESHOLDS, margin) is novel


def test_a_failed_picture_is_not_clearly_novel() -> None:
    assert not is_clearly_novel([seed(9.0, 9.0), seed(None, None, "failed")], THRESHOLDS, 1.5)


# -- batches

PROMPTS = ["same kite", "new dog", "half cat", "torn sail", "new hill"]


def screened(
    out: Path, pipeline: ManyPrompts | None = None, **options: object
) -> list[BatchRecord]:
    return run_batch(out, PROMPTS, pipeline, seeds=16, screen=True, **options)


def test_novel_prompts_end_early_and_others_are_audited_in_full(tmp_path: Path) -> None:
    pipeline = ManyPrompts()
    records = screened(tmp_path / "screened", pipeline, spectrum="fast")
    made = Counter(text for batch in pipeline.batches for text in batch)
    assert made == {p: 4 if p.startswith("new") else 16 for p in PROMPTS}
    full = run_batch(tmp_path / "full", PROMPTS, seeds=16, spectrum="fast")
    for record, whole in zip(records, full, strict=True):
        assert record.screening is not None
        assert record.screening.looks == [4, 8, 16]
        assert record.evaluations["images"] == made[record.prompt] * 2 * 4
        if record.prompt.startswith("new"):
            assert record.screened_out
            assert (record.screening.stopped_at, record.screening.margin) == (4, 1.75)
            assert (record.verdict.state, record.verdict.level) == ("undecided", 0.9975)
            assert "Screened out after 4 of 16 seeds" in record.verdict.summary
            assert record.curvature == []
            assert record.seeds[0] == whole.seeds[0].model_copy(
                update={"nearest_sample": record.seeds[0].nearest_sample}
            )
            assert severity(record) is Severity.UNDECIDED
        else:
            assert not record.screened_out
            assert record.verdict.level == pytest.approx(0.955)
            assert record.verdict.state == whole.verdict.state
            assert record.seeds == whole.seeds
            assert record.curvature == whole.curvature
    summary = summarise(BatchDirectory.read(tmp_path / "screened"))
    assert summary.screened_out == 2


def test_an_interrupted_screening_goes_on_with_its_pictures(tmp_path: Path) -> None:
    whole = screened(tmp_path / "whole", batch_size=3)

    def stop(batch: list[str]) -> None:
        if len(first.batches) == 7:
            raise KeyboardInterrupt

    first = ManyPrompts(before=stop)
    with pytest.raises(KeyboardInterrupt):
        screened(tmp_path / "run", first, batch_size=3)
    again = ManyPrompts()
    records = screened(tmp_path / "run", again, batch_size=3)
    plain = [record.model_dump(exclude={"timings"}) for record in records]
    assert plain == [record.model_dump(exclude={"timings"}) for record in whole]
    made = Counter(text for p in (first, again) for batch in p.batches for text in batch)
    made -= Counter(first.batches[-1])
    assert made == {p: 4 if p.startswith("new") else 16 for p in PROMPTS}


def test_a_folder_is_screened_or_not(tmp_path: Path) -> None:
    screened(tmp_path)
    with pytest.raises(UsageError, match="screen"):
        open_batch(tmp_path, PROMPTS, ManyPrompts(), seeds=16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "7"], "--seeds 7"),
        (["--fail-on", "undecided"], "--fail-on undecided"),
    ],
)
def test_screening_that_makes_no_sense_is_refused(
    tmp_path: Path, options: list[str], message: str
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a print\n")
    command = ["batch", str(prompts), "--model", "pocket", "--screen", *options]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


def test_one_prompt_is_not_screened() -> None:
    with pytest.raises(UsageError, match="m2g-audit batch"):
        prepare(Request("a print", model="pocket", screen=True))
