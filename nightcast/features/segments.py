"""Runs of bars: segments between gaps, sessions between scheduled closes."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.columns import ID, SEGMENT, SESSION, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.schema import BarsSchema, Calendar
from nightcast.contracts.source import Note

LONGEST_CLOSE: Final = timedelta(days=4, hours=12)
"""A weekday market's holidays and weekends together last at most so long; a longer silence is a gap."""
HABIT: Final = 0.2
"""Share of the days on which a break at the same time of day counts as scheduled (a daily maintenance break)."""
WEEKEND: Final = 0.02
"""Share of weekend bars up to which a calendar has weekends off."""


def segmented(frame: pl.DataFrame, schema: BarsSchema) -> tuple[pl.DataFrame, tuple[Note, ...]]:
    """Add the columns `segment` and `session`; no bar is inserted, moved or dropped.

    A segment ends where the symbol changes, or where more than `schema.max_gap` bars are missing that the calendar
    says there should be. A session ends there too, and at each scheduled close of an intraday calendar: a weekend or
    holiday of a weekday market, a daily break that most days have at the same time. Bars of one a day have no
    closes: their sessions are their segments. Numbers rise over all symbols.

    Parameters
    ----------
    frame
        `unique_id, ds`, sorted by both, keys unique.

    Raises
    ------
    ConfigError
        If the frame is not sorted, or a key repeats.
    """
    ids = frame.get_column(ID)
    times = frame.get_column(TIME).cast(pl.Datetime("us")).to_numpy()
    if frame.is_empty():
        return frame.with_columns(pl.lit(0, pl.Int64).alias(SEGMENT), pl.lit(0, pl.Int64).alias(SESSION)), ()
    new_symbol = np.append(True, (ids != ids.shift(1)).fill_null(True).to_numpy()[1:])
    step = np.timedelta64(schema.step, "us")
    away = np.diff(times, prepend=times[:1])
    if (away[~new_symbol] <= np.timedelta64(0, "us")).any():
        raise ConfigError(
            "bars are not in order of symbol and time, or a time repeats",
            expected="rows sorted by unique_id and ds, each pair once",
            remedy="sort and deduplicate them first",
        )
    missing = np.where(new_symbol, 0, away // step - 1).astype(np.int64)
    closed = _scheduled(times, away, missing, new_symbol, schema)
    gap = (missing > schema.max_gap) & ~closed
    segment = np.cumsum(new_symbol | gap) - 1
    session = np.cumsum(new_symbol | gap | (closed & (schema.calendar == "weekdays"))) - 1
    notes = []
    if gap.any():
        notes.append(
            Note(
                "gaps",
                int(gap.sum()),
                f"{int(gap.sum())} gaps of more than {schema.max_gap} bars: windows, features and labels end there",
            )
        )
    short = int(((missing > 0) & ~gap & ~closed).sum())
    if short:
        lost = int(missing[(missing > 0) & ~gap & ~closed].sum())
        notes.append(Note("short_gaps", lost, f"{lost} bars missing in {short} gaps of at most {schema.max_gap}"))
    out = frame.with_columns(pl.Series(SEGMENT, segment.astype(np.int64)), pl.Series(SESSION, session.astype(np.int64)))
    return out, tuple(notes)


def _scheduled(
    times: NDArray[np.datetime64],
    away: NDArray[np.timedelta64],
    missing: NDArray[np.int64],
    new_symbol: NDArray[np.bool_],
    schema: BarsSchema,
) -> NDArray[np.bool_]:
    """Bars that follow a scheduled close."""
    pause = (missing > 0) & ~new_symbol
    if schema.calendar == "continuous" or not pause.any():
        return np.zeros(len(times), dtype=bool)
    before = times - away
    if schema.calendar == "business_days":
        # weekends are no missing bars; what is left over counts
        weekdays = np.busday_count(before.astype("datetime64[D]"), times.astype("datetime64[D]"))
        return pause & (weekdays - 1 <= schema.max_gap)
    day = before.astype("datetime64[D]")
    # a pause is a weekend if a Saturday or Sunday lies in it, whatever else does
    workdays = np.busday_count(day, times.astype("datetime64[D]"))
    days = (times.astype("datetime64[D]") - day).astype(np.int64)
    weekend = days > workdays
    closed = pause & weekend & (away <= np.timedelta64(LONGEST_CLOSE, "us"))
    # a break that most days have at the same time of day
    clock = (before - day).astype("timedelta64[us]").astype(np.int64)
    total = max(1, len(np.unique(times.astype("datetime64[D]"))))
    for code in np.unique(clock[pause & ~weekend]):
        same = pause & ~weekend & (clock == code)
        if len(np.unique(day[same])) >= HABIT * total:
            closed |= same
    # a holiday: silence from one day to a later one, around midnight
    closed |= (
        pause
        & ~weekend
        & (days >= 1)
        & (away >= np.timedelta64(12, "h"))
        & (away <= np.timedelta64(LONGEST_CLOSE, "us"))
    )
    return np.asarray(closed)


def infer_calendar(times: pl.Series) -> Calendar:
    """The calendar that bars' times follow: by their step, and whether weekends have bars."""
    unique = times.drop_nulls().unique().sort()
    share = float((unique.dt.weekday() >= 6).mean() or 0.0)  # type: ignore[arg-type]
    if share > WEEKEND:
        # a week that is closed for a day or so (Friday night to Sunday night) still has Sunday bars
        return "weekdays" if share < 0.15 else "continuous"
    daily = (unique.dt.hour() == 0).all() and (unique.dt.minute() == 0).all()
    return "business_days" if daily else "weekdays"


def infer_frequency(frame: pl.DataFrame) -> Frequency:
    """The most common step between neighbouring bars of a symbol.

    Raises
    ------
    ConfigError
        If no symbol has two bars, or the step is none that a bar can have.
    """
    steps = (
        frame.drop_nulls(TIME)
        .sort(ID, TIME)
        .select((pl.col(TIME) - pl.col(TIME).shift(1)).over(ID).dt.total_seconds().alias("step"))
        .filter(pl.col("step") > 0)
    )
    if steps.is_empty():
        raise ConfigError(
            "no symbol has two bars at different times",
            expected="bars in time",
            remedy="check `columns.time`, or declare `freq`",
        )
    seconds = int(steps.get_column("step").mode().sort()[0])
    for unit, size in (("D", 86_400), ("h", 3600), ("min", 60)):
        if seconds % size == 0:
            count = seconds // size
            return Frequency.parse(unit if count == 1 else f"{count}{unit}")
    raise ConfigError(
        f"the most common step between bars is {seconds} seconds",
        expected="whole minutes",
        remedy="resample the bars, or declare `freq`",
    )
