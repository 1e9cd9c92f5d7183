"""The report in a real Chromium, from disk: sorts, filters, drills down, asks for nothing."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from m2g_audit.reports.html import page as pages
from m2g_audit.reports.html.page import write_report
from m2g_audit.review.gate import badness
from m2g_audit.store.stored_run import StoredRun
from tests.support.made_run import RELEASE, Made, gives, make_run

EXAMPLES = Path(__file__).parents[2] / "examples"
HOSTILE = (
    "<script>window.hacked=1</script>",
    "</script></template></style></title><img src=x onerror=window.hacked=1>",
    "\"><svg onload=window.hacked=1> {{ 7 * 7 }} ' \u202e\u2028 javascript:window.hacked=1",
    "=cmd|' /C calc'!A0",
    'a castle; =1+1, -2, "=3',
    '@SUM(A1) "quoted", and\nmore',
    "مرحبا بالعالم",
    "x" * 5000,
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium that logs what it is asked for."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with chromedriver here: install chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.add_argument("--hide-scrollbars")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    service = webdriver.ChromeService(driver)
    with webdriver.Chrome(options=options, service=service) as chrome:
        chrome.downloads = downloads
        chrome.set_window_size(1280, 1160)
        yield chrome


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    hostile = [
        Made(text, gives(f=4), "=1+1", {text[:40]: "<b onclick=window.hacked=1>"})
        for text in HOSTILE
    ]
    folder = make_run(tmp_path_factory.mktemp("runs") / "release-3", [*RELEASE, *hostile])
    return StoredRun.read(folder)


@pytest.fixture(scope="module")
def page(run: StoredRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(run, tmp_path_factory.mktemp("page") / "report.html").path


@pytest.fixture
def opened(browser: Any, page: Path) -> Any:
    return show(browser, page)


def show(browser: Any, page: Path, fragment: str = "") -> Any:
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(f"{page.as_uri()}{fragment}")
    # A busy machine has been seen to answer before the page's script ran.
    wait_for(lambda: any(texts(browser, "#count")), f"{page} is not shown")
    return browser


def wait_for(holds: Callable[[], Any], otherwise: str) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def texts(browser: Any, selector: str) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
    )


def listed(browser: Any) -> list[str]:
    return texts(browser, "#rows .prompt a")


def heading(browser: Any, other_than: str = "") -> str:
    """The prompt that is opened, once it is; following a link takes a moment."""
    wait_for(
        lambda: texts(browser, "#detail h2") not in ([], [other_than]),
        f"no prompt is opened at {browser.current_url}",
    )
    return texts(browser, "#detail h2")[0]


def click(browser: Any, selector: str) -> None:
    browser.find_element("css selector", selector).click()


def asked_for(browser: Any) -> set[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # Chromium's own start page may still be loading when the first report is opened.
    ours = [one for one in requests if one["documentURL"].startswith("file:")]
    return {one["request"]["url"].split("#")[0] for one in ours}


def check_quiet(browser: Any, *files: Path) -> None:
    """Nothing was logged, nothing of a prompt has run, and only these files were read."""
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.hacked") is None
    others = {url for url in asked_for(browser) if not url.startswith(("data:", "blob:"))}
    assert others <= {file.as_uri() for file in files}, others


def check_pictures(browser: Any, least: int) -> None:
    """All pictures in view are there, once they are decoded."""
    shown = browser.execute_async_script(
        """const done = arguments[0];
        const all = [...document.images].filter((i) => i.checkVisibility());
        Promise.all(all.map((i) => i.decode().then(() => i.naturalWidth, () => 0))).then(done);"""
    )
    assert len(shown) >= least
    assert all(shown)


def test_it_opens_with_the_worst_first(opened: Any, page: Path, run: StoredRun) -> None:
    found = listed(opened)
    audited = [record for record in run.records() if record.error is None]
    worst = sorted(audited, key=badness, reverse=True)
    assert found[:8] == [record.prompt for record in worst][:8]
    assert len(found) == len(RELEASE) + len(HOSTILE)
    assert texts(opened, "#rows tr:last-child .chip") == ["failed"]
    check_pictures(opened, len(RELEASE) - 1)
    check_quiet(opened, page)


def test_the_answer_and_the_worst_pair_are_on_the_first_screen(opened: Any) -> None:
    for selector in ("#answer", "#people", "#pair img"):
        end = opened.execute_script(
            "return document.querySelector(arguments[0]).getBoundingClientRect().bottom", selector
        )
        assert 0 < end <= opened.execute_script("return window.innerHeight"), selector


def test_it_sorts(opened: Any, page: Path) -> None:
    click(opened, '[data-sort="prompt"]')
    up = listed(opened)
    assert up != sorted(up, reverse=True)
    click(opened, '[data-sort="prompt"]')
    assert listed(opened) == up[::-1]
    click(opened, '[data-sort="mass"]')
    masses = [text for text in texts(opened, "#rows .mass") if text != "–"]
    assert [int(m[:-1]) for m in masses] == sorted((int(m[:-1]) for m in masses), reverse=True)
    header = opened.find_element("css selector", "th[aria-sort=descending]")
    assert header.text == "Largest attractor"
    check_quiet(opened, page)


def test_it_filters(opened: Any, page: Path) -> None:
    opened.find_element("id", "search").send_keys("SNOWY")
    assert sorted(listed(opened)) == sorted([RELEASE[1].prompt, RELEASE[4].prompt])
    assert texts(opened, "#count") == [f"2 of {len(RELEASE) + len(HOSTILE)} prompts"]
    click(opened, '[data-word="spurious"]')
    assert listed(opened) == [RELEASE[4].prompt]
    click(opened, '[data-word="spurious"]')
    assert len(listed(opened)) == 2
    opened.find_element("id", "search").send_keys("\ue003" * 5)  # backspace
    labels = texts(opened, "#label option")
    assert labels == ["every label", "=1+1", "K = 1", "K = 2", "K = 12", "K = 16", "K = 32", "pool"]
    opened.find_element("css selector", "#label option:nth-child(3)").click()
    assert listed(opened) == [RELEASE[0].prompt]
    check_quiet(opened, page)


def test_it_drills_down_and_comes_back(opened: Any, page: Path) -> None:
    opened.find_element("link text", RELEASE[3].prompt).click()
    assert heading(opened) == RELEASE[3].prompt
    headings = texts(opened, "#detail h3")
    assert {"How sure", "What it rests on", "Pictures", "Curvature", "Make it again"} <= {*headings}
    titles = texts(opened, "#detail h4")
    assert [title.split("  ·  ")[1] for title in titles[:3]] == [
        "spurious",
        "memorized",
        "spurious",
    ]
    check_pictures(opened, 16 + 1 + 2)
    click(opened, "#next")
    after = heading(opened, other_than=RELEASE[3].prompt)
    opened.back()
    assert heading(opened, other_than=after) == RELEASE[3].prompt
    click(opened, "#back")
    assert opened.find_element("id", "list").is_displayed()
    assert not opened.find_element("id", "one").is_displayed()
    check_quiet(opened, page)


def test_no_prompt_does_anything(browser: Any, run: StoredRun, page: Path) -> None:
    for record in run.records():
        if record.prompt in HOSTILE:
            show(browser, page, f"#{record.listed.id}")
            assert heading(browser)[:6] == record.prompt[:6]
            check_pictures(browser, 4)
            check_quiet(browser, page)
    assert "{{ 7 * 7 }}" in " ".join(listed(show(browser, page)))


def test_what_a_spreadsheet_would_run_is_text(opened: Any, page: Path) -> None:
    click(opened, "#csv")
    wait_for(lambda: list(opened.downloads.glob("*.csv")), "no file was saved")
    [file] = opened.downloads.glob("*.csv")
    rows = list(csv.DictReader(file.read_text("utf-8-sig").splitlines()))
    assert len(rows) == len(RELEASE) + len(HOSTILE)
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@", "|"))]
    assert "'=cmd|' /C calc'!A0" in cells
    # Cells of a spreadsheet that takes other signs for separators.
    parts = [part for cell in cells for part in re.split(r"""[;,|"\t]""", cell)]
    assert not [part for part in parts if part.lstrip().startswith(("=", "+", "@", "-"))]
    check_quiet(opened, page)


