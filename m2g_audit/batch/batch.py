"""Many prompts through one model: pictures of several prompts made at once, one record each.

One thread, the caller's, asks the model and nothing else; another writes pictures and compares
them, a third writes records, so that neither the model nor a record waits for the disk or the
metric. A prompt goes

    claimed -> its pictures, in batches shared with others -> judged -> its spectra -> its record

by the steps of the one-prompt audit (audit.py), and its folder ends as that audit leaves it. With
several looks (looks.py) a prompt that was judged and is not settled goes back for more pictures.
Any number of processes may run this on one folder (batch_directory.py).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch

from m2g_audit.audits.audit import (
    Judged,
    conclude,
    error_record,
    gather,
    judge,
    now,
)
from m2g_audit.audits.generations import Pictures, blank
from m2g_audit.audits.request import Job, Setup
from m2g_audit.audits.yardstick import Yardstick
from m2g_audit.errors import NumericsError, OutputError, UsageError, as_audit_error
from m2g_audit.files import write_atomically
from m2g_audit.progress import Progress, silent
from m2g_audit.prompts import Entry, Listed, PromptList
from m2g_audit.records.record import AuditRecord, Wording
from m2g_audit.review.gate import badness
from m2g_audit.store.batch_directory import BatchDirectory, BatchRecord, Claim
from m2g_audit.store.run_directory import CALIBRATION_FILE, RunDirectory, default_folder
from m2g_audit.verdict.looks import Look

_POLL_SECONDS = 0.5
_PAYS = 1.1
_LARGE_PIXELS = 128


class BatchSize:
    """How many pictures are made at once: doubled while that pays, halved where memory ends.

    Every size is tried twice, the first time to warm up; a larger one must make 10% more pictures a
    second to be kept.
    """

    def __init__(self, start: int, most: int) -> None:
        self.value = start
        self._most = most
        self._best, self._rate = start, 0.0
        self._tries, self._found = 0, start >= most

    @classmethod
    def of(cls, setup: Setup) -> BatchSize:
        """Return where the search for a setup starts; a size that was asked for is not exceeded."""
        if setup.request.batch_size is not None:
            return cls(setup.request.batch_size, setup.request.batch_size)
        large = max(setup.pipeline.image_size) > _LARGE_PIXELS
        if setup.pipeline.device.type == "cpu":
            # A CPU has few lanes to fill, and running out of its memory ends the process.
            return cls(1, 1) if large else cls(16, 64)
        return cls(4, 64) if large else cls(16, 1024)

    def learn(self, asked: int, fitted: int, seconds: float) -> None:
        """Take in that `asked` pictures took `seconds`, at most `fitted` of them at once."""
        if fitted < asked:
            self.value, self._found = fitted, True
        if self._found or asked < self.value:
            return
        self._tries += 1
        if self._tries < 2:
            return
        rate = asked / max(seconds, 1e-9)
        if rate < _PAYS * self._rate:
            self.value, self._found = self._best, True
            return
        self._best, self._rate, self._tries = self.value, rate, 0
        self.value = min(2 * self.value, self._most)
        self._found = self.value == self._best


@dataclass
class Tally:
    """What a batch has come to so far, for whoever watches it.

    before: prompts that were finished when this process began; done and failed: with them, by
    whatever process; pictures: made by this one; stage: what the model is asked for, and how much
    of it is done; verdicts and worst: of the records seen here.
    """

    prompts: int
    before: int = 0
    done: int = 0
    failed: int = 0
    pictures: int = 0
    stage: tuple[str, float] | None = None
    verdicts: Counter[str] = field(default_factory=Counter)
    worst: tuple[tuple[float, ...], str, str] | None = None
    began: float = field(default_factory=time.monotonic)

    def work_on(self, stage: str, done: int, total: int) -> None:
        """Take in what the model is asked for now."""
        self.stage = (stage, done / max(1, total))

    def see(self, record: AuditRecord) -> None:
        """Take in a record: its verdict, and whether it is the worst."""
        if record.error is not None:
            return
        self.verdicts[record.verdict.state] += 1
        seen = (badness(record), record.prompt, record.verdict.state)
        if self.worst is None or seen[0] > self.worst[0]:
            self.worst = seen

    @property
    def prompts_per_second(self) -> float | None:
        """Return the rate since this process began, whoever did them; None before there is one."""
        made = self.done + self.failed - self.before
        return made / max(1e-9, time.monotonic() - self.began) if made > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Return how long the rest takes at that rate."""
        rate = self.prompts_per_second
        return None if rate is None else (self.prompts - self.done - self.failed) / rate


