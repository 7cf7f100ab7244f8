"""What the page shows of a prediction type: the parts that depend on what a forecast row holds."""

from __future__ import annotations

from dataclasses import dataclass

from nightcast.reports.plot import Key, Plot
from nightcast.reports.table import Table


@dataclass(frozen=True)
class Picture:
    """A chart with its heading.

    Attributes
    ----------
    name
        Fragment of the page it is found at.
    badge
        A short word beside the title, `fallback`.
    note
        One line under the title.
    """

    name: str
    title: str
    plot: Plot
    badge: str = ""
    note: str = ""


@dataclass(frozen=True)
class Views:
    """Pictures and tables of one prediction type.

    Attributes
    ----------
    forecasts
        One picture a series, the most important series first.
    uncharted
        Series that are in the table alone.
    series
        One row for every promised series.
    changes, changes_words
        What moved since the forecast before.
    first, order
        What the first pictures are called, and by what all are ordered.
    """

    forecasts: tuple[Picture, ...]
    forecast_legend: tuple[Key, ...]
    uncharted: int
    series: Table
    hindcasts: tuple[Picture, ...]
    hindcast_legend: tuple[Key, ...]
    calibration: tuple[Picture, ...]
    calibration_words: tuple[str, ...]
    calibration_table: Table
    changes: Table
    changes_words: tuple[str, ...]
    reading: str
    first: str = "largest series"
    order: str = "by size"


@dataclass(frozen=True)
class Chapter:
    """One section of the page that only some workloads have: what it says, its pictures and its tables.

    Attributes
    ----------
    name
        Fragment of the page it is found at; lower-case words joined by `-`.
    title, short
        Heading, and what it is called in the list of sections (the heading, if it says nothing).
    words
        Sentences under the heading: what is seen, and what to make of it.
    pictures, legend
        Charts side by side, and the key they share.
    tables
        Below the pictures.
    """

    name: str
    title: str
    words: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    legend: tuple[Key, ...] = ()
    tables: tuple[Table, ...] = ()
    short: str = ""
