"""A batch in Python: the same folder, records and gate as `m2g-audit batch`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.jupyter import JupyterMixin
from rich.table import Table
from rich.text import Text

from m2g_audit.audits.loaders import loader_of
from m2g_audit.audits.options import OF_A_LIST
from m2g_audit.audits.setup import set_up, with_list
from m2g_audit.prompts import PromptList, from_python, read_prompts
from m2g_audit.records.vocabulary import FailOn, ListFormat, Quotes
from m2g_audit.review.gate import Outcome, outcome
from m2g_audit.review.summary import Summary, finish, summarise
from m2g_audit.store.batch_directory import BatchDirectory, BatchRecord
from m2g_audit.text import printable

if TYPE_CHECKING:
    from m2g_audit.audits.setup import Setup

_SHOWN = 10


class Auditor(JupyterMixin):
    """Audits prompts with a model, one record each; iterate over it to have them as they come.

        auditor = Auditor("prompts.csv", model="pocket", out="runs/release")
        for record in auditor:
            print(record.prompt, record.verdict.state)

    What a folder holds already is not done again. Shown in a notebook, or printed with rich, it
    tells how far it is and which prompts are the worst.
    """

    def __init__(
        self,
        prompts: str | Path | Iterable[str | Mapping[str, Any]],
        *,
        out: str | Path | None = None,
        column: str | None = None,
        label_column: str | None = None,
        encoding: str | None = None,
        read_as: ListFormat | None = None,
        quotes: Quotes | None = None,
        header: bool | None = None,
        **options: Any,
    ) -> None:
        """Read the prompts: a file, or an iterable of texts or of mappings with a column of them.

        Args:
            prompts: A list's file, or texts, or mappings with a column of them.
            out: The batch's folder, by default one below runs/.
            column: Of the prompts, by name or place.
            label_column: Of what prompts are known to be.
            encoding: Of a list that is not UTF-8.
            read_as: What the list is, else by its content.
            quotes: Whether quotes in a table surround fields.
            header: Whether a table's first row names its columns.
            options: Those of AuditOptions, such as seeds or reference; model may be a diffusers
                pipeline in memory, which is audited as it is.

        Raises:
            UsageError: Prompts or options can't be used; no model is loaded yet.
        """
        if isinstance(prompts, str | Path):
            listed = read_prompts(
                prompts,
                column=column,
                label_column=label_column,
                encoding=encoding,
                read_as=read_as,
                quotes=quotes,
                header=header,
            )
            self._name = Path(prompts).stem
        else:
            listed = from_python(prompts, column=column, label_column=label_column)
            self._name = "prompts"
        self._out = None if out is None else Path(out)
        self._load, asked = loader_of({**OF_A_LIST, **options})
        self.options = with_list(asked, prompts) if isinstance(prompts, str | Path) else asked
        self.prompts: PromptList = listed.with_negative_prompt(self.options.negative_prompt)

    @cached_property
    def setup(self) -> Setup:
        """Return the model with all that is resolved, loaded when it is first asked for."""
        return set_up(self.options, out=self._out, load=self._load)

    @cached_property
    def directory(self) -> BatchDirectory:
        """Return the batch's folder; UsageError where it holds another batch."""
        from m2g_audit.batch.opening import open_directory

        directory = open_directory(self.setup, self.prompts, self._name, self._out)
        directory.log.repair()
        return directory

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.prompts)

    def __iter__(self) -> Iterator[BatchRecord]:
        """Yield the record of every prompt: first those that are there, then as they are finished.

        A prompt that fails yields a record with its `error`; it is tried again the next time.
        """
        from m2g_audit.batch.batch import Batch

        seen = set()
        for record in self.directory.records():
            if record.error is None:
                seen.add(record.listed.id)
                yield record
        self.directory.log.repair()  # of lines that were found to be no records
        for record in Batch(self.setup, self.directory).run():
            seen.add(record.listed.id)
            yield record
        # Other processes may have done some.
        yield from (record for record in self.directory.records() if record.listed.id not in seen)
        finish(self.directory, self.prompts.notices)

    def run(self) -> Summary:
        """Audit what is missing and return the summary of all."""
        for _ in self:
            pass
        return self.summary()

    def records(self) -> Iterator[BatchRecord]:
        """Yield the records that are there, in the order of the prompts; audits nothing."""
        return self.directory.records()

    def summary(self) -> Summary:
        """Return the summary of the records that are there."""
        return summarise(self.directory, notices=self.prompts.notices)

    def gate(self, fail_on: FailOn) -> Outcome:
        """Return how many prompts are findings, failed or missing, with the exit code."""
        return outcome(self.records(), len(self), fail_on)

    def __repr__(self) -> str:
        return f"Auditor({len(self):,} prompts, model={self.options.model!r})"

    def __rich__(self) -> Group:
        if "directory" not in self.__dict__:  # to look at it must not load a model
            return Group(Text(repr(self)))
        summary = self.summary()
        counts = ", ".join(f"{count:,} {state}" for state, count in summary.verdicts.items())
        head = f"{self!r} in {self.directory.path}: {summary.done:,} done"
        failed = f", {summary.failed:,} failed" if summary.failed else ""
        table = Table("verdict", "not new", "prompt", title="The worst", title_justify="left")
        for short in summary.worst[:_SHOWN]:
            share = short.not_new
            between = "" if share is None else f"{share.low:.0%} to {share.high:.0%}"
            table.add_row(short.state, between, Text(printable(short.prompt, 80)))
        return Group(Text(f"{head}{failed} ({counts})" if counts else f"{head}{failed}"), table)
