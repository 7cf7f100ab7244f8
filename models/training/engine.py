"""The training loop: many small fits inside folds, each the same to the bit when it is run again.

`fit` trains a network on labelled windows and leaves the best epoch's weights in it. It holds the random state, the
threads and the choice of algorithms to itself and gives them back. What belongs to one model or one technique comes in
from outside: the loss, the sampler, the callbacks.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from models.base import Hyperparameters
from models.classifier import FitReport, thinned
from models.nn.losses import MultiHorizonLoss
from models.nn.windows import IntArray, LabelledWindows
from models.training.callbacks import Callback
from models.training.checkpoints import Checkpoints
from models.training.devices import Device, autocast, deterministic, resolve_device
from models.training.schedules import Schedule, ScheduleName, make_schedule
from models.training.scoring import EpochScores, evaluate
from nightcast.contracts.bars import UNKNOWN_LABEL
from nightcast.contracts.errors import ConfigError, TrainingError
from nightcast.contracts.hashing import hash_json

Monitor = Literal["nll", "macro_f1"]
Stopped = Literal["epochs", "patience", "budget", "collapse", "diverged", "callback"]
"""Why a fit ended: all epochs done, no improvement for `patience` epochs, the wall clock, the collapse alarm, too many
numbers that were not finite, or a callback's own reason."""


class TrainingSettings(Hyperparameters):
    """How a network is trained.

    Attributes
    ----------
    epochs, batch_size
        Passes over the training windows, and windows behind one optimiser step.
    optimiser, lr, weight_decay
        Adam with L2 decay, or AdamW with decoupled decay; the base learning rate.
    schedule, warmup, min_lr, plateau_patience
        `none`, `cosine` or `plateau`, after `warmup` epochs of linear warm-up, down to `min_lr`.
    clip
        Largest norm of the gradient; None: no limit.
    accumulate
        Parts a batch is cut into to save memory; the gradient stays that of the whole batch.
    ema
        Decay of an exponential moving average of the weights, which is then scored and kept; None: none.
    monitor
        Validation score that picks the best epoch and stops early: `nll` (lower) or `macro_f1` (higher).
    patience, min_delta
        Epochs without an improvement beyond `min_delta` after which the fit ends; None: never.
    max_rollbacks
        Returns to the last good state, at half the rate each, before a fit gives up.
    train_rows
        Training windows, evenly spaced in time, that are scored after each epoch.
    keep
        Best epochs that stay on disk, where the fit has a folder.
    threads
        Of torch; one keeps sums in one order.
    device, amp
        `auto` takes CUDA where there is one. bfloat16 autocast on CUDA devices that support it; never on the CPU.
    """

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=256, ge=1)
    optimiser: Literal["adamw", "adam"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: ScheduleName = "cosine"
    warmup: float = Field(default=0.0, ge=0)
    min_lr: float = Field(default=0.0, ge=0)
    plateau_patience: int = Field(default=5, ge=0)
    clip: float | None = Field(default=1.0, gt=0)
    accumulate: int = Field(default=1, ge=1)
    ema: float | None = Field(default=None, gt=0, lt=1)
    monitor: Monitor = "nll"
    patience: int | None = Field(default=None, ge=1)
    min_delta: float = Field(default=0.0, ge=0)
    max_rollbacks: int = Field(default=4, ge=0)
    train_rows: int = Field(default=4096, ge=1)
    keep: int = Field(default=3, ge=1)
    seed: int = 0
    threads: int = Field(default=1, ge=1)
    device: Device = "auto"
    amp: bool = False


@dataclass(frozen=True)
class Event:
    """Something out of the ordinary: in which epoch (from 1), what kind, and in words."""

    epoch: int
    kind: str
    detail: str


@dataclass(frozen=True)
class TrainingReport(FitReport):
    """How a network's fit went.

    Attributes
    ----------
    stopped
        Why it ended. After `budget` the numbers depend on the machine's speed; after all else, on the seed alone.
    events
        Rollbacks, alarms, the cut by the budget.
    seconds
        Wall clock, with the time before a resume; no part of what is compared or saved.
    """

    stopped: Stopped = "epochs"
    events: tuple[Event, ...] = ()
    seconds: float = field(default=0.0, compare=False)


class Sampler(Protocol):
    """Which training windows each batch holds."""

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self) -> Iterator[IntArray]:
        """The batches of the next epoch, as positions in the training data."""
        ...

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ...


