"""Learning-rate schedules, as factors of the base rate; their whole state is JSON, so that a fit can resume."""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

ScheduleName = Literal["none", "cosine", "plateau"]


class Schedule(Protocol):
    """Factor of the base learning rate at each optimiser step."""

    def factor(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        ...

    def observe(self, loss: float) -> None:
        """Hear the validation loss of a finished epoch; lower is better."""
        ...

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ...


class Constant:
    """Linear warm-up, then 1.

    Parameters
    ----------
    warmup
        Steps of the warm-up: step s of it has the factor `(s + 1) / warmup`.
    """

    def __init__(self, *, warmup: int = 0) -> None:
        self.warmup = warmup

    def factor(self, step: int) -> float:
        """The factor at a step."""
        return min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0

    def observe(self, loss: float) -> None:
        """Nothing depends on it."""

    def state(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to go on from."""


class Cosine(Constant):
    """Linear warm-up, then half a cosine down to `floor` at the last step (Loshchilov and Hutter 2017).

    Parameters
    ----------
    steps
        Steps of the whole fit.
    floor
        Last factor.
    """

    def __init__(self, *, steps: int, warmup: int = 0, floor: float = 0.0) -> None:
        super().__init__(warmup=warmup)
        self.steps, self.floor = steps, floor

    def factor(self, step: int) -> float:
        """The factor at a step."""
        if step < self.warmup:
            return super().factor(step)
        share = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share))


class Plateau(Constant):
    """Linear warm-up, then cut by `cut` after more than `patience` epochs without a lower validation loss.

    Parameters
    ----------
    floor
        Smallest factor.
    """

    def __init__(self, *, patience: int = 5, cut: float = 0.5, warmup: int = 0, floor: float = 0.0) -> None:
        super().__init__(warmup=warmup)
        self.patience, self.cut, self.floor = patience, cut, floor
        self.scale, self.best, self.waited = 1.0, math.inf, 0

    def factor(self, step: int) -> float:
        """The factor at a step."""
        return super().factor(step) * self.scale

    def observe(self, loss: float) -> None:
        """Cut the rate when the loss has not fallen for too long."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.scale, self.waited = max(self.scale * self.cut, self.floor), 0

    def state(self) -> dict[str, Any]:
        """Scale, best loss and epochs waited."""
        best = None if math.isinf(self.best) else self.best
        return {"scale": self.scale, "best": best, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        best = state["best"]
        self.scale, self.waited = float(state["scale"]), int(state["waited"])
        self.best = math.inf if best is None else float(best)


def make_schedule(
    name: ScheduleName,
    *,
    epochs: int,
    steps_per_epoch: int,
    warmup: float = 0.0,
    floor: float = 0.0,
    plateau_patience: int = 5,
    plateau_cut: float = 0.5,
) -> Schedule:
    """A schedule by name.

    Parameters
    ----------
    warmup
        Epochs of warm-up; at most half of all steps, so that a short fit also trains at its full rate.
    floor
        Smallest factor of the base rate.
    """
    steps = epochs * steps_per_epoch
    warm = min(round(warmup * steps_per_epoch), steps // 2)
    if name == "cosine":
        return Cosine(steps=steps, warmup=warm, floor=floor)
    if name == "plateau":
        return Plateau(patience=plateau_patience, cut=plateau_cut, warmup=warm, floor=floor)
    return Constant(warmup=warm)
