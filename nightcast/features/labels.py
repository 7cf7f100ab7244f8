"""Triple-barrier labels: which comes first, the upper barrier, the lower one, or the end of the horizon.

A decision at bar `t` enters at the open of bar `t + 1`. Its label looks at the bars `t + 1 .. t + h`, all of which must
exist, complete, before the session of `t` ends: else it is unknown, even where a barrier was touched in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from nightcast.contracts.bars import UNKNOWN_LABEL, label_columns
from nightcast.contracts.columns import (
    BAR_COLUMNS,
    CLASSES,
    CLOSE,
    HIGH,
    HORIZON,
    ID,
    LOW,
    OPEN,
    SEGMENT,
    SESSION,
    TIME,
)
from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.schema import BarsSchema, LabelPlan

Floats = NDArray[np.float64]

SIGMA: Final = "sigma"
"""Volatility of one bar, known at the close of its row."""
LEAST_RETURNS: Final = 20
"""One-bar returns of a segment before its first volatility; fewer if the span is shorter."""
LEAST_PER_SLOT: Final = 20
"""Training returns at a clock time below which it has no season of its own."""


def triple_barrier(
    frame: pl.DataFrame, schema: BarsSchema, plan: LabelPlan, *, season: pl.Series | ArrayLike | None = None
) -> pl.DataFrame:
    """Add the volatility and, for every horizon, the label columns.

    Parameters
    ----------
    frame
        `unique_id, ds, segment, session, open .. volume` and any others, sorted by symbol and time.
    schema
        Declares the horizons, in bars.
    plan
        Width of the barriers, span of the volatility, and what to do where one bar touches both barriers.
    season
        `[N]` positive factor of each bar's volatility, as from `seasonal_factor`; None for 1.

    Returns
    -------
    DataFrame
        The frame with `sigma` (exponentially weighted standard deviation of one-bar log returns up to the row, inside
        its segment; the returns over scheduled closes are left out) and those of `label_columns` for every horizon.
        `y, hold, ret, ambiguous` are null where the label is unknown; `width` wherever `sigma` is null or 0.

    Raises
    ------
    SourceError
        If a column is missing, or sessions are not numbered by `segmented`.
    ConfigError
        If the season does not fit.

    Notes
    -----
    Source: Lopez de Prado, Advances in Financial Machine Learning (2018), 3.4; entry at the next open, barriers
    touched by high and low, fills beyond a barrier at the open, and unknown labels are stated in `docs/labels.md`.
    """
    from nightcast.features._label_kernels import kernels

    segment, session = _runs(frame)
    prices = {name: _prices(frame, name) for name in (OPEN, HIGH, LOW, CLOSE)}
    complete = np.logical_and.reduce([np.isfinite(p) & (p > 0) for p in prices.values()])
    loops = kernels()
    least = min(plan.span, LEAST_RETURNS)
    factor = _season(season, frame.height)
    sigma = loops.volatility(prices[CLOSE], factor, segment, session, float(plan.span), least)
    sigma = np.where(complete, sigma, np.nan)
    reach = loops.reach(complete, session)
    columns = [_floats(SIGMA, sigma)]
    for horizon in schema.horizons:
        names = label_columns(horizon)
        width = barrier_width(sigma, horizon, plan)
        y = np.full(frame.height, UNKNOWN_LABEL, dtype=np.int8)
        hold = np.zeros(frame.height, dtype=np.int32)
        ret = np.full(frame.height, np.nan)
        ambiguous = np.zeros(frame.height, dtype=bool)
        loops.barriers(*prices.values(), width, reach, horizon, plan.ambiguous == "worst", y, hold, ret, ambiguous)
        known = pl.Series(y != UNKNOWN_LABEL)
        found = pl.DataFrame(
            [
                pl.Series(names["y"], y, dtype=pl.Int8),
                pl.Series(names["hold"], hold, dtype=pl.Int32),
                pl.Series(names["ret"], ret, dtype=pl.Float64),
                pl.Series(names["ambiguous"], ambiguous, dtype=pl.Boolean),
            ]
        ).select(pl.when(known).then(pl.all()))
        columns += [*found.get_columns(), _floats(names["width"], width)]
    return frame.with_columns(columns)


def barrier_width(sigma: Floats, horizon: int, plan: LabelPlan) -> Floats:
    """Distance of the barriers from the entry as a fraction of it, `[N]`; nan where the volatility is unknown or 0."""
    if plan.barrier == "fixed":
        width = np.full(len(sigma), plan.threshold)
    else:
        width = plan.multiplier * sigma * np.sqrt(horizon)
        if plan.barrier == "adaptive":
            width = np.maximum(width, plan.minimum)
    return np.where(sigma > 0, width, np.nan)


def label_facts(frame: pl.DataFrame, horizons: Sequence[int]) -> pl.DataFrame:
    """One row per horizon: what its labels are like.

    Parameters
    ----------
    frame
        What `triple_barrier` returned.
    horizons
        Horizons to look at.

    Returns
    -------
    DataFrame
        `horizon, rows, known`; the shares of the known labels `short, neutral, long, ambiguous`; `mean_hold` in bars
        and `mean_uniqueness` (see `nightcast.features.weights.uniqueness`). Null where no label is known.

    Raises
    ------
    SourceError
        If the frame lacks the labels of a horizon.
    """
    from nightcast.features.weights import uniqueness

    facts = []
    for horizon in horizons:
        names = label_columns(horizon)
        _require(
            frame, [names[name] for name in ("y", "hold", "ambiguous")], "label the frame by `triple_barrier` first"
        )
        y = frame.get_column(names["y"])
        rows = np.flatnonzero(y.is_not_null().to_numpy())
        known = frame.select(names["y"], names["hold"], names["ambiguous"]).drop_nulls(names["y"])
        hold = known.get_column(names["hold"]).to_numpy()
        shares = {name: (known.get_column(names["y"]) == k).mean() for k, name in enumerate(CLASSES)}
        facts.append(
            {
                HORIZON: horizon,
                "rows": frame.height,
                "known": len(rows),
                **shares,
                "ambiguous": known.get_column(names["ambiguous"]).mean(),
                "mean_hold": float(hold.mean()) if len(hold) else None,
                "mean_uniqueness": float(uniqueness(rows, hold, frame.height).mean()) if len(rows) else None,
            }
        )
    shares_and_means = (*CLASSES, "ambiguous", "mean_hold", "mean_uniqueness")
    schema = {HORIZON: pl.Int32, "rows": pl.Int64, "known": pl.Int64, **dict.fromkeys(shares_and_means, pl.Float64)}
    return pl.DataFrame(facts, schema=schema)


def seasonal_factor(frame: pl.DataFrame, train_mask: pl.Series | ArrayLike) -> pl.Series:
    """Volatility of each bar's clock time relative to its symbol's mean, learned from training rows alone.

    The mean absolute one-bar log return at the clock time, over that at all clock times. Clock times with fewer than 20
    training returns have the factor 1.

    Parameters
    ----------
    frame
        `unique_id, ds, session, close`, sorted by symbol and time.
    train_mask
        `[N]` which rows may be learned from.

    Returns
    -------
    Series
        `[N]` Float64 `season`, positive: the `season` of `triple_barrier`.

    Raises
    ------
    SourceError
        If a column is missing.
    ConfigError
        If the mask has another length.
    """
    _require(frame, [ID, TIME, SESSION, CLOSE], "number the sessions by `segmented` first")
    mask = np.asarray(train_mask, dtype=bool)
    if mask.shape != (frame.height,):
        raise ConfigError(
            f"a training mask of shape {mask.shape} for {frame.height} bars",
            expected="one flag a bar",
            remedy="compare the times of the same frame with the end of training",
        )
    price = pl.when(pl.col(CLOSE) > 0).then(pl.col(CLOSE).cast(pl.Float64)).fill_nan(None)
    rows = frame.select(
        ID,
        pl.col(TIME).cast(pl.Datetime("us")).dt.time().alias("slot"),
        price.log().diff().over(SESSION).abs().alias("size"),
    ).with_columns(pl.Series("train", mask))
    slots = rows.filter("train").drop_nulls("size").group_by(ID, "slot").agg(pl.len(), pl.col("size").mean())
    slots = slots.filter((pl.col("len") >= LEAST_PER_SLOT) & (pl.col("size") > 0))
    mean = (pl.col("size") * pl.col("len")).sum() / pl.col("len").sum()
    slots = slots.select(ID, "slot", (pl.col("size") / mean.over(ID)).alias("season"))
    joined = rows.join(slots, on=[ID, "slot"], how="left", maintain_order="left")
    return joined.get_column("season").fill_null(1.0)


def _runs(frame: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    _require(frame, [ID, TIME, SEGMENT, SESSION, *BAR_COLUMNS], "number the sessions by `segmented` first")
    numbers = frame.select(pl.col(SEGMENT, SESSION).cast(pl.Int64))
    segment, session = (numbers.get_column(name) for name in (SEGMENT, SESSION))
    symbol = frame.get_column(ID).rle_id().to_numpy()
    found = [np.empty(0, dtype=np.int64) if s.null_count() else s.to_numpy() for s in (segment, session)]
    fits = all(len(numbers) == frame.height for numbers in found) and all(
        bool((np.diff(its) >= 0).all()) and bool((np.diff(its)[np.diff(outer) != 0] > 0).all())
        for its, outer in ((found[0], symbol), (found[1], found[0]))
    )
    if not fits:
        raise SourceError(
            "segments and sessions are not numbered in the order of the rows",
            expected="whole numbers that rise at every end of a symbol, segment or session",
            remedy="sort the bars by symbol and time and number them by `segmented`",
        )
    return found[0], found[1]


def _require(frame: pl.DataFrame, names: Sequence[str], remedy: str) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise SourceError(f"the bars lack the columns {missing}", expected=", ".join(names), remedy=remedy)


def _prices(frame: pl.DataFrame, name: str) -> Floats:
    return np.ascontiguousarray(frame.get_column(name).cast(pl.Float64).fill_null(float("nan")).to_numpy())


def _floats(name: str, values: Floats) -> pl.Series:
    return pl.Series(name, values, dtype=pl.Float64).fill_nan(None)


def _season(season: pl.Series | ArrayLike | None, rows: int) -> Floats:
    if season is None:
        return np.ones(rows)
    factor = np.ascontiguousarray(season, dtype=np.float64)
    if factor.shape != (rows,) or not np.isfinite(factor).all() or (factor <= 0).any():
        raise ConfigError(
            f"a season of shape {factor.shape} for {rows} bars",
            expected="one positive factor a bar",
            remedy="take it from `seasonal_factor` of the same frame",
        )
    return factor
