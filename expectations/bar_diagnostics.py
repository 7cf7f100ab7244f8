"""The facts the gates of bars judge, computed in polars: a mark per row, one row per symbol, column and horizon.

A null in a diagnostic column means "not judged"; expectations pass over it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.bars import BarDataset, label_columns
from nightcast.contracts.columns import (
    BAR_COLUMNS,
    CLASS_PROBS,
    CLASSES,
    CLOSE,
    CUTOFF,
    FALLBACK_REASON,
    HIGH,
    HORIZON,
    ID,
    LOW,
    MODEL_USED,
    OPEN,
    ROW_UNPARSABLE,
    SESSION,
    SIGNAL,
    TIME,
    VOLUME,
)
from nightcast.contracts.prediction import SUM_TOLERANCE
from nightcast.contracts.schema import BarsSchema
from nightcast.contracts.source import RawData
from nightcast.evaluation.guards import collapse_alarm

if TYPE_CHECKING:
    from expectations.bars import BarThresholds

PRICES: Final = (OPEN, HIGH, LOW, CLOSE)
MARK: Final = "mark"
MARKS: Final = (
    "bad_time",
    "future_date",
    "text_in_number",
    "missing_price",
    "non_positive_price",
    "ohlc_order",
    "missing_volume",
    "negative_volume",
    "duplicate_bar",
    "conflicting_bars",
    "bad_tick",
    "stale_run",
)
"""Why a row is no usable bar; the first that fits counts."""

_ROW: Final = "_row"
_TOLERANCE: Final = 1e-9
"""Relative float noise that does not put a high below a close."""
_MAD_TO_SIGMA: Final = 1.4826
_OPEN_WEEKS: Final = 0.75
"""Share of a symbol's weeks in which a time of the week must have a bar to count as open."""
_RARE_WEEKS: Final = 0.25
"""Share of weeks below which a bar at a time of the week is unusual."""
_WEEKS_JUDGED: Final = 8
"""Fewest weeks from which usual times are known."""
_HOLIDAY: Final = timedelta(days=5)
"""A market without a bar for longer than this is not on holiday."""
_PSI_SAMPLE: Final = 20_000
_PSI_BINS: Final = 10
_PSI_ROWS: Final = 100
_DRIFT_SHOWN: Final = 5


def bar_marks(raw: RawData, limits: BarThresholds) -> pl.DataFrame:
    """One row per input row with a symbol: the bar, and why it is not usable.

    Marks that depend on a bar's neighbours (bad ticks, stale runs) are looked for again among the bars that are left,
    until there are none: what is accepted would be accepted again.

    Returns
    -------
    DataFrame
        `_row` (number in `raw.frame`), `unique_id, ds, open .. volume, mark`; `mark` is one of `MARKS`, or null for a
        usable bar. Sorted by symbol, time and values: the input's order does not matter.
    """
    unparsable = pl.col(ROW_UNPARSABLE).fill_null(False) if ROW_UNPARSABLE in raw.frame.columns else pl.lit(False)
    rows = (
        raw.frame.with_row_index(_ROW)
        .filter(pl.col(ID).is_not_null())
        .select(
            _ROW,
            ID,
            pl.col(TIME).cast(pl.Datetime("us")),
            pl.col(BAR_COLUMNS).cast(pl.Float64),
            unparsable.alias("unparsable"),
        )
        .sort(ID, TIME, *BAR_COLUMNS, "unparsable", nulls_last=True)
    )
    rows = rows.with_columns(_row_mark(raw.as_of).alias(MARK)).drop("unparsable")
    rows = _mark(rows, _copies(rows.filter(pl.col(MARK).is_null())))
    while True:
        found = _beside_neighbours(rows.filter(pl.col(MARK).is_null()), limits)
        if found.is_empty():
            return rows
        rows = _mark(rows, found)


