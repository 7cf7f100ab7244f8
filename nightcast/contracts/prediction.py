"""What a model says: a frame with declared columns, checked once where it is made.

A prediction type is a value class around a long frame: `Quantiles` for panels, `ClassProbs` for bars.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol, Self, TypeVar, runtime_checkable

import polars as pl

from nightcast.contracts.columns import CLASS_PROBS, CUTOFF, HORIZON, ID, NEUTRAL, QUANTILES, SIGNAL, TIME
from nightcast.contracts.errors import TrainingError

KEYS: tuple[str, ...] = (ID, TIME, CUTOFF, HORIZON)


@runtime_checkable
class Prediction(Protocol):
    """A forecast of many series: `frame` holds `unique_id, ds, cutoff, horizon` and the value columns."""

    @property
    def frame(self) -> pl.DataFrame:
        """The long frame."""
        ...

    @classmethod
    def value_columns(cls) -> tuple[str, ...]:
        """The columns beside the keys."""
        ...

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Self:
        """Check a frame and wrap it."""
        ...

    @classmethod
    def mean(cls, predictions: Iterable[Self]) -> Self:
        """The plain mean of several predictions, row by row; a row that only some hold is the mean of those."""
        ...


P = TypeVar("P", bound=Prediction)
P_co = TypeVar("P_co", bound=Prediction, covariant=True)


@dataclass(frozen=True)
class Quantiles:
    """Quantile forecasts: one row per series, cutoff and horizon; columns `q10 .. q90` that never cross."""

    frame: pl.DataFrame

    @classmethod
    def value_columns(cls) -> tuple[str, ...]:
        """The quantile columns, lowest level first."""
        return QUANTILES

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Self:
        """Check and order a frame; quantiles are sorted within each row.

        Raises
        ------
        TrainingError
            If a column is missing, a value is null or not finite, or a key repeats.
        """
        missing = [name for name in (*KEYS, *QUANTILES) if name not in frame.columns]
        if missing:
            raise TrainingError(
                f"a forecast lacks the columns {missing}",
                expected=f"the keys {list(KEYS)} and {list(QUANTILES)}",
                remedy="return them from the model's `_predict`",
            )
        frame = frame.select(
            pl.col(ID).cast(pl.String),
            pl.col(TIME).cast(pl.Datetime("us")),
            pl.col(CUTOFF).cast(pl.Datetime("us")),
            pl.col(HORIZON).cast(pl.Int32),
            *(pl.col(name).cast(pl.Float64) for name in QUANTILES),
        ).sort(ID, CUTOFF, HORIZON)
        bad = frame.filter(~pl.all_horizontal(pl.col(name).is_finite().fill_null(False) for name in QUANTILES))
        if bad.height:
            raise TrainingError(
                f"{bad.height} forecast rows are null or not finite, first for series {bad[ID][0]!r} at {bad[TIME][0]}",
                expected="finite numbers in every quantile column",
                remedy="leave a series out of the prediction instead; the ensemble covers it",
            )
        repeated = frame.filter(frame.select(ID, CUTOFF, HORIZON).is_duplicated())
        if repeated.height:
            raise TrainingError(
                f"series {repeated[ID][0]!r} is forecast twice for {repeated[TIME][0]}",
                expected="one row per series, cutoff and horizon",
                remedy="look for duplicated rows in the model's input",
            )
        return cls(sort_quantiles(frame))

    @classmethod
    def mean(cls, predictions: Iterable[Self]) -> Self:
        """The mean of each level over the predictions."""
        return cls.of(_row_means(predictions, QUANTILES))


SUM_TOLERANCE: Final = 1e-6
"""How far the probabilities of one row may be from summing to 1 before they are refused."""


@dataclass(frozen=True)
class ClassProbs:
    """Class probabilities and the position they ask for: one row per symbol, decision time and horizon.

    `ds` and `cutoff` are the start of the bar at whose close the decision falls; `horizon` counts bars from there.
    `signal` is -1, 0 or 1: where a model sets none, the most probable class decides.
    """

    frame: pl.DataFrame

    @classmethod
    def value_columns(cls) -> tuple[str, ...]:
        """The probabilities and the signal."""
        return (*CLASS_PROBS, SIGNAL)

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Self:
        """Check and order a frame; rows are scaled to sum to 1 exactly, a missing `signal` is the argmax.

        Raises
        ------
        TrainingError
            If a column is missing, a probability is null, negative or does not sum to 1 within 1e-6, a signal is
            none of -1, 0, 1, or a key repeats.
        """
        missing = [name for name in (*KEYS, *CLASS_PROBS) if name not in frame.columns]
        if missing:
            raise TrainingError(
                f"class probabilities lack the columns {missing}",
                expected=f"the keys {list(KEYS)} and {list(CLASS_PROBS)}",
                remedy="return them from the model's `_predict`",
            )
        total = pl.sum_horizontal(CLASS_PROBS)
        given = pl.col(SIGNAL) if SIGNAL in frame.columns else argmax_signal()
        frame = frame.select(
            pl.col(ID).cast(pl.String),
            pl.col(TIME).cast(pl.Datetime("us")),
            pl.col(CUTOFF).cast(pl.Datetime("us")),
            pl.col(HORIZON).cast(pl.Int32),
            *(pl.col(name).cast(pl.Float64) for name in CLASS_PROBS),
            given.cast(pl.Int8).alias(SIGNAL),
        ).sort(ID, CUTOFF, HORIZON)
        fine = pl.all_horizontal(
            *(pl.col(name).is_finite() & (pl.col(name) >= 0) for name in CLASS_PROBS),
            (total - 1).abs() <= SUM_TOLERANCE,
            pl.col(SIGNAL).is_in([-1, 0, 1]),
        )
        bad = frame.filter(~fine.fill_null(False))
        if bad.height:
            raise TrainingError(
                f"{bad.height} rows are no class probabilities, first for {bad[ID][0]!r} at {bad[TIME][0]}: "
                f"{[bad[name][0] for name in (*CLASS_PROBS, SIGNAL)]}",
                expected="three probabilities from 0 to 1 that sum to 1, and a signal of -1, 0 or 1",
                remedy="leave a symbol out of the prediction instead; the ensemble covers it",
            )
        repeated = frame.filter(frame.select(ID, CUTOFF, HORIZON).is_duplicated())
        if repeated.height:
            raise TrainingError(
                f"symbol {repeated[ID][0]!r} is forecast twice at {repeated[TIME][0]}, horizon {repeated[HORIZON][0]}",
                expected="one row per symbol, decision time and horizon",
                remedy="look for duplicated rows in the model's input",
            )
        return cls(frame.with_columns((pl.col(name) / total) for name in CLASS_PROBS))

    @classmethod
    def mean(cls, predictions: Iterable[Self]) -> Self:
        """The mean of the probabilities; the signal is that of the mean."""
        return cls.of(_row_means(predictions, CLASS_PROBS))


def argmax_signal() -> pl.Expr:
    """The signal of the most probable class; neutral wins ties, so that no view means no position."""
    short, neutral, long = (pl.col(name) for name in CLASS_PROBS)
    return (
        pl.when((long > neutral) & (long > short))
        .then(1)
        .when((short > neutral) & (short > long))
        .then(-1)
        .otherwise(NEUTRAL - 1)
        .cast(pl.Int8)
        .alias(SIGNAL)
    )


def _row_means(predictions: Iterable[Prediction], columns: tuple[str, ...]) -> pl.DataFrame:
    stacked = pl.concat([prediction.frame.select(*KEYS, *columns) for prediction in predictions])
    return stacked.group_by(KEYS).agg(pl.col(name).mean() for name in columns)


def sort_quantiles(frame: pl.DataFrame, columns: tuple[str, ...] = QUANTILES) -> pl.DataFrame:
    """Sort the quantile values within each row, so that no two levels cross (Chernozhukov et al. 2010)."""
    import numpy as np

    values = np.sort(frame.select(columns).to_numpy(), axis=1)
    return frame.with_columns(pl.Series(name, values[:, i]) for i, name in enumerate(columns))
