"""The views of class probabilities: what each symbol's next bars look like, equity, reliability, changed signals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from nightcast.contracts.columns import (
    CLASS_PROBS,
    CLASSES,
    CUTOFF,
    HORIZON,
    ID,
    MODEL_USED,
    SIGNAL,
    TARGET,
    TIME,
)
from nightcast.contracts.errors import ConfigError
from nightcast.reports.charts import newest
from nightcast.reports.plot import Axis, Block, Hint, Key, Line, Mark, Plot, number_axis, seconds_of, time_axis
from nightcast.reports.quantile_views import served_by
from nightcast.reports.table import (
    NOTHING,
    Cell,
    Column,
    Row,
    Table,
    count,
    counted,
    number,
    number_cell,
    percent,
    percent_cell,
    row,
    time_format,
)
from nightcast.reports.views import Picture, Views

if TYPE_CHECKING:
    from nightcast.reports.night import NightReport

CHARTED: Final = 160
BINS: Final = 10
ROLES: Final = ("category-5", "category-7", "category-2")
"""Colours of short, neutral and long."""
WORDS: Final[dict[int, str]] = {-1: "short", 0: "flat", 1: "long"}
LEGEND: Final = tuple(Key(name, role, "block") for name, role in zip(CLASSES, ROLES, strict=True))
EQUITY_LEGEND: Final = (Key("cumulated return of the signals, before costs", "forecast"),)

_READING: Final = (
    "Each column is one horizon in bars: how probable it is that the lower barrier (short), none of the two (neutral) "
    "or the upper barrier (long) is touched first. Below it stands the signal, what the calibrated probabilities ask "
    "for after costs; flat is the normal state."
)


def class_views(report: NightReport) -> Views:
    """Build the views of a night of class probabilities.

    Raises
    ------
    ConfigError
        If the forecast, the out-of-fold rows or the previous forecast lack a probability column.
    """
    for name, frame in (("forecast", report.forecast), ("oof", report.oof), ("previous", report.previous)):
        wanted = (*CLASS_PROBS, SIGNAL)
        missing = [] if frame is None or not frame.height else [c for c in wanted if c not in frame.columns]
        if missing:
            raise ConfigError(
                f"the report's frame {name!r} lacks {', '.join(missing)}",
                expected=f"the columns {', '.join(wanted)}",
                remedy="hand over another `views` function for another prediction type",
            )
    parts = _by_symbol(report.forecast)
    order = sorted(report.promised_series)
    form = time_format(
        time for frame in (report.forecast, report.history) if frame.height for time in frame.get_column(TIME).unique()
    )
    charted = [name for name in order if name in parts][:CHARTED]
    names = {name: f"series-{place}" for place, name in enumerate(charted, start=1)}
    words, changes = _changes(report, form)
    # sums of floats depend on their order: the page must not depend on that of the rows
    scored = report.oof.drop_nulls(TARGET).sort(ID, CUTOFF, HORIZON) if report.oof.height else report.oof
    return Views(
        forecasts=tuple(_bars(name, parts[name], names[name], form) for name in charted),
        forecast_legend=LEGEND,
        uncharted=len(order) - len(charted),
        series=_series_table(report, order, names, parts, scored, form),
        hindcasts=_equity(scored),
        hindcast_legend=EQUITY_LEGEND,
        calibration=_reliability(scored),
        calibration_words=_calibration_words(scored),
        calibration_table=_calibration_table(scored),
        changes=changes,
        changes_words=words,
        reading=_READING,
        first="first symbols by name" if len(charted) > 1 else "symbol",
        order="by name",
    )


def _by_symbol(frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    if not frame.height:
        return {}
    parts = frame.sort(ID, HORIZON).partition_by(ID, as_dict=True, maintain_order=True)
    return {str(key[0]): part for key, part in parts.items()}


def _signals(part: pl.DataFrame) -> str:
    return ", ".join(f"{h}: {WORDS[s]}" for h, s in part.select(HORIZON, SIGNAL).iter_rows())


def _bars(name: str, part: pl.DataFrame, anchor: str, form: str) -> Picture:
    used, reason = served_by(part)
    marks: list[Mark] = []
    horizons = part.get_column(HORIZON).to_list()
    for place, entry in enumerate(part.iter_rows(named=True), start=1):
        base = 0.0
        for column, role in zip(CLASS_PROBS, ROLES, strict=True):
            marks.append(Block(place - 0.4, place + 0.4, base, base + entry[column], role))
            base += entry[column]
        shares = ", ".join(
            f"{label} {percent(entry[column])}" for label, column in zip(CLASSES, CLASS_PROBS, strict=True)
        )
        told = f"{counted(entry[HORIZON], 'bar')}: {shares}; {WORDS[entry[SIGNAL]]}"
        marks.append(Hint(place - 0.5, place + 0.5, told))
    signals = part.get_column(SIGNAL).to_list()
    ticks = tuple(
        (float(place), f"{h}: {WORDS[s]}") for place, (h, s) in enumerate(zip(horizons, signals, strict=True), start=1)
    )
    plot = Plot(
        tuple(marks),
        Axis(0.4, len(horizons) + 0.6, ticks, "bars ahead: signal"),
        Axis(0, 1, tuple((level / 4, f"{level * 25} %") for level in range(5))),
        f"{name}: class probabilities by horizon; signals {_signals(part)}.",
    )
    when = newest(part)
    note = f"after the bar of {when:{form}} · {used}" + (f": {reason}" if reason else "")
    return Picture(anchor, name, plot, "fallback" if reason else "", note)


def _series_table(
    report: NightReport,
    order: Sequence[str],
    names: dict[str, str],
    parts: dict[str, pl.DataFrame],
    scored: pl.DataFrame,
    form: str,
) -> Table:
    horizons = sorted({int(h) for part in parts.values() for h in part.get_column(HORIZON)})
    last: dict[str, tuple[Any, float]] = {}
    if report.history.height:
        final = report.history.sort(ID, TIME).group_by(ID, maintain_order=True).agg(pl.col(TIME, TARGET).last())
        last = {str(name): (time, value) for name, time, value in final.iter_rows()}
    losses: dict[str, tuple[int, float]] = {}
    if scored.height and "loss" in scored.columns:
        table = scored.group_by(ID, maintain_order=True).agg(pl.len().alias("rows"), pl.col("loss").mean())
        losses = {str(name): (rows, loss) for name, rows, loss in table.iter_rows()}
    rows = []
    for name in order:
        time, value = last.get(name, (None, None))
        past = (number_cell(value), Cell(NOTHING if time is None else f"{time:{form}}"))
        n, loss = losses.get(name, (0, None))
        proof = (number_cell(loss), Cell(count(n)))
        title = Cell(name, "strong", name, f"#{names[name]}" if name in names else "")
        if name not in parts:
            served = Cell("not served", "bad", badge="missing")
            rows.append(row(title, served, *past, *(Cell(NOTHING) for _ in range(3 * len(horizons))), *proof, key=name))
            continue
        used, reason = served_by(parts[name])
        at = {int(entry[HORIZON]): entry for entry in parts[name].iter_rows(named=True)}
        ahead = []
        for h in horizons:
            entry = at.get(h)
            ahead += (
                [Cell(NOTHING)] * 3
                if entry is None
                else [percent_cell(entry["p_short"]), percent_cell(entry["p_long"]), Cell(WORDS[entry[SIGNAL]])]
            )
        served = Cell(f"{used}: {reason}" if reason else used, badge="fallback" if reason else "")
        rows.append(row(title, served, *past, *ahead, *proof, key=name, mark="fallback" if reason else ""))
    columns = (
        Column("symbol"),
        Column("served by", meaning="model behind the published rows, and the reason code where it is a fallback"),
        Column("last close", True),
        Column("at"),
        *(
            column
            for h in horizons
            for column in (Column(f"short, {h}", True), Column(f"long, {h}", True), Column(f"signal, {h}"))
        ),
        Column("log loss", True, "out-of-fold log loss of the ensemble, all horizons"),
        Column("rows", True, "out-of-fold decisions behind it"),
    )
    return Table(
        f"All {counted(len(order), 'promised symbol', 'promised symbols')}; probabilities by horizon in bars",
        columns,
        tuple(rows),
        "No promised symbol is known for this night.",
        sortable=True,
        name="series-table",
    )


def _equity(scored: pl.DataFrame) -> tuple[Picture, ...]:
    """Cumulated label returns of the ensemble's signals, one picture a horizon; before costs, mean over symbols."""
    if not scored.height or "ret" not in scored.columns:
        return ()
    pictures = []
    for key, part in sorted(scored.partition_by(HORIZON, as_dict=True).items()):
        h = int(key[0])
        daily = (
            part.group_by(pl.col(TIME).dt.truncate("1d"), maintain_order=True)
            .agg((pl.col(SIGNAL) * pl.col("ret")).sum() / h / pl.col(ID).n_unique())
            .sort(TIME)
        )
        times = tuple(seconds_of(time) for time in daily.get_column(TIME))
        values = tuple(float(v) for v in np.cumsum(daily.get_column(SIGNAL).to_numpy()))
        if not times:
            continue
        taken = int((part.get_column(SIGNAL) != 0).sum())
        plot = Plot(
            (Line((times[0], times[-1]), (0.0, 0.0), "rule", thin=True), Line(times, values, "forecast")),
            time_axis(times[0], times[-1]),
            number_axis(values, include=(0.0,), label="sum of returns", floor_at_zero=False),
            f"Horizon {h}: {count(taken)} signals, cumulated return {percent(values[-1])} before costs.",
            size=(480, 220),
        )
        note = f"{count(taken)} of {counted(part.height, 'decision')} took a position"
        pictures.append(Picture("", f"{counted(h, 'bar')} ahead", plot, note=note))
    return tuple(pictures)


