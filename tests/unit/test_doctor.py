"""`nightcast doctor`: what is well says so, what is not says what to do."""

import importlib.metadata
import json
import socket
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
import yaml

from flows import doctor
from flows.doctor import Check, diagnose
from flows.services import RECORD, deployments_file
from nightcast.storage import LocalStore
from tasks.settings import Settings


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return Settings(home=tmp_path / "home", processes=1)


def test_a_fresh_home_is_well(settings: Settings) -> None:
    checks = diagnose(settings, quick=True)

    assert [check for check in checks if not check.ok] == []
    assert not settings.root.exists(), "looking changes nothing"


def test_every_finding_that_is_not_well_has_a_remedy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_MIN_DISK_GIB", 1e9)
    monkeypatch.setattr(doctor, "_MIN_MEMORY_GIB", 1e9)
    many = settings.model_copy(update={"processes": 10_000})

    bad = [check for check in diagnose(many, quick=True) if not check.ok]

    assert [check.name for check in bad] == ["cores", "memory", "disk"]
    assert all(check.remedy for check in bad)


@pytest.mark.parametrize(("package", "version"), [("fastapi", "0.155.0"), ("sqlalchemy", "2.1.9")])
def test_a_version_that_breaks_prefect_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, package: str, version: str
) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version if name == package else real(name))

    check = by_name(diagnose(settings, quick=True))[f"pin {package}"]

    assert not check.ok
    assert version in check.found
    assert "pip install" in check.remedy


def test_another_owner_of_one_of_our_package_names_is_named(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: {"models": ["nightcast", "wardrobe"]})

    check = by_name(diagnose(settings, quick=True))["package names"]

    assert not check.ok
    assert check.found == "models also comes from wardrobe"


def test_text_in_another_encoding_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getpreferredencoding", lambda do_setlocale=True: "ANSI_X3.4-1968")

    check = by_name(diagnose(settings, quick=True))["text encoding"]

    assert not check.ok
    assert "ANSI_X3.4-1968" in check.found


def test_a_home_that_is_not_writable_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)

    check = by_name(diagnose(Settings(home=tmp_path), quick=True))["home"]

    assert not check.ok
    assert "Permission denied" in check.found


