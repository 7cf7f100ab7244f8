"""Bars from Parquet or CSV files: declared columns, or the names that bars usually have."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import polars as pl

from nightcast.contracts.columns import BAR_COLUMNS, CLOSE, HIGH, ID, LOW, OPEN, ROW_UNPARSABLE, TIME, VOLUME
from nightcast.contracts.errors import SourceError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.schema import Calendar
from nightcast.contracts.source import DataSheet, Note, RawData
from nightcast.sources.handover import hand_over_bars, known_at, require_past
from nightcast.sources.sheets import sheet_of
from nightcast.sources.spec import AUTO, FileOptions, WorkloadFile
from nightcast.sources.tables import MICROSECONDS, collect, find_files, number, scan, time, unknown_column

COMMON_NAMES: Final[dict[str, tuple[str, ...]]] = {
    ID: ("unique_id", "symbol", "ticker", "pair", "instrument"),
    TIME: ("ds", "ts", "timestamp", "datetime", "time", "date", "open_time"),
    OPEN: ("open", "o", "open_price"),
    HIGH: ("high", "h", "high_price"),
    LOW: ("low", "l", "low_price"),
    CLOSE: ("close", "c", "close_price"),
    VOLUME: ("volume", "vol", "v", "tick_volume"),
}
"""Names that a column is recognised by, in any case; the first that a file has counts."""
REGULAR_SHARE: Final = 0.5
"""Share of the steps between bars that the most common one must make to be taken for the frequency."""
WEEKEND_SHARE: Final = 0.1
"""Share of bars on Saturdays and Sundays below which a market counts as closed then; a market that never closes has
2/7, one that opens on Sunday evening about 1/60."""

_KEYS: Final = {ID: "columns.id", TIME: "columns.time"} | {name: f"columns.bars.{name}" for name in BAR_COLUMNS}
_EPOCHS: Final = {10: 1_000_000, 13: 1_000, 16: 1}
"""Digits of a Unix time in seconds, milliseconds, microseconds -> microseconds a unit."""
_ZONE: Final = r"(?:[Zz]|[+-]\d{2}:?\d{2})$"
_NAIVE: Final = "_naive"


class BarFiles:
    """Rows of Parquet or CSV files, in our column names.

    Parameters
    ----------
    spec
        The workload file, `kind: bars`. Columns that it does not declare are recognised by their common names, a step
        or calendar that it leaves open is taken from the data; each guess is noted.
    base
        Folder that relative paths in it start from.
    """

    def __init__(self, spec: WorkloadFile, base: Path) -> None:
        self.spec = spec
        self.base = base

    @property
    def sheet(self) -> DataSheet:
        """The data sheet."""
        return sheet_of(self.spec)

    def read(self, *, as_of: datetime | None, data: Path | None, now: datetime) -> RawData:
        """Read everything known at `as_of`.

        Parameters
        ----------
        as_of
            Last known time: the last bar at or before it that the market as a whole reports; None: the last of all.
        data
            File, folder or glob to read instead of `source.path`; a relative one starts from the working folder.
        now
            The clock, naive UTC.

        Raises
        ------
        ConfigError
            If the file is not of kind `bars`, or the as-of date lies in the future.
        SourceError
            If the input is missing, empty, unreadable, too short or without a regular step, or lacks a column.
        """
        self.spec.require_bars()
        require_past(as_of, now)
        files = self._files(data)
        origin = str(data if data is not None else self.spec.source.path)
        notes: list[Note] = []
        frame = pl.concat([self._read_file(path, notes) for path in files])
        if as_of is not None and frame.filter(pl.col(TIME) <= as_of).height:
            frame = frame.filter(known_at(pl.col(TIME), as_of, now))  # first, so that notes tell of known rows only
        frame = self._settled(frame, notes)
        known = frame.filter(pl.col(TIME) <= min(as_of or now, now))
        freq = self._frequency(known, origin, notes)
        calendar = self._calendar(known, freq, notes)
        schema = self.spec.bars_schema(freq, calendar)
        return hand_over_bars(frame, schema, as_of=as_of, now=now, origin=origin, notes=notes)

    def _files(self, data: Path | None) -> list[Path]:
        if data is not None:
            return find_files(data, Path())
        if self.spec.source.path is None:
            raise SourceError(
                f"workload {self.spec.name!r} names no input",
                expected="a file, folder or glob",
                remedy="set source.path in the workload file, or give --data",
            )
        return find_files(self.spec.source.path, self.base)

    def _read_file(self, path: Path, notes: list[Note]) -> pl.DataFrame:
        """One file's rows under our names, numbers and times parsed."""
        options = self.spec.source.options
        lazy = scan(path, options)
        dtypes = lazy.collect_schema()
        found = self._columns(dtypes.names(), path)
        symbol = pl.lit(path.stem) if found[ID] is None else pl.col(found[ID]).cast(pl.String)
        stamp = found[TIME] or ""
        when, junk = _time(stamp, dtypes[stamp], options)
        marks, values = [junk], []
        for name in BAR_COLUMNS:
            column = found[name] or ""
            if dtypes[column].is_temporal() or dtypes[column].is_nested() or dtypes[column] == pl.Binary:
                raise SourceError(
                    f"column {column!r} of {path} holds {dtypes[column]}",
                    expected=f"numbers for the {name}",
                    remedy=f"name a numeric column in {_KEYS[name]}",
                )
            value, mark = number(column, dtypes[column], options)
            values.append(value.cast(pl.Float64).alias(name))
            marks.append(mark)
        frame = collect(
            lazy.select(
                symbol.alias(ID),
                when.cast(MICROSECONDS).alias(TIME),
                *values,
                pl.any_horizontal(marks).fill_null(False).alias(ROW_UNPARSABLE),
                _is_naive(stamp, dtypes[stamp]).alias(_NAIVE),
            ),
            path,
        )
        if found[ID] is None:
            detail = f"{path.name} has no column of symbols; its rows are named after the file, {path.stem!r}"
            notes.append(Note("symbol_from_file_name", 0, detail))
        return frame

    def _columns(self, available: Sequence[str], path: Path) -> dict[str, str | None]:
        """Our name -> the file's; the symbol's is None where no column looks like one."""
        columns = self.spec.columns
        declared = {ID: columns.id} if "id" in columns.model_fields_set else {}
        if "time" in columns.model_fields_set:
            declared[TIME] = columns.time
        declared |= {name: getattr(columns.bars, name) for name in columns.bars.model_fields_set}
        lowered = {name.lower().strip(): name for name in reversed(available)}
        found: dict[str, str | None] = {}
        for name, common in COMMON_NAMES.items():
            if name in declared:
                if declared[name] not in available:
                    raise unknown_column(declared[name], available, path, key=_KEYS[name])
                found[name] = declared[name]
                continue
            found[name] = next((lowered[its] for its in common if its in lowered), None)
            if found[name] is None and name != ID:
                raise SourceError(
                    f"{path} has no column for the {'time' if name == TIME else name} "
                    f"(looked for {', '.join(common)}; it has {', '.join(available)})",
                    expected="symbol, time, open, high, low, close and volume",
                    remedy=f"set {_KEYS[name]} to the column's name",
                )
        return found

    def _settled(self, frame: pl.DataFrame, notes: list[Note]) -> pl.DataFrame:
        """Rows with a symbol, prices on their scale, and notes of what was counted."""
        symbol = pl.col(ID).str.strip_chars()
        frame = frame.with_columns(pl.when(symbol != "").then(symbol).alias(ID))
        lost = frame.get_column(ID).null_count()
        if lost:
            frame = frame.drop_nulls(ID)
            notes.append(Note("rows_without_id_dropped", lost, f"{lost} rows name no symbol and are left out"))
        junk = frame.filter(ROW_UNPARSABLE).height
        if junk:
            detail = f"{junk} rows hold text in place of a number or time; the value counts as missing"
            notes.append(Note("unparsable_text_set_missing", junk, detail))
        naive = frame.filter(_NAIVE).height
        if naive:
            zone = self.spec.bars.time_zone
            said = f"declared as {zone}" if zone else "nowhere stated"
            detail = f"the times of {naive} rows carry no zone ({said}); they are taken as they are"
            notes.append(Note("time_zone_not_stated", naive, detail))
        return self._scaled(frame.drop(_NAIVE), notes)

    def _scaled(self, frame: pl.DataFrame, notes: list[Note]) -> pl.DataFrame:
        """Prices divided by the declared scale; none is guessed, since relative returns do not depend on it."""
        symbols = frame.get_column(ID).unique().sort().to_list()
        scale = {symbol: self.spec.bars.divisor(symbol) for symbol in symbols}
        scaled = {symbol: its for symbol, its in scale.items() if its != 1}
        if not scaled:
            return frame
        divisor = pl.col(ID).replace_strict(scale, return_dtype=pl.Float64)
        rows = frame.filter(pl.col(ID).is_in(list(scaled))).height
        words = ", ".join(f"{symbol} by {its:g}" for symbol, its in scaled.items())
        notes.append(Note("prices_scaled", rows, f"prices are divided as declared: {words}"))
        return frame.with_columns(pl.col(OPEN, HIGH, LOW, CLOSE) / divisor)

    def _frequency(self, known: pl.DataFrame, origin: str, notes: list[Note]) -> Frequency:
        declared = self.spec.bars_freq
        if declared is not None:
            return declared
        steps = _steps(known)
        if steps.is_empty():
            return Frequency(1, "D")  # nothing to infer from: too short for any horizon, as the hand-over will say
        step, count = steps.row(0)
        share = count / steps.get_column("count").sum()
        if share < REGULAR_SHARE or step % timedelta(minutes=1):
            raise SourceError(
                f"{origin} has no regular step: the most common one, {step}, makes {share:.0%} of the steps",
                expected=f"one step, of whole minutes, to make at least {REGULAR_SHARE:.0%} of them",
                remedy="set `freq` in the workload file, or resample the data to bars of one length",
            )
        freq = _frequency_of(step)
        detail = f"the step between bars is {freq.word}, as {share:.1%} of the steps are; `freq` is not declared"
        notes.append(Note("frequency_inferred", known.height, detail))
        return freq

    def _calendar(self, known: pl.DataFrame, freq: Frequency, notes: list[Note]) -> Calendar:
        declared = self.spec.bars.calendar
        if declared != AUTO:
            return declared
        times = known.get_column(TIME).drop_nulls()
        weekend = times.filter(times.dt.weekday() >= 6)
        share = len(weekend) / max(len(times), 1)
        calendar: Calendar = "continuous"
        why = f"{share:.1%} of the bars lie on Saturdays and Sundays"
        if freq.unit == "W-MON":
            why = "bars of a week know no closes"
        elif not _covers_weekend(times):
            why = "no weekend lies between the first bar and the last"
        elif share < WEEKEND_SHARE:
            calendar = "business_days" if freq.unit == "D" else "weekdays"
        detail = f"the calendar is taken as {calendar}: {why}; `bars.calendar` is not declared"
        notes.append(Note("calendar_inferred", known.height, detail))
        return calendar


