"""Where bars stop following one another: segments end at gaps, sessions at scheduled closes.

No bar is ever inserted. A window, feature or label that stays inside a segment sees bars that belong together; a label
that stays inside a session never holds a position over a close.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from nightcast.contracts.columns import ID, SEGMENT, SESSION, TIME
from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.schema import ALL_SYMBOLS, BarsSchema, Calendar
from nightcast.contracts.source import Note

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_MINUTE: Final = 60_000_000
_DAY: Final = 1440 * _MINUTE
_MONDAY: Final = 4 * _DAY
"""The first Monday of the Unix clock, 1970-01-05, in microseconds."""

HOLIDAY_AT_LEAST: Final = 20 * 60 * _MINUTE
"""A market that is closed this long has a weekend or a holiday: no daily break lasts as long."""
HOLIDAY_AT_MOST: Final = 4 * _DAY
"""Longest holiday, not counting Saturdays and Sundays."""
BREAK_DAYS: Final = 10
"""Trading days before or after a day, itself included, that show its daily breaks."""
BREAK_DAYS_AT_LEAST: Final = 3
"""Trading days without which no daily break is recognised."""
BREAK_SHARE: Final = 0.8
"""Share of these days without a bar at a clock time that makes it a daily break."""


@dataclass(frozen=True)
class _Holes:
    """Consecutive bars of one symbol with at least one step missing between them."""

    before: Ints
    """Row of the last bar before each hole; the next row is the first after it."""
    missing: Ints
    """Missing steps of the clock, for business days missing weekdays."""


def segmented(frame: pl.DataFrame, schema: BarsSchema) -> tuple[pl.DataFrame, tuple[Note, ...]]:
    """Number the segments and the sessions of bars.

    A segment ends with its symbol and wherever more than `schema.max_gap` bars are missing that the calendar wants:

    - `continuous`: every step of the clock.
    - `business_days`: every weekday. Bars longer than a day follow the clock.
    - `weekdays`: every step outside scheduled closes, which are weekends and holidays, 20 hours up to 4 days long
      not counting Saturdays and Sundays; and daily breaks: clock times without a bar on at least 8 of the 10 trading
      days before or after. A day may close early before a break, or open late after one, by up to half a trading
      day. Bars of a day or longer are taken as `business_days`.

    A segment also ends at each roll that the schema declares: before the first bar at or after it, whatever the price
    did. A session ends with its segment, and at each scheduled close of an intraday calendar.

    Parameters
    ----------
    frame
        `unique_id, ds` and any other columns, sorted by symbol and time, unique.
    schema
        Declared step, calendar and largest gap.

    Returns
    -------
    tuple
        The frame with the Int64 columns `segment` and `session` after `ds`, both rising and unique over all symbols;
        and what was counted: `gaps` that end a segment, `scheduled_closes`, `bars_missing` inside segments, `rolls`,
        `rolls_of_no_symbol`.

    Raises
    ------
    SourceError
        If rows are not sorted, repeat, have no time, or lie closer than one step.
    ConfigError
        If bars shorter than a day are declared as `business_days`.
    """
    intraday = schema.freq.unit in ("min", "h")
    if intraday and schema.calendar == "business_days":
        raise ConfigError(
            f"bars of {schema.freq.word} on the calendar business_days",
            expected="bars of a day on business_days, shorter ones on weekdays or continuous",
            remedy="set `calendar: weekdays`, or `freq: D`",
        )
    last, time = _last_of_symbol(frame), _microseconds(frame)
    steps = _steps(frame, schema.freq, time, last)
    missing = np.where(last, 0, steps - 1)
    if schema.calendar != "continuous" and schema.freq == Frequency(1, "D"):
        missing = _missing_weekdays(time, last, missing)
    before = np.flatnonzero(missing > 0).astype(np.int64)
    holes = _Holes(before, missing[before])
    closed = np.zeros(len(before), dtype=bool)
    if intraday and schema.calendar == "weekdays" and len(before):
        closed = _scheduled(time, last, holes, schema)
    gap = ~closed & (holes.missing > schema.max_gap)

    ends_segment = last.copy()
    ends_segment[before[gap]] = True
    rolled, told = _rolls(frame, schema, time, last)
    ends_segment[rolled] = True
    ends_session = ends_segment.copy()
    ends_session[before[closed]] = True
    numbered = frame.with_columns(
        pl.Series(SEGMENT, _numbers(ends_segment), dtype=pl.Int64),
        pl.Series(SESSION, _numbers(ends_session), dtype=pl.Int64),
    )
    order = [ID, TIME, SEGMENT, SESSION]
    return numbered.select(*order, pl.exclude(order)), (*_notes(holes, gap, closed, schema), *told)


def infer_calendar(times: pl.Series | ArrayLike) -> Calendar:
    """Calendar of bars, from their times alone.

    Bars of a day or longer: `business_days` if none falls on a weekend, else `continuous`. Shorter ones: `weekdays` if
    a day of the weekend holds, on average, less than three quarters of a weekday's bars; where no whole weekend lies
    between the bars, if a step is missing anywhere.

    Parameters
    ----------
    times
        Times of one or several symbols, in any order; repeated ones count once.

    Raises
    ------
    SourceError
        If there are fewer than two different times.
    """
    clock = np.unique(np.asarray(times, dtype="datetime64[us]")).astype(np.int64)
    if len(clock) < 2:
        raise SourceError(
            f"{len(clock)} different times of bars",
            expected="at least two, to tell the calendar by",
            remedy="declare `calendar` in the workload file",
        )
    step = _most_common(np.diff(clock))
    day = (clock - _MONDAY) // _DAY
    weekend = day % 7 >= 5
    if step >= _DAY:
        return "continuous" if weekend.any() else "business_days"
    days = np.arange(day[0], day[-1] + 1)
    off = days % 7 >= 5
    # the first and the last day may be cut short
    inner = np.isin(days % 7, (5, 6)) & (days > day[0]) & (days < day[-1])
    if inner.sum() < 2:
        return "weekdays" if (np.diff(clock) > step).any() else "continuous"
    weekend_bars, weekday_bars = weekend.sum() / off.sum(), (~weekend).sum() / max((~off).sum(), 1)
    return "weekdays" if weekend_bars < 0.75 * weekday_bars else "continuous"


def infer_frequency(frame: pl.DataFrame) -> Frequency:
    """Step of bars: the most common distance between a symbol's bars, the shorter one of two as common.

    Daily bars without weekends have the step `D`; that weekends are left out is the calendar's matter.

    Parameters
    ----------
    frame
        `unique_id, ds`, in any order.

    Raises
    ------
    SourceError
        If no symbol has two bars, or the step is not a whole number of minutes.
    """
    rows = frame.select(ID, pl.col(TIME).cast(pl.Datetime("us"))).drop_nulls().unique().sort(ID, TIME)
    steps = rows.select(pl.col(TIME).diff().over(ID).alias("step")).drop_nulls().get_column("step")
    if not len(steps):
        raise SourceError(
            f"{rows.height} bars of {rows.get_column(ID).n_unique()} symbols, no two of one symbol",
            expected="at least two bars of one symbol, to tell the step by",
            remedy="declare `freq` in the workload file",
        )
    step = _most_common(steps.dt.total_microseconds().to_numpy())
    if step % _MINUTE:
        raise SourceError(
            f"a step of {step / 1e6:g} seconds between bars",
            expected="a whole number of minutes",
            remedy="resample the data to bars of a minute or more, or declare `freq` in the workload file",
        )
    days = step // _DAY
    first_of_month = bool((rows.get_column(TIME).dt.day() == 1).all())
    if first_of_month and days >= 28:
        months = max(1, round(step / _DAY / 30.4))
        return Frequency(months // 12, "YS") if months % 12 == 0 else Frequency(months, "MS")
    if step % _DAY == 0:
        return Frequency(days // 7, "W-MON") if days % 7 == 0 else Frequency(days, "D")
    minutes = step // _MINUTE
    return Frequency(minutes // 60, "h") if minutes % 60 == 0 else Frequency(minutes, "min")


def _last_of_symbol(frame: pl.DataFrame) -> Flags:
    code = frame.get_column(ID).rle_id().to_numpy().astype(np.int64)
    if len(code) and code[-1] + 1 != frame.get_column(ID).n_unique():
        raise SourceError(
            "the bars of a symbol do not stand together",
            expected=f"rows sorted by {ID} and {TIME}",
            remedy=f"sort the frame by {ID} and {TIME}",
        )
    return np.append(np.diff(code) != 0, True) if len(code) else np.empty(0, dtype=bool)


def _rolls(frame: pl.DataFrame, schema: BarsSchema, time: Ints, last: Flags) -> tuple[Ints, tuple[Note, ...]]:
    """Rows of the last bars of a contract, and notes of the rolls."""
    if not schema.rolls:
        return np.empty(0, dtype=np.int64), ()
    ends = np.flatnonzero(last)
    found: set[int] = set()
    symbols = frame.get_column(ID).gather(ends).to_list()
    for symbol, first, end in zip(symbols, np.append(0, ends[:-1] + 1), ends, strict=True):
        at = np.array(schema.rolls_of(symbol), dtype="datetime64[us]").astype(np.int64)
        new = first + np.searchsorted(time[first : end + 1], at)  # row of each new contract's first bar
        found.update((new[(new > first) & (new <= end)] - 1).tolist())
    rows = np.array(sorted(found), dtype=np.int64)
    notes = []
    if len(rows):
        notes.append(Note("rolls", len(rows), f"{len(rows)} contract rolls end a segment; nothing reaches across one."))
    unknown = sorted(set(schema.rolls) - set(symbols) - {ALL_SYMBOLS})
    if unknown:
        detail = f"rolls are declared for {', '.join(unknown)}, of which there are no bars (or they are in quarantine)"
        notes.append(Note("rolls_of_no_symbol", 0, detail))
    return rows, tuple(notes)


def _microseconds(frame: pl.DataFrame) -> Ints:
    times = frame.get_column(TIME).cast(pl.Datetime("us"))
    if times.null_count():
        raise SourceError(
            f"{times.null_count()} bars have no {TIME}",
            expected="a time for every bar",
            remedy="pass the rows through the raw gate first",
        )
    return times.to_physical().to_numpy().astype(np.int64)


def _steps(frame: pl.DataFrame, freq: Frequency, time: Ints, last: Flags) -> Ints:
    """Whole steps from each bar to the next one of its symbol; 1 at a symbol's last bar."""
    if freq.unit in ("MS", "QS", "YS"):
        pairs = frame.select(pl.col(TIME).cast(pl.Datetime("us"))).with_columns(pl.col(TIME).shift(-1).alias("next"))
        counted = pairs.select(freq.steps_between_expr(TIME, "next")).to_series().fill_null(1)
        steps = counted.to_numpy().astype(np.int64)
    else:
        start = np.datetime64("1970-01-05", "us").item()
        size = round((freq.shift(start, 1) - start).total_seconds() * 1e6)
        steps = np.append(np.diff(time) // size, 1) if len(time) else np.empty(0, dtype=np.int64)
    steps = np.where(last, 1, steps)
    if (steps < 1).any():
        row = int(np.flatnonzero(steps < 1)[0])
        raise SourceError(
            f"bars of {frame[ID][row]!r} at {frame[TIME][row]} and {frame[TIME][row + 1]} (row {row})",
            expected=f"bars sorted by {ID} and {TIME}, at least {freq.word} apart",
            remedy="sort the rows, drop repeated ones, or set `freq` to the step of the data",
        )
    return np.asarray(steps, dtype=np.int64)


def _missing_weekdays(time: Ints, last: Flags, missing: Ints) -> Ints:
    """Weekdays strictly between each bar and the next one of its symbol."""
    day = (time // _DAY).astype("datetime64[D]")
    out = np.zeros(len(day), dtype=np.int64)
    wide = np.flatnonzero(~last & (missing > 0))
    out[wide] = np.busday_count(day[wide] + 1, day[wide + 1])
    return out


def _scheduled(time: Ints, last: Flags, holes: _Holes, schema: BarsSchema) -> Flags:
    """Which holes between intraday bars are closes of a market that keeps weekdays."""
    step = round(schema.step.total_seconds() * 1e6)
    start, end = time[holes.before] + step, time[holes.before + 1]
    on_weekdays = end - start - (_weekend_time(end) - _weekend_time(start))
    closed = (end - start >= HOLIDAY_AT_LEAST) & (on_weekdays <= HOLIDAY_AT_MOST)
    short = np.flatnonzero(end - start < HOLIDAY_AT_LEAST)
    if len(short) and _DAY % step == 0:
        bounds = np.append(0, np.flatnonzero(last) + 1)
        symbol = np.searchsorted(bounds, holes.before[short], side="right") - 1
        for code in np.unique(symbol):
            mine = short[symbol == code]
            first = bounds[code]
            bars = time[first : bounds[code + 1]]
            closed[mine] |= _daily_breaks(bars, holes.before[mine] - first, step, schema.max_gap)
    return np.asarray(closed)


def _weekend_time(time: Ints) -> Ints:
    """Microseconds of Saturdays and Sundays up to each time."""
    week, inside = np.divmod(time - _MONDAY, 7 * _DAY)
    return np.asarray(week * 2 * _DAY + np.maximum(inside - 5 * _DAY, 0))


def _daily_breaks(time: Ints, before: Ints, step: int, max_gap: int) -> Flags:
    """Which holes of one symbol, all shorter than a day, are daily breaks.

    Days and clock times make a table of which bars exist. A clock time is closed on a day if it has no bar on most of
    the trading days up to it, or on most from it on: one side is enough, for clocks that shift twice a year.
    """
    day, inside = np.divmod(time, _DAY)
    dates, position = np.unique(day, return_inverse=True)
    slots = _DAY // step
    slot = inside // step
    absent = np.ones((len(dates), slots), dtype=np.int32)
    absent[position, slot] = 0
    total = np.vstack([np.zeros((1, slots), dtype=np.int32), np.cumsum(absent, axis=0, dtype=np.int32)])
    index = np.arange(len(dates))
    closed = np.zeros((len(dates), slots), dtype=bool)
    for low, high in ((index + 1 - BREAK_DAYS, index + 1), (index, index + BREAK_DAYS)):
        low, high = np.maximum(low, 0), np.minimum(high, len(dates))
        enough = high - low >= BREAK_DAYS_AT_LEAST
        closed |= enough[:, None] & (total[high] - total[low] >= BREAK_SHARE * (high - low)[:, None])
    flat = closed.ravel()
    count = np.append(0, np.cumsum(flat))
    # a hole shorter than a day lies on the days of its two bars, which are neighbours in the table
    first = position[before] * slots + slot[before] + 1
    end = position[before + 1] * slots + slot[before + 1]
    breaks = count[end] - count[first]
    beyond = (end - first) - breaks
    half_day = np.median(np.bincount(position)) / 2
    at_break = flat[first] | flat[end - 1]
    return np.asarray((breaks > 0) & ((beyond <= max_gap) | (at_break & (beyond <= half_day))))


def _numbers(ends: Flags) -> Ints:
    return np.append(0, np.cumsum(ends[:-1])).astype(np.int64) if len(ends) else np.empty(0, dtype=np.int64)


def _notes(holes: _Holes, gap: Flags, closed: Flags, schema: BarsSchema) -> tuple[Note, ...]:
    notes = []
    if gap.any():
        lost, longest = int(holes.missing[gap].sum()), int(holes.missing[gap].max())
        detail = (
            f"{int(gap.sum())} gaps of more than {schema.max_gap} bars end a segment; {lost} bars are missing there"
        )
        notes.append(Note("gaps", int(gap.sum()), f"{detail}, {longest} in the longest."))
    if closed.any():
        count = int(closed.sum())
        notes.append(Note("scheduled_closes", count, f"{count} scheduled closes end a session; no label crosses one."))
    inside = ~gap & ~closed
    if inside.any():
        lost = int(holes.missing[inside].sum())
        detail = f"{lost} bars are missing inside segments, at most {schema.max_gap} in a row; none was filled in."
        notes.append(Note("bars_missing", lost, detail))
    return tuple(notes)


def _most_common(steps: NDArray[np.int64]) -> int:
    values, count = np.unique(steps, return_counts=True)
    return int(values[np.argmax(count)])
