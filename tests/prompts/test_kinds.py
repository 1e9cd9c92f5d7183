"""Every kind of list in every form that people have it in: read right, or asked about."""

from __future__ import annotations

import gzip
import textwrap
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from m2g_audit.errors import UsageError
from m2g_audit.prompts import read_prompts
from tests.support.doubtful_lists import DOUBTS, NO_LISTS, said
from tests.support.doubtful_lists import ENCODINGS as DOUBT_ENCODINGS
from tests.support.doubtful_lists import made as doubts_made
from tests.support.list_forms import FORMS, TEXTS, Form, Writer, kohya

PAGE = Path(__file__).parents[2] / "docs" / "prompt-lists.md"


ENCODINGS = {
    "UTF-8": ("utf-8", None),
    "UTF-8 with its mark": ("utf-8-sig", None),
    "UTF-16": ("utf-16", None),
    "cp1252": ("cp1252", "cp1252"),
}
"""How a text is encoded, and what is said of it."""


NO_TEXT = {"list.parquet"}


def made() -> Iterator[tuple[Form, str, str, bool]]:
    """All combinations of a form, its texts, an encoding and packing that can exist."""
    for form, kind, encoding, packed in product(FORMS, TEXTS, ENCODINGS, (False, True)):
        if form.name in NO_TEXT and encoding != "UTF-8":
            continue
        if packed and kind != "plain":
            continue
        if form.write is kohya and any(text.startswith("#") for text in TEXTS[kind]):
            continue  # a comment there
        try:
            "".join(TEXTS[kind]).encode(ENCODINGS[encoding][0])
        except UnicodeEncodeError:
            continue
        yield form, kind, encoding, packed


def outcome(folder: Path, form: Form, kind: str, encoding: str, packed: bool) -> str:
    """ "read", "asked", or what was misread."""
    codec, said = ENCODINGS[encoding]
    content = form.write(TEXTS[kind])
    whole = content if isinstance(content, bytes) else content.encode(codec)
    file = folder / (f"{form.name}.gz" if packed else form.name)
    file.write_bytes(gzip.compress(whole) if packed else whole)
    try:
        found = read_prompts(file, encoding=said, **form.options)  # type: ignore[arg-type]
    except UsageError as error:
        return "asked" if "--quotes" in str(error) else f"refused: {error}"
    read = [entry.prompt for entry in found]
    return "read" if read == TEXTS[kind] else f"misread: {read}"


def test_no_list_is_misread_in_silence(tmp_path: Path) -> None:
    cases = list(made())
    assert len(cases) > 300
    wrong = []
    for form, *case in cases:
        found = outcome(tmp_path, form, *case)
        if found != "read" and not (found == "asked" and form.may_ask):
            wrong.append((form.name, *case, found))
    assert wrong == []


def page() -> str:
    """What the documentation says, made from what was read."""
    read = [(f.said, f.write, [f.options] if f.options else []) for f in FORMS]
    asked = [(d.what, d.write, [options for options, _ in d.answers]) for d in DOUBTS]
    named = dict.fromkeys(what.partition(",")[0] for what in NO_LISTS)
    parts = [
        "# What is read as a list of prompts",
        """Made by `tests/prompts/test_kinds.py`, which writes each of these files and reads it.
        What is inside a file decides what it is, not its name. A text is a prompt as it stands.""",
        _table_of(("a list that holds", "such as", "options"), read),
        f"""Each with texts of {len(TEXTS)} kinds ({", ".join(TEXTS)}), as {", ".join(ENCODINGS)}
        (`--encoding cp1252`), and packed with gzip: {len(list(made()))} files. xz, bzip2 and zip
        archives of one file are read too, and a folder of pictures with captions beside them.
        Lines that begin with `# ` are comments.""",
        "## What is asked about",
        f"""Where a file can be read in two ways that give other prompts, `batch` ends with the
        question, and names the answers. `tests/prompts/test_doubts.py` writes each of these in
        {len(DOUBT_ENCODINGS)} encodings under several names, {len(list(doubts_made()))} files, and
        reads it with each answer. Quotes of a table that may surround fields or be part of them
        (`--quotes csv`, `none`), an encoding without its mark (`--encoding`), a header that may be
        a row (`--header`, `--no-header`) and columns without a known name (`--column`) are asked
        about as well.""",
        _table_of(("a list that has", "such as", "answers"), asked),
        "## What is refused",
        f"""Named as what they are: workbooks and documents of Excel, Word, OpenDocument and
        Numbers, tar, 7z and RAR archives, SQLite databases, PDF, NumPy arrays; {", ".join(named)}.
        Also more than 1,000 columns, more than 5 million rows of parquet, what unpacks to more than
        a gigabyte, and prompts of more than 10,000 letters, as for `m2g-audit prompt`.""",
    ]
    return "\n\n".join(part if part.startswith("|") else _wrapped(part) for part in parts) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 100, break_on_hyphens=False)


def _table_of(
    head: tuple[str, str, str], rows: list[tuple[str, Writer, list[dict[str, object]]]]
) -> str:
    lines = [f"| {' | '.join(head)} |", "| --- | --- | --- |"]
    for what, write, options in rows:
        start = write(["a red barn", "a boat"])
        shown = "(binary)" if isinstance(start, bytes) else f"`{_one_line(start)}`"
        flags = ", ".join(f"`{' '.join(said(each))}`" for each in options)
        lines.append(f"| {what} | {shown} | {flags} |")
    return "\n".join(lines)


def _one_line(text: str) -> str:
    shown = text.replace("\r", "␍").replace("\n", "⏎").replace("\t", "⇥").replace("|", "\\|")
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def test_the_documentation_says_what_is_read() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "Make it again: python -c 'from tests.prompts.test_kinds import PAGE, page; "
        'PAGE.write_text(page(), encoding="utf-8")\''
    )
