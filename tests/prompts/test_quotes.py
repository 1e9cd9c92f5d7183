"""Tables with any texts in them, by convention and without: read right, or asked about."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2g_audit.errors import UsageError
from m2g_audit.prompts import read_prompts
from m2g_audit.records.vocabulary import Quotes

WORDS = st.sampled_from(
    ["a barn", "boat", "it's", "x, y", "p; q", "#tag", "[a|b]", "café", "2.5", "- c", "caption"]
)
QUOTED = st.sampled_from(['"R E D"', '24" tv', '"x', 'x"'])
TEXTS = st.lists(
    st.lists(WORDS | QUOTED, min_size=1, max_size=4).map(" ".join), min_size=1, max_size=9
)


def prompts_of(
    tmp: pytest.TempPathFactory, content: str, name: str, quotes: Quotes | None = None
) -> tuple[list[str], bool]:
    """The prompts of a file, and whether something was said of its quotes."""
    file = tmp.mktemp("any") / name
    file.write_text(content, encoding="utf-8", newline="")
    found = read_prompts(file, quotes=quotes)
    return [e.prompt for e in found], any("uotes" in notice for notice in found.notices)


@settings(max_examples=150, deadline=None)
@given(
    texts=TEXTS,
    several_lines=st.booleans(),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_a_program_wrote_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    several_lines: bool,
    delimiter: str,
    quoting: int,
    end: str,
) -> None:
    if several_lines:
        texts = [text.replace(" ", "\n", 1) for text in texts]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    writer.writerows([["id", "caption"], *([i, text] for i, text in enumerate(texts))])
    try:
        found, _ = prompts_of(tmp_path_factory, buffer.getvalue(), "list.csv")
    except UsageError as error:  # each line of such a text may be a row
        assert several_lines
        assert "--quotes csv" in str(error)  # noqa: PT017
        found, _ = prompts_of(tmp_path_factory, buffer.getvalue(), "list.csv", "csv")
    assert found == list(dict.fromkeys(texts))


@settings(max_examples=150, deadline=None)
@given(texts=TEXTS, delimiter=st.sampled_from("\t|"), name=st.sampled_from(["a.tsv", "a.csv"]))
def test_what_no_program_quoted_is_read_as_it_stands_or_asked_about(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], delimiter: str, name: str
) -> None:
    texts = [text.replace(delimiter, " ") for text in texts]
    rows = (f"{text}{delimiter}u{i}\n" for i, text in enumerate(texts))
    content = f"caption{delimiter}url\n{''.join(rows)}"
    try:
        found, said = prompts_of(tmp_path_factory, content, name)
    except UsageError as error:
        assert "--quotes none" in str(error)  # noqa: PT017
        return
    assert said or found == list(dict.fromkeys(texts))


def test_lines_that_quotes_hold_together_are_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    content = 'caption,n\n"a barn\nin snow",1\na boat,2\n'
    found, said = prompts_of(tmp_path_factory, content, "list.csv")
    assert (found, said) == (["a barn\nin snow", "a boat"], True)
