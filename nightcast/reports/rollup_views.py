"""The roll-up to pads and the field as a chapter of the page: what the sum was, and what it is expected to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

import polars as pl

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MEDIAN, MODEL, QUANTILES, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.evaluation.rollup import CUMULATIVE, FIELD, INDUSTRY, KIND, LEVEL, MEAN, NAME, RATE
from nightcast.reports import charts
from nightcast.reports.plot import Hint, Key, Line, Mark, Plot, number_axis, seconds_of
from nightcast.reports.table import (
    NOTHING,
    Cell,
    Column,
    Row,
    Table,
    count,
    counted,
    known,
    number,
    number_cell,
    percent,
    percent_cell,
    row,
    time_format,
)
from nightcast.reports.views import Chapter, Picture

PADS: Final = 8
"""Pads with a picture of their own, the largest ones; the tables name all."""
PAST: Final = 36
"""Steps of the past in a picture."""

ROLLUP_LEGEND: Final = (
    Key("actual sum of the wells forecast", "actual"),
    Key("not all of them report: the others at their last known value", "naive", "dash"),
    Key("P50 of the sum", "forecast"),
    Key("P90 (lower edge) to P10 (upper edge); darker: the central 20, 40 and 60 %", "forecast", "band"),
)

_EXACT: Final = 1e-6
"""Largest relative gap between a mean and the sum of its parts that counts as rounding."""
_NODE: Final = (LEVEL, NAME)


@dataclass(frozen=True)
class _Node:
    """A pad or the field: its wells, its rates by step and its cumulative."""

    level: str
    name: str
    wells: tuple[str, ...]
    rates: pl.DataFrame
    cumulative: dict[str, Any] | None

    @property
    def title(self) -> str:
        return "The field" if self.level == FIELD else self.name


def rollup_chapter(
    sums: pl.DataFrame,
    history: pl.DataFrame,
    *,
    unit: str,
    groups: Mapping[str, str] | None,
    previous: pl.DataFrame | None = None,
    scores: pl.DataFrame | None = None,
) -> Chapter | None:
    """Build the chapter of the sums over pads and the field.

    Parameters
    ----------
    sums
        What `roll_up` returns; of several cutoffs the newest.
    history
        `unique_id, ds, y` of the wells.
    unit
        Unit of the rates, as in `m3/d`; cumulatives are in this unit times days.
    groups
        Well -> pad, as the sums were made with. None: no pads.
    previous
        The forecast published before, `unique_id, ds, q50`, one row per well and step.
    scores
        What `rollup_scores` returns.

    Returns
    -------
    Chapter or None
        None where the sums have no rate of the field.

    Raises
    ------
    ConfigError
        If a column is missing, the wells of the sums are not among them, or a well has no pad though there are pads.
    """
    if not sums.height:
        return None
    _check("sums", sums, (*_NODE, TIME, CUTOFF, HORIZON, KIND, *QUANTILES, MEAN))
    newest = sums.filter(pl.col(CUTOFF) == pl.col(CUTOFF).max())
    if not newest.filter((pl.col(LEVEL) == FIELD) & (pl.col(KIND) == RATE)).height:
        return None
    if history.height:
        _check("history", history, (ID, TIME, TARGET))
    field, pads = _nodes(newest, groups)
    cutoff = newest.get_column(CUTOFF)[0]
    form = time_format([cutoff, *field.rates.get_column(TIME)])
    pasts = _pasts(history, (field, *pads), cutoff)
    before = _before(previous, newest)
    return Chapter(
        name="rollup",
        title="The field and its pads" if pads else "The field",
        words=_words(newest, field, pads, pasts[FIELD, field.name], before, scores, unit, form),
        pictures=tuple(
            Picture("", node.title, _fan(node, pasts[node.level, node.name], unit, form), note=_note(node, unit))
            for node in (field, *pads[:PADS])
        ),
        legend=ROLLUP_LEGEND,
        tables=(
            _rate_table((field, *pads), unit, form),
            _cumulative_table((field, *pads), unit),
            *(() if before is None or not before.height else (_before_table(before, unit, form),)),
            *(() if scores is None or not scores.height else (_score_table(scores, unit),)),
        ),
    )


def _check(name: str, frame: pl.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ConfigError(
            f"the roll-up's frame {name!r} lacks {', '.join(missing)}; it has {', '.join(frame.columns)}",
            expected=f"the columns {', '.join(columns)}",
            remedy="hand over the frame as the night made it",
        )


def _nodes(sums: pl.DataFrame, groups: Mapping[str, str] | None) -> tuple[_Node, tuple[_Node, ...]]:
    """The field, and the pads, largest first by their mean rate."""
    wells = sums.filter(pl.col(LEVEL) == "well").get_column(NAME).unique().sort().to_list()
    if not wells:
        raise ConfigError(
            "the sums have no rows of wells",
            expected="the wells that the field is the sum of, at level 'well'",
            remedy="hand over the whole roll-up, not its upper levels alone",
        )
    parts = {
        (str(key[0]), str(key[1])): part
        for key, part in sums.filter(pl.col(LEVEL) != "well").partition_by(_NODE, as_dict=True).items()
    }
    members: dict[str, list[str]] = {}
    if groups is not None:
        homeless = [name for name in wells if groups.get(name) is None]
        if homeless and any(level == "pad" for level, _ in parts):
            raise ConfigError(
                f"{len(homeless)} of {len(wells)} wells have no pad, first {homeless[0]!r}",
                expected="the groups the sums were made with",
                remedy="hand over the mapping that `roll_up` was given",
            )
        for name in wells:
            members.setdefault(groups.get(name) or "", []).append(name)

    def node(level: str, name: str, its: Sequence[str]) -> _Node:
        part = parts[level, name]
        volumes = part.filter(pl.col(KIND) == CUMULATIVE)
        return _Node(
            level,
            name,
            tuple(its),
            part.filter(pl.col(KIND) == RATE).sort(TIME),
            volumes.row(0, named=True) if volumes.height else None,
        )

    fields = [name for level, name in parts if level == FIELD]
    pads = [node(level, name, members[name]) for level, name in parts if level == "pad" and name in members]
    size = {pad.name: _mean_of(pad.rates, MEAN) for pad in pads}
    return node(FIELD, fields[0], wells), tuple(sorted(pads, key=lambda pad: (-size[pad.name], pad.name)))


def _mean_of(frame: pl.DataFrame, column: str) -> float:
    value = frame.get_column(column).mean()
    return float(value) if isinstance(value, int | float) else 0.0


def _pasts(history: pl.DataFrame, nodes: Sequence[_Node], cutoff: datetime) -> dict[tuple[str, str], pl.DataFrame]:
    """For each node `ds, y, filled, carried, reporting, begun` up to the cutoff.

    `y` is the sum of its wells where all that have begun report, else null; `filled` takes the last known value of
    those that do not, `carried` is what these come to. A well has begun with its first known value: before, it adds
    nothing, and nothing is missing.
    """
    schema: dict[str, Any] = {TIME: pl.Datetime("us"), TARGET: pl.Float64, "filled": pl.Float64, "carried": pl.Float64}
    none = pl.DataFrame(schema=schema | {"reporting": pl.UInt32, "begun": pl.UInt32})
    if not history.height:
        return {(node.level, node.name): none for node in nodes}
    named = pl.DataFrame(
        [(node.level, node.name, well) for node in nodes for well in node.wells],
        schema=dict.fromkeys((*_NODE, ID), pl.String),
        orient="row",
    )
    values = history.select(
        pl.col(ID).cast(pl.String), pl.col(TIME).cast(pl.Datetime("us")), pl.col(TARGET).cast(pl.Float64)
    ).filter((pl.col(TIME) <= cutoff) & pl.col(ID).is_in(named.get_column(ID).implode()))
    times = values.select(pl.col(TIME).unique().sort()).tail(PAST)
    reported = values.filter(pl.col(TARGET).is_finite()).with_columns(pl.col(TIME).alias("_at")).sort(TIME)
    newest = (
        times.join(values.select(pl.col(ID).unique()), how="cross")
        .sort(TIME)
        .join_asof(reported, on=TIME, by=ID, check_sortedness=False)
        .drop_nulls(TARGET)
    )
    whole = pl.col("reporting") == pl.col("begun")
    table = (
        named.join(newest, on=ID)
        .group_by(*_NODE, TIME)
        .agg(
            pl.col(TARGET).sum().alias("filled"),
            pl.col(TARGET).filter(pl.col("_at") < pl.col(TIME)).sum().alias("carried"),
            (pl.col("_at") == pl.col(TIME)).sum().alias("reporting"),
            pl.len().alias("begun"),
        )
        .with_columns(pl.when(whole).then("filled").alias(TARGET))
        .sort(TIME)
    )
    found = table.partition_by(_NODE, as_dict=True, include_key=False, maintain_order=True)
    return {(node.level, node.name): found.get((node.level, node.name), none) for node in nodes}


def _fan(node: _Node, past: pl.DataFrame, unit: str, form: str) -> Plot:
    """Past sums and the fan ahead, its P90, P50 and P10 at the last step written below it."""
    plot = charts.fan(node.title, node.rates, past.select(TIME, TARGET), unit=unit, past=PAST)
    times = tuple(seconds_of(time) for time in node.rates.get_column(TIME))
    gap = min((b - a for a, b in pairwise(times)), default=86_400.0 * 28)
    edges = [Line(times, tuple(node.rates.get_column(q)), "forecast", thin=True) for q in ("q10", "q90")]
    marks: list[Mark] = [mark for mark in plot.marks if not isinstance(mark, Hint)]
    marks += edges if len(times) > 1 else ()
    incomplete = past.filter(pl.col("reporting") < pl.col("begun"))
    if incomplete.height:
        # Below the line of complete sums, which hides it wherever all wells report.
        places = tuple(seconds_of(time) for time in past.get_column(TIME))
        marks.insert(0, Line(places, tuple(past.get_column("filled")), "naive", dash=True, thin=True))
        marks += [
            Line((seconds_of(time),), (total,), "naive", dots=True)
            for time, total in incomplete.select(TIME, "filled").iter_rows()
        ]
    words = [f"{entry[TIME]:{form}}: {_industry(entry)}{_in(unit)}" for entry in node.rates.iter_rows(named=True)]
    if len(times) <= 31:
        marks += [Hint(time - gap / 2, time + gap / 2, text) for time, text in zip(times, words, strict=True)]
    marks += [
        Hint(
            seconds_of(entry[TIME]) - gap / 2,
            seconds_of(entry[TIME]) + gap / 2,
            f"{entry[TIME]:{form}}: {entry['reporting']} of {counted(entry['begun'], 'well')} report; "
            f"{number(entry['filled'])}{_in(unit)} with the last known values of the others",
        )
        for entry in incomplete.iter_rows(named=True)
    ]
    note = f" In {counted(incomplete.height, 'step')} of the past not all wells report." if incomplete.height else ""
    return replace(
        plot,
        marks=tuple(marks),
        x=replace(plot.x, label=words[-1]),
        y=number_axis(charts.reaches(marks), label=unit),
        description=f"{plot.description} {words[-1]}.{note}",
        legend=ROLLUP_LEGEND,
        size=(440, 240),
    )


def _industry(entry: Mapping[str, Any]) -> str:
    """`P90 812 · P50 940 · P10 1,060`."""
    return " · ".join(f"{name} {number(entry[quantile])}" for quantile, name in INDUSTRY.items())


def volume_unit(unit: str) -> str:
    """The unit of a rate per day times days: `m3/d` gives `m3`."""
    for end in ("/d", "/day"):
        if unit.endswith(end):
            return unit.removesuffix(end)
    return f"{unit}·days" if unit else ""


def _in(unit: str) -> str:
    return f" {unit}" if unit else ""


def _note(node: _Node, unit: str) -> str:
    words = counted(len(node.wells), "well")
    if node.cumulative is None:
        return words
    return f"{words}; cumulative {_industry(node.cumulative)}{_in(volume_unit(unit))}"


def _words(
    sums: pl.DataFrame,
    field: _Node,
    pads: Sequence[_Node],
    past: pl.DataFrame,
    before: pl.DataFrame | None,
    scores: pl.DataFrame | None,
    unit: str,
    form: str,
) -> tuple[str, ...]:
    first, last = field.rates.row(0, named=True), field.rates.row(-1, named=True)
    steps = field.rates.height
    words = [
        f"The field is the sum of the {counted(len(field.wells), 'well')} forecast"
        + (f", on {counted(len(pads), 'pad')}" if pads else "")
        + f". Its rate has a P50 of {number(first[MEDIAN])}{_in(unit)} in {first[TIME]:{form}}"
        + (f" and {number(last[MEDIAN])} in {last[TIME]:{form}}" if steps > 1 else "")
        + (
            f"; over {counted(steps, 'step')} that makes {_total(field.cumulative, unit)}." if field.cumulative else "."
        ),
        "P90, P50 and P10 are meant as the industry does: P90 is the value that is exceeded with 90 % probability, the "
        "low case (statistically q10); P50 is the median (q50), and P10 is the high case (q90).",
        _adding_up(sums, field, pads, unit),
        _past_words(past, len(field.wells), form),
        _before_words(before, unit, form),
        _score_words(scores),
    ]
    if len(pads) > PADS:
        words.append(f"The {PADS} largest of {len(pads)} pads have a picture; the tables name all of them.")
    return tuple(word for word in words if word)


def _total(cumulative: Mapping[str, Any], unit: str) -> str:
    names = {name: number(cumulative[quantile]) for quantile, name in INDUSTRY.items()}
    return f"{names['P50']}{_in(volume_unit(unit))} (P50; P90 {names['P90']}, P10 {names['P10']})"


def _adding_up(sums: pl.DataFrame, field: _Node, pads: Sequence[_Node], unit: str) -> str:
    """What adds up and what does not, by the numbers of this very field."""
    gap = max((_gap(sums, level) for level in ("well", *(("pad",) if pads else ()))), default=0.0)
    means = (
        "Means add up exactly, from wells to pads to the field."
        if gap <= _EXACT
        else f"Means should add up exactly, but here they are up to {percent(gap, digits=3)} off: distrust these sums."
    )
    why = "Quantiles do not, because the wells do not all have their low case, or their high one, at the same time"
    if field.cumulative is None:
        return f"{means} {why}."
    volumes = sums.filter((pl.col(LEVEL) == "well") & (pl.col(KIND) == CUMULATIVE))
    if volumes.get_column(NAME).n_unique() != len(field.wells):
        return f"{means} {why}."
    low, high = (number(float(volumes.get_column(q).sum())) for q in ("q10", "q90"))
    return (
        f"{means} {why}: the wells' cumulative P90 add up to {low}{_in(volume_unit(unit))} and their P10 to {high}, "
        f"while the field's own are {number(field.cumulative['q10'])} and {number(field.cumulative['q90'])}."
    )


def _gap(sums: pl.DataFrame, level: str) -> float:
    """Largest relative difference between the field's means and the sums of the means at a lower level."""
    keys = [KIND, TIME]
    parts = sums.filter(pl.col(LEVEL) == level).group_by(keys).agg(pl.col(MEAN).sum().alias("_parts"))
    both = sums.filter(pl.col(LEVEL) == FIELD).join(parts, on=keys)
    off = (pl.col("_parts") - pl.col(MEAN)).abs() / pl.max_horizontal(pl.col(MEAN).abs(), pl.lit(1e-9))
    value = both.select(off.max()).item()
    return 0.0 if value is None else float(value)