@dataclass(eq=False)
class _InWork:
    """A prompt that this process has claimed."""

    entry: Entry
    job: Job
    run: RunDirectory
    claim: Claim
    started: str = field(default_factory=now)
    pictures: Pictures | None = None
    missing: deque[int] = field(default_factory=deque)
    looks: deque[Look] = field(default_factory=deque)
    alone: bool = False
    kept: list[Future[None]] = field(default_factory=list)
    judged: Future[Judged] | None = None
    filed: Future[BatchRecord] | None = None

    @property
    def spoilt(self) -> BaseException | None:
        """Return what kept pictures of it from being kept, while it waits for more of them."""
        if self.filed is not None or self.judged is not None:
            return None
        return next((e for done in self.kept if done.done() and (e := done.exception())), None)

    @property
    def is_judged(self) -> bool:
        """Return whether it waits for the model, to be asked for spectra."""
        return self.filed is None and self.judged is not None and self.judged.done()

    @property
    def next_step(self) -> Future[Any]:
        """Return what is waited for once all pictures are made."""
        step = self.filed or self.judged
        assert step is not None
        return step

    def ask_for_pictures(self) -> None:
        """Ask for what the next look still needs."""
        assert self.pictures is not None
        self.missing.extend(self.pictures.missing(self.looks[0].seeds))

    def let_go_of_pictures(self) -> None:
        """Free memory: what follows needs the record only."""
        self.missing.clear()
        self.kept.clear()
        self.judged = self.pictures = None


