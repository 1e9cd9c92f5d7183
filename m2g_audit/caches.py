"""Where results that cost time are kept between runs: one folder, keyed by content."""

import os
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Return the folder of one kind of kept result, below M2G_CACHE or the user's cache."""
    root = os.environ.get("M2G_CACHE")
    if root:
        return Path(root) / name
    import platformdirs

    return platformdirs.user_cache_path("m2g-audit") / name
