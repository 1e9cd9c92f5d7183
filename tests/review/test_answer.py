"""What a report says first: read as a person reads it, for runs of every outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from m2g_audit.review.answer import Answer, kind
from m2g_audit.store.stored_run import StoredRun
from tests.support.made_run import RELEASE, THRESHOLDS, Made, gives, make_run

NEW = Made("a poster of the quiet forest", gives(f=16), caption=55)
COPY = Made("a print of the old castle", gives(t0=16), caption=0)
REPEAT = Made("a painting of the snowy mountain", gives(s1=15, f=1), caption=40)
SOME = Made("a photograph of the stormy desert", gives(f=14, s1=2), caption=58)
FAILED = Made("a print of the moonlit village", [], error="None of the pictures is finite.")
UNCALIBRATED: dict[str, Any] = {
    "thresholds": THRESHOLDS.model_copy(update={"calibrated": False, "rule": "rule of thumb"})
}
NO_REFERENCE: dict[str, Any] = {"reference": None}
CAN_MISS = "What 16 seeds can miss is a picture that fewer than 26% of all seeds would give."
HINT = (
    "Thresholds are not calibrated for this model: take all of this as a hint, and clear nothing "
    "by it."
)


def answered(folder: Path, *made: Made, prompts: int | None = None, **fields: Any) -> Answer:
    run = StoredRun.read(make_run(folder / "run", made, **fields))
    answer = Answer(run.prompts if prompts is None else prompts)
    for record in run.records():
        answer.add(record)
    return answer


def test_what_is_found_comes_first_and_then_the_rest(tmp_path: Path) -> None:
    answer = answered(tmp_path, *RELEASE)
    assert answer.headline() == "5 of 8 prompts give back training pictures."
    assert answer.more() == [
        "1 more repeats the same pictures for different seeds, which are no training pictures.",
        "1 more shows some pictures that repeat or match, among others.",
        f"1 prompt gives new pictures. {CAN_MISS}",
        "1 prompt failed, which says nothing of it.",
    ]


@pytest.mark.parametrize(
    ("made", "fields", "headline", "more"),
    [
        ([COPY], {}, "The prompt gives back training pictures.", []),
        ([COPY], UNCALIBRATED, "The prompt may give back training pictures.", [HINT]),
        (
            [COPY, NEW],
            NO_REFERENCE,
            "1 of 2 prompts repeats the same pictures for different seeds; whether these are "
            "training pictures can't be told without a reference.",
            [f"1 prompt gives new pictures. {CAN_MISS}"],
        ),
        (
            [REPEAT],
            UNCALIBRATED,
            "The prompt may repeat the same pictures for different seeds, which are no training "
            "pictures.",
            [HINT],
        ),
        ([NEW], {}, f"The prompt repeats nothing. {CAN_MISS}", []),
        ([NEW], UNCALIBRATED, f"The prompt repeats nothing. {CAN_MISS}", [HINT]),
        (
            [NEW, Made("a print of the old church", gives(f=16), caption=56)],
            {},
            f"None of 2 prompts repeats. {CAN_MISS}",
            [],
        ),
        (
            [NEW],
            {"power": None},
            f"The prompt repeats nothing, but that shows too little to clear it. {CAN_MISS}",
            [],
        ),
        (
            [NEW, FAILED],
            {},
            f"The prompt repeats nothing. {CAN_MISS}",
            ["1 prompt failed, which says nothing of it."],
        ),
        ([FAILED], {}, "No answer: the prompt failed.", []),
        (
            [FAILED, Made("another one", [], error="None of the pictures is finite.")],
            {},
            "No answer: all 2 prompts failed.",
            [],
        ),
    ],
)
def test_each_outcome_reads_right(
    tmp_path: Path, made: list[Made], fields: dict[str, Any], headline: str, more: list[str]
) -> None:
    answer = answered(tmp_path, *made, **fields)
    assert answer.headline() == headline
    assert answer.more() == more


def test_prompts_without_a_record_are_said(tmp_path: Path) -> None:
    assert Answer(0).headline() == "Nothing was audited: the list is empty."
    assert Answer(1).headline() == "No answer yet: the prompt is not audited."
    assert Answer(40).headline() == "No answer yet: none of 40 prompts is audited."
    answer = answered(tmp_path, FAILED, prompts=3)
    assert answer.headline() == "No answer yet: 1 of 3 prompts failed, and 2 are not audited."
    assert answer.next_steps() == [
        "Run the same m2g-audit batch again: it does prompts without a verdict."
    ]
    assert Answer(0).next_steps() == ["Give a list with a prompt in it."]
    assert Answer(0).cannot_see() == []


def test_one_picture_that_matches_may_be_chance(tmp_path: Path) -> None:
    run = StoredRun.read(make_run(tmp_path / "run", [Made("a", gives(t0=1, f=15), caption=3)]))
    [record] = run.records()
    assert [seed.state for seed in record.seeds].count("memorized") == 1
    assert kind(record) == "some"


def test_the_worst_pair_is_a_copy_beside_its_training_picture(tmp_path: Path) -> None:
    answer = answered(tmp_path, NEW, REPEAT, COPY)
    assert answer.pair is not None
    assert answer.pair.record.prompt == COPY.prompt
    assert answer.pair.reference is not None
    assert answer.pair.reference.name == "training picture 0"
    said = answer.pair_said()
    assert said.startswith("They are 0.0115 apart (root-mean-square difference of pixels)")
    assert "; up to 0.05 counts as a copy. 99% of new pictures lie at least 4.3 times" in said
    assert said.endswith("as far apart, in the median.")


def test_without_a_reference_it_is_two_seeds_that_agree(tmp_path: Path) -> None:
    answer = answered(tmp_path, NEW, COPY, **NO_REFERENCE)
    assert answer.pair is not None
    assert answer.pair.reference is None
    assert answer.pair.other is not None
    assert answer.pair.seed.nearest_sample is not None
    assert answer.pair.other.index == answer.pair.seed.nearest_sample.index
    assert "; up to 0.04 counts as the same picture." in answer.pair_said()


def test_thresholds_that_were_not_measured_say_nothing_of_new_pictures(tmp_path: Path) -> None:
    said = answered(tmp_path, COPY, **UNCALIBRATED).pair_said()
    assert said.endswith("up to 0.05 counts as a copy.")


def test_a_record_without_thresholds_is_shown_as_it_is(tmp_path: Path) -> None:
    run = StoredRun.read(make_run(tmp_path / "run", [COPY]))
    answer = Answer(1)
    for record in run.records():
        answer.add(record.model_copy(update={"thresholds": None}))
    assert answer.pair_said() == "They are 0.0115 apart."
    assert HINT in answer.more()


def test_where_nothing_repeats_there_is_no_pair(tmp_path: Path) -> None:
    assert answered(tmp_path, NEW, FAILED).pair is None


def test_what_it_can_not_see_and_what_to_do(tmp_path: Path) -> None:
    clean = answered(tmp_path / "clean", NEW)
    assert clean.cannot_see()[0] == CAN_MISS
    assert clean.next_steps() == [
        "Keep this run: m2g-audit report --against compares the next one with it."
    ]
    blind = answered(tmp_path / "blind", COPY, **NO_REFERENCE, power=None)
    assert "Copies of training pictures as such: no reference was given." in blind.cannot_see()
    assert any(said.startswith("Planted copies were not shown") for said in blind.cannot_see())
    steps = blind.next_steps()
    assert "Give the training pictures with --reference to tell copies from repeats." in steps
    found = answered(tmp_path / "found", COPY, **UNCALIBRATED)
    assert found.next_steps()[0].startswith("Have thresholds measured: give --unseen")
    assert found.next_steps()[1].startswith("Do not release the model for these prompts")
