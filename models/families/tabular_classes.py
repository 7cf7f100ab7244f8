"""The tabular classifier: one model per horizon on the decisions' own rows, no windows.

A family learns one horizon from a plain table and hands back a model of the classes it saw; this base takes out the
decisions without a label or a weight, and gives classes that training lacks their prior.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.classifier import Classifier, FitReport, Inputs, Samples
from nightcast.contracts.columns import CLASSES
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.hashing import derive_seed

PRIOR_SHARE: Final = 1e-3
"""Share of the prior mixed into every answer, so that no class is ever called impossible."""

M = TypeVar("M")


@dataclass(frozen=True)
class Table:
    """Decisions of one horizon with a known label and a weight above 0.

    Attributes
    ----------
    x
        `[n, F]` float32 features.
    y
        `[n]` int64 position of the class among those the model knows.
    weight
        `[n]` float64, mean 1.
    row, end
        `[n]` int64 bar of the decision and of its label's end.
    time, end_time
        `[n]` when these bars start.
    total
        Bars in all.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    weight: NDArray[np.float64]
    row: NDArray[np.int64]
    end: NDArray[np.int64]
    time: NDArray[np.datetime64]
    end_time: NDArray[np.datetime64]
    total: int

    def __len__(self) -> int:
        return len(self.y)

    def take(self, chosen: NDArray[Any]) -> Table:
        """Some of the decisions, by mask or position; weights keep their mean of 1."""
        weight = self.weight[chosen]
        return Table(
            self.x[chosen],
            self.y[chosen],
            weight / weight.mean() if len(weight) else weight,
            self.row[chosen],
            self.end[chosen],
            self.time[chosen],
            self.end_time[chosen],
            self.total,
        )

    def split_in_time(self, share: float) -> tuple[Table, Table]:
        """The older decisions whose labels end before the newest `share` begins, and that newest share."""
        count = len(self)
        newest = max(1, round(share * count))
        border = np.sort(self.time)[count - newest]
        return self.take(self.end_time < border), self.take(self.time >= border)


@dataclass(frozen=True)
class Fitted(Generic[M]):
    """One horizon's model and how its fit went.

    Attributes
    ----------
    rounds
        Rounds, trees or iterations run.
    best
        The best of them on the validation decisions, where there were any.
    curve
        Validation log loss of each round.
    """

    model: M
    rounds: int = 1
    best: int | None = None
    stopped: bool = False
    curve: Sequence[float] = field(default_factory=tuple)


