"""Nulls of a reference, kept between runs: they cost as much as many prompts, and never change."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2g_audit.errors import OutputError
from m2g_audit.files import digest, read_kept, write_atomically
from m2g_audit.references.nulls import Null, Nulls

_VERSION = 1
"""Counts the ways in which nulls were made: what was kept of an earlier one is not taken up."""


def cache_file(cache_dir: Path, identity: Mapping[str, Any]) -> Path:
    """Return where nulls are kept, by all that can change them: pictures, VAE, distance, cut."""
    return cache_dir / f"nulls-{digest({**identity, 'version': _VERSION})[:32]}.npz"


def load(path: Path) -> Nulls | None:
    """Return nulls that were kept, None if there are none or they are damaged."""
    return read_kept(path, _read)


def _read(path: Path) -> Nulls:
    # numpy leaves a broken archive open that it opened itself
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return Nulls(
            left_out=_null(arrays, "left_out"),
            of_unseen=_null(arrays, "of_unseen") if "of_unseen/kept" in arrays else None,
            within=arrays.get("within"),
            among=arrays["among"],
        )


def save(path: Path, nulls: Nulls) -> None:
    """Keep nulls for the next audit; OutputError where the cache can't be written."""
    arrays = {"among": nulls.among, **_arrays(nulls.left_out, "left_out")}
    if nulls.of_unseen is not None:
        arrays |= _arrays(nulls.of_unseen, "of_unseen")
    if nulls.within is not None:
        arrays["within"] = nulls.within
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy types them as its own option
    try:
        write_atomically(path, buffer.getvalue())
    except OutputError as error:
        raise OutputError(
            f"Can't keep the distances of the reference in {path.parent}: {error.__cause__}. "
            "Point the cache to a folder that can be written: M2G_CACHE=DIR m2g-audit ..."
        ) from error


def _arrays(null: Null, name: str) -> dict[str, NDArray[Any]]:
    return {
        f"{name}/to_reference": null.to_reference,
        f"{name}/ratios": null.ratios,
        f"{name}/kept": null.kept,
        f"{name}/counts": np.array([null.dropped, null.sampled]),
        f"{name}/overlap": np.array(null.overlap, dtype=np.str_),
    }


def _null(arrays: Mapping[str, NDArray[Any]], name: str) -> Null:
    dropped, sampled = arrays[f"{name}/counts"].tolist()
    return Null(
        arrays[f"{name}/to_reference"],
        arrays[f"{name}/ratios"],
        arrays[f"{name}/kept"],
        dropped=dropped,
        sampled=sampled,
        overlap=tuple(arrays[f"{name}/overlap"].tolist()),
    )
