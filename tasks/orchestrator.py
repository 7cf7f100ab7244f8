"""Where Prefect's API is: the server of `nightcast up` if it runs, else one inside this process.

Must be called before `prefect` is imported for the first time.
"""

from __future__ import annotations

import json
import logging
import os

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


def quiet_libraries() -> None:
    """Leave the platforms' chatter out of our logs; their warnings and errors stay."""
    for name in ("great_expectations", "alembic", "mlflow", "matplotlib", "fontTools"):
        logging.getLogger(name).setLevel(logging.WARNING)
