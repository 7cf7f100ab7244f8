"""The baselines every market report shows: what the calendar, the last move, volatility or plain chance would say.

None of them sees a label that was not known at the decision. `skill` means beating `VolatilityOnly`, which knows how
much will happen and nothing about the direction.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from models.classifier import ClassForecast, Classifier, ClassifierParams, FitReport, Inputs, Samples
from models.families.boosted_classes import LightGBMClassifier, LightGBMParams, Native
from models.families.classical_classes import Linear, Logistic, LogisticParams, fit_logistic
from models.families.tabular_classes import Fitted, Table, TabularClassifier, softmax
from nightcast.contracts.bars import BarView
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import CLASSES, HORIZON, ID, LONG, NEUTRAL, SHORT, SIGNAL, TIME
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import ClassProbs

CERTAIN: Final = 0.98
"""Probability of the class that a baseline names outright; 1 would make every miss infinitely bad."""

Cells = NDArray[np.int64]
Signals = NDArray[np.int8]


class BaselineParams(ClassifierParams):
    """What every baseline can be told; of its feature set only the names are read."""

    feature_set: str = "plain10"


class Baseline(Classifier):
    """A baseline; where it trades otherwise than its most probable class, `signals` says so."""

    Params = BaselineParams
    capabilities: ClassVar[Capabilities] = Capabilities(baseline=True)
    params: BaselineParams

    def signals(self, inputs: Inputs) -> Signals | None:
        """`[n, H]` positions of -1, 0 and 1, or None to follow the most probable class."""
        return None

    def forecast(self, view: BarView) -> ClassForecast:
        """Class probabilities with the baseline's own positions."""
        answer = super().forecast(view)
        signals = self.signals(self.inputs(view, view.base[:, :0], view.rows))  # read from the bars alone
        if signals is None or not len(view.rows):
            return answer
        count = len(self.horizons)
        own = pl.DataFrame(
            {
                ID: np.repeat(np.asarray(view.symbols)[view.symbol[view.rows]], count).tolist(),
                TIME: np.repeat(view.times[view.rows], count),
                HORIZON: np.tile(np.asarray(self.horizons, dtype=np.int32), len(view.rows)),
                SIGNAL: signals.ravel(),
            },
            schema_overrides={ID: pl.String, TIME: pl.Datetime("us")},
        )
        frame = answer.prediction.frame.drop(SIGNAL).join(own, on=[ID, TIME, HORIZON], how="left")
        return ClassForecast(ClassProbs.of(frame), answer.left_out, answer.notes)

    def learn(self, train: Samples, valid: Samples, *, seed: int) -> FitReport:
        """Nothing beyond the overall class shares, `priors`."""
        return FitReport()

    def _write(self, folder: Path) -> dict[str, Any]:
        return {}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        pass

    def constant(self, inputs: Inputs) -> NDArray[np.float64]:
        """`[n, H, 3]` overall class shares at every decision."""
        return np.tile(self.priors, (len(inputs.rows), 1, 1))


class ConditionalParams(BaselineParams):
    """Parameters of shares within cells.

    Attributes
    ----------
    pseudo
        Decisions' worth of overall class shares mixed into the shares of each cell.
    """

    pseudo: float = Field(default=100.0, ge=0)


