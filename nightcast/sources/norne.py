"""The Norne field: monthly rates as Parquet, or straight from the schedule of the public benchmark deck."""

from __future__ import annotations

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
from nightcast.sources.eclipse_schedule import monthly_rates, read_schedule
from nightcast.sources.handover import hand_over, injector_ids, last_reported, require_past
from nightcast.sources.sheets import NORNE
from nightcast.sources.spec import FileOptions, WorkloadFile
from nightcast.sources.tables import collect, find_files, scan, unknown_column

DECK_START: Final = datetime(1997, 11, 6)
"""START of the Norne deck; the schedule's include file does not repeat it."""
CELL_M: Final = 100.0
"""Rough width of a grid cell, m: head cells serve as relative coordinates only."""
PLACEHOLDER: Final = 0.01
"""Sm3/d; the deck introduces wells with rates of 0 or 0.001."""

_DECKS: Final = (".sch", ".inc", ".data")
_MONTHLY: Final = (
    "well",
    "date",
    "liquid_sm3_d",
    "water_inj_sm3_d",
    "gas_inj_sm3_d",
    "days_producing",
    "days_injecting",
)
_COVARIATES: Final[dict[str, Role]] = {"uptime": "past", "wwir": "past"}
_STATIC: Final[dict[str, Role]] = {"x_m": "static", "y_m": "static", "well_group": "static"}


class NorneSource:
    """Producers of Norne as target series, its injectors as support.

    Parameters
    ----------
    spec
        The workload file, with `freq: MS`.
    base
        Folder that relative paths in it start from.
    """

    def __init__(self, spec: WorkloadFile, base: Path) -> None:
        self.spec = spec
        self.base = base

    @property
    def sheet(self) -> DataSheet:
        """The data sheet."""
        return NORNE

    def read(self, *, as_of: datetime | None, data: Path | None, now: datetime) -> RawData:
        """Read everything known at `as_of`.

        Parameters
        ----------
        as_of
            Last known month; None takes the last month at which the producers as a whole report.
        data
            `monthly.parquet` (positions come from a `wells.parquet` beside it), the deck's schedule file, or the
            folder of either.
        now
            The clock, naive UTC.

        Raises
        ------
        ConfigError
            If `freq` is not `MS`, or a covariate is asked for that Norne lacks.
        SourceError
            If the input is missing or is no table or deck of Norne.
        """
        self.spec.require_panel()
        require_past(as_of, now)
        if self.spec.freq.alias != "MS":
            raise ConfigError(
                f"workload {self.spec.name!r}: freq {self.spec.freq.alias} is not one Norne comes in",
                expected="MS (months)",
                remedy="correct `freq`",
            )
        path = self._path(data)
        wells: pl.DataFrame | None
        if path.suffix.lower() in _DECKS:
            schedule = read_schedule(path, start=DECK_START)
            months, wells = monthly_rates(schedule.steps), schedule.wells
        else:
            months, wells = _monthly_table(path)
        frame, notes = _panel(months, as_of, now)
        available = dict(_COVARIATES)
        if wells is not None:
            available |= _STATIC
            frame = frame.join(_positions(wells), on="well", how="left")
        covariates = self._chosen(available)
        if as_of is None:  # counted again without what came later
            found = last_reported(frame, now)
            if found is not None:
                return self.read(as_of=found, data=data, now=now)
        origin = str(data if data is not None else self.spec.source.path)
        return hand_over(frame, self.spec.panel_schema(covariates), as_of=as_of, now=now, origin=origin, notes=notes)

    def _chosen(self, available: dict[str, Role]) -> dict[str, Role]:
        asked = self.spec.columns.covariates
        for name, choice in asked.items():
            if available.get(name) != choice.role:
                raise ConfigError(
                    f"workload {self.spec.name!r}: Norne has no covariate {name!r} of role {choice.role!r} here",
                    expected=f"some of {', '.join(f'{n} ({r})' for n, r in available.items())}",
                    remedy="correct columns.covariates (positions need wells.parquet beside the rates)",
                )
        return {name: role for name, role in available.items() if not asked or name in asked}

    def _path(self, data: Path | None) -> Path:
        path = data if data is not None else self.spec.source.path
        if path is None:
            raise SourceError(
                f"workload {self.spec.name!r} names no input",
                expected="monthly.parquet, the deck's schedule file, or their folder",
                remedy="set source.path in the workload file, or give --data",
            )
        base = Path() if data is not None else self.base
        whole = base / path
        if whole.is_dir():
            if (whole / "monthly.parquet").is_file():
                return whole / "monthly.parquet"
            decks = sorted(p for p in whole.iterdir() if p.suffix.lower() in _DECKS)
            if len(decks) != 1:
                raise SourceError(
                    f"the folder {whole} holds no monthly.parquet and {len(decks)} schedule files",
                    expected="monthly.parquet, or one file ending in .SCH",
                    remedy="name the file, or fetch the deck with `nightcast data fetch norne`",
                )
            return decks[0]
        return find_files(path, base, (".parquet", *_DECKS))[0]


