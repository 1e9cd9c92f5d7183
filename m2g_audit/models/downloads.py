"""How much a model would have to be downloaded, before it is."""

from pathlib import Path
from typing import Unpack

from m2g_audit.models.model_folder import (
    TEXT_TO_IMAGE,
    download_patterns,
    listed,
    pickles,
    surplus,
)
from m2g_audit.models.names import POCKET, Which

# What a home connection gives; only decides whether to ask first.
BYTES_PER_SECOND = 10e6


def pending_bytes(model: str, **which: Unpack[Which]) -> int | None:
    """Return the bytes that loading `model` would download: 0 for what is here, None if unknown.

    Unknown are hub ids without a network, or that the hub does not know; loading says which. Of the
    model that completes a checkpoint all parts count.
    """
    base = which.get("config_from")
    if base is not None:
        return pending_bytes(base, allow_pickle=bool(which.get("allow_pickle")))
    if model == POCKET or Path(model).expanduser().exists() or model.count("/") != 1:
        return 0
    patterns = list(download_patterns(TEXT_TO_IMAGE, which))
    if which.get("allow_pickle"):
        patterns += pickles(TEXT_TO_IMAGE, (), which)
    # Loading the model says why there are none.
    if not (files := listed(model, which.get("revision"), patterns)):
        return None
    names = [file.filename for file in files]
    lacking = set(pickles(TEXT_TO_IMAGE, names, which))
    not_needed = {*pickles(TEXT_TO_IMAGE, (), which)} - lacking
    not_needed |= set(surplus(TEXT_TO_IMAGE, names, which))
    pending = [file for file in files if file.will_download and file.filename not in not_needed]
    return sum(file.file_size or 0 for file in pending)