class TabularClassifier(Classifier, Generic[M]):
    """One model a horizon on `inputs.table()`.

    A family fills in `fit_horizon`, `class_probabilities`, `write_horizon` and `read_horizon`, and
    `horizon_importance` where it has one. A horizon with one class only (possible where samples are handed in
    directly) has no model and answers its prior.
    """

    names: tuple[str, ...]
    models: list[M | None]
    """One a horizon."""
    known_classes: list[tuple[int, ...]]
    """Classes each horizon's model tells apart, in its column order."""

    def learn(self, train: Samples, valid: Samples, *, seed: int) -> FitReport:
        """Fit every horizon on its own."""
        self.names, self.models, self.known_classes = train.inputs.names, [], []
        parts: list[Fitted[M]] = []
        history: dict[str, Sequence[float]] = {}
        learn_x, valid_x = train.inputs.table(), valid.inputs.table()
        for h, horizon in enumerate(train.inputs.horizons):
            classes = tuple(int(k) for k in np.unique(train.y[train.known(h) & (train.weight[:, h] > 0), h]))
            self.known_classes.append(classes)
            if len(classes) < 2:
                self.models.append(None)
                continue
            part = self.fit_horizon(
                horizon_table(train, learn_x, h, classes),
                horizon_table(valid, valid_x, h, classes),
                seed=derive_seed(seed, horizon),
            )
            self.models.append(part.model)
            parts.append(part)
            if len(part.curve):
                history[f"val_loss_{horizon}"] = part.curve
        best = [part.best for part in parts if part.best is not None]
        return FitReport(
            epochs=max((part.rounds for part in parts), default=1),
            best_epoch=max(best, default=None),
            early_stopped=any(part.stopped for part in parts),
            history=history,
        )

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        """`[n, H, 3]`: each horizon's model, with a little of the prior.

        Raises
        ------
        ConfigError
            If the inputs have other columns than those of the fit.
        """
        if inputs.names != self.names:
            raise ConfigError(
                f"{type(self).__name__} was fitted on the columns {list(self.names)} and is asked on "
                f"{list(inputs.names)}",
                expected="the columns of the fit, in their order",
                remedy="transform the bars by the model's own `pipeline`",
            )
        x = inputs.table()
        out = np.empty((len(x), len(self.horizons), len(CLASSES)))
        for h, (model, classes) in enumerate(zip(self.models, self.known_classes, strict=True)):
            prior = self.priors[h]
            if model is None:
                out[:, h] = prior
                continue
            told = np.asarray(self.class_probabilities(model, x), dtype=np.float64)
            full = np.tile(prior, (len(x), 1))
            full[:, classes] = told / told.sum(axis=1, keepdims=True) * prior[list(classes)].sum()
            out[:, h] = (1 - PRIOR_SHARE) * full + PRIOR_SHARE * prior
        return out

    def importance(self) -> dict[str, float] | None:
        """Mean over the horizons of each model's importance, each summing to 1."""
        shares = [_shares(self.horizon_importance(model)) for model in self.models if model is not None]
        told = [share for share in shares if share is not None]
        if not told:
            return None
        return dict(zip(self.names, np.mean(told, axis=0).tolist(), strict=True))

    def horizon_importance(self, model: M) -> NDArray[np.float64] | None:
        """`[F]` importance in any unit, where the family has one."""
        return None

    @abstractmethod
    def fit_horizon(self, train: Table, valid: Table, *, seed: int) -> Fitted[M]:
        """Fit one horizon. `train` holds two or three classes, numbered from 0; `valid` may be empty."""

    @abstractmethod
    def class_probabilities(self, model: M, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """`[n, K]` probabilities of the classes the model knows."""

    @abstractmethod
    def write_horizon(self, folder: Path, stem: str, model: M) -> dict[str, Any]:
        """Write one model's files, named after `stem`; return the rest as JSON values."""

    @abstractmethod
    def read_horizon(self, folder: Path, stem: str, state: Mapping[str, Any]) -> M:
        """The model that `write_horizon` wrote."""

    def _write(self, folder: Path) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "classes": [list(classes) for classes in self.known_classes],
            "models": [
                None if model is None else self.write_horizon(folder, f"horizon_{horizon}", model)
                for horizon, model in zip(self.horizons, self.models, strict=True)
            ],
        }

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self.names = tuple(state["names"])
        self.known_classes = [tuple(classes) for classes in state["classes"]]
        self.models = [
            None if its is None else self.read_horizon(folder, f"horizon_{horizon}", its)
            for horizon, its in zip(self.horizons, state["models"], strict=True)
        ]


def horizon_table(samples: Samples, x: NDArray[np.float32], h: int, classes: tuple[int, ...]) -> Table:
    """The decisions of one horizon whose label is known, among `classes`, and weighs something.

    Parameters
    ----------
    x
        `[n, F]` features of all decisions of the samples.
    h
        Position of the horizon.
    """
    inputs = samples.inputs
    position = np.full(len(CLASSES), -1, dtype=np.int64)
    position[list(classes)] = np.arange(len(classes))
    use = samples.known(h) & (samples.weight[:, h] > 0)
    use[use] = position[samples.y[use, h]] >= 0
    weight = samples.weight[use, h].astype(np.float64)
    row = inputs.rows[use]
    end = row + samples.hold[use, h]
    last = len(inputs.times) - 1
    return Table(
        x=x[use],
        y=position[samples.y[use, h]],
        weight=weight / weight.mean() if len(weight) else weight,
        row=row,
        end=end,
        time=inputs.times[row],
        end_time=inputs.times[np.minimum(end, last)],
        total=len(inputs.base),
    )


def mean_uniqueness(table: Table) -> float:
    """Mean share of its own time that a label has for itself, in (0, 1] (Lopez de Prado 2018, 4.4)."""
    from nightcast.features.weights import uniqueness

    # samples made of plain arrays may hold labels that end beyond the bars they show
    total = max(table.total, int(table.end.max()) + 1)
    return float(np.mean(uniqueness(table.row, (table.end - table.row).astype(np.int32), total)))


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[n, K]` probabilities of `[n, K]` scores."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _shares(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    if values is None:
        return None
    total = float(values.sum())
    # a model without a single split finds no column more useful than another
    return np.full(len(values), 1.0 / len(values)) if total <= 0 else np.asarray(values / total)
