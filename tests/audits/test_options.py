"""Options of an audit: declared once, checked wherever they come from."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.audits.loaders import loader_of
from m2g_audit.audits.options import FLAGS, AuditOptions
from m2g_audit.diagnostics.fast_spectrum import TOLERANCE
from m2g_audit.errors import UsageError
from tests.support import tiny


def test_every_option_has_its_words() -> None:
    assert list(FLAGS) == [field.name for field in fields(AuditOptions)]
    assert all(flag.help.endswith(".") for flag in FLAGS.values())


def test_the_default_tolerance_is_that_of_spectra() -> None:
    assert AuditOptions().spectrum_tolerance == TOLERANCE


@pytest.mark.parametrize(
    ("name", "meant"),
    [("sedes", "seeds"), ("guidence", "guidance"), ("reference-complete", "reference_complete")],
)
def test_a_misspelt_option_names_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"no option {name!r}: did you mean {meant!r}"):
        AuditOptions.of(**{name: 1})


def test_an_option_like_no_other_has_no_suggestion() -> None:
    with pytest.raises(UsageError, match=r"There is no option 'zzz'\.$"):
        AuditOptions.of(zzz=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seeds": "many"}, "--seeds many is not possible: give a whole number or auto"),
        ({"seeds": 1}, "--seeds 1 can't show anything"),
        ({"seeds": 10**30}, "give 2 or more, up to 10,000"),
        ({"steps": 0}, "--steps 0 is not possible: give 1 or more"),
        ({"steps": 2.5}, "give a whole number"),
        ({"metric": "l3"}, "give l2, .*sscd or auto"),
        ({"basin_exact": True}, "--exact says how --basin is measured"),
        ({"delta_s": -1.0}, "--delta-s -1 is no distance"),
        ({"guidance": float("nan")}, "--guidance nan is not possible"),
        ({"spectrum_tolerance": 1.0}, "--spectrum-tolerance 1 is not possible"),
    ],
)
def test_what_is_not_possible_is_said(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        AuditOptions.of(**options)


@given(st.sampled_from(sorted(FLAGS)), st.none() | st.booleans() | st.text() | st.floats())
def test_any_value_is_taken_or_refused(name: str, value: object) -> None:
    with suppress(UsageError):
        options = AuditOptions.of(**{name: value})
        assert options == AuditOptions.of(**{name: getattr(options, name)})


def test_a_model_in_memory_is_not_loaded_again() -> None:
    load, options = loader_of({"model": tiny.text_to_image(), "seeds": 4})
    assert load is not None
    assert load(options.model) is load(options.model)
    assert options.model == "StableDiffusionPipeline in memory"
    with pytest.raises(UsageError, match="dtype says how a model is loaded"):
        loader_of({"model": tiny.text_to_image(), "dtype": "float32"})
