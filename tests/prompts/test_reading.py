"""Lists of prompts: every format, columns found or named, and whatever text people have."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from m2g_audit.errors import UsageError
from m2g_audit.prompts import (
    MAX_PROMPT,
    PromptList,
    from_python,
    parse_list,
    prompt_id,
    read_prompts,
)
from m2g_audit.prompts import parquet as parquet_lists
from m2g_audit.records.vocabulary import ListFormat
from m2g_audit.text import printable

HOSTILE = [
    "<script>alert(1)</script>",
    '=HYPERLINK("http://example.org")',
    "bell \a and \x1b[31mcolour\x1b[0m",
    "nul \0 inside",
    "form\ffeed and next\x85line and \u2028separator",
    "مرحبا بالعالم",
    "right-to-left \u202eoverride",
    "emoji 👩‍👩‍👧 and 𝔉raktur",
    "a, comma; semicolon\tand tab | pipe",
    '"quoted"',
    "x" * MAX_PROMPT,
]


def texts(prompts: PromptList) -> list[str]:
    return [entry.prompt for entry in prompts]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# -- formats


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.txt", "a kite\na dog, a cat\n\n"),
        ("list.csv", 'caption,id\na kite,1\n"a dog, a cat",2\n'),
        ("list.csv", "id;Prompt\r\n1;a kite\r\n2;a dog, a cat\r\n"),
        ("list.csv", ";Caption;URL\n0;a kite;http://a/b?c=1,2\n1;a dog, a cat;http://c/d,e\n"),
        ("list.csv", 'text\na kite\n"a dog, a cat"\n'),
        ("list.csv", "a kite\na dog, a cat\n"),
        ("list.tsv", "id\tcaption\n1\ta kite\n2\ta dog, a cat\n"),
        ("list.jsonl", '{"caption": "a kite"}\n\n{"caption": "a dog, a cat", "id": 2}\n'),
        ("list.ndjson", '"a kite"\n"a dog, a cat"\n'),
        ("list.csv", 'a,b,caption\n1,2,a kite\n1,2,"a dog, a cat"\n'),
        ("list.txt", "\ufeffa kite\r\na dog, a cat\r\n"),
        ("list.txt", "a kite\na dog, a cat".encode("utf-16")),
        ("list.csv", "caption|n\na kite|1\na dog, a cat|2\n".encode("utf-32")),
    ],
)
def test_formats(tmp_path: Path, name: str, content: str | bytes) -> None:
    prompts = read_prompts(write(tmp_path / name, content))
    assert texts(prompts) == ["a kite", "a dog, a cat"]
    assert [entry.index for entry in prompts] == [0, 1]
    assert prompts.entries[0].id == prompt_id("a kite")


def test_parquet_without_its_pictures(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "image": [{"bytes": b"\x89PNG", "path": "0.png"}, {"bytes": b"\x89PNG", "path": None}],
            "text": pyarrow.array(["a kite", "a dog"]).dictionary_encode(),
            "share": [0.5, float("nan")],
            "when": pyarrow.array([0, 86_400_000], pyarrow.timestamp("ms")),
            "tags": [["x"], []],
        }
    )
    parquet.write_table(table, tmp_path / "list.parquet")
    prompts = read_prompts(tmp_path / "list.parquet")
    assert texts(prompts) == ["a kite", "a dog"]
    assert prompts.entries[0].extra == {"share": 0.5, "when": "1970-01-01T00:00:00", "tags": ["x"]}
    assert prompts.entries[1].extra["share"] is None
    assert prompts.notices == ("Columns with binary content were left out: 'image'.",)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"prompt": "a kite"}\n', ["a kite"]),
        ("id;caption\n1;a kite\n", ["a kite"]),
        ("a kite, red\na dog\n", ["a kite, red", "a dog"]),
        ("{not json\n", ["{not json"]),
    ],
)
def test_stdin_is_known_by_its_content(
    monkeypatch: pytest.MonkeyPatch, content: str, expected: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert texts(read_prompts("-")) == expected


def test_parquet_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"caption": ["a kite"]}), buffer)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(buffer.getvalue())))
    assert texts(read_prompts("-")) == ["a kite"]


def test_a_format_can_be_named(tmp_path: Path) -> None:
    file = write(tmp_path / "list.csv", "caption,id\na kite,1\n")
    assert texts(read_prompts(file, read_as="txt")) == ["caption,id", "a kite,1"]


# -- columns


def test_other_columns_are_kept_and_labels_found(tmp_path: Path) -> None:
    content = ";Caption;URL;Label;URL\n0;a kite;http://a;VM;x\n1;a dog;http://b;;y\n"
    first, second = read_prompts(write(tmp_path / "list.csv", content))
    assert first.extra == {"column_1": "0", "URL": "http://a", "URL_5": "x"}
    assert (first.label, second.label) == ("VM", None)
    assert [first.rows, second.rows] == [[1], [2]]


def test_columns_can_be_named(tmp_path: Path) -> None:
    file = write(tmp_path / "list.csv", "what,caption,type\na kite,no,0\n")
    [entry] = read_prompts(file, column="WHAT", label_column="type")
    assert (entry.prompt, entry.label, entry.extra) == ("a kite", "0", {"caption": "no"})


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("a,b\n1,2\n", {}, "known name. It has 'a', 'b'"),
        ("a,b\n1,2\n", {"column": "c"}, "no column 'c'"),
        ("caption,prompt\n1,2\n", {}, "'caption' or 'prompt': name the column"),
        ("caption,b\n1,2\n", {"label_column": "c"}, "--label-column"),
        ("caption,b\n1,2\nx, y, z\n", {}, "1 rows .* have more fields .*row 2"),
        ('caption,b\n"never closed,2\n', {"quotes": "csv"}, "can't be read as a table"),
        ('caption,b\n"never, closed, 2\n3,4\n', {}, "can't be read as a table"),
        ("caption\n\n \n", {}, "no prompts"),
        ("", {}, "no prompts"),
    ],
)
def test_tables_that_can_mean_two_things_are_refused(
    tmp_path: Path, content: str, options: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        read_prompts(write(tmp_path / "list.csv", content), **options)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("list.jsonl", '{"caption": "x"}\n{"caption": \n', "Line 2 of .* is not JSON"),
        ("list.jsonl", "[1]\n", "entry 1 is neither a text nor an object"),
        ("list.jsonl", '{"caption": "x"}\n[1]\n', "Line 2 .* no object"),
        ("list.jsonl", '{"caption": {"a": "x"}, "n": 1}\n', "no list of prompts"),
        ("list.json", '[{"caption": {"a": "x"}}]', "Row 1 .* no text"),
        ("list.jsonl", "[" * 100_000, "not JSON"),
        ("list.parquet", "PAR1 and no more", "can't be read as parquet"),
        ("list.txt", bytes(range(32)) * 10, "not a text file"),
        ("list.txt", "a kite".encode("utf-16-le"), "--encoding utf-16-le"),
    ],
)
def test_broken_files_are_refused(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        read_prompts(write(tmp_path / name, content))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_prompts(tmp_path / "nowhere.csv")
    with pytest.raises(UsageError, match="is a folder"):
        read_prompts(tmp_path)


# -- repetitions and gaps


def test_repeated_prompts_are_audited_once(tmp_path: Path) -> None:
    content = "caption,id,label\na kite,1,VM\na dog,2,N\n a kite ,3,VM\na dog,4,TM\n,5,N\n"
    prompts = read_prompts(write(tmp_path / "list.csv", content))
    kite, dog = prompts
    assert (kite.rows, kite.extra, kite.repeated) == ([1, 3], {"id": "1"}, [{"id": "3"}])
    assert (kite.label, dog.label) == ("VM", None)
    assert prompts.notices == (
        "1 row has no prompt and nothing to audit: row 5.",
        "2 rows repeat a prompt, which is audited once.",
        "Repeated prompts with labels that contradict each other have none: row 2.",
    )


def test_python_lists() -> None:
    rows = ["a kite", {"caption": "a dog", "id": 7}, {"caption": float("nan")}]
    prompts = from_python(rows)
    assert texts(prompts) == ["a kite", "a dog"]
    assert prompts.entries[1].extra == {"id": 7}
    assert texts(from_python(["a kite"])) == ["a kite"]
    with pytest.raises(UsageError, match="no prompts"):
        from_python([])


# -- text as it comes


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_hostile_prompts_come_through_as_they_are(tmp_path: Path, kind: ListFormat) -> None:
    import csv

    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        parquet.write_table(pyarrow.table({"caption": HOSTILE}), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"caption": text}) + "\n" for text in HOSTILE))
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",")
            writer.writerows([["caption", "n"], *([text, "1"] for text in HOSTILE)])
    prompts = read_prompts(path)
    assert texts(prompts) == HOSTILE
    assert parse_list(prompts.to_jsonl()).entries == prompts.entries


def test_hostile_lines_come_through_as_they_are(tmp_path: Path) -> None:
    lines = [text for text in HOSTILE if "\n" not in text]
    assert texts(read_prompts(write(tmp_path / "list.txt", "\n".join(lines)))) == lines


def test_half_letters_are_replaced_and_said(tmp_path: Path) -> None:
    file = write(tmp_path / "list.jsonl", '{"caption": "broken \\ud800 pair", "x": "\\udc00"}\n')
    prompts = read_prompts(file)
    assert texts(prompts) == ["broken � pair"]
    assert prompts.entries[0].extra == {"x": "�"}
    assert "row 1" in prompts.notices[0]
    prompts.to_jsonl()


def test_other_encodings_are_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path / "list.txt", "a kite\na café\n".encode("cp1252"))
    with pytest.raises(UsageError, match=r"not UTF-8: line 2.*line 2 is “a café”"):
        read_prompts(file)
    assert texts(read_prompts(file, encoding="cp1252")) == ["a kite", "a café"]
    prompts = read_prompts(file, encoding="utf-8")
    assert texts(prompts) == ["a kite", "a caf�"]
    assert prompts.notices == ("Bytes that are not utf-8 are read as �: line 2.",)
    with pytest.raises(UsageError, match="no --encoding nonsense"):
        read_prompts(file, encoding="nonsense")


def test_a_few_broken_bytes_among_good_utf8_are_replaced_and_said(tmp_path: Path) -> None:
    content = "".join(f"café {i}\n" for i in range(9)).encode() + b"broken \xe9\n"
    prompts = read_prompts(write(tmp_path / "list.txt", content))
    assert texts(prompts)[-1] == "broken �"
    assert prompts.notices == ("Bytes that are not utf-8 are read as �: line 10.",)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_any_list_is_written_and_read(prompts: list[str]) -> None:
    expected = list(dict.fromkeys(text.strip() for text in prompts if text.strip()))
    if not expected:
        return
    listed = from_python(prompts)
    assert texts(listed) == expected
    again = parse_list(listed.to_jsonl())
    assert again.entries == listed.entries
    assert again.sha256 == listed.sha256
    assert len({entry.id for entry in listed}) == len(expected)


@given(st.text())
def test_what_is_shown_steers_no_terminal(text: str) -> None:
    shown = printable(text, limit=20)
    assert len(shown) <= 20
    assert all(letter.isprintable() or letter == "\u200d" or letter > "\x9f" for letter in shown)
    assert not set(shown) & set("\x1b\a\r\n\t\u202e\u2066\x9b")


def test_legible_text_is_shown_as_it_is() -> None:
    for text in (
        "a print of the old harbour, 1890",
        "مرحبا بالعالم",
        "古い港",
        "👩‍👩‍👧",
        "می‌خواهم",
    ):
        assert printable(text) == text


# -- small files, long work; files that readers choke on


def test_too_many_columns_are_refused_at_once(tmp_path: Path) -> None:
    header = ",".join(f"c{i}" for i in range(100_000))
    table = write(tmp_path / "list.csv", f"{header}\n{header}\n")
    rows = [{"caption": "a", f"c{i}": 1} for i in range(1001)]
    lines = write(tmp_path / "list.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    for file in (table, lines):
        with pytest.raises(UsageError, match=r"columns, and 1,000 are taken at most"):
            read_prompts(file)


def test_the_columns_that_a_message_names_have_an_end(tmp_path: Path) -> None:
    header = ",".join(f"column number {i}" for i in range(900))
    with pytest.raises(UsageError, match=r"'column number 19' and 880 more") as raised:
        read_prompts(write(tmp_path / "list.csv", f"{header}\n{header}\n"))
    assert len(str(raised.value)) < 700


def test_too_many_rows_in_a_small_file_are_refused_at_once(tmp_path: Path) -> None:
    same = pyarrow.array(["a"]).dictionary_encode().take(pyarrow.array([0] * 6_000_000))
    parquet.write_table(pyarrow.table({"caption": same}), tmp_path / "list.parquet")
    assert (tmp_path / "list.parquet").stat().st_size < 100_000
    with pytest.raises(UsageError, match="6,000,000 rows, and 5,000,000 are taken at most"):
        read_prompts(tmp_path / "list.parquet")


def test_much_text_in_a_small_file_is_not_all_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_lists, "_MOST_BYTES", 10_000_000)
    same = pyarrow.array(["x" * 9_000]).take(pyarrow.array([0] * 10_000))
    parquet.write_table(pyarrow.table({"caption": same}), tmp_path / "list.parquet")
    with pytest.raises(UsageError, match="bytes of text, and 10,000,000 are taken at most"):
        read_prompts(tmp_path / "list.parquet")


def test_a_prompt_that_is_too_long_for_prompt_is_so_for_a_list(tmp_path: Path) -> None:
    file = write(tmp_path / "list.txt", "a kite\n" + "x" * 2_000_000 + "\n")
    with pytest.raises(UsageError, match=r"more than 10,000 characters \(row 2\)"):
        read_prompts(file)


def broken_text() -> pyarrow.Table:
    data = pyarrow.py_buffer(b"a\xff\xfeb")
    offsets = pyarrow.py_buffer(b"\0\0\0\0\4\0\0\0")
    return pyarrow.table(
        {"caption": pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, offsets, data])}
    )


def odd_zone() -> pyarrow.Table:
    times = pyarrow.array([0], pyarrow.timestamp("s", tz="Nowhere/Nothing"))
    return pyarrow.table({"caption": ["a"], "at": times})


def deep_lists() -> pyarrow.Table:
    kind, value = pyarrow.int8(), 1
    for _ in range(60):
        kind, value = pyarrow.list_(kind), [value]
    return pyarrow.table({"caption": ["a"], "nested": pyarrow.array([value], kind)})


@pytest.mark.parametrize("made", [broken_text, odd_zone, deep_lists])
def test_a_table_that_can_not_be_read_is_a_usage_error(tmp_path: Path, made: Any) -> None:
    parquet.write_table(made(), tmp_path / "list.parquet")
    with pytest.raises(UsageError, match=r"list\.parquet can't be read as"):
        read_prompts(tmp_path / "list.parquet")


@pytest.mark.parametrize("start", ['{"caption": ', '"', ""])
def test_deep_nesting_is_a_usage_error(tmp_path: Path, start: str) -> None:
    file = write(tmp_path / "list.jsonl", start + "[" * 100_000 + "\n")
    with pytest.raises(UsageError, match=r"list\.jsonl"):
        read_prompts(file)
    nested = json.dumps({"caption": "a", "x": 1}).replace("1", "[" * 900 + "]" * 900)
    with pytest.raises(UsageError, match=r"list\.jsonl can't be read"):
        read_prompts(write(file, nested + "\n"))


def test_a_pipe_is_read_and_a_device_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("a kite\na dog\n",))
    writer.start()
    assert texts(read_prompts(pipe)) == ["a kite", "a dog"]
    writer.join()
    with pytest.raises(UsageError, match="it is a device, not a file"):
        read_prompts("/dev/zero")


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=300)
    | st.builds(bytes.__add__, st.sampled_from([b"PAR1", b"{", b"[", b"a,b\n"]), st.binary()),
    suffix=st.sampled_from(["txt", "csv", "tsv", "jsonl", "parquet", "x"]),
)
def test_any_bytes_are_a_list_or_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    file = tmp_path_factory.mktemp("any") / f"list.{suffix}"
    with suppress(UsageError):
        read_prompts(write(file, content)).to_jsonl()


@pytest.mark.parametrize("column", ["caption", "other"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_byte_of_a_table_may_be_wrong(
    tmp_path_factory: pytest.TempPathFactory, column: str, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("any") / "list.parquet"
    parquet.write_table(pyarrow.table({column: ["a kite", "a dog"], "n": [1, 2]}), file)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UsageError):
        read_prompts(write(file, bytes(content)), column=column)
