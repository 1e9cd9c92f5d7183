"""How much a model would have to be downloaded, before it is."""

from pathlib import Path

from m2g_audit.models.model_folder import TEXT_TO_IMAGE, download_patterns, listed, pickles, surplus
from m2g_audit.models.names import POCKET

# What a home connection gives; only decides whether to ask first.
BYTES_PER_SECOND = 10e6


def pending_bytes(model: str, revision: str | None, *, allow_pickle: bool) -> int | None:
    """Return the bytes that loading `model` would download: 0 for what is here, None if unknown.

    Unknown are hub ids without a network, or that the hub does not know; loading says which.
    """
    if model == POCKET or Path(model).expanduser().exists() or model.count("/") != 1:
        return 0
    patterns = list(download_patterns(TEXT_TO_IMAGE))
    if allow_pickle:
        patterns += pickles(TEXT_TO_IMAGE, ())
    if not (files := listed(model, revision, patterns)):  # loading the model says why
        return None
    names = [file.filename for file in files]
    not_needed = set(pickles(TEXT_TO_IMAGE, ())) - set(pickles(TEXT_TO_IMAGE, names))
    not_needed |= set(surplus(TEXT_TO_IMAGE, names))
    pending = [file for file in files if file.will_download and file.filename not in not_needed]
    return sum(file.file_size or 0 for file in pending)
