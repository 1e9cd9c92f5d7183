"""Settings for all tests: the same examples everywhere, no deadline on a busy machine."""

from hypothesis import settings

settings.register_profile("suite", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("suite")
