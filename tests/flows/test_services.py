"""`nightcast up`, for real: servers on free ports, a home of their own, nothing left behind."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from flows.doctor import diagnose
from flows.services import (
    RECORD,
    Services,
    call_api,
    deployments_file,
    read_record,
    running_services,
    up,
)
from nightcast.contracts.errors import ConfigError, NightcastError
from tasks.settings import Settings

ROOT = Path(__file__).parents[2]
UP = "import sys; from pathlib import Path; from flows.services import up; up(Path(sys.argv[1]), {options})"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    home = tmp_path_factory.mktemp("a home with spaces")
    with running_services(home, prefect_port=free_port(), mlflow_port=free_port()) as running:
        yield running


def declared() -> list[dict]:
    return yaml.safe_load(deployments_file().read_text())["deployments"]


def deployed(services: Services) -> dict[str, dict]:
    return {each["name"]: each for each in call_api(services.prefect_api_url, "/deployments/filter", {})}


def wait_until(what: str, condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.2)


def test_every_declared_schedule_yields_runs_that_lie_ahead(services: Services) -> None:
    # A server that accepts schedules and creates no run looks healthy everywhere else.
    for each in declared():
        question = {
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
            "deployments": {"id": {"any_": [deployed(services)[each["name"]]["id"]]}},
        }
        wait_until(
            f"a scheduled run of {each['name']}",
            lambda question=question: call_api(services.prefect_api_url, "/flow_runs/count", question) > 0,
        )


def test_deployments_carry_what_the_file_declares(services: Services) -> None:
    found = deployed(services)

    assert sorted(found) == sorted(each["name"] for each in declared())
    for each in declared():
        there = found[each["name"]]
        assert there["entrypoint"] == each["entrypoint"]
        assert there["parameters"] == each["parameters"]
        assert not there["pull_steps"]
        assert there["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
        assert [s["schedule"]["cron"] for s in there["schedules"]] == [s["cron"] for s in each["schedules"]]


def test_choices_are_enumerated_for_the_form(services: Services) -> None:
    schema = deployed(services)["nightly-wells"]["parameter_openapi_schema"]
    definitions = schema.get("definitions", {})

    def choices(name: str) -> list[str]:
        field = schema["properties"][name]
        if "$ref" in field:
            field = definitions[field["$ref"].rpartition("/")[2]]
        return field["enum"]

    assert "wells" in choices("workload")
    assert len(choices("workload")) > 1
    assert {"ci", "nightly_cpu"} <= set(choices("preset"))


def test_the_record_names_addresses_and_living_processes(services: Services) -> None:
    record = read_record(services.home)

    assert record is not None
    assert record["prefect_api_url"] == services.prefect_api_url
    assert set(record["pids"]) == {"prefect", "mlflow", "worker"}
    assert all(psutil.pid_exists(pid) for pid in record["pids"].values())
    assert record["started"].endswith("+00:00")


def test_everything_listens_on_loopback_only(services: Services) -> None:
    for pid in services.pids.values():
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        listening = [c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert set(listening) <= {"127.0.0.1"}


def test_nothing_that_was_started_may_report_home(services: Services) -> None:
    for name, pid in services.pids.items():
        environment = psutil.Process(pid).environ()
        assert environment["DO_NOT_TRACK"] == "true", name
        assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false", name
        assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true", name


def test_mlflow_answers_and_keeps_its_database_in_the_home(services: Services) -> None:
    found = call_api(services.mlflow_url, "/api/2.0/mlflow/experiments/search", {"max_results": 10})

    assert [each["name"] for each in found["experiments"]] == ["Default"]
    assert (services.home / "mlflow" / "mlflow.db").stat().st_size > 0
    assert not (services.home / "prefect" / "mlflow.db").exists()


def test_a_second_up_in_the_same_home_is_refused(services: Services) -> None:
    with pytest.raises(ConfigError, match=f"already run .*pid {os.getpid()}.*one `nightcast up` per home"):
        up(services.home, prefect_port=free_port(), mlflow_port=free_port())


@pytest.mark.parametrize("option", ["--prefect-port", "--mlflow-port"])
def test_a_taken_port_is_refused_with_its_number_and_the_option(tmp_path: Path, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ports = {"prefect_port": free_port(), "mlflow_port": free_port()}
        ports[option.strip("-").replace("-", "_")] = port

        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} .*choose another with {option}"):
            up(tmp_path, **ports)

    assert not (tmp_path / RECORD).exists()


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="cannot make the folder"):
        up(tmp_path / "file" / "home")


def test_a_record_of_dead_services_counts_for_nothing(tmp_path: Path) -> None:
    me = psutil.Process()
    record = {"pid": me.pid, "pid_started": me.create_time() - 3600}
    (tmp_path / RECORD).write_text(json.dumps(record))

    assert read_record(tmp_path) is None, "another process carries the same number"


def test_a_deployment_that_prefect_refuses_is_shown_with_its_reason(tmp_path: Path) -> None:
    broken = tmp_path / "prefect.yaml"
    broken.write_text(
        "name: x\npull: []\ndeployments:\n- {name: x, entrypoint: flows.absent.flow, work_pool: {name: nightcast}}\n"
    )

    with (
        pytest.raises(NightcastError, match=r"(?s)deploying the schedules failed .*No module named .flows\.absent"),
        running_services(tmp_path / "home", prefect_port=free_port(), mlflow_port=free_port(), prefect_file=broken),
    ):
        pytest.fail("a broken deployment was accepted")


def test_doctor_sees_the_services_and_a_schedule_that_was_paused(services: Services) -> None:
    settings = Settings(home=services.home)
    name = declared()[0]["name"]
    identity = deployed(services)[name]["id"]

    before = {check.name: check for check in diagnose(settings, quick=True)}
    call_api(services.prefect_api_url, f"/deployments/{identity}/pause_deployment", {})
    paused = {check.name: check for check in diagnose(settings, quick=True)}
    call_api(services.prefect_api_url, f"/deployments/{identity}/resume_deployment", {})

    assert before["services"].ok
    assert before[f"schedule {name}"].ok
    assert not paused[f"schedule {name}"].ok
    assert "paused" in paused[f"schedule {name}"].found


def test_a_stop_in_the_middle_of_a_night_ends_its_processes_too(tmp_path: Path) -> None:
    home = tmp_path / "home"

    def ours() -> list[str]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("NIGHTCAST_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        return found

    with running_services(home, prefect_port=free_port(), mlflow_port=free_port()) as running:
        night = deployed(running)["nightly-wells"]["id"]
        asked = {"parameters": {"workload": "wells", "preset": "ci"}, "state": {"type": "SCHEDULED"}}
        run = call_api(running.prefect_api_url, f"/deployments/{night}/create_flow_run", asked)["id"]
        wait_until(
            "the start of the night",
            lambda: call_api(running.prefect_api_url, f"/flow_runs/{run}")["state_type"] == "RUNNING",
            seconds=120,
        )
        assert any("prefect.flow_engine" in command or "prefect.engine" in command for command in ours())

    assert ours() == []


# `up` in a process of its own, and the ways it can end.


@pytest.fixture
def running_up(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    home = tmp_path / "home"
    options = f"prefect_port={free_port()}, mlflow_port={free_port()}, deploy=False"
    process = subprocess.Popen(
        [sys.executable, "-c", UP.format(options=options), str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    try:
        wait_until("the start", lambda: process.poll() is not None or (home / RECORD).exists(), seconds=180)
        assert process.poll() is None, process.stdout and process.stdout.read()
        yield process, home
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_stop_leaves_no_process_and_no_record_behind(running_up) -> None:
    process, home = running_up
    children = family(process)
    assert len(children) >= 4

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=60) == 0
    assert alive(children) == []
    assert not (home / RECORD).exists()


def test_a_killed_up_takes_its_services_with_it(running_up) -> None:
    process, home = running_up
    children = family(process)

    process.kill()
    process.wait()

    wait_until("the end of all services", lambda: not alive(children))
    assert read_record(home) is None
    found = {check.name: check for check in diagnose(Settings(home=home), quick=True)}
    assert not found["services"].ok
    assert "the schedule does not run" in found["services"].found


def test_a_service_that_dies_ends_up_with_the_end_of_its_log(running_up) -> None:
    process, home = running_up
    children = family(process)
    record = read_record(home)
    assert record is not None

    os.kill(record["pids"]["mlflow"], signal.SIGKILL)
    said, _ = process.communicate(timeout=60)

    assert process.returncode != 0
    assert "mlflow ended by itself (signal SIGKILL)" in said
    assert "Uvicorn running on" in said, "the end of the log is missing"
    assert alive(children) == []
    assert not (home / RECORD).exists()
