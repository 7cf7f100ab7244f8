"""What `nightcast doctor` looks at: each check says what it found, and what to do where that is not right."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import locale
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psutil

from flows.services import QUIET, call_api, deployments_file, read_record
from nightcast.contracts.errors import NightcastError, PublishError
from nightcast.publishing import read_current
from tasks.settings import Settings

PACKAGES: Final = ("nightcast", "workloads", "models", "expectations", "tasks", "flows")
CAPS: Final = {
    "fastapi": ("<0.151", "newer ones stop the Prefect server at import"),
    "sqlalchemy": ("<2.1", "newer ones silently keep Prefect from scheduling anything"),
}
_MIN_MEMORY_GIB: Final = 4.0
_MIN_DISK_GIB: Final = 5.0
_LATE: Final = timedelta(hours=26)


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes
    ----------
    name
        What was looked at.
    found
        What it is, in one line.
    remedy
        What to do; empty where all is well.
    """

    name: str
    ok: bool
    found: str
    remedy: str = ""


def diagnose(settings: Settings, *, quick: bool) -> list[Check]:
    """Look at the installation, the home and the running services.

    Parameters
    ----------
    quick
        Leave out what starts processes or takes more than a moment (loading champions, the store, MLflow).

    Returns
    -------
    list[Check]
        In the order in which a person would mend them; the command's exit code is 1 if one is not `ok`.
    """
    checks: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("python", _python),
        ("pins", _pins),
        ("package names", _package_names),
        ("text encoding", _encoding),
        ("machine", lambda: _machine(settings)),
        ("home", lambda: _home(settings)),
    ]
    if not quick:
        checks += [
            ("store", lambda: _store(settings)),
            ("models", lambda: _models(settings)),
        ]
    checks += [("services", lambda: _services(settings))]
    if not quick:
        checks += [("publication", lambda: _publication(settings))]
    return [found for name, check in checks for found in _guarded(name, check)]


def _guarded(name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from check()
    except NightcastError as error:
        yield Check(name, False, error.what, error.remedy)
    except Exception as error:  # noqa: BLE001  # one finding must not hide the others
        yield Check(name, False, f"the check itself failed: {type(error).__name__}: {error}", "see the message")


def _python() -> Iterator[Check]:
    found = f"Python {platform.python_version()} at {sys.executable}"
    ok = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield Check("python", ok, found, "" if ok else "make the environment with Python 3.11 or 3.12")


def _pins() -> Iterator[Check]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    for name, (cap, reason) in CAPS.items():
        version = importlib.metadata.version(name)
        ok = version in SpecifierSet(cap)
        remedy = "" if ok else f'pip install "{name}{cap}": {reason}'
        yield Check(f"pin {name}", ok, f"{version}, wanted {cap}", remedy)
    try:
        wanted = importlib.metadata.requires("nightcast") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("dependencies", True, "not checked: nightcast runs from a source tree and is not installed")
        return
    wrong = []
    for requirement in map(Requirement, wanted):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} (wanted {requirement.specifier})")
    remedy = "pip install --constraint constraints.txt nightcast" if wrong else ""
    yield Check("dependencies", not wrong, "; ".join(wrong) or f"{len(wanted)} declared, all satisfied", remedy)


def _package_names() -> Iterator[Check]:
    """Another distribution with a top-level package `models`, say, would hide ours or be hidden by it."""
    roots, others = set(), []
    owners = importlib.metadata.packages_distributions()
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            others.append(f"{name} cannot be imported")
            continue
        roots.add(Path(spec.origin).parent.parent)
        # An editable installation claims no package by name; then the common root is the evidence.
        others += [f"{name} also comes from {owner}" for owner in owners.get(name, []) if owner != "nightcast"]
    if len(roots) > 1:
        others.append("our packages come from " + " and ".join(str(root) for root in sorted(roots)))
    found = "; ".join(others) or f"all from {next(iter(roots))}"
    yield Check("package names", not others, found, "uninstall the other package" if others else "")


def _encoding() -> Iterator[Check]:
    found = {"files": sys.getfilesystemencoding(), "text": locale.getpreferredencoding(False)}
    ok = all(value.lower().replace("-", "") == "utf8" for value in found.values())
    words = ", ".join(f"{what} {value}" for what, value in found.items())
    yield Check("text encoding", ok, words, "" if ok else "set PYTHONUTF8=1 or a UTF-8 locale such as LANG=C.UTF-8")


