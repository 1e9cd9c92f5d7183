"""Lists and sets of pictures with bytes changed at random: read, or refused with one message."""

from __future__ import annotations

import gzip
import io
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from m2g_audit.errors import ReferenceFolderError, UsageError
from m2g_audit.pictures.containers import PictureFile
from m2g_audit.pictures.folder import find_pictures
from m2g_audit.prompts import PromptList, read_prompts
from tests.support.broken import MOST_LETTERS, changed
from tests.support.list_forms import FORMS, TEXTS


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, format="PNG")
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in (("0.png", picture()), ("0.txt", b"a boat"), ("1.json", b"{}")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def table() -> bytes:
    buffer = io.BytesIO()
    cell = {"bytes": picture(), "path": "0.png"}
    parquet.write_table(pa.table({"image": [cell], "text": ["a boat"]}), buffer)
    return buffer.getvalue()


LISTS = [
    content if isinstance(content, bytes) else content.encode()
    for form in FORMS
    for content in [form.write(TEXTS["commas and quotes"])]
]
SETS = {"a.tar": archive(), "a.parquet": table(), "a.png": picture(), "a.txt": b"0.png\n1.png\n"}


@settings(max_examples=400, deadline=5000)
@given(
    st.sampled_from(LISTS).flatmap(changed) | st.binary(max_size=400),
    st.sampled_from(["list", "list.txt", "list.csv", "list.json", "list.parquet", "list.zip"]),
    st.sampled_from([None, "txt", "csv", "json", "a1111", "kohya", "infotext", "parquet"]),
    st.booleans(),
)
def test_a_list_is_read_or_refused(content: bytes, name: str, read_as: object, pack: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(gzip.compress(content) if pack else content)
        found, said = PromptList(()), "read"
        try:
            found = read_prompts(file, read_as=read_as)  # type: ignore[arg-type]
        except UsageError as error:
            said = str(error)
        assert 0 < len(said) < MOST_LETTERS
        assert len(found) > 0 or said != "read"
        assert all(entry.prompt.strip() == entry.prompt != "" for entry in found)


@settings(max_examples=400, deadline=5000)
@given(
    st.sampled_from(sorted(SETS)).flatmap(
        lambda name: st.tuples(st.just(name), changed(SETS[name]))
    )
)
def test_a_set_of_pictures_is_read_or_refused(case: tuple[str, bytes]) -> None:
    name, content = case
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_bytes(content)
        for source in (file, Path(folder)):
            files: Sequence[PictureFile] = ()
            said = "read"
            try:
                files = find_pictures(source).files
            except ReferenceFolderError as error:
                said = str(error)
            assert 0 < len(said) < MOST_LETTERS
            for each in files:
                with each.open() as stored:
                    assert stored.read()
