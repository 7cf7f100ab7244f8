"""Where progress goes: the terminal, plain lines, JSON lines, and Prefect's progress artifact."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from nightcast.contracts.progress import Progress, Silent


class Plain:
    """One line an event, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total: int | None = None
        self._done = 0
        self._lock = threading.Lock()

    def stage(self, name: str, total: int | None = None) -> None:
        """A heading line."""
        with self._lock:
            self._total, self._done = total, 0
            count = f" ({total})" if total else ""
            self._stream.write(f"{time.strftime('%H:%M:%S')} {name}{count}\n")
            self._stream.flush()

    def step(self, message: str) -> None:
        """A counted line."""
        with self._lock:
            self._done += 1
            of = f"/{self._total}" if self._total else ""
            self._stream.write(f"{time.strftime('%H:%M:%S')}   {self._done}{of} {message}\n")
            self._stream.flush()

    def say(self, message: str) -> None:
        """A line."""
        with self._lock:
            self._stream.write(f"{time.strftime('%H:%M:%S')}   {message}\n")
            self._stream.flush()


class JsonLines:
    """One JSON object an event on stderr; the result stays alone on stdout."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()

    def _write(self, **event: Any) -> None:
        with self._lock:
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()

    def stage(self, name: str, total: int | None = None) -> None:
        """Event `stage`."""
        self._write(event="stage", name=name, total=total)

    def step(self, message: str) -> None:
        """Event `step`."""
        self._write(event="step", message=message)

    def say(self, message: str) -> None:
        """Event `say`."""
        self._write(event="say", message=message)


class Bars:
    """Progress bars on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Rich

        self._console = Console(stderr=True)
        self._rich = Rich(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[last]}"),
            console=self._console,
        )
        self._task: Any = None
        self._open_ended = False
        self._rich.start()

    def stage(self, name: str, total: int | None = None) -> None:
        """A new bar; the one before is complete."""
        self._finish()
        self._open_ended = total is None
        self._task = self._rich.add_task(name, total=total or 1, last="")

    def _finish(self) -> None:
        if self._task is not None and self._open_ended:
            self._rich.update(self._task, completed=1)

    def step(self, message: str) -> None:
        """One more on the bar."""
        if self._task is not None:
            self._rich.update(self._task, advance=0 if self._open_ended else 1, last=message[:60])

    def say(self, message: str) -> None:
        """A line above the bars."""
        self._rich.console.print(message, style="yellow", highlight=False)

    def close(self) -> None:
        """Leave the bars as they stand."""
        self._finish()
        self._rich.stop()


class PrefectArtifact:
    """Prefect's progress artifact and log; does nothing where no flow run is active."""

    def __init__(self) -> None:
        self._artifact: Any = None
        self._total = 0
        self._done = 0
        self._lock = threading.Lock()

    def stage(self, name: str, total: int | None = None) -> None:
        """A new artifact for a stage with a known number of steps."""
        from prefect.artifacts import create_progress_artifact
        from prefect.context import FlowRunContext

        self._log(name if total is None else f"{name} ({total})")
        if FlowRunContext.get() is None:
            return
        with self._lock:
            self._artifact, self._total, self._done = None, total or 0, 0
            if total:
                self._artifact = create_progress_artifact(0.0, key="nightcast-progress", description=name)

    def step(self, message: str) -> None:
        """Move the artifact."""
        self._log(message)
        with self._lock:
            self._done += 1
            artifact, share = self._artifact, min(100.0, 100.0 * self._done / max(1, self._total))
        if artifact is not None:
            from prefect.artifacts import update_progress_artifact

            update_progress_artifact(artifact, progress=share)

    def say(self, message: str) -> None:
        """A log line."""
        self._log(message)

    @staticmethod
    def _log(message: str) -> None:
        from prefect.exceptions import MissingContextError
        from prefect.logging import get_run_logger

        try:
            get_run_logger().info(message)
        except MissingContextError:
            return


class Several:
    """Tells several listeners."""

    def __init__(self, listeners: Sequence[Progress]) -> None:
        self._listeners = tuple(listeners)

    def stage(self, name: str, total: int | None = None) -> None:
        """Tell all."""
        for listener in self._listeners:
            listener.stage(name, total)

    def step(self, message: str) -> None:
        """Tell all."""
        for listener in self._listeners:
            listener.step(message)

    def say(self, message: str) -> None:
        """Tell all."""
        for listener in self._listeners:
            listener.say(message)


_screen: Progress = Silent()


@contextmanager
def on_screen(listener: Progress) -> Iterator[None]:
    """Let nights started in this block report to `listener` too (one at a time in a process)."""
    global _screen
    before, _screen = _screen, listener
    try:
        yield
    finally:
        _screen = before


def screen() -> Progress:
    """The listener of this process."""
    return _screen
