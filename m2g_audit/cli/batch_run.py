"""One run of a command that audits many prompts: from its list to its gate."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from m2g_audit.cli.asking import ASK_ABOVE_SECONDS, ask, ask_for_download
from m2g_audit.records.vocabulary import FailOn

if TYPE_CHECKING:
    from m2g_audit.audits.options import AuditOptions
    from m2g_audit.audits.setup import Setup
    from m2g_audit.batch.batch import Batch
    from m2g_audit.cli.terminal import Terminal
    from m2g_audit.prompts import Entry, PromptList
    from m2g_audit.review.finetune import FinetuneSummary
    from m2g_audit.review.gate import Outcome
    from m2g_audit.store.batch_directory import BatchDirectory


class BatchRun:
    """One run of the command: what it was asked for, and how far it came."""

    setup: Setup
    directory: BatchDirectory | None
    _listed: PromptList
    _share: tuple[Entry, ...]
    _notices: list[str]

    def __init__(
        self, fail_on: FailOn | None, junit: Path | None, *, annotate: bool = False
    ) -> None:
        from m2g_audit.cli.terminal import Terminal

        self._fail_on, self._junit, self._annotate = fail_on, junit, annotate
        self._console = Terminal(stderr=True)
        self.directory = None

    @property
    def notices(self) -> Sequence[str]:
        """Return what was noticed so far, a sentence each."""
        return tuple(self._notices)

    def take(self, listed: PromptList, share: tuple[Entry, ...]) -> None:
        """Take in the list, and the prompts of it that are this run's."""
        self._listed, self._share = listed, share
        self._notices = list(listed.notices)

    def start(
        self,
        options: AuditOptions,
        name: str,
        out: Path | None,
        yes: bool,
        *,
        source: str | None = None,
        dry: bool = False,
    ) -> None:
        """Audit what has no verdict yet; raises what stops a run.

        name: of the folder, where `out` is not given; source: where the list is, whose pictures are
        S too where it is a folder of them and none is named; dry: say what it would take, and
        write nothing.
        """
        from m2g_audit.cli.bars import loading, progress_on
        from m2g_audit.files import check_writable
        from m2g_audit.store.run_directory import default_parent

        check_writable(out or default_parent())
        if self._junit is not None:
            check_writable(self._junit.absolute().parent)
        with loading(self._console):
            from m2g_audit.audits.setup import set_up, with_list
            from m2g_audit.batch.batch import Batch
            from m2g_audit.batch.opening import open_directory
        if source is not None and (whole := with_list(options, source)) != options:
            options = whole
            self._notices.append(
                f"The pictures of {source} are the reference too; --reference none for none."
            )
        ask_for_download(options, yes or dry, self._console)
        with progress_on(self._console) as progress:
            self.setup = setup = set_up(options, out=out, on_progress=progress)
        if dry:
            self._say_cost(setup, name, out)
            return
        self.directory = directory = open_directory(setup, self._listed, name, out)
        self._notices += directory.log.repair()
        batch = Batch(setup, directory, self._share)
        self._notices += batch.recall()
        for notice in self._notices:
            self._print(f"Note: {notice}")
        self._ask(setup, batch, yes)
        self._audit(batch)

    def _say_cost(self, setup: Setup, name: str, out: Path | None) -> None:
        """Say what is still to do, from a copy of the folder that is gone afterwards."""
        from m2g_audit.batch.batch import Batch
        from m2g_audit.batch.opening import batch_folder, open_directory

        folder = batch_folder(setup, self._listed, name, out)
        with TemporaryDirectory() as temporary:
            copy = Path(temporary) / folder.name
            if folder.exists():
                # Its records alone tell what is done; pictures can be many gigabytes.
                shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("prompts"))
            self.directory = open_directory(setup, self._listed, name, copy)
            batch = Batch(setup, self.directory, self._share)
            batch.recall()
            self._print(f"A dry run, which audits nothing. {extent(setup, len(batch.waiting))}")
            self._ask(setup, batch, yes=True, folder=folder)

    def ask_base(self, options: AuditOptions) -> BatchDirectory | None:
        """Ask the base for the seeds of prompts that gave copies, and return its batch, if any.

        options: those that the fine-tune was audited with.
        """
        from m2g_audit.batch.base_batch import base_batch
        from m2g_audit.cli.bars import progress_on
        from m2g_audit.review.finetune import gave_copies

        assert self.directory is not None
        entries = gave_copies(self.directory)
        thresholds = next((r.thresholds for r in self.directory.records() if r.thresholds), None)
        if self.setup.base is None or thresholds is None or not entries:
            return None
        self._print(f"{self.setup.base.id} is asked for the seeds of {len(entries):,} prompts.")
        with progress_on(self._console) as progress:
            batch = base_batch(self.setup, options, self.directory, thresholds, entries, progress)
        batch.recall()
        if batch.waiting:
            self._audit(batch)
        return batch.directory

    def _audit(self, batch: Batch) -> None:
        from m2g_audit.cli.bars import progress_on
        from m2g_audit.cli.batch_progress import watching

        with progress_on(self._console) as progress:
            batch.gather(progress)
        with watching(self._console, batch.tally):
            for _ in batch.run():
                pass

    def _ask(self, setup: Setup, batch: Batch, yes: bool, *, folder: Path | None = None) -> None:
        """Say what the rest of the batch takes, and ask if it is long.

        folder: of the batch, where it is not the one that is open.
        """
        from m2g_audit.audits.estimates import estimate
        from m2g_audit.audits.job import make_job
        from m2g_audit.cli.bars import waiting
        from m2g_audit.errors import UsageError
        from m2g_audit.store.run_directory import RunDirectory

        assert self.directory is not None
        shown, waits = folder or self.directory.path, batch.waiting
        said = f"{len(self._share) - len(waits):,} of {len(self._share):,} prompts are done"
        if not waits:
            self._print(f"Already done: {shown} holds this batch.")
            return
        job = make_job(setup, waits[0].prompt, waits[0].negative_prompt)
        place = self.directory.path / self.directory.folder(waits[0])
        try:
            with waiting(self._console, "measuring a few steps"):
                listed = [entry.prompt for entry in self.directory.entries]
                one = estimate(job, RunDirectory(place, job.identity), listed)
                cost = one.times(len(waits))
        except UsageError:
            raise
        except Exception:  # of this one prompt, whose record will say what
            self._print(f"{shown}: {said}; how long the rest takes is not known")
            return
        cost.check()
        at_most = "at most " if setup.settings.auto else ""
        self._print(f"{shown}: {said}; the rest takes {at_most}{cost}")
        if cost.total > ASK_ABOVE_SECONDS:
            ask(f"This batch takes {cost}", yes)

    def end(self, output_format: str, finetune: FinetuneSummary | None = None) -> Outcome:
        """Write and show what the batch came to; return what it means for the gate.

        finetune: what it shows about a training set, which is shown before, and alone as JSON.
        """
        from m2g_audit.cli import finetune_text
        from m2g_audit.cli.batch_progress import show
        from m2g_audit.cli.options import print_json
        from m2g_audit.cli.terminal import Terminal
        from m2g_audit.review.finetune import FINETUNE_FILE
        from m2g_audit.review.summary import finish, summarise
        from m2g_audit.store.batch_directory import RESULTS_FILE, SUMMARY_FILE

        assert self.directory is not None
        whole = finish(self.directory, self._notices)
        outcome = self._outcome()
        summary = summarise(self.directory, self._share, self._notices)
        if output_format == "json":
            print_json((finetune or summary).model_dump_json(indent=1))
            self._say_gate(outcome, self._console)
            return outcome
        console = Terminal()
        if finetune is not None:
            finetune_text.show(finetune, console)
        show(summary, console)
        names = [RESULTS_FILE, SUMMARY_FILE] if whole else []
        if finetune is not None:
            names.insert(0, FINETUNE_FILE)
        for name in ("records.jsonl", *names):
            console.print(str(self.directory.path / name), soft_wrap=True, highlight=False)
        if not whole:
            console.print("Other prompts of the list have no record yet.")
        self._say_gate(outcome, console)
        return outcome

    def _say_gate(self, outcome: Outcome, console: Terminal) -> None:
        """Say what the gate came to, and as annotations where these are asked for."""
        from m2g_audit.review.gate import in_words, workflow_commands

        assert self.directory is not None
        if self._annotate:
            records = self.directory.log.get([entry.id for entry in self._share])
            for line in workflow_commands(records, self._fail_on):
                print(line, file=console.file)
        if self._fail_on is not None:
            for line in in_words(outcome, self._fail_on, self.directory.path):
                console.print(line, soft_wrap=True, highlight=False, markup=False)

    def stopped_by(self, error: BaseException) -> BaseException:
        """Return the error to end with; its exit code is the gate's, which is never open."""
        from m2g_audit.errors import AuditError, Interrupted, UsageError, as_audit_error
        from m2g_audit.review.gate import FINDINGS, INCOMPLETE

        known = as_audit_error(error)
        if isinstance(known, UsageError):
            return known
        findings, kept = 0, ""
        if self.directory is not None:
            kept = f" What is finished is kept in {self.directory.path}."
            with suppress(AuditError):  # nor can the records be read
                findings = self._outcome().findings
        if isinstance(known, Interrupted):
            return Interrupted(f"interrupted.{kept} The same command continues.")
        known.exit_code = FINDINGS if findings else INCOMPLETE
        return known

    def _outcome(self) -> Outcome:
        """Judge this share's records, and write the JUnit file if one was asked for."""
        from m2g_audit.review.gate import outcome, write_junit

        assert self.directory is not None
        log, ids = self.directory.log, [entry.id for entry in self._share]
        if self._junit is not None:
            write_junit(self._junit, self._share, log.get(ids), self._fail_on)
        return outcome(log.get(ids), len(self._share), self._fail_on)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)


def extent(setup: Setup, prompts: int) -> str:
    """Say how many pictures and network evaluations this many prompts are."""
    settings = setup.settings
    each = setup.pipeline.evaluations(
        steps=settings.steps, guidance=settings.guidance, scheduler=settings.scheduler
    )
    pictures = prompts * settings.seeds
    at_most = "at most " if settings.auto else ""
    return (
        f"{prompts:,} prompts of {at_most}{settings.seeds} seeds are {at_most}{pictures:,} "
        f"pictures of {each} network evaluations, {pictures * each:,} in all, beside thresholds "
        "and spectra."
    )
