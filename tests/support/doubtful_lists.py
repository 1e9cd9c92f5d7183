"""Prompt lists that can be read in several ways, and what is said of them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pyarrow

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
