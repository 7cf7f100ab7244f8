"""The Volve field as its publisher ships it: the workbook, exports of its two sheets, or Parquet."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import polars as pl

from nightcast.contracts.columns import (
    ID,
    ROLE_SUPPORT,
    ROLE_TARGET,
    ROW_UNPARSABLE,
    SERIES_ROLE,
    TARGET,
    TIME,
    Role,
)
from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.source import DataSheet, Note, RawData
from nightcast.sources.handover import hand_over, injector_ids, known_at, last_reported, require_past
from nightcast.sources.sheets import VOLVE
from nightcast.sources.spec import FileOptions, WorkloadFile
from nightcast.sources.tables import collect, find_files, number, scan, time, unreadable

_SUFFIXES: Final = (".parquet", ".xlsx", ".csv")
"""In order of precision: the workbook's exports are rounded."""

# Header in the workbook, its exports or the Parquet forms, lower case with underscores -> our name.
_DAILY: Final = {
    "dateprd": "date",
    "date": "date",
    "npd_well_bore_name": "well",
    "flow_kind": "flow_kind",
    "on_stream_hrs": "hours",
    "avg_downhole_pressure": "wbhp",
    "avg_whp_p": "whp",
    "avg_choke_size_p": "choke",
    "bore_oil_vol": "oil",
    "bore_wat_vol": "water",
    "bore_wi_vol": "injected",
}
_MONTHLY: Final = {
    "wellbore_name": "well",
    "npd_well_bore_name": "well",
    "year": "year",
    "month": "month",
    "on_stream": "hours",
    "on_stream_hrs": "hours",
    "oil": "oil",
    "oil_sm3": "oil",
    "water": "water",
    "water_sm3": "water",
    "wi": "injected",
    "water_inj_sm3": "injected",
}
_DAILY_SHEETS: Final = ("dayle", "daily production data", "daily")
_MONTHLY_SHEETS: Final = ("monthle", "monthly production data", "monthly")
_NUMBERS: Final = ("hours", "wbhp", "whp", "choke", "oil", "water", "injected")
_TEXT: Final = FileOptions(thousands=",", null_values=("NULL",))

_DAILY_COVARIATES: Final[dict[str, Role]] = dict.fromkeys(("uptime", "wbhp", "whp", "choke", "wwir"), "past")
_MONTHLY_COVARIATES: Final[dict[str, Role]] = dict.fromkeys(("uptime", "wwir"), "past")


@dataclass
class _Counter:
    """Notes in the making; treatments that touched no row are not noted."""

    notes: list[Note] = field(default_factory=list)

    def add(self, code: str, rows: int, detail: str) -> None:
        if rows:
            self.notes.append(Note(code, rows, f"{rows} {detail}"))