def test_a_check_that_fails_does_not_hide_the_others(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr("psutil.virtual_memory", broken)

    checks = by_name(diagnose(settings, quick=True))

    assert "RuntimeError: no such thing" in checks["machine"].found
    assert checks["home"].ok


# The store.


def test_the_store_is_asked_for_what_publishing_rests_on_and_left_as_it_was(settings: Settings) -> None:
    store = LocalStore(settings.store_url)
    store.write_once("forecasts/kept", b"x")

    check = by_name(list(doctor._store(settings)))["store"]

    assert check.ok
    assert store.list() == ["forecasts/kept"]


def test_a_store_that_lets_objects_be_replaced_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def overwrite(self: LocalStore, key: str, data: bytes) -> bool:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return True

    Path(settings.store_url).mkdir(parents=True)
    monkeypatch.setattr(LocalStore, "write_once", overwrite)

    check = by_name(list(doctor._store(settings)))["store"]

    assert not check.ok
    assert "write-once let an object be replaced" in check.found
    assert LocalStore(settings.store_url).list() == []


def test_a_damaged_publication_is_found(settings: Settings) -> None:
    import polars as pl

    from nightcast.publishing import publish_night

    store = LocalStore(settings.store_url)
    night = publish_night(
        store,
        workload="wells",
        as_of=datetime(2024, 5, 1),
        night_id="night-1",
        forecast=pl.DataFrame({"unique_id": ["a"], "ds": [datetime(2024, 6, 1)], "q50": [1.0]}),
        manifest={},
    )
    well = list(doctor._publication(settings))
    path = store.root / night.folder / "forecast.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    damaged = [check for check in doctor._guarded("publication", lambda: doctor._publication(settings))]

    assert [(check.name, check.ok) for check in well] == [("publication wells", True)]
    assert "as of 2024-05-01" in well[0].found
    assert [check.ok for check in damaged] == [False]
    assert damaged[0].remedy


# Services, answered by a stand-in for Prefect's API.


class FakePrefect:
    """The four questions that doctor asks, over HTTP."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        declared = yaml.safe_load(deployments_file().read_text())["deployments"]
        self.deployments = [
            {
                "id": each["name"],
                "name": each["name"],
                "paused": False,
                "created": now.isoformat(),
                "schedules": [
                    {"active": s["active"], "schedule": {"cron": s["cron"], "timezone": s["timezone"]}}
                    for s in each["schedules"]
                ],
            }
            for each in declared
        ]
        self.scheduled = 3
        self.runs: list[dict[str, Any]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                self.rfile.read(length)
                answers: dict[str, Any] = {
                    "/api/health": True,
                    "/api/deployments/filter": fake.deployments,
                    "/api/flow_runs/count": fake.scheduled,
                    "/api/flow_runs/filter": fake.runs,
                }
                body = json.dumps(answers[self.path]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/api"


@pytest.fixture
def prefect(settings: Settings):
    fake = FakePrefect()
    write_record(settings, fake.api)
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def write_record(settings: Settings, api: str, *, age: float = 0) -> None:
    me = psutil.Process()
    record = {"pid": me.pid, "pid_started": me.create_time() - age, "prefect_api_url": api}
    settings.root.mkdir(parents=True, exist_ok=True)
    (settings.root / RECORD).write_text(json.dumps(record))


def services(settings: Settings) -> dict[str, Check]:
    return by_name(list(doctor._services(settings)))


def test_running_services_with_their_schedules_are_well(settings: Settings, prefect: FakePrefect) -> None:
    found = services(settings)

    assert all(check.ok for check in found.values())
    assert "3 runs lie ahead" in found["schedule nightly-wells"].found


def test_services_that_died_are_found_by_what_they_left(settings: Settings) -> None:
    write_record(settings, "http://127.0.0.1:1/api", age=3600)

    assert not services(settings)["services"].ok


def test_services_that_do_not_answer_are_found(settings: Settings) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    write_record(settings, f"http://127.0.0.1:{port}/api")

    check = services(settings)["services"]

    assert not check.ok
    assert "does not answer" in check.found


def test_a_deployment_that_vanished_is_found(settings: Settings, prefect: FakePrefect) -> None:
    prefect.deployments = prefect.deployments[1:]

    assert services(settings)["schedule nightly-wells"].found == "declared, not deployed"


def test_a_schedule_that_differs_from_the_declared_one_is_found(settings: Settings, prefect: FakePrefect) -> None:
    prefect.deployments[0]["schedules"] = []

    check = services(settings)["schedule nightly-wells"]

    assert not check.ok
    assert check.found == "declared [('0 2 * * *', 'UTC')], deployed []"


def test_a_schedule_without_a_run_ahead_is_found(settings: Settings, prefect: FakePrefect) -> None:
    prefect.scheduled = 0

    check = services(settings)["schedule nightly-wells"]

    assert not check.ok
    assert "SQLAlchemy has to be below 2.1" in check.remedy


@pytest.mark.parametrize(
    ("hours", "state", "ok"),
    [(3, "COMPLETED", True), (50, "COMPLETED", False), (3, "FAILED", False), (3, "CRASHED", False)],
)
def test_the_last_run_has_to_be_recent_and_good(
    settings: Settings, prefect: FakePrefect, hours: int, state: str, ok: bool
) -> None:
    end = datetime.now(UTC) - timedelta(hours=hours)
    prefect.runs = [
        {"id": "1", "name": "a-run", "state_type": state, "state_name": state.title(), "end_time": end.isoformat()}
    ]

    check = services(settings)["last run of nightly-wells"]

    assert check.ok is ok
    assert ("a-run" in check.found) is (state != "COMPLETED")


def test_a_deployment_that_never_completed_is_late_after_a_day(settings: Settings, prefect: FakePrefect) -> None:
    before = services(settings)["last run of nightly-wells"]
    prefect.deployments[0]["created"] = (datetime.now(UTC) - timedelta(hours=40)).isoformat()
    after = services(settings)["last run of nightly-wells"]

    assert before.ok
    assert not after.ok
    assert "none has completed in 40 h" in after.found


# Models.


@pytest.fixture
def registry(settings: Settings):
    from mlflow import MlflowClient

    (settings.root / "mlflow").mkdir(parents=True)
    client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
    client.create_registered_model("nightcast-wells")
    return client


def test_a_registered_model_without_a_champion_is_found(settings: Settings, registry: Any) -> None:
    check = by_name(list(doctor._models(settings)))["model nightcast-wells"]

    assert not check.ok
    assert "promote" in check.remedy


def test_a_champion_that_does_not_load_elsewhere_is_found(settings: Settings, registry: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    version = registry.create_model_version("nightcast-wells", str(tmp_path / "empty"))
    registry.set_registered_model_alias("nightcast-wells", "champion", version.version)

    check = by_name(list(doctor._models(settings)))["model nightcast-wells"]

    assert not check.ok
    assert "champion, version 1, does not load" in check.found