def _bins(scored: pl.DataFrame, column: str, label: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean probability and share of the class in bins of equal mass."""
    p, hit = scored.get_column(column).to_numpy(), (scored.get_column(TARGET).to_numpy() == label)
    order = np.argsort(p, kind="stable")
    groups = [g for g in np.array_split(order, BINS) if len(g)]
    return tuple(float(p[g].mean()) for g in groups), tuple(float(hit[g].mean()) for g in groups)


def _reliability(scored: pl.DataFrame) -> tuple[Picture, ...]:
    if not scored.height:
        return ()
    pictures = []
    ticks = tuple((level / 5, f"{level * 20} %") for level in range(6))
    for key, part in sorted(scored.partition_by(HORIZON, as_dict=True).items()):
        marks: list[Mark] = [Line((0.0, 1.0), (0.0, 1.0), "rule", dash=True, thin=True)]
        for label, (column, role) in enumerate(zip(CLASS_PROBS, ROLES, strict=True)):
            marks.append(Line(*_bins(part, column, label), role, dots=True))
        plot = Plot(
            tuple(marks),
            Axis(0, 1, ticks, "stated probability"),
            Axis(0, 1, ticks, "share that came true"),
            f"Stated probability against what came true {counted(int(key[0]), 'bar')} ahead, in ten groups of equal "
            "size a class.",
            tuple(Key(name, role) for name, role in zip(CLASSES, ROLES, strict=True)),
            size=(480, 270),
        )
        pictures.append(Picture(f"reliability-{key[0]}", f"{counted(int(key[0]), 'bar')} ahead", plot))
    return tuple(pictures)


def _calibration_words(scored: pl.DataFrame) -> tuple[str, ...]:
    if not scored.height:
        return ()
    days = scored.get_column(CUTOFF).dt.truncate("1d").n_unique()
    return (
        f"{counted(scored.height, 'decision')} of {counted(scored.get_column(ID).n_unique(), 'symbol')} on "
        f"{counted(days, 'day')}, each judged with what was known before it. Labels of neighbouring bars overlap, so "
        "the count of independent ones is far smaller.",
    )


def _calibration_table(scored: pl.DataFrame) -> Table:
    rows: list[Row] = []
    if scored.height:
        for key, part in sorted(scored.partition_by(HORIZON, as_dict=True).items()):
            cells = []
            for label, column in enumerate(CLASS_PROBS):
                cells += [
                    percent_cell(float(np.mean(part.get_column(column).to_numpy()))),
                    percent_cell(float(np.mean(part.get_column(TARGET).to_numpy() == label))),
                ]
            rows.append(row(Cell(counted(int(key[0]), "bar"), "strong"), Cell(count(part.height)), *cells))
    columns = (
        Column("horizon"),
        Column("rows", True),
        *(c for name in CLASSES for c in (Column(f"{name}, stated", True), Column(f"{name}, true", True))),
    )
    return Table(
        "Mean stated probability and share of each class, out of fold",
        columns,
        tuple(rows),
        "There are no out-of-fold rows with a known label, so calibration could not be measured.",
    )


def _changes(report: NightReport, form: str) -> tuple[tuple[str, ...], Table]:
    columns = (
        Column("symbol"),
        Column("horizon", True),
        Column("before"),
        Column("now"),
        Column("long minus short, before", True),
        Column("now", True),
        Column("model before"),
        Column("model now"),
    )
    caption = "Signals that changed since the forecast before"
    if report.previous is None:
        return (), Table(caption, columns, (), "There is no earlier published forecast to compare with.")
    if not (report.forecast.height and report.previous.height):
        return (), Table(caption, columns, (), "No forecast was published that could be compared with the one before.")
    keys = [ID, HORIZON]
    lean = pl.col("p_long") - pl.col("p_short")
    before = (
        report.previous.sort(CUTOFF)
        .unique(keys, keep="last", maintain_order=True)
        .select(*keys, pl.col(SIGNAL).alias("then"), lean.alias("lean_then"), pl.col(MODEL_USED).alias("model_then"))
    )
    both = report.forecast.select(*keys, SIGNAL, lean.alias("lean"), MODEL_USED).join(before, on=keys).sort(keys)
    moved = both.filter(pl.col(SIGNAL) != pl.col("then"))
    rows = tuple(
        row(
            Cell(str(entry[ID]), "strong"),
            Cell(str(entry[HORIZON])),
            WORDS[entry["then"]],
            WORDS[entry[SIGNAL]],
            number_cell(entry["lean_then"], sign=True),
            number_cell(entry["lean"], sign=True),
            str(entry["model_then"]),
            str(entry[MODEL_USED]),
        )
        for entry in moved.iter_rows(named=True)
    )
    then, now = (newest(frame, CUTOFF) for frame in (report.previous, report.forecast))
    words = []
    if then is not None and now is not None:
        words.append(
            f"The forecast before was made after the bar of {then:{form}}, this one after that of {now:{form}}."
        )
    if both.height:
        shift = float(np.abs((both["lean"] - both["lean_then"]).to_numpy()).mean())
        words.append(
            f"{count(moved.height)} of {counted(both.height, 'common signal')} changed; long minus short moved by "
            f"{number(shift)} on average."
        )
    return tuple(words), Table(caption, columns, rows, "No signal changed.")
