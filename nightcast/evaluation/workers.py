"""Worker processes with a time and a memory ceiling for each unit.

A library's own time limit cannot be trusted at three in the morning: each unit runs in a child process that is
killed when it passes its ceiling, and the failure has a name (`timeout`, `memory`, `crash`, `error`).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from nightcast.evaluation.units import Unit, UnitFailure, UnitResult

MEMORY_EXIT = 137
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "POLARS_MAX_THREADS")


def start_worker(log: str) -> None:
    """Prepare a fresh child: one thread each, its own log, and death with its parent."""
    for name in _THREADS:
        os.environ[name] = "1"
    os.environ.setdefault("TQDM_DISABLE", "1")
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)


def import_packages(names: Sequence[str]) -> None:
    """Import libraries before they are needed; one that is missing is reported by the unit that needs it."""
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _watch_memory(limit_gib: float, done: threading.Event) -> None:
    import psutil

    process = psutil.Process()
    while not done.wait(0.25):
        if process.memory_info().rss > limit_gib * 2**30:
            os._exit(MEMORY_EXIT)


def run_guarded(unit: Unit, cache: Path) -> UnitResult:
    """Run one unit in this child, which dies if its memory passes the ceiling."""
    from threadpoolctl import threadpool_limits

    from nightcast.evaluation.units import run_unit

    done = threading.Event()
    threading.Thread(target=_watch_memory, args=(unit.limits.memory_gib, done), daemon=True).start()
    try:
        with threadpool_limits(1):
            return run_unit(unit, cache)
    finally:
        done.set()


class WorkerPool:
    """A fixed number of child processes that run units.

    Parameters
    ----------
    cache
        Root of the unit cache.
    processes
        Children; 0 runs units in this process, without ceilings (for tests and debugging).
    """

    def __init__(self, cache: Path, processes: int) -> None:
        self.cache = cache
        self.processes = processes
        self._pool: Any = None
        self._lock = threading.Lock()

    def _started(self) -> Any:
        with self._lock:
            if self._pool is None:
                from pebble import ProcessPool

                log = self.cache / "workers.log"
                log.parent.mkdir(parents=True, exist_ok=True)
                self._pool = ProcessPool(
                    max_workers=self.processes,
                    context=multiprocessing.get_context("spawn"),
                    initializer=start_worker,
                    initargs=[str(log)],
                )
            return self._pool

    def import_ahead(self, names: Sequence[str]) -> None:
        """Start the children and let each import what units will need, while this process does something else."""
        for _ in range(self.processes if names else 0):
            self._started().schedule(import_packages, args=[tuple(names)])

    def run(self, unit: Unit) -> UnitResult | UnitFailure:
        """Run one unit to its end, in a child; never raises for a failing model."""
        from nightcast.contracts.errors import NightcastError
        from nightcast.evaluation.units import UnitFailure, find_unit, run_unit

        found = find_unit(unit, self.cache)
        if found is not None:
            return found
        if self.processes == 0:
            try:
                return run_unit(unit, self.cache)
            except NightcastError as error:
                return UnitFailure(unit, "error", str(error))
        from pebble import ProcessExpired

        started = time.perf_counter()
        try:
            future = self._schedule(unit)
            result: UnitResult = future.result()
            return result
        except (TimeoutError, FutureTimeout):
            return UnitFailure(unit, "timeout", f"stopped after its ceiling of {unit.limits.seconds:g} s")
        except ProcessExpired as error:
            if error.exitcode == MEMORY_EXIT:
                return UnitFailure(unit, "memory", f"stopped at its ceiling of {unit.limits.memory_gib:g} GiB")
            after = time.perf_counter() - started
            return UnitFailure(unit, "crash", f"the worker died with exit code {error.exitcode} after {after:.1f} s")
        except Exception as error:  # noqa: BLE001  # any model's error becomes a row in the failures table
            return UnitFailure(unit, "error", f"{type(error).__name__}: {error}")

    def _schedule(self, unit: Unit) -> Any:
        """Hand a unit to the children; a pool that broke (its manager died, not a model) is replaced once."""
        arguments: dict[str, Any] = {"args": [unit, self.cache], "timeout": unit.limits.seconds}
        pool = self._started()
        try:
            return pool.schedule(run_guarded, **arguments)
        except RuntimeError:
            with self._lock:
                if self._pool is pool:
                    pool.stop()
                    self._pool = None
            return self._started().schedule(run_guarded, **arguments)

    def close(self) -> None:
        """Stop the children."""
        with self._lock:
            if self._pool is not None:
                self._pool.stop()
                self._pool.join()
                self._pool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
