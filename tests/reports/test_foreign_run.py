"""A run that a stranger sent: a report of it shows nothing else of the disk, and writes nowhere."""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from m2g_audit.errors import AuditError, OutputError
from m2g_audit.reports.contact_sheet import contact_sheet
from m2g_audit.reports.html import page as pages
from m2g_audit.reports.html.page import write_report
from m2g_audit.reports.run_files import read_array, read_picture
from m2g_audit.reports.spectrum_figure import spectrum_figure
from m2g_audit.store.stored_run import StoredRun
from tests.support.made_run import Made, gives, make_run

MADE = Made("a print of the old castle", gives(t0=3, f=1), "K = 1")
EXAMPLES = int(os.environ.get("M2G_FUZZ", "150"))
SECRET = (201, 17, 99)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A batch of one prompt."""
    return make_run(tmp_path_factory.mktemp("made") / "run", [MADE])


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """The same, to be changed, beside pictures that are none of its own."""
    Image.new("RGB", (40, 40), SECRET).save(tmp_path / "secret.png")
    return Path(shutil.copytree(made, tmp_path / "run"))


def change(run: Path, what: Callable[[dict[str, Any]], None]) -> None:
    """Change the record of a batch of one prompt."""
    file = run / "records.jsonl"
    record = json.loads(file.read_text())
    what(record)
    file.write_text(f"{json.dumps(record)}\n")


def prompt_folder(run: Path) -> Path:
    [folder] = (run / "prompts").iterdir()
    return folder


def pictures_in(page: str) -> Iterator[Image.Image]:
    for content in re.findall(r"data:image/(?:png|webp);base64,([\w+/=]+)", page):
        yield Image.open(io.BytesIO(base64.b64decode(content)))


def report_of(run: Path, tmp_path: Path) -> str:
    return write_report(StoredRun.read(run), tmp_path / "report.html").path.read_text()


def shows_the_secret(page: str) -> bool:
    """Whether a picture of the page has the secret's colour, as WebP keeps it."""
    levels = (np.asarray(picture.convert("RGB"), int) for picture in pictures_in(page))
    return any((abs(one - SECRET).max(-1) < 12).mean() > 0.5 for one in levels)


# -- pictures and arrays


@pytest.mark.parametrize("kind", ["absolute", "upwards", "link", "link to folder"])
def test_no_picture_from_elsewhere_is_shown(run: Path, tmp_path: Path, kind: str) -> None:
    (prompt_folder(run) / "link.png").symlink_to(tmp_path / "secret.png")
    (prompt_folder(run) / "folder").symlink_to(tmp_path)
    name = {
        "absolute": str(tmp_path / "secret.png"),
        "upwards": "../../../secret.png",
        "link": "link.png",
        "link to folder": "folder/secret.png",
    }[kind]
    for one in ("image", "nearest_reference"):

        def there(record: dict[str, Any], one: str = one) -> None:
            for seed in record["seeds"]:
                seed[one] = {"name": "a", "distance": 0, "image": name} if one != "image" else name

        change(run, there)
    page = report_of(run, tmp_path)
    assert page.count('<span class="missing">missing</span>') >= 4
    assert not shows_the_secret(page)
    [record] = StoredRun.read(run).records()
    sheet = Image.open(io.BytesIO(contact_sheet(record, prompt_folder(run))))
    assert SECRET not in {colour for _, colour in sheet.getcolors(2**24) or []}
    with pytest.raises(OSError, match="outside"):
        read_picture(prompt_folder(run), name)


def test_the_secret_would_be_seen(run: Path, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "secret.png", prompt_folder(run) / "images" / "0000.png")
    assert shows_the_secret(report_of(run, tmp_path))


def test_a_prompt_that_lies_elsewhere_is_refused(run: Path, tmp_path: Path) -> None:
    folder = prompt_folder(run)
    shutil.move(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="Links that lead out of a run are not followed"):
        report_of(run, tmp_path)


