"""A sweep that never ran, made once for all tests that only read it."""

import pytest

from small_scale.lab import Lab
from tests.support.fake_lab import fake_lab


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A finished sweep of random numbers."""
    return fake_lab(tmp_path_factory.mktemp("finished"))
