"""A finished run in Python: its records with the pictures and numbers that lie beside them."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from pydantic import PrivateAttr

from m2g_audit.errors import UsageError
from m2g_audit.foreign_files import within
from m2g_audit.reports.colours import VERDICT_COLOURS
from m2g_audit.reports.html.data_uris import thumbnail
from m2g_audit.reports.run_files import read_array, read_picture
from m2g_audit.review.summary import Summary, results_table, summarise
from m2g_audit.store.batch_directory import BatchRecord
from m2g_audit.store.run_directory import DISTANCES_FILE
from m2g_audit.store.stored_run import StoredRun

if TYPE_CHECKING:
    import pandas as pd

_SHOWN, _SIDE = 8, 96
_ROWS = 20


class RunRecord(BatchRecord):
    """A prompt's record, with what of it lies in files."""

    _folder: Path = PrivateAttr()

    @classmethod
    def of(cls, record: BatchRecord, run: Path) -> RunRecord:
        """Return the record of a run's folder; OSError where it names one elsewhere."""
        made = cls.model_construct(**dict(record))
        made._folder = run if record.folder == "." else within(run, record.folder)
        return made

    def pictures(self) -> list[Image]:
        """Return the picture of each seed, in RGB; OSError where one can't be read."""
        return [read_picture(self._folder, seed.image) for seed in self.seeds]

    def spectra(self) -> dict[int, NDArray[np.float64]]:
        """Return normalised singular values, from largest, by the seed's index: each [N]."""
        return {
            entry.image: read_array(self._folder, entry.file, "singular_values", 1)
            for entry in self.curvature
        }

    def distances(self) -> NDArray[np.float64]:
        """Return the distances of the generations to each other, [n, n], by the run's metric."""
        return read_array(self._folder, DISTANCES_FILE, "samples", 2)

    def _repr_html_(self) -> str:
        state = self.verdict.state
        chip = (
            f'<span style="background:{VERDICT_COLOURS[state]};color:white;padding:2px 8px;'
            f'border-radius:8px">{escape(state)}</span>'
        )
        shown = (thumbnail(self._folder, s.image, _SIDE, redact=False) for s in self.seeds[:_SHOWN])
        pictures = "".join(f'<img src="{uri}" style="margin:2px">' for uri in shown if uri)
        return (
            f"<div>{chip} <b>{escape(self.prompt)}</b><div>{pictures}</div>"
            f"<div>{escape(self.verdict.summary)}</div></div>"
        )


class Run:
    """A run's folder, of one prompt or of many; iterate over it for its records.

    run = open_run("runs/release")
    run.to_dataframe().sort_values("memorized")
    for record in run:
        print(record.prompt, record.verdict.state, record.distances().min())
    """

    def __init__(self, stored: StoredRun) -> None:
        self._stored = stored
        self.path = stored.path
        self.identity = stored.identity

    def __len__(self) -> int:
        """Return the number of prompts that were asked for, with a record or without."""
        return self._stored.prompts

    def __iter__(self) -> Iterator[RunRecord]:
        for record in self._stored.records():
            yield RunRecord.of(record, self.path)

    def records(self) -> list[RunRecord]:
        """Return the record of each prompt that has one, in the order of the list."""
        return list(self)

    @property
    def record(self) -> RunRecord:
        """Return the record of a run of one prompt; UsageError where there are several."""
        records = self.records()
        if len(records) != 1:
            raise UsageError(
                f"{self.path} has {len(records):,} records: take one of run.records()."
            )
        return records[0]

    def summary(self) -> Summary:
        """Return what a batch came to; UsageError for a run of one prompt, which has a record."""
        if self._stored.batch is None:
            raise UsageError(f"{self.path} is of one prompt: see run.record.")
        return summarise(self._stored.batch)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row per prompt with a record, as results.parquet has them."""
        entries = () if self._stored.batch is None else self._stored.batch.entries
        return results_table(self._stored.records(), entries).to_pandas()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {len(self):,} prompts)"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{escape(r.verdict.state)}</td><td>{escape(r.prompt)}</td></tr>"
            for r, _ in zip(self._stored.records(), range(_ROWS), strict=False)
        )
        return f"<div>{escape(repr(self))}<table>{rows}</table></div>"


def open_run(path: str | Path) -> Run:
    """Return the run in a folder, of `m2g-audit prompt` or `batch`; no model is loaded.

    Raises:
        OutputError: There is no run.
    """
    return Run(StoredRun.read(Path(path)))
