"""Files are written whole or not at all, and never through what lies in their way."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2g_audit.errors import OutputError
from m2g_audit.files import check_writable, digest, write_atomically


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers()))
def test_digest_ignores_order_and_sees_every_value(identity: dict[str, int]) -> None:
    backwards = dict(reversed(identity.items()))
    assert digest(identity) == digest(backwards)
    for key, value in identity.items():
        assert digest({**identity, key: value + 1}) != digest(identity)


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    for name in ("pipe", "null"):
        with pytest.raises(OutputError, match="it is there and no file"):
            write_atomically(tmp_path / name, b"a")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "null").is_symlink()


def test_a_draft_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / f".a.{os.getpid()}.tmp").symlink_to(tmp_path / "elsewhere")
    write_atomically(tmp_path / "a", b"a")
    assert (tmp_path / "a").read_bytes() == b"a"
    assert not (tmp_path / "a").is_symlink()
    assert not (tmp_path / "elsewhere").exists()
