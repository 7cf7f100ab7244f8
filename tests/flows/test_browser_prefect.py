"""Prefect's page, used as a person would: another choice in the form, a click, and the night runs."""

import contextlib
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.parameters import PresetName, WorkloadName
from flows.services import Services, call_api, running_services

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--window-size=1300,1500",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium and chromedriver are not installed")
    with running_services(
        tmp_path_factory.mktemp("home"), prefect_port=free_port(), mlflow_port=free_port()
    ) as running:
        yield running


@pytest.fixture
def page(services: Services, tmp_path: Path) -> Iterator["Page"]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield Page(driver, services, tmp_path)
    finally:
        driver.quit()


class Page:
    """A person's hands and eyes."""

    def __init__(self, driver, services: Services, pictures: Path) -> None:
        self.driver, self.services, self.pictures = driver, services, pictures

    def open(self, path: str) -> None:
        self.driver.get(self.services.prefect_url + path)

    def see(self, xpath: str, *, seconds: float = 30):
        """The first visible element, waited for."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(Exception):  # the page redraws itself while it is searched
                for element in self.driver.find_elements("xpath", xpath):
                    if element.is_displayed():
                        return element
            time.sleep(0.2)
        self.keep("not-seen")
        raise AssertionError(f"nothing visible at {xpath} within {seconds} s; picture: {self.pictures}/not-seen.png")

    def click(self, xpath: str) -> None:
        self.see(xpath).click()

    def keep(self, name: str) -> None:
        self.driver.save_screenshot(str(self.pictures / f"{name}.png"))

    def text(self) -> str:
        return self.driver.find_element("tag name", "body").text


def drop_down(name: str) -> str:
    """The form's drop-down for one parameter."""
    label = f"contains(@class,'schema-form-property__label') and starts-with(normalize-space(), '{name} ')"
    return f"//*[contains(@class,'p-label')][.//span[{label}]]//select[option]"


def test_a_person_starts_a_night_with_another_preset_and_sees_it_complete(page: Page, services: Services) -> None:
    from selenium.webdriver.support.ui import Select

    page.open("/deployments")
    page.click("//a[normalize-space()='nightly-wells']")
    page.see("//*[contains(text(), 'At 02:00 AM')]")
    page.keep("1-deployment")

    page.click("//button[contains(normalize-space(), 'Run')]")
    page.click("//a[contains(normalize-space(), 'Custom run')] | //button[contains(normalize-space(), 'Custom run')]")
    workloads, presets = Select(page.see(drop_down("workload"))), Select(page.see(drop_down("preset")))
    assert [option.text for option in workloads.options] == [each.value for each in WorkloadName]
    assert [option.text for option in presets.options] == [each.value for each in PresetName]
    assert presets.first_selected_option.text == "nightly_cpu", "the form starts from what the schedule uses"
    page.keep("2-form")
    presets.select_by_visible_text("ci")
    page.keep("3-chosen")
    submit(page, services)

    run = wait_for_run(services)
    page.open(f"/runs/flow-run/{run['id']}")
    page.see("//*[normalize-space()='Completed']", seconds=60)
    page.see("//*[contains(text(), 'naive_last final')]", seconds=60)
    page.keep("4-completed")
    page.click("//*[contains(@class,'p-tab')][normalize-space()='Artifacts']")
    page.see("//*[contains(normalize-space(), 'report') and contains(@class,'artifact')]")
    page.keep("5-artifacts")
    assert run["parameters"]["preset"] == "ci"

    page.driver.get(f"{services.mlflow_url}/#/models/nightcast-wells")
    page.see("//*[starts-with(normalize-space(), '@') and contains(., 'champion')]")
    page.keep("6-registry")


def started_runs(services: Services) -> list[dict]:
    """Runs of nights that a person started, the schedule's aside."""
    question = {"flow_runs": {"parent_task_run_id": {"is_null_": True}, "tags": {"all_": ["nightly"]}}}
    runs = call_api(services.prefect_api_url, "/flow_runs/filter", question)
    return [run for run in runs if not run["auto_scheduled"]]


def submit(page: Page, services: Services, *, clicks: int = 3, seconds: float = 30) -> None:
    """Submit the form until a run is there: Prefect's page now and then answers 'Oops', and a person clicks again."""
    for _ in range(clicks):
        page.click("//button[normalize-space()='Submit']")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if started_runs(services):
                return
            time.sleep(0.5)
    page.keep("not-submitted")
    raise AssertionError(f"no run after {clicks} clicks on Submit; the page says: {page.text()[-500:]}")


def wait_for_run(services: Services, seconds: float = 300) -> dict:
    """The run a person started, once it has ended."""
    end = time.monotonic() + seconds
    started: list[dict] = []
    while time.monotonic() < end:
        started = started_runs(services)
        if started and started[0]["state_type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
            assert started[0]["state_type"] == "COMPLETED", f"{started[0]['state']['message']}\n{worker_log(services)}"
            return started[0]
        time.sleep(1)
    states = [(run["name"], run["state_type"]) for run in started]
    raise AssertionError(f"no run ended within {seconds} s: {states}\n{worker_log(services)}")


def worker_log(services: Services) -> str:
    return (services.home / "logs" / "worker.log").read_text()[-3000:]
