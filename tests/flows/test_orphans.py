"""A killed run leaves nothing running for long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tasks.orchestrator import _reap, _stamp
from tests.flows.panels import monthly_panel, write_workload


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def test_a_server_whose_owner_is_gone_is_ended_and_others_are_left(tmp_path: Path) -> None:
    owner, orphan, kept = sleeper(), sleeper(), sleeper()
    dead = tmp_path / "dead.json"
    alive = tmp_path / "alive.json"
    dead.write_text(json.dumps({"owner": _stamp(owner.pid), "server": _stamp(orphan.pid)}))
    alive.write_text(json.dumps({"owner": _stamp(os.getpid()), "server": _stamp(kept.pid)}))
    owner.kill()
    owner.wait()
    try:
        _reap(dead)
        _reap(alive)

        orphan.wait(timeout=20)
        assert kept.poll() is None
        assert not dead.exists()
        assert alive.exists()
    finally:
        for process in (orphan, kept):
            process.kill()
            process.wait()


def test_a_process_id_that_was_used_again_is_nobodys_orphan(tmp_path: Path) -> None:
    stranger = sleeper()
    note = tmp_path / "old.json"
    started = psutil.Process(stranger.pid).create_time()
    note.write_text(json.dumps({"owner": [2**22 + 1, 0.0], "server": [stranger.pid, started - 3600]}))
    try:
        _reap(note)
        time.sleep(0.2)

        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_run_told_to_stop_ends_its_server_and_workers(tmp_path: Path) -> None:
    spec = write_workload(tmp_path, monthly_panel(series=4), models=("naive_last", "lightgbm_global"))
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "NIGHTCAST_"))}
    env |= {"NIGHTCAST_PROCESSES": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", str(spec), "--home", str(tmp_path / "home")],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "home").rglob("raw.parquet")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    family = psutil.Process(run.pid).children(recursive=True)
    assert family

    run.terminate()

    assert run.wait(timeout=60) == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
