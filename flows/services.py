"""What `nightcast up` runs: a Prefect server, an MLflow server and one worker, as children of this process.

Every child gets a session (a process group) of its own, so that Ctrl-C in a terminal reaches only us and we stop them
in order: first the worker and the flow runs under it, while the server still hears how they ended, then the servers.
A small guard process ends them all when we are killed without a chance to do so.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final

import psutil
from filelock import FileLock, Timeout

from nightcast.contracts.errors import ConfigError, NightcastError
from nightcast.contracts.progress import Progress
from tasks.progress import screen
from tasks.settings import get_settings

POOL: Final = "nightcast"
WORKER: Final = "nightcast-worker"
RECORD: Final = "services.json"

QUIET: Final[Mapping[str, str]] = {
    # MLflow reads DO_NOT_TRACK only as the word `true`; Prefect takes that too.
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment of everything we start: nothing reports home."""

_CLIENT: Final = (*QUIET, "NIGHTCAST_HOME", "NIGHTCAST_MLFLOW_URI", "PREFECT_HOME", "PREFECT_API_URL")
_LOG_LIMIT: Final = 20 * 2**20
_GRACE: Final = 15.0


@dataclass(frozen=True)
class Services:
    """Where the running services are.

    Attributes
    ----------
    prefect_url, mlflow_url
        Pages for people; `mlflow_url` is the configured server where MLflow runs elsewhere.
    prefect_api_url
        What clients set as `PREFECT_API_URL`.
    pids
        Name -> process id of each child.
    environment
        What a client needs in its environment to talk to them.
    """

    home: Path
    prefect_url: str
    prefect_api_url: str
    mlflow_url: str
    pids: Mapping[str, int]
    environment: Mapping[str, str] = field(default_factory=dict)


def up(
    home: Path,
    *,
    host: str = "127.0.0.1",
    prefect_port: int = 4200,
    mlflow_port: int = 5000,
    deploy: bool = True,
    mlflow_uri: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Run everything until Ctrl-C or SIGTERM, then stop it all.

    Parameters
    ----------
    home
        Folder of state and logs; made if missing.
    host
        Address to listen on; neither service asks for a password, so keep it on loopback or behind a proxy that does.
    deploy
        Deploy the schedules of prefect.yaml.
    progress
        Who hears of it; None: the screen.
    mlflow_uri
        MLflow's database; None: as set (`NIGHTCAST_MLFLOW_URI`), else SQLite in `home`. With an http address no MLflow
        server is started here.

    Raises
    ------
    ConfigError
        If a port is taken, or services already run in this home.
    NightcastError
        If a service does not start, or ends by itself.
    """
    heard = progress or screen()
    with (
        _stopping_on_signals(),
        contextlib.suppress(_StopRequested),
        _running(
            home,
            host=host,
            prefect_port=prefect_port,
            mlflow_port=mlflow_port,
            deploy=deploy,
            mlflow_uri=mlflow_uri,
            progress=heard,
        ) as (services, children),
    ):
        heard.say(f"Prefect  {services.prefect_url}")
        heard.say(f"MLflow   {services.mlflow_url}")
        heard.say(f"logs     {services.home / 'logs'}")
        heard.say("running; Ctrl-C stops everything")
        while True:
            for child in children:
                child.check()
            time.sleep(0.5)


@contextlib.contextmanager
def running_services(
    home: Path,
    *,
    host: str = "127.0.0.1",
    prefect_port: int = 4200,
    mlflow_port: int = 5000,
    deploy: bool = True,
    mlflow_uri: str | None = None,
    prefect_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Iterator[Services]:
    """The same services for the length of a `with` block.

    Parameters
    ----------
    prefect_file
        Deployments to make instead of our own.
    environment
        Extra variables for every child, `PREFECT_API_DATABASE_CONNECTION_URL` say.

    Raises
    ------
    ConfigError, NightcastError
        As `up`.
    """
    with _running(
        home,
        host=host,
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        deploy=deploy,
        mlflow_uri=mlflow_uri,
        prefect_file=prefect_file,
        environment=environment,
        progress=progress or screen(),
    ) as (services, _):
        yield services


def read_record(home: Path) -> dict[str, Any] | None:
    """What `services.json` says, or None where no services of this home are alive."""
    path = home.resolve() / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path} is not JSON ({error})",
            expected="the file that `nightcast up` writes",
            remedy="delete it and start `nightcast up` again",
        ) from None
    return record if _alive(int(record["pid"]), float(record["pid_started"])) else None


def deployments_file() -> Path:
    """Our prefect.yaml: inside the installed package, or `deployments/` of a source tree.

    Raises
    ------
    ConfigError
        If neither is there.
    """
    here = Path(__file__).resolve().parent
    places = (here / "prefect.yaml", here.parent / "deployments" / "prefect.yaml")
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(
        f"no prefect.yaml at {places[0]} or {places[1]}",
        expected="the file that the package ships",
        remedy="install nightcast again",
    )


def call_api(base: str, path: str, body: Any = None, *, timeout: float = 10.0) -> Any:
    """Ask a service on this machine: GET, or POST where there is a body; returns the JSON answer.

    Raises
    ------
    OSError
        If nothing answers, or the answer is an HTTP error.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data=data, headers={"Content-Type": "application/json"})
    # A proxy from the environment has no business between two processes of one machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for pause in (0.5, 1.0, 2.0, None):
        try:
            with opener.open(request, timeout=timeout) as answer:
                text = answer.read()
            break
        except urllib.error.HTTPError as error:
            # Prefect answers 503 while another writer has its SQLite database locked; nothing was done then.
            if error.code != 503 or pause is None:
                raise
            time.sleep(pause)
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")