def _machine(settings: Settings) -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    ok = settings.processes <= 2 * cores
    found = f"{cores} cores for this process, {settings.processes} worker processes, OMP_NUM_THREADS {threads}"
    yield Check("cores", ok, found, "" if ok else f"set NIGHTCAST_PROCESSES to at most {cores}")

    memory = psutil.virtual_memory()
    total, free = memory.total / 2**30, memory.available / 2**30
    ok = total >= _MIN_MEMORY_GIB
    remedy = "" if ok else f"a night wants {_MIN_MEMORY_GIB:.0f} GiB; set NIGHTCAST_PROCESSES=1 on less"
    yield Check("memory", ok, f"{total:.1f} GiB, {free:.1f} available", remedy)

    place = settings.root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    ok = free >= _MIN_DISK_GIB
    remedy = "" if ok else f"free {_MIN_DISK_GIB:.0f} GiB (cache and work in the home can go), or set NIGHTCAST_HOME"
    yield Check("disk", ok, f"{free:.1f} GiB free at {place}", remedy)


def _home(settings: Settings) -> Iterator[Check]:
    home = settings.root
    place = home
    while not place.exists():
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        remedy = "give this user write access, or choose another home with NIGHTCAST_HOME"
        yield Check("home", False, f"{place} is not writable ({error.strerror})", remedy)
        return
    yield Check("home", True, f"{home} is writable" if place == home else f"{home} can be made")


def _store(settings: Settings) -> Iterator[Check]:
    """Not only "does it answer": the three promises that publishing rests on."""
    if "://" not in settings.store_url and not Path(settings.store_url).exists():
        yield Check("store", True, f"{settings.store_url} is made by the first night")
        return
    from tasks.steps import store_of

    store = store_of(settings)
    key = f"leases/doctor-{uuid.uuid4().hex}"
    broken = []
    try:
        if not store.write_once(key, b"one"):
            broken.append("a new object counted as old")
        if store.write_once(key, b"one"):
            broken.append("an object was written twice")
        if not _refused(lambda: store.write_once(key, b"two")):
            broken.append("write-once let an object be replaced")
        _, tag = store.read_with_tag(key)
        tag = store.compare_and_swap(key, b"two", tag)
        if not _refused(lambda: store.compare_and_swap(key, b"three", "not-the-tag")):
            broken.append("compare-and-swap ignored the tag")
        if store.read_with_tag(key) != (b"two", tag):
            broken.append("an object does not read back as written")
    finally:
        store.delete(key)
    found = "; ".join(broken) or f"{settings.store_url}: write-once and compare-and-swap hold"
    remedy = "use a store that honours If-None-Match and If-Match on writes" if broken else ""
    yield Check("store", not broken, found, remedy)


def _refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except PublishError:
        return True
    return False


def _models(settings: Settings) -> Iterator[Check]:
    uri = settings.tracking_uri
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        yield Check("models", True, "no MLflow database yet; the first night makes it")
        return
    os.environ.update({key: value for key, value in QUIET.items() if key.startswith("MLFLOW_")})
    from mlflow import MlflowClient

    from tasks.tracking import CHAMPION

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    names = [model.name for model in client.search_registered_models() if model.name.startswith("nightcast-")]
    if not names:
        yield Check("models", True, "MLflow opens; no model is registered yet")
    for name in names:
        aliases = client.get_registered_model(name).aliases
        if CHAMPION not in aliases:
            remedy = f"run a night, or `nightcast promote` a version of {name}"
            yield Check(f"model {name}", False, "registered, but no version is champion", remedy)
            continue
        yield _loads(name, str(aliases[CHAMPION]), uri)


