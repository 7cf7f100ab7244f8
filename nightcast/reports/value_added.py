"""Where a forecast is worth having over the naive one: by well, by regime and by horizon, on identical rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import polars as pl

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MEDIAN, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.evaluation.league import SEGMENT
from nightcast.evaluation.scores import check_columns
from nightcast.reports import charts
from nightcast.reports.plot import Axis, Band, Block, Hint, Key, Line, Mark, Plot, Rule, number_axis, steps_axis
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
)
from nightcast.reports.views import Chapter, Picture

NOMINAL: Final = 0.8
LOW, HIGH = 0.7, 0.9
"""Coverages of the 80 % interval that pass for right."""
WORSE: Final = 1.15
"""A well whose error is so many times the naive's is clearly worse off."""
SHOWN: Final = 24
"""Wells in the picture of gains; the table has all of them."""
NAMED: Final = 6
FEW: Final = 20
"""Below so many rows a coverage is shown with their number and without a tone."""
HIGHEST_RATIO: Final = 2.0
"""Where the picture of ratios ends; a larger one is drawn there, its number stands in its label."""

_KEYS: Final = (ID, CUTOFF, HORIZON, TIME)
_OURS, _NAIVE = "_ours", "_naive"
_EQUAL: Final = 1e-9
"""Smallest share of the naive's error that counts as a difference."""


def value_added(
    ensemble: pl.DataFrame, naive: pl.DataFrame, history: pl.DataFrame, *, unit: str, naive_name: str
) -> Chapter | None:
    """Build the chapter that sets the forecast beside the naive one on the rows both of them have.

    Parameters
    ----------
    ensemble
        Out-of-fold rows `unique_id, ds, cutoff, horizon, q10 .. q90, y, segment`; the segment is the regime the series
        was in at the cutoff.
    naive
        Out-of-fold rows of the best naive, `unique_id, ds, cutoff, horizon, q50` at least.
    history
        `unique_id, ds, y`: the level of each series, and which series could not be compared.
    unit
        Unit of `y`, as in `m3/d`.
    naive_name
        What the naive is called on the page.

    Returns
    -------
    Chapter or None
        None where no row with a known actual is common to both.

    Raises
    ------
    ConfigError
        If a column is missing, or a frame has several rows for one series, cutoff and step.
    """
    rows = _common(ensemble, naive)
    if not rows.height:
        return None
    total = float(rows.get_column(_NAIVE).sum())
    whole = _measured(rows, [], total).row(0, named=True)
    wells = _wells(rows, total)
    regimes = _regimes(rows, total)
    whole["worse"] = wells.filter(_is_worse()).height
    steps = _measured(rows, [HORIZON], total).sort(HORIZON)
    cells = _measured(rows, [SEGMENT, HORIZON], total)
    levels = charts.levels_of(history) if history.height else {}
    return Chapter(
        name="value-added",
        title="Where it beats the naive",
        words=_words(rows, whole, wells, regimes, steps, set(levels), unit, naive_name),
        pictures=(
            Picture(
                "",
                "Gain per well",
                _gains(wells, unit),
                note="mean absolute error of the naive less that of this forecast; right of the line is better",
            ),
            Picture("", "Error by horizon", _horizon_errors(steps, unit, naive_name), note="mean absolute error"),
            Picture(
                "",
                "Error by regime, relative to the naive's",
                _regime_ratios(whole, regimes),
                note="regime at the origin; left of the line is better",
            ),
            Picture(
                "",
                "Coverage of the 80 % interval by regime",
                _regime_coverages(whole, regimes),
                note="share of actuals between q10 and q90; 80 % is nominal, 70 to 90 % is shaded",
            ),
        ),
        legend=(
            Key("this forecast is better", "forecast", "block"),
            Key("the naive is better", "fallback", "block"),
            Key("this forecast", "forecast"),
            Key(f"naive ({naive_name})", "naive", "dash"),
            Key("nothing gained; nominal coverage", "rule", "dash"),
        ),
        tables=(_well_table(wells, levels, unit), _regime_table(whole, regimes, unit), _matrix(whole, regimes, cells)),
    )