def test_pictures_leave_all_but_their_pixels_behind(run: Path, tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "made by J. Doe")
    text.add_itxt("XML:com.adobe.xmp", "<x>J. Doe</x>")
    exif = Image.Exif()
    exif[315] = "J. Doe"
    for size, file in zip((24, 400), sorted(prompt_folder(run).glob("images/*")), strict=False):
        picture = Image.new("RGB", (size, size), SECRET)
        picture.save(file, pnginfo=text, exif=exif, icc_profile=b"J. Doe" * 30, dpi=(72, 72))
    found = [*pictures_in(report_of(run, tmp_path))]
    assert len(found) > 4
    for picture in found:
        picture.load()
        assert not picture.info.keys() - {"loop", "background", "timestamp", "duration"}
    assert not read_picture(prompt_folder(run), "images/0000.png").info


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file closefile showpage\n",
        b"GIF89a" + bytes(40),
        b"P6 60000 60000 255\n",
        b"\x89PNG\r\n\x1a\n" + bytes(40),
        b"",
    ],
)
def test_only_formats_of_runs_are_opened(
    run: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    from PIL import EpsImagePlugin

    def ghostscript(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    (prompt_folder(run) / "images" / "0000.png").write_bytes(content)
    with pytest.raises(OSError, match="cannot identify"):
        read_picture(prompt_folder(run), "images/0000.png")


def test_a_picture_of_too_many_pixels_is_not_decoded(run: Path) -> None:
    Image.new("1", (10_000, 6_000)).save(prompt_folder(run) / "large.png")
    with pytest.raises(OSError, match="10000 x 6000"):
        read_picture(prompt_folder(run), "large.png")


def test_arrays_are_of_the_run_and_of_their_shape(run: Path, tmp_path: Path) -> None:
    save_file({"samples": np.zeros(3)}, tmp_path / "a.safetensors")
    shutil.copy(tmp_path / "a.safetensors", run)
    with pytest.raises(OSError, match="outside"):
        read_array(run, "../a.safetensors", "samples", dimensions=1)
    with pytest.raises(OSError, match="shape"):
        read_array(run, "a.safetensors", "samples", dimensions=2)
    assert read_array(run, "a.safetensors", "samples", dimensions=1).tolist() == [0, 0, 0]


PIPES = ["records.jsonl", "prompts.jsonl", "identity.json", "distances", "images", "curvature"]


@pytest.mark.parametrize("name", PIPES)
def test_no_pipe_is_waited_for(run: Path, tmp_path: Path, name: str) -> None:
    folder = prompt_folder(run)
    places = {
        "distances": folder / "distances.safetensors",
        "images": folder / "images" / "0000.png",
        "curvature": folder / "curvature" / "0000.safetensors",
    }
    file = places.get(name, run / name)
    file.unlink(missing_ok=True)
    file.parent.mkdir(exist_ok=True)
    os.mkfifo(file)
    change_spectra = run / "records.jsonl"
    if name != "records.jsonl":
        lines = change_spectra.read_text().replace('"singular_values":[', '"other":[')
        change_spectra.write_text(lines)
    with suppress(OutputError):
        report_of(run, tmp_path)


# -- what is written


@pytest.mark.parametrize("id", ["../../../x", "a/b", "ABCDEF0123456789", "", "0" * 17])
def test_ids_are_checked(run: Path, tmp_path: Path, monkeypatch: Any, id: str) -> None:
    monkeypatch.setattr(pages, "INLINE_BYTES", 0)
    change(run, lambda record: record["listed"].update(id=id))
    prompts = run / "prompts.jsonl"
    prompts.write_text(f"{json.dumps({**json.loads(prompts.read_text()), 'id': id})}\n")
    before = files_of(tmp_path)
    with pytest.raises(OutputError, match=r"prompts\.jsonl"):
        report_of(run, tmp_path)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("folder", ["/etc", "..", "prompts/../..", "prompts/a/../../.."])
def test_a_record_whose_folder_is_elsewhere_is_none(run: Path, tmp_path: Path, folder: str) -> None:
    change(run, lambda record: record.update(folder=folder))
    stored = StoredRun.read(run)
    assert [*stored.records()] == []
    assert "the prompt is not audited" in report_of(run, tmp_path)


def test_no_file_that_is_no_report_is_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.html").write_text("<p>my thesis")
    with pytest.raises(OutputError, match="nothing is written over it"):
        write_report(StoredRun.read(run), tmp_path / "thesis.html")
    assert (tmp_path / "thesis.html").read_text() == "<p>my thesis"
    written = [write_report(StoredRun.read(run), tmp_path / "r.html") for _ in range(2)]
    assert written[0] == written[1]


def test_no_file_beside_the_page_is_replaced(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "INLINE_BYTES", 0)
    [record] = StoredRun.read(run).records()
    file = tmp_path / "report-files" / f"{record.listed.id}.css"
    file.parent.mkdir()
    file.write_text("mine")
    with pytest.raises(OutputError, match="nothing is written over it"):
        report_of(run, tmp_path)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["report.html", "report-files", "draft"])
def test_a_report_is_not_written_through_links(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(pages, "INLINE_BYTES", 0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.html").write_bytes(pages._MARK)
    if name == "report-files":
        (run / name).symlink_to(tmp_path / "mine")
    else:
        link = f".report.html.{os.getpid()}.tmp" if name == "draft" else name
        (run / link).symlink_to(tmp_path / "mine.html")
    with suppress(OutputError):
        write_report(StoredRun.read(run))
    assert [*(tmp_path / "mine").iterdir()] == []
    assert (tmp_path / "mine.html").read_bytes() == pages._MARK


# -- anything


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("curvature", 0, "singular_values"), []),
        (("curvature", 0, "singular_values"), [1.7e308, 1e308]),
        (("thresholds", "delta_s"), 1.7e308),
        (("settings", "metric"), "$\\frac{$"),
        (("curvature", 0, "algorithm"), "$\\frac{$"),
        (("timings", "seconds"), {"a": 1e308, "b": 1e308}),
        (("verdict", "fractions"), {}),
        (("settings", "asked"), {"a b;rm": "$(x)", "model": [[1]], "": ""}),
        (("prompt",), "x" * 2_000_000),
    ],
)
def test_extremes_are_shown(run: Path, tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    file = run / "records.jsonl"
    file.write_text(f"{json.dumps(put(json.loads(file.read_text()), place, value))}\n")
    page = report_of(run, tmp_path)
    assert "Make it again" in page
    assert "not audited" not in page
    [record] = StoredRun.read(run).records()
    assert contact_sheet(record, prompt_folder(run))
    with suppress(OutputError):
        assert spectrum_figure(record, prompt_folder(run))


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def places_in(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a JSON document; of long lists, those of the first two."""
    yield path
    keys = content.keys() if isinstance(content, dict) else ()
    keys = range(min(2, len(content))) if isinstance(content, list) else keys
    for key in keys:
        yield from places_in(content[key], (*path, key))


def put(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a JSON document with another value at a path."""
    if not path:
        return value
    changed = copy.deepcopy(content)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def value_at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


TEXTS = st.text(max_size=8) | st.sampled_from(
    [
        *(
            "",
            "\x1b[2J",
            "../../../secret.png",
            "/etc/passwd",
            "a\0b",
            "\ud800",
            "=1+1",
            "</script>",
        ),
        *("x" * 200_000, "9999-99-99T99:99:99Z", "{{ 7 * 7 }}", "%s%n", "memorized", "paper"),
    ]
)
NUMBERS = (
    st.sampled_from([0, 1, -1, 3, 10**9, 10**30, 10**4000, 1e308, 5e-324, 0.5])
    | st.integers(-(2**70), 2**70)
    | st.floats()
)
ANY = st.one_of(TEXTS, NUMBERS, st.sampled_from([None, True, [], {}, [[]] * 3, ["a"] * 1000]))


def like(value: Any) -> st.SearchStrategy[Any]:
    """Return values that are mostly of the same kind, so that they get past the first check."""
    if isinstance(value, str):
        return TEXTS
    if isinstance(value, int | float):
        return NUMBERS
    if isinstance(value, list) and value:
        return st.sampled_from([value[:1], value[::-1], value * 2, [value[0]] * 3, []])
    return ANY


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_whatever_a_run_holds_is_shown_or_refused(
    made: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any values in any of its files: a page or one message, and no file changed but the page."""
    folder = tmp_path_factory.mktemp("fuzz")
    run = Path(shutil.copytree(made, folder / "run"))
    name = data.draw(st.sampled_from(["records.jsonl"] * 8 + ["prompts.jsonl", "identity.json"]))
    content = json.loads((run / name).read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from([*places_in(content)]))
        kind = data.draw(st.sampled_from([like(value_at(content, place))] * 5 + [ANY]))
        content = put(content, place, data.draw(kind))
    (run / name).write_text(f"{json.dumps(content)}\n")
    before = files_of(folder)
    with suppress(AuditError):
        write_report(StoredRun.read(run), folder / "report.html")
    after = files_of(folder)
    after.pop("report.html", None)
    assert after == before


def test_lines_that_are_no_records_are_said(run: Path, tmp_path: Path) -> None:
    with (run / "records.jsonl").open("a") as file:
        file.write('{"listed": {"id": "0123456789abcdef"}, "error": null}\n{}\n')
    stored = StoredRun.read(run)
    assert len([*stored.records()]) == 1
    [said] = stored.notices
    assert said.startswith("1 lines of")
