"""Feature blocks known ahead: they depend on the time label, and on when a series began, alone."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Final

import polars as pl

from nightcast.contracts.columns import ID, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.schema import PanelSchema
from nightcast.features.windows import sizes

# A Monday, so that weeks and daily seasons of 7 start together.
_EPOCH: Final = datetime(1973, 1, 1)
_EPOCH_COLUMN: Final = "_epoch"
PAIRS: Final = 3
"""Fourier pairs where none are asked for."""


def calendar(frame: pl.DataFrame, schema: PanelSchema) -> pl.DataFrame:
    """Where in the calendar a step lies, as fits the frequency.

    `cal_month` 1-12, `cal_quarter` 1-4, `cal_week` 1-53, `cal_day` 1-31, `cal_weekday` 1 (Monday) - 7, `cal_hour`
    (with the minutes as a fraction); `cal_days` days in the period, where periods differ in length.
    """
    time = pl.col(TIME).dt
    month, quarter = time.month().alias("cal_month"), time.quarter().alias("cal_quarter")
    weekday = time.weekday().alias("cal_weekday")
    length = (schema.freq.shift_expr(TIME, 1) - pl.col(TIME)).dt.total_days().alias("cal_days")
    columns = {
        "YS": [length],
        "QS": [quarter, length],
        "MS": [month, quarter, length],
        "W-MON": [month, quarter, time.week().alias("cal_week")],
        "D": [month, time.day().alias("cal_day"), weekday],
        "h": [weekday, time.hour().alias("cal_hour")],
        "min": [weekday, (time.hour() + time.minute() / 60).alias("cal_hour")],
    }[schema.freq.unit]
    return frame.with_columns(column.cast(pl.Float64) for column in columns)


def fourier(
    frame: pl.DataFrame, schema: PanelSchema, *, pairs: int | None = None, season: int | None = None
) -> pl.DataFrame:
    """`fourier_sin_<k>`, `fourier_cos_<k>`, k = 1..`pairs`, of the season (None: the frequency's own, in steps).

    Without `pairs` there are three, or as many as a season of fewer than six steps can have.
    """
    length = schema.freq.season_length if season is None else season
    if pairs is None:
        pairs = max(1, min(PAIRS, length // 2)) if isinstance(length, int) else PAIRS
    (pairs,) = sizes([pairs], "fourier.pairs")
    if not isinstance(length, int) or length < 2 or 2 * pairs > length:
        raise ConfigError(
            f"{pairs} Fourier pairs of a season of {length} steps",
            expected="a season of at least 2 steps and at most half as many pairs",
            remedy="lower `pairs`, set `season`, or leave the block out of the recipe",
        )
    phase = (_steps_from_epoch(schema.freq) % length).cast(pl.Float64)
    columns = []
    for k in range(1, pairs + 1):
        angle = phase * (2 * math.pi * k / length)
        if 2 * k < length:  # at half the season the sine is zero at every step
            columns.append(angle.sin().alias(f"fourier_sin_{k}"))
        columns.append(angle.cos().alias(f"fourier_cos_{k}"))
    return (
        frame.with_columns(pl.lit(_EPOCH).cast(pl.Datetime("us")).alias(_EPOCH_COLUMN))
        .with_columns(columns)
        .drop(_EPOCH_COLUMN)
    )


def _steps_from_epoch(freq: Frequency) -> pl.Expr:
    return freq.steps_between_expr(_EPOCH_COLUMN, TIME)


def age(frame: pl.DataFrame, schema: PanelSchema) -> pl.DataFrame:
    """`age_steps` steps since the series' first row, which is its first known target; `age_log` ln(1 + steps)."""
    steps = pl.int_range(pl.len(), dtype=pl.Int64).over(ID).cast(pl.Float64)
    return frame.with_columns(steps.alias("age_steps"), steps.log1p().alias("age_log"))