class Batch:
    """The audit of the prompts of a list; iterate over `run` for records as they are finished."""

    _desk: ThreadPoolExecutor
    _clerk: ThreadPoolExecutor

    def __init__(
        self, setup: Setup, directory: BatchDirectory, entries: Sequence[Entry] | None = None
    ) -> None:
        """Prepare to audit `entries` (this process's share of the list; by default all of it)."""
        self._setup = setup
        self.directory = directory
        self._log = directory.log
        self._entries = tuple(directory.entries if entries is None else entries)
        self._ids = {entry.id for entry in self._entries}
        self._size = BatchSize.of(setup)
        self._looks = setup.looks
        self._found: Yardstick | None = None
        self._in_work: deque[_InWork] = deque()
        self._others: deque[Entry] = deque()
        self._each = setup.pipeline.evaluations(
            steps=setup.settings.steps,
            guidance=setup.settings.guidance,
            scheduler=setup.request.scheduler,
        )
        self.tally = Tally(len(self._entries))
        self._plan()

    def _plan(self) -> None:
        """Find out which prompts have no record yet."""
        self._log.refresh()
        self._failed_before = dict(self._log.failures)
        waiting = [entry for entry in self._entries if entry.id not in self._log.finished]
        # What failed before comes last: it may well fail again.
        self._waiting = deque(sorted(waiting, key=lambda entry: entry.id in self._failed_before))
        self.tally.before = len(self._entries) - len(waiting)
        self._count()

    @property
    def waiting(self) -> Sequence[Entry]:
        """Return the prompts that have no finished record and were not begun here."""
        return tuple(self._waiting)

    def recall(self) -> list[str]:
        """Take the records that are there into the tally, so that it speaks of all prompts.

        Lines that turn out to be no records are taken out of the file, their prompts are done
        again, and sentences about that are returned.
        """
        for record in self._log.get([entry.id for entry in self._entries]):
            self.tally.see(record)
        if not self._log.unreadable:
            return []
        said = self._log.repair()
        self._plan()
        return said

    def gather(self, on_progress: Progress = silent) -> None:
        """Load the reference and find the thresholds, which `run` does where nobody did."""
        # The whole list's, not this share's: all who work on it must find the same.
        prompts = [entry.prompt for entry in self.directory.entries]
        self._found = gather(self._setup, prompts, {}, on_progress)

    @property
    def _yardstick(self) -> Yardstick:
        assert self._found is not None
        return self._found

    def run(self) -> Iterator[BatchRecord]:
        """Yield the records of prompts as this process finishes them, until all have one.

        A prompt that fails has a record with its error and does not stop the others. What stops all
        is raised: OutputError where the folder can't be written, UsageError for options that the
        model can't be used with, errors of the reference or the thresholds, and whatever is thrown
        in. Nothing that was finished is lost by it.
        """
        if self._waiting and self._found is None:
            self.gather()
        self.tally.began = time.monotonic()
        with _helper("m2g-desk") as self._desk, _helper("m2g-clerk") as self._clerk:
            try:
                while self._waiting or self._in_work or self._others:
                    yield from self._hand_over()
                    self._take_up()
                    self._go_on()
            finally:
                self._let_go()

    def _go_on(self) -> None:
        """Do the next thing that the model, or nobody, can do: finish prompts before beginning."""
        for work in self._in_work:
            if work.spoilt is not None:
                self._fail(work, work.spoilt)
        judged = next((work for work in self._in_work if work.is_judged), None)
        if judged is not None:
            self._conclude(judged)
        elif any(work.missing for work in self._in_work):
            self._make_pictures()
        elif self._in_work:
            wait([w.next_step for w in self._in_work], return_when=FIRST_COMPLETED)
        elif self._others:
            self._wait_for_others()

    # -- claiming

    def _take_up(self) -> None:
        """Claim prompts until there are pictures enough for a batch."""
        most = 3 + 2 * self._size.value // self._looks[0].seeds
        while self._waiting and len(self._in_work) < most:
            if sum(len(work.missing) for work in self._in_work) >= self._size.value:
                return
            entry = self._waiting.popleft()
            if not self._is_settled(entry):
                self._claim(entry)

    def _is_settled(self, entry: Entry) -> bool:
        """Whether a prompt was finished, or has failed since this process began."""
        before = self._failed_before.get(entry.id, 0)
        return entry.id in self._log.finished or self._log.failures.get(entry.id, 0) > before

    def _claim(self, entry: Entry) -> None:
        claim = self.directory.claim(entry)
        if claim is None:
            self._others.append(entry)
            return
        # Whoever held it before wrote its record before letting go.
        self._log.refresh()
        if self._is_settled(entry):
            claim.release(settled=True)
        else:
            self._in_work.append(self._begin(entry, claim))

    def _begin(self, entry: Entry, claim: Claim) -> _InWork:
        path = self.directory.path / self.directory.folder(entry)
        try:
            job = self._setup.job(entry.prompt, entry.negative_prompt)
        except Exception as error:  # a tokenizer that can't take the text
            job = self._setup.job(entry.prompt, entry.negative_prompt, wording=Wording())
            work = _InWork(entry, job, RunDirectory(path, job.identity), claim)
            self._fail(work, error)
            return work
        work = _InWork(entry, job, RunDirectory(path, job.identity), claim)
        work.run.clear_drafts(age=0)  # the claim is this process's: whoever wrote them is no more
        try:
            work.run = RunDirectory.open(path, job.identity)
            finished = _finished(work.run)
            if finished is not None:  # by a process that died before it wrote the line
                work.filed = self._clerk.submit(self._file, work, finished)
                return work
            work.pictures = Pictures(job, work.run)
        except Exception as error:
            self._fail(work, error)
            return work
        work.looks.extend(self._looks)
        job.seconds["images"] = 0.0
        work.ask_for_pictures()
        self._judge_if_complete(work)
        return work

    def _wait_for_others(self) -> None:
        """Look after prompts that other processes have claimed: they may end without a record."""
        time.sleep(_POLL_SECONDS)
        self._log.refresh()
        self._count()
        self._waiting.extend(entry for entry in self._others if not self._is_settled(entry))
        self._others.clear()

    # -- the model's thread

    def _make_pictures(self) -> None:
        pairs = self._next_pairs()
        settings = self._setup.settings
        start = time.perf_counter()
        try:
            made = self._setup.pipeline.generate(
                [work.entry.prompt for work, _ in pairs],
                [work.job.generator_seed(index) for work, index in pairs],
                negative_prompt=[work.entry.negative_prompt for work, _ in pairs],
                steps=settings.steps,
                guidance=settings.guidance,
                batch_size=len(pairs),
                scheduler=self._setup.request.scheduler,
                on_progress=partial(
                    self.tally.work_on, "pictures", total=len(pairs) * settings.steps
                ),
            )
            images, latents = made.images, made.clean
            self._size.learn(len(pairs), made.fitted, time.perf_counter() - start)
        except NumericsError:
            # No picture is finite; what that means for each prompt depends on its other pictures.
            images, latents = blank(pairs[0][0].job, len(pairs))
        except Exception as error:
            self._part(pairs, error)
            return
        each = (time.perf_counter() - start) / len(pairs)
        self.tally.pictures += len(pairs)
        for work, group in groupby(enumerate(pairs), key=lambda item: item[1][0]):
            places = [(k, index) for k, (_, index) in group]
            rows = [k for k, _ in places]
            work.job.seconds["images"] = round(work.job.seconds["images"] + each * len(rows), 3)
            assert work.pictures is not None
            work.kept.append(
                self._desk.submit(
                    work.pictures.add, [index for _, index in places], images[rows], latents[rows]
                )
            )
            self._judge_if_complete(work)

    def _judge_if_complete(self, work: _InWork) -> None:
        if not work.missing:
            work.judged = self._desk.submit(self._judge, work)

    def _next_pairs(self) -> list[tuple[_InWork, int]]:
        """Return the pictures to make at once, taken off their prompts' lists, oldest first."""
        pairs: list[tuple[_InWork, int]] = []
        for work in self._in_work:
            if work.alone and pairs:
                continue
            while work.missing and len(pairs) < self._size.value:
                pairs.append((work, work.missing.popleft()))
            if work.alone and pairs:
                break
        return pairs

    def _part(self, pairs: Sequence[tuple[_InWork, int]], error: Exception) -> None:
        """Find which prompt of a batch is at fault: each is tried alone, and then fails alone."""
        if all(work is pairs[0][0] for work, _ in pairs):
            self._fail(pairs[0][0], error)
            return
        for work, index in reversed(pairs):
            work.alone = True
            work.missing.appendleft(index)

    def _conclude(self, work: _InWork) -> None:
        assert work.judged is not None
        try:
            judged = work.judged.result()
            if not judged.settled:
                self._go_to_next_look(work)
                return
            record = conclude(
                work.job, work.run, judged, self._yardstick, work.started, self.tally.work_on
            )
        except Exception as error:
            self._fail(work, error)
            return
        work.let_go_of_pictures()
        work.filed = self._clerk.submit(self._file, work, record)

    def _go_to_next_look(self, work: _InWork) -> None:
        work.looks.popleft()
        work.judged = None
        work.ask_for_pictures()
        self._judge_if_complete(work)

    def _fail(self, work: _InWork, error: BaseException) -> None:
        known = as_audit_error(error)
        disk = isinstance(known, OutputError) and work.pictures is not None
        if disk or isinstance(known, UsageError):
            raise known from error  # not this prompt's fault: all share the disk and the options
        work.let_go_of_pictures()
        record = error_record(work.job, work.started, known)
        work.filed = self._clerk.submit(self._file, work, record)

    # -- the desk's thread, and the clerk's

    def _judge(self, work: _InWork) -> Judged:
        for kept in work.kept:
            kept.result()
        assert work.pictures is not None
        look, yardstick = work.looks[0], self._yardstick
        pictures = work.pictures.first(look.seeds)
        return judge(work.job, work.run, pictures, yardstick, look=look)

    def _file(self, work: _InWork, record: AuditRecord) -> BatchRecord:
        """Write a prompt's record into its folder and the batch's, and let go of the prompt."""
        work.run.save_record(record)
        filed = to_batch_record(record, work.entry, self.directory.folder(work.entry), self._each)
        self._log.append(filed)
        work.claim.release(settled=True)
        return filed

    # -- records

    def _hand_over(self) -> Iterator[BatchRecord]:
        for work in [w for w in self._in_work if w.filed is not None and w.filed.done()]:
            assert work.filed is not None
            record = work.filed.result()
            self._in_work.remove(work)
            self._log.refresh()
            self._count()
            self.tally.see(record)
            yield record

    def _count(self) -> None:
        finished = self._log.finished
        self.tally.done = len(self._ids & finished)
        self.tally.failed = sum(
            key in self._ids and key not in finished and n > self._failed_before.get(key, 0)
            for key, n in self._log.failures.items()
        )

    def _let_go(self) -> None:
        """End what was begun: pictures and records that are there are written, all else is left."""
        for work in self._in_work:
            if work.judged is not None:
                work.judged.cancel()
        for work in self._in_work:
            wait(work.kept)
            if work.filed is None or isinstance(work.filed.exception(), Exception):
                work.claim.release(settled=False)
        self._in_work.clear()