def _mark(rows: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """Write the marks of `found` (`_row, found`) to rows that have none."""
    return (
        rows.join(found, on=_ROW, how="left", maintain_order="left")
        .with_columns(pl.coalesce(MARK, "found").alias(MARK))
        .drop("found")
    )


def _row_mark(as_of: datetime) -> pl.Expr:
    """What is wrong with a row by itself."""
    highest, lowest = pl.max_horizontal(OPEN, LOW, CLOSE), pl.min_horizontal(OPEN, HIGH, CLOSE)
    return (
        pl.when(pl.col(TIME).is_null())
        .then(pl.lit("bad_time"))
        .when(pl.col(TIME) > pl.lit(as_of).cast(pl.Datetime("us")))
        .then(pl.lit("future_date"))
        .when(pl.col("unparsable"))
        .then(pl.lit("text_in_number"))
        .when(~pl.all_horizontal(pl.col(PRICES).is_finite().fill_null(False)))
        .then(pl.lit("missing_price"))
        .when(pl.any_horizontal(pl.col(PRICES) <= 0))
        .then(pl.lit("non_positive_price"))
        .when((pl.col(HIGH) < highest * (1 - _TOLERANCE)) | (pl.col(LOW) > lowest * (1 + _TOLERANCE)))
        .then(pl.lit("ohlc_order"))
        .when(~pl.col(VOLUME).is_finite().fill_null(False))
        .then(pl.lit("missing_volume"))
        .when(pl.col(VOLUME) < 0)
        .then(pl.lit("negative_volume"))
    )


def _copies(rows: pl.DataFrame) -> pl.DataFrame:
    """Marks of rows that share symbol and time: of equal ones all but the first, of different ones all."""
    shared = rows.filter(rows.select(ID, TIME).is_duplicated())
    if shared.is_empty():
        return pl.DataFrame(schema={_ROW: rows.schema[_ROW], "found": pl.String})
    versions = shared.select(ID, TIME, *BAR_COLUMNS).unique().group_by(ID, TIME).agg(pl.len().alias("versions"))
    return (
        shared.join(versions, on=[ID, TIME], how="left", maintain_order="left")
        .with_columns(pl.int_range(pl.len()).over(ID, TIME).alias("copy"))
        .select(
            _ROW,
            pl.when(pl.col("versions") > 1)
            .then(pl.lit("conflicting_bars"))
            .when(pl.col("copy") > 0)
            .then(pl.lit("duplicate_bar"))
            .alias("found"),
        )
        .drop_nulls("found")
    )


def with_volatility(bars: pl.DataFrame, limits: BarThresholds) -> pl.DataFrame:
    """Bars, sorted by symbol and time, with `before`, `after`, `sigma` and `traded`.

    `before` and `after` are the log distances of the close from those of its two neighbours; `traded` is the volume
    over the median of the bars around, null where that is 0.
    `sigma` is the median absolute return of the bars around, as a standard deviation, and never below the smallest
    tenth of the symbol's non-zero returns: one tick of a cheap symbol is no jump. It is null where nothing moves.
    """
    window = 2 * limits.tick_window + 1
    log = pl.col(CLOSE).log()
    size = pl.col("before").abs()
    return (
        bars.with_columns(log.diff().over(ID).alias("before"))
        .with_columns((-pl.col("before").shift(-1)).over(ID).alias("after"))
        .with_columns(
            (_MAD_TO_SIGMA * size.rolling_median(window, min_samples=min(20, window), center=True))
            .over(ID)
            .alias("near"),
            (_MAD_TO_SIGMA * size.median()).over(ID).alias("whole"),
            size.filter(pl.col("before") != 0).quantile(0.1).over(ID).alias("least"),
        )
        .with_columns(
            pl.col(VOLUME).rolling_median(window, min_samples=1, center=True).over(ID).alias("usual"),
            pl.max_horizontal(pl.coalesce("near", "whole"), "least").alias("sigma"),
        )
        .with_columns(
            pl.when(pl.col("sigma") > 0).then("sigma").alias("sigma"),
            pl.when(pl.col("usual") > 0).then(pl.col(VOLUME) / pl.col("usual")).alias("traded"),
        )
        .drop("near", "whole", "least", "usual")
    )


def _beside_neighbours(bars: pl.DataFrame, limits: BarThresholds) -> pl.DataFrame:
    """`_row, found` of bad ticks and stale runs among usable bars."""
    near, far = pl.min_horizontal(_size("before"), _size("after")), pl.max_horizontal(_size("before"), _size("after"))
    # Away from both neighbours and on the same side of them, while they agree with each other.
    tick = (
        (near > limits.tick_sigmas * pl.col("sigma"))
        & (pl.col("before") * pl.col("after") > 0)
        & (far - near < limits.tick_return * far)
        & (pl.col("traded").fill_null(0) <= limits.tick_volume)
    )
    same = pl.all_horizontal(pl.col(name) == pl.col(name).shift(1) for name in PRICES).fill_null(False)
    rows = with_volatility(bars, limits).with_columns(
        tick.fill_null(False).alias("tick"),
        same.over(ID).alias("same"),
    )
    rows = rows.with_columns((~pl.col("same")).cum_sum().over(ID).alias("run")).with_columns(
        pl.len().over(ID, "run").alias("length"), (pl.col(VOLUME) > 0).any().over(ID, "run").alias("live")
    )
    stale = pl.col("same") & (
        (pl.col("live") & (pl.col("length") >= limits.stale_bars)) | (pl.col("length") >= limits.flat_bars)
    )
    found = pl.when(pl.col("tick")).then(pl.lit("bad_tick")).when(stale).then(pl.lit("stale_run"))
    return rows.select(_ROW, found.alias("found")).drop_nulls("found")


def _size(name: str) -> pl.Expr:
    return pl.col(name).abs()


def bar_profile(marks: pl.DataFrame, raw: RawData, limits: BarThresholds) -> pl.DataFrame:
    """One row per symbol: rows per mark, and what its usable bars are like as a series.

    Returns
    -------
    DataFrame
        `unique_id`, `<mark>` and `<mark>_at` (rows, and the first time) for each of `MARKS`, and

        - `of_rows`, `bars` (usable), `masked_share` (of marked rows among those that are no mere copies), `first_at`,
          `last_at`;
        - `typical_step`: the most common step over the declared one; `off_grid`, `off_grid_at`: bars off the symbol's
          own grid;
        - `off_hours`, `off_hours_at`, `off_hours_share`: bars at times of the week at which there mostly are none; null
          where the calendar has no closes in a week of bars;
        - `missing_bars`, `missing_share`, `missing_at`: gaps that the calendar does not explain;
        - `zero_volume`, `zero_share`, `jumps`, `jump_at`, `jump`, `last_jump`;
        - `behind`: bars the market has after the symbol's last; null when it is retired.
    """
    bars = marks.filter(pl.col(MARK).is_null()).drop(MARK)
    counted = [(pl.col(MARK) == name).sum().cast(pl.Int64).alias(name) for name in MARKS]
    first = [pl.col(TIME).filter(pl.col(MARK) == name).min().alias(f"{name}_at") for name in MARKS]
    faults = (pl.col(MARK).is_not_null() & (pl.col(MARK) != "duplicate_bar")).sum()
    unique = (pl.len() - (pl.col(MARK) == "duplicate_bar").sum()).clip(lower_bound=1)
    profile = marks.group_by(ID).agg(
        pl.len().cast(pl.Int64).alias("of_rows"),
        pl.col(MARK).is_null().sum().cast(pl.Int64).alias("bars"),
        (faults / unique).fill_null(0.0).alias("masked_share"),
        *counted,
        *first,
    )
    for part in (
        _extent(bars, limits),
        _grid(bars, raw.bars),
        _gaps(bars, raw.bars),
        _off_hours(bars, raw.bars),
        _jumps(bars, limits),
    ):
        profile = profile.join(part, on=ID, how="left")
    return profile.sort(ID)


def _extent(bars: pl.DataFrame, limits: BarThresholds) -> pl.DataFrame:
    clock = bars.get_column(TIME).unique().sort()
    own = bars.group_by(ID).agg(
        pl.col(TIME).min().alias("first_at"),
        pl.col(TIME).max().alias("last_at"),
        (pl.col(VOLUME) == 0).sum().cast(pl.Int64).alias("zero_volume"),
        (pl.col(VOLUME) == 0).mean().alias("zero_share"),
    )
    position = clock.search_sorted(own.get_column("last_at")).cast(pl.Int64)
    own = own.with_columns((len(clock) - 1 - position).alias("behind"))
    return own.with_columns(
        pl.when(pl.col("behind") <= limits.retire_after).then("behind").alias("behind"),
        pl.lit(clock.max(), dtype=pl.Datetime("us")).alias("market_at"),
    )


def _grid(bars: pl.DataFrame, schema: BarsSchema) -> pl.DataFrame:
    """How a symbol's times lie: its most common step, and times off its own grid."""
    step = schema.step // timedelta(microseconds=1)
    rows = bars.select(
        ID,
        TIME,
        pl.col(TIME).diff().over(ID).dt.total_microseconds().alias("step"),
        (pl.col(TIME).dt.epoch("us") % step).alias("phase"),
    )
    usual = rows.group_by(ID).agg(
        pl.col("step").drop_nulls().mode().min().truediv(step).alias("typical_step"),
        pl.col("phase").mode().min().alias("usual"),
    )
    off = (
        rows.join(usual.select(ID, "usual"), on=ID)
        .filter(pl.col("phase") != pl.col("usual"))
        .group_by(ID)
        .agg(pl.len().cast(pl.Int64).alias("off_grid"), pl.col(TIME).min().alias("off_grid_at"))
    )
    return usual.drop("usual").join(off, on=ID, how="left").with_columns(pl.col("off_grid").fill_null(0))


def _gaps(bars: pl.DataFrame, schema: BarsSchema) -> pl.DataFrame:
    """Bars that are missing between a symbol's first and last, beyond the closes of the calendar."""
    missing = {"continuous": _clock_gaps, "business_days": _day_gaps, "weekdays": _session_gaps}[schema.calendar]
    counts = bars.group_by(ID).agg(pl.len().alias("own"))
    found = (
        missing(bars, schema)
        .group_by(ID)
        .agg(pl.col("missing").sum().cast(pl.Int64).alias("missing_bars"), pl.col("at").min().alias("missing_at"))
    )
    return (
        counts.join(found, on=ID, how="left")
        .with_columns(pl.col("missing_bars").fill_null(0))
        .with_columns((pl.col("missing_bars") / (pl.col("missing_bars") + pl.col("own"))).alias("missing_share"))
        .drop("own")
    )


def _clock_gaps(bars: pl.DataFrame, schema: BarsSchema) -> pl.DataFrame:
    """Every step of the clock has a bar."""
    step = schema.step // timedelta(microseconds=1)
    steps = pl.col(TIME).diff().over(ID).dt.total_microseconds() / step
    return bars.select(ID, pl.col(TIME).shift(1).over(ID).alias("at"), (steps.round() - 1).alias("missing")).filter(
        pl.col("missing") > 0
    )


def _day_gaps(bars: pl.DataFrame, _schema: BarsSchema) -> pl.DataFrame:
    """Every day on which the market has a bar has one of the symbol; long silence of all is no holiday."""
    day = pl.col(TIME).dt.date().alias("day")
    market = bars.select(day).unique().sort("day")
    own = bars.group_by(ID).agg(day.min().alias("first"), day.max().alias("last"))
    wanted = market.join(own, how="cross").filter(pl.col("day").is_between("first", "last"))
    absent = wanted.join(bars.select(ID, day).unique(), on=[ID, "day"], how="anti")
    absent = absent.select(ID, pl.col("day").cast(pl.Datetime("us")).alias("at"), pl.lit(1.0).alias("missing"))
    return pl.concat([absent, _silences(bars, per_day=pl.lit(5 / 7))])


def _session_gaps(bars: pl.DataFrame, schema: BarsSchema) -> pl.DataFrame:
    """Every time of the week that is open in most of a symbol's weeks has a bar, on days the market has any.

    The first and the last day of a symbol may be partial and are not judged.
    """
    rows = _week_slots(bars, schema)
    weeks = rows.group_by(ID).agg(pl.col("week").n_unique().alias("weeks"))
    slots = rows.group_by(ID, "weekday", "slot").agg(pl.col("week").n_unique().alias("seen"))
    slots = slots.join(weeks, on=ID).filter(pl.col("seen") >= _OPEN_WEEKS * pl.col("weeks"))
    extent = rows.group_by(ID).agg(pl.col("day").min().alias("first"), pl.col("day").max().alias("last"))
    market = rows.select("day", "weekday").unique()
    wanted = (
        market.join(slots.group_by(ID, "weekday").agg(pl.len().alias("open")), on="weekday")
        .join(extent, on=ID)
        .filter((pl.col("day") > pl.col("first")) & (pl.col("day") < pl.col("last")))
    )
    present = rows.join(slots.select(ID, "weekday", "slot"), on=[ID, "weekday", "slot"], how="semi")
    present = present.group_by(ID, "day").agg(pl.struct("slot").n_unique().alias("there"))
    gaps = (
        wanted.join(present, on=[ID, "day"], how="left")
        .select(
            ID,
            pl.col("day").cast(pl.Datetime("us")).alias("at"),
            (pl.col("open").cast(pl.Float64) - pl.col("there").fill_null(0)).alias("missing"),
        )
        .filter(pl.col("missing") > 0)
    )
    per_week = slots.group_by(ID).agg((pl.len() / 7).alias("per_day"))
    return pl.concat([gaps, _silences(bars.join(per_week, on=ID, how="left"), per_day=pl.col("per_day").fill_null(0))])


def _off_hours(bars: pl.DataFrame, schema: BarsSchema) -> pl.DataFrame:
    """Bars at times of the week at which the symbol has none in most weeks, where the calendar has closes."""
    rows = _week_slots(bars, schema)
    weeks = rows.group_by(ID).agg(pl.col("week").n_unique().alias("weeks"))
    seen = rows.group_by(ID, "weekday", "slot").agg(pl.col("week").n_unique().alias("seen"))
    rare = seen.join(weeks, on=ID).filter(
        (pl.col("weeks") >= _WEEKS_JUDGED) & (pl.col("seen") < _RARE_WEEKS * pl.col("weeks"))
    )
    odd = rows.join(rare.select(ID, "weekday", "slot"), on=[ID, "weekday", "slot"], how="semi")
    found = odd.group_by(ID).agg(pl.len().cast(pl.Int64).alias("off_hours"), pl.col(TIME).min().alias("off_hours_at"))
    counts = bars.group_by(ID).agg(pl.len().alias("own")).join(found, on=ID, how="left")
    judged = pl.lit(schema.calendar == "weekdays")
    return counts.select(
        ID,
        pl.when(judged).then(pl.col("off_hours").fill_null(0)).alias("off_hours"),
        "off_hours_at",
        pl.when(judged).then(pl.col("off_hours").fill_null(0) / pl.col("own")).alias("off_hours_share"),
    )


def _week_slots(bars: pl.DataFrame, schema: BarsSchema) -> pl.DataFrame:
    """`unique_id, day, ds, weekday, slot, week`: where in the week each bar lies."""
    step = schema.step // timedelta(microseconds=1)
    return bars.select(
        ID,
        pl.col(TIME).dt.date().alias("day"),
        TIME,
        pl.col(TIME).dt.weekday().alias("weekday"),
        (pl.col(TIME).dt.epoch("us") % 86_400_000_000 // step).alias("slot"),
        pl.col(TIME).dt.truncate("1w").alias("week"),
    )


def _silences(bars: pl.DataFrame, *, per_day: pl.Expr) -> pl.DataFrame:
    """What a symbol misses in days on which the whole market is silent for longer than any holiday."""
    days = bars.select(pl.col(TIME).dt.date().alias("day")).unique().sort("day")
    silent = days.with_columns(pl.col("day").shift(1).alias("before")).filter(
        pl.col("day") - pl.col("before") > _HOLIDAY
    )
    extent = bars.group_by(ID).agg(
        pl.col(TIME).min().dt.date().alias("first"),
        pl.col(TIME).max().dt.date().alias("last"),
        per_day.first().alias("n"),
    )
    length = (pl.col("day") - pl.col("before")).dt.total_days() - 1
    return (
        silent.join(extent, how="cross")
        .filter((pl.col("before") >= pl.col("first")) & (pl.col("day") <= pl.col("last")))
        .select(ID, pl.col("before").cast(pl.Datetime("us")).alias("at"), (length * pl.col("n")).alias("missing"))
    )


def _jumps(bars: pl.DataFrame, limits: BarThresholds) -> pl.DataFrame:
    """Large moves: those that stay, and one at the last bar, which nothing confirms yet."""
    rows = with_volatility(bars, limits)
    wild = _size("before") > limits.tick_sigmas * pl.col("sigma")
    newest = pl.col(TIME) == pl.col(TIME).max().over(ID)
    rows = rows.with_columns(
        (wild & (_size("before") > limits.jump)).fill_null(False).alias("jumped"),
        (wild & newest).fill_null(False).alias("unconfirmed"),
    )
    return rows.group_by(ID).agg(
        pl.col("jumped").sum().cast(pl.Int64).alias("jumps"),
        pl.col(TIME).filter("jumped").min().alias("jump_at"),
        pl.col("before").filter("jumped").first().exp().alias("jump"),
        (pl.col("before") / pl.col("sigma")).filter("unconfirmed").first().abs().alias("last_jump"),
    )


def market_facts(profile: pl.DataFrame) -> pl.DataFrame:
    """One row: symbols, and those with a usable bar."""
    usable = profile.filter(pl.col("bars") > 0).height
    return pl.DataFrame({"symbols": [profile.height], "usable": [usable]})


# --- dataset ---------------------------------------------------------------------------------------------------------


def feature_facts(dataset: BarDataset) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One row per feature column, and one row per symbol, over bars at which a decision can fall.

    Returns
    -------
    columns
        `column, block, known, missing_share, constant`; `constant` is null for an empty column.
    symbols
        `unique_id, bars, ready, infinite, infinite_in, missing_share`.
    """
    names = list(dataset.columns)
    frame = dataset.frame.with_columns(pl.Series("_ready", dataset.ready)).filter("_ready")
    values = {name: pl.col(name).cast(pl.Float64).fill_nan(None) for name in names}
    facts = []
    if names:
        row = frame.select(
            *(value.count().alias(f"known {name}") for name, value in values.items()),
            *((value.max() - value.min()).alias(f"range {name}") for name, value in values.items()),
        ).row(0, named=True)
        for name in names:
            known, extent = row[f"known {name}"], row[f"range {name}"]
            missing = 1 - known / frame.height if frame.height else None
            constant = None if extent is None else extent == 0
            facts.append((name, dataset.columns[name].block, known, missing, constant))
    schema = {
        "column": pl.String,
        "block": pl.String,
        "known": pl.Int64,
        "missing_share": pl.Float64,
        "constant": pl.Boolean,
    }
    columns = pl.DataFrame(facts, schema=schema, orient="row")
    infinite = {name: value.is_infinite().fill_null(False) for name, value in values.items()}
    null = pl.lit(0) if not names else pl.sum_horizontal(value.is_null() for value in values.values())
    bad_in = pl.coalesce(*(pl.when(bad).then(pl.lit(name)) for name, bad in infinite.items()), pl.lit(None, pl.String))
    own = frame.group_by(ID).agg(
        pl.len().cast(pl.Int64).alias("ready"),
        (pl.any_horizontal(infinite.values()) if names else pl.lit(False)).sum().cast(pl.Int64).alias("infinite"),
        bad_in.drop_nulls().first().alias("infinite_in"),
        (null.mean() / max(len(names), 1)).alias("missing_share"),
    )
    symbols = dataset.frame.group_by(ID).agg(pl.len().cast(pl.Int64).alias("bars")).join(own, on=ID, how="left")
    symbols = symbols.with_columns(pl.col("ready").fill_null(0), pl.lit(dataset.lead).alias("lead"))
    return columns, symbols.sort(ID)


def drift_facts(dataset: BarDataset, *, days: int, limit: float) -> pl.DataFrame:
    """One row: how far the features of the last days lie from those before, by the population stability index.

    The index compares shares over the tenths of the earlier values. Columns with fewer than 100 values on either side
    or a shorter past than the last days, and those of the calendar, are not judged.

    Returns
    -------
    DataFrame
        `drifted` (columns above the limit), `judged`, `days`, `worst` (the five highest, in words).
    """
    times = dataset.frame.get_column(TIME)
    dates = times.dt.date().unique().sort()
    found: list[tuple[float, str]] = []
    if len(dates) > days:
        recent = (times.dt.date() >= dates[-days]).to_numpy()
        for name, column in dataset.columns.items():
            if column.block == "calendar":
                continue
            values = dataset.frame.get_column(name).cast(pl.Float64).fill_null(float("nan")).to_numpy()
            usable = dataset.ready & np.isfinite(values)
            before, after = values[usable & ~recent], values[usable & recent]
            if len(before) >= len(after) >= _PSI_ROWS:
                found.append((stability_index(before, after), name))
    moved = sorted((pair for pair in found if pair[0] > limit), reverse=True)
    words = ", ".join(f"{name} {value:.2f}" for value, name in moved[:_DRIFT_SHOWN])
    row = {"drifted": [len(moved)], "judged": [len(found)], "days": [days], "worst": [words]}
    return pl.DataFrame(row).with_columns(pl.when(pl.col("judged") > 0).then("drifted").alias("drifted"))


def stability_index(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Population stability index: `sum (p - q) ln(p / q)` over the tenths of the earlier values.

    Shares are kept above 1e-4. Long samples are thinned evenly first.
    """
    before, after = (v[:: max(1, len(v) // _PSI_SAMPLE)] for v in (before, after))
    edges = np.unique(np.quantile(before, np.linspace(0, 1, _PSI_BINS + 1)[1:-1]))
    # Edges belong to the bin below, so that a column of few values keeps them apart.
    p, q = (
        np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) / len(values)
        for values in (after, before)
    )
    p, q = np.clip(p, 1e-4, None), np.clip(q, 1e-4, None)
    return float(np.sum((p - q) * np.log(p / q)))


def label_facts(dataset: BarDataset) -> pl.DataFrame:
    """One row per horizon: what its labels are like.

    Returns
    -------
    DataFrame
        `label` (horizon), `known`, `classes` (with any label), `rarest`, `rarest_share`, `commonest`,
        `commonest_share`, `ambiguous_share`, `mean_hold`, `uniqueness` (one over the mean number of bars a label lives,
        since every bar starts one), `past_close` (labels that end in another session or symbol), `features` (of the
        largest set), `per_feature` (labels a feature).
    """
    frame = dataset.frame
    session = frame.get_column(SESSION).to_numpy()
    code = frame.get_column(ID).rle_id().to_numpy()
    position = np.arange(frame.height)
    width = max((len(its) for its in dataset.sets.values()), default=len(dataset.columns))
    facts: list[dict[str, Any]] = []
    for horizon in dataset.schema.horizons:
        names = label_columns(horizon)
        labels = frame.select(
            pl.col(names["y"]).alias("y"),
            pl.col(names["hold"]).fill_null(0).alias("hold"),
            pl.col(names["ambiguous"]).fill_null(False).alias("ambiguous"),
        ).with_columns(pl.Series("row", position))
        known = labels.drop_nulls("y")
        row, hold = known.get_column("row").to_numpy(), known.get_column("hold").to_numpy()
        end = np.minimum(row + hold, max(frame.height - 1, 0))
        past = (session[end] != session[row]) | (code[end] != code[row]) | (row + hold >= frame.height)
        counts = [known.filter(pl.col("y") == k).height for k in range(len(CLASSES))]
        shares = [count / max(known.height, 1) for count in counts]
        rare, common = int(np.argmin(counts)), int(np.argmax(counts))
        mean_hold = float(hold.mean()) if len(hold) else None
        facts.append(
            {
                "label": horizon,
                "known": known.height,
                "classes": sum(count > 0 for count in counts) if known.height else None,
                "rarest": CLASSES[rare],
                "rarest_share": shares[rare] if known.height else None,
                "commonest": CLASSES[common],
                "commonest_share": shares[common] if known.height else None,
                "ambiguous_share": known.get_column("ambiguous").mean(),
                "mean_hold": mean_hold,
                "uniqueness": 1 / max(mean_hold, 1.0) if mean_hold is not None else None,
                "past_close": int(past.sum()),
                "features": width,
                "per_feature": known.height / width if width else None,
            }
        )
    return pl.DataFrame(facts, infer_schema_length=None)


# --- forecasts -------------------------------------------------------------------------------------------------------


def probability_rows(
    frame: pl.DataFrame, *, promised: Sequence[str], horizons: Sequence[int], as_of: datetime | None
) -> pl.DataFrame:
    """One row per row of a promised symbol: what can be wrong with it.

    Returns
    -------
    DataFrame
        `unique_id, ds, horizon`, the probabilities and the signal, and

        - `in_range`: all three are numbers from 0 to 1; `off_sum`: how far their sum is from 1;
        - `signal_known`: the signal is -1, 0 or 1;
        - `copies`: rows with the same symbol and horizon; `promised_horizon`;
        - `on_time`: the decision is dated at its own bar, not after the as-of date;
        - `labelled`: the model is named; `flat`: no position where a fallback serves.
    """
    blank = pl.col(MODEL_USED).is_null() | (pl.col(MODEL_USED).cast(pl.String).str.strip_chars() == "")
    late = pl.lit(False) if as_of is None else pl.col(CUTOFF) > pl.lit(as_of).cast(pl.Datetime("us"))
    total = pl.sum_horizontal(pl.col(CLASS_PROBS).cast(pl.Float64))
    off = (total - 1).abs()
    fine = pl.all_horizontal(pl.col(CLASS_PROBS).is_finite() & pl.col(CLASS_PROBS).is_between(0, 1))
    fine = fine.fill_null(False)
    return (
        frame.filter(pl.col(ID).is_in(list(promised)))
        .sort(ID, HORIZON, TIME, nulls_last=True)
        .select(
            ID,
            TIME,
            CUTOFF,
            HORIZON,
            *CLASS_PROBS,
            SIGNAL,
            MODEL_USED,
            FALLBACK_REASON,
            fine.alias("in_range"),
            pl.when(fine & (off > SUM_TOLERANCE)).then(off).when(fine).then(0.0).alias("off_sum"),
            pl.col(SIGNAL).is_in([-1, 0, 1]).fill_null(False).alias("signal_known"),
            pl.len().over(ID, HORIZON).cast(pl.Int64).alias("copies"),
            pl.col(HORIZON).is_in(list(horizons)).fill_null(False).alias("promised_horizon"),
            ((pl.col(TIME) == pl.col(CUTOFF)).fill_null(False) & ~late).alias("on_time"),
            (~blank).alias("labelled"),
            (pl.col(FALLBACK_REASON).is_null() | (pl.col(SIGNAL) == 0)).fill_null(False).alias("flat"),
        )
    )


def probability_profile(frame: pl.DataFrame, *, promised: Sequence[str], horizons: Sequence[int]) -> pl.DataFrame:
    """One row per promised symbol: `there`, `decided` (horizons with a row), `owed`."""
    wanted = pl.DataFrame({ID: sorted(set(promised))}, schema={ID: pl.String})
    decided = (
        frame.filter(pl.col(HORIZON).is_in(list(horizons)))
        .group_by(ID)
        .agg(pl.col(HORIZON).n_unique().cast(pl.Int64).alias("decided"))
    )
    there = wanted.get_column(ID).is_in(frame.get_column(ID).unique().to_list())
    return (
        wanted.with_columns(there.alias("there"))
        .join(decided, on=ID, how="left")
        .with_columns(
            pl.when("there").then(pl.col("decided").fill_null(0)).alias("decided"), pl.lit(len(horizons)).alias("owed")
        )
        .sort(ID)
    )


def class_priors(dataset: BarDataset) -> dict[int, list[float]]:
    """Horizon -> shares of short, neutral, long among its known labels, smoothed by one label of each."""
    out = {}
    for horizon in dataset.schema.horizons:
        y = dataset.frame.get_column(label_columns(horizon)["y"]).drop_nulls()
        counts = np.bincount(y.cast(pl.Int64).to_numpy(), minlength=len(CLASS_PROBS)) + 1
        out[horizon] = (counts / counts.sum()).tolist()
    return out


def collapse_facts(
    frame: pl.DataFrame,
    *,
    promised: Sequence[str],
    horizons: Sequence[int],
    least: int,
    least_one_sided: int,
    least_classes: int,
    priors: Mapping[int, Sequence[float]],
) -> pl.DataFrame:
    """One row per horizon, over symbols that a model decides.

    Parameters
    ----------
    least, least_one_sided, least_classes
        Fewest symbols that a common probability, a common side, and shares of classes are judged from.
    priors
        Horizon -> shares of the classes among the labels; a horizon without them is not judged by its classes.

    Returns
    -------
    DataFrame
        `label` (horizon), `symbols`, `spread` (largest difference of a class's probability between two symbols), `side`
        (the most common signal other than 0) and `side_share`; `class_divergence` and `mean_divergence`, how far the
        shares of the most probable classes, and the mean probabilities, lie from the labels' shares, in nats, and
        `class_words`; `spread_judged`, `side_judged` and `class_judged` are these where there are symbols enough.
    """
    served = frame.filter(pl.col(ID).is_in(list(promised)) & pl.col(FALLBACK_REASON).is_null())
    facts = []
    for horizon in horizons:
        rows = served.filter(pl.col(HORIZON) == horizon)
        spread = rows.select(
            pl.max_horizontal((pl.col(name).max() - pl.col(name).min()).cast(pl.Float64) for name in CLASS_PROBS)
        ).item()
        sides = {side: rows.filter(pl.col(SIGNAL) == side).height for side in (-1, 1)}
        side = max(sides, key=lambda its: sides[its])
        share = sides[side] / rows.height if rows.height else 0.0
        shape: tuple[float | None, float | None, str] = (None, None, "")
        probs = rows.select(CLASS_PROBS).cast(pl.Float64).to_numpy()
        if horizon in priors and _are_probabilities(probs):
            report = collapse_alarm(probs, priors[horizon])
            shape = report.divergence, report.mean_divergence, report.detail
        facts.append((horizon, rows.height, spread, "long" if side > 0 else "short", share, *shape))
    schema = {
        "label": pl.Int64,
        "symbols": pl.Int64,
        "spread": pl.Float64,
        "side": pl.String,
        "side_share": pl.Float64,
        "class_divergence": pl.Float64,
        "mean_divergence": pl.Float64,
        "class_words": pl.String,
    }
    return pl.DataFrame(facts, schema=schema, orient="row").with_columns(
        pl.when(pl.col("symbols") >= least).then("spread").alias("spread_judged"),
        pl.when(pl.col("symbols") >= least_one_sided).then("side_share").alias("side_judged"),
        pl.when(pl.col("symbols") >= least_classes).then("class_divergence").alias("class_judged"),
    )


def _are_probabilities(probs: NDArray[np.float64]) -> bool:
    """Whether every row is a distribution; one that is not is named by a rule of its own."""
    sound = len(probs) and np.isfinite(probs).all() and (probs >= 0).all()
    return bool(sound and np.abs(probs.sum(axis=1) - 1).max() <= SUM_TOLERANCE)
