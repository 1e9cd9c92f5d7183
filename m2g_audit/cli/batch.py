"""`m2g-audit batch`."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2g_audit.audits.options import AuditOptions
from m2g_audit.cli.asking import ASK_ABOVE_SECONDS, ask, ask_for_download
from m2g_audit.cli.options import OUTPUT, Format, Yes, with_audit_options
from m2g_audit.records.vocabulary import FailOn, ListFormat, Quotes

if TYPE_CHECKING:
    from m2g_audit.audits.setup import Setup
    from m2g_audit.batch.batch import Batch
    from m2g_audit.prompts import Entry, PromptList
    from m2g_audit.review.gate import Outcome
    from m2g_audit.store.batch_directory import BatchDirectory

_LIST, _GATE = "The list", "Gate"


@with_audit_options
def batch(
    prompts: Annotated[
        str,
        typer.Argument(
            help="The list of prompts: a txt, csv, tsv, json, jsonl or parquet file, a folder of "
            "pictures with captions (the reference too, if none is named), or - for stdin.",
            show_default=False,
        ),
    ],
    column: Annotated[
        str | None,
        typer.Option(
            help="The column of the prompts, by name or place (1), or a.b for what lies in "
            "another; else one named caption, prompt or text.",
            rich_help_panel=_LIST,
        ),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(
            help="The column of what prompts are known to be, counted beside the verdicts; else "
            "one named label, truth or expected.",
            rich_help_panel=_LIST,
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="The text's encoding, if it is not UTF-8.", rich_help_panel=_LIST),
    ] = None,
    read_as: Annotated[
        ListFormat | None,
        typer.Option(
            metavar="<format>",
            help="What the list is: txt (each line as it stands), csv, tsv, json, jsonl, parquet; "
            "a1111, kohya or infotext for lines with options, whose negative prompts are used. "
            "Else by its content.",
            rich_help_panel=_LIST,
        ),
    ] = None,
    quotes: Annotated[
        Quotes | None,
        typer.Option(
            metavar="<csv|none>",
            help="Whether quotes in a table surround fields, or are part of the text. Else by what "
            "fits all lines.",
            rich_help_panel=_LIST,
        ),
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="Whether a table's first row names its columns. Else by the names in it.",
            rich_help_panel=_LIST,
        ),
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            metavar="<i/n>",
            help="Audit every n-th prompt only, from the i-th on: 1/4 is the first of four shares.",
            rich_help_panel=_LIST,
        ),
    ] = "1/1",
    *,
    options: dict[str, Any],
    fail_on: Annotated[
        FailOn | None,
        typer.Option(
            metavar="<verdict>",
            help="End with exit code 1 if a prompt is found this bad or worse: undecided, "
            "spurious, attractor or memorized. Repeats that can't be told from copies count as "
            "copies; undecided is let pass by all but --fail-on undecided.",
            rich_help_panel=_GATE,
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(
            help="Write a JUnit XML file, in which findings at --fail-on are failures.",
            rich_help_panel=_GATE,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The batch's folder; runs/LIST-HASH if left out. The same command continues.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    output_format: Format = "text",
    yes: Yes = False,
) -> None:
    """Audit a list of prompts, and say which of them a release should not have.

    The same command continues after a crash or Ctrl-C; started twice, it shares the work.

    Exit codes: 0 every prompt has a verdict, 1 findings at --fail-on, 2 wrong usage, 3 incomplete
    (a prompt failed or is missing, or something stopped the run), 130 Ctrl-C.

    Example: m2g-audit batch prompts.csv --model pocket --out runs/release --fail-on memorized
    """
    run = _Run(fail_on, junit)
    try:
        from m2g_audit.prompts import read_prompts

        listed = read_prompts(
            prompts,
            column=column,
            label_column=label_column,
            encoding=encoding,
            read_as=read_as,
            quotes=quotes,
            header=header,
        )
        asked = AuditOptions.of(**options)
        listed = listed.with_negative_prompt(asked.negative_prompt)
        run.take(listed, _share(listed, shard))
        run.start(asked, prompts, out, yes)
        outcome = run.end(output_format)
    except BaseException as error:
        if os.environ.get("M2G_DEBUG") == "1":
            raise
        raise run.stopped_by(error) from error
    raise typer.Exit(outcome.exit_code)


def _share(listed: PromptList, shard: str) -> tuple[Entry, ...]:
    from m2g_audit.errors import UsageError

    number, _, of = shard.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise UsageError(f"--shard {shard} is not possible: give i/n, such as 1/4 to 4/4.")
    share = listed.entries[int(number) - 1 :: int(of)]
    if not share:
        raise UsageError(
            f"--shard {shard} has none of the {len(listed):,} prompts: use fewer shares."
        )
    return share


class _Run:
    """One run of the command: what it was asked for, and how far it came."""

    _listed: PromptList
    _share: tuple[Entry, ...]
    _notices: list[str]

    def __init__(self, fail_on: FailOn | None, junit: Path | None) -> None:
        from m2g_audit.cli.terminal import Terminal

        self._fail_on, self._junit = fail_on, junit
        self._console = Terminal(stderr=True)
        self._directory: BatchDirectory | None = None

    def take(self, listed: PromptList, share: tuple[Entry, ...]) -> None:
        """Take in the list, and the prompts of it that are this run's."""
        self._listed, self._share = listed, share
        self._notices = list(listed.notices)

    def start(self, asked: AuditOptions, source: str, out: Path | None, yes: bool) -> None:
        """Audit what has no verdict yet; raises what stops a run. source: where the list is."""
        from m2g_audit.cli.bars import loading, progress_on
        from m2g_audit.cli.batch_progress import watching
        from m2g_audit.files import check_writable
        from m2g_audit.store.run_directory import default_parent

        check_writable(out or default_parent())
        if self._junit is not None:
            check_writable(self._junit.absolute().parent)
        with loading(self._console):
            from m2g_audit.audits.setup import set_up, with_list
            from m2g_audit.batch.batch import Batch
            from m2g_audit.batch.opening import open_directory
        options = with_list(asked, source)
        if options != asked:
            self._notices.append(
                f"The pictures of {source} are the reference too; --reference none for none."
            )
        ask_for_download(options, yes, self._console)
        with progress_on(self._console) as progress:
            setup = set_up(options, out=out, on_progress=progress)
        self._directory = directory = open_directory(
            setup, self._listed, Path(source).stem or "prompts", out
        )
        self._notices += directory.log.repair()
        batch = Batch(setup, directory, self._share)
        self._notices += batch.recall()
        for notice in self._notices:
            self._print(f"Note: {notice}")
        self._ask(setup, batch, yes)
        with progress_on(self._console) as progress:
            batch.gather(progress)
        with watching(self._console, batch.tally):
            for _ in batch.run():
                pass

    def _ask(self, setup: Setup, batch: Batch, yes: bool) -> None:
        """Say what the rest of the batch takes, and ask if it is long."""
        from m2g_audit.audits.estimates import estimate
        from m2g_audit.audits.job import make_job
        from m2g_audit.cli.bars import waiting
        from m2g_audit.errors import UsageError
        from m2g_audit.store.run_directory import RunDirectory

        assert self._directory is not None
        waits = batch.waiting
        said = f"{len(self._share) - len(waits):,} of {len(self._share):,} prompts are done"
        if not waits:
            self._print(f"Already done: {self._directory.path} holds this batch.")
            return
        job = make_job(setup, waits[0].prompt, waits[0].negative_prompt)
        folder = self._directory.path / self._directory.folder(waits[0])
        try:
            with waiting(self._console, "measuring a few steps"):
                listed = [entry.prompt for entry in self._directory.entries]
                one = estimate(job, RunDirectory(folder, job.identity), listed)
                cost = one.times(len(waits))
        except UsageError:
            raise
        except Exception:  # of this one prompt, whose record will say what
            self._print(f"{self._directory.path}: {said}; how long the rest takes is not known")
            return
        cost.check()
        at_most = "at most " if setup.settings.auto else ""
        self._print(f"{self._directory.path}: {said}; the rest takes {at_most}{cost}")
        if cost.total > ASK_ABOVE_SECONDS:
            ask(f"This batch takes {cost}", yes)

    def end(self, output_format: str) -> Outcome:
        """Write and show what the batch came to; return what it means for the gate."""
        from m2g_audit.cli.batch_progress import show
        from m2g_audit.cli.options import print_json
        from m2g_audit.cli.terminal import Terminal
        from m2g_audit.review.summary import finish, summarise
        from m2g_audit.store.batch_directory import RESULTS_FILE, SUMMARY_FILE

        assert self._directory is not None
        whole = finish(self._directory, self._notices)
        outcome = self._outcome()
        summary = summarise(self._directory, self._share, self._notices)
        if output_format == "json":
            print_json(summary.model_dump_json(indent=1))
            return outcome
        console = Terminal()
        show(summary, console)
        names = (RESULTS_FILE, SUMMARY_FILE) if whole else ()
        for name in ("records.jsonl", *names):
            console.print(str(self._directory.path / name), soft_wrap=True, highlight=False)
        if not whole:
            console.print("Other prompts of the list have no record yet.")
        if self._fail_on is not None:
            console.print(self._gate(outcome, self._fail_on), soft_wrap=True)
        return outcome

    def _gate(self, outcome: Outcome, fail_on: FailOn) -> str:
        """Say in a line what the gate came to."""
        if outcome.findings:
            return (
                f"Gate: closed. {outcome.findings:,} of {outcome.prompts:,} prompts are {fail_on} "
                "or worse."
            )
        if outcome.exit_code:
            return f"Gate: closed. {outcome.failed + outcome.missing:,} prompts have no verdict."
        return f"Gate: open. None of {outcome.prompts:,} prompts is {fail_on} or worse."

    def stopped_by(self, error: BaseException) -> BaseException:
        """Return the error to end with; its exit code is the gate's, which is never open."""
        from m2g_audit.errors import AuditError, Interrupted, UsageError, as_audit_error
        from m2g_audit.review.gate import FINDINGS, INCOMPLETE

        known = as_audit_error(error)
        if isinstance(known, UsageError):
            return known
        findings, kept = 0, ""
        if self._directory is not None:
            kept = f" What is finished is kept in {self._directory.path}."
            with suppress(AuditError):  # nor can the records be read
                findings = self._outcome().findings
        if isinstance(known, Interrupted):
            return Interrupted(f"interrupted.{kept} The same command continues.")
        known.exit_code = FINDINGS if findings else INCOMPLETE
        return known

    def _outcome(self) -> Outcome:
        """Judge this share's records, and write the JUnit file if one was asked for."""
        from m2g_audit.review.gate import outcome, write_junit

        assert self._directory is not None
        log, ids = self._directory.log, [entry.id for entry in self._share]
        if self._junit is not None:
            write_junit(self._junit, self._share, log.get(ids), self._fail_on)
        return outcome(log.get(ids), len(self._share), self._fail_on)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)
