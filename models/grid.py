"""A panel's history as dense arrays: `N` series by `T` steps, the last column being the cutoff."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from nightcast.contracts.columns import HORIZON, ID, LEVELS, QUANTILES, TARGET, TIME
from nightcast.contracts.panel import PanelView

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """Where each history row lies in the dense arrays.

    Attributes
    ----------
    ids
        The `N` series, sorted.
    y
        [N, T], NaN where nothing is known.
    row, col
        Position of each kept history row.
    kept
        Mask over the history's rows.
    """

    ids: tuple[str, ...]
    y: FloatArray
    row: IntArray
    col: IntArray
    kept: BoolArray

    @property
    def width(self) -> int:
        """T, the number of steps up to the cutoff."""
        return int(self.y.shape[1])

    def matrix(self, values: npt.NDArray[np.floating]) -> FloatArray:
        """Spread one value per history row over [N, T]; NaN where there is no row."""
        out = np.full(self.y.shape, np.nan)
        out[self.row, self.col] = values[self.kept]
        return out

    def rows_of(self, series: Sequence[str]) -> IntArray:
        """Row numbers of series, all of which are in the grid."""
        where = {name: i for i, name in enumerate(self.ids)}
        return np.array([where[name] for name in series], dtype=np.int64)


def grid_of(view: PanelView, *, length: int | None = None) -> Grid:
    """Lay a view's history out, its last `length` steps if given."""
    frame = (
        view.history.select(ID, TIME, TARGET)
        .with_columns(pl.lit(view.cutoff).cast(pl.Datetime("us")).alias("_cutoff"))
        .select(
            ID,
            pl.col(TARGET).cast(pl.Float64).fill_null(float("nan")),
            pl.col(ID).rle_id().cast(pl.Int64).alias("row"),
            view.schema.freq.steps_between_expr(TIME, "_cutoff").alias("back"),
        )
    )
    back = frame.get_column("back").to_numpy()
    width = int(back.max()) + 1 if back.size else 1
    width = min(width, length) if length is not None else width
    kept = back < width
    row, col = frame.get_column("row").to_numpy()[kept], width - 1 - back[kept]
    ids = tuple(frame.get_column(ID).unique(maintain_order=True).to_list())
    y = np.full((len(ids), width), np.nan)
    y[row, col] = frame.get_column(TARGET).to_numpy()[kept]
    return Grid(ids, y, row, col, kept)


def last_known(values: FloatArray) -> FloatArray:
    """[N, T]: the latest known value at or before each step, NaN before the first one."""
    return np.take_along_axis(values, np.maximum(_last_index(values), 0), axis=1)


def steps_since_known(values: FloatArray) -> FloatArray:
    """[N, T]: steps since the latest known value (0 where it is known), NaN before the first one."""
    index = _last_index(values)
    return np.where(index >= 0, np.arange(values.shape[1]) - index, np.nan)


def _last_index(values: FloatArray) -> IntArray:
    steps = np.where(np.isnan(values), -1, np.arange(values.shape[1]))
    return np.maximum.accumulate(steps, axis=1)


def _latest(values: FloatArray, count: int) -> Iterator[FloatArray]:
    """The latest known value at or before each step, the one before it, ...: `count` arrays [N, T], NaN where none."""
    known = ~np.isnan(values)
    number = known.cumsum(axis=1)
    packed = np.full((values.shape[0], max(int(number[:, -1].max(initial=0)), 1)), np.nan)
    row, col = np.nonzero(known)
    packed[row, number[row, col] - 1] = values[row, col]
    for lag in range(count):
        index = number - 1 - lag
        yield np.where(index >= 0, np.take_along_axis(packed, np.maximum(index, 0), axis=1), np.nan)


def mean_of_known(values: FloatArray, count: int) -> FloatArray:
    """[N, T]: mean of the latest `count` known values at or before each step (fewer if there are fewer)."""
    total, used = np.zeros(values.shape), np.zeros(values.shape)
    for its in _latest(values, count):
        inside = ~np.isnan(its)
        total += np.where(inside, its, 0.0)
        used += inside
    mean: FloatArray = np.divide(total, used, out=np.full(values.shape, np.nan), where=used > 0)
    return mean


def median_of_known(values: FloatArray, count: int) -> FloatArray:
    """[N, T]: median of the latest `count` known values at or before each step (fewer if there are fewer)."""
    latest = np.sort(np.stack(list(_latest(values, count)), axis=-1), axis=-1)  # NaN last
    used = (~np.isnan(latest)).sum(axis=-1)
    low, high = np.maximum((used - 1) // 2, 0), used // 2
    pair = [np.take_along_axis(latest, np.minimum(its, count - 1)[..., None], axis=-1)[..., 0] for its in (low, high)]
    return np.asarray(np.where(used > 0, (pair[0] + pair[1]) / 2, np.nan))


def level_floor(values: FloatArray, *, share: float = 0.02) -> float:
    """The smallest level a series is scaled by: a share of the panel's median positive level, or 1 if all is zero.

    Levels are the series' mean absolute known values, so the floor is in the target's unit and grows with it.
    """
    known = ~np.isnan(values)
    count = known.sum(axis=1)
    total = np.abs(np.where(known, values, 0.0)).sum(axis=1)
    positive = (total / np.maximum(count, 1))[total > 0]
    return float(share * np.median(positive)) if positive.size else 1.0


def answer_frame(series: Sequence[str], values: FloatArray) -> pl.DataFrame:
    """`unique_id, horizon, q10 .. q90` from values [N, H, Q]; horizons count from 1."""
    n, horizon, _ = values.shape
    flat = values.reshape(n * horizon, len(LEVELS))
    return pl.DataFrame(
        {
            ID: np.repeat(np.array(series, dtype=object), horizon).tolist(),
            HORIZON: np.tile(np.arange(1, horizon + 1, dtype=np.int32), n),
            **{name: flat[:, i] for i, name in enumerate(QUANTILES)},
        },
        schema_overrides={ID: pl.String, HORIZON: pl.Int32},
    )
