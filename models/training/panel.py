"""The training loop of panel networks: windows in, quantiles out, the same to the bit when it is run again."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from models.base import Hyperparameters
from models.nn.panel_windows import PanelBatch, PanelWindows
from models.training.devices import deterministic
from models.training.schedules import ScheduleName, make_schedule
from nightcast.contracts.columns import LEVELS
from nightcast.contracts.errors import TrainingError

Stopped = Literal["epochs", "max_steps", "patience", "budget"]


class PanelSettings(Hyperparameters):
    """How a panel network is trained, on the CPU.

    Attributes
    ----------
    epochs, max_steps
        Passes over the windows, and optimiser steps; whichever ends first.
    batch_size
        Windows behind one step.
    lr, weight_decay
        Of AdamW.
    schedule, warmup
        `none`, `cosine` or `plateau`, after `warmup` epochs of linear warm-up.
    clip
        Largest norm of the gradient.
    ema
        Decay of an exponential moving average of the weights, which is then what is scored and kept; None: none.
    patience
        Epochs without a lower validation loss that end the fit, where there are validation windows; None: never.
    max_seconds
        Wall clock. A fit that reaches it keeps what it has, says so, and depends on the machine's speed; one that
        does not is the same everywhere.
    threads
        Of torch; one keeps sums in one order.
    """

    epochs: int = Field(default=20, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    schedule: ScheduleName = "cosine"
    warmup: float = Field(default=1.0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    ema: float | None = Field(default=0.99, gt=0, lt=1)
    patience: int | None = Field(default=None, ge=1)
    max_seconds: float | None = Field(default=None, gt=0)
    seed: int = 0
    threads: int = Field(default=1, ge=1)


@dataclass(frozen=True)
class PanelReport:
    """How a fit went.

    Attributes
    ----------
    epochs, steps
        Begun epochs and steps taken.
    best_epoch
        Epoch, from 1, whose weights were kept for their validation loss; None without validation windows.
    stopped
        Why it ended. After `budget` the weights depend on the machine's speed; after all else, on the seed alone.
    train_loss, valid_loss
        One value an epoch.
    seconds
        Wall clock; no part of what is compared or saved.
    """

    epochs: int
    steps: int
    best_epoch: int | None
    stopped: Stopped
    train_loss: tuple[float, ...]
    valid_loss: tuple[float, ...]
    seconds: float = field(compare=False)


def pinball(quantiles: Tensor, batch: PanelBatch, levels: Sequence[float] = LEVELS) -> Tensor:
    """Weighted mean pinball loss over known targets and levels, in units of the series' levels.

    Parameters
    ----------
    quantiles
        `[B, H, Q]`.
    batch
        With `target`, `target_known` and `weight`, all `[B, H]`.
    levels
        The Q quantile levels.
    """
    level = quantiles.new_tensor(list(levels))
    error = batch.target.unsqueeze(2) - quantiles
    loss = torch.maximum(level * error, (level - 1) * error).mean(dim=2)
    weight = batch.weight * batch.target_known
    # where, not a product: what stands at an unknown target must not reach the gradient
    total = torch.where(weight > 0, weight * loss, 0.0).sum()
    return total / weight.sum().clamp_min(1e-12)


def fit_panel(
    module: nn.Module,
    train: PanelWindows,
    settings: PanelSettings,
    *,
    valid: PanelWindows | None = None,
    levels: Sequence[float] = LEVELS,
    penalty: Callable[[], Tensor] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> PanelReport:
    """Train a network and leave the kept weights in it, in evaluation mode.

    Parameters
    ----------
    module
        A mixer, `PanelBatch.inputs` to `[B, H, Q]`.
    train, valid
        Windows to learn from, and to stop by.
    penalty
        Added to the loss after each forward pass.
    clock
        Seconds; for `max_seconds`.

    Raises
    ------
    TrainingError
        If there is no window, or the loss or its gradient is not finite.
    """
    if not len(train):
        raise TrainingError(
            "no training window",
            expected="at least one origin with a known value before and after it",
            remedy="choose a later cutoff, or look at what the raw gate masked",
        )
    with deterministic(settings.seed, threads=settings.threads):
        return _fit(module, train, settings, valid, levels, penalty, clock)


def _fit(
    module: nn.Module,
    train: PanelWindows,
    settings: PanelSettings,
    valid: PanelWindows | None,
    levels: Sequence[float],
    penalty: Callable[[], Tensor] | None,
    clock: Callable[[], float],
) -> PanelReport:
    began = clock()
    batches = math.ceil(len(train) / settings.batch_size)
    steps = settings.epochs * batches
    steps = steps if settings.max_steps is None else min(steps, settings.max_steps)
    # The schedule ends where the fit does, whichever limit that is.
    schedule = make_schedule(
        settings.schedule, epochs=1, steps_per_epoch=steps, warmup=settings.warmup * batches / steps
    )
    optimiser = torch.optim.AdamW(_groups(module, settings.weight_decay), lr=settings.lr)
    average = copy.deepcopy(module.state_dict()) if settings.ema is not None else None
    generator = np.random.default_rng(settings.seed)
    step, epoch, waited = 0, 0, 0
    best_epoch: int | None = None
    best: dict[str, Tensor] | None = None
    train_loss: list[float] = []
    valid_loss: list[float] = []
    stopped: Stopped = "epochs"
    while step < steps and stopped == "epochs":
        epoch += 1
        losses: list[float] = []
        module.train()
        for index in np.array_split(generator.permutation(len(train)), batches):
            for group in optimiser.param_groups:
                group["lr"] = settings.lr * schedule.factor(step)
            losses.append(_step(module, optimiser, train.batch(np.sort(index)), settings.clip, levels, penalty))
            step += 1
            if average is not None and settings.ema is not None:
                _update(average, module, min(settings.ema, (1 + step) / (10 + step)))
            if step >= steps:
                stopped = "epochs" if steps == settings.epochs * batches else "max_steps"
                break
            if settings.max_seconds is not None and clock() - began >= settings.max_seconds:
                stopped = "budget"
                break
        train_loss.append(float(np.mean(losses)))
        if valid is None or not len(valid):
            continue
        kept = average if average is not None else module.state_dict()
        score = _score(module, kept, valid, settings.batch_size, levels)
        schedule.observe(score)
        if best_epoch is None or score < min(valid_loss):
            best_epoch, best, waited = epoch, copy.deepcopy(kept), 0
        else:
            waited += 1
        valid_loss.append(score)
        if stopped == "epochs" and settings.patience is not None and waited >= settings.patience:
            stopped = "patience"
    if best is not None or average is not None:
        module.load_state_dict(best if best is not None else average or {})
    module.eval()
    return PanelReport(epoch, step, best_epoch, stopped, tuple(train_loss), tuple(valid_loss), seconds=clock() - began)


@torch.no_grad()
def predict_panel(module: nn.Module, windows: PanelWindows, *, batch_size: int = 512, threads: int = 1) -> Tensor:
    """`[n, H, Q]` quantiles of windows in units of their levels; the module stays in evaluation mode."""
    with deterministic(0, threads=threads):
        module.eval()
        places = np.arange(len(windows))
        parts = [module(*windows.batch(places[i : i + batch_size]).inputs) for i in range(0, len(places), batch_size)]
        return torch.cat(parts)


def _step(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: PanelBatch,
    clip: float,
    levels: Sequence[float],
    penalty: Callable[[], Tensor] | None,
) -> float:
    optimiser.zero_grad(set_to_none=True)
    loss = pinball(module(*batch.inputs), batch, levels)
    whole = loss if penalty is None else loss + penalty()
    whole.backward()  # type: ignore[no-untyped-call]
    norm = float(nn.utils.clip_grad_norm_(module.parameters(), clip))
    value = float(loss.detach())
    if not math.isfinite(value) or not math.isfinite(norm):
        raise TrainingError(
            f"the loss of {type(module).__name__} is {value:g} and its gradient's norm {norm:g}",
            expected="finite numbers",
            remedy="lower `lr`, or look for inputs of absurd size",
        )
    optimiser.step()
    return value


def _groups(module: nn.Module, decay: float) -> list[dict[str, object]]:
    """Weights decay, biases and gains do not: those would be pulled off the level they hold."""
    matrices = [p for name, p in module.named_parameters() if p.dim() > 1 and not name.endswith("anchor.score")]
    chosen = {id(p) for p in matrices}
    others = [p for p in module.parameters() if id(p) not in chosen]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


@torch.no_grad()
def _update(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    for name, value in module.state_dict().items():
        average[name].lerp_(value, 1 - decay)


@torch.no_grad()
def _score(
    module: nn.Module, weights: dict[str, Tensor], valid: PanelWindows, batch_size: int, levels: Sequence[float]
) -> float:
    """The validation loss of some weights; the module's own are put back."""
    own = copy.deepcopy(module.state_dict())
    module.load_state_dict(weights)
    module.eval()
    total = weight = 0.0
    places = np.arange(len(valid))
    for begin in range(0, len(places), max(batch_size, 512)):
        batch = valid.batch(places[begin : begin + max(batch_size, 512)])
        share = float((batch.weight * batch.target_known).sum())
        total += share * float(pinball(module(*batch.inputs), batch, levels))
        weight += share
    module.load_state_dict(own)
    return total / max(weight, 1e-12)