def _past_words(past: pl.DataFrame, wells: int, form: str) -> str:
    if not past.height:
        return "No actual of these wells is known, so the pictures show no past."
    own = f"The past is the sum of the same {counted(wells, 'well')}; wells that get no forecast are not in it."
    gaps = past.filter(pl.col("reporting") < pl.col("begun"))
    if not gaps.height:
        return own
    latest = gaps.row(-1, named=True)
    shares = gaps.filter(pl.col("filled") != 0).select((pl.col("carried") / pl.col("filled")).max()).item()
    most = f", which makes up to {percent(shares)} of the sum" if known(shares) else ""
    return (
        f"{own} In {gaps.height} of the {counted(past.height, 'step')} shown not all wells that had begun report, "
        f"last in {latest[TIME]:{form}} ({latest['reporting']} of {latest['begun']}). Such a step is incomplete: the "
        "sum of those that report would look like a drop, so the others count with their last known value "
        f"(dashed){most}."
    )


def _before(previous: pl.DataFrame | None, sums: pl.DataFrame) -> pl.DataFrame | None:
    """Sums of medians of the wells and steps that both forecasts have: `ds, wells, before, now`."""
    if previous is None or not previous.height:
        return None
    _check("previous", previous, (ID, TIME, MEDIAN))
    now = sums.filter((pl.col(LEVEL) == "well") & (pl.col(KIND) == RATE)).select(
        pl.col(NAME).alias(ID), pl.col(TIME).cast(pl.Datetime("us")), pl.col(MEDIAN).alias("now")
    )
    then = previous.select(
        pl.col(ID).cast(pl.String), pl.col(TIME).cast(pl.Datetime("us")), pl.col(MEDIAN).alias("before")
    )
    return (
        now.join(then, on=[ID, TIME])
        .drop_nulls()
        .group_by(TIME)
        .agg(pl.len().alias("wells"), pl.sum("before", "now"))
        .sort(TIME)
    )