class ConditionalShares(Baseline):
    """Weighted class shares within cells, each shrunk to the overall shares; an unknown cell answers the overall ones.

    A family names the `cells` and may learn what they need in `prepare`.
    """

    Params = ConditionalParams
    params: ConditionalParams
    count: ClassVar[int]
    """Cells."""
    shares: NDArray[np.float64]
    """`[H, cells + 1, 3]`; the last is that of decisions without a cell, the overall shares."""

    def prepare(self, train: Samples) -> None:
        """Learn what the cells need."""
        return

    @abstractmethod
    def cells(self, inputs: Inputs, h: int) -> Cells:
        """`[n]` cell of each decision for the horizon at position `h`, -1 where it cannot be told."""

    def learn(self, train: Samples, valid: Samples, *, seed: int) -> FitReport:
        """Count weighted classes per cell."""
        self.prepare(train)
        self.shares = np.empty((len(self.horizons), self.count + 1, len(CLASSES)))
        for h in range(len(self.horizons)):
            known = train.known(h)
            cell, y = self.cells(train.inputs, h)[known], train.y[known, h]
            totals = np.zeros((self.count, len(CLASSES)))
            told = cell >= 0
            np.add.at(totals, (cell[told], y[told]), train.weight[known, h][told].astype(np.float64))
            prior = self.priors[h]
            total = totals.sum(axis=1, keepdims=True) + self.params.pseudo
            self.shares[h, :-1] = np.where(
                total > 0, (totals + self.params.pseudo * prior) / np.maximum(total, 1e-12), prior
            )
            self.shares[h, -1] = prior
        return FitReport()

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        """`[n, H, 3]` shares of each decision's cell."""
        told = [self.shares[h, self.cells(inputs, h)] for h in range(len(self.horizons))]
        return np.stack(told, axis=1)

    def _write(self, folder: Path) -> dict[str, Any]:
        return {"shares": self.shares.tolist()}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self.shares = np.asarray(state["shares"], dtype=np.float64)