class VolveSource:
    """Producers of Volve as target series, its injecting spells as support.

    Parameters
    ----------
    spec
        The workload file; `freq` is `MS` (months) or `D` (days, from daily input only).
    base
        Folder that relative paths in it start from.
    """

    def __init__(self, spec: WorkloadFile, base: Path) -> None:
        self.spec = spec
        self.base = base

    @property
    def sheet(self) -> DataSheet:
        """The data sheet."""
        return VOLVE

    def read(self, *, as_of: datetime | None, data: Path | None, now: datetime) -> RawData:
        """Read everything known at `as_of`.

        Months are labelled by their first day, so `as_of` 2012-08-01 means that August is known. A month that has
        not ended at `now` is left out.

        Parameters
        ----------
        as_of
            Last known time; None takes the last time at which the producers as a whole report.
        data
            The workbook, an export, a Parquet file, or a folder with any of them.
        now
            The clock, naive UTC.

        Raises
        ------
        ConfigError
            If `freq` is neither `MS` nor `D`, or a covariate is asked for that Volve lacks.
        SourceError
            If the input is missing, is no table of Volve, or is monthly where days are wanted.
        """
        self.spec.require_panel()
        require_past(as_of, now)
        if self.spec.freq.alias not in ("MS", "D"):
            raise ConfigError(
                f"workload {self.spec.name!r}: freq {self.spec.freq.alias} is not one Volve comes in",
                expected="MS (months) or D (days)",
                remedy="correct `freq`",
            )
        path, text, daily = self._table(data)
        counter = _Counter()
        rows = _typed(text, path, daily, counter)
        if as_of is not None:
            period = pl.col("date").dt.truncate("1mo") if self.spec.freq.alias == "MS" else pl.col("date")
            rows = rows.filter(known_at(period, as_of, now))
        junk = rows.filter(ROW_UNPARSABLE).height
        counter.add("unparsable_text_set_missing", junk, "rows hold text in place of a number or time")
        _count_missing(rows, daily, counter)
        rows = _treated(rows, counter)
        monthly = self.spec.freq.alias == "MS"
        if daily and monthly:
            rows = _by_month(rows)
        elif daily:
            rows = rows.with_columns(pl.lit(1.0).alias("days"))
        elif monthly:
            rows = _split_months(rows, counter)
        else:
            raise SourceError(
                f"{path} holds months, and freq is D",
                expected="the daily table (sheet Daily Production Data, or raw_daily.csv)",
                remedy="pass the daily table with --data, or set freq: MS",
            )
        available = _DAILY_COVARIATES if daily else _MONTHLY_COVARIATES
        covariates = self._chosen(available)
        frame = _panel(rows, counter)
        if monthly:
            running = (pl.col(TIME) <= now) & (pl.col(TIME).dt.offset_by("1mo") > now)
            counter.add(
                "running_month_left_out",
                frame.filter(running).height,
                "rows of the month that has not ended are left out",
            )
            frame = frame.filter(~running.fill_null(False))
        if as_of is None:  # counted again without what came later
            found = last_reported(frame, now)
            if found is not None:
                return self.read(as_of=found, data=data, now=now)
        return hand_over(
            frame,
            self.spec.panel_schema(covariates),
            as_of=as_of,
            now=now,
            origin=str(data if data is not None else self.spec.source.path),
            notes=counter.notes,
        )

    def _chosen(self, available: dict[str, Role]) -> dict[str, Role]:
        asked = self.spec.columns.covariates
        for name, choice in asked.items():
            if _DAILY_COVARIATES.get(name) != choice.role:
                raise ConfigError(
                    f"workload {self.spec.name!r}: Volve has no covariate {name!r} of role {choice.role!r}",
                    expected=f"some of {', '.join(_DAILY_COVARIATES)}, each of role past",
                    remedy="correct columns.covariates, or leave it out to take all",
                )
        return {name: role for name, role in available.items() if not asked or name in asked}

    def _table(self, data: Path | None) -> tuple[Path, pl.DataFrame, bool]:
        """The best table behind the path, under our names, and whether it is the daily one."""
        path = data if data is not None else self.spec.source.path
        if path is None:
            raise SourceError(
                f"workload {self.spec.name!r} names no input",
                expected="the Volve workbook, an export of its sheets, or their folder",
                remedy="set source.path in the workload file, or give --data",
            )
        base = Path() if data is not None else self.base
        folder = base / path
        files = [folder]
        if folder.is_dir():
            files = sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)
        elif not folder.is_file():
            files = find_files(path, base, _SUFFIXES)
        tables: list[tuple[bool, int, Path, pl.DataFrame, bool]] = []
        for file in files:
            for table in _tables_in(file):
                daily = _is_daily(table)
                if daily is not None:
                    tables.append((not daily, _SUFFIXES.index(file.suffix.lower()), file, table, daily))
        if not tables:
            raise SourceError(
                f"{folder} holds no production table of Volve",
                expected="columns NPD_WELL_BORE_NAME, FLOW_KIND, BORE_OIL_VOL, ... (daily) or Wellbore name, Year, "
                "Month, Oil, Water, WI (monthly)",
                remedy="pass the publisher's workbook `Volve production data.xlsx`, or CSV exports of its sheets",
            )
        _, _, file, table, daily = min(tables, key=lambda item: item[:3])
        return file, table, daily


