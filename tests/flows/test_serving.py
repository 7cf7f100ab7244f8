"""The registered model outside its night: a clean process, and MLflow's own server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.flows.panels import NAIVE, monthly_panel, write_workload

pytestmark = pytest.mark.usefixtures("prefect_server")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("served")
    before = {name: os.environ.get(name) for name in ("NIGHTCAST_HOME", "NIGHTCAST_PROCESSES")}
    os.environ |= {"NIGHTCAST_HOME": str(folder / "home"), "NIGHTCAST_PROCESSES": "0"}
    try:
        from flows.nightly import nightly
        from flows.parameters import PresetName

        frame = monthly_panel()
        spec = write_workload(folder, frame, models=(*NAIVE, "lightgbm_global"))
        answer: Any = nightly(workload_file=str(spec), preset=PresetName.ci)
        yield {**answer, "frame": frame, "folder": folder}
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def environment(night: dict[str, Any]) -> dict[str, str]:
    bin_folder = str(Path(sys.executable).parent)
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": night["tracking_uri"],
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def test_the_champion_loads_in_a_clean_process_without_pickle_and_repeats_what_was_published(
    night: dict[str, Any],
) -> None:
    folder = night["folder"]
    night["frame"].write_parquet(folder / "history.parquet")
    code = """
import sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model("models:/nightcast-tiny@champion")
model.predict(pd.read_parquet(sys.argv[1])).to_parquet(sys.argv[2])
assert model.metadata.signature is not None
assert "prefect" not in sys.modules
"""
    arguments = [str(folder / "history.parquet"), str(folder / "out.parquet")]
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, env=environment(night), check=True)

    answered = pl.read_parquet(folder / "out.parquet").sort("unique_id", "ds")
    published = pl.read_parquet(night["forecast"].removeprefix("file://")).sort("unique_id", "ds")
    assert answered.get_column("q10").to_list() == published.get_column("q10").to_list()
    assert answered.get_column("q90").to_list() == published.get_column("q90").to_list()


def test_mlflow_serves_the_champion_over_http(night: dict[str, Any]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", "models:/nightcast-tiny@champion", "--env-manager", "local"]
    command += ["-p", str(port), "-h", "127.0.0.1"]
    log = (night["folder"] / "serve.log").open("w")
    server = subprocess.Popen(
        command, cwd=night["folder"], env=environment(night), stdout=log, stderr=log, start_new_session=True
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server)
        rows = night["frame"].filter(pl.col("unique_id") == "w03").with_columns(pl.col("ds").dt.strftime("%Y-%m-%d"))
        body = json.dumps({"dataframe_records": rows.to_dicts()}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)
        log.close()

    assert [row["unique_id"] for row in answer] == ["w03"] * 3
    assert all(row["q10"] <= row["q50"] <= row["q90"] for row in answer)


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, "the model server ended"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(f"{url} did not answer in time")