def _loads(name: str, version: str, uri: str) -> Check:
    """A champion that only loads where it was trained is no champion: load it in a process of its own."""
    code = "import sys, mlflow; mlflow.set_tracking_uri(sys.argv[1]); mlflow.pyfunc.load_model(sys.argv[2])"
    done = subprocess.run(
        [sys.executable, "-c", code, uri, f"models:/{name}/{version}"],
        env={**os.environ, **QUIET, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode == 0:
        return Check(f"model {name}", True, f"champion is version {version}; it loads in a process of its own")
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return Check(
        f"model {name}",
        False,
        f"champion, version {version}, does not load: {last}",
        "`nightcast rollback` to the version before, or install what the message names",
    )


def _services(settings: Settings) -> Iterator[Check]:
    record = read_record(settings.root)
    api = record["prefect_api_url"] if record else os.environ.get("PREFECT_API_URL")
    if record is None and settings.services_file.exists():
        found = "services.json is there, but the process that wrote it is gone: the schedule does not run"
        yield Check("services", False, found, "start `nightcast up` again")
        return
    if not api:
        yield Check("services", True, "not running; `nightcast up` starts them and the schedule")
        return
    try:
        healthy = call_api(api, "/health") is True
    except OSError as error:
        remedy = "look at logs/prefect.log in the home, then restart `nightcast up`"
        yield Check("services", False, f"Prefect at {api} does not answer ({error})", remedy)
        return
    yield Check("services", healthy, f"Prefect answers at {api}", "" if healthy else "restart `nightcast up`")
    yield from _schedules(api)


def _schedules(api: str) -> Iterator[Check]:
    """Declared against deployed: a schedule that is lost or paused raises no error anywhere else."""
    import yaml

    declared = yaml.safe_load(deployments_file().read_text(encoding="utf-8"))["deployments"]
    deployed = {item["name"]: item for item in call_api(api, "/deployments/filter", {})}
    for wanted in declared:
        name = wanted["name"]
        check = f"schedule {name}"
        remedy = "deploy again: restart `nightcast up`, or `prefect --no-prompt deploy --all` with our prefect.yaml"
        found = deployed.get(name)
        if found is None:
            yield Check(check, False, "declared, not deployed", remedy)
            continue
        want = sorted((each["cron"], each["timezone"]) for each in wanted["schedules"] if each["active"])
        have = sorted(
            (each["schedule"].get("cron"), each["schedule"].get("timezone"))
            for each in found["schedules"]
            if each["active"]
        )
        if found["paused"]:
            yield Check(check, False, "deployed, but paused", f"resume {name} on Prefect's page")
        elif want != have:
            yield Check(check, False, f"declared {want}, deployed {have}", remedy)
        else:
            yield _is_scheduled(api, check, found["id"], want)
            yield _last_run(api, name, found)


def _is_scheduled(api: str, check: str, deployment: str, crons: list[tuple[str, str]]) -> Check:
    question = {
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
        "deployments": {"id": {"any_": [deployment]}},
    }
    count = call_api(api, "/flow_runs/count", question)
    words = ", ".join(f"{cron} {zone}" for cron, zone in crons)
    if count or not crons:
        return Check(check, True, f"{words}; {count} runs lie ahead")
    remedy = "look for errors of the scheduler in logs/prefect.log; SQLAlchemy has to be below 2.1"
    return Check(check, False, f"{words}, but no run is scheduled", remedy)


def _last_run(api: str, name: str, found: dict[str, Any]) -> Check:
    """When it last went well. A night that finds nothing new publishes nothing, so the store cannot tell."""
    question = {
        "deployments": {"id": {"any_": [found["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}},
        "sort": "END_TIME_DESC",
        "limit": 50,
    }
    runs = call_api(api, "/flow_runs/filter", question)
    check = f"last run of {name}"
    now = datetime.now(UTC)
    good = [run for run in runs if run["state_type"] == "COMPLETED"]
    if good:
        age = now - datetime.fromisoformat(good[0]["end_time"])
        words = f"completed {age.total_seconds() / 3600:.1f} h ago"
    else:
        age = now - datetime.fromisoformat(found["created"])
        words = "none has completed yet" if age < _LATE else f"none has completed in {age.total_seconds() / 3600:.0f} h"
    if runs and runs[0]["state_type"] != "COMPLETED":
        words += f"; the last one, {runs[0]['name']}, ended {runs[0]['state_name']}"
        return Check(check, False, words, f"read its log on Prefect's page: {runs[0]['id']}")
    remedy = "" if age < _LATE else "look at late runs on Prefect's page and at logs/worker.log in the home"
    return Check(check, age < _LATE, words, remedy)


def _publication(settings: Settings) -> Iterator[Check]:
    """What readers get now, checked against its hashes."""
    if "://" not in settings.store_url and not Path(settings.store_url).exists():
        yield Check("publication", True, "nothing published yet")
        return
    from tasks.steps import store_of

    store = store_of(settings)
    pointers = [key for key in store.list("forecasts/") if key.endswith("/current.json")]
    if not pointers:
        yield Check("publication", True, "nothing published yet")
    for key in pointers:
        workload = key.split("/")[1]
        manifest, forecast = read_current(store, workload)
        yield Check(
            f"publication {workload}",
            True,
            f"as of {manifest['as_of']}, revision {manifest['revision']}, {forecast.height} rows; hashes agree",
        )
