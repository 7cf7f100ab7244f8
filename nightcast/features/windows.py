"""Looking back along each series: the arithmetic under the feature blocks.

Columns become float arrays with NaN for missing. Windows are summed by adding whole lagged columns, one after the
other, so that a row's result depends on its own window alone, to the last bit. Library rolling sums carry rounding
from row to row and choose their kernel by what else is in the column: cutting the future away would then change the
past.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from nightcast.contracts.columns import ID
from nightcast.contracts.errors import ConfigError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

Statistic = Literal["mean", "std", "min", "max", "median"]
STATISTICS: Final[tuple[Statistic, ...]] = ("mean", "std", "min", "max", "median")


def values_of(frame: pl.DataFrame, column: str) -> Floats:
    """A column as floats, NaN where it is null or not finite; shape [rows]."""
    found = frame.get_column(column).cast(pl.Float64).to_numpy().astype(np.float64)
    return np.where(np.isfinite(found), found, np.nan)


def as_column(name: str, values: Floats) -> pl.Series:
    """Floats as a column, null where they are NaN."""
    return pl.Series(name, values, dtype=pl.Float64).fill_nan(None)


def logarithm(values: Floats) -> Floats:
    """Natural logarithm, NaN where the value is not positive; the same bits wherever a value stands in the array."""
    positive = pl.Series(np.where(values > 0, values, np.nan), dtype=pl.Float64)
    return positive.log().to_numpy().astype(np.float64)


def exponential(values: Floats) -> Floats:
    """E to the power of the values, any shape; the same bits wherever a value stands in the array."""
    flat = pl.Series(values.ravel(), dtype=pl.Float64)
    return flat.exp().to_numpy().astype(np.float64).reshape(values.shape)


def position_of(frame: pl.DataFrame) -> Ints:
    """Row number within its series, 0 first; the frame is sorted by series. Shape [rows]."""
    return frame.select(pl.int_range(pl.len(), dtype=pl.Int64).over(ID)).to_series().to_numpy().astype(np.int64)


def lagged(values: Floats, position: Ints, steps: int) -> Floats:
    """The value `steps` rows earlier in the same series, else NaN."""
    out = np.full_like(values, np.nan)
    if steps < len(values):
        out[steps:] = values[: len(values) - steps]
    out[position < steps] = np.nan
    return out


def window(values: Floats, position: Ints, size: int) -> Iterator[Floats]:
    """The last `size` rows as lagged columns, newest first."""
    for steps in range(size):
        yield lagged(values, position, steps)


def count_and_mean(values: Floats, position: Ints, size: int) -> tuple[Floats, Floats]:
    """Known values among the last `size` rows: how many, and their mean (NaN if none)."""
    count, total = np.zeros_like(values), np.zeros_like(values)
    for column in window(values, position, size):
        known = ~np.isnan(column)
        count += known
        total += np.where(known, column, 0.0)
    return count, divided(total, count)


def statistic(values: Floats, position: Ints, size: int, name: Statistic) -> Floats:
    """One statistic of the known values among the last `size` rows; `std` has n - 1 below and needs two."""
    count, mean = count_and_mean(values, position, size)
    if name == "mean":
        return mean
    if name == "std":
        squares = np.zeros_like(values)
        for column in window(values, position, size):
            squares += np.where(np.isnan(column), 0.0, (column - mean) ** 2)
        return np.sqrt(divided(squares, count - 1))
    columns: Floats = np.stack(list(window(values, position, size)))  # [size, rows]
    if name in ("min", "max"):
        extreme: Floats = (np.fmin if name == "min" else np.fmax).reduce(columns, axis=0)
        return extreme
    columns.sort(axis=0)  # NaN goes last
    rows, known = np.arange(len(values)), count.astype(np.int64)
    low, high = np.maximum((known - 1) // 2, 0), np.minimum(known // 2, size - 1)
    return np.where(known > 0, (columns[low, rows] + columns[high, rows]) / 2, np.nan)


def divided(above: Floats, below: Floats) -> Floats:
    """A quotient, NaN where the divisor is not positive."""
    out = np.full_like(above, np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def last_index(condition: Flags, position: Ints) -> Ints:
    """Index of the last row of the series, up to and with this one, where the condition holds; -1 if none."""
    rows = np.arange(len(condition), dtype=np.int64)
    last = np.maximum.accumulate(np.where(condition, rows, -1)) if len(rows) else rows
    return np.where(last >= rows - position, last, -1)


def carried(values: Floats, position: Ints) -> Floats:
    """The last known value, carried on along its series."""
    last = last_index(~np.isnan(values), position)
    return np.where(last >= 0, values[np.maximum(last, 0)], np.nan) if len(values) else values


def steps_since(condition: Flags, position: Ints) -> Floats:
    """Steps since the condition last held, 0 where it holds, NaN where it never did."""
    last = last_index(condition, position)
    return np.where(last >= 0, np.arange(len(condition)) - last, np.nan).astype(np.float64)


def sizes(given: Sequence[int], parameter: str, *, least: int = 1) -> tuple[int, ...]:
    """Check a list of steps.

    Raises
    ------
    ConfigError
        If it is empty, repeats itself, or holds anything but whole numbers of at least `least`.
    """
    listed = list(given) if isinstance(given, (list, tuple)) else []
    whole = all(isinstance(item, int) and not isinstance(item, bool) and item >= least for item in listed)
    if not listed or not whole or len(set(listed)) != len(listed):
        raise ConfigError(
            f"feature parameter {parameter} = {given!r}",
            expected=f"a list of different whole numbers, each at least {least}",
            remedy=f"write it as [3, 6, 12] under `features` (steps: {parameter})",
        )
    return tuple(listed)


def number(given: float, parameter: str, *, least: float) -> float:
    """Check a number.

    Raises
    ------
    ConfigError
        If it is not a finite number of at least `least`.
    """
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not least <= given < float("inf"):
        raise ConfigError(
            f"feature parameter {parameter} = {given!r}",
            expected=f"a number of at least {least}",
            remedy=f"correct {parameter} under `features`",
        )
    return given