class Climatology(ConditionalShares):
    """Class shares by hour of day (UTC); by day of the week where a bar lasts a day or longer."""

    count = 24

    def cells(self, inputs: Inputs, h: int) -> Cells:
        """Hour 0 to 23, or Monday 0 to Sunday 6."""
        times = inputs.times[inputs.rows].astype("datetime64[h]").astype(np.int64)
        if self.freq and Frequency.parse(self.freq).unit not in ("h", "min"):
            return np.asarray((times // 24 + 3) % 7)  # 1970-01-01 was a Thursday
        return np.asarray(times % 24)


class PersistenceParams(ConditionalParams):
    """Parameters of persistence.

    Attributes
    ----------
    span
        Span of the exponentially weighted volatility a move is measured in, in bars.
    """

    span: int = Field(default=100, ge=2)


class Persistence(ConditionalShares):
    """Class shares given the last label that was known at the decision.

    The label of a decision `h` bars ago is known by now, but a view to predict on holds no labels. The move that made
    it is in the bars: the log return of the last `h` bars over the volatility before them, times the root of `h`. In
    training, its quantiles at the class shares part short, neutral and long, so the stand-in has the labels' own
    shares. Training reads the stand-in too: what is conditioned on must be the same thing in both places.
    """

    Params = PersistenceParams
    params: PersistenceParams
    count = 3
    bounds: NDArray[np.float64]
    """`[H, 2]` moves, in volatilities, below and above which the last label counts as short and long."""

    def prepare(self, train: Samples) -> None:
        """Learn the bounds from the training decisions."""
        self.bounds = np.tile([-np.inf, np.inf], (len(self.horizons), 1))
        for h, horizon in enumerate(self.horizons):
            use = train.known(h) & (train.weight[:, h] > 0)
            moves = scaled_moves(train.inputs, horizon, self.params.span)[use]
            moves = moves[np.isfinite(moves)]
            if len(moves):
                short, _, long = self.priors[h]
                self.bounds[h] = np.quantile(moves, [short, 1 - long])

    def cells(self, inputs: Inputs, h: int) -> Cells:
        """The class the last move stands for; -1 where the segment is too short to tell."""
        move = scaled_moves(inputs, self.horizons[h], self.params.span)
        low, high = self.bounds[h]
        cell = np.where(move < low, SHORT, np.where(move > high, LONG, NEUTRAL))
        return np.asarray(np.where(np.isfinite(move), cell, -1), dtype=np.int64)

    def _write(self, folder: Path) -> dict[str, Any]:
        bounds = [[v if np.isfinite(v) else None for v in pair] for pair in self.bounds.tolist()]
        return {**super()._write(folder), "bounds": bounds}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        super()._read(folder, state)
        pairs = [(-np.inf if low is None else low, np.inf if high is None else high) for low, high in state["bounds"]]
        self.bounds = np.asarray(pairs, dtype=np.float64)


class Momentum(ConditionalShares):
    """Class shares given the sign of the return over the last horizon; trades with that sign."""

    count = 3
    direction: ClassVar[int] = 1

    def cells(self, inputs: Inputs, h: int) -> Cells:
        """0 fell, 1 unchanged, 2 rose; -1 where the segment is too short to tell."""
        move = past_return(inputs, self.horizons[h])
        return np.asarray(np.where(np.isfinite(move), np.sign(np.nan_to_num(move)) + 1, -1), dtype=np.int64)

    def signals(self, inputs: Inputs) -> Signals:
        """`[n, H]` the sign itself, or its opposite; flat where it cannot be told."""
        moves = np.stack([past_return(inputs, horizon) for horizon in self.horizons], axis=1)
        return np.asarray(self.direction * np.sign(np.nan_to_num(moves)), dtype=np.int8)


class MeanReversion(Momentum):
    """Class shares given the sign of the return over the last horizon; trades against that sign."""

    direction = -1


class Majority(Baseline):
    """The overall class shares everywhere: the best constant in log loss, and always the majority class."""

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        """`[n, H, 3]` overall shares."""
        return self.constant(inputs)


class BuyAndHold(Majority):
    """The overall class shares, and long at every decision."""

    def signals(self, inputs: Inputs) -> Signals:
        """`[n, H]` ones."""
        return np.ones((len(inputs.rows), len(self.horizons)), dtype=np.int8)


class AlwaysNeutral(Baseline):
    """Calls every decision neutral, and stays flat."""

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        """`[n, H, 3]`: all but a little on neutral."""
        return _outright(np.full((len(inputs.rows), len(self.horizons)), NEUTRAL))


class StratifiedRandom(Baseline):
    """Calls a class drawn from the overall shares: what guessing by the prior scores.

    A draw depends on the seed, the symbol's code, the decision's time and the horizon alone, so that the same decision
    gets the same draw in every view that numbers its symbols alike.
    """

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        """`[n, H, 3]`: all but a little on the drawn class."""
        times = inputs.times[inputs.rows].astype("datetime64[us]").astype(np.int64)
        symbol = inputs.symbol[inputs.rows]
        drawn = np.empty((len(inputs.rows), len(self.horizons)), dtype=np.int64)
        for h, horizon in enumerate(self.horizons):
            u = _uniform(self.seed, horizon, symbol, times)
            drawn[:, h] = np.searchsorted(np.cumsum(self.priors[h])[:-1], u, side="right")
        return _outright(drawn)


class VolatilityOnlyParams(LightGBMParams):
    """Parameters of the volatility-only model: LightGBM's, on columns of volatility and time.

    Attributes
    ----------
    c
        Inverse strength of the L2 penalty of the logistic regression that stands beside the trees.
    """

    feature_set: str = "volatility_time"
    c: float = Field(default=0.01, gt=0)


class VolatilityOnly(TabularClassifier[Native | Linear]):
    """What can be known without a view on direction: trees or a logistic regression on volatility and time of day.

    Each horizon keeps the one of the two with the less validation log loss: a yardstick that overfits would make a
    regression on more columns look as if it knew the direction. Without validation decisions it keeps the trees.
    """

    Params = VolatilityOnlyParams
    capabilities: ClassVar[Capabilities] = Capabilities(baseline=True, scaling="standard")
    params: VolatilityOnlyParams

    @cached_property
    def _trees(self) -> LightGBMClassifier:
        shared = {name: getattr(self.params, name) for name in LightGBMParams.model_fields}
        return LightGBMClassifier(**shared)

    def fit_horizon(self, train: Table, valid: Table, *, seed: int) -> Fitted[Native | Linear]:
        """Fit both; without validation decisions only the trees."""
        trees = self._trees.fit_horizon(train, valid, seed=seed)
        kept = Fitted[Native | Linear](trees.model, trees.rounds, trees.best, trees.stopped, trees.curve)
        if not len(valid):
            return kept
        line, _ = fit_logistic(train.x.astype(np.float64), train.y, train.weight, c=self.params.c, iterations=500)
        if self._loss(line, valid) < self._loss(trees.model, valid):
            return replace(kept, model=line)
        return kept

    def _loss(self, model: Native | Linear, valid: Table) -> float:
        told = self.class_probabilities(model, valid.x)[np.arange(len(valid)), valid.y]
        return float(np.average(-np.log(np.maximum(told, 1e-12)), weights=valid.weight))

    def class_probabilities(self, model: Native | Linear, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Those of the kept model."""
        return softmax(model.scores(x)) if isinstance(model, Linear) else self._trees.class_probabilities(model, x)

    def horizon_importance(self, model: Native | Linear) -> NDArray[np.float64]:
        """`[F]` of the kept model."""
        if isinstance(model, Linear):
            return Logistic.horizon_importance(Logistic(), model)
        return self._trees.horizon_importance(model)

    def write_horizon(self, folder: Path, stem: str, model: Native | Linear) -> dict[str, Any]:
        """The trees' native file, or coefficients as JSON."""
        return model.to_json() if isinstance(model, Linear) else self._trees.write_horizon(folder, stem, model)

    def read_horizon(self, folder: Path, stem: str, state: Mapping[str, Any]) -> Native | Linear:
        """What `write_horizon` wrote."""
        return Linear.from_json(state) if "slope" in state else self._trees.read_horizon(folder, stem, state)


class LogisticTenParams(LogisticParams):
    """Parameters of the ten-column logistic regression."""

    feature_set: str = "plain10"


class LogisticTen(Logistic):
    """Multinomial logistic regression on ten plain features."""

    Params = LogisticTenParams
    capabilities: ClassVar[Capabilities] = Capabilities(baseline=True, scaling="standard")


def past_return(inputs: Inputs, bars: int) -> NDArray[np.float64]:
    """`[n]` log return of the close over the last `bars` bars; nan where the decision's segment is shorter."""
    rows, raw = inputs.rows, inputs.raw
    if not len(raw):
        return np.full(len(rows), np.nan)
    before = np.maximum(rows - bars, 0)
    inside = (rows >= bars) & (inputs.segment[before] == inputs.segment[rows])
    close = np.where(raw[:, 3] > 0, raw[:, 3], np.nan)
    return np.where(inside, np.log(close[rows] / close[before]), np.nan)


def scaled_moves(inputs: Inputs, bars: int, span: int) -> NDArray[np.float64]:
    """`[n]` return over the last `bars` bars in units of the volatility before them, times the root of `bars`."""
    rows, raw = inputs.rows, inputs.raw
    if not len(raw):
        return np.full(len(rows), np.nan)
    close = pl.when(pl.col("close") > 0).then(pl.col("close"))
    sigma = (
        pl.DataFrame({"close": raw[:, 3], "segment": inputs.segment})
        .select(close.log().diff().over("segment").alias("r"), "segment")
        .select(pl.col("r").ewm_std(span=span, ignore_nulls=True).over("segment"))
        .to_series()
        .fill_null(float("nan"))
        .to_numpy()
    )
    before = sigma[np.maximum(rows - bars, 0)]
    move = past_return(inputs, bars)
    return np.where(before > 0, move / (np.where(before > 0, before, 1.0) * np.sqrt(bars)), np.nan)


def _outright(classes: Cells) -> NDArray[np.float64]:
    """`[n, H, 3]` probabilities that name the given `[n, H]` classes."""
    out = np.full((*classes.shape, len(CLASSES)), (1 - CERTAIN) / (len(CLASSES) - 1))
    np.put_along_axis(out, classes[..., None], CERTAIN, axis=2)
    return out


def _uniform(seed: int, horizon: int, symbol: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.float64]:
    """`[n]` numbers in [0, 1) hashed from their keys (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        state = np.random.SeedSequence([seed, horizon]).generate_state(1, np.uint64) + np.zeros(len(times), np.uint64)
        for key in (symbol, times):
            state = _mixed(state ^ key.astype(np.uint64))
    return np.asarray((state >> np.uint64(11)) / float(1 << 53))


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
