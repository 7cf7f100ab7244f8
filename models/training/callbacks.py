"""What can look into a fit, or change its course, between its steps.

A callback is handed the run: it reads the network, the data and the scores, and acts through `stop` and `rollback`, or
by changing what it was built with (a loss's class weights, a sampler's quotas). What it remembers goes through `state`
and `restore`, so that a resumed fit equals an uninterrupted one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nightcast.contracts.progress import Progress

if TYPE_CHECKING:
    from models.nn.windows import Batch
    from models.training.engine import Run
    from models.training.scoring import EpochScores


class Callback:
    """Hears every moment of a fit and does nothing; a subclass overrides what it needs."""

    def on_start(self, run: Run) -> None:
        """The first epoch is about to begin (after a resume: the next one)."""

    def before_epoch(self, run: Run) -> None:
        """An epoch is about to begin; `run.epoch` epochs are done."""

    def after_batch(self, run: Run, batch: Batch, loss: float) -> None:
        """The optimiser took a step on a batch (the last part of it, if gradients accumulate)."""

    def after_epoch(self, run: Run, train: EpochScores, valid: EpochScores | None) -> None:
        """An epoch was scored and entered in the history, as number `run.epoch`."""

    def on_end(self, run: Run) -> None:
        """The fit is over; the network holds the weights that are kept."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


class CollapseAlarm(Callback):
    """Ends a fit whose predictions pile up in one class.

    The alarm watches the KL divergence from the mean predicted probabilities of the validation rows to the prior, the
    largest of all horizons. Mean probabilities, not the shares of the winning class: on data without signal an honest
    network always names the majority, and that is no fault.

    Parameters
    ----------
    prior
        `[H, 3]` class shares of the training labels.
    limit
        Divergence in nats beyond which an epoch counts as collapsed.
    epochs
        Collapsed epochs in a row that set the alarm off.
    action
        `stop`: keep the best epoch so far. `rollback`: go back to it and train on at half the rate.
    """

    def __init__(
        self,
        prior: NDArray[np.float64],
        *,
        limit: float = 0.5,
        epochs: int = 2,
        action: Literal["stop", "rollback"] = "stop",
    ) -> None:
        self.prior, self.limit, self.epochs, self.action = prior, limit, epochs, action
        self.collapsed = 0

    def after_epoch(self, run: Run, train: EpochScores, valid: EpochScores | None) -> None:
        """Count collapsed epochs, and act on the last of them."""
        share = (valid or train).share
        worst = float(divergence(share, self.prior).max())
        self.collapsed = self.collapsed + 1 if worst > self.limit else 0
        if self.collapsed < self.epochs:
            return
        self.collapsed = 0
        words = ", ".join(f"{value:.2f}" for value in share[int(divergence(share, self.prior).argmax())])
        detail = f"mean probabilities {words}, {worst:.2f} nats from the prior"
        if self.action == "stop":
            run.stop("collapse", detail)
        else:
            run.rollback("collapse", detail)

    def state(self) -> dict[str, Any]:
        """Collapsed epochs in a row."""
        return {"collapsed": self.collapsed}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.collapsed = int(state["collapsed"])


class ProgressLines(Callback):
    """Tells a `Progress` one line an epoch."""

    def __init__(self, progress: Progress, *, name: str = "training") -> None:
        self.progress, self.name = progress, name

    def on_start(self, run: Run) -> None:
        """Open the stage."""
        self.progress.stage(self.name, total=run.settings.epochs)

    def after_epoch(self, run: Run, train: EpochScores, valid: EpochScores | None) -> None:
        """Say how the epoch went."""
        line = f"epoch {run.epoch}: train nll {train.nll:.4f}"
        if valid is not None:
            line += f", val nll {valid.nll:.4f}, val macro-F1 {valid.macro_f1:.3f}"
        self.progress.step(line)

    def on_end(self, run: Run) -> None:
        """Say why it ended, unless it simply ran through."""
        for event in run.events:
            self.progress.say(f"epoch {event.epoch}: {event.kind}: {event.detail}")


def divergence(share: NDArray[np.float64], prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of shares `[..., K]` from priors `[..., K]` in nats, over the last axis.

    A class whose prior is below 1e-6 counts as if it had that share.
    """
    p, q = np.asarray(share, dtype=np.float64), np.clip(np.asarray(prior, dtype=np.float64), 1e-6, None)
    ratio = np.where(p > 0, p, 1.0) / q
    return np.asarray(np.where(p > 0, p * np.log(ratio), 0.0).sum(axis=-1))