def _before_words(before: pl.DataFrame | None, unit: str, form: str) -> str:
    if before is None:
        return ""
    if not before.height:
        return "The forecast before shares no well and step with this one."
    then, now = _mean_of(before, "before"), _mean_of(before, "now")
    change = percent(now / then - 1 if then else None, sign=True)
    span = f"{before[TIME][0]:{form}}" + (f" to {before[TIME][-1]:{form}}" if before.height > 1 else "")
    return (
        f"Over {span}, which the forecast before covered too, the medians of the wells in both add up to {number(now)}"
        f"{_in(unit)} on average; before it was {number(then)} ({change}). Sums of medians are no P50 of the field; "
        "they serve this comparison alone."
    )


def _score_words(scores: pl.DataFrame | None) -> str:
    if scores is None:
        return ""
    _check("scores", scores, (LEVEL, KIND, MODEL, "origins", "rows", "wells", *_SCORES))
    if not scores.height:
        return "There are too few earlier origins to tell how well such sums did."
    found = scores.filter((pl.col(LEVEL) == FIELD) & (pl.col(KIND) == CUMULATIVE))
    ours, naive = (found.filter(pl.col(MODEL) == model) for model in ("forecast", "naive"))
    if not ours.height:
        return ""
    entry = ours.row(0, named=True)
    other = f", the naive by {percent(naive['nmae'][0])} (R {number(entry['ratio'])})" if naive.height else ""
    return (
        f"Made in the same way at {counted(entry['origins'], 'earlier origin')}, the field's cumulative missed by "
        f"{percent(entry['nmae'])}{other}, and {percent(entry['coverage80'], digits=0)} of the outcomes lay between "
        "P90 and P10, where 80 % should. Such origins overlap, so this rests on few independent cases."
    )


