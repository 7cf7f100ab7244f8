"""Scores of a network on windows, from one pass over them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.nn.losses import MultiHorizonLoss
from models.nn.windows import IntArray, LabelledWindows, Windows
from models.training.devices import autocast
from nightcast.contracts.bars import UNKNOWN_LABEL
from nightcast.contracts.columns import CLASSES


@dataclass(frozen=True)
class EpochScores:
    """A network's scores on some windows, from one pass.

    Attributes
    ----------
    loss
        The training loss, without dropout.
    nll
        Weighted mean negative log-likelihood, averaged over the horizons by their alphas.
    confusion
        `[H, 3, 3]` counts, true class by most probable class.
    share
        `[H, 3]` mean predicted probabilities.
    """

    loss: float
    nll: float
    confusion: NDArray[np.int64]
    share: NDArray[np.float64]

    @property
    def accuracy(self) -> float:
        """Share of known labels whose class is the most probable one."""
        return float(np.trace(self.confusion, axis1=1, axis2=2).sum() / max(1, self.confusion.sum()))

    @property
    def f1(self) -> NDArray[np.float64]:
        """`[3]` F1 per class, averaged over the horizons; 0 for a class that is neither there nor predicted."""
        hit = np.diagonal(self.confusion, axis1=1, axis2=2)
        total = self.confusion.sum(axis=1) + self.confusion.sum(axis=2)
        return np.asarray((2 * hit / np.maximum(total, 1)).mean(axis=0))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes."""
        return float(self.f1.mean())

    def row(self, part: str) -> dict[str, float]:
        """Name -> value for the history, `val_nll`, `val_f1_short`, ..."""
        names = {f"f1_{name}": float(value) for name, value in zip(CLASSES, self.f1, strict=True)}
        values = {"loss": self.loss, "nll": self.nll, "accuracy": self.accuracy, "macro_f1": self.macro_f1, **names}
        return {f"{part}_{name}": value for name, value in values.items()}


@torch.no_grad()
def evaluate(
    module: nn.Module,
    data: LabelledWindows,
    loss: MultiHorizonLoss,
    *,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
    amp: bool = False,
) -> EpochScores:
    """Score a network on labelled windows in one pass, without dropout; its mode is given back."""
    training = module.training
    module.eval()
    horizons, classes = data.horizons, len(CLASSES)
    sums = torch.zeros((2, horizons), dtype=torch.float64)
    weights = torch.zeros(horizons, dtype=torch.float64)
    confusion = np.zeros((horizons, classes, classes), dtype=np.int64)
    share = np.zeros((horizons, classes))
    for index in _chunks(len(data), batch_size):
        batch = data.batch(index, device)
        with autocast(device, amp):
            logits = module(batch.x)
        logits = logits.float()
        mine, weight = loss.sums(logits, batch.y, batch.weight)
        log_p = torch.log_softmax(logits, dim=-1)
        known = batch.y != UNKNOWN_LABEL
        nll = -log_p.gather(-1, batch.y.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        plain = torch.where(known, nll * batch.weight, 0.0).sum(dim=0)
        sums += torch.stack([mine, plain]).double().cpu()
        weights += weight.double().cpu()
        share += log_p.exp().double().sum(dim=0).cpu().numpy()
        guess, truth = logits.argmax(dim=-1).cpu().numpy(), data.y[index]
        for h in range(horizons):
            rows = truth[:, h] != UNKNOWN_LABEL
            pairs = truth[rows, h].astype(np.int64) * classes + guess[rows, h]
            confusion[h] += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    module.train(training)
    alphas = loss.alphas.detach().double().cpu()
    means = sums[1] / torch.where(weights > 0, weights, 1.0)
    there = alphas * (weights > 0)
    return EpochScores(
        loss=float(loss.combine(sums[0].to(loss.alphas.device), weights.to(loss.alphas.device))),
        nll=float((there * means).sum() / there.sum().clamp_min(1e-12)),
        confusion=confusion,
        share=share / max(1, len(data)),
    )


@torch.no_grad()
def predict_logits(
    module: nn.Module, windows: Windows, *, batch_size: int = 512, device: torch.device | str = "cpu"
) -> NDArray[np.float32]:
    """`[n, H, 3]` logits of windows, without dropout; the module stays in evaluation mode."""
    module.eval()
    parts = [
        module(windows.batch(index).to(device)).float().cpu().numpy() for index in _chunks(len(windows), batch_size)
    ]
    return np.concatenate(parts)


def _chunks(count: int, size: int) -> Iterator[IntArray]:
    for begin in range(0, count, size):
        yield np.arange(begin, min(begin + size, count))
