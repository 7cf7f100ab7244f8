"""The last steps every source shares: the as-of date, the cut, and the checks before rows are handed over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from nightcast.contracts.columns import (
    ID,
    ROLE_SUPPORT,
    ROLE_TARGET,
    ROW_UNPARSABLE,
    SERIES_ROLE,
    TARGET,
    TIME,
)
from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.schema import PanelSchema
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


def last_reported(frame: pl.DataFrame, now: datetime) -> datetime | None:
    """The last time, not after `now`, at which the panel as a whole reports.

    A time counts if at least a tenth of the median number of series (and at least one) has a target value there, so
    a stray date does not move it. Where no target value can be read at all, rows count instead.
    """
    targets = frame.filter((pl.col(SERIES_ROLE) == ROLE_TARGET) & pl.col(TIME).is_not_null())
    for rows in (targets.filter(pl.col(TARGET).is_not_null()), targets, frame.filter(pl.col(TIME).is_not_null())):
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
    if frame.is_empty():
        raise SourceError(
            f"{origin} holds no rows",
            expected="at least one row below the header",
            remedy="check the export that wrote it, or name another file",
        )
    dates = frame.get_column(TIME).drop_nulls()
    if dates.is_empty():
        raise SourceError(
            f"no time in {origin} can be read",
            expected="ISO dates (2024-03-01), or the format in source.options.date_format",
            remedy="check columns.time, or set source.options.date_format, such as %d/%m/%Y",
        )
    if as_of is None:
        as_of = last_reported(frame, now)
    known = frame.filter(pl.col(TIME) <= as_of) if as_of is not None else frame.clear()
    if as_of is None or known.is_empty():
        limit = as_of or now
        first, last = (str(date)[:10] for date in (dates.min(), dates.max()))
        raise SourceError(
            f"{origin} has no row at or before {limit:%Y-%m-%d %H:%M}; its dates run from {first} to {last}",
            expected="history before the as-of date",
            remedy="choose a later --as-of, or check columns.time",
        )
    _require_history(known, schema, origin)
    future = frame.filter(pl.col(TIME) > now).height
    if future:
        detail = f"{future} rows dated after the clock are kept for the raw gate and used by nothing else"
        notes = [*notes, Note("rows_after_the_clock", future, detail)]
    frame = frame.filter(known_at(pl.col(TIME), as_of, now))
    columns = [ID, TIME, TARGET, *schema.covariates, SERIES_ROLE, ROW_UNPARSABLE]
    frame = frame.select(columns).sort(ID, TIME, maintain_order=True)
    return RawData(frame, schema, as_of, origin, plan, tuple(notes))


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
