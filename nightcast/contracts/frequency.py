"""Calendar steps: one object that speaks pandas' and polars' dialects and counts steps between times."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import polars as pl

from nightcast.contracts.errors import ConfigError

_UNITS: Final[dict[str, tuple[str, int, str]]] = {
    # pandas unit: (polars unit, default season in steps, word)
    "YS": ("y", 1, "year"),
    "QS": ("q", 4, "quarter"),
    "MS": ("mo", 12, "month"),
    "W-MON": ("w", 52, "week"),
    "D": ("d", 7, "day"),
    "h": ("h", 24, "hour"),
    "min": ("m", 60, "minute"),
}
_ALIASES: Final = {"W": "W-MON", "H": "h", "T": "min", "M": "MS", "1mo": "MS", "AS": "YS", "Q": "QS", "Y": "YS"}
_SECONDS: Final = {"W-MON": 604_800, "D": 86_400, "h": 3_600, "min": 60}
_MONTHS: Final = {"YS": 12, "QS": 3, "MS": 1}


@dataclass(frozen=True)
class Frequency:
    """A regular calendar step such as a month (`MS`), a day (`D`) or 30 minutes (`30min`).

    Periods are labelled by their start, weeks start on Monday.
    """

    count: int
    unit: str

    @classmethod
    def parse(cls, text: str) -> Frequency:
        """Read a pandas-style alias, `"MS"`, `"D"`, `"30min"`.

        Raises
        ------
        ConfigError
            If the alias is unknown.
        """
        match = re.fullmatch(r"(\d*)([A-Za-z0-9-]+?)", text.strip())
        count, unit = (match.group(1), match.group(2)) if match else ("", "")
        unit = _ALIASES.get(unit, unit)
        if unit not in _UNITS or count == "0":
            raise ConfigError(
                f"unknown frequency {text!r}",
                expected=f"one of {', '.join(_UNITS)}, optionally with a number before it (30min)",
                remedy="set `freq` in the workload file to the step between two rows of one series",
            )
        return cls(int(count or 1), unit)

    @property
    def alias(self) -> str:
        """The alias pandas understands."""
        return self.unit if self.count == 1 else f"{self.count}{self.unit}"

    @property
    def word(self) -> str:
        """The step in words, for messages."""
        word = _UNITS[self.unit][2]
        return f"one {word}" if self.count == 1 else f"{self.count} {word}s"

    @property
    def season_length(self) -> int:
        """Steps in the natural season: 12 months, 7 days, 24 hours, 48 half hours."""
        if self.unit == "min":
            return max(1, 1440 // self.count)
        return max(1, _UNITS[self.unit][1] // self.count)

    def every(self, steps: int = 1) -> str:
        """The polars duration of a number of steps, `"6mo"`."""
        return f"{self.count * steps}{_UNITS[self.unit][0]}"

    def shift(self, time: datetime, steps: int) -> datetime:
        """The label `steps` periods after (before, if negative) a label."""
        if self.unit in _MONTHS:
            month = time.year * 12 + time.month - 1 + _MONTHS[self.unit] * self.count * steps
            return time.replace(year=month // 12, month=month % 12 + 1)
        return time + timedelta(seconds=_SECONDS[self.unit] * self.count * steps)

    def shift_expr(self, column: str, steps: int) -> pl.Expr:
        """As `shift`, for a column."""
        return pl.col(column).dt.offset_by(self.every(steps))

    def floor_expr(self, column: str) -> pl.Expr:
        """The label of the period a time lies in; a label maps to itself.

        Multi-step periods are aligned to their unit only (`30min` to the minute's grid of 30).
        """
        return pl.col(column).dt.truncate(self.every())

    def steps_between_expr(self, start: str, end: str) -> pl.Expr:
        """Whole steps from one label column to another (Int64)."""
        if self.unit in _MONTHS:
            months = (pl.col(end).dt.year() - pl.col(start).dt.year()) * 12 + (
                pl.col(end).dt.month().cast(pl.Int32) - pl.col(start).dt.month().cast(pl.Int32)
            )
            return (months // (_MONTHS[self.unit] * self.count)).cast(pl.Int64)
        seconds = (pl.col(end) - pl.col(start)).dt.total_seconds()
        return (seconds // (_SECONDS[self.unit] * self.count)).cast(pl.Int64)

    def steps_between(self, start: datetime, end: datetime) -> int:
        """Whole steps from one label to another."""
        if self.unit in _MONTHS:
            months = (end.year - start.year) * 12 + end.month - start.month
            return months // (_MONTHS[self.unit] * self.count)
        return int((end - start).total_seconds() // (_SECONDS[self.unit] * self.count))

    def __str__(self) -> str:
        return self.alias
