"""Lists that can be read in several ways: each is asked about, and the answer named reads it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from m2g_audit.audits.job import check_prompt
from m2g_audit.errors import UsageError
from m2g_audit.prompts import MAX_PROMPT, read_prompts

TEXTS = {
    "plain": ["a red barn in snow", "a blue boat at dusk", "a yellow field"],
    "commas": ["a red barn, in snow", "a boat, a pier, dusk", "a field, noon"],
    "other scripts": ["古い港", "le café d'été", "مرحبا"],
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")
NAMES = ("list.txt", "list.csv", "list.dat")
TXT = {"read_as": "txt"}
TSV = {"read_as": "tsv", "header": False, "column": "1"}
CSV = {"read_as": "csv", "header": False, "column": "1"}


@dataclass(frozen=True)
class Doubt:
    """What a file may be besides a list of lines; answers: what is said, and what that reads.

    names: those of files for which there is a doubt; without: kinds of text for which there is
    another, or none.
    """

    what: str
    write: Any
    answers: tuple[tuple[dict[str, object], Any], ...]
    names: tuple[str, ...] = NAMES
    without: tuple[str, ...] = field(default=())


def lines(texts: list[str]) -> list[str]:
    return texts


def rows(texts: list[str]) -> list[dict[str, object]]:
    return [{"prompt": text, "n": 1} for text in texts]


def cut_short(texts: list[str]) -> str:
    return json.dumps(rows(texts), indent=1, ensure_ascii=False)[:-3]


def with_commas(texts: list[str]) -> str:
    return ",\n".join(json.dumps(row) for row in rows(texts))


def of_python(texts: list[str]) -> str:
    return "prompts = [\n" + "".join(f'    "{text}",\n' for text in texts) + "]"


def joined(texts: list[str]) -> str:
    return "\n".join(json.dumps(row, indent=1) for row in rows(texts))


def with_tabs(texts: list[str]) -> str:
    return "".join(f"{text}\thttp://a/{i}.jpg\n" for i, text in enumerate(texts))


def with_links(texts: list[str]) -> str:
    return "".join(f"{text},http://a/{i}.jpg\n" for i, text in enumerate(texts))


def in_quotes(texts: list[str]) -> str:
    return "".join(f'"{text}"\n' for text in texts)


def a1111(texts: list[str]) -> str:
    return "".join(f'--prompt "{text}" --negative_prompt "fog" --steps 20\n' for text in texts)


def kohya(texts: list[str]) -> str:
    return "".join(f"{text} --n fog --w 512\n" for text in texts)


def infotext(texts: list[str]) -> str:
    return "".join(f"{text}\nNegative prompt: fog\nSteps: 5, Sampler: Euler\n" for text in texts)


def unknown(texts: list[str]) -> str:
    return "".join(f"{text} --ar 16:9 --v 5\n" for text in texts)


def one_letter(texts: list[str]) -> str:
    return "".join(f"{text} -s 50 -W 512\n" for text in texts)


def code(texts: list[str]) -> str:
    return "import os\n" + "".join(f"ask('{text}')\n" for text in texts)


def named(texts: list[str]) -> str:
    return "".join(f"prompt: {text}\n" for text in texts)


def toml(texts: list[str]) -> str:
    return "[prompt]\nwidth = 512\n" + "".join(
        f'[[prompt.subset]]\nprompt = "{text}"\n' for text in texts
    )


def yaml(texts: list[str]) -> str:
    return "prompts:\n" + "".join(f"  - {text}\n" for text in texts)


def yaml_rows(texts: list[str]) -> str:
    return "".join(f"- prompt: {text}\n  n: 1\n" for text in texts)


def apart(texts: list[str]) -> str:
    return "caption               url\n" + "".join(f"{text:<22}x\n" for text in texts)


def headed(texts: list[str]) -> str:
    return "text, logo, white\n" + "".join(f"{text.replace(',', '')}, b, c\n" for text in texts)


def _stands(write: Any) -> Any:
    """What lines as they stand come to: each once, without white space around it."""
    return lambda texts: list(dict.fromkeys(s for s in map(str.strip, write(texts)) if s))


def doubt(what: str, write: Any, *answers: Any, **named: Any) -> Doubt:
    by_line = lambda texts: write(texts).split("\n")  # noqa: E731
    return Doubt(what, write, ((TXT, _stands(by_line)), *answers), **named)


DOUBTS = [
    doubt("JSON that ends too soon", cut_short),
    doubt("objects with commas between the lines", with_commas),
    doubt("a list of Python's", of_python),
    doubt("documents one after the other", joined),
    doubt("a tab in every line", with_tabs, (TSV, lines), names=("list.txt", "list.dat")),
    doubt(
        "a link at the end of every line",
        with_links,
        (CSV, lines),
        names=("list.txt", "list.dat"),
        without=("commas",),
    ),
    doubt(
        "quotes around every line",
        in_quotes,
        ({**CSV, "quotes": "csv"}, lines),
        names=("list.txt", "list.dat"),
    ),
    doubt("A1111's options", a1111, ({"read_as": "a1111"}, lines)),
    doubt("kohya's options", kohya, ({"read_as": "kohya"}, lines)),
    doubt("A1111's infotexts", infotext, ({"read_as": "infotext"}, lines)),
    doubt("options that are not known", unknown),
    doubt("options in one letter", one_letter),
    doubt("code", code),
    doubt("the name of a column before each line", named),
    doubt("TOML", toml),
    doubt("YAML", yaml),
    doubt("YAML of objects", yaml_rows),
    doubt("columns apart by spaces", apart, names=("list.txt", "list.dat")),
    doubt(
        "a first line that may be a header",
        headed,
        ({"read_as": "csv", "header": False, "column": "1"}, lambda t: ["text", *map(_bare, t)]),
        ({"read_as": "csv"}, lambda texts: list(map(_bare, texts))),
        names=("list.txt", "list.dat"),
    ),
]


def _bare(text: str) -> str:
    return text.replace(",", "")


def made() -> Iterator[tuple[Doubt, str, str, str]]:
    """All combinations of a doubt, its texts, an encoding and a name."""
    for each, kind, encoding in product(DOUBTS, TEXTS, ENCODINGS):
        if kind not in each.without:
            yield from ((each, kind, encoding, name) for name in each.names)


def said(options: dict[str, object]) -> list[str]:
    """The options as a message names them."""
    flags = {"header": lambda value: "--header" if value else "--no-header"}
    return [
        flags[key](value) if key in flags else f"--{key.replace('_', '-')} {value}"
        for key, value in options.items()
    ]


@pytest.mark.parametrize("asked", DOUBTS, ids=lambda d: d.what)
def test_what_can_be_read_in_several_ways_is_asked_about(tmp_path: Path, asked: Doubt) -> None:
    for each, kind, encoding, name in made():
        if each is not asked:
            continue
        file = tmp_path / name
        file.write_bytes(each.write(TEXTS[kind]).encode(encoding))
        with pytest.raises(UsageError) as error:
            read_prompts(file)
        assert all(part in str(error.value) for part in said(each.answers[0][0]))
        for options, expected in each.answers:
            found = [entry.prompt for entry in read_prompts(file, **options)]  # type: ignore[arg-type]
            assert found == expected(TEXTS[kind]), (kind, encoding, name, options)


@pytest.mark.parametrize("asked", DOUBTS, ids=lambda d: d.what)
def test_the_question_names_the_answers(tmp_path: Path, asked: Doubt) -> None:
    file = tmp_path / asked.names[0]
    file.write_text(asked.write(TEXTS["plain"]), encoding="utf-8")
    with pytest.raises(UsageError) as error:
        read_prompts(file)
    parts = {part for options, _ in asked.answers for part in said(options)}
    assert all(part in str(error.value) for part in parts)


# -- what is read without a question, with a word


@pytest.mark.parametrize(
    ("content", "expected", "notice"),
    [
        ("prompt\na barn\na boat\n", ["a barn", "a boat"], "read as a table"),
        ("1. a barn\n2. a boat\n", ["1. a barn", "2. a boat"], "numbers that all begin with"),
        ("- a barn\n- a boat\n", ["- a barn", "- a boat"], "marks that all begin with"),
        ("“a barn”\n“a boat”\n", ["“a barn”", "“a boat”"], "quotation marks around all"),
        ("caption,n\n'a barn',1\n'a boat',2\n", ["'a barn'", "'a boat'"], "quotation marks"),
        ("# note\na barn\n#\na boat\n", ["a barn", "a boat"], "Comments in"),
        ("# note\ncaption,url\na barn,x\na boat,y\n", ["a barn", "a boat"], "above the header"),
        ('caption\tu\n"a barn"\tx\n"a boat"\ty\n', ["a barn", "a boat"], "--quotes none"),
        ("prompt,n\na barn --ar 1:1,x\na boat,y\n", ["a barn --ar 1:1", "a boat"], "options"),
        ("prompt,uncond\na barn,x\na boat,y\n", ["a barn", "a boat"], "named negative_prompt"),
    ],
)
@pytest.mark.parametrize("name", ["list.txt", "list.dat"])
def test_what_is_not_obvious_is_said(
    tmp_path: Path, name: str, content: str, expected: list[str], notice: str
) -> None:
    (tmp_path / name).write_text(content)
    found = read_prompts(tmp_path / name)
    assert [entry.prompt for entry in found] == expected
    assert any(notice in each for each in found.notices)


@pytest.mark.parametrize(
    "content",
    [
        "a cat -- a dog\n- a barn\n",
        "[a cat|a dog] on {grass}\n{a|b}\n",
        '"quoted" barn\na "boat"\n',
        "text, logo\na barn, snow, night\n",
        "a barn | oil\na boat | ink\n",
        "a barn: red\na boat: blue\n",
        "ORC warrior\nPAREIDOLIA\n",
        "a = b\nc\n",
        "1920s barn\n2. a boat\n",
        "a barn, see http://a\na boat\n",
        "a\tbarn\na boat\n",
        "a jet -a model\na boat - 3 sails\n",
        "import of tea\nfrom above\nselect a barn\n",
        "<lora:x:0.8> a barn\n<3 hearts\n",
    ],
)
def test_lines_that_only_look_odd_are_prompts(tmp_path: Path, content: str) -> None:
    (tmp_path / "list.txt").write_text(content)
    assert [entry.prompt for entry in read_prompts(tmp_path / "list.txt")] == content.splitlines()


def test_a_header_is_asked_about_where_the_place_of_the_column_is_all_that_is_known(
    tmp_path: Path,
) -> None:
    file = tmp_path / "list.csv"
    file.write_text("a barn,u1\na boat,u2\n")
    with pytest.raises(UsageError, match="--header if it names the columns, --no-header"):
        read_prompts(file, column="1")
    assert len(read_prompts(file, column="1", header=False)) == 2
    assert len(read_prompts(file, column="1", header=True)) == 1


def test_signs_that_may_separate_columns_are_asked_about(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    content = "a barn, red;u1\na boat, blue;u2\n"
    file.write_text(content)
    with pytest.raises(UsageError, match="',' or ';': put a line sep=;"):
        read_prompts(file, column="1", header=False)
    file.write_text(f"sep=;\n{content}")
    found = read_prompts(file, column="1", header=False)
    assert [entry.prompt for entry in found] == ["a barn, red", "a boat, blue"]


def test_quotes_marked_by_backslashes_are_asked_about(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text('caption,n\n"say \\"hi\\"",1\n"a boat",2\n')
    with pytest.raises(UsageError, match=r"marked by backslashes.*--quotes none"):
        read_prompts(file)
    assert read_prompts(file, quotes="none").entries[1].prompt == '"a boat"'


def test_what_is_said_of_quotes_holds_for_lines_too(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text('"a barn"\n"a boat"\n')
    found = read_prompts(tmp_path / "list.txt", quotes="none")
    assert [entry.prompt for entry in found] == ['"a barn"', '"a boat"']


@pytest.mark.parametrize("length", [MAX_PROMPT, MAX_PROMPT + 1])
def test_a_prompt_and_a_list_have_the_same_limit(tmp_path: Path, length: int) -> None:
    text = f"  {'x' * length}  "
    (tmp_path / "list.txt").write_text(text)
    with nullcontext() if length == MAX_PROMPT else pytest.raises(UsageError):
        read_prompts(tmp_path / "list.txt")
    with nullcontext() if length == MAX_PROMPT else pytest.raises(UsageError):
        check_prompt(text)


# -- files that are no lists


def arrow_stream(texts: list[str]) -> bytes:
    table = pyarrow.table({"caption": texts})
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


NO_LISTS: dict[str, bytes] = {
    "an Arrow stream": arrow_stream(["a barn"]),
    "a pickle": pickle.dumps(["a barn"], 2),
    "a pickle, in letters": pickle.dumps(["a barn"], 0),
    "an Avro file": b"Obj\x01" + bytes(20),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "an ORC file": b"ORC\x08\0" + bytes(20),
    "a safetensors file": (2).to_bytes(8, "little") + b"{}",
    "a picture": b"RIFF\x10\0\0\0WEBPVP8 ",
    "packed with zstd": b"\x28\xb5\x2f\xfd" + bytes(9),
    "a web page": b"\n<!DOCTYPE html>\n<html><body>a barn</body></html>\n",
    "XML": b"<?xml version='1.0'?>\n<a>a barn</a>\n",
    "a rich text file": b"{\\rtf1\\ansi a barn\\par}",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "a Markdown table": b"| prompt | n |\n|---|---|\n| a barn | 1 |\n",
    "a file of subtitles": b"1\n00:00:01,000 --> 00:00:04,000\na barn\n",
}


@pytest.mark.parametrize("what", NO_LISTS)
@pytest.mark.parametrize("name", [*NAMES, "list.jsonl"])
def test_files_that_are_no_lists_are_named(tmp_path: Path, what: str, name: str) -> None:
    (tmp_path / name).write_bytes(NO_LISTS[what])
    with pytest.raises(UsageError, match=f"is {what.partition(',')[0]}.*not a list of prompts: "):
        read_prompts(tmp_path / name)


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("utf-16-le", "a red barn\na boat\n"),
        ("utf-16-be", "a red barn\na boat\n"),
        ("utf-32-le", "a red barn\na boat\n"),
        ("utf-16-le", "古い港夕暮\n赤い納屋\n"),
        ("utf-16-be", "古い港夕暮\n赤い納屋\n"),
        ("iso2022_jp", "古い港夕暮\n赤い納屋\n"),
    ],
)
def test_an_encoding_without_its_mark_is_named(tmp_path: Path, codec: str, text: str) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(text.encode(codec))
    with pytest.raises(UsageError, match=f"--encoding {codec}"):
        read_prompts(file)
    assert [entry.prompt for entry in read_prompts(file, encoding=codec)] == text.splitlines()


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff\ufeffa barn\n\ufeffa boat\n",
        "ï»¿a barn\na boat\n",
        "a barn\na boat\n\x1a",
        "a barn\na boat\n\0\0\0",
        'caption,u\n"\ufeffa barn, red",1\na boat,2\n',
        "ï»¿caption,u\na barn,1\na boat,2\n",
    ],
)
def test_stray_marks_are_no_part_of_prompts(tmp_path: Path, content: str) -> None:
    file = tmp_path / "list.csv"
    file.write_text(content, encoding="utf-8")
    assert [e.prompt.removesuffix(", red") for e in read_prompts(file)] == ["a barn", "a boat"]


# -- JSON whose layout leaves it open


@pytest.mark.parametrize(
    ("content", "said", "column", "expected"),
    [
        ('{"title": "a barn", "site": "x"}', "--column", "title", ["a barn"]),
        ('{"title": ["a", "b"], "site": ["x", "y"]}', "--column", "title", ["a", "b"]),
        ('{"title": {"0": "a"}, "site": {"0": "x"}}', "--column", "title", ["a"]),
        ('{"train": [{"text": "a"}], "test": [{"text": "b"}]}', "--column", "test.text", ["b"]),
        (
            '{"images": [{"s": [{"raw": "a"}, {"raw": "b"}]}]}',
            "--column s.NAME",
            "images.s.raw",
            ["a", "b"],
        ),
    ],
)
def test_which_column_is_asked_about(
    tmp_path: Path, content: str, said: str, column: str, expected: list[str]
) -> None:
    file = tmp_path / "list.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=said):
        read_prompts(file)
    assert [entry.prompt for entry in read_prompts(file, column=column)] == expected


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "meta.json"
    file.write_text('{"a.png": {"caption": "a"}, "a.png": {"caption": "b"}}')
    with pytest.raises(UsageError, match=r"has the key 'a.png' twice"):
        read_prompts(file)