_SCORES: Final = ("mae", "nmae", "bias", "coverage80", "width80", "ratio")


def _case_columns(unit: str) -> tuple[Column, ...]:
    shown = f", {unit}" if unit else ""
    return (
        Column(f"P90 (q10){shown}", True, "low case: exceeded with 90 % probability"),
        Column(f"P50 (q50){shown}", True, "median"),
        Column(f"P10 (q90){shown}", True, "high case: exceeded with 10 % probability"),
        Column(f"mean{shown}", True, "adds up exactly from wells to pads to the field"),
    )


def _case_cells(entry: Mapping[str, Any]) -> tuple[Cell, ...]:
    return tuple(number_cell(entry[name], digits=4) for name in (*INDUSTRY, MEAN))


def _rate_table(nodes: Sequence[_Node], unit: str, form: str) -> Table:
    rows: list[Row] = [
        row(
            Cell(node.title, "strong", node.title),
            Cell(f"{entry[TIME]:{form}}"),
            Cell(count(entry[HORIZON]), sort=float(entry[HORIZON])),
            *_case_cells(entry),
        )
        for node in nodes
        for entry in node.rates.iter_rows(named=True)
    ]
    columns = (Column("sum"), Column("at"), Column("step", True), *_case_columns(unit))
    kinds = "the field and its pads, largest first" if len(nodes) > 1 else "the field"
    return Table(f"Rates of {kinds}", columns, tuple(rows), "No sum has a rate.", sortable=True)


