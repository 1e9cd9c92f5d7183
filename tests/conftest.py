"""Settings for all tests: the same examples, shapes in signatures checked, a cache of their own."""

import os
from collections.abc import Iterator

# The tests' tensors are tiny, and threads that wait for each other slow a busy machine tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

settings.register_profile("suite", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("suite")

# Only in the rooms where tensors are handed on; elsewhere annotations are mypy's affair.
_MODULES = ("bound_score", "ddpm", "denoiser", "guidance", "levels", "pipeline", "prediction")
SHAPED = ("m2g_audit.diagnostics", *(f"m2g_audit.models.{module}" for module in _MODULES))
install_import_hook(SHAPED, "beartype.beartype")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests keep between runs away from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("M2G_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