def _common(ensemble: pl.DataFrame, naive: pl.DataFrame) -> pl.DataFrame:
    """Rows that both forecast and whose actual is known, with both absolute errors."""
    if not ensemble.height or not naive.height:
        return pl.DataFrame()
    check_columns(ensemble, (*_KEYS, "q10", MEDIAN, "q90", TARGET, SEGMENT), what="the ensemble's out-of-fold rows")
    check_columns(naive, (*_KEYS, MEDIAN), what="the naive's out-of-fold rows")
    typed = [pl.col(TIME, CUTOFF).cast(pl.Datetime("us")), pl.col(HORIZON).cast(pl.Int32)]
    finite = [pl.col(name).cast(pl.Float64).is_finite().fill_null(False) for name in (MEDIAN, TARGET)]
    ours = ensemble.with_columns(typed).filter(finite)
    theirs = naive.with_columns(typed).filter(finite[0]).select(*_KEYS, pl.col(MEDIAN).alias(_NAIVE))
    for frame, name in ((ours, "ensemble"), (theirs, "naive")):
        twice = frame.filter(frame.select(_KEYS).is_duplicated())
        if twice.height:
            raise ConfigError(
                f"{twice.height} out-of-fold rows of the {name} share series, cutoff and step, first {twice[ID][0]!r}",
                expected="one row per `unique_id, cutoff, horizon, ds`",
                remedy="pass the rows of one model",
            )
    return ours.join(theirs, on=list(_KEYS)).with_columns(
        (pl.col(MEDIAN) - pl.col(TARGET)).abs().alias(_OURS),
        (pl.col(_NAIVE) - pl.col(TARGET)).abs().alias(_NAIVE),
        pl.col(SEGMENT).cast(pl.String).fill_null("not known").str.replace_all("_", "-"),
    )


def _measured(rows: pl.DataFrame, by: Sequence[str], total: float) -> pl.DataFrame:
    """Both errors of each group, side by side; `total` is the naive's absolute error over all rows."""
    measures = (
        pl.len().cast(pl.Int64).alias("rows"),
        pl.col(ID).n_unique().alias("wells"),
        pl.col(CUTOFF).n_unique().alias("origins"),
        pl.col(_OURS).mean().alias("ours"),
        pl.col(_NAIVE).mean().alias("naive"),
        (pl.col(_NAIVE) - pl.col(_OURS)).sum().alias("saved"),
        pl.col(TARGET).is_between(pl.col("q10"), pl.col("q90")).mean().alias("coverage"),
        ((pl.col(MEDIAN) - pl.col(TARGET)).sum() / pl.col(TARGET).abs().sum()).alias("bias"),
    )
    table = rows.group_by(by).agg(measures) if by else rows.select(measures)
    gain = pl.col("naive") - pl.col("ours")
    return table.with_columns(
        pl.when(gain.abs() > _EQUAL * pl.col("naive")).then(gain).otherwise(0.0).alias("gain"),
        pl.when(pl.col("naive") > 0)
        .then(pl.col("ours") / pl.col("naive"))
        .when(pl.col("ours") == 0)
        .then(1.0)
        .alias("ratio"),
        (pl.col("saved") / total if total > 0 else pl.lit(None, dtype=pl.Float64)).alias("share"),
        pl.when(pl.col("bias").is_finite()).then("bias"),
    )


def _wells(rows: pl.DataFrame, total: float) -> pl.DataFrame:
    """Every well's scores, the number of origins it won and of origins that do not overlap; largest gain first."""
    origins = rows.group_by(ID, CUTOFF).agg(pl.col(TIME).max().alias("end"), pl.sum(_OURS, _NAIVE))
    won = origins.group_by(ID).agg((pl.col(_OURS) < pl.col(_NAIVE)).sum().cast(pl.Int64).alias("won"))
    spans: dict[str, list[tuple[datetime, datetime]]] = {}
    for name, cutoff, end in origins.select(ID, CUTOFF, "end").iter_rows():
        spans.setdefault(str(name), []).append((cutoff, end))
    apart = pl.DataFrame(
        {ID: list(spans), "apart": [separate(its) for its in spans.values()]},
        schema={ID: pl.String, "apart": pl.Int64},
    )
    return (
        _measured(rows, [ID], total)
        .with_columns(pl.col(ID).cast(pl.String))
        .join(won.with_columns(pl.col(ID).cast(pl.String)), on=ID)
        .join(apart, on=ID)
        .sort("gain", ID, descending=[True, False])
    )


def _regimes(rows: pl.DataFrame, total: float) -> pl.DataFrame:
    """Every regime's scores and how many of its wells are clearly worse off; most rows first."""
    each = _measured(rows, [SEGMENT, ID], total)
    worse = each.group_by(SEGMENT).agg(_is_worse().sum().cast(pl.Int64).alias("worse"))
    table = _measured(rows, [SEGMENT], total).join(worse, on=SEGMENT)
    return table.sort("rows", SEGMENT, descending=[True, False])


