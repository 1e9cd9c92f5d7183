"""The text of a list's bytes: which encoding, and what in it is not legible."""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

from m2g_audit.errors import UsageError
from m2g_audit.text import printable, some

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does, so it is looked for first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MARKS = re.compile("^(?:\ufeff|ï»¿)+", re.MULTILINE)
"""The mark of UTF-8, and what becomes of it where it was taken for letters of cp1252."""
_BY_ZEROS = {"x000": "utf-32-le", "000x": "utf-32-be", "x0x0": "utf-16-le", "0x0x": "utf-16-be"}
_WIDE_ENDS = {b"\n\0": "utf-16-le", b"\0\n": "utf-16-be"}
_LINE_END = re.compile(r"\r\n|\r|\n")


def decode(content: bytes, name: str, encoding: str | None) -> tuple[str, list[str]]:
    """Return the text, and what was not legible in it; UsageError where it is no text of this kind.

    Text is UTF-8, or what its byte order mark says, or `encoding`. Marks at the start of further
    lines, as joined files have them, are no part of it.
    """
    mark = marked(content)
    codec = encoding or mark or "utf-8"
    notices = []
    try:
        text = content.decode(codec)
    except LookupError as error:
        raise UsageError(
            f"There is no --encoding {encoding}: utf-8, utf-16, cp1252, latin-1, cp1251, shift_jis "
            "are some."
        ) from error
    except UnicodeDecodeError:
        broken = _broken_lines(content, codec)
        if encoding is None and mark is None and not _is_mostly_utf8(content, broken):
            raise _other_encoding(content, name, broken) from None
        where = f": {some(broken)}" if broken else ""
        text = content.decode(codec, "replace")
        notices = [f"Bytes that are not {codec} are read as �{where}."]
    else:
        text = text.rstrip("\0\x1a")  # with which DOS and padded blocks end
        _refuse_binary(text, name, encoding)
    if "\ufeff" in text or "ï»¿" in text:
        text = _MARKS.sub("", text)
    return text, notices


def marked(content: bytes) -> str | None:
    """Return the encoding that a byte order mark at the start names, None without one."""
    return next((codec for bom, codec in _BOMS if content.startswith(bom)), None)


def lines_of(text: str) -> list[str]:
    """Return the lines of `text`; a line end at the very end begins no further one."""
    # Not splitlines, which also breaks at form feeds and at the separators of Unicode.
    last = next((end for end in ("\r\n", "\n", "\r") if text.endswith(end)), "")
    return _LINE_END.split(text.removesuffix(last))


def _broken_lines(content: bytes, codec: str) -> list[int]:
    """Return the numbers of the lines that can't be decoded, from 1; none if a line end is wide."""
    if "\n".encode(codec) != b"\n":
        return []
    broken = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            line.decode(codec)
        except UnicodeDecodeError:
            broken.append(number)
    return broken


def _is_mostly_utf8(content: bytes, broken: Sequence[int]) -> bool:
    """Whether more lines hold other than ASCII in good UTF-8 than in bad."""
    beyond_ascii = sum(not line.isascii() for line in content.split(b"\n"))
    return beyond_ascii > 2 * len(broken)


def _other_encoding(content: bytes, name: str, broken: Sequence[int]) -> UsageError:
    wide = next((codec for end, codec in _WIDE_ENDS.items() if end in content), None)
    if wide is not None:
        return UsageError(f"{name} is not UTF-8. It looks like UTF-16: say --encoding {wide}.")
    line = content.split(b"\n")[broken[0] - 1].decode("cp1252", "replace").strip()
    return UsageError(
        f"{name} is not UTF-8: {some(broken)}. Say what it is with --encoding. With cp1252, as "
        f"Windows writes in the West, line {broken[0]} is “{printable(line, 60)}”; with utf-8, "
        "what is no UTF-8 is read as �."
    )


def _refuse_binary(text: str, name: str, encoding: str | None) -> None:
    if encoding is None and ("\x1b$" in text or "\x1b(" in text):
        raise UsageError(
            f"{name} looks like Japanese text in ISO-2022: say --encoding iso2022_jp, or utf-8 if "
            "it is not."
        )
    sample = text[:100_000]
    control = sum(ord(letter) < 32 and letter not in "\t\n\r" for letter in sample)
    if control > 0.1 * len(sample):
        raise UsageError(f"{name} is not a text file.{_hint(sample)} Give a list of prompts.")


def _hint(sample: str) -> str:
    """Which encoding the zero bytes at the start of a text speak for."""
    zeros = "".join("0" if letter == "\0" else "x" for letter in sample[:4])
    codec = _BY_ZEROS.get(zeros)
    return f" It looks like {codec[:6].upper()}: say --encoding {codec}." if codec else ""