def _cumulative_table(nodes: Sequence[_Node], unit: str) -> Table:
    held = [(node, node.cumulative) for node in nodes if node.cumulative is not None]
    whole = next((entry[MEAN] for node, entry in held if node.level == FIELD), None)
    rows = tuple(
        row(
            Cell(node.title, "strong", node.title),
            Cell(count(len(node.wells)), sort=float(len(node.wells))),
            *_case_cells(entry),
            percent_cell(entry[MEAN] / whole if whole else None),
        )
        for node, entry in held
    )
    columns = (
        Column("sum"),
        Column("wells", True),
        *_case_columns(volume_unit(unit)),
        Column("share of the field", True, "of its mean"),
    )
    steps = nodes[0].rates.height
    caption = f"Cumulative over {counted(steps, 'step')}: rate times the calendar days of each"
    return Table(caption, columns, rows, "The sums hold no cumulatives.", sortable=True)


def _before_table(before: pl.DataFrame, unit: str, form: str) -> Table:
    shown = f" ({unit})" if unit else ""
    rows = tuple(
        row(
            Cell(f"{entry[TIME]:{form}}", "strong"),
            Cell(count(entry["wells"])),
            number_cell(entry["before"], digits=4),
            number_cell(entry["now"], digits=4),
            number_cell(entry["now"] - entry["before"], sign=True),
            percent_cell(entry["now"] / entry["before"] - 1 if entry["before"] else None, sign=True),
        )
        for entry in before.iter_rows(named=True)
    )
    columns = (
        Column("at"),
        Column("wells in both", True),
        Column(f"before{shown}", True, "sum of the medians of the forecast published before"),
        Column(f"now{shown}", True, "sum of the medians of this forecast"),
        Column("change", True),
        Column("change, %", True),
    )
    return Table("The field in the forecast before and now: sums of the wells' medians", columns, rows, "")


