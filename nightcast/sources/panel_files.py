"""A user's own panel, from Parquet or CSV files described by a workload file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import polars as pl

from nightcast.contracts.columns import (
    ID,
    ROLE_TARGET,
    ROW_UNPARSABLE,
    SERIES_ROLE,
    TARGET,
    TIME,
    Role,
)
from nightcast.contracts.errors import SourceError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.source import DataSheet, Note, RawData
from nightcast.sources.handover import hand_over, known_at, last_reported, require_past
from nightcast.sources.sheets import sheet_of
from nightcast.sources.spec import WorkloadFile
from nightcast.sources.tables import (
    MICROSECONDS,
    collect,
    find_files,
    number,
    number_from_text,
    scan,
    text_or_number,
    time,
    unknown_column,
)

DAYS_IN_PERIOD: Final = "days_in_period"
"""Column available to expressions: calendar days of the row's period."""

_TIME, _JUNK, _ROW = "_time", "_junk", "_row"


@dataclass(frozen=True)
class _Wanted:
    """One output column: its name, the words of the file and what they mean."""

    name: str
    text: str
    key: str
    role: Role | None


class PanelFiles:
    """Rows of Parquet or CSV files, in our column names.

    Parameters
    ----------
    spec
        The workload file.
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
            Last known time; None takes the last time at which the panel as a whole reports.
        data
            File, folder or glob to read instead of `source.path`; a relative one starts from the working folder.
        now
            The clock, naive UTC.

        Raises
        ------
        ConfigError
            If the file is not of kind `panel`, or the as-of date lies in the future.
        SourceError
            If the input is missing, empty, unreadable or too short, or lacks a declared column.
        """
        self.spec.require_panel()
        require_past(as_of, now)
        files = self._files(data)
        origin = str(data if data is not None else self.spec.source.path)
        covariates = self.spec.columns.covariates
        wanted = [_Wanted(TARGET, self.spec.columns.target, "columns.target", None)]
        wanted += [_Wanted(n, c.column, f"columns.covariates.{n}", c.role) for n, c in covariates.items()]
        frame = _join([self._read_file(path, wanted, as_of, now) for path in files], wanted)
        if frame.is_empty() and as_of is not None:  # nothing so early, or nothing at all? The error names the dates
            frame = _join([self._read_file(path, wanted, None, now) for path in files], wanted)
        frame = frame.with_columns(pl.lit(ROLE_TARGET).alias(SERIES_ROLE))
        if as_of is None:
            as_of = last_reported(frame, now)
        elif not frame.filter(pl.col(TIME) <= as_of).height:
            return hand_over(frame, self.spec.panel_schema(), as_of=as_of, now=now, origin=origin)
        if as_of is not None:  # before anything is counted, so that notes tell of known rows only
            frame = frame.filter(known_at(pl.col(TIME), as_of, now))
        frame, notes = _settled(frame, wanted)
        schema = self.spec.panel_schema()
        plan = self._plan([column for column in wanted if column.role == "plan"])
        return hand_over(frame, schema, as_of=as_of, now=now, origin=origin, notes=notes, plan=plan)

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

    def _plan(self, wanted: list[_Wanted]) -> pl.DataFrame | None:
        path = self.spec.source.plan
        if path is None:
            return None
        if not wanted:
            raise SourceError(
                f"source.plan names {path!r}, but no covariate has the role plan",
                expected="at least one covariate with role: plan",
                remedy="declare it under columns.covariates, or remove source.plan",
            )
        parts = [self._read_file(p, wanted, None, None) for p in find_files(path, self.base)]
        frame, _ = _settled(_join(parts, wanted), wanted)
        if frame.is_empty():
            raise SourceError(
                f"the plan {path} holds no rows",
                expected="planned values for the steps ahead",
                remedy="check the export that wrote it, or remove source.plan to carry the last known values on",
            )
        repeated = frame.filter(frame.select(ID, TIME).is_duplicated())
        if repeated.height:
            series, when = repeated.select(ID, TIME).row(0)
            raise SourceError(
                f"the plan {path} has {repeated.height} rows for a series and time it has already, first {series} "
                f"at {when}",
                expected="one row per series and time",
                remedy="leave one version of the plan in the file",
            )
        unreadable = frame.filter(pl.col(ROW_UNPARSABLE) | pl.col(TIME).is_null()).height
        if unreadable:
            raise SourceError(
                f"the plan {path} has {unreadable} rows with text in place of a number or time",
                expected="numbers and times",
                remedy="mend the rows, or set source.options",
            )
        return frame.select(ID, TIME, *(column.name for column in wanted)).sort(ID, TIME)

    def _read_file(
        self, path: Path, wanted: list[_Wanted], as_of: datetime | None, now: datetime | None
    ) -> pl.DataFrame:
        """One file's rows, times parsed and cut, the wanted columns made."""
        options, columns = self.spec.source.options, self.spec.columns
        lazy = scan(path, options)
        dtypes = lazy.collect_schema()
        available = dtypes.names()
        for key, name in (("columns.id", columns.id), ("columns.time", columns.time)):
            if name not in dtypes:
                raise unknown_column(name, available, path, key=key)
        made = {column.name: _expression(column, available, path) for column in wanted}
        needed = sorted({root for expr in made.values() for root in expr.meta.root_names()} - {DAYS_IN_PERIOD})
        if DAYS_IN_PERIOD in available:  # the file's own column wins
            needed = sorted({root for expr in made.values() for root in expr.meta.root_names()})
        when, junk = time(columns.time, dtypes[columns.time], options)
        cut = pl.lit(True) if as_of is None or now is None else known_at(when, as_of, now)
        raw = collect(
            lazy.filter(cut).select(
                _text_id(columns.id, dtypes[columns.id]).alias(ID),
                when.alias(_TIME),
                junk.alias(_JUNK),
                *(pl.col(name).alias(f"{_ROW}{name}") for name in needed),
            ),
            path,
        )
        return self._make(raw, wanted, made, needed)

    def _make(
        self, raw: pl.DataFrame, wanted: list[_Wanted], made: Mapping[str, pl.Expr], needed: list[str]
    ) -> pl.DataFrame:
        """Parse the columns the expressions need, then run them."""
        options = self.spec.source.options
        direct = {column.text for column in wanted if column.text in needed and column.role != "static"}
        static = {column.text for column in wanted if column.text in needed} - direct
        parsed: list[pl.Expr] = []
        marks: list[pl.Expr] = [pl.col(_JUNK)]
        for name in needed:
            raw_name = f"{_ROW}{name}"
            dtype = raw.schema[raw_name]
            if isinstance(dtype, pl.Categorical | pl.Enum):
                raw = raw.with_columns(pl.col(raw_name).cast(pl.String))
                dtype = pl.String()
            if name in static or (
                name not in direct and dtype == pl.String and not self._mostly_numbers(raw, raw_name)
            ):
                parsed.append(text_or_number(raw_name, dtype, options).alias(name))
                continue
            if dtype.is_temporal() or dtype.is_nested() or dtype == pl.Binary:
                raise SourceError(
                    f"column {name!r} holds {dtype}",
                    expected="numbers",
                    remedy="name a numeric column in the workload file",
                )
            value, junk = number(raw_name, dtype, options)
            parsed.append(value.alias(name))
            marks.append(junk)
        # Parsed columns stand in a frame of their own: the file may hold columns that are called `y` or `ds`.
        inputs = raw.select(*parsed) if parsed else pl.DataFrame()
        if DAYS_IN_PERIOD not in needed:
            inputs = inputs.with_columns(raw.select(_days_in_period(self.spec.freq)).to_series())
        rows = raw.select(
            ID, pl.col(_TIME).cast(MICROSECONDS).alias(TIME), pl.any_horizontal(marks).alias(ROW_UNPARSABLE)
        )
        values = {column.name: _evaluate(column, made[column.name], inputs) for column in wanted}
        return rows.with_columns(values[column.name] for column in wanted)

    def _mostly_numbers(self, raw: pl.DataFrame, name: str) -> bool:
        """Whether a text column is a numeric one with some junk in it; asked of columns in expressions only."""
        value, junk = number_from_text(name, self.spec.source.options)
        numbers, others = raw.select(value.is_not_null().sum().alias("n"), junk.sum().alias("j")).row(0)
        return bool(numbers >= others)


