"""The report in a real Chromium, from disk: sorts, filters, drills down, asks for nothing."""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from m2g_audit.gate import badness
from m2g_audit.report.html import page as pages
from m2g_audit.report.html.page import write_report
from m2g_audit.stored_runs import StoredRun
from tests.report.made_run import RELEASE, Made, gives, make_run

SCREENSHOT = Path(__file__).parents[2] / "examples" / "report.png"
HOSTILE = (
    "<script>window.hacked=1</script>",
    "</script></template></style></title><img src=x onerror=window.hacked=1>",
    "\"><svg onload=window.hacked=1> {{ 7 * 7 }} ' \u202e\u2028 javascript:window.hacked=1",
    "=cmd|' /C calc'!A0",
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
        chrome.set_window_size(1280, 1000)
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
    return browser


def texts(browser: Any, selector: str) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
    )


def listed(browser: Any) -> list[str]:
    return texts(browser, "#rows .prompt a")


def heading(browser: Any, other_than: str = "") -> str:
    """The prompt that is opened, once it is; following a link takes a moment."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = texts(browser, "#detail h2")
        if found and found != [other_than]:
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"no prompt is opened at {browser.current_url}")


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
        for (const i of all) i.loading = "eager";
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
    opened.find_element("css selector", "#label option:nth-child(2)").click()
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
    deadline = time.monotonic() + 20
    while not (found := list(opened.downloads.glob("*.csv"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    [file] = found
    rows = list(csv.DictReader(file.read_text("utf-8-sig").splitlines()))
    assert len(rows) == len(RELEASE) + len(HOSTILE)
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell.lstrip().startswith(("=", "+", "-", "@", "|"))]
    assert "'=cmd|' /C calc'!A0" in cells
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


def test_it_prints(opened: Any, page: Path) -> None:
    printed = opened.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(printed["data"]) > 20_000
    check_quiet(opened, page)


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
    check_quiet(browser, made.path, made.details / f"{first.listed.id}.js")


def test_the_screenshot(browser: Any, tmp_path: Path) -> None:
    """What a person sees first; kept in examples/ where it is not there yet."""
    run = StoredRun.read(make_run(tmp_path / "release-3"))
    show(browser, write_report(run).path)
    check_pictures(browser, len(RELEASE) - 1)
    picture = browser.get_screenshot_as_png()
    assert len(picture) > 20_000
    if not SCREENSHOT.exists():
        SCREENSHOT.write_bytes(picture)
