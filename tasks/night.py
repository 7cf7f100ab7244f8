"""One night's folder and the references tasks hand to each other."""

from __future__ import annotations

import functools
import json
import os
import socket
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.recipe import Preset, Recipe
from nightcast.contracts.source import RawData
from nightcast.contracts.verdict import Verdict
from nightcast.contracts.workload import Workload
from nightcast.evaluation.units import load_dataset
from tasks.settings import Settings

Mode = Literal["nightly", "backfill", "forecast"]
"""`nightly`: registers and may promote. `backfill`: what a first night at that date would have published; leaves the
registry alone. `forecast`: the champion forecasts, nothing is trained."""


@dataclass(frozen=True)
class Night:
    """A reference to one night: small enough to be a task's parameter, enough to find everything.

    Attributes
    ----------
    spec
        Name or file of the workload.
    folder
        Intermediate files.
    """

    spec: str
    name: str
    home: str
    preset: Preset
    mode: Mode
    as_of: str
    night_id: str
    snapshot: str
    recipe_hash: str
    folder: str

    @property
    def settings(self) -> Settings:
        """Settings with this night's home."""
        return Settings(home=Path(self.home))

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder)

    @property
    def as_of_time(self) -> datetime:
        """The as-of date."""
        return datetime.fromisoformat(self.as_of)

    @property
    def workload(self) -> Workload[Any]:
        """The workload value."""
        return load_workload(self.spec)

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.workload.recipe(self.preset)

    def raw(self) -> RawData:
        """What was read."""
        return RawData.load(self.path / "raw")

    def dataset(self) -> Any:
        """The prepared dataset."""
        return load_dataset(self.path / "dataset")

    def verdict(self, gate: str) -> Verdict:
        """A gate's verdict."""
        return Verdict.from_json(json.loads((self.path / f"verdict-{gate}.json").read_text()))

    def judged(self) -> Verdict:
        """The raw and the feature gate's verdicts as one: who is in quarantine, and why."""
        first = self.verdict("raw")
        later = [v for v in self.verdicts() if v.gate == "features"]
        return replace(first, findings=first.findings + tuple(f for v in later for f in v.findings))

    def write_verdict(self, verdict: Verdict) -> None:
        """Keep a gate's verdict."""
        write_text(self.path / f"verdict-{verdict.gate}.json", json.dumps(verdict.to_json(), indent=1))

    def verdicts(self) -> tuple[Verdict, ...]:
        """All verdicts so far, in the order of the gates."""
        gates = [g for g in ("raw", "features", "forecast") if (self.path / f"verdict-{g}.json").exists()]
        return tuple(self.verdict(gate) for gate in gates)


@functools.lru_cache(maxsize=8)
def _workload(spec: str, _stamp: float) -> Workload[Any]:
    from workloads.catalog import get_workload

    return get_workload(spec)


def load_workload(spec: str) -> Workload[Any]:
    """A workload value, read once for each version of its file."""
    from workloads.catalog import workload_path

    path = workload_path(spec)
    return _workload(spec, path.stat().st_mtime if path.exists() else 0.0)


def write_text(path: Path, text: str) -> None:
    """Write a file by one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    scratch.write_text(text)
    os.replace(scratch, path)


def parse_as_of(value: date | datetime | str | None) -> datetime | None:
    """An as-of date as naive UTC.

    Raises
    ------
    ConfigError
        If it cannot be read.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ConfigError(
                f"as-of date {value!r} cannot be read",
                expected="a date such as 2024-12-01 or a time such as 2024-12-01T06:00",
                remedy="correct --as-of",
            ) from None
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return value


def clock() -> datetime:
    """Now, as naive UTC."""
    return datetime.now(UTC).replace(tzinfo=None)


def owner() -> str:
    """Names this process to leases: `host:pid:nonce`."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def owner_is_dead(name: str) -> bool:
    """Whether a lease's owner was a process of this machine that is gone: its night need not be waited out."""
    import psutil

    host, _, rest = name.partition(":")
    pid, _, _ = rest.partition(":")
    return host == socket.gethostname() and pid.isdigit() and not psutil.pid_exists(int(pid))
