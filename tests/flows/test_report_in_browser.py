"""The nightly page in a real browser: quiet console, no sideways scrolling, working tools, legible without script."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nightcast.reports.night import render_night

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        shutil.which("chromium") is None or shutil.which("chromedriver") is None,
        reason="chromium and chromedriver are not both on PATH",
    ),
]
ARGUMENTS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)


def example_night() -> Any:
    """The builder of the unit tests, loaded from its file."""
    path = Path(__file__).parents[1] / "unit" / "test_report_night.py"
    spec = importlib.util.spec_from_file_location("report_night_builder", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.make_report(24)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ARGUMENTS.split():
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # A proxy of the environment must not stand between the test and its own driver.
    spared = {name: os.environ.pop(name) for name in list(os.environ) if name.lower() in ("http_proxy", "all_proxy")}
    try:
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        yield driver
        driver.quit()
    finally:
        os.environ.update(spared)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "night.html"
    path.write_text(render_night(example_night()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Any, address: str) -> Any:
    size(browser, 1280)
    browser.get("about:blank")
    browser.get(address)
    return browser


def size(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def shown(browser: Any, selector: str) -> list[str]:
    """Names of the cards or rows that are not hidden."""
    script = "return [...document.querySelectorAll(arguments[0])].filter(e => !e.hidden).map(e => e.dataset.key)"
    return list(browser.execute_script(script, selector))


def type_name(browser: Any, text: str) -> None:
    from selenium.webdriver.common.by import By

    field = browser.find_element(By.ID, "find")
    field.clear()
    field.send_keys(text)


def test_the_console_stays_quiet_and_nothing_is_requested(page: Any) -> None:
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_does_not_scroll_sideways(page: Any, width: int) -> None:
    size(page, width)
    page.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    script = """return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg, .skip, datalist')
        && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 90))"""
    assert page.execute_script(script) == []


def test_searching_a_series_shows_its_chart_and_its_row_alone(page: Any) -> None:
    last = shown(page, "details.card")[-1]
    assert len(shown(page, ".card[data-key]")) == 24
    type_name(page, last.upper())
    assert shown(page, ".card[data-key]") == [last]
    assert shown(page, "#series-table tr[data-key]") == [last]
    assert page.execute_script("return document.querySelector('details.card:not([hidden])').open")
    assert page.execute_script("return document.getElementById('found').textContent") == "1 of 24 charts"
    type_name(page, "no such series")
    assert shown(page, ".card[data-key]") == []


def test_fallbacks_can_be_singled_out(page: Any) -> None:
    page.execute_script("document.getElementById('only').click()")
    assert shown(page, ".card[data-key]") == ["w-005"]


def test_all_charts_unfold_and_fold_again(page: Any) -> None:
    states = "return [...document.querySelectorAll('details.card')].map(d => d.open)"
    page.execute_script("document.getElementById('unfold').click()")
    assert page.execute_script(states) == [True] * 12
    page.execute_script("document.getElementById('unfold').click()")
    assert page.execute_script(states) == [False] * 12


def test_a_link_in_the_table_opens_the_folded_chart(page: Any) -> None:
    page.execute_script("document.querySelector('#series-table tbody tr:last-child a').click()")
    assert page.execute_script("return document.querySelector('details.card:last-of-type').open")


def test_columns_sort_by_value_with_missing_ones_last(page: Any) -> None:
    script = """const table = document.querySelector('#league ~ .scroll table');
        const place = [...table.tHead.rows[0].cells].findIndex(c => c.textContent === 'pinball');
        const read = () => [...table.tBodies[0].rows].map(r => r.cells[place].textContent);
        const button = table.tHead.rows[0].cells[place].firstChild;
        button.click(); const up = read(); button.click(); return [up, read()];"""
    up, down = page.execute_script(script)
    assert up == ["3.10", "3.30", "3.40", "3.60", "–"]
    assert down == ["3.60", "3.40", "3.30", "3.10", "–"]


def test_without_script_everything_is_there_and_the_tools_are_hidden(browser: Any, address: str) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get("about:blank")
        browser.get(address)
        assert len(shown(browser, ".card[data-key]")) == 24
        assert browser.execute_script("return getComputedStyle(document.getElementById('finder')).display") == "none"
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_paper_contrast_in_both_schemes(page: Any, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        script = """
            const shade = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => v / 255)
                .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
            const paper = element => { const colour = getComputedStyle(element).backgroundColor;
                return /, 0\\)/.test(colour) ? paper(element.parentElement) : colour; };
            return [...document.querySelectorAll('h1, h2, p, small, td, th, a, dt, dd, .badge, .legend li, figcaption')]
                .filter(e => e.textContent.trim())
                .map(e => { const [a, b] = [shade(getComputedStyle(e).color), shade(paper(e))].sort((x, y) => y - x);
                    return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 90)]; })
                .filter(([ratio]) => ratio < 4.5);"""
        assert page.execute_script(script) == []
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
