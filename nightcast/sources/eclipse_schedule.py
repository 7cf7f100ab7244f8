"""Well histories from the schedule section of an Eclipse deck.

Reads WELSPECS, WCONHIST, WCONINJE, WELOPEN, DATES, TSTEP and START; other keywords are skipped. Rates are those of
the deck's unit system (Sm3/d in METRIC).

Source: the keyword forms of the OPM Flow reference manual (Open Porous Media initiative), sections 11.3 and 12.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import polars as pl

from nightcast.contracts.errors import SourceError

_MONTH_NAMES: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_MONTHS: Final = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)} | {"JLY": 7}
_TABLES: Final = {"WELSPECS", "WCONHIST", "WCONINJE", "WELOPEN", "DATES"}
"""Keywords with many records, closed by a record without items."""
_SINGLE: Final = {"START", "TSTEP"}
_KEYWORD: Final = re.compile(r"^[A-Z][A-Z0-9+-]{0,7}$")
_TOKEN: Final = re.compile(r"'([^']*)'|\"([^\"]*)\"|(/)|([^\s'\"/][^\s'\"]*)")
_REPEAT: Final = re.compile(r"^(\d*)\*(.*)$")

STEP_SCHEMA: Final[dict[str, pl.DataType]] = {
    "well": pl.String(),
    "period_start": pl.Datetime("us"),
    "period_end": pl.Datetime("us"),
    "kind": pl.String(),
    "status": pl.String(),
    "control": pl.String(),
    "oil_sm3_d": pl.Float64(),
    "water_sm3_d": pl.Float64(),
    "gas_sm3_d": pl.Float64(),
    "inj_phase": pl.String(),
    "water_inj_sm3_d": pl.Float64(),
    "gas_inj_sm3_d": pl.Float64(),
    "listed": pl.Boolean(),
}
WELL_SCHEMA: Final[dict[str, pl.DataType]] = {
    "well": pl.String(),
    "date": pl.Datetime("us"),
    "well_group": pl.String(),
    "i_cell": pl.Int64(),
    "j_cell": pl.Int64(),
    "preferred_phase": pl.String(),
}


@dataclass(frozen=True)
class Schedule:
    """What a deck says of its wells.

    Attributes
    ----------
    steps
        One row a well and report step: `well, period_start, period_end, kind (producer / injector), status, control,
        oil_sm3_d, water_sm3_d, gas_sm3_d, inj_phase, water_inj_sm3_d, gas_inj_sm3_d, listed`. Rates hold between
        the two times; `listed` is False where the deck does not name the well in that step and its rates go on.
    wells
        One row a well: `well, date (introduced), well_group, i_cell, j_cell, preferred_phase`.
    """

    steps: pl.DataFrame
    wells: pl.DataFrame


@dataclass
class _Control:
    kind: str
    status: str
    control: str | None
    oil: float | None = None
    water: float | None = None
    gas: float | None = None
    phase: str | None = None
    water_injected: float | None = None
    gas_injected: float | None = None

    @property
    def flows(self) -> bool:
        rates = (self.oil, self.water, self.gas, self.water_injected, self.gas_injected)
        return self.status == "OPEN" and any(rate for rate in rates)


@dataclass
class _Reader:
    path: Path
    now: datetime | None
    controls: dict[str, _Control] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    wells: dict[str, tuple[object, ...]] = field(default_factory=dict)
    steps: list[tuple[object, ...]] = field(default_factory=list)

    def advance(self, until: datetime, line: int) -> None:
        """Close the report step that ends at `until`."""
        if self.now is None:
            if self.controls:
                raise SourceError(
                    f"{self.path}, line {line}: wells are controlled before the first date",
                    expected="a START or DATES keyword before the first WCONHIST",
                    remedy="pass the start of the deck, or the whole deck with its RUNSPEC section",
                )
            self.now = until
            return
        if until < self.now or (until == self.now and self.listed and self.steps):
            raise SourceError(
                f"{self.path}, line {line}: the date {until:%Y-%m-%d} follows {self.now:%Y-%m-%d}",
                expected="rising dates",
                remedy="check the DATES keywords of the deck",
            )
        if until == self.now:
            return
        for well, control in self.controls.items():
            if well in self.listed or control.flows:
                self.steps.append(
                    (
                        well,
                        self.now,
                        until,
                        control.kind,
                        control.status,
                        control.control,
                        control.oil,
                        control.water,
                        control.gas,
                        control.phase,
                        control.water_injected,
                        control.gas_injected,
                        well in self.listed,
                    )
                )
        self.listed.clear()
        self.now = until

    def matching(self, template: str) -> list[str]:
        """Wells a name or a template (`B-*`) stands for."""
        if "*" not in template and "?" not in template:
            return [template]
        known = [*self.wells, *(well for well in self.controls if well not in self.wells)]
        return [well for well in known if fnmatchcase(well, template)]

    def take(self, keyword: str, items: list[str | None], line: int) -> None:
        """Apply one record."""
        if keyword in ("DATES", "START"):
            self.advance(self.date(items, line), line)
        elif keyword == "TSTEP":
            for days in items:
                if self.now is None:
                    raise self.wrong(line, "TSTEP", "a START or DATES keyword before it")
                self.advance(self.now + timedelta(days=self.number(days, line)), line)
        elif keyword == "WELSPECS":
            self.welspecs(items, line)
        elif keyword == "WCONHIST":
            self.wconhist(items, line)
        elif keyword == "WCONINJE":
            self.wconinje(items, line)
        elif keyword == "WELOPEN":
            self.welopen(items, line)

    def welspecs(self, items: list[str | None], line: int) -> None:
        well, group, i, j, _, phase = _padded(items, 6)
        if well is None:
            raise self.wrong(line, "WELSPECS without a well", "a well name")
        cells = [None if cell is None else int(self.number(cell, line)) for cell in (i, j)]
        if well not in self.wells:
            self.wells[well] = (well, self.now, group, *cells, phase)

    def wconhist(self, items: list[str | None], line: int) -> None:
        well, status, control, oil, water, gas = _padded(items, 6)
        if well is None:
            raise self.wrong(line, "WCONHIST without a well", "a well name")
        rates = [0.0 if rate is None else self.number(rate, line) for rate in (oil, water, gas)]
        for name in self.matching(well):
            self.controls[name] = _Control(
                "producer", (status or "OPEN").upper(), control, oil=rates[0], water=rates[1], gas=rates[2]
            )
            self.listed.add(name)

    def wconinje(self, items: list[str | None], line: int) -> None:
        well, phase, status, control, rate = _padded(items, 5)
        if well is None:
            raise self.wrong(line, "WCONINJE without a well", "a well name")
        kind = (phase or "").upper()
        if kind not in ("WATER", "GAS", "OIL", "MULTI"):
            raise self.wrong(line, f"the injected phase {phase!r}", "WATER or GAS")
        value = 0.0 if rate is None else self.number(rate, line)
        for name in self.matching(well):
            self.controls[name] = _Control(
                "injector",
                (status or "OPEN").upper(),
                control,
                phase=kind,
                water_injected=value if kind == "WATER" else None,
                gas_injected=value if kind == "GAS" else None,
            )
            self.listed.add(name)

    def welopen(self, items: list[str | None], line: int) -> None:
        well, status, *connection = _padded(items, 5)
        if well is None:
            raise self.wrong(line, "WELOPEN without a well", "a well name")
        if any(cell is not None and self.number(cell, line) > 0 for cell in connection):
            return  # it opens or shuts connections, not the well
        for name in self.matching(well):
            if name in self.controls:
                self.controls[name].status = (status or "OPEN").upper()

    def date(self, items: list[str | None], line: int) -> datetime:
        """A date of DATES or START: day, month's name, year and perhaps a time."""
        day, month, year, clock = _padded(items, 4)
        try:
            date = datetime(int(year or ""), _MONTHS[(month or "").upper()], int(day or ""))
            if clock is not None:
                hours, minutes, seconds = [*clock.split(":"), "0", "0"][:3]
                date += timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))
        except (KeyError, ValueError):
            text = " ".join(item or "*" for item in items)
            raise self.wrong(line, f"the date {text!r}", "day, month's name and year, such as 6 'NOV' 1997") from None
        return date

    def number(self, text: str | None, line: int) -> float:
        """A number, also in Fortran's form 1.5D3."""
        try:
            return float((text or "").upper().replace("D", "E"))
        except ValueError:
            raise self.wrong(line, f"the item {text!r}", "a number") from None

    def wrong(self, line: int, what: str, expected: str) -> SourceError:
        return SourceError(
            f"{self.path}, line {line}: {what}", expected=expected, remedy="mend the deck, or name another file"
        )


