"""The folder of a batch: what lies in it, and how several processes write to it at once.

    identity.json       all that can change a number, the same for every prompt, and the list's hash
    prompts.jsonl       the list: one Entry a line, in order; never changed
    records.jsonl       one BatchRecord a line, in the order in which prompts were finished
    records.damaged     bytes that were no whole line of records.jsonl, taken out of it
    prompts/SLUG-ID/    of each prompt, what `m2g-audit prompt` leaves: record.json, images/,
                        latents/, reference/, curvature/, distances.safetensors, identity.json
    calibration.json    a copy of the one that was used, if one was
    claims/ID.lock      locked while a process works on that prompt
    results.parquet     one row a prompt (batch_results.py), once every prompt has a record
    summary.json        counts, the worst prompts, what failed (batch_results.py), likewise

records.jsonl grows by whole lines, each flushed to the disk before its prompt counts as done, under
a lock. So all that a crash can leave is one line without its end: it is moved to records.damaged,
and its prompt is taken from its own folder or audited again. A prompt that failed has a record with
its error and is tried again by the next run; where a prompt has several lines the last one counts.
A line that is no record counts as none, and the next run takes it out like damaged bytes.
Locks belong to processes: one that dies, however it dies, lets go of its claims.

Nothing here imports torch, so that a report can be made where it is not installed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import Field

from m2g_audit.errors import OutputError, UsageError
from m2g_audit.files import (
    cannot_write,
    check_writable,
    clear_drafts,
    draft_of,
    is_draft,
    write_atomically,
)
from m2g_audit.foreign_files import open_file, read_file
from m2g_audit.prompts import Entry, Listed, PromptList, parse_list
from m2g_audit.records.record import SCHEMA_VERSION, AuditRecord, in_present_schema
from m2g_audit.store.run_directory import IDENTITY_FILE, differences, read_json, refuse_links, slug
from m2g_audit.text import printable

PROMPTS_FILE = "prompts.jsonl"
RECORDS_FILE = "records.jsonl"
DAMAGED_FILE = "records.damaged"
RESULTS_FILE = "results.parquet"
SUMMARY_FILE = "summary.json"
_LOCK_FILE = ".lock"
_CHUNK = 2**16
_PROMPT_FOLDER = r"^(prompts/[a-z0-9-]+|\.)$"


class BatchRecord(AuditRecord):
    """The audit of one prompt of a batch; spectra are in their files only."""

    listed: Listed
    """What the list says of it."""
    folder: Annotated[str, Field(pattern=_PROMPT_FOLDER)]
    """Its own folder, relative to the batch's, to which the paths of the record are relative."""
    evaluations: dict[str, int]
    """Forward passes of the network, by stage."""


