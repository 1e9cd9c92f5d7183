"""Prompt lists of all kinds."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow
from pyarrow import parquet

TEXTS: dict[str, list[str]] = {
    "plain": ["a red barn in snow", "a blue boat at dusk", "a yellow field"],
    "commas and quotes": ["a red barn, in snow", 'the "old" harbour', "it's 24\" wide"],
    "quotes around": ['"R E D" barn', "a boat", '"quoted whole"'],
    "other scripts": ["مرحبا بالعالم", "古い港、夕暮れ", "le café d'été"],
    "brackets and marks": ["[a cat|a dog] on {grass}", "#sunset, (warm:1.2)", "a -- b; c | d"],
}
"""Prompts with what readers stumble over."""


Writer = Callable[[list[str]], str | bytes]


@dataclass(frozen=True)
class Form:
    """A way to keep a list. may_ask: whether its quotes can mean two things for some texts."""

    name: str
    write: Writer
    said: str
    options: dict[str, object]
    may_ask: bool = False


def table(delimiter: str, quoting: int = csv.QUOTE_MINIMAL, end: str = "\n") -> Writer:
    def write(texts: list[str]) -> str:
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator=end)
        writer.writerows([["caption", "url"], *([text, f"u{i}"] for i, text in enumerate(texts))])
        return buffer.getvalue()

    return write


def unquoted(texts: list[str]) -> str:
    return "caption\turl\n" + "".join(f"{text}\tu{i}\n" for i, text in enumerate(texts))


def headerless(texts: list[str]) -> str:
    return "".join(f"{text}\tu{i}\n" for i, text in enumerate(texts))


def in_objects(texts: list[str]) -> str:
    return json.dumps([{"prompt": text, "n": 1} for text in texts], ensure_ascii=False, indent=1)


def line_by_line(texts: list[str]) -> str:
    return "".join(f"{json.dumps({'prompt': text})}\n" for text in texts)


def by_picture(texts: list[str]) -> str:
    return json.dumps({f"{i}.png": {"caption": t} for i, t in enumerate(texts)}, indent=2)


def coco(texts: list[str]) -> str:
    rows = [{"image_id": i, "id": i, "caption": text} for i, text in enumerate(texts)]
    return json.dumps({"images": [{"id": 0, "file_name": "0.jpg"}], "annotations": rows})


def several(texts: list[str]) -> str:
    return f"{json.dumps({'image': 'x', 'captions': texts})}\n"


def a1111(texts: list[str]) -> str:
    quoted = ('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts)
    return "".join(f"--prompt {text} --steps 20\n" for text in quoted)


def kohya(texts: list[str]) -> str:
    return "# made by hand\n" + "".join(f"{text} --n blurred --w 512\n" for text in texts)


def infotext(texts: list[str]) -> str:
    return "".join(f"{text}\nNegative prompt: x\nSteps: 5, Sampler: Euler\n\n" for text in texts)


def in_parquet(texts: list[str]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"caption": texts, "image": [b"\xff"] * len(texts)}), buffer)
    return buffer.getvalue()


FORMS = [
    Form("list.txt", lambda texts: "\n".join(texts), "one prompt a line", {}),
    Form("crlf.txt", lambda texts: "\r\n".join([*texts, ""]), "with Windows' line ends", {}),
    Form("list.csv", table(","), "csv, quotes where needed", {}),
    Form("all.csv", table(",", csv.QUOTE_ALL, "\r\n"), "csv, quotes everywhere", {}),
    Form("semicolon.csv", table(";"), "csv with semicolons", {}),
    Form("list.tsv", table("\t"), "tsv, quotes where needed", {}),
    Form("plain.tsv", unquoted, "tsv whose quotes are text", {"quotes": "none"}),
    Form("found.tsv", unquoted, "the same, found out or asked about", {}, may_ask=True),
    Form("bare.tsv", headerless, "no header", {"header": False, "column": "1", "quotes": "none"}),
    Form("table.txt", table(","), "a table named txt", {}),
    Form("list.json", in_objects, "an array of objects", {}),
    Form("texts.json", json.dumps, "an array of texts", {}),
    Form("array.txt", json.dumps, "an array named txt", {}),
    Form("list.jsonl", line_by_line, "an object a line", {}),
    Form("meta.json", by_picture, "objects by picture (kohya, DiffusionDB)", {}),
    Form("coco.json", coco, "COCO captions", {}),
    Form("several.jsonl", several, "several captions a row", {}),
    Form("a1111.txt", a1111, "A1111's options", {"read_as": "a1111"}),
    Form("kohya.txt", kohya, "kohya's options", {"read_as": "kohya"}),
    Form("info.txt", infotext, "A1111's infotexts", {"read_as": "infotext"}),
    Form("list.parquet", in_parquet, "parquet, pictures left out", {}),
]
