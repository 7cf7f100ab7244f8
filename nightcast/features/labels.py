"""Triple-barrier labels (Lopez de Prado 2018, chapter 3).

A decision at bar t is entered at the open of bar t + 1. Two barriers lie around that price, a third one h bars ahead.
The label is the barrier that is touched first: 0 the lower, 2 the upper, 1 none within h bars.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.bars import label_columns
from nightcast.contracts.columns import CLASSES, CLOSE, HIGH, HORIZON, LOW, OPEN, SEGMENT, SESSION, TIME
from nightcast.contracts.schema import BarsSchema, LabelPlan

SIGMA: Final = "sigma"
MIN_RETURNS: Final = 20
"""Returns of a segment before its volatility counts as known."""


def triple_barrier(frame: pl.DataFrame, schema: BarsSchema, plan: LabelPlan) -> pl.DataFrame:
    """Add `sigma` and, per horizon, the columns of `label_columns`.

    The width of the barriers is known at t: it comes from returns up to t. At a touch the return is the barrier's,
    or that of the bar's open where it opens beyond. A bar that touches both barriers inside itself leaves the order
    unknown: the label is flagged and follows `plan.ambiguous`.

    A label is unknown (null) where t + h lies beyond the session's end, even if a barrier is touched before it: to
    keep only the touched ones would make the end of every session look eventful. It is unknown, too, where the
    volatility is, and where a bar up to its end lacks a price.

    Parameters
    ----------
    frame
        `unique_id, ds, segment, session, open, high, low, close`, sorted by symbol and time.
    """
    from nightcast.features._label_kernels import touch

    out = frame.with_columns(volatility(plan.span).alias(SIGMA))
    prices = [
        out.get_column(name).cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in (OPEN, HIGH, LOW, CLOSE)
    ]
    sigma = out.get_column(SIGMA).fill_null(float("nan")).to_numpy()
    last = last_rows(out.get_column(SESSION).to_numpy())
    columns: list[pl.Series] = []
    for horizon in schema.horizons:
        width = barrier_width(sigma, horizon, plan)
        y, hold, ret, ambiguous = touch(*prices, last, width, horizon, plan.ambiguous == "worst")
        known = y >= 0
        names = label_columns(horizon)
        mask = pl.Series(known)
        series = {
            "y": pl.Series(y, dtype=pl.Int8),
            "hold": pl.Series(hold, dtype=pl.Int32),
            "ret": pl.Series(ret, dtype=pl.Float64),
            "width": pl.Series(width, dtype=pl.Float64),
            "ambiguous": pl.Series(ambiguous, dtype=pl.Boolean),
        }
        for name, values in series.items():
            columns.append(values.zip_with(mask, pl.Series([None], dtype=values.dtype)).alias(names[name]))
    return out.with_columns(columns)


def volatility(span: int) -> pl.Expr:
    """Exponentially weighted deviation of one-bar log returns inside the segment, known at each bar's close."""
    price = pl.col(CLOSE).cast(pl.Float64)
    returns = pl.when(price > 0).then(price).log().diff().over(SEGMENT)
    return returns.ewm_std(span=span, min_samples=MIN_RETURNS, ignore_nulls=True).over(SEGMENT)


def barrier_width(sigma: NDArray[np.float64], horizon: int, plan: LabelPlan) -> NDArray[np.float64]:
    """Half-width of the barriers as a fraction of the entry price; nan where the volatility is unknown or zero."""
    known = np.isfinite(sigma) & (sigma > 0)
    scaled = plan.multiplier * sigma * np.sqrt(horizon)
    if plan.barrier == "fixed":
        width = np.full(len(sigma), plan.threshold)
    elif plan.barrier == "adaptive":
        width = np.maximum(plan.minimum, scaled)
    else:
        width = scaled
    return np.where(known, width, np.nan)


def last_rows(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row the last row of its run of equal codes."""
    if not len(codes):
        return np.empty(0, dtype=np.int64)
    ends = np.append(np.flatnonzero(np.diff(codes)), len(codes) - 1)
    return np.repeat(ends, np.diff(np.append(-1, ends))).astype(np.int64)


def seasonal_factor(frame: pl.DataFrame, train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`[N]` typical size of a return at each time of day over the overall one, learnt on training rows alone.

    Divide one-bar returns by it before taking their volatility, and multiply the width by it again, where a market
    has a pronounced day (requirements of intraday futures).
    """
    price = pl.col(CLOSE).cast(pl.Float64)
    rows = frame.with_columns(
        price.log().diff().over(SEGMENT).abs().alias("_size"),
        (pl.col(TIME).dt.hour().cast(pl.Int32) * 60 + pl.col(TIME).dt.minute()).alias("_clock"),
    ).with_columns(pl.Series("_train", train))
    seen = rows.filter(pl.col("_train") & pl.col("_size").is_not_null())
    overall = seen.get_column("_size").mean()
    if not isinstance(overall, float) or overall <= 0:
        return np.ones(frame.height)
    typical = seen.group_by("_clock").agg((pl.col("_size").mean() / overall).alias("_factor"))
    joined = rows.select("_clock").join(typical, on="_clock", how="left", maintain_order="left")
    return joined.get_column("_factor").fill_null(1.0).clip(lower_bound=0.1).to_numpy()


def label_facts(frame: pl.DataFrame, horizons: tuple[int, ...]) -> pl.DataFrame:
    """Per horizon: known labels, class shares, ambiguous share, mean hold in bars, mean uniqueness, median |return|."""
    from nightcast.features.weights import uniqueness

    rows = []
    for horizon in horizons:
        names = label_columns(horizon)
        known = frame.get_column(names["y"]).is_not_null()
        part = frame.filter(known)
        at = np.flatnonzero(known.to_numpy())
        hold = part.get_column(names["hold"]).to_numpy()
        y = part.get_column(names["y"]).to_numpy()
        share = np.bincount(y, minlength=len(CLASSES)) / max(1, len(y))
        decided = part.filter(pl.col(names["y"]) != 1).get_column(names["ret"]).abs().median()
        rows.append(
            {
                HORIZON: horizon,
                "rows": len(at),
                **{f"share_{name}": float(share[k]) for k, name in enumerate(CLASSES)},
                "ambiguous": float(part.get_column(names["ambiguous"]).mean() or 0.0),  # type: ignore[arg-type]
                "mean_hold": float(hold.mean()) if len(hold) else None,
                "uniqueness": float(uniqueness(at, hold, frame.height).mean()) if len(at) else None,
                "median_move": decided,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)
