"""Thresholds: conformal quantiles, scaling, rules of thumb."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from m2g_audit.errors import NumericsError, UsageError
from m2g_audit.verdict.thresholds import (
    LOOSE_ALPHA,
    STRICT_ALPHA,
    Rule,
    Thresholds,
    fresh_thresholds,
    least_values,
    low_quantile,
    published_rule,
    quantile_or_smallest,
    rule_of_thumb,
)

THRESHOLDS = Thresholds("l2", 1.0, 2.0, "a test", 100, True, others={STRICT_ALPHA: (0.5, 1.5)})


def test_a_quantile_is_the_conformal_one() -> None:
    values = np.arange(1.0, 100.0)  # 1..99
    assert low_quantile(values[::-1], 0.01) == 1
    assert low_quantile(values, 0.05) == 5
    with pytest.raises(UsageError, match="at least 99"):
        low_quantile(values[:98], 0.01)
    with pytest.raises(NumericsError, match="non-finite"):
        low_quantile([1.0, math.nan], 0.5)


@given(st.integers(19, 400))
def test_a_new_value_falls_under_the_quantile_no_more_often_than_said(n: int) -> None:
    """Exact: a new value is equally likely to have any rank among n + 1."""
    rank = low_quantile(np.arange(1.0, n + 1), 0.05)
    assert rank / (n + 1) <= 0.05 < (rank + 1) / (n + 1) + 1e-12


@pytest.mark.parametrize("n", [99, 150, 199, 2000])
def test_false_alarms_over_many_nulls_are_those_allowed(n: int) -> None:
    """The rate of one null is the r-th of n uniform values: Beta(r, n + 1 - r), of mean <= 1%."""
    nulls = np.sort(np.random.default_rng(0).random((4000, n)), axis=1)
    rates = np.array([low_quantile(null) for null in nulls])  # the chance of a new uniform value
    rank = math.floor(0.01 * (n + 1))
    error = beta(rank, n + 1 - rank).std() / math.sqrt(len(nulls))
    assert rates.mean() <= 0.01 + 4 * error
    assert rates.mean() >= 0.01 * rank / (0.01 * (n + 1)) - 4 * error


@pytest.mark.parametrize(("alpha", "n"), [(0.01, 99), (0.003, 333), (0.03, 33), (0.05, 19)])
def test_as_many_values_as_needed_hold_a_rate_and_one_less_does_not(alpha: float, n: int) -> None:
    assert least_values(alpha) == n
    assert low_quantile(np.arange(n), alpha) == 0
    with pytest.raises(UsageError):
        low_quantile(np.arange(n - 1), alpha)


def test_where_values_are_too_few_the_smallest_stands_in() -> None:
    values = np.arange(5.0, 205.0)
    assert quantile_or_smallest(values, 0.01) == low_quantile(values, 0.01) == 6
    assert quantile_or_smallest(values, STRICT_ALPHA) == 5


def test_fresh_pictures_give_both_thresholds() -> None:
    found = fresh_thresholds(
        "l2", np.arange(1.0, 200.0), np.arange(100.0, 300.0), source="fresh pictures"
    )
    assert (found.delta_m, found.delta_s, found.n_controls) == (2.0, 101.0, 199)
    assert found.calibrated
    assert found.others == {STRICT_ALPHA: (1.0, 100.0), LOOSE_ALPHA: (6.0, 105.0)}


def test_scaled_thresholds_say_so_and_have_no_null_any_more() -> None:
    half = THRESHOLDS.scaled(0.5)
    assert (half.delta_m, half.delta_s, half.source) == (0.5, 1.0, "0.5 x (a test)")
    assert half.at(STRICT_ALPHA) is None
    assert Thresholds("l2", None, 1.0, "", 0, True).scaled(2).delta_m is None


def test_other_quantiles_of_the_null_are_kept() -> None:
    strict = THRESHOLDS.at(STRICT_ALPHA)
    assert strict is not None
    assert (strict.delta_m, strict.delta_s) == (0.5, 1.5)
    assert "0.3% quantile instead of 1%: a test" in strict.source
    assert strict.at(STRICT_ALPHA) is None
    assert THRESHOLDS.at(LOOSE_ALPHA) is None


def test_a_rule_of_thumb_is_uncalibrated_and_says_whose_it_is() -> None:
    for metric, value in (("l2", 0.15), ("tiled_l2", 0.15), ("sscd", 0.5)):
        found = rule_of_thumb(metric)
        assert found == published_rule(metric)
        assert (found.delta_m, found.delta_s) == (value, value)
        assert (found.calibrated, found.rule) == (False, Rule.RULE_OF_THUMB)
        assert "et al." in found.source


def test_a_metric_without_a_rule_says_what_else_there_is() -> None:
    assert published_rule("clip") is None
    with pytest.raises(UsageError, match=r"clip.*--unseen.*--base.*--delta-m and --delta-s"):
        rule_of_thumb("clip")