def open_directory(setup: Setup, prompts: PromptList, name: str) -> BatchDirectory:
    """Return the batch's folder, which is named after `name` where the request names none.

    UsageError where it holds another batch, OutputError where it can't be written.
    """
    for entry in prompts:
        setup.check_negative_prompt(entry.negative_prompt)
    identity = {**setup.identity, "prompts": prompts.sha256}
    folder = setup.request.out or default_folder(name, identity)
    directory = BatchDirectory.open(folder, setup.identity, prompts)
    if setup.calibration is not None:
        write_atomically(folder / CALIBRATION_FILE, setup.calibration.content)
    return directory


def _helper(name: str) -> ThreadPoolExecutor:
    """Return a thread beside the model's.

    Its tensors use one core: once two threads of a process have OpenMP workers, all of them wait
    for theirs some four times as long (libgomp no longer spins), the model's too.
    """
    return ThreadPoolExecutor(1, name, initializer=torch.set_num_threads, initargs=(1,))


def to_batch_record(
    record: AuditRecord, entry: Entry, folder: str, evaluations_of_a_picture: int
) -> BatchRecord:
    """Return a prompt's record as it stands among those of its batch."""
    spectra = [c.model_copy(update={"singular_values": None}) for c in record.curvature]
    evaluations = {
        "images": len(record.seeds) * evaluations_of_a_picture,
        "curvature": sum(entry.evaluations for entry in spectra),
        "basins": sum((a.basin and a.basin.evaluations) or 0 for a in record.attractors),
    }
    fields = {name: getattr(record, name) for name in AuditRecord.model_fields}
    return BatchRecord(
        **{**fields, "curvature": spectra},
        listed=Listed(**entry.model_dump(exclude={"prompt", "negative_prompt"})),
        folder=folder,
        evaluations={stage: count for stage, count in evaluations.items() if count},
    )


def _finished(run: RunDirectory) -> AuditRecord | None:
    """The finished record in a prompt's folder; one that can't be read is made anew."""
    try:
        return run.finished()
    except OutputError:
        return None
