"""Where Prefect's API is: the server of `nightcast up` if it runs, else one inside this process.

Must be called before `prefect` is imported for the first time.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tasks.settings import Settings


def running_services(settings: Settings) -> dict[str, object] | None:
    """What `nightcast up` wrote about itself, if that process is alive."""
    path = settings.services_file
    if not path.exists():
        return None
    facts: dict[str, object] = json.loads(path.read_text())
    pid = facts.get("pid")
    return facts if isinstance(pid, int) and psutil.pid_exists(pid) else None


def use_prefect(settings: Settings) -> None:
    """Point this process at the home's Prefect, quietly and without calls home."""
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # A failing night prints its one line by itself; Prefect would add its own traceback of the same error.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_SERVER_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_CLI_PROMPT", "false")
    if "PREFECT_API_URL" in os.environ:
        return
    home = settings.root / "prefect"
    home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_HOME", str(home))
    services = running_services(settings)
    if services is not None:
        os.environ["PREFECT_API_URL"] = str(services["prefect_api_url"])
        return
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")


@contextmanager
def prefect_session(settings: Settings) -> Iterator[None]:
    """Prefect's API for the block: a running server, or one of our own that leaves no orphan behind.

    A killed run cannot stop its server. Each server is written down with its owner; the next run in the same home ends
    those whose owner is gone.
    """
    use_prefect(settings)
    if "PREFECT_API_URL" in os.environ:
        yield
        return
    folder = settings.root / "prefect" / "servers"
    folder.mkdir(parents=True, exist_ok=True)
    for note in folder.glob("*.json"):
        _reap(note)
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    platforms = threading.Thread(target=_import_platforms, daemon=True)
    platforms.start()
    server = SubprocessASGIServer()
    server.start()
    platforms.join()  # two threads importing what imports each other could deadlock
    assert server.server_process is not None  # started
    note = folder / f"{os.getpid()}.json"
    note.write_text(json.dumps({"owner": _stamp(os.getpid()), "server": _stamp(server.server_process.pid)}))
    try:
        # Nobody listens to heartbeats on a server that ends with us, and ending their thread takes a second.
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield
    finally:
        server.stop()
        note.unlink(missing_ok=True)


def _import_platforms() -> None:
    """Import what every night needs; meanwhile the server starts and this process would only wait."""
    from expectations.gate import load_gx
    from tasks.tracking import load_mlflow

    load_gx()
    load_mlflow()


def _stamp(pid: int) -> list[float]:
    """A process id with its start time: ids are used again."""
    return [pid, psutil.Process(pid).create_time()]


def _process(stamp: list[float]) -> psutil.Process | None:
    try:
        process = psutil.Process(int(stamp[0]))
        return process if abs(process.create_time() - stamp[1]) < 1 else None
    except psutil.NoSuchProcess:
        return None


def _reap(note: Path) -> None:
    facts = json.loads(note.read_text())
    if _process(facts["owner"]) is not None:
        return
    orphan = _process(facts["server"])
    if orphan is not None:
        orphan.terminate()
    note.unlink(missing_ok=True)


def quiet_libraries() -> None:
    """Leave the platforms' chatter out of our logs; their warnings and errors stay."""
    for name in ("great_expectations", "alembic", "mlflow", "matplotlib", "fontTools"):
        logging.getLogger(name).setLevel(logging.WARNING)
