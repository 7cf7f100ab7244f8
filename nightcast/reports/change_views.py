"""The chapter on why the forecast changed: each series' change as revised data, new months and another model."""

from __future__ import annotations

from typing import Final

import polars as pl

from nightcast.contracts.columns import ID, TIME
from nightcast.reports.plot import Axis, Block, Hint, Key, Mark, Plot, Rule, number_axis
from nightcast.reports.table import Cell, Column, Table, count, counted, number, number_cell, row
from nightcast.reports.views import Chapter, Picture

STEPS: Final = {"revised": "revised data and plans", "new_months": "new months", "model": "the model"}
ROLES: Final = {"revised": "category-3", "new_months": "category-2", "model": "category-1"}
SHOWN: Final = 12
"""Series in the picture."""

_READING: Final = (
    "The model of the forecast before was asked again, on tonight's data: once as of its own cutoff, once as of "
    "tonight's. What differs from the published numbers at the first question is revised data and plans; between the "
    "two questions it is what the new months say; and from there to tonight's forecast it is the model: another fit, "
    "other weights, another calibration. The three add up to the change."
)


def change_chapter(reasons: pl.DataFrame, *, unit: str, missing: str = "") -> Chapter | None:
    """The chapter, or None where there is no forecast before.

    Parameters
    ----------
    reasons
        `unique_id, ds, before, revised, new_months, model, now`, in the target's unit.
    missing
        Why there are no reasons, if there should be some.
    """
    title = "Why the forecast changed"
    if reasons.is_empty():
        return Chapter("why", title, (missing,)) if missing else None
    names = ["before", *STEPS, "now"]
    total = reasons.group_by(TIME).agg(pl.col(names).sum()).select(pl.col(names).mean()).row(0, named=True)
    series = (
        reasons.group_by(ID)
        .agg(pl.len().alias("steps"), pl.col(names).mean())
        .with_columns((pl.col("now") - pl.col("before")).alias("change"))
        .sort(
            pl.max_horizontal(pl.col("change").abs(), *(pl.col(name).abs() for name in STEPS)),
            ID,
            descending=[True, False],
        )
    )
    return Chapter(
        "why",
        title,
        (_words(total, reasons, unit), _READING),
        (
            Picture(
                "why-sum", "The sum of all series", _waterfall(total, unit), note="mean over the months both cover"
            ),
            Picture("why-series", "The largest moves", _moves(series.head(SHOWN), unit), note="one bar a step"),
        ),
        tuple(Key(label, ROLES[name], "block") for name, label in STEPS.items()),
        (_table(series, unit),),
        "Why",
    )


def _words(total: dict[str, float], reasons: pl.DataFrame, unit: str) -> str:
    change = total["now"] - total["before"]
    steps = ", ".join(f"{number(total[name], sign=True)} by {label}" for name, label in STEPS.items())
    months, wells = reasons.get_column(TIME).n_unique(), reasons.get_column(ID).n_unique()
    return (
        f"Over {counted(months, 'step')} and {counted(wells, 'series', 'series')} that both forecasts cover, the sum "
        f"of the medians went from {number(total['before'])} to {number(total['now'])} {unit} "
        f"({number(change, sign=True)}): {steps}."
    )


def _waterfall(total: dict[str, float], unit: str) -> Plot:
    """Two columns and the three steps between them."""
    marks: list[Mark] = []
    level = total["before"]
    places: list[tuple[str, float, float, str, str]] = [("before", level, level, "previous", "")]
    for name, label in STEPS.items():
        places.append((label, level, level + total[name], ROLES[name], number(total[name], sign=True)))
        level += total[name]
    places.append(("now", level, level, "forecast", ""))
    ends = [value for _, start, end, _, _ in places for value in (start, end)]
    spread = max(max(ends) - min(ends), abs(level) * 1e-3, 1e-9)
    low, high = min(ends) - 0.6 * spread, max(ends) + 0.3 * spread
    for place, (label, start, end, role, step) in enumerate(places):
        bottom, top = (low, start) if not step else (min(start, end), max(start, end))
        marks.append(Block(place - 0.35, place + 0.35, bottom, max(top, bottom + 0.006 * (high - low)), role))
        marks.append(Hint(place - 0.5, place + 0.5, f"{label}: {step or number(end)} {unit}"))
    ticks = tuple(enumerate(("before", "revised", "months", "model", "now")))
    return Plot(
        tuple(marks),
        Axis(-0.5, len(places) - 0.5, tuple((float(at), text) for at, text in ticks)),
        number_axis((low, high), label=unit, floor_at_zero=False),
        "From the sum of the forecast before to tonight's: "
        + ", ".join(f"{label} {step or number(end)}" for label, _, end, _, step in places)
        + ". The axis does not start at zero.",
    )


def _moves(series: pl.DataFrame, unit: str) -> Plot:
    """Three bars a series, from zero."""
    marks: list[Mark] = [Rule(0.0, "x")]
    values = [abs(value) for name in STEPS for value in series.get_column(name)]
    reach = max([*values, 1e-9]) * 1.1
    ticks = []
    for place, entry in enumerate(series.reverse().iter_rows(named=True)):
        ticks.append((float(place), str(entry[ID])))
        for slot, name in enumerate(STEPS):
            top = place + 0.36 - 0.24 * slot
            marks.append(Block(min(0.0, entry[name]), max(0.0, entry[name]), top - 0.2, top, ROLES[name]))
    x = number_axis((-reach, reach), label=unit)
    said = "; ".join(
        f"{entry[ID]} {number(entry['change'], sign=True)}" for entry in series.head(5).iter_rows(named=True)
    )
    longest = max((len(text) for _, text in ticks), default=4)
    return Plot(
        tuple(marks),
        x,
        Axis(-0.6, len(ticks) - 0.4, tuple(ticks)),
        f"Change of the mean median by step, {unit}, largest first: {said}.",
        size=(360, max(120, 26 * len(ticks) + 40)),
        left=min(130, max(46, 7 * longest + 8)),
    )


def _table(series: pl.DataFrame, unit: str) -> Table:
    of = f" ({unit})" if unit else ""
    rows = tuple(
        row(
            Cell(str(entry[ID]), "strong"),
            Cell(count(entry["steps"])),
            number_cell(entry["before"]),
            *(number_cell(entry[name], sign=True) for name in STEPS),
            number_cell(entry["now"]),
            number_cell(entry["change"], sign=True),
        )
        for entry in series.iter_rows(named=True)
    )
    columns = (
        Column("series"),
        Column("common steps", True),
        Column(f"before{of}", True, "mean median over the steps both forecasts cover"),
        *(Column(label, True) for label in STEPS.values()),
        Column(f"now{of}", True),
        Column("change", True),
    )
    return Table("Steps of each series' change", columns, rows, "", sortable=True)
