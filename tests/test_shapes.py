"""The shapes that signatures state are checked while tests run (see conftest.py)."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from m2g_audit.diagnostics.free_probability import with_mean
from m2g_audit.diagnostics.operators import Matrices
from tests.conftest import SHAPED


@pytest.mark.parametrize("name", SHAPED)
def test_what_is_checked_is_there(name: str) -> None:
    assert find_spec(name)


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        with_mean(np.zeros((2, 2)), 1.0)
    with pytest.raises(TypeCheckError):
        Matrices(torch.zeros(1, 2, 3))