def _is_worse() -> pl.Expr:
    """Without an error of the naive any error is worse."""
    return (pl.col("ratio") > WORSE).fill_null(True)


def separate(spans: Iterable[tuple[datetime, datetime]]) -> int:
    """Count how many origins, at most, have horizons that share no step.

    Parameters
    ----------
    spans
        Cutoff and last step of each origin; steps begin after the cutoff.
    """
    chosen, free_from = 0, None
    for cutoff, end in sorted(spans, key=lambda span: (span[1], span[0])):
        if free_from is None or cutoff >= free_from:
            chosen, free_from = chosen + 1, end
    return chosen


def _words(
    rows: pl.DataFrame,
    whole: dict[str, Any],
    wells: pl.DataFrame,
    regimes: pl.DataFrame,
    steps: pl.DataFrame,
    levels: set[str],
    unit: str,
    naive_name: str,
) -> tuple[str, ...]:
    in_unit = f" {unit}" if unit else ""
    better, worse = wells.filter(pl.col("gain") > 0), wells.filter(pl.col("gain") < 0)
    equal = wells.height - better.height - worse.height
    words = [
        f"On the same {counted(whole['rows'], 'out-of-fold row')} of {counted(wells.height, 'well')} the naive "
        f"({naive_name}) misses by {number(whole['naive'])}{in_unit} on average and this forecast by "
        f"{number(whole['ours'])}: R = {number(whole['ratio'])}. {_sum_saved(whole, in_unit)}",
        f"Of {counted(wells.height, 'well')}, this forecast is better in {better.height} and the naive in "
        f"{worse.height}{f'; in {equal} they are equal' if equal else ''}. "
        f"{_clearly_worse(whole['worse'], wells.height)}",
    ]
    if better.height:
        words.append(f"Gain most: {_named(better.head(NAMED), better.height, in_unit)}.")
    words.append(
        f"The naive is better in: {_named(worse.reverse().head(NAMED), worse.height, in_unit)}."
        if worse.height
        else "In no well the naive is better."
    )
    words += [_where(regimes, steps), _uneven(regimes)]
    absent = sorted(levels - set(wells.get_column(ID)))
    if absent:
        more = f" and {len(absent) - NAMED} more" if len(absent) > NAMED else ""
        words.append(
            f"{counted(len(absent), 'series', 'series')} with a history had no common row to compare on: "
            f"{', '.join(absent[:NAMED])}{more}."
        )
    words.append(_caution(whole["origins"], separate(rows.group_by(CUTOFF).agg(pl.col(TIME).max()).rows())))
    return tuple(word for word in words if word)


def _sum_saved(whole: dict[str, Any], in_unit: str) -> str:
    if whole["share"] is None:
        return "The naive makes no error on these rows, so there is nothing to save."
    verdict = "saves" if whole["share"] >= 0 else "adds"
    return (
        f"It {verdict} {percent(abs(whole['share']))} of the naive's absolute error: {number(abs(whole['saved']))} of "
        f"{number(whole['naive'] * whole['rows'])}{in_unit}, added up over the rows."
    )


def _caution(origins: int, apart: int) -> str:
    if apart == origins:
        return (
            f"Read with care: the {counted(origins, 'origin')} do not overlap, but a well's R rests on no more cases "
            "than these and may be chance; the number of origins won tells how steady it is."
        )
    return (
        f"Read with care: the {counted(origins, 'origin')} overlap. At most {apart} of them have horizons that share "
        f"no step, so a well's R rests on about {counted(apart, 'independent case')} and may be chance; the number of "
        "origins won tells how steady it is."
    )


def _clearly_worse(worse: int, wells: int) -> str:
    if not worse:
        return f"In none is the error more than {number(WORSE)} times the naive's."
    return f"In {worse} ({percent(worse / wells)}) the error is more than {number(WORSE)} times the naive's."


def _named(wells: pl.DataFrame, of: int, in_unit: str) -> str:
    names = ", ".join(
        f"{entry[ID]} ({number(entry['gain'], sign=True)}{in_unit}, R {number(entry['ratio'])})"
        for entry in wells.iter_rows(named=True)
    )
    return names + (f" and {of - wells.height} more" if of > wells.height else "")


