"""Feature blocks that look back along a series' own target, uptime and pressure.

Every function takes the frame on its regular grid, sorted by series and time, and adds columns; a row's values depend
on rows of its series at or before its own time. Missing stays missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from nightcast.contracts.columns import TARGET, UPTIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.schema import PanelSchema
from nightcast.features.windows import (
    STATISTICS,
    Flags,
    Floats,
    Ints,
    Statistic,
    as_column,
    carried,
    count_and_mean,
    divided,
    lagged,
    last_index,
    logarithm,
    number,
    position_of,
    sizes,
    statistic,
    steps_since,
    values_of,
    window,
)

PRESSURE: Final = "wbhp"


def lags(frame: pl.DataFrame, schema: PanelSchema, *, steps: int = 12) -> pl.DataFrame:
    """Target now and `steps` steps back: `lag_0` (the row's own value) to `lag_<steps>`."""
    (steps,) = sizes([steps], "lags.steps", least=0)
    y, position = values_of(frame, TARGET), position_of(frame)
    return frame.with_columns(as_column(f"lag_{k}", lagged(y, position, k)) for k in range(steps + 1))


def rolling(
    frame: pl.DataFrame,
    schema: PanelSchema,
    *,
    windows: Sequence[int] = (3, 6, 12),
    statistics: Sequence[Statistic] = STATISTICS,
) -> pl.DataFrame:
    """Statistics of the known targets among the last steps: `roll_mean_3`, `roll_std_12`, ..."""
    unknown = [name for name in statistics if name not in STATISTICS]
    if unknown or not statistics:
        raise ConfigError(
            f"unknown rolling statistics {unknown}" if unknown else "no rolling statistic is named",
            expected=f"some of {', '.join(STATISTICS)}",
            remedy="correct `statistics` under `features`",
        )
    y, position = values_of(frame, TARGET), position_of(frame)
    return frame.with_columns(
        as_column(f"roll_{name}_{size}", statistic(y, position, size, name))
        for size in sizes(windows, "rolling.windows")
        for name in statistics
    )


def trend(frame: pl.DataFrame, schema: PanelSchema, *, windows: Sequence[int] = (3, 6, 12)) -> pl.DataFrame:
    """Decline: slopes of the log target, and ratios of its means over shorter and longer windows.

    `trend_log_slope_<w>` is the least-squares slope of ln y per step over the last w *producing* values (y > 0), as of
    the last one of them; it needs three values (two for w = 2). `trend_ratio_<a>_<b>` is the mean over a steps over the
    mean over b steps, for neighbours in (1, *windows).
    """
    spans = sizes(windows, "trend.windows", least=2)
    y, position = values_of(frame, TARGET), position_of(frame)
    columns = [as_column(f"trend_log_slope_{size}", log_slope(y, position, size)) for size in spans]
    means = {size: count_and_mean(y, position, size)[1] for size in (1, *spans)}
    ordered = sorted(means)
    columns += [
        as_column(f"trend_ratio_{short}_{long}", divided(means[short], means[long]))
        for short, long in itertools.pairwise(ordered)
    ]
    return frame.with_columns(columns)


def log_slope(y: Floats, position: Ints, size: int) -> Floats:
    """Least-squares slope of ln y per step over the last `size` producing values, as of the last one of them."""
    producing = np.flatnonzero(y > 0)
    time = position[producing].astype(np.float64)
    level = logarithm(y[producing])
    # Row number among the producing rows of the same series.
    starts = producing - position[producing]
    fresh = np.concatenate([[True], starts[1:] != starts[:-1]]) if len(starts) else np.zeros(0, dtype=np.bool_)
    rows = np.arange(len(producing))
    rank = rows - np.maximum.accumulate(np.where(fresh, rows, 0)) if len(rows) else rows
    count, mean_time = count_and_mean(time, rank, size)
    _, mean_level = count_and_mean(level, rank, size)
    above, below = np.zeros_like(time), np.zeros_like(time)
    for t, v in zip(window(time, rank, size), window(level, rank, size), strict=True):
        known = ~np.isnan(t)
        above += np.where(known, (t - mean_time) * (v - mean_level), 0.0)
        below += np.where(known, (t - mean_time) ** 2, 0.0)
    slope = np.where(count >= min(size, 3), divided(above, below), np.nan)
    out = np.full_like(y, np.nan)
    out[producing] = slope
    # A slope is as of the last producing row; a later row that is shut or missing carries it on.
    last = last_index(y > 0, position)
    return np.where(last >= 0, out[np.maximum(last, 0)], np.nan) if len(y) else y


def status(
    frame: pl.DataFrame, schema: PanelSchema, *, windows: Sequence[int] = (3, 6, 12), least_uptime: float = 0.0
) -> pl.DataFrame:
    """Producing or shut, from `uptime` where it is known (above `least_uptime` = producing), else from y > 0.

    `status_share_<w>` share of producing steps among the known ones of the last w; `status_shut` 1 if shut now;
    `status_since_shut` steps since a shut step; `status_since_restart` steps since the last restart, missing while
    shut; `status_since_first` steps since the first producing step; `status_last_rate` target of the last producing
    step.
    """
    least_uptime = number(least_uptime, "status.least_uptime", least=0)
    y, position = values_of(frame, TARGET), position_of(frame)
    state = np.where(np.isnan(y), np.nan, (y > 0).astype(np.float64))
    if UPTIME in frame.columns:
        uptime = values_of(frame, UPTIME)
        state = np.where(np.isnan(uptime), state, (uptime > least_uptime).astype(np.float64))
    producing, shut = state == 1, state == 0

    before = lagged(carried(state, position), position, 1)
    since_shut = steps_since(shut, position)
    since_restart = steps_since(producing & (before == 0), position)
    # A shut step after the restart ends it; NaN compares false, so what never was shut stays missing.
    since_restart = np.where(since_restart < since_shut, since_restart, np.nan)
    first = np.where(producing & (_count_before(producing, position) == 0), position, np.nan)
    columns = {f"status_share_{size}": count_and_mean(state, position, size)[1] for size in sizes(windows, "windows")}
    columns |= {
        "status_shut": 1.0 - state,
        "status_since_shut": since_shut,
        "status_since_restart": since_restart,
        "status_since_first": position - carried(first.astype(np.float64), position),
        "status_last_rate": carried(np.where(producing & (y > 0), y, np.nan), position),
    }
    return frame.with_columns(as_column(name, values) for name, values in columns.items())


def _count_before(condition: Flags, position: Ints) -> Ints:
    """How often the condition held earlier in the series."""
    total: Ints = np.cumsum(condition) - condition
    return total - total[np.arange(len(total)) - position] if len(total) else total


def pressure(
    frame: pl.DataFrame, schema: PanelSchema, *, steps: Sequence[int] = (1, 3, 6), least_drawdown: float = 10.0
) -> pl.DataFrame:
    """Bottom-hole pressure `wbhp` (bar): its changes, its distance to its own extremes, and a lagged specific rate.

    `press_delta_<k>` change over k steps; `press_to_max`, `press_to_min` distance to the running maximum and minimum;
    `press_rate_per_bar_lag_1` target over (running maximum - pressure), one step back: the running maximum stands in
    for the reservoir pressure. A drawdown below `least_drawdown` bar gives no value, since the quotient explodes there.
    A pressure of 0 or less is a dead gauge and counts as missing.
    """
    least_drawdown = number(least_drawdown, "pressure.least_drawdown", least=0)
    y, p, position = values_of(frame, TARGET), values_of(frame, PRESSURE), position_of(frame)
    p = np.where(p > 0, p, np.nan)
    highest, lowest = running(p, position, np.fmax), running(p, position, np.fmin)
    drawdown = np.where(highest - p >= least_drawdown, highest - p, np.nan)
    columns = {f"press_delta_{k}": p - lagged(p, position, k) for k in sizes(steps, "pressure.steps")}
    columns |= {
        "press_to_max": highest - p,
        "press_to_min": p - lowest,
        "press_rate_per_bar_lag_1": lagged(divided(y, drawdown), position, 1),
    }
    return frame.with_columns(as_column(name, values) for name, values in columns.items())


def running(values: Floats, position: Ints, accumulated: np.ufunc) -> Floats:
    """`accumulated` (`np.fmax`, `np.add`, ..) over each series from its first row on."""
    out = np.full_like(values, np.nan)
    edges = [*np.flatnonzero(position == 0), len(values)]
    for start, end in itertools.pairwise(edges):
        out[start:end] = accumulated.accumulate(values[start:end])
    return out