def read_schedule(path: Path, *, start: datetime | None = None) -> Schedule:
    """Read a deck, or an include file with its schedule.

    Parameters
    ----------
    start
        Start of the simulation, where the file itself does not say (START stands in another section).

    Raises
    ------
    SourceError
        If the file is missing, holds no schedule, or a record cannot be understood; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SourceError(
            f"the deck {path} cannot be read ({error.strerror or error})",
            expected="a text file with a schedule section",
            remedy="check the path",
        ) from None
    reader = _Reader(path, start)
    for keyword, items, line in _records(text, path):
        reader.take(keyword, items, line)
    if not reader.steps:
        raise SourceError(
            f"the deck {path} holds no well history",
            expected="WCONHIST or WCONINJE records between DATES",
            remedy="name the include file that holds the schedule section",
        )
    steps = pl.DataFrame(reader.steps, schema=STEP_SCHEMA, orient="row")
    wells = pl.DataFrame(list(reader.wells.values()), schema=WELL_SCHEMA, orient="row")
    return Schedule(steps, wells)


def _records(text: str, path: Path) -> Iterator[tuple[str, list[str | None], int]]:
    """Records of the keywords we know: keyword, items (None where defaulted), line."""
    keyword = ""
    items: list[str | None] = []
    opened = False
    number = 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = _without_comment(raw)
        word = line.strip()
        if not opened and _KEYWORD.match(word):
            keyword = word
            continue
        if keyword not in _TABLES and keyword not in _SINGLE:
            continue
        for match in _TOKEN.finditer(line):
            single, double, end, plain = match.groups()
            if end:
                if items or opened:
                    yield keyword, items, number
                    if keyword in _SINGLE:
                        keyword = ""
                else:
                    keyword = ""  # a record without items closes the keyword
                items, opened = [], False
                break  # what follows the slash is a comment
            opened = True
            if plain is None:
                items.append(single if single is not None else double)
            else:
                items.extend(_expanded(plain))
    if opened:
        raise SourceError(
            f"{path}, line {number}: the last {keyword} record is not closed",
            expected="a slash at the end of each record",
            remedy="the file may be cut short; fetch it again",
        )


def _without_comment(line: str) -> str:
    """The part before `--`, unless that stands in quotes."""
    quote = ""
    for place, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "-" and line[place : place + 2] == "--":
            return line[:place]
    return line


def _expanded(token: str) -> list[str | None]:
    """`2*` is two defaults, `*` one, `3*5.0` three values."""
    match = _REPEAT.match(token)
    if match is None:
        return [token]
    return [match.group(2) or None] * int(match.group(1) or 1)


def _padded(items: list[str | None], size: int) -> list[str | None]:
    return (items + [None] * size)[:size]


def monthly_rates(steps: pl.DataFrame) -> pl.DataFrame:
    """Report steps to months: time-weighted means over calendar days.

    Parameters
    ----------
    steps
        As in `Schedule.steps`.

    Returns
    -------
    pl.DataFrame
        `well, date (first of the month), liquid_sm3_d, oil_sm3_d, water_sm3_d, gas_sm3_d, water_inj_sm3_d,
        gas_inj_sm3_d, days_producing, days_injecting, listed`, one row a well and month from its first month in the
        deck to its last; `listed` is False in a month that does not name the well, whose rates are then 0 or go on.
    """
    rates = ["oil_sm3_d", "water_sm3_d", "gas_sm3_d", "water_inj_sm3_d", "gas_inj_sm3_d"]
    if "listed" not in steps.columns:
        steps = steps.with_columns(pl.lit(True).alias("listed"))
    pieces = (
        steps.with_columns(
            pl.when(pl.col("status") == "OPEN").then(pl.col(rates).fill_null(0.0)).otherwise(0.0),
            pl.datetime_ranges(
                pl.col("period_start").dt.truncate("1mo"), pl.col("period_end"), "1mo", closed="left"
            ).alias("date"),
        )
        .explode("date")
        .with_columns(pl.col("date").cast(pl.Datetime("us")))
        .with_columns(pl.col("date").dt.offset_by("1mo").alias("next"))
        .with_columns(
            (
                (pl.min_horizontal("period_end", "next") - pl.max_horizontal("period_start", "date")).dt.total_seconds()
                / 86_400
            ).alias("days"),
            ((pl.col("next") - pl.col("date")).dt.total_seconds() / 86_400).alias("month_days"),
        )
    )
    produces = (pl.col("oil_sm3_d") + pl.col("water_sm3_d")) > 0
    injects = (pl.col("water_inj_sm3_d") + pl.col("gas_inj_sm3_d")) > 0
    months = pieces.group_by("well", "date").agg(
        *((pl.col(rate) * pl.col("days")).sum() / pl.col("month_days").first() for rate in rates),
        pl.col("days").filter(produces).sum().alias("days_producing"),
        pl.col("days").filter(injects).sum().alias("days_injecting"),
        pl.col("listed").any(),
    )
    every = (
        months.group_by("well")
        .agg(pl.datetime_range(pl.col("date").min(), pl.col("date").max(), "1mo").alias("date"))
        .explode("date")
        .with_columns(pl.col("date").cast(pl.Datetime("us")))
    )
    zero = [*rates, "days_producing", "days_injecting"]
    return (
        every.join(months, on=["well", "date"], how="left")
        .with_columns(pl.col(zero).fill_null(0.0), pl.col("listed").fill_null(False))
        .with_columns((pl.col("oil_sm3_d") + pl.col("water_sm3_d")).alias("liquid_sm3_d"))
        .select("well", "date", "liquid_sm3_d", *zero, "listed")
        .sort("well", "date")
    )
