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
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import groupby

import torch

from m2g_audit.audits.audit import conclude, gather
from m2g_audit.audits.generations import PromptPictures, blank
from m2g_audit.audits.job import make_job
from m2g_audit.audits.judging import Judged, judge
from m2g_audit.audits.recording import error_record
from m2g_audit.audits.setup import Setup
from m2g_audit.audits.yardstick import Yardstick
from m2g_audit.batch.batch_size import BatchSize
from m2g_audit.batch.opening import to_batch_record
from m2g_audit.batch.tally import Tally
from m2g_audit.batch.work import ClaimedPrompt
from m2g_audit.errors import NumericsError, OutputError, UsageError, as_audit_error
from m2g_audit.progress import Progress, silent
from m2g_audit.prompts import Entry
from m2g_audit.records.record import AuditRecord, Wording
from m2g_audit.store.batch_directory import BatchDirectory, BatchRecord, Claim
from m2g_audit.store.run_directory import RunDirectory

_POLL_SECONDS = 0.5
# Calls of the model whose pictures may wait in memory for the disk and the metric.
_WAITING_CALLS = 4


class Batch:
    """The audit of the prompts of a list; iterate over `run` for records as they are finished."""

    _comparing: ThreadPoolExecutor
    _writing: ThreadPoolExecutor

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
        self._in_work: deque[ClaimedPrompt] = deque()
        self._others: deque[Entry] = deque()
        self._keeping: deque[Future[None]] = deque()
        self._each = setup.pipeline.evaluations(
            steps=setup.settings.steps,
            guidance=setup.settings.guidance,
            scheduler=setup.settings.scheduler,
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
        with _helper("m2g-compare") as self._comparing, _helper("m2g-write") as self._writing:
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
            if self._has_room():
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

    def _begin(self, entry: Entry, claim: Claim) -> ClaimedPrompt:
        path = self.directory.path / self.directory.folder(entry)
        try:
            job = make_job(self._setup, entry.prompt, entry.negative_prompt)
        except Exception as error:  # a tokenizer that can't take the text
            job = make_job(self._setup, entry.prompt, entry.negative_prompt, wording=Wording())
            work = ClaimedPrompt(entry, job, RunDirectory(path, job.identity), claim)
            self._fail(work, error)
            return work
        work = ClaimedPrompt(entry, job, RunDirectory(path, job.identity), claim)
        work.run.clear_drafts(age=0)  # the claim is this process's: whoever wrote them is no more
        try:
            work.run = RunDirectory.open(path, job.identity)
            finished = _finished(work.run)
            if finished is not None:  # by a process that died before it wrote the line
                work.filed = self._writing.submit(self._file, work, finished)
                return work
            work.pictures = PromptPictures(job, work.run)
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

    def _has_room(self) -> bool:
        """Whether more pictures may be made; if not, wait until some that were made are kept."""
        while self._keeping and self._keeping[0].done():
            self._keeping.popleft()
        if len(self._keeping) < _WAITING_CALLS:
            return True
        wait([self._keeping[0]])
        return False

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
                scheduler=self._setup.settings.scheduler,
                on_progress=partial(
                    self.tally.work_on, "pictures", total=len(pairs) * settings.steps
                ),
            )
            images, latents, followed = made.images, made.clean, made.trajectories
            self._size.learn(len(pairs), made.fitted, time.perf_counter() - start)
        except NumericsError:
            # No picture is finite; what that means for each prompt depends on its other pictures.
            images, latents, followed = blank(pairs[0][0].job, len(pairs))
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
            kept = self._comparing.submit(
                work.pictures.add,
                [index for _, index in places],
                images[rows],
                latents[rows],
                [followed[k] for k in rows],
            )
            work.kept.append(kept)
            self._judge_if_complete(work)
        self._keeping.append(kept)

    def _judge_if_complete(self, work: ClaimedPrompt) -> None:
        if not work.missing:
            work.judged = self._comparing.submit(self._judge, work)

    def _next_pairs(self) -> list[tuple[ClaimedPrompt, int]]:
        """Return the pictures to make at once, taken off their prompts' lists, oldest first."""
        pairs: list[tuple[ClaimedPrompt, int]] = []
        for work in self._in_work:
            if work.alone and pairs:
                continue
            while work.missing and len(pairs) < self._size.value:
                pairs.append((work, work.missing.popleft()))
            if work.alone and pairs:
                break
        return pairs

    def _part(self, pairs: Sequence[tuple[ClaimedPrompt, int]], error: Exception) -> None:
        """Find which prompt of a batch is at fault: each is tried alone, and then fails alone."""
        if all(work is pairs[0][0] for work, _ in pairs):
            self._fail(pairs[0][0], error)
            return
        for work, index in reversed(pairs):
            work.alone = True
            work.missing.appendleft(index)

    def _conclude(self, work: ClaimedPrompt) -> None:
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
        work.filed = self._writing.submit(self._file, work, record)

    def _go_to_next_look(self, work: ClaimedPrompt) -> None:
        work.looks.popleft()
        work.judged = None
        work.ask_for_pictures()
        self._judge_if_complete(work)

    def _fail(self, work: ClaimedPrompt, error: BaseException) -> None:
        known = as_audit_error(error)
        disk = isinstance(known, OutputError) and work.pictures is not None
        if disk or isinstance(known, UsageError):
            raise known from error  # not this prompt's fault: all share the disk and the options
        work.let_go_of_pictures()
        record = error_record(work.job, work.started, known)
        work.filed = self._writing.submit(self._file, work, record)

    # -- the comparing and the writing thread

    def _judge(self, work: ClaimedPrompt) -> Judged:
        for kept in work.kept:
            kept.result()
        assert work.pictures is not None
        look, yardstick = work.looks[0], self._yardstick
        pictures = work.pictures.first(look.seeds)
        return judge(work.job, work.run, pictures, yardstick, look=look)

    def _file(self, work: ClaimedPrompt, record: AuditRecord) -> BatchRecord:
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


def _helper(name: str) -> ThreadPoolExecutor:
    """Return a thread beside the model's.

    Its tensors use one core: once two threads of a process have OpenMP workers, all of them wait
    for theirs some four times as long (libgomp no longer spins), the model's too.
    """
    return ThreadPoolExecutor(1, name, initializer=torch.set_num_threads, initargs=(1,))


def _finished(run: RunDirectory) -> AuditRecord | None:
    """The finished record in a prompt's folder; one that can't be read is made anew."""
    try:
        return run.finished()
    except OutputError:
        return None