def _tables_in(path: Path) -> list[pl.DataFrame]:
    suffix = path.suffix.lower()
    if suffix == ".xlsx":
        return _sheets_in(path)
    if suffix not in _SUFFIXES:
        raise SourceError(
            f"{path} ends in {suffix or 'no suffix'!r}",
            expected=f"a file ending in {', '.join(_SUFFIXES)}",
            remedy="pass the workbook, a CSV export or Parquet",
        )
    if suffix == ".parquet":
        return [collect(scan(path, _TEXT), path)]
    for encoding in ("utf-8", "windows-1252"):
        try:
            path.read_bytes().decode(encoding)
        except OSError as error:
            raise unreadable(path, error) from None
        except UnicodeError:
            continue
        options = _TEXT.model_copy(update={"encoding": encoding})
        return [collect(scan(path, options), path)]
    raise SourceError(
        f"{path} is neither UTF-8 nor Windows-1252 text",
        expected="a CSV export of the workbook",
        remedy="export the sheet again as CSV",
    )


def _sheets_in(path: Path) -> list[pl.DataFrame]:
    """The production sheets of a workbook, every cell as text."""
    import zipfile

    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from None
    try:
        tables = []
        for sheet in book.worksheets:
            if sheet.title.strip().lower() not in _DAILY_SHEETS + _MONTHLY_SHEETS:
                continue
            rows = sheet.iter_rows(values_only=True)
            header = [str(cell) if cell is not None else f"_{i}" for i, cell in enumerate(next(rows, ()))]
            cells = [[_cell(cell) for cell in row] for row in rows]
            tables.append(pl.DataFrame(cells, schema=dict.fromkeys(header, pl.String), orient="row"))
        return tables
    finally:
        book.close()


def _cell(value: object) -> str | None:
    if value is None:
        return None
    return value.isoformat(" ") if isinstance(value, datetime) else str(value)


def _plain(header: str) -> str:
    return "_".join(header.strip().lower().split())


def _is_daily(table: pl.DataFrame) -> bool | None:
    """Daily, monthly or (None) no table of Volve."""
    headers = {_plain(name) for name in table.columns}
    if {"npd_well_bore_name", "flow_kind", "bore_oil_vol", "bore_wat_vol", "on_stream_hrs"} <= headers:
        return True
    if {"year", "month"} <= headers and {_MONTHLY.get(h) for h in headers} >= {"well", "oil", "water", "injected"}:
        return False
    return None


