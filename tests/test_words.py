"""Every verdict has sentences that a person understands, and none of them says NaN or None."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit import states
from m2g_audit.intervals import Interval
from m2g_audit.records import IntervalRecord, ReferenceRecord, Wording
from m2g_audit.similarity import METRICS
from m2g_audit.states import State
from m2g_audit.words import METRICS as METRIC_NAMES
from m2g_audit.words import Findings, duration, evidence, summary
from tests.samples import sample_record

RECORD = sample_record()
SEED = RECORD.seeds[0]
COMPLETE = RECORD.reference
assert COMPLETE is not None
PARTIAL = COMPLETE.model_copy(update={"complete": False, "flipped": True})


def record(interval: Interval) -> IntervalRecord:
    return IntervalRecord(estimate=interval.estimate, low=interval.low, high=interval.high)


def findings(
    sample_states: list[State],
    reference: ReferenceRecord | None,
    unknown: tuple[str, ...] = (),
    undetected_mass: float = 0.26,
) -> Findings:
    word, shares = states.verdict(
        sample_states,
        undetected_mass=undetected_mass,
        has_reference=reference is not None,
        reference_complete=reference is not None and reference.complete,
        understood=not unknown,
    )
    seeds = [
        SEED.model_copy(update={"index": i, "state": state.value, "attractor": None})
        for i, state in enumerate(sample_states)
    ]
    return Findings(
        word=word.value,
        shares={state.value: record(share) for state, share in shares.items()},
        level=0.95,
        undetected_mass=undetected_mass,
        undetected_limit=0.3,
        seeds=seeds,
        attractors=[],
        loose=[],
        unseen=RECORD.unseen,  # type: ignore[arg-type]
        thresholds=RECORD.thresholds,  # type: ignore[arg-type]
        reference=reference,
        wording=Wording(unknown_words=list(unknown)),
    )


M, S, G = State.MEMORIZED, State.SPURIOUS, State.GENERALIZED
A, F = State.ATTRACTOR, State.FAILED


@pytest.mark.parametrize(
    ("sample_states", "reference", "word", "said"),
    [
        ([M] * 16, COMPLETE, "memorized", "16 of 16 seeds"),
        ([S] * 16, COMPLETE, "spurious", "no training picture"),
        ([G] * 16, COMPLETE, "generalized", "26%"),
        ([A] * 16, None, "attractor", "give the training pictures with --reference"),
        ([A] * 16, PARTIAL, "attractor", "base model's training data"),
        ([M] * 40 + [S] * 40, COMPLETE, "attractor", "too few to say"),
        ([M] * 60 + [S] * 60 + [G] * 60, COMPLETE, "mixed", "No behaviour prevails"),
        ([M] * 8 + [G] * 8, COMPLETE, "undecided", "more than one word"),
        ([F] * 15 + [G], COMPLETE, "undecided", "15 of 16 pictures are blank"),
    ],
)
def test_summaries_say_what_the_word_means(
    sample_states: list[State], reference: ReferenceRecord | None, word: str, said: str
) -> None:
    found = findings(sample_states, reference)
    assert found.word == word
    assert said in summary(found)


def test_unknown_words_are_named() -> None:
    found = findings([G] * 16, COMPLETE, unknown=("zebra", "crossing"))
    assert found.word == "undecided"
    assert "“zebra”, “crossing”" in summary(found)


def test_too_few_seeds_are_told_apart_from_other_doubts() -> None:
    found = findings([G] * 16, None, undetected_mass=0.6)
    assert found.word == "undecided"
    assert "60%" in summary(found)


@given(st.lists(st.sampled_from([M, S, G, F]), min_size=2, max_size=40), st.booleans())
def test_any_findings_can_be_said(sample_states: list[State], known: bool) -> None:
    allowed = sample_states if known else [A if s in (M, S) else s for s in sample_states]
    found = findings(allowed, COMPLETE if known else None)
    for sentence in [summary(found), *evidence(found)]:
        assert sentence[0].isupper() or sentence[0].isdigit()
        assert sentence.endswith((".", "?"))
        assert not {"None", "nan", "inf"} & set(sentence.replace(",", " ").split())


def test_every_metric_has_a_description() -> None:
    assert set(METRIC_NAMES) == set(METRICS)


def test_attractors_loose_ones_and_curvature_are_described() -> None:
    base = findings([M, M, G, M], COMPLETE)
    found = Findings(
        **{
            **base.__dict__,
            "attractors": RECORD.attractors * 5,
            "loose": [2],
            "curvature": RECORD.curvature,
        }
    )
    said = " ".join(evidence(found))
    assert "Seeds 0, 1 and 3 give the same picture (attractor 1" in said
    assert "2 smaller attractors follow" in said
    assert "Seed 2 repeat" in said
    assert "Median curvature" in said


def test_durations_are_what_people_say() -> None:
    assert [duration(s) for s in (0.4, 45, 600, 12000)] == ["0 s", "45 s", "10 min", "3.3 h"]