def _expression(column: _Wanted, available: list[str], path: Path) -> pl.Expr:
    """The expression behind a column's text: a column name, or SQL over columns of the same row."""
    if column.text in available or column.text == DAYS_IN_PERIOD:
        return pl.col(column.text)
    try:
        expr = pl.sql_expr(column.text)
    except pl.exceptions.PolarsError:
        raise unknown_column(column.text, available, path, key=column.key) from None
    roots = expr.meta.root_names()
    for root in roots:
        if root not in available and root != DAYS_IN_PERIOD:
            raise unknown_column(root, available, path, key=column.key)
    if not roots:
        raise SourceError(
            f"{column.key} is {column.text!r}, which names no column",
            expected=f"a column, or an expression over {', '.join(available)}",
            remedy=f"correct {column.key}; quote column names with double quotes, not single ones",
        )
    if _mixes_rows(json.loads(expr.meta.serialize(format="json"))):
        raise SourceError(
            f"{column.key} is {column.text!r}, which joins several rows",
            expected="an expression over columns of the same row: later rows must not reach earlier ones",
            remedy="leave out SUM, AVG, LAG, OVER and the like; the feature blocks make lags and means",
        )
    return expr


def _mixes_rows(node: Any) -> bool:
    """Whether an expression tree holds an aggregation or a window; those could carry the future into the past."""
    if isinstance(node, dict):
        return any(key in ("Agg", "Over", "Window", "Rolling") or _mixes_rows(item) for key, item in node.items())
    return isinstance(node, list) and any(_mixes_rows(item) for item in node)


