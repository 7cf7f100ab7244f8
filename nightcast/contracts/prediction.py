"""What a model says: a frame with declared columns, checked once where it is made.

A prediction type is a value class around a long frame. `Quantiles` is the one of panels; class probabilities
implement the same protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, TypeVar, runtime_checkable

import polars as pl

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, QUANTILES, TIME
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


def sort_quantiles(frame: pl.DataFrame, columns: tuple[str, ...] = QUANTILES) -> pl.DataFrame:
    """Sort the quantile values within each row, so that no two levels cross (Chernozhukov et al. 2010)."""
    import numpy as np

    values = np.sort(frame.select(columns).to_numpy(), axis=1)
    return frame.with_columns(pl.Series(name, values[:, i]) for i, name in enumerate(columns))