class Shuffled:
    """Every window once an epoch, in a new order each time; batches as equal as can be, so that none is tiny."""

    def __init__(self, count: int, batch_size: int, *, seed: int) -> None:
        self.count, self.batches = count, math.ceil(count / batch_size)
        self.generator = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self.batches

    def epoch(self) -> Iterator[IntArray]:
        """The next epoch's batches."""
        yield from np.array_split(self.generator.permutation(self.count), self.batches)

    def state(self) -> dict[str, Any]:
        """The generator's state."""
        return {"generator": self.generator.bit_generator.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.generator.bit_generator.state = state["generator"]


def fit(
    module: nn.Module,
    train: LabelledWindows,
    valid: LabelledWindows | None,
    loss: MultiHorizonLoss,
    settings: TrainingSettings,
    *,
    callbacks: Sequence[Callback] = (),
    budget_seconds: float | None = None,
    sampler: Sampler | None = None,
    folder: Path | None = None,
    resume: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> TrainingReport:
    """Train a network and leave the best epoch's weights in it, in evaluation mode, on the settings' device.

    Parameters
    ----------
    module
        `[B, L, F]` to logits `[B, H, 3]`.
    train, valid
        Windows to learn from, and to choose the epoch by; without the latter the last epoch is kept.
    loss
        Of a batch; its alphas also weigh the horizons in `nll`.
    callbacks
        Called in this order.
    budget_seconds
        Wall clock for the whole fit. When it is spent the batch at hand is finished, the epoch so far is scored like
        a whole one, and the best is kept; the report says so.
    sampler
        `Shuffled` if not given. Its positions count the windows of `train.usable()`.
    folder
        Where checkpoints go; nothing is written without it.
    resume
        Go on from the folder's last checkpoint, if it has one. The result is bit-identical to a fit that was never
        interrupted.

    Raises
    ------
    TrainingError
        If there is nothing to learn from, or the loss is not finite however often the rate is halved.
    ConfigError
        If the folder holds another fit's checkpoints, or CUDA is asked for and absent.
    """
    train = train.usable()
    valid = valid.usable() if valid is not None else None
    if not len(train):
        raise TrainingError(
            "no training window has a known label",
            expected="at least one label of positive weight",
            remedy="look at the labels' summary: a span without labels, or a purge that took them all",
        )
    if valid is not None and not len(valid):
        valid = None
    device = resolve_device(settings.device)
    with deterministic(settings.seed, threads=settings.threads, device=device):
        run = Run(
            module=module,
            train=train,
            valid=valid,
            loss=loss,
            settings=settings,
            callbacks=callbacks,
            sampler=Shuffled(len(train), settings.batch_size, seed=settings.seed) if sampler is None else sampler,
            device=device,
            budget_seconds=budget_seconds,
            clock=clock,
        )
        if folder is not None:
            run.keep_in(folder, resume=resume)
        return run.train_network()


class Run:
    """A fit under way, as callbacks see it.

    Attributes
    ----------
    module, train, valid, loss, settings, sampler, device
        As given to `fit`; windows without labels are left out.
    epoch
        Finished epochs.
    step
        Optimiser steps taken.
    history
        Name -> one value an epoch.
    events
        What happened out of the ordinary.
    best_epoch
        The best epoch so far, from 1.
    """

    def __init__(
        self,
        *,
        module: nn.Module,
        train: LabelledWindows,
        valid: LabelledWindows | None,
        loss: MultiHorizonLoss,
        settings: TrainingSettings,
        callbacks: Sequence[Callback],
        sampler: Sampler,
        device: torch.device,
        budget_seconds: float | None,
        clock: Callable[[], float],
    ) -> None:
        self.module, self.loss = module.to(device), loss.to(device)
        self.train, self.valid, self.settings, self.sampler, self.device = train, valid, settings, sampler, device
        self.epoch, self.step = 0, 0
        self.history: dict[str, list[float]] = {}
        self.events: list[Event] = []
        self.best_epoch: int | None = None
        self._callbacks = callbacks
        self._scored = train.subset(thinned(len(train), settings.train_rows))
        kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
        self._optimiser = kind(module.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self._schedule: Schedule = make_schedule(
            settings.schedule,
            epochs=settings.epochs,
            steps_per_epoch=len(sampler),
            warmup=settings.warmup,
            floor=min(1.0, settings.min_lr / settings.lr),
            plateau_patience=settings.plateau_patience,
        )
        self._average = self._weights() if settings.ema is not None else None
        self._best_value, self._reference, self._waited = math.inf, math.inf, 0
        self._best = self._weights()
        self._rate_scale, self._rollbacks, self._last_rate = 1.0, 0, 0.0
        self._good = self._snapshot()
        self._under_way = 0
        self._stopped: Stopped | None = None
        self._rollback_asked: tuple[str, str] | None = None
        self._budget, self._clock, self._began, self._before = budget_seconds, clock, clock(), 0.0
        self._checkpoints: Checkpoints | None = None
        self._fingerprint = ""

    # -- what callbacks may do ---------------------------------------------------------------------------------------

    def stop(self, why: Stopped, detail: str) -> None:
        """End the fit after this epoch; the best epoch is kept."""
        self._stopped = why
        self._note(why, detail)

    def rollback(self, kind: str, detail: str) -> None:
        """After this epoch go back to the best weights, with a fresh optimiser at half the rate."""
        self._rollback_asked = (kind, detail)

    @property
    def seconds(self) -> float:
        """Wall clock so far, with the time before a resume."""
        return self._before + self._clock() - self._began

    # -- the loop ----------------------------------------------------------------------------------------------------

    def train_network(self) -> TrainingReport:
        """Run the epochs and load the best weights."""
        for callback in self._callbacks:
            callback.on_start(self)
        while self.epoch < self.settings.epochs and self._stopped is None:
            self._under_way = 1
            for callback in self._callbacks:
                callback.before_epoch(self)
            if not self._train_epoch() or not self._finish_epoch():
                self._return_to_good()
        self.module.load_state_dict(self._best)
        self.module.eval()
        for callback in self._callbacks:
            callback.on_end(self)
        return TrainingReport(
            epochs=self.epoch,
            best_epoch=self.best_epoch,
            early_stopped=self._stopped == "patience",
            history={name: list(values) for name, values in self.history.items()},
            stopped=self._stopped or "epochs",
            events=tuple(self.events),
            seconds=self.seconds,
        )

    def _train_epoch(self) -> bool:
        """Take the epoch's steps; whether all numbers were finite."""
        self.module.train()
        for number, index in enumerate(self.sampler.epoch(), start=1):
            if not self._take_step(index):
                return False
            if self._over_budget() and number < len(self.sampler):
                self.stop("budget", f"{number} of {len(self.sampler)} batches when {self._budget:g} s were spent")
                break
        return True

    def _take_step(self, index: IntArray) -> bool:
        self._optimiser.zero_grad(set_to_none=True)
        known = self.train.y[index] != UNKNOWN_LABEL
        totals = np.where(known, self.train.weight[index], 0.0).sum(axis=0, dtype=np.float64)
        total = torch.from_numpy(totals.astype(np.float32)).to(self.device)
        value = 0.0
        for part in np.array_split(index, min(self.settings.accumulate, len(index))):
            batch = self.train.batch(part, self.device)
            with autocast(self.device, self.settings.amp):
                logits = self.module(batch.x)
            loss = self.loss(logits.float(), batch.y, batch.weight, total=total)
            loss.backward()
            value += float(loss.detach())
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip or math.inf)
        if not math.isfinite(value) or not math.isfinite(float(norm)):
            return False
        self._last_rate = self._rate()
        for group in self._optimiser.param_groups:
            group["lr"] = self._last_rate
        self._optimiser.step()
        self.step += 1
        self._update_average()
        for callback in self._callbacks:
            callback.after_batch(self, batch, value)
        return True

    def _finish_epoch(self) -> bool:
        """Score the epoch, choose, tell the callbacks, write the checkpoint; whether the scores were finite."""
        live = self._weights()
        if self._average is not None:
            self.module.load_state_dict(self._average)
        weights = self._weights()
        train = self._score(self._scored)
        valid = self._score(self.valid) if self.valid is not None else None
        self.module.load_state_dict(live)
        if not all(math.isfinite(scores.loss + scores.nll) for scores in (train, valid) if scores is not None):
            return False
        self.epoch, self._under_way = self.epoch + 1, 0
        row = {**train.row("train"), **(valid.row("val") if valid else {}), "lr": self._last_rate}
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)
        self._choose(valid, weights)
        self._schedule.observe((valid or train).nll)
        partial = self._stopped == "budget"
        for callback in self._callbacks:
            callback.after_epoch(self, train, valid)
        if self._rollback_asked is not None:
            self._return_to_best(*self._rollback_asked)
        self._good = self._snapshot()
        # A partial epoch is no state to resume from: a longer budget then goes on from the last whole one.
        if self._checkpoints is not None and not partial:
            monitored = (valid or train).nll if self.settings.monitor == "nll" else (valid or train).macro_f1
            self._checkpoints.offer(self.epoch, monitored, weights, row)
            self._save_last()
        if self._over_budget() and self._stopped is None and self.epoch < self.settings.epochs:
            self.stop("budget", f"{self._budget:g} s were spent after a whole epoch")
        return True

    def _choose(self, valid: EpochScores | None, weights: dict[str, Tensor]) -> None:
        """Keep the best weights, the earlier ones among equals, and count epochs without an improvement."""
        if valid is None:
            self._best, self.best_epoch = weights, self.epoch
            return
        value = valid.nll if self.settings.monitor == "nll" else -valid.macro_f1
        if value < self._best_value:
            self._best_value, self._best, self.best_epoch = value, weights, self.epoch
        if value < self._reference - self.settings.min_delta:
            self._reference, self._waited = value, 0
            return
        self._waited += 1
        if self.settings.patience is not None and self._waited >= self.settings.patience and self._stopped is None:
            self._stopped = "patience"

    # -- going back --------------------------------------------------------------------------------------------------

    def _return_to_good(self) -> None:
        """Undo an epoch whose numbers were not finite, and go on at half the rate."""
        self._restore(self._good)
        if self._stopped is not None:
            return  # the budget cut this epoch: what was good before it is kept
        if self._rollbacks < self.settings.max_rollbacks:
            self._halve("rollback", "a loss or gradient was not finite")
            return
        if self.best_epoch is None:
            raise TrainingError(
                f"the loss of {type(self.module).__name__} is not finite, at the learning rate {self._rate():.3g} too, "
                f"after {self._rollbacks} rollbacks",
                expected="a finite loss in the first epoch",
                remedy="lower `lr`, set `clip`, or look for inputs of absurd size",
            )
        self.stop("diverged", f"not finite again after {self._rollbacks} rollbacks")

    def _return_to_best(self, kind: str, detail: str) -> None:
        self._rollback_asked = None
        if self._rollbacks == self.settings.max_rollbacks:
            self.stop("collapse" if kind == "collapse" else "callback", detail)
            return
        self.module.load_state_dict(self._best)
        if self._average is not None:
            self._average = self._weights()
        self._optimiser.state.clear()
        self._halve(kind, detail)

    def _halve(self, kind: str, detail: str) -> None:
        self._rollbacks += 1
        self._rate_scale /= 2
        self._note(kind, f"{detail}; on at half the rate")

    # -- pieces ------------------------------------------------------------------------------------------------------

    def _rate(self) -> float:
        return self.settings.lr * self._schedule.factor(self.step) * self._rate_scale

    def _over_budget(self) -> bool:
        return self._budget is not None and self.seconds >= self._budget

    def _note(self, kind: str, detail: str) -> None:
        self.events.append(Event(self.epoch + self._under_way, kind, detail))

    def _score(self, data: LabelledWindows) -> EpochScores:
        return evaluate(
            self.module,
            data,
            self.loss,
            batch_size=max(self.settings.batch_size, 512),
            device=self.device,
            amp=self.settings.amp,
        )

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def _update_average(self) -> None:
        if self._average is None or self.settings.ema is None:
            return
        # a young average follows faster, or it would carry the initial weights along
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.module.state_dict().items():
            mine = self._average[name]
            if mine.is_floating_point():
                mine.lerp_(value.detach(), 1 - decay)
            else:
                mine.copy_(value)

    def _snapshot(self) -> dict[str, Any]:
        average = None if self._average is None else {name: value.clone() for name, value in self._average.items()}
        return {
            "weights": self._weights(),
            "optimiser": copy.deepcopy(self._optimiser.state_dict()),
            "average": average,
            "step": self.step,
        }

    def _restore(self, snapshot: Mapping[str, Any]) -> None:
        self.module.load_state_dict(snapshot["weights"])
        self._optimiser.load_state_dict(copy.deepcopy(snapshot["optimiser"]))
        average = snapshot["average"]
        self._average = None if average is None else {name: value.clone() for name, value in average.items()}
        self.step = snapshot["step"]

    # -- on disk -----------------------------------------------------------------------------------------------------

    def keep_in(self, folder: Path, *, resume: bool) -> None:
        """Keep checkpoints in a folder, and go on from its last one."""
        mode: Literal["min", "max"] = "min" if self.settings.monitor == "nll" else "max"
        self._checkpoints = Checkpoints(folder, keep=self.settings.keep, mode=mode)
        facts = {
            # neither where the fit runs nor how many files it keeps changes what it is
            "settings": self.settings.model_dump(mode="json", exclude={"keep"}),
            "train": self.train.fingerprint(),
            "valid": self.valid.fingerprint() if self.valid is not None else None,
            "weights": {name: list(value.shape) for name, value in self.module.state_dict().items()},
            "loss": repr(self.loss) + repr(self.loss.alphas.tolist()),
            "callbacks": [type(callback).__name__ for callback in self._callbacks],
            "sampler": type(self.sampler).__name__,
        }
        self._fingerprint = hash_json(facts)
        if not self._checkpoints.resumable:
            if self._checkpoints.kept and not resume:
                raise _occupied(folder)
            return
        if not resume:
            raise _occupied(folder)
        tensors, facts = self._checkpoints.load_last()
        if facts["fingerprint"] != self._fingerprint:
            raise ConfigError(
                f"the checkpoints in {folder.name!r} are those of another fit",
                expected="the same settings, data and network",
                remedy="begin anew in an empty folder",
            )
        self._resume_from(tensors, facts)

    def _save_last(self) -> None:
        if self._checkpoints is None:
            return
        tensors = {
            **{f"weights/{name}": value for name, value in self._weights().items()},
            **{f"best/{name}": value for name, value in self._best.items()},
            **{f"average/{name}": value for name, value in (self._average or {}).items()},
            "random/cpu": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.device)
        for number, values in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{number}/{name}": value for name, value in values.items()}
        facts = {
            "fingerprint": self._fingerprint,
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "events": [asdict(event) for event in self.events],
            "best_epoch": self.best_epoch,
            "best_value": _finite(self._best_value),
            "reference": _finite(self._reference),
            "waited": self._waited,
            "rate_scale": self._rate_scale,
            "rollbacks": self._rollbacks,
            "stopped": self._stopped,
            "seconds": self.seconds,
            "sampler": self.sampler.state(),
            "schedule": self._schedule.state(),
            "callbacks": [callback.state() for callback in self._callbacks],
        }
        self._checkpoints.save_last(tensors, facts)

    def _resume_from(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        def part(name: str) -> dict[str, Tensor]:
            return {
                k.removeprefix(f"{name}/"): v.to(self.device) for k, v in tensors.items() if k.startswith(f"{name}/")
            }

        self.module.load_state_dict(part("weights"))
        self._best = part("best")
        self._average = part("average") if self._average is not None else None
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser/"):
                _, number, field = name.split("/")
                state.setdefault(int(number), {})[field] = value
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": state, "param_groups": groups})
        self.epoch, self.step = int(facts["epoch"]), int(facts["step"])
        self.history = {name: list(values) for name, values in facts["history"].items()}
        self.events = [Event(**event) for event in facts["events"]]
        self.best_epoch = facts["best_epoch"]
        self._best_value, self._reference = _infinite(facts["best_value"]), _infinite(facts["reference"])
        self._waited = int(facts["waited"])
        self._rate_scale, self._rollbacks = float(facts["rate_scale"]), int(facts["rollbacks"])
        self._stopped = facts["stopped"]
        self._before = float(facts["seconds"])
        self.sampler.restore(facts["sampler"])
        self._schedule.restore(facts["schedule"])
        for callback, its in zip(self._callbacks, facts["callbacks"], strict=True):
            callback.restore(its)
        torch.set_rng_state(tensors["random/cpu"])
        if self.device.type == "cuda" and "random/cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random/cuda"], self.device)
        self._good = self._snapshot()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _infinite(value: float | None) -> float:
    return math.inf if value is None else float(value)


def _occupied(folder: Path) -> ConfigError:
    return ConfigError(
        f"{folder.name!r} holds the checkpoints of a fit already",
        expected="an empty folder",
        remedy="resume that fit with `resume=True`, or begin anew in an empty folder",
    )
