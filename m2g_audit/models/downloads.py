"""How much a model would have to be downloaded, before it is."""

from pathlib import Path

from m2g_audit.models.model_folder import TEXT_TO_IMAGE, download_patterns, pickles
from m2g_audit.models.names import POCKET

# What a home connection gives; only decides whether to ask first.
BYTES_PER_SECOND = 10e6


def pending_bytes(model: str, revision: str | None, *, allow_pickle: bool) -> int | None:
    """Return the bytes that loading `model` would download: 0 for what is here, None if unknown.

    Unknown are hub ids without a network, or that the hub does not know; loading says which.
    """
    if model == POCKET or Path(model).expanduser().exists() or model.count("/") != 1:
        return 0
    from huggingface_hub import snapshot_download

    patterns = list(download_patterns(TEXT_TO_IMAGE))
    if allow_pickle:
        patterns += pickles(TEXT_TO_IMAGE, ())
    try:
        files = snapshot_download(model, revision=revision, allow_patterns=patterns, dry_run=True)
    except Exception:  # many kinds mean "no network"; loading the model names the true one
        return None
    of_pickles = set(pickles(TEXT_TO_IMAGE, ()))
    needed = set(pickles(TEXT_TO_IMAGE, [file.filename for file in files]))
    pending = [f for f in files if f.will_download and f.filename not in of_pickles - needed]
    return sum(file.file_size or 0 for file in pending)
