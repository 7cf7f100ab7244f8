"""The last link of the chain: a labelled forecast for a series that no model may forecast."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl

from nightcast.contracts.columns import (
    CUTOFF,
    HORIZON,
    ID,
    LEVELS,
    MODEL_USED,
    QUANTILES,
    ROLE_TARGET,
    ROW_UNPARSABLE,
    SERIES_ROLE,
    TARGET,
    TIME,
)
from nightcast.contracts.schema import PanelSchema

RECENT = 6
"""Known values whose median is the fallback: one wild value cannot move it."""
OWN = "fallback_median6"
PANEL = "fallback_panel_median"


def usable_rows(frame: pl.DataFrame, schema: PanelSchema, as_of: datetime) -> pl.DataFrame:
    """Rows that are right by themselves, whatever is wrong with the series: on the grid, dated, a finite number."""
    low = schema.lower if schema.lower is not None else -np.inf
    return (
        frame.filter(
            (pl.col(SERIES_ROLE) == ROLE_TARGET)
            & pl.col(TIME).is_not_null()
            & (pl.col(TIME) <= as_of)
            & (pl.col(TIME) == schema.freq.floor_expr(TIME))
            & pl.col(TARGET).is_finite().fill_null(False)
            & (pl.col(TARGET) >= low)
            & ~pl.col(ROW_UNPARSABLE)
        )
        .unique([ID, TIME], keep="first", maintain_order=True)
        .sort(ID, TIME)
        .select(ID, TIME, TARGET)
    )


def panel_fallback(frame: pl.DataFrame, schema: PanelSchema, as_of: datetime, series: Sequence[str]) -> pl.DataFrame:
    """Forecast `series` by the median of their last six usable values, or by the panel's typical series.

    The spread is the panel's own: quantiles, per horizon, of what followed the same rule in the past, in units of
    the rule's value.

    Parameters
    ----------
    frame
        Raw rows (`contracts.source.RawData.frame`).
    series
        Who needs it.

    Returns
    -------
    pl.DataFrame
        `unique_id, ds, cutoff, horizon, q10..q90, model_used`; `model_used` tells which of the two rules served.
    """
    rows = usable_rows(frame, schema, as_of)
    centre = pl.col(TARGET).rolling_median(RECENT, min_samples=1).over(ID, order_by=TIME)
    history = rows.with_columns(centre.alias("centre"))
    last = history.group_by(ID).agg(pl.col("centre").last())
    typical = last.get_column("centre").median()
    typical = float(typical) if isinstance(typical, int | float) else max(schema.lower or 0.0, 0.0)
    spreads = _relative_spreads(history, schema)
    wanted = pl.DataFrame({ID: sorted(set(series))}, schema={ID: pl.String}).join(last, on=ID, how="left")
    steps = pl.DataFrame(
        {
            HORIZON: list(range(1, schema.horizon + 1)),
            TIME: [schema.freq.shift(as_of, step) for step in range(1, schema.horizon + 1)],
        },
        schema={HORIZON: pl.Int32, TIME: pl.Datetime("us")},
    )
    out = (
        wanted.with_columns(
            pl.when(pl.col("centre").is_null()).then(pl.lit(PANEL)).otherwise(pl.lit(OWN)).alias(MODEL_USED),
            pl.col("centre").fill_null(typical),
        )
        .join(steps, how="cross")
        .join(spreads, on=HORIZON, how="left")
        .with_columns(pl.lit(as_of).cast(pl.Datetime("us")).alias(CUTOFF))
    )
    values = [(pl.col("centre") + pl.col("centre").abs() * pl.col(f"r_{name}")).alias(name) for name in QUANTILES]
    out = out.with_columns(values)
    if schema.lower is not None:
        out = out.with_columns(pl.col(name).clip(lower_bound=schema.lower) for name in QUANTILES)
    return out.select(ID, TIME, CUTOFF, HORIZON, *QUANTILES, MODEL_USED).sort(ID, HORIZON)


def _relative_spreads(history: pl.DataFrame, schema: PanelSchema) -> pl.DataFrame:
    """Per horizon: quantiles of (value - centre) / |centre| over the panel, `horizon, r_q10..r_q90`; median is 0."""
    rows = []
    for step in range(1, schema.horizon + 1):
        origin = history.filter(pl.col("centre").abs() > 0).select(
            ID, schema.freq.shift_expr(TIME, step).alias(TIME), "centre"
        )
        errors = (
            history.select(ID, TIME, TARGET)
            .join(origin, on=[ID, TIME], how="inner")
            .select((pl.col(TARGET) - pl.col("centre")) / pl.col("centre").abs())
            .to_series()
            .to_numpy()
        )
        if errors.size >= 10:
            spread = np.quantile(errors, LEVELS)
            spread -= spread[LEVELS.index(0.5)]
        else:  # too little past to learn from: the normal quantiles of a 30 % error
            spread = 0.3 * np.array([-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816])
        rows.append({HORIZON: step, **{f"r_{name}": float(s) for name, s in zip(QUANTILES, spread, strict=True)}})
    return pl.DataFrame(rows, schema_overrides={HORIZON: pl.Int32})
