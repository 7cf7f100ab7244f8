"""Tables as values, and numbers as people write them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

NOTHING: Final = "–"
"""Stands where a value does not exist."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes
    ----------
    tone
        `good`, `bad`, `warn`, `strong`, `code` or nothing; never the only carrier of a meaning.
    sort
        What the column is sorted by, where the text does not sort.
    link
        Fragment of this page, `#series-3`.
    badge
        A short word beside the text.
    bar
        Share of the cell's width to fill, 0 to 1.
    """

    text: str
    tone: str = ""
    sort: float | str | None = None
    link: str = ""
    badge: str = ""
    bar: float | None = None


@dataclass(frozen=True)
class Column:
    """A heading; numbers are set flush right."""

    label: str
    number: bool = False
    meaning: str = ""


@dataclass(frozen=True)
class Row:
    """One row; `key` is what the page's search looks at, `mark` a class of rows (`naive`, `fallback`)."""

    cells: tuple[Cell, ...]
    key: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A captioned table, or the sentence that stands in its place when it has no rows."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    empty: str
    sortable: bool = False
    name: str = ""


def row(*cells: Cell | str, key: str = "", mark: str = "") -> Row:
    """A row of cells and plain texts."""
    return Row(tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells), key, mark)


def known(value: float | None) -> bool:
    """Whether there is a finite number."""
    return value is not None and math.isfinite(value)


def number(value: float | None, *, digits: int = 3, sign: bool = False) -> str:
    """Three significant digits, thousands set off: `12,300`, `57.3`, `0.0410`, `−1.20`; a dash for no value."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    value = float(f"{value:.{digits}g}")
    if value == 0:
        return "0"
    if abs(value) < 1e-4 or abs(value) >= 1e12:
        text = f"{value:{'+' if sign else ''}.{digits - 1}e}"
    else:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:{'+' if sign else ''},.{decimals}f}"
    return text.replace("-", "−")


def percent(share: float | None, *, digits: int = 1, sign: bool = False) -> str:
    """A share as per cent, `81.2 %`."""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{share * 100:{'+' if sign else ''},.{digits}f} %".replace("-", "−")


def count(value: int) -> str:
    """A whole number with thousands set off."""
    return f"{value:,}"


def counted(value: int, word: str, plural: str | None = None) -> str:
    """A number with its noun: `1 series`, `3 rows`."""
    return f"{count(value)} {word if value == 1 else plural or word + 's'}"


def duration(seconds: float | None) -> str:
    """`0.42 s`, `3 min 20 s`, `1 h 05 min`."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{number(seconds)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


def number_cell(value: float | None, *, digits: int = 3, sign: bool = False, tone: str = "") -> Cell:
    """A cell that sorts by its value."""
    return Cell(number(value, digits=digits, sign=sign), tone, value if known(value) else None)


def percent_cell(share: float | None, *, digits: int = 1, sign: bool = False, tone: str = "") -> Cell:
    """A cell with a share as per cent, that sorts by it."""
    return Cell(percent(share, digits=digits, sign=sign), tone, share if known(share) else None)


def time_format(times: Iterable[datetime]) -> str:
    """The shortest ISO form that tells these times apart: months, days or minutes."""
    form = "%Y-%m"
    for time in times:
        if time.hour or time.minute or time.second:
            return "%Y-%m-%d %H:%M"
        if time.day != 1:
            form = "%Y-%m-%d"
    return form