def _typed(table: pl.DataFrame, path: Path, daily: bool, counter: _Counter) -> pl.DataFrame:
    """`well, date, oil, ...` as numbers and times, from whatever form the table has."""
    renames = _DAILY if daily else _MONTHLY
    columns = {renames[_plain(name)]: name for name in table.columns if _plain(name) in renames}
    missing = set(renames.values()) - set(columns)
    if missing:
        raise SourceError(
            f"{path} lacks {', '.join(sorted(missing))}",
            expected=f"the columns {', '.join(sorted(set(renames)))}",
            remedy="export the whole sheet",
        )
    table = table.select(pl.col(name).alias(ours) for ours, name in columns.items())
    if not daily:
        units = pl.col("well").is_null() & pl.col("hours").cast(pl.String).str.contains("(?i)^[a-z]+$")
        counter.add("units_line_dropped", table.filter(units).height, "line of units below the header left out")
        table = table.filter(~units.fill_null(False))
    values: list[pl.Expr] = [pl.col("well").cast(pl.String).str.strip_chars()]
    marks: list[pl.Expr] = []
    for name in _NUMBERS:
        if name in table.columns:
            value, junk = number(name, table.schema[name], _TEXT)
            values.append(value.alias(name))
            marks.append(junk)
    if daily:
        when, junk = time("date", table.schema["date"], _TEXT)
        values += [when.alias("date"), pl.col("flow_kind").str.strip_chars().str.to_lowercase()]
        marks.append(junk)
    else:
        parts = [number(name, table.schema[name], _TEXT)[0] for name in ("year", "month")]
        year, month = (part.cast(pl.Int32, strict=False) for part in parts)
        sound = month.is_between(1, 12) & year.is_between(1900, 2200)
        when = pl.when(sound).then(pl.datetime(pl.when(sound).then(year), pl.when(sound).then(month), 1))
        values.append(when.cast(pl.Datetime("us")).alias("date"))
        marks.append(~sound.fill_null(False))
    rows = table.select(*values, pl.any_horizontal(marks).alias(ROW_UNPARSABLE))
    nameless = rows.filter(pl.col("well").is_null()).height
    counter.add("rows_without_id_dropped", nameless, "rows name no well and are left out")
    return rows.filter(pl.col("well").is_not_null())


def _count_missing(rows: pl.DataFrame, daily: bool, counter: _Counter) -> None:
    if not daily:
        return
    spans = rows.group_by("well").agg(
        ((pl.col("date").max() - pl.col("date").min()).dt.total_days() + 1 - pl.col("date").n_unique()).alias("gap")
    )
    counter.add(
        "days_without_a_row", int(spans.get_column("gap").sum()), "days inside the records have no row; nothing added"
    )


def _treated(rows: pl.DataFrame, counter: _Counter) -> pl.DataFrame:
    """Values that cannot be measurements set missing, each kind counted."""
    for name in ("water", "oil", "injected"):
        wrong = (pl.col(name) < 0).fill_null(False)
        detail = f"negative volumes of {name} count as missing; a month's sum leaves them out"
        counter.add(f"negative_{name}_set_missing", rows.filter(wrong).height, detail)
        rows = rows.with_columns(pl.when(~wrong).then(pl.col(name)).alias(name))
    for name, code, what in (
        ("wbhp", "dead_gauge_set_missing", "downhole pressures of 0 (dead gauge)"),
        ("whp", "zero_whp_set_missing", "wellhead pressures of 0"),
    ):
        if name in rows.columns:
            dead = (pl.col(name) <= 0).fill_null(False)
            counter.add(code, rows.filter(dead).height, f"{what} count as missing")
            rows = rows.with_columns(pl.when(~dead).then(pl.col(name)).alias(name))
    hours = 24.0 if "flow_kind" in rows.columns else 24.0 * pl.col("date").dt.month_end().dt.day()
    long = (pl.col("hours") > hours).fill_null(False)
    counter.add(
        "clock_hours_clipped", rows.filter(long).height, "periods on stream for an hour too long (clock change)"
    )
    return rows


def _by_month(rows: pl.DataFrame) -> pl.DataFrame:
    """Days to months, the producing and the injecting days of a well apart."""
    flowing = pl.col("hours") > 0
    return (
        rows.with_columns(pl.col("date").dt.truncate("1mo"))
        .group_by("well", "date", "flow_kind", maintain_order=True)
        .agg(
            *(_sum(name) for name in ("hours", "oil", "water", "injected")),
            pl.col("wbhp").filter(flowing).mean(),
            pl.col("whp").filter(flowing).mean(),
            pl.col("choke").mean(),
            pl.col(ROW_UNPARSABLE).any(),
        )
        .with_columns(pl.col("date").dt.month_end().dt.day().cast(pl.Float64).alias("days"))
    )


def _sum(name: str) -> pl.Expr:
    """A sum that is missing where every part is."""
    return pl.when(pl.col(name).is_not_null().any()).then(pl.col(name).sum()).alias(name)