def _score_table(scores: pl.DataFrame, unit: str) -> Table:
    units = {RATE: unit, CUMULATIVE: volume_unit(unit)}
    rows = tuple(
        row(
            Cell("the field" if entry[LEVEL] == FIELD else "all pads", "strong"),
            entry[KIND],
            entry[MODEL],
            Cell(count(entry["origins"])),
            Cell(count(entry["rows"])),
            number_cell(entry["wells"]),
            Cell(f"{number(entry['mae'])}{_in(units.get(entry[KIND], ''))}" if known(entry["mae"]) else NOTHING),
            percent_cell(entry["nmae"]),
            percent_cell(entry["bias"], sign=True),
            percent_cell(entry["coverage80"], digits=0),
            Cell(
                f"{number(entry['width80'])}{_in(units.get(entry[KIND], ''))}" if known(entry["width80"]) else NOTHING
            ),
            number_cell(entry["ratio"]),
            mark="naive" if entry[MODEL] == "naive" else "",
        )
        for entry in scores.iter_rows(named=True)
    )
    columns = (
        Column("sum"),
        Column("kind"),
        Column("model"),
        Column("origins", True, "earlier origins that were rolled up as their own night would have"),
        Column("rows", True),
        Column("wells", True, "summed at an origin, on average"),
        Column("MAE", True, "mean absolute error of the P50"),
        Column("nMAE", True, "sum of absolute errors over the sum of actuals"),
        Column("bias", True, "forecast less actual over the sum of actuals; + is too high"),
        Column("80 % coverage", True, "share of outcomes between P90 and P10"),
        Column("width of the 80 %", True, "mean of P10 less P90"),
        Column("R", True, "error over the naive's error"),
    )
    return Table("How such sums did at earlier origins", columns, rows, "")
