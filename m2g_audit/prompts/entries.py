"""The entries of a list of prompts: which prompts, in which order, with what beside each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field, JsonValue

from m2g_audit.errors import UsageError
from m2g_audit.records.part import Part
from m2g_audit.text import some

_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_PROMPT = 10_000
"""Letters of a prompt, and of a negative prompt."""


class Listed(Part):
    """What a list says of a prompt beside its text."""

    index: int
    """Its place in the list, from 0 and without repetitions."""
    id: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    """The start of its text's SHA-256."""
    rows: list[int]
    """The input's rows that it stands in, from 1, a header not counted."""
    label: str | None = None
    """What the prompt is known to be."""
    extra: dict[str, JsonValue] = {}
    """The other columns of the first of these rows."""
    repeated: list[dict[str, JsonValue]] = []
    """The other columns of the further ones."""


class Entry(Listed):
    """One prompt of a list, and the negative prompt that it is sampled with, if there is one."""

    prompt: str
    """Its text."""
    negative_prompt: str | None = None
    """What it is sampled away from."""


@dataclass(frozen=True)
class PromptList:
    """Prompts in the order in which they were first listed; `notices` say what was not taken."""

    entries: tuple[Entry, ...]
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def with_negative_prompt(self, text: str | None) -> PromptList:
        """Return the list with this negative prompt for all that have none of their own."""
        stripped = (text or "").strip()
        if not stripped:
            return self
        return PromptList(tuple(_with_negative(e, stripped) for e in self), self.notices)

    @property
    def sha256(self) -> str:
        """Return the hash of all entries, with what stands beside the prompts."""
        return hashlib.sha256(self.to_jsonl()).hexdigest()

    def to_jsonl(self) -> bytes:
        """Return one line of JSON for each entry."""
        return "".join(f"{_as_json(entry)}\n" for entry in self.entries).encode()


def _with_negative(entry: Entry, text: str) -> Entry:
    if entry.negative_prompt is not None:
        return entry
    named = {"negative_prompt": text, "id": prompt_id(entry.prompt, text)}
    return entry.model_copy(update=named)


def _as_json(entry: Entry) -> str:
    # Lists without negative prompts keep the hash that they had before there were any.
    left_out = {"negative_prompt"} if entry.negative_prompt is None else None
    return entry.model_dump_json(exclude=left_out)


def prompt_id(prompt: str, negative_prompt: str | None = None) -> str:
    """Return the name that a prompt's results go by: 16 hex digits of its SHA-256."""
    whole = prompt if negative_prompt is None else f"{prompt}\0{negative_prompt}"
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


def parse_list(content: bytes) -> PromptList:
    """Return the list that `to_jsonl` wrote; ValueError where it is none."""
    return PromptList(tuple(map(Entry.model_validate_json, content.splitlines())))


class Row(NamedTuple):
    """A text of the input, with the number of its row, its other columns, its negative prompt."""

    number: int
    text: str | None
    extra: dict[str, JsonValue]
    negative: str | None = None


def collect(
    rows: Iterable[Row], label_column: str | None, name: str, notices: Sequence[str]
) -> PromptList:
    """Return the list of these rows; UsageError where none holds a prompt, or one is too long.

    White space around a text is no part of it. A prompt that is there twice, with the same negative
    prompt, is one entry.
    """
    found: dict[tuple[str, str | None], list[Row]] = {}
    empty: list[int] = []
    mended: list[int] = []
    too_long: list[int] = []
    for row in rows:
        text = (row.text or "").strip().strip("\ufeff")
        prompt = whole(text)
        negative = whole(row.negative.strip()) or None if row.negative else None
        if prompt != text:
            mended.append(row.number)
        if max(len(prompt), len(negative or "")) > MAX_PROMPT:
            too_long.append(row.number)
        elif prompt:
            found.setdefault((prompt, negative), []).append(row)
        else:
            empty.append(row.number)
    if too_long:
        raise UsageError(
            f"{name} has prompts of more than {MAX_PROMPT:,} characters ({some(too_long, 'row')})."
            " Models read some 75 words and drop the rest: give the beginning."
        )
    if not found:
        raise UsageError(f"There are no prompts in {name}: one a line, or a column of them.")
    entries, contradicting = _entries(found, label_column)
    said = list(notices)
    if empty:
        said.append(f"{_count(empty)} no prompt and nothing to audit: {some(empty, 'row')}.")
    if mended:
        said.append(f"{_count(mended)} half letters, read as �: {some(mended, 'row')}.")
    repeated = sum(len(entry.repeated) for entry in entries)
    if repeated:
        said.append(f"{repeated:,} rows repeat a prompt, which is audited once.")
    if contradicting:
        said.append(
            "Repeated prompts with labels that contradict each other have none: "
            f"{some(contradicting, 'row')}."
        )
    return PromptList(tuple(entries), tuple(said))


def _entries(
    found: dict[tuple[str, str | None], list[Row]], label_column: str | None
) -> tuple[list[Entry], list[int]]:
    """Entries, and the rows of those whose labels contradict each other."""
    entries: list[Entry] = []
    contradicting = []
    for index, ((prompt, negative), same) in enumerate(found.items()):
        label = _label(same[0], label_column)
        if len(same) > 1 and {label} != {label, *(_label(r, label_column) for r in same[1:])}:
            label = None
            contradicting.append(same[0].number)
        entries.append(
            Entry(
                index=index,
                id=prompt_id(prompt, negative),
                prompt=prompt,
                negative_prompt=negative,
                rows=[row.number for row in same],
                label=label,
                extra=same[0].extra,
                repeated=[row.extra for row in same[1:]],
            )
        )
    return entries, contradicting


def _label(row: Row, column: str | None) -> str | None:
    """Take the label out of a row's other columns."""
    label = None if column is None else row.extra.pop(column, None)
    return None if label in (None, "") else str(label)


def whole(text: str) -> str:
    """Return `text` without halves of surrogate pairs, which no UTF-8 can hold: � for each."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("�", text)
    return text


def _count(numbers: Sequence[int]) -> str:
    return "1 row has" if len(numbers) == 1 else f"{len(numbers):,} rows have"