def _time(column: str, dtype: pl.DataType, options: FileOptions) -> tuple[pl.Expr, pl.Expr]:
    """As `tables.time`, and Unix times of 10, 13 or 16 digits."""
    value, junk = time(column, dtype, options)
    if not (dtype.is_numeric() or dtype == pl.String) or options.date_format is not None:
        return value, junk
    text = pl.col(column)
    if dtype.is_float():
        text = text.cast(pl.Int64, strict=False)
    digits = text.cast(pl.String).str.strip_chars()
    epochs = [
        pl.when(digits.str.contains(rf"^\d{{{length}}}$"))
        .then(digits.cast(pl.Int64, strict=False) * unit)
        .cast(MICROSECONDS)
        for length, unit in _EPOCHS.items()
    ]
    return pl.coalesce(*epochs, value), junk & pl.all_horizontal(epoch.is_null() for epoch in epochs)


def _is_naive(column: str, dtype: pl.DataType) -> pl.Expr:
    """Whether a row's time says nothing of its zone: dates and Unix times need none."""
    if isinstance(dtype, pl.Datetime):
        return pl.lit(dtype.time_zone is None) & pl.col(column).is_not_null()
    if dtype == pl.String:
        text = pl.col(column).str.strip_chars()
        # A time of day without an offset behind it; Unix times and plain dates hold no colon.
        return (text.str.contains(":") & ~text.str.contains(_ZONE)).fill_null(False)
    return pl.lit(False)


