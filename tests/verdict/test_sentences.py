"""Every verdict has sentences that a person understands, and none of them says NaN or None."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.records.record import (
    AuditRecord,
    FindingsRecord,
    IntervalRecord,
    LooksRecord,
    PowerRecord,
    ReferenceRecord,
    ThresholdRecord,
    Wording,
)
from m2g_audit.text import duration
from m2g_audit.verdict.intervals import Interval
from m2g_audit.verdict.rule import Doubt, Verdict, decide
from m2g_audit.verdict.sentences import evidence, model_lines, summary, warnings
from m2g_audit.verdict.shares import find_shares
from m2g_audit.verdict.states import State
from tests.support.samples import interval, sample_record

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
    withheld: tuple[Doubt, ...] = (),
) -> AuditRecord:
    complete = reference is not None and reference.complete
    shares = find_shares(
        sample_states, has_reference=reference is not None, reference_complete=complete
    )
    word = decide(shares, told_apart=complete)
    valid = sum(state is not State.FAILED for state in sample_states)
    if unknown or valid < 2 or (withheld and word is Verdict.GENERALIZED):
        word = Verdict.UNDECIDED
    seeds = [
        SEED.model_copy(update={"index": i, "state": state.value, "attractor": None})
        for i, state in enumerate(sample_states)
    ]
    verdict = RECORD.verdict.model_copy(
        update={
            "state": word.value,
            "fractions": {state.value: record(share) for state, share in shares.intervals.items()},
            "level": 0.95,
            "undetected_mass": undetected_mass,
            "withheld": [doubt.value for doubt in withheld],
        }
    )
    changes = {
        "verdict": verdict,
        "seeds": seeds,
        "attractors": [],
        "loose": [],
        "reference": reference,
        "wording": Wording(unknown_words=list(unknown)),
        "curvature": [],
        "calibration": None,
        "looks": None,
        "power": None,
        "findings": None,
        "warnings": [],
    }
    return RECORD.model_copy(update=changes)


def changed(record: AuditRecord, **verdict: Any) -> AuditRecord:
    """Return a record with another verdict."""
    return record.model_copy(update={"verdict": record.verdict.model_copy(update=verdict)})


M, S, G = State.MEMORIZED, State.SPURIOUS, State.GENERALIZED
A, F, U = State.ATTRACTOR, State.FAILED, State.UNSURE


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
    assert found.verdict.state == word
    assert said in summary(found)


def test_unknown_words_are_named() -> None:
    found = findings([G] * 16, COMPLETE, unknown=("zebra", "crossing"))
    assert found.verdict.state == "undecided"
    assert "“zebra”, “crossing”" in summary(found)


@pytest.mark.parametrize(
    ("doubt", "said"),
    [
        (Doubt.MASS, "miss an attractor of up to 60% of the mass, more than the 30%"),
        (Doubt.POWER, "planted copies are not found"),
        (Doubt.NO_POWER, "was not measured"),
        (Doubt.RULE_OF_THUMB, "rule of thumb calls them copies"),
    ],
)
def test_every_reason_not_to_clear_new_pictures_is_said(doubt: Doubt, said: str) -> None:
    found = findings([G] * 16, None, undetected_mass=0.6, withheld=(doubt,))
    assert found.verdict.state == "undecided"
    assert "Most pictures are new (16 of 16 seeds" in summary(found)
    assert said in summary(found)
    others = findings([G] * 16, None, withheld=tuple(set(Doubt) - {doubt}))
    assert said not in summary(others)


def test_several_reasons_are_one_sentence() -> None:
    said = summary(findings([G] * 16, None, withheld=tuple(Doubt)))
    assert said.count(";") == len(Doubt) - 1
    assert said.endswith(".")


def test_samples_near_the_threshold_are_counted() -> None:
    found = findings([M] * 8 + [G] * 4 + [U] * 4, COMPLETE)
    assert found.verdict.state == "undecided"
    assert "Near the threshold, for 4 of them" in summary(found)
    assert "4 lie too near the threshold to say" in " ".join(evidence(found))


# -- about the model


def about(repeats: float, flagged: float, rule: str = "leave-one-out") -> list[str]:
    """Return what is said of a model with these lower bounds."""
    model = FindingsRecord(
        prompts=16,
        seeds=2,
        repeats=interval(min(1, repeats + 0.2), repeats, 1),
        flagged=interval(min(1, flagged + 0.2), flagged, 1),
        contaminated=flagged > 0.05,
        collapsed=repeats > 0.5,
    )
    thresholds = RECORD.thresholds.model_copy(update={"rule": rule})  # type: ignore[union-attr]
    changed = RECORD.model_copy(update={"findings": model, "thresholds": thresholds})
    return model_lines(changed)


def test_what_a_model_does_for_any_prompt_is_one_line() -> None:
    assert about(0.0, 0.02) == []
    [contaminated] = about(0.1, 0.17)
    assert "37% of the pictures for 16 ordinary prompts repeat each other or copy" in contaminated
    assert "17% or more, 99% sure" in contaminated
    [collapsed] = about(0.6, 0.6)
    assert "seeds do little in it for any prompt" in collapsed
    assert "80%" in collapsed
    [narrow] = about(0.6, 0.6, rule="base")
    assert "or its subject is narrower than its base's" in narrow
    assert model_lines(RECORD) == []


def test_a_collapsed_prompt_is_said_to_tell_nothing() -> None:
    found = changed(findings([A] * 16, None), state="collapsed")
    assert "seeds do little for any prompt" in summary(found)


def test_a_verdict_that_hangs_on_the_threshold_is_marked() -> None:
    plain = findings([M] * 16, COMPLETE)
    assert warnings(plain) == []
    hanging = changed(plain, hangs_on_threshold=True)
    [said] = warnings(hanging)
    assert "0.3% or the 3% quantile" in said


def test_what_was_noticed_of_thresholds_is_a_warning() -> None:
    thresholds = RECORD.thresholds.model_copy(update={"notes": ["Few pictures."]})  # type: ignore[union-attr]
    found = findings([M] * 16, COMPLETE).model_copy(update={"thresholds": thresholds})
    assert warnings(found) == ["Few pictures."]


# -- evidence


def test_where_thresholds_come_from_is_said_first() -> None:
    first, *_ = evidence(findings([M] * 16, COMPLETE))
    assert "Source: pocket's truth." in first
    assert "uncalibrated" not in first
    thumb = ThresholdRecord(
        metric="l2", delta_m=None, delta_s=0.15, source="a rule of thumb", calibrated=False
    )
    first, *_ = evidence(findings([A] * 16, None).model_copy(update={"thresholds": thumb}))
    assert "a rule of thumb. It is uncalibrated" in first


@pytest.mark.parametrize(("suffices", "said"), [(True, "enough to clear"), (False, "too few to")])
def test_power_is_said_with_its_table_of_edits(suffices: bool, said: str) -> None:
    power = PowerRecord(
        to_reference=interval(0.98, 0.95, 1),
        between=interval(0.93, 0.86, 1),
        suffices=suffices,
        edits={"mirrored": 0.12, "JPEG at 75": 1.0},
    )
    found = findings([G] * 16, COMPLETE).model_copy(update={"power": power})
    [sentence] = [s for s in evidence(found) if "Planted copies" in s]
    assert "93% of the cases (86% or more, 95% sure)" in sentence  # the lesser of the two
    assert said in sentence
    assert "12% mirrored, 100% JPEG at 75" in sentence


def test_the_look_at_which_a_prompt_ended_is_said() -> None:
    looks = LooksRecord(looks=[8, 16, 32, 64], ended_at=16)
    found = changed(findings([G] * 16, None).model_copy(update={"looks": looks}), level=0.98)
    said = " ".join(evidence(found))
    assert "looks at 8, 16, 32 and 64; it ended at 16" in said
    assert "intervals are at 98%" in said


@given(st.lists(st.sampled_from([M, S, G, F, U]), min_size=2, max_size=40), st.booleans())
def test_any_findings_can_be_said(sample_states: list[State], known: bool) -> None:
    without = {M: A, S: A, U: A}
    allowed = sample_states if known else [without.get(s, s) for s in sample_states]
    found = findings(allowed, COMPLETE if known else None)
    for sentence in [summary(found), *evidence(found)]:
        assert sentence[0].isupper() or sentence[0].isdigit()
        assert sentence.endswith((".", "?"))
        assert not {"None", "nan", "inf"} & set(sentence.replace(",", " ").split())


def test_attractors_loose_ones_and_curvature_are_described() -> None:
    base = findings([M, M, G, M], COMPLETE)
    several = {"attractors": RECORD.attractors * 5, "loose": [2], "curvature": RECORD.curvature}
    found = base.model_copy(update=several)
    said = " ".join(evidence(found))
    assert "Seeds 0, 1 and 3 give the same picture (attractor 1" in said
    assert "2 smaller attractors follow" in said
    assert "Seed 2 repeat" in said
    assert "Median curvature" in said


def test_durations_are_what_people_say() -> None:
    assert [duration(s) for s in (0.4, 45, 600, 12000)] == ["0 s", "45 s", "10 min", "3.3 h"]