def _monthly_table(path: Path) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    months = collect(scan(path, FileOptions()), path)
    for name in _MONTHLY:
        if name not in months.columns:
            raise unknown_column(name, months.columns, path, key="--data (it is no monthly table of Norne)")
    beside = path.with_name("wells.parquet")
    wells = collect(scan(beside, FileOptions()), beside) if beside.is_file() else None
    return months.with_columns(pl.col("date").cast(pl.Datetime("us"))), wells


def _positions(wells: pl.DataFrame) -> pl.DataFrame:
    return wells.unique("well", keep="first", maintain_order=True).select(
        "well",
        (pl.col("i_cell") * CELL_M).cast(pl.Float64).alias("x_m"),
        (pl.col("j_cell") * CELL_M).cast(pl.Float64).alias("y_m"),
        pl.col("well_group").cast(pl.String),
    )


def _panel(months: pl.DataFrame, as_of: datetime | None, now: datetime) -> tuple[pl.DataFrame, list[Note]]:
    """Our columns, each row judged by what the deck says up to its own month."""
    limit = now if as_of is None else as_of
    months = months.filter((pl.col("date") <= limit) | (pl.col("date") > now)).sort("well", "date")
    produces = pl.col("liquid_sm3_d") > PLACEHOLDER
    injects = (pl.col("water_inj_sm3_d") > PLACEHOLDER) | (pl.col("gas_inj_sm3_d") > PLACEHOLDER)
    # A month without flow is of the kind the well was last; before its first flow it is a placeholder.
    kind = pl.when(produces).then(pl.lit(ROLE_TARGET)).when(injects).then(pl.lit(ROLE_SUPPORT))
    months = months.with_columns(kind.forward_fill().over("well").alias(SERIES_ROLE))
    notes: list[Note] = []
    waiting = months.filter(pl.col(SERIES_ROLE).is_null())
    months = months.filter(pl.col(SERIES_ROLE).is_not_null())
    if waiting.height:
        never = sorted(set(waiting.get_column("well")) - set(months.get_column("well")))
        detail = f"{waiting.height} rows before a well's first flow are left out"
        if never:
            detail += f"; {', '.join(never)} never flowed"
        notes.append(Note("placeholder_rows_dropped", waiting.height, detail))
    partial = months.filter(pl.col("date") == DECK_START.replace(day=1)).height
    if partial:
        detail = f"{partial} rows of November 1997 cover it from the 6th only; rates are per day of the whole month"
        notes.append(Note("partial_month_kept", partial, detail))
    mixed = months.filter(produces & injects).height
    if mixed:
        detail = f"{mixed} months hold production and injection; they count as production, `wwir` keeps the injection"
        notes.append(Note("mixed_months", mixed, detail))
    gas = months.filter((pl.col(SERIES_ROLE) == ROLE_SUPPORT) & (pl.col("gas_inj_sm3_d") > PLACEHOLDER)).height
    if gas:
        notes.append(
            Note("gas_injection_left_out", gas, f"{gas} months inject gas, which `wwir` (water) does not hold")
        )
    target = pl.col(SERIES_ROLE) == ROLE_TARGET
    days = pl.col("date").dt.month_end().dt.day().cast(pl.Float64)
    flowing = pl.when(target).then(pl.col("days_producing")).otherwise(pl.col("days_injecting"))
    over = months.filter(flowing > days).height
    if over:
        notes.append(Note("uptime_clipped", over, f"{over} months with more days of flow than the month has"))
    frame = months.select(
        "well",
        pl.when(target).then(pl.col("well")).otherwise(injector_ids("well")).alias(ID),
        pl.col("date").alias(TIME),
        pl.when(target).then(pl.col("liquid_sm3_d")).cast(pl.Float64).alias(TARGET),
        (flowing / days).clip(0.0, 1.0).alias("uptime"),
        pl.col("water_inj_sm3_d").cast(pl.Float64).alias("wwir"),
        SERIES_ROLE,
        pl.lit(False).alias(ROW_UNPARSABLE),
    )
    return frame, notes
