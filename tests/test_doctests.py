"""What docstrings of estimators show is what they give."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

MODULES = (
    "diagnostics.basin",
    "diagnostics.free_probability",
    "verdict.attractors",
    "verdict.intervals",
    "verdict.states",
)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_show_what_is_true(name: str) -> None:
    found = doctest.testmod(import_module(f"m2g_audit.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