class _StopRequested(Exception):
    """A signal asked us to stop."""


@contextlib.contextmanager
def _stopping_on_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and a closed terminal end the block in order; later ones are ignored, the stop is under way."""
    watched = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

    def stop(number: int, frame: FrameType | None) -> None:
        for each in watched:
            signal.signal(each, signal.SIG_IGN)
        raise _StopRequested(signal.Signals(number).name)

    before = {each: signal.signal(each, stop) for each in watched}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        code = self.process.poll()
        if code is not None:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise NightcastError(
                f"{self.name} ended by itself ({how}); the end of {self.log}:\n{_tail(self.log)}\n",
                expected="it to run until `nightcast up` is stopped",
                remedy="mend what the log names and start again",
            )


@contextlib.contextmanager
def _running(
    home: Path,
    *,
    host: str,
    prefect_port: int,
    mlflow_port: int,
    deploy: bool,
    mlflow_uri: str | None,
    progress: Progress,
    prefect_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[Services, Sequence[_Child]]]:
    home = home.resolve()
    for folder in (home / "logs", home / "prefect", home / "mlflow" / "artifacts"):
        _make(folder)
    configured = mlflow_uri or get_settings(home).mlflow_uri
    backend = configured or get_settings(home).tracking_uri
    remote_mlflow = backend.startswith(("http://", "https://"))
    prefect_url = f"http://{_reachable(host)}:{prefect_port}"
    mlflow_url = backend if remote_mlflow else f"http://{_reachable(host)}:{mlflow_port}"
    api = f"{prefect_url}/api"

    base = {
        **os.environ,
        **QUIET,
        "NIGHTCAST_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_CLI_COLORS": "false",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"])),
        "PYTHONUNBUFFERED": "1",
        **(environment or {}),
    }
    base.pop("PREFECT_API_URL", None)
    client = {**base, "PREFECT_API_URL": api}
    if configured and not remote_mlflow:
        # A database alone says nothing about artifacts; through the server they land in one place.
        client["NIGHTCAST_MLFLOW_URI"] = mlflow_url

    with _only_one(home), contextlib.ExitStack() as stack:
        _require_free(host, prefect_port, "the Prefect server", "--prefect-port")
        if not remote_mlflow:
            _require_free(host, mlflow_port, "the MLflow server", "--mlflow-port")
        children: list[_Child] = []
        guard = stack.enter_context(_guarding())
        stack.callback(_stop, children, progress)

        def start(name: str, arguments: Sequence[str], env: Mapping[str, str]) -> _Child:
            child = _spawn(name, arguments, env, home / "logs" / f"{name}.log", home / "prefect")
            children.append(child)
            guard(child.process.pid)
            return child

        progress.stage("starting services", 4 if deploy else 3)
        server = ["-m", "prefect", "server", "start", "--host", host, "--port", str(prefect_port), "--analytics-off"]
        # Told nothing, the page looks for its API on port 4200, whatever the server's port is.
        start("prefect", server, {**base, "PREFECT_SERVER_UI_API_URL": api})
        if not remote_mlflow:
            # One worker, no job consumers: 0.6 GB instead of 2.7. The database address may hold a password, so it
            # goes in by environment and does not show in the process list.
            mlflow = ["-m", "mlflow", "server", "--host", host, "--port", str(mlflow_port), "--workers", "1"]
            mlflow += ["--artifacts-destination", str(home / "mlflow" / "artifacts")]
            extra = {"MLFLOW_BACKEND_STORE_URI": backend, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            start("mlflow", mlflow, {**base, **extra})

        _wait("the Prefect server", lambda: call_api(api, "/health") is True, children)
        progress.step("Prefect server")
        if not remote_mlflow:
            # Before any worker starts: MLflow's first start lays out the database, and only one may do that.
            _wait("the MLflow server", lambda: call_api(mlflow_url, "/health") == "OK", children)
        progress.step("MLflow server")
        if not _pool_exists(api):
            pool = ["-m", "prefect", "--no-prompt", "work-pool", "create", POOL, "--type", "process"]
            _run("making the work pool", pool, client, home)
        if deploy:
            file = (prefect_file or deployments_file()).resolve()
            command = ["-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
            _run("deploying the schedules", command, client, home)
            progress.step("schedules deployed")
        worker = ["-m", "prefect", "--no-prompt", "worker", "start", "--pool", POOL, "--type", "process"]
        start("worker", [*worker, "--name", WORKER, "--install-policy", "never"], client)
        _wait("the worker", lambda: _worker_is_online(api), children)
        progress.step("worker")

        services = Services(
            home=home,
            prefect_url=prefect_url,
            prefect_api_url=api,
            mlflow_url=mlflow_url,
            pids={child.name: child.process.pid for child in children},
            environment={key: client[key] for key in _CLIENT if key in client},
        )
        stack.callback((home / RECORD).unlink, missing_ok=True)
        _write_record(services)
        yield services, tuple(children)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the folder {folder} ({error.strerror})",
            expected="a home that this user may write to",
            remedy="choose another with --home or NIGHTCAST_HOME",
        ) from error


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    lock = FileLock(home / "services.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        record = read_record(home) or {}
        raise ConfigError(
            f"services already run in {home} (pid {record.get('pid', 'of a start under way')})",
            expected="one `nightcast up` per home",
            remedy="stop the other one, or choose another --home",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _require_free(host: str, port: int, what: str, option: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Without this a port that was in use seconds ago would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"{what} cannot listen on {host}:{port} ({error})",
                expected="a free port",
                remedy=f"stop what uses port {port}, or choose another with {option}",
            ) from error


def _spawn(name: str, arguments: Sequence[str], env: Mapping[str, str], log: Path, folder: Path) -> _Child:
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as sink:
        sink.write(f"--- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {name} starts\n".encode())
        sink.flush()
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=folder,
            start_new_session=True,
        )
    return _Child(name, process, log)


def _run(what: str, arguments: Sequence[str], env: Mapping[str, str], home: Path) -> None:
    log = home / "logs" / "deploy.log"
    child = _spawn("deploy", arguments, env, log, home / "prefect")
    try:
        code = child.process.wait(timeout=180)
    except subprocess.TimeoutExpired:
        code = -signal.SIGKILL
    finally:
        if child.process.poll() is None:
            os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
    if code != 0:
        raise NightcastError(
            f"{what} failed (exit code {code}); the end of {log}:\n{_tail(log)}\n",
            expected="Prefect to accept it",
            remedy="mend what the log names and start again",
        )


def _wait(what: str, ready: Callable[[], bool], children: Sequence[_Child], *, seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for child in children:
            child.check()
        with contextlib.suppress(OSError):
            if ready():
                return
        time.sleep(0.25)
    logs = ", ".join(str(child.log) for child in children)
    raise NightcastError(
        f"{what} did not answer within {seconds:.0f} s",
        expected="a healthy service",
        remedy=f"read {logs}; a very busy machine may need a second try",
    )


def _pool_exists(api: str) -> bool:
    try:
        call_api(api, f"/work_pools/{POOL}")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def _worker_is_online(api: str) -> bool:
    workers = call_api(api, f"/work_pools/{POOL}/workers/filter", {})
    return any(worker["name"] == WORKER and worker["status"] == "ONLINE" for worker in workers)


def _tail(log: Path, lines: int = 20) -> str:
    with log.open("rb") as source:
        source.seek(max(0, log.stat().st_size - 16_384))
        return "\n".join(source.read().decode(errors="replace").splitlines()[-lines:])


def _alive(pid: int, started: float) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - started) < 1.0
    except psutil.NoSuchProcess:
        return False


def _write_record(services: Services) -> None:
    me = psutil.Process()
    record = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "pid": me.pid,
        "pid_started": me.create_time(),
        "prefect_url": services.prefect_url,
        "prefect_api_url": services.prefect_api_url,
        "mlflow_url": services.mlflow_url,
        "pids": dict(services.pids),
    }
    with tempfile.NamedTemporaryFile("w", dir=services.home, delete=False, encoding="utf-8") as file:
        json.dump(record, file, indent=2)
    os.replace(file.name, services.home / RECORD)


# Stopping. A child leads a session of its own, and what it starts (flow runs, their training processes) stays in that
# session even after its parent is gone, so "everything of this child" is "everything in its session".


def _sessions(leaders: Sequence[int]) -> list[int]:
    wanted, found = set(leaders), []
    for pid in psutil.pids():
        # A process may end between being listed and being asked; a zombie has nothing left to stop.
        with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            if os.getsid(pid) in wanted and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def _end(leaders: Sequence[int], *, grace: float) -> None:
    """SIGTERM to all in these sessions, SIGKILL to what is left after `grace` seconds."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        for pid in _sessions(leaders):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if not _sessions(leaders):
                return
            time.sleep(0.1)


