"""Feature blocks of producing wells: water cut, cumulatives, productivity, workovers, decline, shape of the last year.

As in `history`, a row's values depend on rows of its series at or before its own time; `embedding` also on what all
series did before the row's calendar year began.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from nightcast.contracts.columns import ID, SERIES_ROLE, TARGET, TIME, UPTIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.schema import PanelSchema
from nightcast.features.history import PRESSURE, log_slope, running
from nightcast.features.injection import SUPPORT
from nightcast.features.windows import (
    Floats,
    Ints,
    as_column,
    carried,
    count_and_mean,
    divided,
    exponential,
    lagged,
    logarithm,
    number,
    position_of,
    sizes,
    statistic,
    steps_since,
    values_of,
    window,
)

OIL: Final = "wopr"
EMBEDDED: Final = (TARGET, PRESSURE, SUPPORT)
"""Columns whose windows are embedded, where they are there and no others are named."""
MIN_WINDOWS: Final = 24
"""Complete windows an embedding is learnt from at least."""


def water_cut(frame: pl.DataFrame, schema: PanelSchema, *, steps: Sequence[int] = (3, 12)) -> pl.DataFrame:
    """Share of water in the liquid, from the oil rate `wopr`, and how it changes.

    `wct_now` 1 - oil / liquid, within 0 and 1; `wct_mean_3` its mean over three steps; `wct_delta_<k>` its change over
    k steps; `wct_log_wor` ln of the water-oil ratio, which under water flood is straight over cumulative liquid.
    """
    y, oil, position = values_of(frame, TARGET), values_of(frame, OIL), position_of(frame)
    share = divided(oil, y)
    cut = np.clip(1.0 - share, 0.0, 1.0)
    columns = {"wct_now": cut, "wct_mean_3": count_and_mean(cut, position, 3)[1]}
    columns |= {f"wct_delta_{k}": cut - lagged(cut, position, k) for k in sizes(steps, "water_cut.steps")}
    columns["wct_log_wor"] = logarithm(divided(cut, 1.0 - cut))
    return frame.with_columns(as_column(name, values) for name, values in columns.items())


def cumulative(frame: pl.DataFrame, schema: PanelSchema) -> pl.DataFrame:
    """What a series has produced so far, in steps at its present rate (material-balance time), and its shares.

    `cum_steps_at_rate` sum of all known values over the mean of the last three; `cum_of_peak` the same sum over the
    largest value so far; `cum_last_year_share` share of the last 12 steps in the sum.
    """
    y, position = values_of(frame, TARGET), position_of(frame)
    size = np.abs(y)
    total, peak = running(np.nan_to_num(size), position, np.add), running(size, position, np.fmax)
    known, mean = count_and_mean(size, position, 12)
    columns = {
        "cum_steps_at_rate": divided(total, count_and_mean(size, position, 3)[1]),
        "cum_of_peak": divided(total, peak),
        "cum_last_year_share": divided(known * np.nan_to_num(mean), total),
    }
    return frame.with_columns(as_column(name, values) for name, values in columns.items())


def productivity(
    frame: pl.DataFrame, schema: PanelSchema, *, memory: int = 24, least_drawdown: float = 10.0
) -> pl.DataFrame:
    """Productivity index, producing-day rate over drawdown, of earlier steps only.

    The index of a step is made of its own rate, so as an input for that step it would be a leak: columns are one step
    late. Reservoir pressure is not measured; the highest flowing pressure of the last `memory` steps stands in for it.
    `pi_lag_1` the index; `pi_mean_6` its mean over six steps; `pi_trend` its ratio to the mean over twelve.

    Parameters
    ----------
    least_drawdown
        Bar below which the index explodes and is left out.
    """
    least_drawdown = number(least_drawdown, "productivity.least_drawdown", least=0)
    (memory,) = sizes([memory], "productivity.memory")
    p, position = values_of(frame, PRESSURE), position_of(frame)
    p = np.where(p > 0, p, np.nan)
    drawdown = statistic(p, position, memory, "max") - p
    index = divided(_producing_day_rate(frame), np.where(drawdown >= least_drawdown, drawdown, np.nan))
    late = lagged(index, position, 1)
    columns = {
        "pi_lag_1": late,
        "pi_mean_6": count_and_mean(late, position, 6)[1],
        "pi_trend": divided(late, count_and_mean(late, position, 12)[1]),
    }
    return frame.with_columns(as_column(name, values) for name, values in columns.items())


def workovers(
    frame: pl.DataFrame, schema: PanelSchema, *, least_gain: float = 1.15, most_uptime: float = 0.9
) -> pl.DataFrame:
    """Steps since a likely workover: a step partly or wholly down, after which the well gives clearly more.

    `work_since` steps since it was recognised, one step after the stop; `work_gain` the ratio of producing-day rates
    after and before it. Missing where none was seen, and where `uptime` is not known.

    Parameters
    ----------
    least_gain
        Ratio from which a gain is one.
    most_uptime
        A stop is a step with less uptime.
    """
    least_gain = number(least_gain, "workovers.least_gain", least=1)
    most_uptime = number(most_uptime, "workovers.most_uptime", least=0)
    position = position_of(frame)
    rate = _producing_day_rate(frame)
    uptime = values_of(frame, UPTIME)
    stopped = lagged(uptime, position, 1) < most_uptime
    before = count_and_mean(lagged(rate, position, 2), position, 3)[1]
    gain = divided(rate, before)
    found = stopped & (gain >= least_gain)
    columns = {
        "work_since": steps_since(found, position),
        "work_gain": carried(np.where(found, gain, np.nan), position),
    }
    return frame.with_columns(as_column(name, values) for name, values in columns.items())


def decline(frame: pl.DataFrame, schema: PanelSchema, *, ahead: Sequence[int] = (1, 3, 6)) -> pl.DataFrame:
    """What an exponential decline says of the steps ahead, anchored at the mean of the last three values.

    `dca_rate_<k>` the rate in k steps; the slope is that of the logarithm over the last 12 producing values, held
    between -10 % and +5 % a step and halved, since half of what looks like a slope is noise on a year of months.
    """
    y, position = values_of(frame, TARGET), position_of(frame)
    slope = np.clip(0.5 * log_slope(y, position, 12), -0.1, 0.05)
    anchor = count_and_mean(y, position, 3)[1]
    columns = {f"dca_rate_{k}": anchor * exponential(slope * k) for k in sizes(ahead, "decline.ahead")}
    return frame.with_columns(as_column(name, values) for name, values in columns.items())


def embedding(
    frame: pl.DataFrame,
    schema: PanelSchema,
    *,
    size: int = 12,
    components: int = 3,
    columns: Sequence[str] | None = None,
) -> pl.DataFrame:
    """`emb_<k>`: principal components of the last `size` values of one or more columns, as ratios to their mean.

    The components that a row is projected on were learnt from the complete windows that had ended before the row's
    calendar year: no row sees a window of its own year or later, and none changes when rows are added at the end.

    Parameters
    ----------
    columns
        What the windows are of: the target, past or plan covariates, columns of other blocks. Several are weighed by
        one over their windows' standard deviation; the first must be known somewhere in a row's window, and another one
        joins in a year if at least half of the windows that teach, and 24 of them, are complete in it. None: the
        target with those of `wbhp` and `inj_wwir_lag_weighted` that are there.

    Raises
    ------
    ConfigError
        If more components are asked for than a window has steps, or a column cannot be had.
    """
    (size,), (components,) = sizes([size], "embedding.size", least=2), sizes([components], "embedding.components")
    if components > size:
        raise ConfigError(
            f"embedding.components = {components} of windows of {size} steps",
            expected=f"at most {size}",
            remedy="lower `components` or raise `size` under `features`",
        )
    named = (
        [name for name in EMBEDDED if name in frame.columns] if columns is None else _embedded(frame, schema, columns)
    )
    position = position_of(frame)
    year = frame.get_column(TIME).dt.year().to_numpy().astype(np.int64)
    shapes = [_shapes(values_of(frame, name), position, size) for name in named]
    known = np.any([~np.isnan(step) for step in window(values_of(frame, named[0]), position, size)], axis=0)
    complete = [np.all([~np.isnan(step) for step in shape], axis=0) for shape in shapes]
    out = np.full((components, frame.height), np.nan)
    for its in np.unique(year):
        teach = complete[0] & (year < its)
        if teach.sum() < MIN_WINDOWS:
            continue
        joined = [0]
        for at in range(1, len(shapes)):
            both = teach & complete[at]
            if both.sum() >= max(MIN_WINDOWS, teach.sum() / 2):
                joined.append(at)
                teach = both
        steps = [step for at in joined for step in shapes[at]]
        rows = np.stack([step[teach] for step in steps], axis=1)
        centre = rows.mean(axis=0)
        weight = np.ones(len(steps))
        if len(joined) > 1:
            spread = np.sqrt(rows.var(axis=0).reshape(len(joined), size).mean(axis=1))
            weight = np.repeat(np.where(spread > 1e-9, 1.0 / np.maximum(spread, 1e-9), 0.0), size)
        _, vectors = np.linalg.eigh(np.cov((rows - centre) * weight if len(joined) > 1 else rows, rowvar=False))
        here = (year == its) & known
        for k in range(components):
            direction = vectors[:, -1 - k]
            direction = direction * np.sign(direction[np.abs(direction).argmax()]) * weight
            # column by column, so that a row's bits do not depend on how many rows there are
            total = np.zeros(frame.height)
            for step, middle, share in zip(steps, centre, direction, strict=True):
                total += np.where(np.isnan(step), 0.0, (step - middle) * share)
            out[k, here] = total[here]
    return frame.with_columns(as_column(f"emb_{k + 1}", out[k]) for k in range(components))


def _embedded(frame: pl.DataFrame, schema: PanelSchema, columns: Sequence[str]) -> list[str]:
    """The columns asked for, checked."""
    listed = list(columns) if isinstance(columns, (list, tuple)) else []
    fixed = {ID, TIME, SERIES_ROLE, *schema.columns_of("static")}
    able = [n for n, dtype in frame.schema.items() if n not in fixed and (dtype.is_numeric() or dtype == pl.Boolean)]
    wrong = [name for name in listed if name not in able]
    if not listed or wrong or len(set(listed)) != len(listed):
        raise ConfigError(
            f"embedding.columns = {columns!r}"
            + (f": there is no such column in time as {wrong[0]!r}" if wrong else ""),
            expected=f"different names out of {', '.join(able)}",
            remedy="correct `columns` under `features`, or add the block that makes the column to the recipe",
        )
    return listed


def _shapes(values: Floats, position: Ints, size: int) -> list[Floats]:
    """The last `size` values, newest first, as signed logarithms of one plus their ratio to the mean size."""
    past = list(window(values, position, size))
    known = np.sum([~np.isnan(step) for step in past], axis=0)
    mean = divided(np.sum([np.nan_to_num(np.abs(step)) for step in past], axis=0), known.astype(np.float64))
    return [np.sign(step) * logarithm(1.0 + divided(np.abs(step), mean)) for step in past]


def _producing_day_rate(frame: pl.DataFrame) -> Floats:
    """Target over uptime where it is known and above 5 %; the target itself where uptime is not reported."""
    y = values_of(frame, TARGET)
    if UPTIME not in frame.columns:
        return y
    uptime = values_of(frame, UPTIME)
    return np.where(np.isnan(uptime), y, divided(y, np.where(uptime > 0.05, uptime, np.nan)))
