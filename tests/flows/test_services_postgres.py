"""The same services on PostgreSQL, by settings alone: a throw-away cluster on a free port."""

import glob
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.services import Services, call_api, running_services

pytestmark = pytest.mark.postgres

LOG_A_RUN = """
import sys
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
run = client.create_run(client.create_experiment("from-a-test"))
client.log_metric(run.info.run_id, "loss", 0.25)
client.log_text(run.info.run_id, "kept", "note.txt")
print(client.get_run(run.info.run_id).info.artifact_uri)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_programs() -> Path | None:
    beside = shutil.which("pg_ctl")
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb")) + ([beside] if beside else [])
    return Path(found[0]).parent if found else None


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """`127.0.0.1:<port>` of a running PostgreSQL with the databases prefect and mlflow."""
    programs = server_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs (initdb, pg_ctl) are not installed")
    # PostgreSQL refuses to run as root.
    user = None
    if os.geteuid() == 0:
        names = {each.pw_name for each in pwd.getpwall()}
        user = next((name for name in ("postgres", "nobody") if name in names), None)
        if user is None:
            pytest.skip("running as root, and there is neither a user `postgres` nor `nobody` to start PostgreSQL as")
    folder = Path(tempfile.mkdtemp(prefix="nightcast-pg-"))
    if user:
        shutil.chown(folder, user)
    port = free_port()

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [str(programs / program), *arguments],
            cwd=folder,
            user=user,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    try:
        run("initdb", "--pgdata", "data", "--auth", "trust", "--username", "nightcast", "--encoding", "UTF8")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run("pg_ctl", "--pgdata", "data", "--options", options, "--log", "log", "--wait", "start")
        try:
            for name in ("prefect", "mlflow"):
                run("createdb", "--host", "127.0.0.1", "--port", str(port), "--username", "nightcast", name)
            yield f"127.0.0.1:{port}"
        finally:
            run("pg_ctl", "--pgdata", "data", "--mode", "immediate", "--wait", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def services(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with running_services(
        tmp_path_factory.mktemp("home"),
        prefect_port=free_port(),
        mlflow_port=free_port(),
        mlflow_uri=f"postgresql+psycopg2://nightcast@{cluster}/mlflow",
        environment={"PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://nightcast@{cluster}/prefect"},
    ) as running:
        yield running


def ask(cluster: str, database: str, query: str) -> list[tuple]:
    import psycopg2

    host, port = cluster.split(":")
    connection = psycopg2.connect(host=host, port=port, user="nightcast", dbname=database)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()
    finally:
        connection.close()


def test_schedules_yield_runs_in_postgresql(services: Services, cluster: str) -> None:
    question = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    end = time.monotonic() + 60
    while not call_api(services.prefect_api_url, "/flow_runs/count", question):
        assert time.monotonic() < end, "the server accepted the schedules and created no run"
        time.sleep(0.5)

    assert ask(cluster, "prefect", "select count(*) from flow_run where state_type = 'SCHEDULED'")[0][0] > 0
    assert not (services.home / "prefect" / "prefect.db").exists(), "the server kept to SQLite"


def test_mlflow_logs_to_postgresql_and_keeps_artifacts_in_the_home(services: Services, cluster: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOG_A_RUN, services.mlflow_url],
        env={**os.environ, **services.environment},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert ask(cluster, "mlflow", "select key, value from metrics") == [("loss", 0.25)]
    assert [p.read_text() for p in (services.home / "mlflow" / "artifacts").rglob("note.txt")] == ["kept"]
    assert not (services.home / "mlflow" / "mlflow.db").exists()


def test_flow_runs_are_told_to_log_through_the_server(services: Services) -> None:
    assert services.environment["NIGHTCAST_MLFLOW_URI"] == services.mlflow_url