def _steps(frame: pl.DataFrame) -> pl.DataFrame:
    """`step, count` of the distances between a symbol's bars, the most common first, ties by the shorter."""
    return (
        frame.select(ID, TIME)
        .unique()
        .sort(ID, TIME)
        .select(pl.col(TIME).diff().over(ID).alias("step"))
        .drop_nulls()
        .group_by("step")
        .agg(pl.len().alias("count"))
        .sort("count", "step", descending=[True, False])
    )


def _frequency_of(step: timedelta) -> Frequency:
    minutes = int(step / timedelta(minutes=1))
    if minutes % (7 * 1440) == 0:
        return Frequency(minutes // (7 * 1440), "W-MON")
    if minutes % 1440 == 0:
        return Frequency(minutes // 1440, "D")
    if minutes % 60 == 0:
        return Frequency(minutes // 60, "h")
    return Frequency(minutes, "min")


def _covers_weekend(times: pl.Series) -> bool:
    """Whether a whole Saturday and Sunday lie between the first time and the last."""
    first, last = times.min(), times.max()
    if not isinstance(first, datetime) or not isinstance(last, datetime):
        return False
    saturday = (first + timedelta(days=(5 - first.weekday()) % 7)).replace(hour=0, minute=0, second=0, microsecond=0)
    if saturday < first:
        saturday += timedelta(days=7)
    return saturday + timedelta(days=2) <= last