def test_it_fits_a_phone(browser: Any, page: Path, run: StoredRun) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for fragment in ("", *(f"#{record.listed.id}" for record in run.records())):
            show(browser, page, fragment)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_prints(browser: Any, page: Path, run: StoredRun) -> None:
    """The ten worst of the list, and one prompt with all its pictures, none cut off."""
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    size = {"width": 720, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)  # A4 within its margins
    try:
        for fragment in ("", f"#{next(run.records()).listed.id}"):
            show(browser, page, fragment)
            printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
            assert len(printed["data"]) > 20_000
            check_pictures(browser, len(RELEASE) - 1)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= 720
            check_quiet(browser, page)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_many_prompts_lie_beside_the_page(
    browser: Any, run: StoredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "INLINE_BYTES", 0)
    made = write_report(run, tmp_path / "large report.html")
    assert made.details is not None
    first = next(run.records())
    show(browser, made.path)
    browser.find_element("link text", first.prompt).click()
    assert heading(browser) == first.prompt
    check_pictures(browser, 16)
    check_quiet(browser, made.path, made.details / f"{first.listed.id}.css")


def test_the_screenshot(browser: Any, tmp_path: Path) -> None:
    """What a person sees first, of a made run; of a real one it becomes examples/report.png:

    m2g-audit batch examples/captions.csv --model pocket --out runs/release-3
    M2G_EXAMPLE_RUN=runs/release-3 python -m pytest tests/reports -k screenshot
    """
    real = os.environ.get("M2G_EXAMPLE_RUN")
    run = StoredRun.read(Path(real) if real else make_run(tmp_path / "release-3"))
    page = write_report(run, tmp_path / "report.html")
    show(browser, page.path)
    check_pictures(browser, page.prompts - 1)
    check_quiet(browser, page.path)
    to = (EXAMPLES if real else tmp_path) / "report.png"
    to.write_bytes(browser.get_screenshot_as_png())
    with Image.open(to) as picture:
        assert picture.width == 1280
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 1000
