"""Lists as people bring them: layouts of JSON, quotes, options, packing, folders."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import feather, parquet

from m2g_audit.errors import UsageError
from m2g_audit.prompts import PromptList, parse_list, prompt_id, read_prompts


def texts(prompts: PromptList) -> list[str]:
    return [entry.prompt for entry in prompts]


def write(path: Path, content: object) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8", newline="")
    return path


BARN, BOAT = "a red barn, in snow", 'a "blue" boat'


# -- JSON


@pytest.mark.parametrize(
    ("document", "extra"),
    [
        ([BARN, BOAT], {}),
        ([{"prompt": BARN, "seed": 1}, {"prompt": BOAT}], {"seed": 1}),
        ({"000": {"caption": BARN, "tags": "t"}, "001": {"caption": BOAT}}, {"tags": "t"}),
        ({"a.png": {"p": BARN, "se": 0, "c": 7.0, "st": 5, "sa": "x"}, "b.png": {"p": BOAT}}, {}),
        ({"a.png": BARN, "b.png": BOAT}, {"key": "a.png"}),
        ({"a.png": [BARN], "b.png": [BOAT]}, {"key": "a.png"}),
        ({"prompt": [BARN, BOAT], "n": [1, 2]}, {"n": 1}),
        ({"prompt": {"0": BARN, "1": BOAT}, "n": {"0": 1, "1": 2}}, {"n": 1}),
        ({"columns": ["prompt", "n"], "index": [0, 1], "data": [[BARN, 1], [BOAT, 2]]}, {"n": 1}),
        ({"schema": {}, "data": [{"prompt": BARN, "n": 1}, {"prompt": BOAT}]}, {"n": 1}),
        ({"prompts": [BARN, BOAT]}, {}),
        ({"prompts": [{"text": BARN}, {"text": BOAT}]}, {}),
        ({"rows": [{"row_idx": 0, "row": {"text": BARN}}, {"row": {"text": BOAT}}]}, {}),
        (
            {
                "info": {},
                "images": [{"id": 7, "file_name": "7.jpg"}],
                "annotations": [{"image_id": 7, "caption": BARN}, {"caption": BOAT}],
            },
            {"file_name": "7.jpg"},
        ),
        ([{"image": "0", "captions": [BARN, BOAT]}], {"image": "0"}),
    ],
)
@pytest.mark.parametrize("name", ["list.json", "list.txt", "list", "list.csv", "list.jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
def test_json_is_read_as_json_whatever_its_name(
    tmp_path: Path, document: object, extra: dict[str, object], name: str, indent: int | None
) -> None:
    found = read_prompts(write(tmp_path / name, json.dumps(document, indent=indent)))
    assert texts(found) == [BARN, BOAT]
    assert extra.items() <= found.entries[0].extra.items()


def test_one_object_is_one_prompt(tmp_path: Path) -> None:
    assert texts(read_prompts(write(tmp_path / "one.json", {"prompt": BARN, "n": 1}))) == [BARN]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("meta.title", ["a", "b"]),
        ("sentences.raw", ["one", "two", "three"]),
        ("meta.deep.words", ["x", "y"]),
        ("title", ["a", "b"]),
        ("2", ["one", "two", "three"]),
    ],
)
def test_what_lies_further_in_has_a_name(tmp_path: Path, column: str, expected: list[str]) -> None:
    rows = [
        {"meta": {"title": "a", "deep": {"words": ["x"]}}, "sentences": [{"raw": "one"}]},
        {
            "meta": {"title": "b", "deep": {"words": ["y"]}},
            "sentences": [{"raw": "two"}, {"raw": "three"}],
        },
    ]
    file = write(tmp_path / "list.json", rows)
    if "." in column:
        assert texts(read_prompts(file, column=column)) == expected
    else:
        with pytest.raises(UsageError):
            read_prompts(file, column=column)
    with pytest.raises(UsageError, match=r"Further in lie 'meta.title', 'sentences.raw'"):
        read_prompts(file)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"a": [{"x": 1}], "b": [{"x": 2}]}, "which of them holds the rows can't be told"),
        ([1, 2], "entry 1 is neither"),
        (7, "no list and no object"),
        ({}, "no list and no object"),
        ([{"x": "a", "y": "b"}], "no column with a known name. It has 'x', 'y'"),
    ],
)
def test_json_that_is_no_list_is_refused(tmp_path: Path, document: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_prompts(write(tmp_path / "list.json", document))


@pytest.mark.parametrize("line", ["[a cat|a dog] painting", "{red|blue} barn", "[a:b:0.5]"])
def test_brackets_of_prompts_are_no_json(tmp_path: Path, line: str) -> None:
    assert texts(read_prompts(write(tmp_path / "list.txt", f"{line}\na kite\n"))) == [
        line,
        "a kite",
    ]


def test_several_captions_in_a_cell_are_several_prompts(tmp_path: Path) -> None:
    rows = 'caption,n\n"[""one"", ""two""]",1\n"[\'three\', \'fo\\\'ur\']",2\n'
    found = read_prompts(write(tmp_path / "list.csv", rows))
    assert texts(found) == ["one", "two", "three", "fo'ur"]
    assert found.entries[1].extra == {"n": "1"}
    mixed = rows + "[a:b:0.5],3\n"  # one that is no list: all are prompts as they stand
    assert texts(read_prompts(write(tmp_path / "list.csv", mixed)))[0] == '["one", "two"]'


# -- quotes


PLAIN = 'caption\tn\n"R E D" barn\t1\n24" television\t2\n"quoted whole"\t3\n'
QUOTED = 'caption,n\n"a red barn, in snow",1\n"a ""blue"" boat",2\na kite,3\n'
ALL_QUOTED = '"caption","n"\n"a red barn","1"\n"a kite","2"\n'


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PLAIN, ['"R E D" barn', '24" television', '"quoted whole"']),
        (QUOTED, [BARN, BOAT, "a kite"]),
        (ALL_QUOTED, ["a red barn", "a kite"]),
        ('caption,n\n"a kite",NA\n"a boat",2.5\n', ["a kite", "a boat"]),  # as R writes it
        ('caption\n"one, two"\nthree\n', ["one, two", "three"]),
        ('caption,n\n"two\nlines, and more",1\n', ["two\nlines, and more"]),
        ("caption\tn\na 5' 6\" man\t1\n", ["a 5' 6\" man"]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_quotes_mean_what_fits_all_lines(
    tmp_path: Path, content: str, expected: list[str], end: str
) -> None:
    found = read_prompts(write(tmp_path / "list.csv", content.replace("\n", end)))
    assert texts(found) == [text.replace("\n", end) for text in expected]
    said = any("Quotes in" in notice for notice in found.notices)
    assert said == (content == PLAIN)


@pytest.mark.parametrize(
    ("content", "by_csv", "literally"),
    [
        ('caption,n\n"a red barn",1\na kite,2\n', "a red barn", '"a red barn"'),
        ('caption\tn\n"a\t1\nb"\t2\n', "a\t1\nb", '"a'),
    ],
)
def test_quotes_that_can_mean_two_things_are_asked_about(
    tmp_path: Path, content: str, by_csv: str, literally: str
) -> None:
    file = write(tmp_path / "list.csv", content)
    with pytest.raises(UsageError, match=r"--quotes csv.*--quotes none"):
        read_prompts(file)
    assert texts(read_prompts(file, quotes="csv"))[0] == by_csv
    assert texts(read_prompts(file, quotes="none"))[0] == literally


# -- tables


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("sep=;\nprompt;n\na, b;1\n", {}, ["a, b"]),
        ('"sep=|"\r\nprompt|n\r\na, b|1\r\n', {}, ["a, b"]),
        ('prompt,url\n"a, b",u,\nc,u,,\n', {}, ["a, b", "c"]),
        ("a typical bus\thttp://a\na barn\thttp://b\n", {"header": False, "column": "1"}, None),
        ("a typical bus\nprompt\n", {"header": False}, ["a typical bus", "prompt"]),
        ("x,y\n1,a kite\n", {"column": "2", "header": True}, ["a kite"]),
        ("id,y\n1,a kite\n", {"column": "2"}, ["a kite"]),
        ("\ufeffprompt,n\n\ufeffa,1\n", {}, ["a"]),
    ],
)
@pytest.mark.parametrize("name", ["list.csv", "list"])
def test_tables_of_all_kinds(
    tmp_path: Path, name: str, content: str, options: dict[str, object], expected: list[str] | None
) -> None:
    found = read_prompts(write(tmp_path / name, content), **options)  # type: ignore[arg-type]
    assert texts(found) == (expected or ["a typical bus", "a barn"])


def test_spaces_behind_separators_belong_to_them(tmp_path: Path) -> None:
    content = 'id, prompt\n1, "a barn, red"\n2, a boat\n'
    assert texts(read_prompts(write(tmp_path / "list.csv", content))) == ["a barn, red", "a boat"]


def test_texts_that_are_stored_as_bytes_are_texts(tmp_path: Path) -> None:
    table = pyarrow.table({"caption": [b"a kite", "m\u00f6we".encode()], "image": [b"\xff", b"\0"]})
    parquet.write_table(table, tmp_path / "list.parquet")
    found = read_prompts(tmp_path / "list.parquet")
    assert texts(found) == ["a kite", "möwe"]
    assert found.notices == ("Columns with binary content were left out: 'image'.",)
    with pytest.raises(UsageError, match="no UTF-8 text"):
        read_prompts(tmp_path / "list.parquet", column="image")


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([b"a kite", b"a dog"]).dictionary_encode(),
        pyarrow.array([[b"a kite"], [b"a dog"]], pyarrow.list_(pyarrow.binary())),
        pyarrow.array([["a kite", "a dog"], []], pyarrow.large_list(pyarrow.string())),
        pyarrow.array([b"a kite", b"a dog "], pyarrow.binary(6)).slice(0, 1),
    ],
    ids=lambda column: str(column.type),
)
def test_texts_in_any_type_of_parquet(tmp_path: Path, column: pyarrow.Array) -> None:
    parquet.write_table(pyarrow.table({"captions": column}), tmp_path / "list.parquet")
    assert texts(read_prompts(tmp_path / "list.parquet")) == ["a kite", "a dog"][: len(column)]


@pytest.mark.parametrize("column", ["image.path", "title", "2"])
def test_columns_beside_pictures_have_their_places(tmp_path: Path, column: str) -> None:
    picture = {"bytes": b"\x89PNG\xff", "path": "a kite"}
    table = pyarrow.table({"image": [picture], "title": ["a kite"]})
    parquet.write_table(table, tmp_path / "list.parquet")
    assert texts(read_prompts(tmp_path / "list.parquet", column=column)) == ["a kite"]
    for name in ("1", "image", "image.bytes"):
        with pytest.raises(UsageError, match=r"name what lies in it|no UTF-8 text"):
            read_prompts(tmp_path / "list.parquet", column=name)


def test_messages_about_many_columns_have_an_end(tmp_path: Path) -> None:
    content = ",".join(f"name_{i}" for i in range(900)) + "\n" + ",".join("x" * 900) + "\n"
    with pytest.raises(UsageError, match="and 880 more") as error:
        read_prompts(write(tmp_path / "list.csv", content))
    assert len(str(error.value)) < 1000


# -- options


A1111 = '--prompt "a red barn" --negative_prompt "trees, shrubs" --steps 20\na kite\n'
KOHYA = "# one\na red barn --n low quality --w 512 --d 1\n\n# two\na kite --s 30\n"
INFOTEXT = (
    "a red barn,\nin snow\nNegative prompt: trees,\nshrubs\nSteps: 20, Sampler: Euler, Seed: 7\n\n"
    "a kite\nSteps: 5, Sampler: Euler, CFG scale: 7\n"
)


@pytest.mark.parametrize(
    ("style", "content", "first", "negative"),
    [
        ("a1111", A1111, "a red barn", "trees, shrubs"),
        ("kohya", KOHYA, "a red barn", "low quality"),
        ("infotext", INFOTEXT, "a red barn,\nin snow", "trees,\nshrubs"),
    ],
)
def test_options_are_asked_about_and_read(
    tmp_path: Path, style: str, content: str, first: str, negative: str
) -> None:
    file = write(tmp_path / "list.txt", content)
    with pytest.raises(UsageError, match=rf"has options .*--read-as {style} .*--read-as txt"):
        read_prompts(file)
    found = read_prompts(file, read_as=style)  # type: ignore[arg-type]
    assert [(e.prompt, e.negative_prompt) for e in found] == [(first, negative), ("a kite", None)]
    assert found.entries[0].id == prompt_id(first, negative) != prompt_id(first)
    assert any("not used" in notice for notice in found.notices)
    assert texts(read_prompts(file, read_as="txt"))[0] == content.split("\n")[0].strip()
    assert parse_list(found.to_jsonl()).entries == found.entries


def test_options_of_kohya_in_any_letters_and_without_a_value(tmp_path: Path) -> None:
    line = "a red barn --N fog, rain --D 7 --Flip --ss euler_a"
    [entry] = read_prompts(write(tmp_path / "list.txt", line), read_as="kohya")
    assert (entry.prompt, entry.negative_prompt) == ("a red barn", "fog, rain")


def test_an_option_that_nobody_knows_is_asked_about(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not known \(“--ar”\)"):
        read_prompts(write(tmp_path / "list.txt", "a red barn --ar 16:9 --v 5\n"))
    dashes = "a barn -- red -- in snow"
    assert texts(read_prompts(write(tmp_path / "list.txt", f"{dashes}\n"))) == [dashes]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("--negative_prompt trees --steps 3\n", "no --prompt"),
        ('--prompt "a red barn\n', "No closing quotation"),
        ("a barn --steps 3\n", "begins with no option"),
    ],
)
def test_lines_with_broken_options_are_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_prompts(write(tmp_path / "list.txt", content), read_as="a1111")


def test_json_is_not_read_as_lines_with_options(tmp_path: Path) -> None:
    file = write(tmp_path / "meta.json", {"1": {"caption": "a"}})
    with pytest.raises(UsageError, match="is JSON"):
        read_prompts(file, read_as="kohya")


def test_comments_are_no_prompts_and_hashtags_are(tmp_path: Path) -> None:
    file = write(tmp_path / "list.txt", "# what these are\n#\n#sunset\na kite # late\n")
    found = read_prompts(file)
    assert texts(found) == ["#sunset", "a kite # late"]
    assert "Comments in" in found.notices[0]
    assert len(read_prompts(file, read_as="txt")) == 4


def test_a_column_of_negative_prompts_is_used(tmp_path: Path) -> None:
    content = "prompt,negative_prompt\na barn,trees\na barn,\na barn,trees\n"
    found = read_prompts(write(tmp_path / "list.csv", content))
    assert [(e.prompt, e.negative_prompt) for e in found] == [("a barn", "trees"), ("a barn", None)]
    assert found.entries[0].rows == [1, 3]
    assert "Negative prompts are those in column 'negative_prompt'." in found.notices


def test_negative_prompts_beside_prompts_further_in_are_used(tmp_path: Path) -> None:
    rows = {"items": [{"id": 1, "meta": {"prompt": "a barn", "negativePrompt": "fog"}}]}
    [entry] = read_prompts(write(tmp_path / "list.json", rows), column="meta.prompt")
    assert (entry.prompt, entry.negative_prompt) == ("a barn", "fog")


def test_one_negative_prompt_for_all_that_have_none() -> None:
    from m2g_audit.prompts import from_python

    rows = [{"prompt": "a", "negative_prompt": "x"}, {"prompt": "b"}]
    listed = from_python(rows)
    found = listed.with_negative_prompt(" y ")
    assert [e.negative_prompt for e in found] == ["x", "y"]
    assert found.entries[1].id == prompt_id("b", "y")
    assert listed.with_negative_prompt("  ") is listed


# -- packing


CSV = b"prompt,label\na red barn,1\na blue boat,0\n"


@pytest.mark.parametrize(
    ("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress), (".bz2", bz2.compress)]
)
@pytest.mark.parametrize("name", ["list.csv{}", "list{}", "list"])
def test_packed_lists_are_read(tmp_path: Path, name: str, suffix: str, pack: object) -> None:
    file = tmp_path / name.format(suffix)
    file.write_bytes(pack(CSV))  # type: ignore[operator]
    assert texts(read_prompts(file)) == ["a red barn", "a blue boat"]
    file.write_bytes(pack(CSV)[:-9])  # type: ignore[operator]
    with pytest.raises(UsageError, match="can't be unpacked"):
        read_prompts(file)


def test_an_archive_of_one_file_is_read_and_one_of_several_is_not(tmp_path: Path) -> None:
    file = tmp_path / "list.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("inside/prompts.csv", CSV)
        archive.writestr("__MACOSX/inside/._prompts.csv", "x")
    assert texts(read_prompts(file)) == ["a red barn", "a blue boat"]
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("more.csv", CSV)
    with pytest.raises(
        UsageError, match=r"archive of 2 files \('inside/prompts.csv', 'more.csv'\)"
    ):
        read_prompts(file)


def test_what_unpacks_to_more_than_any_list_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2g_audit.prompts.list_files._MOST_UNPACKED", 10_000)
    file = tmp_path / "list.txt.gz"
    file.write_bytes(gzip.compress(b"a" * 10_001))
    with pytest.raises(UsageError, match="more than 10,000 bytes"):
        read_prompts(file)


def excel(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<x/>")
        archive.writestr("xl/workbook.xml", "<x/>")


def open_document(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", "<x/>")


def numpy_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array(["a kite"]))


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "a.csv")


def tar_gz(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(__file__, "a.csv")


def arrow_stream(path: Path) -> None:
    table = pyarrow.table({"prompt": ["a red barn", "a boat"]})
    with pyarrow.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table)


def arrow_file(path: Path) -> None:
    feather.write_feather(pyarrow.table({"prompt": ["a red barn", "a boat"]}), path)


@pytest.mark.parametrize("write", [arrow_stream, arrow_file], ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", ["list.arrow", "list.feather"])
def test_a_table_of_arrow_is_named_with_the_way_to_one_that_is_read(
    tmp_path: Path, write: Callable[[Path], None], name: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(UsageError, match=r"is an Arrow .*, not a list of prompts: in") as caught:
        read_prompts(tmp_path / name)
    [command] = re.findall("`(.*)`", str(caught.value))
    exec(command.replace("FILE", str(tmp_path / name)))
    assert texts(read_prompts(tmp_path / f"{name}.parquet")) == ["a red barn", "a boat"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (excel, "an Excel workbook.*export the sheet"),
        (open_document, "an OpenDocument file"),
        (tar, "a tar archive"),
        (tar_gz, "a tar archive"),
        (lambda p: feather.write_feather(pyarrow.table({"prompt": ["a"]}), p), "an Arrow"),
        (lambda p: p.write_bytes(pickle.dumps(["a kite"])), "a pickle"),
        (lambda p: p.write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)), "old Office"),
        (lambda p: p.write_bytes(b"SQLite format 3\0" + bytes(99)), "an SQLite database"),
        (lambda p: p.write_bytes(b"%PDF-1.7\n"), "a PDF"),
        (lambda p: Image.new("RGB", (4, 4)).save(p, format="PNG"), "a picture.*give their folder"),
        (numpy_array, "a NumPy array"),
        (lambda p: p.write_bytes(gzip.compress(gzip.compress(CSV))), "packed twice"),
    ],
)
@pytest.mark.parametrize("name", ["list.csv", "list.txt", "list"])
def test_what_is_no_list_is_named_as_what_it_is(
    tmp_path: Path, make: object, said: str, name: str
) -> None:
    make(tmp_path / name)  # type: ignore[operator]
    with pytest.raises(UsageError, match=said):
        read_prompts(tmp_path / name)


# -- folders


def test_captions_beside_pictures_are_a_list(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("a red barn\n")
    (tmp_path / "c.caption").write_text("a kite")
    found = read_prompts(tmp_path)
    assert texts(found) == ["a red barn", "a kite"]
    assert found.entries[1].extra == {"file_name": "c.png"}
    assert found.notices == ("1 of 3 pictures have no caption.",)


def test_captions_have_an_encoding_and_may_have_several_lines(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_bytes("café".encode("cp1252"))
    (tmp_path / "b.txt").write_bytes("möwe".encode("utf-8-sig"))
    (tmp_path / "c.txt").write_bytes("one\ntwo".encode("utf-16"))
    with pytest.raises(UsageError, match=r"'a.png'. Say what they are with --encoding"):
        read_prompts(tmp_path)
    found = read_prompts(tmp_path, encoding="cp1252")
    assert texts(found) == ["café", "möwe", "one\ntwo"]
    assert found.notices == ("1 captions have several lines, and are one prompt each.",)
    with pytest.raises(UsageError, match="no --encoding nonsense"):
        read_prompts(tmp_path, encoding="nonsense")


def test_a_folder_without_captions_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder, and no list"):
        read_prompts(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"No picture in .* has a caption"):
        read_prompts(tmp_path)
