"""Progress as a callback, so that the engine knows neither terminal nor orchestrator."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Hears what long work is doing."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage begins; `total` is its number of steps, if known."""
        ...

    def step(self, message: str) -> None:
        """One step of the stage is done."""
        ...

    def say(self, message: str) -> None:
        """Something worth a line."""
        ...


class Silent:
    """Hears nothing."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Ignore."""

    def step(self, message: str) -> None:
        """Ignore."""

    def say(self, message: str) -> None:
        """Ignore."""
