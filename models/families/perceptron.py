"""Quantile perceptrons: a small feed-forward network, or none at all (linear), over all series on rows of ratios.

Where panels are small a linear quantile regression is hard to beat, and a little network beside boosted trees makes
other errors than they do: the three average well.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.arrays import read_arrays, write_arrays
from models.grid import FloatArray
from models.ratios import Float32Array, RatioForecaster, RatioParams, Rows
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import LEVELS
from nightcast.contracts.errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor, nn

MISSING_SHARE = 0.01
"""Share of unknown values from which on an input's being unknown is an input of its own."""
FAR = 5.0
"""Standardised inputs further out than this are pulled in."""
FILE = "perceptron.safetensors"


class PerceptronParams(RatioParams):
    """Parameters of the quantile perceptron.

    Attributes
    ----------
    hidden
        Units of each hidden layer; none makes it a linear quantile regression.
    members
        Networks whose quantiles are averaged; they differ by their random start and order of rows.
    epochs, batch_size, learning_rate, weight_decay, dropout
        Of the training by AdamW on a one-cycle schedule (Smith and Topin 2019).
    largest
        Ratios above it are learnt as it: a restart from almost nothing is a ratio of thousands.
    """

    hidden: tuple[int, ...] = (64, 64)
    members: int = Field(default=3, ge=1)
    epochs: int = Field(default=12, ge=1)
    batch_size: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    largest: float = Field(default=4.0, gt=1)


@dataclass(frozen=True)
class Standardised:
    """How inputs enter the network: signed logarithm, standardised, unknown ones at the mean and perhaps marked.

    Attributes
    ----------
    mean, spread
        `[F]` of the training rows.
    marked
        Inputs whose being unknown is told.
    """

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    marked: NDArray[np.int64]

    @classmethod
    def of(cls, x: Float32Array) -> Standardised:
        """Learn from training rows."""
        known = np.isfinite(x)
        count = np.maximum(known.sum(axis=0), 1)
        value = np.where(known, _signed_log(x), 0.0)
        mean = value.sum(axis=0) / count
        spread = np.sqrt((np.where(known, value - mean, 0.0) ** 2).sum(axis=0) / count)
        marked = np.flatnonzero((~known).mean(axis=0) > MISSING_SHARE)
        return cls(mean, np.where(spread > 1e-9, spread, 1.0), marked)

    def apply(self, x: Float32Array) -> Float32Array:
        """`[R, F + marked]`."""
        known = np.isfinite(x)
        value = np.where(known, (_signed_log(x) - self.mean) / self.spread, 0.0)
        return np.hstack([np.clip(value, -FAR, FAR), ~known[:, self.marked]]).astype(np.float32)


class PerceptronGlobal(RatioForecaster):
    """A feed-forward network over all series, all quantiles at once (pinball loss; Koenker and Bassett 1978)."""

    Params = PerceptronParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=frozenset({"past", "plan", "static"}), min_history=1)
    params: PerceptronParams
    inputs: Standardised
    weights: list[list[NDArray[np.float32]]]
    """Member -> weight and bias of each layer in turn."""

    def learn(self, rows: Rows, *, seed: int) -> None:
        """Train the members, one after another."""
        import torch

        self.inputs = Standardised.of(rows.x)
        x = torch.from_numpy(self.inputs.apply(rows.x))
        y = torch.from_numpy(np.clip(rows.y, 0 if rows.y.min() >= 0 else -np.inf, self.params.largest)).float()
        weight = torch.from_numpy(rows.weight).float()
        start = np.quantile(rows.y, LEVELS)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.weights = [self._member(x, y, weight, start) for _ in range(self.params.members)]
        finally:
            torch.set_num_threads(threads)

    def ratios(self, x: Float32Array, horizon: int) -> FloatArray:
        """Mean of the members' sorted quantiles."""
        value = self.inputs.apply(x)
        total: FloatArray = np.zeros((len(x), len(LEVELS)))
        for layers in self.weights:
            out = value
            for i in range(0, len(layers), 2):
                out = (_gelu(out) if i else out) @ layers[i].T + layers[i + 1]
            total += np.sort(out.astype(np.float64), axis=1)
        return total / len(self.weights)

    def write_learnt(self, folder: Path) -> dict[str, Any]:
        """Weights as safetensors."""
        arrays: dict[str, NDArray[Any]] = {name: getattr(self.inputs, name) for name in ("mean", "spread", "marked")}
        for member, layers in enumerate(self.weights):
            arrays |= {f"m{member}_{i}": layer for i, layer in enumerate(layers)}
        write_arrays(folder / FILE, arrays)
        return {"members": len(self.weights), "layers": len(self.weights[0])}

    def read_learnt(self, folder: Path, state: dict[str, Any]) -> None:
        """Weights from safetensors."""
        arrays = read_arrays(folder / FILE)
        self.inputs = Standardised(arrays["mean"], arrays["spread"], arrays["marked"])
        self.weights = [[arrays[f"m{m}_{i}"] for i in range(state["layers"])] for m in range(state["members"])]

    def _member(self, x: Tensor, y: Tensor, weight: Tensor, start: FloatArray) -> list[NDArray[np.float32]]:
        import torch
        from torch import nn

        params = self.params
        sizes = (x.shape[1], *params.hidden)
        layers: list[nn.Module] = []
        for width, units in pairwise(sizes):
            layers += [nn.Linear(width, units), nn.GELU(), nn.Dropout(params.dropout)]
        last = nn.Linear(sizes[-1], len(LEVELS))
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.copy_(torch.from_numpy(start))
        net = nn.Sequential(*layers, last)
        level = torch.tensor(LEVELS)
        size = min(params.batch_size, len(x))
        steps = params.epochs * (len(x) // size)
        optimiser = torch.optim.AdamW(net.parameters(), lr=params.learning_rate, weight_decay=params.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, params.learning_rate, total_steps=steps)
        net.train()
        for _ in range(params.epochs):
            order = torch.randperm(len(x))
            for i in range(len(x) // size):
                chosen = order[i * size : (i + 1) * size]
                error = y[chosen, None] - net(x[chosen])
                loss = (torch.maximum(level * error, (level - 1) * error).mean(dim=1) * weight[chosen]).mean()
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
        found = [value.detach().numpy().copy() for value in net.parameters()]
        if not all(np.isfinite(value).all() for value in found):
            raise TrainingError(
                f"{type(self).__name__} has weights that are not finite",
                expected="a training that converges",
                remedy="lower `learning_rate`, or look for wild values in the covariates",
            )
        return found


def _signed_log(x: Float32Array) -> FloatArray:
    value: FloatArray = np.sign(x) * np.log1p(np.abs(x.astype(np.float64)))
    return value


def _gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy.special import ndtr

    return np.asarray(x * ndtr(x), dtype=np.float32)
