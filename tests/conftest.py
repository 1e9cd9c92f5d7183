"""Settings for all tests: the same examples everywhere, and the shapes in signatures checked."""

from hypothesis import settings
from jaxtyping import install_import_hook

settings.register_profile("suite", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("suite")

# Only where tensors are handed on; elsewhere annotations are mypy's affair.
SHAPED = ("score_model", "oracles", "numerics", "pipelines", "curvature", "basin")
install_import_hook([f"m2g_audit.{module}" for module in SHAPED], "beartype.beartype")
