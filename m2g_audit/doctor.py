"""What a machine has for an audit, what is missing, and the command that gets it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from m2g_audit.errors import AuditError
from m2g_audit.files import cache_folder
from m2g_audit.models.model_folder import TEXT_TO_IMAGE, check, resolve
from m2g_audit.models.names import DEFAULT_MODEL, POCKET
from m2g_audit.models.weight_files import Place
from m2g_audit.records.distances import said_of
from m2g_audit.similarity import LEARNED, METRICS, find_weights, how_to_get
from m2g_audit.versions import versions


@dataclass(frozen=True)
class Item:
    """Something an audit may need: whether it is available, and if not how to get it."""

    name: str
    at_hand: bool
    detail: str
    command: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """The findings of `m2g-audit doctor`; bytes are whole numbers."""

    device: str
    device_detail: str
    device_free_bytes: int
    memory_total_bytes: int
    memory_free_bytes: int
    disk_free_bytes: int
    cache: str
    versions: dict[str, str]
    models: tuple[Item, ...]
    metrics: tuple[Item, ...]


def diagnose() -> Diagnosis:
    """Return what this machine has; loads no model and touches no network."""
    device, detail, free = _device()
    memory = psutil.virtual_memory()
    cache = cache_folder("")
    return Diagnosis(
        device=device,
        device_detail=detail,
        device_free_bytes=free,
        memory_total_bytes=memory.total,
        memory_free_bytes=memory.available,
        disk_free_bytes=shutil.disk_usage(_existing(cache)).free,
        cache=str(cache),
        versions=versions(),
        models=(_pocket(), *_hub_models()),
        metrics=tuple(_metrics()),
    )


def _device() -> tuple[str, str, int]:
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return "cuda", f"{torch.cuda.get_device_name()}, {total / 1e9:.0f} GB", free
    free = psutil.virtual_memory().available
    if torch.backends.mps.is_available():
        return "mps", "Apple GPU, memory shared with the processor", free
    return "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used", free


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _pocket() -> Item:
    try:
        folder = resolve(POCKET, TEXT_TO_IMAGE)
    except AuditError as error:
        why = str(error).partition(". ")[0]
        return Item(POCKET, False, why, "pip install --force-reinstall --no-deps m2g-audit")
    size = sum(file.stat().st_size for file in folder.weights)
    return Item(POCKET, True, f"ships with the program, {size / 1e6:.0f} MB")


def _hub_models() -> Iterator[Item]:
    """Diffusers models in the hub's cache; the default one in any case."""
    found = dict(_cached_models())
    if DEFAULT_MODEL not in found:
        yield Item(DEFAULT_MODEL, False, "the default model", f"hf download {DEFAULT_MODEL}")
    for name, (snapshot, size) in sorted(found.items()):
        yield _cached(name, snapshot, size)


def _cached(name: str, snapshot: Path, size: int) -> Item:
    try:
        check(Place(snapshot, name), TEXT_TO_IMAGE)
    except AuditError as error:
        return Item(name, False, str(error).removeprefix(f"{name} "))
    default = ", the default model" if name == DEFAULT_MODEL else ""
    return Item(name, True, f"in the hub's cache, {size / 1e9:.1f} GB{default}")


def _metrics() -> Iterator[Item]:
    for name in METRICS:
        if name not in LEARNED:
            yield Item(name, True, f"{said_of(name)}; needs no weights")
        elif (path := find_weights(name)) is not None:
            yield Item(name, True, f"{said_of(name)}; {path}")
        else:
            yield Item(name, False, said_of(name), how_to_get(name))


def _cached_models() -> Iterator[tuple[str, tuple[Path, int]]]:
    """The id, the snapshot and the bytes of each diffusers model in the hub's cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except (CacheNotFound, OSError):
        return
    for repo in cache.repos:
        files = {f.file_name for revision in repo.revisions for f in revision.files}
        if repo.repo_type == "model" and "model_index.json" in files:
            # What a command without --revision takes, else what came last.
            newest = max(repo.revisions, key=lambda one: ("main" in one.refs, one.last_modified))
            yield repo.repo_id, (newest.snapshot_path, repo.size_on_disk)
