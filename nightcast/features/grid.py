"""From accepted rows to a regular grid: a missing month becomes a row whose target is missing."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import polars as pl

from nightcast.contracts.columns import ID, ROLE_SUPPORT, ROLE_TARGET, SERIES_ROLE, TARGET, TIME
from nightcast.contracts.errors import SourceError
from nightcast.contracts.schema import PanelSchema
from nightcast.contracts.source import Note

_FIRST: Final = "_first"
_LAST: Final = "_last"
_END: Final = "_end"
_GIVEN: Final = "_given"


def regular_grid(
    rows: pl.DataFrame, schema: PanelSchema, *, as_of: datetime, retire_after: int
) -> tuple[pl.DataFrame, tuple[Note, ...]]:
    """Put every series on its calendar, one row a step, without filling in any value.

    A target series runs from its first known target, a support series from its first row, to
    `min(last row + retire_after + H, as_of + H)`. Inserted rows hold neither target nor past or plan covariates;
    static columns hold their series' value everywhere.

    Parameters
    ----------
    rows
        Accepted rows, `unique_id, ds, y`, the covariates of the schema and perhaps `series_role`; unique per series
        and time, masked values null.
    as_of
        Last known time; later rows are left out.
    retire_after
        Steps after which a silent series counts as gone.

    Returns
    -------
    tuple
        `unique_id, ds, y, <covariates>, series_role`, sorted by series and time; and what was counted on the way.

    Raises
    ------
    SourceError
        If a column is missing, rows repeat, or a time does not lie on its series' calendar.
    """
    rows = _checked(rows, schema)
    notes: list[Note] = []
    known = rows.filter(pl.col(TIME) <= as_of)
    if known.height < rows.height:
        late = rows.height - known.height
        notes.append(Note("rows_after_as_of", late, f"{late} rows dated after {as_of:%Y-%m-%d %H:%M} were left out."))

    counts = pl.col(TIME).filter((pl.col(SERIES_ROLE) == ROLE_SUPPORT) | pl.col(TARGET).is_not_null())
    spans = known.group_by(ID, maintain_order=True).agg(
        counts.min().alias(_FIRST), pl.col(TIME).max().alias(_LAST), pl.col(SERIES_ROLE).first()
    )
    empty = spans.filter(pl.col(_FIRST).is_null()).get_column(ID).to_list()
    if empty:
        lost = known.filter(pl.col(ID).is_in(empty)).height
        detail = f"{len(empty)} series without a single known target were left out: {', '.join(empty[:5])}"
        notes.append(Note("series_without_target", lost, f"{detail}{', ...' if len(empty) > 5 else '.'}"))
    spans = spans.filter(pl.col(_FIRST).is_not_null())
    known = known.join(spans.select(ID, _FIRST), on=ID, how="inner")
    early = known.filter(pl.col(TIME) < pl.col(_FIRST)).height
    if early:
        notes.append(Note("rows_before_first_target", early, f"{early} rows before a series' first known target cut."))
    known = known.filter(pl.col(TIME) >= pl.col(_FIRST)).drop(_FIRST, SERIES_ROLE)

    freq, horizon = schema.freq, schema.horizon
    grid = (
        spans.with_columns(
            pl.min_horizontal(
                freq.shift_expr(_LAST, retire_after + horizon),
                pl.lit(freq.shift(as_of, horizon)).cast(pl.Datetime("us")),
            ).alias(_END)
        )
        .with_columns(pl.datetime_ranges(_FIRST, _END, interval=freq.every(), closed="both").alias(TIME))
        .explode(TIME)
        .select(ID, pl.col(TIME).cast(pl.Datetime("us")), SERIES_ROLE, _LAST)
    )
    _all_on_grid(known, grid, schema)
    frame = grid.join(known.with_columns(pl.lit(True).alias(_GIVEN)), on=[ID, TIME], how="left").sort(ID, TIME)
    gaps = frame.filter(pl.col(_GIVEN).is_null() & (pl.col(TIME) <= pl.col(_LAST)))
    if gaps.height:
        series = gaps.get_column(ID).n_unique()
        notes.append(
            Note(
                "grid_steps_filled",
                gaps.height,
                f"{gaps.height} steps missing inside the records of {series} series became rows without values.",
            )
        )
    fixed = [name for name in schema.columns_of("static") if name in frame.columns]
    if fixed:
        frame = frame.with_columns(pl.col(name).forward_fill().backward_fill().over(ID) for name in fixed)
    return frame.select(ID, TIME, TARGET, *schema.covariates, SERIES_ROLE), tuple(notes)


def _checked(rows: pl.DataFrame, schema: PanelSchema) -> pl.DataFrame:
    wanted = (ID, TIME, TARGET, *schema.covariates)
    missing = [name for name in wanted if name not in rows.columns]
    if missing:
        raise SourceError(
            f"the accepted rows lack the columns {missing}",
            expected=f"{ID}, {TIME}, {TARGET} and the declared covariates {list(schema.covariates)}",
            remedy="declare only covariates that the source delivers",
        )
    role = pl.col(SERIES_ROLE).fill_null(ROLE_TARGET) if SERIES_ROLE in rows.columns else pl.lit(ROLE_TARGET)
    rows = rows.select(
        pl.col(ID).cast(pl.String),
        pl.col(TIME).cast(pl.Datetime("us")),
        pl.col(TARGET).cast(pl.Float64),
        *schema.covariates,
        role.alias(SERIES_ROLE),
    )
    rows = rows.with_columns(pl.selectors.float().fill_nan(None))
    nameless = rows.filter(pl.col(ID).is_null() | pl.col(TIME).is_null()).height
    if nameless:
        raise SourceError(
            f"{nameless} accepted rows have no {ID} or no {TIME}",
            expected="rows that the raw gate has accepted",
            remedy="pass the rows through the raw gate first",
        )
    repeated = rows.filter(rows.select(ID, TIME).is_duplicated()).sort(ID, TIME)
    if repeated.height:
        raise SourceError(
            f"series {repeated[ID][0]!r} has {TIME} {repeated[TIME][0]} twice ({repeated.height} such rows)",
            expected="one row per series and time",
            remedy="pass the rows through the raw gate, which quarantines series with duplicates",
        )
    return rows


def _all_on_grid(known: pl.DataFrame, grid: pl.DataFrame, schema: PanelSchema) -> None:
    off = known.join(grid, on=[ID, TIME], how="anti").sort(ID, TIME)
    if off.height:
        raise SourceError(
            f"series {off[ID][0]!r} has a row at {off[TIME][0]}, off its calendar ({off.height} such rows)",
            expected=f"times {schema.freq.word} apart, labelled by the start of their period ({schema.freq.alias})",
            remedy="set `freq` to the step of the data, or let the source floor the times",
        )


def apart(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of target series and rows of support series, both without the column `series_role`."""
    if SERIES_ROLE not in frame.columns:
        return frame, frame.clear()
    supports = (pl.col(SERIES_ROLE) == ROLE_SUPPORT).fill_null(False)
    return frame.filter(~supports).drop(SERIES_ROLE), frame.filter(supports).drop(SERIES_ROLE)