class Claim:
    """The right to work on one prompt, until it is released or the process ends."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    def release(self, *, settled: bool) -> None:
        """Let go of the prompt; `settled`: its record is written, so that nobody needs the file."""
        if settled:
            # While it is locked: whoever opened it before finds the record.
            with suppress(OSError):
                os.unlink(self._lock.lock_file)
        self._lock.release()


class RecordLog:
    """records.jsonl: read line by line as other processes add to it, and added to."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORDS_FILE
        self._damaged = folder / DAMAGED_FILE
        self._lock_file = folder / _LOCK_FILE
        self._read_to, self._inode = 0, 0
        self._last: dict[str, int] = {}
        self._finished: set[str] = set()
        self._failures: dict[str, int] = {}
        self._unreadable: set[int] = set()

    @property
    def unreadable(self) -> int:
        """Return how many lines turned out to be no records since the file was last rewritten."""
        return len(self._unreadable)

    @property
    def finished(self) -> set[str]:
        """Return the ids of prompts with a record without an error, as of the last refresh."""
        return self._finished

    @property
    def failures(self) -> Mapping[str, int]:
        """Return how many records with an error each prompt has."""
        return self._failures

    def refresh(self) -> None:
        """Take in the lines that were added since."""
        try:
            with open_file(self.path) as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._read_to:
                    self._forget(stat.st_ino)
                file.seek(self._read_to)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # being written, or damaged
                    self._take_in(line)
                    self._read_to += len(line)
        except FileNotFoundError:
            self._forget(0)
        except OSError as error:
            raise OutputError(f"Can't read {self.path}: {error.strerror}.") from error

    def _forget(self, inode: int) -> None:
        self._read_to, self._inode = 0, inode
        self._last, self._finished, self._failures = {}, set(), {}
        self._unreadable = set()

    def _take_in(self, line: bytes) -> None:
        key = _key(line)
        if key is None:
            self._unreadable.add(self._read_to)
            return
        prompt, failed = key
        self._last[prompt] = self._read_to
        if failed:
            self._failures[prompt] = self._failures.get(prompt, 0) + 1
        else:
            self._finished.add(prompt)

    def append(self, record: BatchRecord) -> None:
        """Write a record to the disk, whole; OutputError where it can't be, and nothing is left."""
        line = f"{record.model_dump_json()}\n".encode()
        try:
            with FileLock(self._lock_file):
                self._mend_tail()
                is_new = not self.path.exists()
                with self.path.open("ab") as file:
                    start = file.tell()
                    try:
                        file.write(line)
                        file.flush()
                        os.fsync(file.fileno())
                    except OSError:
                        with suppress(OSError):
                            file.truncate(start)
                        raise
                if is_new:
                    _sync_folder(self.path.parent)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def repair(self) -> list[str]:
        """Take out what is no record, and say so; lines that are whole are not touched."""
        try:
            with FileLock(self._lock_file):
                tail = self._mend_tail()
                self.refresh()
                inside = self._take_out_unreadable()
        except OSError as error:
            raise cannot_write(self.path, error) from error
        said = []
        if tail:
            said.append(
                f"{self.path} ended in the middle of a record, as a crash leaves it: {tail:,} "
                f"bytes are now in {DAMAGED_FILE}, and that prompt is done again."
            )
        if inside:
            said.append(
                f"{inside:,} lines of {self.path} are no records: they are now in {DAMAGED_FILE}, "
                "and their prompts are done again."
            )
        return said

    def _mend_tail(self) -> int:
        """Move what follows the last line's end to the damaged bytes; return how many."""
        try:
            file = self.path.open("r+b")
        except FileNotFoundError:
            return 0
        with file:
            size = start = file.seek(0, os.SEEK_END)
            tail = b""
            while start > 0 and b"\n" not in tail:
                step = min(_CHUNK, start)
                start -= step
                file.seek(start)
                tail = file.read(step) + tail
            tail = tail[tail.rfind(b"\n") + 1 :]
            if tail:
                self._keep_damaged(tail)
                file.truncate(size - len(tail))
                os.fsync(file.fileno())
            return len(tail)

    def _take_out_unreadable(self) -> int:
        damaged = self._unreadable
        if damaged:
            self._keep_damaged(b"".join(line for at, line in self._lines() if at in damaged))
            self._rewrite(line for at, line in self._lines() if at not in damaged)
        return len(damaged)

    def compact(self) -> None:
        """Leave one line a prompt, its last, where there are more."""
        try:
            with FileLock(self._lock_file):
                self.refresh()
                self._take_out_unreadable()
                self.refresh()
                kept = set(self._last.values())
                if any(at not in kept for at, _ in self._lines()):
                    self._rewrite(line for at, line in self._lines() if at in kept)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield where each line starts, and the line; nothing where there is no file."""
        at = 0
        with suppress(FileNotFoundError), open_file(self.path) as file:
            for line in file:
                yield at, line
                at += len(line)

    def _rewrite(self, lines: Iterator[bytes]) -> None:
        draft = draft_of(self.path)
        with draft.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
        _sync_folder(self.path.parent)

    def _keep_damaged(self, content: bytes) -> None:
        with self._damaged.open("ab") as file:
            file.write(content.rstrip(b"\n") + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def get(self, ids: Sequence[str]) -> Iterator[BatchRecord]:
        """Yield the last record of each of these prompts that has one.

        A prompt whose line turns out to be no record counts as one without. OutputError where the
        file can't be read, or was written by a version with other records.
        """
        try:
            file = open_file(self.path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise OutputError(f"Can't read {self.path}: {error.strerror}.") from error
        with file:
            self.refresh()
            if os.fstat(file.fileno()).st_ino != self._inode:  # replaced in between
                yield from self.get(ids)
                return
            for prompt in [prompt for prompt in ids if prompt in self._last]:
                file.seek(offset := self._last[prompt])
                record = self._parse(file.readline())
                if record is None:
                    self._pass_over(prompt, offset)
                else:
                    yield record

    def _parse(self, line: bytes) -> BatchRecord | None:
        try:
            return BatchRecord.model_validate_json(in_present_schema(line))
        except ValueError as error:
            version = _version(line)
            if version is None or version.split(".")[0] == SCHEMA_VERSION.split(".")[0]:
                return None
            raise OutputError(
                f"{self.path} holds records of schema version {version}; this program reads "
                f"{SCHEMA_VERSION.split('.')[0]}.x. Use the version that wrote them, or choose "
                "another folder with --out DIR."
            ) from error

    def _pass_over(self, prompt: str, offset: int) -> None:
        self._unreadable.add(offset)
        self._finished.discard(prompt)
        for known in (self._failures, self._last):
            known.pop(prompt, None)


class BatchDirectory:
    """The folder of one batch; make one with `open` to write, with `read` to look at."""

    def __init__(self, path: Path, entries: Sequence[Entry]) -> None:
        self.path = path
        self.entries = entries
        self.log = RecordLog(path)

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any], prompts: PromptList) -> BatchDirectory:
        """Return the batch of `identity` and `prompts` at `path`, begun or taken up again.

        Raises UsageError where the folder holds another batch, or files that are none, and
        OutputError where it can't be written.
        """
        whole = json.loads(json.dumps({"kind": "batch", **identity, "prompts": prompts.sha256}))
        check_writable(path)
        for part in (path, path / "prompts", path / "claims"):
            refuse_links(part)
        if not (path / IDENTITY_FILE).exists():
            _refuse_strangers(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with FileLock(path / _LOCK_FILE):
                if (path / IDENTITY_FILE).exists():
                    _refuse_other(path, whole, prompts)
                else:
                    write_atomically(path / PROMPTS_FILE, prompts.to_jsonl())
                    text = json.dumps(whole, indent=1, ensure_ascii=False)
                    write_atomically(path / IDENTITY_FILE, f"{text}\n".encode())
                (path / "claims").mkdir(exist_ok=True)
                clear_drafts(path)
        except OSError as error:
            raise cannot_write(path, error) from error
        return cls(path, prompts.entries)

    @classmethod
    def read(cls, path: Path) -> BatchDirectory:
        """Return the batch that lies at `path`; OutputError where there is none."""
        identity = read_json(path / IDENTITY_FILE) if (path / IDENTITY_FILE).exists() else None
        if not isinstance(identity, dict) or identity.get("kind") != "batch":
            raise OutputError(f"{path} is no folder of a batch: make one with m2g-audit batch.")
        try:
            prompts = parse_list(read_file(path / PROMPTS_FILE))
        except (OSError, ValueError) as error:
            raise OutputError(f"Can't read {path / PROMPTS_FILE}: {error}.") from error
        return cls(path, prompts.entries)

    def check_still_there(self) -> None:
        """Raise OutputError where somebody removed the folder; what is written makes it anew."""
        if not all((self.path / name).exists() for name in (IDENTITY_FILE, PROMPTS_FILE)):
            raise OutputError(
                f"{self.path} was removed while it was worked on, and what is there now is not the "
                "whole batch. Run the same command with another --out DIR."
            )

    def folder(self, entry: Entry) -> str:
        """Return the folder of a prompt, relative to the batch's."""
        return f"prompts/{slug(entry.prompt)}-{entry.id}"

    def claim(self, entry: Entry) -> Claim | None:
        """Return the right to work on a prompt, or None while another process has it."""
        lock = FileLock(self.path / "claims" / f"{entry.id}.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        except OSError as error:
            raise cannot_write(Path(lock.lock_file), error) from error
        return Claim(lock)

    def records(self) -> Iterator[BatchRecord]:
        """Yield the record of each prompt that has one, in the order of the list."""
        yield from self.log.get([entry.id for entry in self.entries])


def _refuse_strangers(path: Path) -> None:
    # What there may be of a batch before its identity is written.
    own = (_LOCK_FILE, PROMPTS_FILE)
    if path.exists() and any(f.name not in own and not is_draft(f) for f in path.iterdir()):
        raise UsageError(
            f"{path} has files in it but is not a batch's folder: nothing is written there. "
            "Choose an empty or a new folder with --out DIR."
        )


def _refuse_other(path: Path, now: Mapping[str, Any], prompts: PromptList) -> None:
    there = read_json(path / IDENTITY_FILE)
    if there == now:
        return
    if not isinstance(there, dict) or there.get("kind") != "batch":
        raise UsageError(f"{path} is not a batch's folder: choose another one with --out DIR.")
    settings = {k: {**v, "prompts": None} for k, v in (("there", there), ("now", dict(now)))}
    changes = [differences(settings["there"], settings["now"])]
    if there.get("prompts") != now["prompts"]:
        changes.append(_list_differences(path, prompts))
    raise UsageError(
        f"{path} holds another batch ({'; '.join(filter(None, changes))}). Continue it with what "
        "it was begun with, or choose another folder with --out DIR."
    )


def _list_differences(path: Path, prompts: PromptList) -> str:
    there = {entry.prompt for entry in BatchDirectory.read(path).entries}
    now = {entry.prompt for entry in prompts}
    parts = [
        f"{len(some):,} prompts {what}, such as “{printable(min(some), 40)}”"
        for some, what in ((now - there, "are new"), (there - now, "are gone"))
        if some
    ]
    return "; ".join(parts) or "the prompts are the same in another order or with other columns"


def _key(line: bytes) -> tuple[str, bool] | None:
    """Return whose record a line is and whether it failed; None for what is no record."""
    try:
        content = json.loads(line)
        prompt, failed = content["listed"]["id"], content["error"] is not None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (prompt, failed) if isinstance(prompt, str) else None


def _version(line: bytes) -> str | None:
    """Return the schema version that a line states, None where it states none."""
    stated = json.loads(line).get("schema_version")
    return stated if isinstance(stated, str) and re.fullmatch(r"\d+\.\d+", stated) else None


def _sync_folder(path: Path) -> None:
    """Bring a folder's list of files to the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
