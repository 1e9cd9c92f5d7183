"""Prompts with options, as scripts of web interfaces and of trainers take them.

Negative prompts are used; what else an option sets (steps, sizes, seeds) holds for a whole audit
here, and is named in a notice instead.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from m2g_audit.encodings import lines_of
from m2g_audit.errors import UsageError
from m2g_audit.prompts.entries import Row
from m2g_audit.text import printable, some

OptionStyle = Literal["a1111", "kohya", "infotext"]

_A1111 = re.compile(
    r"(?:^|\s)--(?:prompt|negative_prompt|steps|seed|width|height|cfg_scale|batch_size|n_iter"
    r"|sampler_name|sampler_index|sd_model|outpath_samples|styles|subseed|restore_faces|tiling"
    r"|do_not_save_samples)(?=\s|=|$)"
)
_KOHYA = re.compile(r"\s--(?P<key>[A-Za-z]+)(?:\s+(?P<value>(?:(?!\s--[A-Za-z]).)*))?")
_KOHYA_KEYS = frozenset(["n", "w", "h", "d", "l", "s", "g", "t", "o", "c", "am", "fs", "ct", "nr"])
OTHER_OPTION = re.compile(r"\s(?:--[A-Za-z][\w-]*(?=\s|=|$)|-[A-Za-z] ?\d+(?:\.\d+)?(?=\s|$))")
"""An option of any program, such as --ar or -s 50."""
_NEGATIVE = "Negative prompt:"
_PARAMETERS = re.compile(r"Steps: \d+, .*\b(?:Sampler|Seed|CFG scale): ")
_SETTINGS = re.compile(r"(?:^|, )([A-Z][\w ]*): ")


@dataclass
class _Read:
    """Rows, the numbers of comments, and the options whose values are not used."""

    rows: list[Row] = field(default_factory=list)
    comments: list[int] = field(default_factory=list)
    unused: dict[str, None] = field(default_factory=dict)


def style_of(lines: Sequence[str]) -> tuple[OptionStyle, int, str] | None:
    """Return the style in which lines have options, a line that does, and what in it says so."""
    signed = [
        (number, line)
        for number, line in enumerate(lines, start=1)
        if "--" in line or _NEGATIVE in line or "Steps: " in line
    ]
    for number, line in signed:
        if line.startswith(_NEGATIVE) or _PARAMETERS.match(line):
            return "infotext", number, line
        found = _A1111.search(line)
        if found:
            return "a1111", number, found[0].strip()
        if any(m["key"].lower() in _KOHYA_KEYS for m in _KOHYA.finditer(line)):
            return "kohya", number, next(_KOHYA.finditer(line))[0].strip()
    return None


def refuse_options(lines: Sequence[str], name: str) -> None:
    """Raise UsageError where lines have options: they can be read, or be part of the prompts."""
    found = style_of(lines)
    if found is not None:
        style, number, what = found
        raise UsageError(
            f"Line {number} of {name} has options (“{printable(what, 60)}”), as prompt files of "
            f"{_MAKERS[style]} have. Say --read-as {style} to use its negative prompts and leave "
            "the other options out, or --read-as txt to take every line as it stands."
        )
    for number, line in enumerate(lines, start=1):
        other = " -" in line and OTHER_OPTION.search(line)
        if other:
            raise UsageError(
                f"Line {number} of {name} has an option that is not known "
                f"(“{other[0].strip()}”). Say --read-as txt to take every line as it stands, or "
                "take the options out."
            )


_MAKERS: Mapping[OptionStyle, str] = {
    "a1111": "A1111's web interface",
    "kohya": "kohya's scripts",
    "infotext": "A1111's pictures",
}


def read_options(text: str, name: str, style: OptionStyle) -> tuple[list[Row], list[str]]:
    """Return the prompts of lines with options; UsageError for lines that are not of this style."""
    read = _Read()
    _READERS[style](text, name, read)
    notices = [f"Comments in {name}: {some(read.comments)}."] if read.comments else []
    if read.unused:
        notices.append(
            f"Options of {name} that are not used, since these hold for a whole audit: "
            f"{', '.join(list(read.unused)[:20])}."
        )
    return read.rows, notices


def _read_a1111(text: str, name: str, read: _Read) -> None:
    for number, line in enumerate(lines_of(text), start=1):
        if not _A1111.search(line):
            read.rows.append(Row(number, line, {}))
            continue
        values = _parsed(line, number, name)
        prompt, negative = values.pop("prompt", None), values.pop("negative_prompt", None)
        if prompt is None:
            raise UsageError(
                f"Line {number} of {name} has options but no --prompt: give it one, or say "
                "--read-as txt if the line is the prompt."
            )
        read.unused.update({f"--{key}": None for key in values})
        read.rows.append(Row(number, prompt, {}, negative))


def _parsed(line: str, number: int, name: str) -> dict[str, str]:
    """The values of one line by option; words after a text belong to it, as A1111 reads them."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(
            f"Line {number} of {name} can't be read: {error}. Put double quotes around each text."
        ) from error
    values: dict[str, list[str]] = {}
    key = ""
    for word in words:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            values[key] = [value] if equals else []
        elif key:
            values[key].append(word)
        else:
            raise UsageError(
                f"Line {number} of {name} begins with no option but has some later: write "
                "--prompt before its text, or say --read-as kohya."
            )
    return {key: " ".join(found) for key, found in values.items()}


def _read_kohya(text: str, name: str, read: _Read) -> None:
    for number, line in enumerate(lines_of(text), start=1):
        if line.lstrip().startswith("#"):
            read.comments.append(number)
            continue
        if not line.strip():
            continue
        values = {m["key"].lower(): (m["value"] or "").strip() for m in _KOHYA.finditer(line)}
        first = _KOHYA.search(line)
        prompt = line if first is None else line[: first.start()]
        negative = values.pop("n", None)
        read.unused.update({f"--{key}": None for key in values})
        read.rows.append(Row(number, prompt, {}, negative))


def _read_infotext(text: str, name: str, read: _Read) -> None:
    prompt: list[str] = []
    negative: list[str] | None = None
    first = 1
    for number, line in enumerate([*lines_of(text), ""], start=1):
        settings = _PARAMETERS.match(line)
        if line.startswith(_NEGATIVE):
            negative = [line.removeprefix(_NEGATIVE).strip()]
        elif not settings:
            (prompt if negative is None else negative).append(line)
        if settings or number > len(lines_of(text)):
            whole = "\n".join(prompt).strip()
            if whole or settings:
                without = None if negative is None else "\n".join(negative)
                read.rows.append(Row(first, whole, {}, without))
            read.unused.update(dict.fromkeys(_SETTINGS.findall(line)))
            prompt, negative, first = [], None, number + 1


_READERS: Mapping[OptionStyle, Callable[[str, str, _Read], None]] = {
    "a1111": _read_a1111,
    "kohya": _read_kohya,
    "infotext": _read_infotext,
}
