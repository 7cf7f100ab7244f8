"""The last steps every source shares: the as-of date, the cut, and the checks before rows are handed over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from nightcast.contracts.bars import BARS_RAW_COLUMNS
from nightcast.contracts.columns import (
    CLOSE,
    ID,
    ROLE_SUPPORT,
    ROLE_TARGET,
    ROW_UNPARSABLE,
    SERIES_ROLE,
    TARGET,
    TIME,
)
from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.schema import BarsSchema, PanelSchema
from nightcast.contracts.source import Note, RawData

MIN_SUPPORT = 0.1
"""Share of the median number of reporting series below which a last date counts as stray."""


def injector_id(well: str) -> str:
    """Series name of a well while it injects.

    A well may change from injector to producer. Its injection history then stays available beside the new target
    series, under a name that does not depend on what the well became later.
    """
    return f"{well} (injector)"


def injector_ids(column: str) -> pl.Expr:
    """As `injector_id`, for a column."""
    return pl.col(column) + " (injector)"


def require_past(as_of: datetime | None, now: datetime) -> None:
    """Raise if the as-of date lies in the future.

    Raises
    ------
    ConfigError
        If it does.
    """
    if as_of is not None and as_of > now:
        raise ConfigError(
            f"the as-of date {as_of:%Y-%m-%d %H:%M} lies after the clock, {now:%Y-%m-%d %H:%M} UTC",
            expected="a date that has passed",
            remedy="choose an earlier --as-of, or leave it out to take the last date in the data",
        )


def known_at(time: pl.Expr, as_of: datetime, now: datetime) -> pl.Expr:
    """Rows to hand over: known at the as-of date, or without a possible date and kept for the raw gate."""
    return (time <= as_of) | (time > now) | time.is_null()


def last_reported(frame: pl.DataFrame, now: datetime, value: str = TARGET) -> datetime | None:
    """The last time, not after `now`, at which the panel (or market) as a whole reports.

    A time counts if at least a tenth of the median number of series (and at least one) has a value there, so a stray
    date does not move it. Where no value can be read at all, rows count instead.

    Parameters
    ----------
    value
        Column whose values count: the target, or the close of bars.
    """
    targets = frame.filter((pl.col(SERIES_ROLE) == ROLE_TARGET) & pl.col(TIME).is_not_null())
    for rows in (targets.filter(pl.col(value).is_not_null()), targets, frame.filter(pl.col(TIME).is_not_null())):
        counts = rows.filter(pl.col(TIME) <= now).group_by(TIME).agg(pl.col(ID).n_unique().alias("series"))
        if counts.height:
            median = counts.select(pl.col("series").median()).item()
            return counts.filter(pl.col("series") >= max(1.0, MIN_SUPPORT * median)).get_column(TIME).max()  # type: ignore[return-value]
    return None


def hand_over(
    frame: pl.DataFrame,
    schema: PanelSchema,
    *,
    as_of: datetime | None,
    now: datetime,
    origin: str,
    notes: Sequence[Note] = (),
    plan: pl.DataFrame | None = None,
) -> RawData:
    """Cut the rows at the as-of date, check that something is left, and put columns and rows in order.

    Parameters
    ----------
    frame
        `unique_id, ds, y`, covariates, `series_role` and `row_unparsable`, any order.

    Raises
    ------
    SourceError
        If the frame is empty, has no row at or before the as-of date, or no series long enough for the horizon.
    """
    require_past(as_of, now)
    _require_dates(frame, origin)
    if as_of is None:
        as_of = last_reported(frame, now)
    known = frame.filter(pl.col(TIME) <= as_of) if as_of is not None else frame.clear()
    if as_of is None or known.is_empty():
        raise _nothing_known(frame, as_of or now, origin)
    _require_history(known, schema, origin)
    notes = [*notes, *_future_note(frame, now)]
    frame = frame.filter(known_at(pl.col(TIME), as_of, now))
    columns = [ID, TIME, TARGET, *schema.covariates, SERIES_ROLE, ROW_UNPARSABLE]
    frame = frame.select(columns).sort(ID, TIME, maintain_order=True)
    return RawData(frame, schema, as_of, origin, plan, tuple(notes))


def hand_over_bars(
    frame: pl.DataFrame,
    schema: BarsSchema,
    *,
    as_of: datetime | None,
    now: datetime,
    origin: str,
    notes: Sequence[Note] = (),
) -> RawData:
    """As `hand_over`, for bars: the as-of date becomes that of the last bar that the market as a whole reports by then.

    A bar is known at its close: on an intraday or continuous calendar one that still runs at `now` is left out.

    Parameters
    ----------
    frame
        `unique_id, ds, open, high, low, close, volume` and `row_unparsable`, any order.
    as_of
        Limit, or None: the clock.

    Raises
    ------
    ConfigError
        If the as-of date lies in the future.
    SourceError
        If the frame is empty, has no bar at or before the as-of date, or no symbol long enough for the horizons.
    """
    require_past(as_of, now)
    _require_dates(frame, origin)
    notes = list(notes)
    if schema.calendar != "business_days":  # a day's bar is closed hours before its day ends
        running = (pl.col(TIME) <= now) & (pl.col(TIME) > now - schema.step)
        rows = frame.filter(running).height
        if rows:
            frame = frame.filter(~running | pl.col(TIME).is_null())
            notes.append(
                Note("unfinished_bars_dropped", rows, f"{rows} bars were still running at {now:%Y-%m-%d %H:%M}")
            )
    limit = as_of or now
    frame = frame.with_columns(pl.lit(ROLE_TARGET).alias(SERIES_ROLE))
    last = last_reported(frame, limit, CLOSE)
    if last is None:
        raise _nothing_known(frame, limit, origin)
    strays = frame.filter((pl.col(TIME) > last) & (pl.col(TIME) <= limit)).height
    if strays:
        detail = f"{strays} rows after {last:%Y-%m-%d %H:%M}, the market's last bar, are left out"
        notes.append(Note("stray_rows_dropped", strays, detail))
    known = frame.filter(pl.col(TIME) <= last)
    lengths = known.group_by(ID).len().sort(["len", ID], descending=[True, False])
    needed = schema.horizon + 2
    if lengths.row(0)[1] < needed:
        raise SourceError(
            f"{origin}: the horizon of {schema.horizon} bars is too long for the history; the longest symbol "
            f"({lengths.row(0)[0]}) has {lengths.row(0)[1]} bars at or before {last:%Y-%m-%d %H:%M}",
            expected=f"at least {needed} bars (horizon + 2) of some symbol",
            remedy="shorten bars.horizons, choose a later --as-of, or bring more history",
        )
    notes += _future_note(frame, now)
    frame = frame.filter(known_at(pl.col(TIME), last, now)).select(*BARS_RAW_COLUMNS, ROW_UNPARSABLE)
    return RawData(frame.sort(ID, TIME, maintain_order=True), schema, last, origin, notes=tuple(notes))


def _require_dates(frame: pl.DataFrame, origin: str) -> None:
    if frame.is_empty():
        raise SourceError(
            f"{origin} holds no rows",
            expected="at least one row below the header",
            remedy="check the export that wrote it, or name another file",
        )
    if not frame.get_column(TIME).count():
        raise SourceError(
            f"no time in {origin} can be read",
            expected="ISO dates (2024-03-01), or the format in source.options.date_format",
            remedy="check columns.time, or set source.options.date_format, such as %d/%m/%Y",
        )


def _nothing_known(frame: pl.DataFrame, limit: datetime, origin: str) -> SourceError:
    dates = frame.get_column(TIME).drop_nulls()
    first, last = (str(date)[:10] for date in (dates.min(), dates.max()))
    return SourceError(
        f"{origin} has no row at or before {limit:%Y-%m-%d %H:%M}; its dates run from {first} to {last}",
        expected="history before the as-of date",
        remedy="choose a later --as-of, or check columns.time",
    )


def _future_note(frame: pl.DataFrame, now: datetime) -> list[Note]:
    future = frame.filter(pl.col(TIME) > now).height
    detail = f"{future} rows dated after the clock are kept for the raw gate and used by nothing else"
    return [Note("rows_after_the_clock", future, detail)] if future else []


def _require_history(known: pl.DataFrame, schema: PanelSchema, origin: str) -> None:
    targets = known.filter(pl.col(SERIES_ROLE) != ROLE_SUPPORT)
    lengths = targets.group_by(ID).len().sort(["len", ID], descending=[True, False])
    longest = lengths.row(0) if lengths.height else ("no series", 0)
    needed = schema.horizon + 2
    if longest[1] < needed:
        raise SourceError(
            f"{origin}: a horizon of {schema.horizon} is too long for the history; the longest series "
            f"({longest[0]}) has {longest[1]} rows at or before the as-of date",
            expected=f"at least {needed} rows (horizon + 2) in some series",
            remedy="shorten `horizon`, choose a later --as-of, or bring more history",
        )
