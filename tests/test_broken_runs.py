"""Runs, calibrations and model folders with bytes changed at random: read, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2g_audit.calibration.calibration_record import load
from m2g_audit.errors import AuditError, ModelError, UsageError
from m2g_audit.models.model_folder import TEXT_TO_IMAGE, resolve
from m2g_audit.reports.html.page import write_report
from m2g_audit.reports.run import open_run
from m2g_audit.review.compare import compare
from m2g_audit.store.stored_run import StoredRun
from tests.support import tiny
from tests.support.broken import MOST_LETTERS, changed
from tests.support.calibrations import calibration
from tests.support.made_run import RELEASE, make_run


@contextmanager
def broken(file: Path, content: bytes) -> Iterator[None]:
    """A block in which a file holds other bytes."""
    whole = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(whole)


def said(work: Callable[[], object], *kinds: type[Exception]) -> str:
    """Return what an error says that is of these kinds, nothing where there is none."""
    try:
        work()
    except kinds as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "made", RELEASE[:2])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_run_of_somebody_else_is_read_or_refused(run: Path, data: st.DataObject) -> None:
    names = ["records.jsonl", "identity.json", "prompts.jsonl"]
    file = data.draw(st.sampled_from([run / name for name in names if (run / name).is_file()]))
    with broken(file, data.draw(changed(file.read_bytes()))):

        def look() -> None:
            found = open_run(run)
            for record in found:
                repr(record)
                with suppress(OSError):
                    record.pictures()
                with suppress(OSError):
                    record.distances()
                record._repr_html_()
            found.to_dataframe()

        assert len(said(look, AuditError)) < MOST_LETTERS
        for work in (
            lambda: write_report(StoredRun.read(run), run / "page.html"),
            lambda: compare(StoredRun.read(run), StoredRun.read(run)),
        ):
            assert len(said(work, AuditError)) < MOST_LETTERS


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_calibration_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = f"{calibration().model_dump_json(indent=1)}\n".encode()
    file = tmp_path_factory.mktemp("calibration") / "calibration.json"
    file.write_bytes(data.draw(changed(whole)))
    assert len(said(lambda: load(file), UsageError)) < MOST_LETTERS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose network lies in several files, with an index of them."""
    pipe = tiny.text_to_image()
    folder = tiny.save(pipe, tmp_path_factory.mktemp("models") / "model")
    shutil.rmtree(folder / "unet")
    pipe.unet.save_pretrained(folder / "unet", max_shard_size="50KB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    resolve(folder, TEXT_TO_IMAGE)
    return folder


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_model_folder_is_complete_or_refused(model: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(sorted(model.rglob("*.json"))))
    with broken(file, data.draw(changed(file.read_bytes()))):
        assert len(said(lambda: resolve(model, TEXT_TO_IMAGE), ModelError)) < MOST_LETTERS


@pytest.mark.parametrize(
    "weight_map", [{}, [], None, {"a": 1}, {"a": "../vae/x.safetensors"}, {"a": "/etc/passwd"}]
)
def test_an_index_that_points_elsewhere_is_refused(model: Path, weight_map: object) -> None:
    [index] = (model / "unet").glob("*.index.json")
    content = json.loads(index.read_bytes()) | {"weight_map": weight_map}
    with (
        broken(index, json.dumps(content).encode()),
        pytest.raises(ModelError, match=r"(?s)index|not complete|weight"),
    ):
        resolve(model, TEXT_TO_IMAGE)
