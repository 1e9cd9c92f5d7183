"""What control prompts show of a model: bounds clustered by prompt, contamination, collapse."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from m2g_audit.verdict.screening import ControlResult, Findings, look_into
from m2g_audit.verdict.thresholds import Thresholds

THRESHOLDS = Thresholds("l2", 0.5, 1.0, "a test", 100, True)


def found(
    repeating: int, copying: int = 0, prompts: int = 16, seeds: int = 2, *, reference: bool = True
) -> Findings:
    """Return what is found where all pictures of so many prompts repeat, and of others copy."""
    results = []
    for i in range(prompts):
        repeats, copies = i < repeating, repeating <= i < repeating + copying
        to_reference = [0.5 if copies else 9.0] * seeds if reference else None
        results.append(ControlResult([1.0 if repeats else 9.0] * seeds, to_reference))
    return look_into(results, seeds, THRESHOLDS)


@pytest.mark.parametrize(("repeating", "copying"), [(4, 0), (0, 4), (2, 2)])
def test_4_of_16_prompts_make_a_model_contaminated(repeating: int, copying: int) -> None:
    assert found(repeating, copying).contaminated
    assert not found(max(0, repeating - 1), copying - (repeating == 0)).contaminated


def test_14_of_16_repeating_prompts_make_a_model_collapsed() -> None:
    assert found(14).collapsed
    assert found(14).contaminated
    assert not found(13).collapsed


def test_copies_that_do_not_repeat_collapse_nothing() -> None:
    copying = found(0, 16)
    assert copying.contaminated
    assert not copying.collapsed
    assert copying.repeats.estimate == 0


def test_pictures_of_one_prompt_count_as_one() -> None:
    """However many seeds a prompt has, its pictures are one observation."""
    few, many = found(4, seeds=2), found(4, seeds=16)
    assert (few.flagged.low, few.flagged.high) == (many.flagged.low, many.flagged.high)
    assert few.flagged.low == pytest.approx(0.0595, abs=0.01)
    # The same share, by the pictures of all prompts: half of those of eight.
    half = [ControlResult([1.0, 9.0], None)] * 8 + [ControlResult([9.0, 9.0], None)] * 8
    assert look_into(half, 2, THRESHOLDS).flagged.estimate == pytest.approx(0.25)


def test_a_picture_that_repeats_and_copies_is_flagged_once() -> None:
    both = look_into([ControlResult([0.1, 0.1], [0.1, 0.1])] * 16, 2, THRESHOLDS)
    assert (both.flagged.estimate, both.repeats.estimate) == (1.0, 1.0)


def test_thresholds_are_closed_and_delta_m_may_be_missing() -> None:
    edge = ControlResult([1.0 + 1e-9] * 2, [0.5 + 1e-9] * 2)
    assert look_into([edge] * 16, 2, THRESHOLDS).flagged.estimate == 0
    without = Thresholds("l2", None, 1.0, "a test", 0, False)
    assert look_into([ControlResult([9.0, 9.0], [0.0, 0.0])], 2, without).flagged.estimate == 0


def failed(results: Sequence[ControlResult]) -> Findings:
    return look_into(results, 2, THRESHOLDS)


def test_prompts_whose_pictures_failed_are_left_out() -> None:
    results = [ControlResult([], [])] * 2 + [ControlResult([9.0, 9.0], [9.0, 9.0])] * 14
    assert failed(results).prompts == 14
    nothing = failed([ControlResult([], None)] * 16)
    assert (nothing.prompts, nothing.repeats.low, nothing.repeats.high) == (0, 0, 1)
    assert not nothing.contaminated