def _evaluate(column: _Wanted, expr: pl.Expr, inputs: pl.DataFrame) -> pl.Series:
    try:
        value = inputs.select(expr.alias(column.name)).to_series()
        if value.dtype == pl.String and column.role == "static":
            return value
        return value.cast(pl.Float64).fill_nan(None)
    except pl.exceptions.PolarsError as error:
        first = str(error).strip().splitlines()[0]
        raise SourceError(
            f"{column.key} is {column.text!r}, which cannot be computed ({first})",
            expected="an expression that gives a number",
            remedy=f"correct {column.key}",
        ) from None


def _text_id(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if dtype.is_float():  # ids such as 7405 turn into floats where one of them is missing
        whole = column.cast(pl.Int64, strict=False)
        return pl.when(column == whole).then(whole.cast(pl.String)).otherwise(column.cast(pl.String))
    return column.cast(pl.String)


def _days_in_period(freq: Frequency) -> pl.Expr:
    start = pl.col(_TIME).dt.truncate(freq.every())
    return ((start.dt.offset_by(freq.every()) - start).dt.total_seconds() / 86_400).alias(DAYS_IN_PERIOD)


def _join(parts: list[pl.DataFrame], wanted: list[_Wanted]) -> pl.DataFrame:
    """Rows of all files under one type per column."""
    mixed = [c.name for c in wanted if c.role == "static" and len({part.schema[c.name] for part in parts}) > 1]
    return pl.concat([part.with_columns(pl.col(mixed).cast(pl.String)) for part in parts])


def _settled(frame: pl.DataFrame, wanted: list[_Wanted]) -> tuple[pl.DataFrame, list[Note]]:
    """Rows with a series name, statics as text or numbers, and notes of what was counted."""
    notes: list[Note] = []
    nameless = pl.col(ID).is_null() | (pl.col(ID).str.strip_chars() == "")
    lost = frame.filter(nameless).height
    if lost:
        frame = frame.filter(~nameless)
        notes.append(Note("rows_without_id_dropped", lost, f"{lost} rows name no series and are left out"))
    for column in wanted:
        if column.role == "static":
            frame = frame.with_columns(_static(frame.get_column(column.name)))
    junk = frame.filter(ROW_UNPARSABLE).height
    if junk:
        detail = f"{junk} rows hold text in place of a number or time; the value counts as missing"
        notes.append(Note("unparsable_text_set_missing", junk, detail))
    return frame, notes


def _static(values: pl.Series) -> pl.Series:
    """Static text stays text, unless all of it is numbers."""
    if values.dtype != pl.String:
        return values
    text = values.str.strip_chars()
    text = text.to_frame().select(pl.when(pl.col(text.name) != "").then(pl.col(text.name))).to_series()
    numbers = text.cast(pl.Float64, strict=False)
    return numbers if numbers.null_count() == text.null_count() and text.null_count() < len(text) else text