def _stop(children: list[_Child], progress: Progress) -> None:
    if children:
        progress.say("stopping services")
    workers = [child for child in children if child.name == "worker"]
    servers = [child for child in children if child.name != "worker"]
    for group in (workers, servers):
        _end([child.process.pid for child in group], grace=_GRACE)
    for child in children:
        child.process.wait(timeout=10)


@contextlib.contextmanager
def _guarding() -> Iterator[Callable[[int], None]]:
    """Start the guard; yields the function that puts a child under it."""
    with tempfile.TemporaryFile() as errors:
        guard = subprocess.Popen(
            [sys.executable, "-m", "flows.services"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        pipe = guard.stdin
        assert pipe is not None  # given PIPE

        def watch(pid: int) -> None:
            try:
                pipe.write(f"{pid}\n".encode())
                pipe.flush()
            except BrokenPipeError as error:
                errors.seek(0)
                raise NightcastError(
                    f"the guard process ended: {errors.read().decode(errors='replace')[-500:]}",
                    expected="it to watch over the services",
                    remedy="check the installation with `nightcast doctor`",
                ) from error

        try:
            yield watch
        finally:
            with contextlib.suppress(BrokenPipeError):
                pipe.write(b"done\n")
                pipe.close()
            guard.wait(timeout=60)


def _guard(source: IO[str]) -> None:
    """Read process ids until our parent says `done`, or is gone: then end their sessions."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    leaders: list[int] = []
    for line in source:
        if line.strip() == "done":
            return
        leaders.append(int(line))
    _end(leaders, grace=_GRACE)


if __name__ == "__main__":
    _guard(sys.stdin)