def _split_months(rows: pl.DataFrame, counter: _Counter) -> pl.DataFrame:
    """Months of the monthly table, a month with production and injection made two rows.

    The table does not say of which kind a month is: oil or water reported means production, injection reported
    without them (or more than none beside them) means injection.
    """
    produces = pl.col("oil").is_not_null() | pl.col("water").is_not_null()
    injects = (pl.col("injected") > 0) | (pl.col("injected").is_not_null() & ~produces)
    injects = injects.fill_null(False)
    both = rows.filter(produces & injects).height
    counter.add("mixed_month_split", both, "months hold production and injection: made two rows, hours not shared out")
    hours = pl.when(~(produces & injects)).then(pl.col("hours")).alias("hours")
    rows = rows.with_columns(hours, produces.alias("_produces"), injects.alias("_injects"))
    production = rows.filter(pl.col("_produces")).with_columns(pl.lit("production").alias("flow_kind"))
    injection = rows.filter(pl.col("_injects")).with_columns(pl.lit("injection").alias("flow_kind"))
    # A month without any readable volume is of the kind the well was last.
    silent = rows.filter(~pl.col("_produces") & ~pl.col("_injects")).with_columns(
        pl.lit(None, pl.String).alias("flow_kind")
    )
    return (
        pl.concat([production, injection, silent])
        .sort("well", "date", "flow_kind", nulls_last=True, maintain_order=True)
        .with_columns(
            pl.col("flow_kind").forward_fill().over("well"),
            pl.col("date").dt.month_end().dt.day().cast(pl.Float64).alias("days"),
        )
    )


def _panel(rows: pl.DataFrame, counter: _Counter) -> pl.DataFrame:
    """Our columns: rates per calendar day, injecting spells as support series."""
    injecting = (pl.col("flow_kind") == "injection").fill_null(False)
    volumes = (
        pl.when(injecting)
        .then(pl.col("injected").is_not_null())
        .otherwise(pl.any_horizontal(pl.col("oil", "water").is_not_null()))
    )
    empty = ~volumes & ~pl.col(ROW_UNPARSABLE)
    counter.add("rows_without_volumes_dropped", rows.filter(empty).height, "rows report no volume at all: left out")
    rows = rows.filter(~empty)
    injectors = rows.filter(injecting).get_column("well").unique()
    counter.add(
        "injecting_rows_made_support",
        rows.filter(injecting).height,
        f"rows of injecting spells ({', '.join(injectors.sort())}) are support series, `<well> (injector)`",
    )
    producers = rows.filter(~injecting).get_column("well").unique()
    changed = [well for well in injectors.sort() if well in set(producers)]
    if changed:
        late = rows.filter(~injecting & pl.col("well").is_in(changed))
        detail = f"rows of {', '.join(changed)}, an injector before, are a target series of their own"
        counter.add("injector_became_producer", late.height, detail)
    covariates = [pl.col(name) for name in ("wbhp", "whp", "choke") if name in rows.columns]
    # Daily water that is missing makes the day's liquid missing; a month keeps the sum of its known days.
    liquid = (pl.col("oil") + pl.col("water")) / pl.col("days")
    return rows.select(
        pl.when(injecting).then(injector_ids("well")).otherwise(pl.col("well")).alias(ID),
        pl.col("date").alias(TIME),
        pl.when(~injecting).then(liquid).alias(TARGET),
        (pl.col("hours") / (24.0 * pl.col("days"))).clip(0.0, 1.0).alias("uptime"),
        *covariates,
        pl.when(injecting).then(pl.col("injected") / pl.col("days")).otherwise(0.0).alias("wwir"),
        pl.when(injecting).then(pl.lit(ROLE_SUPPORT)).otherwise(pl.lit(ROLE_TARGET)).alias(SERIES_ROLE),
        ROW_UNPARSABLE,
    )