def _where(regimes: pl.DataFrame, steps: pl.DataFrame) -> str:
    ranked = regimes.filter(pl.col("rows") >= FEW).drop_nulls("ratio").sort("ratio", SEGMENT)
    ranges = steps.drop_nulls("ratio")
    words = []
    if ranked.height > 1:
        most, least = (
            f"{entry[SEGMENT]} (R {number(entry['ratio'])}, {counted(entry['rows'], 'row')})"
            for entry in (ranked.row(0, named=True), ranked.row(-1, named=True))
        )
        words.append(f"By regime R is lowest in {most} and highest in {least}.")
    if ranges.height > 1:
        first, last = (
            f"{number(entry['ratio'])} at step {entry[HORIZON]}"
            for entry in (ranges.row(0, named=True), ranges.row(-1, named=True))
        )
        words.append(f"By horizon R is {first} and {last}.")
    return " ".join(words)


def _uneven(regimes: pl.DataFrame) -> str:
    enough = regimes.filter(pl.col("rows") >= FEW)
    outside = enough.filter(~_is_right())
    if not outside.height:
        return ""
    names = ", ".join(
        f"{name} {percent(share, digits=0)}" for name, share in outside.select(SEGMENT, "coverage").rows()
    )
    return (
        f"The 80 % interval holds less than {percent(LOW, digits=0)} or more than {percent(HIGH, digits=0)} of the "
        f"actuals in: {names}."
    )


def _is_right() -> pl.Expr:
    return pl.col("coverage").is_between(LOW, HIGH)


def _gains(wells: pl.DataFrame, unit: str) -> Plot:
    shown = _extremes(wells)
    left_out = wells.height - shown.height
    top = shown.height
    marks: list[Mark] = []
    ticks = []
    for place, (name, gain) in enumerate(shown.select(ID, "gain").iter_rows()):
        y = float(top - place)
        role = "forecast" if gain >= 0 else "fallback"
        marks.append(Block(min(gain, 0.0), max(gain, 0.0), y - 0.36, y + 0.36, role))
        ticks.append((y, f"{charts.shortened(str(name), 16)} {number(gain, sign=True)}"))
    marks.append(Rule(0.0, "x"))
    words = "; ".join(f"{name} {number(gain, sign=True)}" for name, gain in shown.select(ID, "gain").iter_rows())
    middle = f", {left_out} wells between them left out" if left_out else ""
    label = f"gain{f', {unit}' if unit else ''}"
    if left_out:
        label += f" ({left_out} wells in between are in the table)"
    return Plot(
        tuple(marks),
        number_axis(shown.get_column("gain"), include=(0.0,), label=label, floor_at_zero=False),
        Axis(0.4, top + 0.6, tuple(ticks)),
        f"Gain per well over the naive{middle}: {words}.",
        (Key("this forecast is better", "forecast", "block"), Key("the naive is better", "fallback", "block")),
        size=(440, 56 + 14 * max(top, 4)),
        left=_margin(label for _, label in ticks),
    )


