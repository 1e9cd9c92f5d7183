"""What a finished run was asked for, so that the same command on the same files need load no model.

Beside the identity, which only a loaded model has: a fingerprint of the options, of this program
and machine, and of the size and times of every file that the options name.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from m2g_audit.errors import AuditError
from m2g_audit.files import digest, write_atomically
from m2g_audit.foreign_files import read_file
from m2g_audit.records.record import AuditRecord
from m2g_audit.store.run_directory import default_parent, read_record, slug
from m2g_audit.versions import versions

ASKED_FILE = "asked.txt"
_NAMING_FILES = ("reference", "unseen", "metric_weights", "control_prompts", "calibration")
_NAMING_SEVERAL = ("lora", "textual_inversion")
_NAMING_MODELS = {"model": "revision", "base": None, "config_from": None}
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fingerprint(prompt: str, options: Mapping[str, Any]) -> str | None:
    """Return what an audit rests on, None where only the hub could say which model is meant.

    Args:
        prompt: Its text.
        options: Those of AuditOptions by name, paths as text.
    """
    stamps: dict[str, list[str]] = {"checkpoints": list(_stamps(_checkpoints()))}
    for name in _NAMING_FILES:
        if options.get(name) and Path(options[name]).expanduser().exists():
            stamps[name] = list(_stamps(Path(options[name]).expanduser()))
    for kind in _NAMING_SEVERAL:
        for i, name in enumerate(options.get(kind) or ()):
            stamps[f"{kind} {i}"] = list(_stamps(Path(name).expanduser()))
    if _completes_itself(options):
        return None
    for name, revision in _NAMING_MODELS.items():
        model = options.get(name)
        if model is None:
            continue
        if Path(model).expanduser().exists():
            stamps[name] = list(_stamps(Path(model).expanduser()))
        elif "/" in model and not _COMMIT.fullmatch(str(options.get(revision or ""))):
            return None
    return digest(
        {
            "prompt": prompt,
            "options": dict(options),
            "stamps": stamps,
            "versions": versions(),
            "machine": platform.node(),
            "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }
    )


def _completes_itself(options: Mapping[str, Any]) -> bool:
    """Whether only the model's own files say what completes it."""
    model = Path(options["model"]).expanduser() / (options.get("subfolder") or "")
    whole = (model / "model_index.json").is_file()
    return model.exists() and not whole and options.get("config_from") is None


def find_finished(prompt: str, asked: str, out: Path | None) -> tuple[Path, AuditRecord] | None:
    """Return the finished run of a fingerprint and its record, None where there is none to be sure.

    It is looked for at `out`, else among the folders that are named after the prompt.
    """
    folders = [out] if out else sorted(default_parent().glob(f"{slug(prompt)}-*"))
    for folder in folders:
        with suppress(OSError, ValueError, AuditError):
            if read_file(folder / ASKED_FILE).decode().strip() == asked:
                record = read_record(folder)
                if record.error is None and record.prompt == prompt:
                    return folder, record
    return None


def keep_asked(folder: Path, asked: str) -> None:
    """Keep the fingerprint of what a run was asked for; OutputError where that fails."""
    write_atomically(folder / ASKED_FILE, f"{asked}\n".encode())


def _checkpoints() -> Path:
    """Where torch keeps the weights of distances, one of which may be the default."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    return Path(os.environ.get("TORCH_HOME", cache)).expanduser() / "hub" / "checkpoints"


def _stamps(path: Path) -> Iterator[str]:
    """Name, size and time of change of a file, or of each file below a folder."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        stat = file.stat()
        name = file.relative_to(path).as_posix()
        yield f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
