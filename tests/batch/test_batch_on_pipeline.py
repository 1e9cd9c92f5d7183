"""A batch on a real (tiny, random) pipeline: its pictures are those of single audits."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2g_audit.audits.audit import execute
from m2g_audit.audits.job import make_job
from m2g_audit.audits.options import AuditOptions
from m2g_audit.audits.setup import set_up
from m2g_audit.batch.batch import Batch
from m2g_audit.pictures.tensors import read_picture
from m2g_audit.prompts import from_python
from m2g_audit.store.batch_directory import BatchDirectory
from m2g_audit.store.run_directory import RunDirectory
from tests.support import tiny

PROMPTS = ["a harbour", "kite " * 100, "nul \0 مرحبا <b>"]


def test_pictures_are_those_of_single_audits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2G_CACHE", str(tmp_path / "cache"))  # one plant and one probe for all
    folder = tiny.save(tiny.text_to_image(), tmp_path / "model")
    options = {"model": str(folder), "seeds": 3, "steps": 2, "spectrum": "none", "device": "cpu"}
    setup = set_up(AuditOptions.of(batch_size=4, **options))
    listed = from_python(PROMPTS)
    directory = BatchDirectory.open(tmp_path / "batch", setup.identity, listed)
    records = list(Batch(setup, directory).run())
    assert [record.prompt for record in records] == [entry.prompt for entry in listed]
    for record in records:
        job = make_job(set_up(AuditOptions.of(**options)), record.prompt)
        run = RunDirectory.open(tmp_path / record.listed.id, job.identity)
        alone = execute(job, run)
        assert record.wording == alone.wording
        assert record.evaluations == {"images": 3 * 2 * 2}
        for ours, theirs in zip(record.seeds, alone.seeds, strict=True):
            assert ours.generator_seed == theirs.generator_seed
            image = read_picture(tmp_path / "batch" / record.folder / ours.image)
            expected = read_picture(run.path / theirs.image)
            assert float((image - expected).abs().max()) <= 1 / 255 + 1e-6
    # A letter is a token here: of 77 places two are marks.
    assert records[1].wording.cut_off == "e" + " kite" * 81
