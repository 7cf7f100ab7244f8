"""The label game: classes drawn from a known posterior, the cheapest exact test of whether a classifier learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.bars import BarColumn, BarDataset, BarLabels, BarView, label_columns
from nightcast.contracts.columns import BAR_COLUMNS, ID, NEUTRAL, SEGMENT, SESSION, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.fold import Fold
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.hashing import derive_seed
from nightcast.contracts.schema import BarsSchema, CostPlan, LabelPlan
from nightcast.sources.market.oracle import best_weights, decide, macro_f1, random_f1
from nightcast.sources.market.simulate import LAGS, LONG_LAG

Floats: TypeAlias = NDArray[np.float64]
Level = Literal[1, 2, 3]

NEUTRAL_LOGIT: Final = 0.4
NOISE: Final = 0.15
"""Level 1: deviation of the noise on every observation of the driver, whose own deviation is 1."""
FREEDOM: Final = 5.0
"""The driver is Student-t with these degrees of freedom, scaled to variance 1; at level 2 a product of two normals."""
WIDTH: Final = 0.0015
"""Barriers of the bars behind the labels, as a fraction of the price."""
SETS: Final = (
    "label_game",
    "boosting_optimal",
    "neural_optimal",
    "plain10",
    "volatility_time",
    "transformer_raw",
    "ensemble_base",
    "itransformer_optimal",
    "nbeats_raw",
    "linear_raw",
    "chronos_raw",
)
"""Feature sets of the game; all name the same columns, so that every classifier finds its own."""
SYMBOL: Final = "GAME"
START: Final = datetime(2024, 1, 1)
FREQ: Final = "5min"


@dataclass(frozen=True)
class LabelGame:
    """A game: `y ~ softmax([-a x, 0.4, a x])`, with features that show `x`.

    Attributes
    ----------
    train
        `n` labelled decisions.
    test
        `n_test` later ones; their labels are set, for scoring.
    driver
        `[n_test]` x of the test decisions.
    posterior
        `[n_test, 3]` true class probabilities of the test decisions.
    oracle_f1, oracle_weighted_f1
        Macro-F1 of the most probable true class, and with the class weights that suit macro-F1 best.
    random_f1
        Mean macro-F1 of classes drawn by their shares in training, 200 draws.
    """

    a: float
    level: Level
    train: BarView
    test: BarView
    driver: Floats
    posterior: Floats
    oracle_f1: float
    oracle_weighted_f1: float
    random_f1: float
    data: BarDataset
    fold: Fold

    @property
    def y(self) -> NDArray[np.int8]:
        """`[n_test]` classes of the test decisions, the same for every horizon."""
        assert self.test.labels is not None
        return self.test.labels.y[:, 0]

    def dataset(self) -> BarDataset:
        """The game as prepared bars; `fold` splits them into `train` and `test`."""
        return self.data

    def reached(self, probabilities: Floats) -> float:
        """Share of the way from a random guess to the oracle that a classifier came, by macro-F1 of its argmax.

        Parameters
        ----------
        probabilities
            `[n_test, 3]`, in the order of the test decisions.
        """
        scored = macro_f1(self.y, decide(probabilities))
        return (scored - self.random_f1) / (self.oracle_f1 - self.random_f1)


def label_game(
    a: float,
    n: int,
    *,
    window: int = 16,
    features: int = 8,
    level: Level = 1,
    seed: int,
    n_test: int = 6_000,
    horizons: tuple[int, ...] = (1,),
) -> LabelGame:
    """Deal a game.

    The features of a bar are observations at lags 0 to `features - 1`. Level 1: x itself, each time with fresh noise;
    lag 0 shows the decision's own x, so that a linear model of a single row can play. Level 2: x is the product of the
    observed values 3 and 7 bars ago, which no linear model sees. Level 3: x is the observed value 40 bars ago, which
    nothing sees whose window is shorter.

    Bars agree with the labels: the bar after a decision reaches the upper barrier, the lower one or neither, and every
    label ends with it.

    Parameters
    ----------
    a
        Strength; 0 leaves nothing to learn.
    n, n_test
        Decisions to learn from and to score.
    window
        Bars that lie before every decision at least, itself included: the longest window to be fed.
    features
        Number of columns.
    horizons
        In bars; all share the same labels, which end after one bar.

    Raises
    ------
    ConfigError
        If an argument is out of range.
    """
    _check(a, n, n_test, window, features, level, horizons)
    # The longest lag is known at the first decision.
    lead = max(window, LONG_LAG + 1, features + max(LAGS)) - 1
    bars, first_test = lead + n + n_test + 1, lead + n
    rng = {
        name: np.random.default_rng(derive_seed("label game", seed, name))
        for name in ("driver", "noise", "label", "bars", "guess")
    }
    columns, x = _observe(bars, features, level, rng["driver"], rng["noise"])
    posterior = game_posterior(a, x)
    y = (rng["label"].random(bars)[:, None] > posterior.cumsum(axis=1)[:, :2]).sum(axis=1).astype(np.int8)

    prices, ret = _bars(y, rng["bars"])
    step = Frequency.parse(FREQ)
    times = np.datetime64(START, "us") + np.arange(bars) * np.timedelta64(5, "m")
    names = [f"game_lag_{j}" for j in range(features)]
    last = np.arange(bars) == bars - 1  # the outcome of the last bar's decision lies beyond the end
    labels: dict[str, pl.Series] = {}
    for horizon in horizons:
        its = label_columns(horizon)
        known = ~last
        labels[its["y"]] = pl.Series(np.where(known, y, 0)).cast(pl.Int8).set(pl.Series(last), None)
        labels[its["hold"]] = pl.Series(known.astype(np.int32))
        labels[its["ret"]] = pl.Series(np.append(ret[1:], np.nan)).fill_nan(None)
        labels[its["width"]] = pl.Series(np.full(bars, WIDTH))
        labels[its["ambiguous"]] = pl.Series(np.zeros(bars, dtype=bool))
    frame = pl.DataFrame(
        {
            ID: [SYMBOL] * bars,
            TIME: pl.Series(times).cast(pl.Datetime("us")),
            SEGMENT: np.zeros(bars, dtype=np.int64),
            SESSION: np.zeros(bars, dtype=np.int64),
            **{name: prices[:, i] for i, name in enumerate(BAR_COLUMNS)},
            **{name: pl.Series(columns[:, j]).cast(pl.Float32) for j, name in enumerate(names)},
            **labels,
        }
    )
    sets: Mapping[str, tuple[str, ...]] = {name: tuple(names) for name in SETS}
    data = BarDataset(
        frame=frame,
        schema=BarsSchema(freq=step, horizons=horizons, calendar="continuous", max_gap=0),
        columns={name: BarColumn(block="label_game", warmup=lead) for name in names},
        sets=sets,
        as_of=step.shift(START, bars - 1),
        lead=lead,
        labels=LabelPlan(barrier="fixed", threshold=WIDTH),
        costs=CostPlan(),
    )
    # The label of the decision at `train_end` is not known there, so the test begins with it.
    start = step.shift(START, first_test)
    fold = Fold("fold-00", None, start, (start, step.shift(START, first_test + n_test - 1)))
    [test] = data.tests(fold)
    rows, count = test.rows, len(horizons)
    outcome = BarLabels(
        y=np.repeat(y[rows, None], count, axis=1),
        hold=np.ones((len(rows), count), dtype=np.int32),
        ret=np.repeat(ret[rows + 1, None], count, axis=1),
    )
    # The last test label ends one bar after the last decision; that bar belongs to the outcome.
    test = replace(test, labels=outcome)
    train = data.training(fold)
    assert train.labels is not None
    shares = np.bincount(train.labels.y[:, 0], minlength=3) / n
    held = posterior[rows]
    return LabelGame(
        a=a,
        level=level,
        train=train,
        test=test,
        driver=x[rows],
        posterior=held,
        oracle_f1=macro_f1(y[rows], decide(held)),
        oracle_weighted_f1=macro_f1(y[rows], decide(held, best_weights(posterior[train.rows]))),
        random_f1=random_f1(y[rows], shares, seed=int(rng["guess"].integers(2**31))),
        data=data,
        fold=fold,
    )


def game_posterior(a: float, x: Floats) -> Floats:
    """`[n, 3]` softmax of `[-a x, 0.4, a x]`."""
    logits = np.column_stack([-a * x, np.full(len(x), NEUTRAL_LOGIT), a * x])
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _observe(
    bars: int, features: int, level: Level, draw: np.random.Generator, noise: np.random.Generator
) -> tuple[Floats, Floats]:
    """Columns `[bars, features]` and the driver `[bars]`."""
    before = max(features, LONG_LAG) + max(LAGS)
    values = draw.standard_normal(before + bars)
    if level != 2:
        values *= np.sqrt((FREEDOM - 2) / draw.chisquare(FREEDOM, len(values)))

    def lagged(lag: int) -> Floats:
        return values[before - lag : before - lag + bars]

    columns = np.column_stack([lagged(lag) for lag in range(features)])
    if level == 1:
        return columns + NOISE * noise.standard_normal(columns.shape), lagged(0)
    if level == 2:
        return columns, lagged(LAGS[0]) * lagged(LAGS[1])
    return columns, lagged(LONG_LAG)


def _bars(y: NDArray[np.int8], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """`[n, 5]` bars of which bar t+1 has the outcome of label t, and `[n]` their returns from open to close."""
    n = len(y)
    inside = rng.uniform(-0.5, 0.5, n)
    size = rng.uniform(1.0, 1.3, n)
    outcome = np.concatenate([[NEUTRAL], y[:-1]]) - NEUTRAL
    ret = WIDTH * np.where(outcome == 0, inside, outcome * size)
    close = 100.0 * np.exp(np.cumsum(np.log1p(ret)))
    opens = np.concatenate([[100.0], close[:-1]])
    ret = close / opens - 1  # as whoever reads the bars will find it
    # Wicks stay short of the barrier that the label did not reach.
    wick = 0.2 * WIDTH * rng.random((n, 2)) * opens[:, None]
    high, low = np.maximum(opens, close) + wick[:, 0], np.minimum(opens, close) - wick[:, 1]
    volume = np.rint(1000 * np.exp(0.25 * rng.standard_normal(n)))
    return np.column_stack([opens, high, low, close, volume]), ret


def _check(a: float, n: int, n_test: int, window: int, features: int, level: int, horizons: tuple[int, ...]) -> None:
    def refuse(what: str, expected: str) -> ConfigError:
        return ConfigError(f"label game: {what}", expected=expected, remedy="correct the argument")

    if not 0 <= a < 100:
        raise refuse(f"a is {a!r}", "a strength of 0 or more")
    for name, value, least in (("n", n, 10), ("n_test", n_test, 10), ("window", window, 1), ("features", features, 1)):
        if value < least:
            raise refuse(f"{name} is {value!r}", f"{least} or more")
    if level not in get_args(Level):
        raise refuse(f"level is {level!r}", "1, 2 or 3")
    if not horizons or min(horizons) < 1 or list(horizons) != sorted(set(horizons)):
        raise refuse(f"horizons are {list(horizons)}", "rising numbers of bars")