def _extremes(wells: pl.DataFrame) -> pl.DataFrame:
    """All wells, or the largest gains and losses where there are too many; never more gains than losses leave room."""
    if wells.height <= SHOWN:
        return wells
    losses = wells.filter(pl.col("gain") < 0).height
    gains = wells.height - losses
    most = max(SHOWN // 2, SHOWN - losses)
    low = min(SHOWN - min(gains, most), losses)
    return pl.concat([wells.head(SHOWN - low), wells.tail(low)])


def _margin(labels: Iterable[str]) -> int:
    return 14 + round(5.4 * max((len(label) for label in labels), default=4))


def _with_all(whole: dict[str, Any], regimes: pl.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    return [("all", whole), *((str(entry[SEGMENT]), entry) for entry in regimes.iter_rows(named=True))]


def _regime_ratios(whole: dict[str, Any], regimes: pl.DataFrame) -> Plot:
    entries = _with_all(whole, regimes)
    top = len(entries)
    marks: list[Mark] = [Rule(1.0, "x")]
    ticks, drawn = [], []
    label = "R = error / error of the naive"
    for place, (name, entry) in enumerate(entries):
        y, ratio = float(top - place), entry["ratio"]
        ticks.append((y, f"{charts.shortened(name, 14)}, {counted(entry['rows'], 'row')}: {number(ratio)}"))
        if not known(ratio):
            continue
        at = min(ratio, HIGHEST_RATIO)
        if ratio > at:
            label = f"R = error / error of the naive (bars end at {number(HIGHEST_RATIO)})"
        drawn.append(at)
        marks.append(Block(min(at, 1.0), max(at, 1.0), y - 0.3, y + 0.3, "forecast" if ratio <= 1 else "fallback"))
    words = "; ".join(f"{name} {number(entry['ratio'])} ({counted(entry['rows'], 'row')})" for name, entry in entries)
    return Plot(
        tuple(marks),
        number_axis(drawn, include=(0.9, 1.0, 1.1), label=label, floor_at_zero=False),
        Axis(0.4, top + 0.6, tuple(ticks)),
        f"R by regime: {words}.",
        (Key("this forecast is better", "forecast", "block"), Key("the naive is better", "fallback", "block")),
        size=(440, 56 + 22 * max(top, 4)),
        left=_margin(label for _, label in ticks),
    )


def _regime_coverages(whole: dict[str, Any], regimes: pl.DataFrame) -> Plot:
    entries = _with_all(whole, regimes)
    top = len(entries)
    marks: list[Mark] = [Band((LOW, HIGH), (0.4, 0.4), (top + 0.6, top + 0.6), "rule"), Rule(NOMINAL, "x")]
    ticks = []
    for place, (name, entry) in enumerate(entries):
        y, share = float(top - place), entry["coverage"]
        marks += [
            Line((NOMINAL, share), (y, y), "forecast", thin=True),
            Line((share,), (y,), "forecast", dots=True),
        ]
        ticks.append((y, f"{charts.shortened(name, 14)}, {counted(entry['rows'], 'row')}: {percent(share, digits=0)}"))
    words = "; ".join(f"{name} {percent(entry['coverage'])}" for name, entry in entries)
    return Plot(
        tuple(marks),
        Axis(-0.01, 1.01, tuple((fifth / 5, f"{fifth * 20} %") for fifth in range(6)), "actuals inside the 80 %"),
        Axis(0.4, top + 0.6, tuple(ticks)),
        f"Coverage of the 80 % interval by regime: {words}.",
        (Key("this forecast", "forecast", "dot"), Key("nominal", "rule", "dash")),
        size=(440, 56 + 22 * max(top, 4)),
        left=_margin(label for _, label in ticks),
    )


def _horizon_errors(steps: pl.DataFrame, unit: str, naive_name: str) -> Plot:
    places = [int(step) for step in steps.get_column(HORIZON)]
    in_unit = f" {unit}" if unit else ""
    marks: list[Mark] = [
        Line(tuple(map(float, places)), tuple(steps.get_column("naive")), "naive", dash=True, dots=True),
        Line(tuple(map(float, places)), tuple(steps.get_column("ours")), "forecast", dots=True),
    ]
    words = [
        f"step {entry[HORIZON]}: {number(entry['ours'])} against {number(entry['naive'])}{in_unit} of the naive, "
        f"R {number(entry['ratio'])}, {counted(entry['rows'], 'row')}"
        for entry in steps.iter_rows(named=True)
    ]
    if len(places) <= 31:
        marks += [Hint(step - 0.5, step + 0.5, text) for step, text in zip(places, words, strict=True)]
    return Plot(
        tuple(marks),
        steps_axis(places, label="steps ahead"),
        number_axis([*steps.get_column("ours"), *steps.get_column("naive")], label=unit),
        f"Mean absolute error by horizon; {'; '.join(words)}.",
        (Key("this forecast", "forecast"), Key(f"naive ({naive_name})", "naive", "dash")),
        size=(440, 300),
    )


def _ratio_cell(ratio: float | None) -> Cell:
    tone = "" if ratio is None or ratio == 1 else ("good" if ratio < 1 else "bad")
    return number_cell(ratio, tone=tone)


def _well_table(wells: pl.DataFrame, levels: dict[str, float], unit: str) -> Table:
    in_unit = f" ({unit})" if unit else ""
    rows = tuple(
        row(
            Cell(entry[ID], "strong", entry[ID]),
            _ratio_cell(entry["ratio"]),
            number_cell(entry["gain"], sign=True),
            percent_cell(entry["share"], digits=2, sign=True),
            number_cell(entry["ours"]),
            number_cell(entry["naive"]),
            number_cell(levels.get(entry[ID])),
            Cell(count(entry["rows"]), sort=float(entry["rows"])),
            Cell(f"{entry['won']} of {entry['origins']}", sort=entry["won"] / entry["origins"]),
            Cell(count(entry["apart"]), sort=float(entry["apart"])),
            percent_cell(entry["coverage"], digits=0),
            percent_cell(entry["bias"], sign=True),
            key=entry[ID],
        )
        for entry in wells.iter_rows(named=True)
    )
    columns = (
        Column("well"),
        Column("R", True, "error over the naive's error; below 1 this forecast is better"),
        Column(f"gain{in_unit}", True, "the naive's MAE less this forecast's"),
        Column(
            "share saved", True, "absolute error saved here, as a share of the naive's over all wells; shares add up"
        ),
        Column(f"MAE{in_unit}", True, "mean absolute error of this forecast's median"),
        Column(f"naive's MAE{in_unit}", True, "mean absolute error of the naive on the same rows"),
        Column(f"recent mean{in_unit}", True, "mean of the last 12 known values"),
        Column("rows", True),
        Column("origins won", True, "origins at which this forecast's error over the horizon is the smaller one"),
        Column("not overlapping", True, "how many of these origins, at most, have horizons that share no step"),
        Column("80 % coverage", True, "share of actuals between q10 and q90"),
        Column("bias", True, "sum of forecast less actual over the sum of actuals; + is too high"),
    )
    return Table(
        "Gain over the naive per well, largest first", columns, rows, "No well could be compared.", sortable=True
    )


def _regime_table(whole: dict[str, Any], regimes: pl.DataFrame, unit: str) -> Table:
    in_unit = f" ({unit})" if unit else ""
    rows = tuple(
        row(
            Cell(name, "strong"),
            _ratio_cell(entry["ratio"]),
            _coverage_cell(entry),
            Cell(count(entry["rows"])),
            Cell(count(entry["wells"])),
            Cell(count(entry["origins"])),
            number_cell(entry["ours"]),
            number_cell(entry["naive"]),
            percent_cell(entry["share"], sign=True),
            percent_cell(entry["bias"], sign=True),
            Cell(count(entry["worse"])),
        )
        for name, entry in _with_all(whole, regimes)
    )
    columns = (
        Column("regime", meaning="state of the well at the origin, from what was known there"),
        Column("R", True, "error over the naive's error; below 1 this forecast is better"),
        Column("80 % coverage", True, "share of actuals between q10 and q90"),
        Column("rows", True),
        Column("wells", True),
        Column("origins", True),
        Column(f"MAE{in_unit}", True),
        Column(f"naive's MAE{in_unit}", True),
        Column("share saved", True, "absolute error saved here, as a share of the naive's over all rows"),
        Column("bias", True, "sum of forecast less actual over the sum of actuals; + is too high"),
        Column(f"wells with R > {number(WORSE)}", True, "on their rows of this regime"),
    )
    return Table("By the regime a well was in at the origin", columns, rows, "No regime is known.")


def _coverage_cell(entry: dict[str, Any] | None) -> Cell:
    """A coverage; of few rows it says of how many, and has no tone, since it could hardly be inside."""
    if entry is None:
        return Cell(NOTHING)
    share, rows = entry["coverage"], entry["rows"]
    if rows < FEW:
        return Cell(f"{percent(share, digits=0)} of {rows}", sort=share)
    return percent_cell(share, digits=0, tone="" if LOW <= share <= HIGH else "bad")


def _matrix(whole: dict[str, Any], regimes: pl.DataFrame, cells: pl.DataFrame) -> Table:
    steps = sorted({int(step) for step in cells.get_column(HORIZON)})
    found: dict[tuple[str, int], dict[str, Any]] = {
        (str(entry[SEGMENT]), int(entry[HORIZON])): entry for entry in cells.iter_rows(named=True)
    }
    rows: list[Row] = [
        row(
            Cell(str(entry[SEGMENT]), "strong"),
            *(_coverage_cell(found.get((str(entry[SEGMENT]), step))) for step in steps),
            _coverage_cell(entry),
        )
        for entry in regimes.iter_rows(named=True)
    ]
    columns = (Column("regime"), *(Column(f"step {step}", True) for step in steps), Column("all steps", True))
    return Table(
        f"Coverage of the 80 % interval by regime and step; coloured and bold outside {percent(LOW, digits=0)} to "
        f"{percent(HIGH, digits=0)}, with the number of rows where they are fewer than {FEW}",
        columns,
        tuple(rows),
        "No regime is known.",
    )
