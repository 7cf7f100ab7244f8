"""The views of quantile forecasts: fans, hindcasts, coverage, and what moved."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from nightcast.contracts.columns import (
    CUTOFF,
    FALLBACK_REASON,
    HORIZON,
    ID,
    MEDIAN,
    MODEL_USED,
    QUANTILES,
    TARGET,
    TIME,
)
from nightcast.contracts.errors import ConfigError
from nightcast.reports import charts
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
"""Most series with a picture of their own; the table names all of them."""
HINDCASTS: Final = 6
CHANGES: Final = 20

_READING: Final = (
    "q10 lies below the actual with 90 % probability and q90 above it with 90 %. Where quantities are stated by "
    "their probability of exceedance, q10 is called P90 (the low case) and q90 is called P10 (the high case). "
    "Quantiles of different series or steps do not add up to the quantile of their sum."
)


def quantile_views(report: NightReport) -> Views:
    """Build the views of a night of quantile forecasts.

    Raises
    ------
    ConfigError
        If the forecast, the out-of-fold rows or the previous forecast lack a quantile column.
    """
    for name, frame in (("forecast", report.forecast), ("oof", report.oof), ("previous", report.previous)):
        missing = [] if frame is None or not frame.height else [q for q in QUANTILES if q not in frame.columns]
        if missing:
            raise ConfigError(
                f"the report's frame {name!r} lacks {', '.join(missing)}",
                expected=f"the quantile columns {QUANTILES[0]} to {QUANTILES[-1]}",
                remedy="hand over another `views` function for another prediction type",
            )
    levels = charts.levels_of(report.history) if report.history.height else {}
    order = sorted(report.promised_series, key=lambda name: (name not in levels, -levels.get(name, 0.0), name))
    forecasts = _by_series(report.forecast, CUTOFF, HORIZON)
    form = time_format(
        time for frame in (report.forecast, report.history) if frame.height for time in frame.get_column(TIME).unique()
    )
    charted = [name for name in order if name in forecasts][:CHARTED]
    names = {name: f"series-{place}" for place, name in enumerate(charted, start=1)}
    words, changes = _changes(report, form)
    shares, coverages = _calibration(report)
    return Views(
        forecasts=_fans(report, charted, names, forecasts, levels),
        forecast_legend=charts.FAN_LEGEND if report.previous is not None else charts.FAN_LEGEND[:-1],
        uncharted=len(order) - len(charted),
        series=_series_table(report, order, names, forecasts, levels, form),
        hindcasts=_hindcasts(report, order),
        hindcast_legend=charts.HINDCAST_LEGEND,
        calibration=()
        if shares is None or coverages is None
        else (
            Picture("reliability", "Each quantile level", charts.reliability(shares)),
            Picture("coverage", "Central intervals by horizon", charts.coverage_by_horizon(coverages)),
        ),
        calibration_words=_calibration_words(report, coverages),
        calibration_table=_calibration_table(report, coverages),
        changes=changes,
        changes_words=words,
        reading=_READING,
    )


def _by_series(frame: pl.DataFrame, *sort: str) -> dict[str, pl.DataFrame]:
    if not frame.height:
        return {}
    parts = frame.sort(ID, *sort).partition_by(ID, as_dict=True, maintain_order=True)
    return {str(key[0]): part for key, part in parts.items()}


def _fans(
    report: NightReport,
    charted: Sequence[str],
    names: dict[str, str],
    forecasts: dict[str, pl.DataFrame],
    levels: dict[str, float],
) -> tuple[Picture, ...]:
    histories = _by_series(report.history, TIME)
    previous = {} if report.previous is None else _by_series(report.previous, TIME)
    none = pl.DataFrame(schema={TIME: pl.Datetime("us"), TARGET: pl.Float64})
    pictures = []
    past = max(24, 3 * report.horizon)
    for name in charted:
        forecast = forecasts[name]
        used, reason = served_by(forecast)
        plot = charts.fan(
            name,
            forecast,
            histories.get(name, none),
            unit=report.unit,
            previous=previous.get(name),
            fallback=bool(reason),
            past=past,
        )
        level = f"recent mean {number(levels[name])} {report.unit}" if name in levels else "no known actuals"
        note = f"{level} · {used}" + (f" because of {reason}" if reason else "")
        pictures.append(Picture(names[name], name, plot, "fallback" if reason else "", note))
    return tuple(pictures)


def served_by(forecast: pl.DataFrame) -> tuple[str, str]:
    """The model(s) behind one series' rows and the fallback reason(s), empty if none."""
    used = [str(name) for name in forecast.get_column(MODEL_USED).unique(maintain_order=True).drop_nulls()]
    reasons = [str(name) for name in forecast.get_column(FALLBACK_REASON).unique(maintain_order=True).drop_nulls()]
    return ", ".join(used) or "model not recorded", ", ".join(reason for reason in reasons if reason)


def _series_table(
    report: NightReport,
    order: Sequence[str],
    names: dict[str, str],
    forecasts: dict[str, pl.DataFrame],
    levels: dict[str, float],
    form: str,
) -> Table:
    last: dict[str, tuple[datetime, float]] = {}
    if report.history.height:
        known = report.history.drop_nulls(TARGET).sort(ID, TIME)
        newest = known.group_by(ID, maintain_order=True).agg(pl.col(TIME).last(), pl.col(TARGET).last())
        last = {str(name): (time, value) for name, time, value in newest.iter_rows()}
    scores = _scores(report.oof)
    rows = []
    for name in order:
        score = scores.get(name, {})
        title = Cell(name, "strong", name, f"#{names[name]}" if name in names else "")
        past = (number_cell(levels.get(name)), *_last_cells(last.get(name), form))
        proof = (
            number_cell(score.get("mae")),
            percent_cell(score.get("bias"), sign=True),
            percent_cell(score.get("inside"), digits=0),
        )
        if name not in forecasts:
            served = Cell("not served", "bad", badge="missing")
            rows.append(row(title, served, *past, *(Cell(NOTHING) for _ in range(6)), *proof, key=name, mark="missing"))
            continue
        forecast = forecasts[name]
        used, reason = served_by(forecast)
        ahead = [number_cell(forecast[place, q]) for place in (0, -1) for q in ("q10", MEDIAN, "q90")]
        served = Cell(f"{used}: {reason}" if reason else used, badge="fallback" if reason else "")
        rows.append(row(title, served, *past, *ahead, *proof, key=name, mark="fallback" if reason else ""))
    unit = f" ({report.unit})" if report.unit else ""
    columns = (
        Column("series"),
        Column("served by", meaning="model behind the published rows, and the reason code where it is a fallback"),
        Column("recent mean", True, "mean of the last 12 known values"),
        Column("last actual", True),
        Column("at"),
        *(Column(f"{q}, step 1", True) for q in ("q10", "q50", "q90")),
        *(Column(f"{q}, last step", True) for q in ("q10", "q50", "q90")),
        Column("MAE", True, "out-of-fold mean absolute error of the ensemble's median"),
        Column("bias", True, "out-of-fold mean of forecast minus actual, as a share of the mean actual; + is too high"),
        Column("80 % coverage", True, "share of out-of-fold actuals between q10 and q90"),
    )
    return Table(
        f"All {counted(len(order), 'promised series', 'promised series')}{unit}, largest first",
        columns,
        tuple(rows),
        "No promised series is known for this night.",
        sortable=True,
        name="series-table",
    )


def _last_cells(last: tuple[datetime, float] | None, form: str) -> tuple[Cell, Cell]:
    if last is None:
        return Cell(NOTHING), Cell(NOTHING)
    return number_cell(last[1]), Cell(f"{last[0]:{form}}")


def _scores(oof: pl.DataFrame) -> dict[str, dict[str, float | None]]:
    if not oof.height:
        return {}
    error = pl.col(MEDIAN) - pl.col(TARGET)
    size = pl.col(TARGET).abs().mean()
    table = (
        oof.drop_nulls(TARGET)
        .group_by(ID)
        .agg(
            error.abs().mean().alias("mae"),
            pl.when(size > 0).then(error.mean() / size).alias("bias"),
            pl.col(TARGET).is_between(pl.col("q10"), pl.col("q90")).mean().alias("inside"),
        )
    )
    return {entry.pop(ID): entry for entry in table.iter_rows(named=True)}


def _relative_errors(oof: pl.DataFrame) -> dict[str, float]:
    """Sum of absolute errors over sum of actuals, for series with actuals other than zero."""
    table = (
        oof.drop_nulls(TARGET)
        .group_by(ID)
        .agg(
            ((pl.col(MEDIAN) - pl.col(TARGET)).abs().sum() / pl.col(TARGET).abs().sum()).alias("error"),
        )
        .filter(pl.col("error").is_finite())
    )
    return {str(name): float(error) for name, error in table.iter_rows()}


def _hindcasts(report: NightReport, order: Sequence[str]) -> tuple[Picture, ...]:
    parts = _by_series(report.oof.drop_nulls(TARGET) if report.oof.height else report.oof, CUTOFF, HORIZON)
    histories = _by_series(report.history, TIME)
    none = pl.DataFrame(schema={TIME: pl.Datetime("us"), TARGET: pl.Float64})
    chosen = [name for name in order if name in parts]
    # The largest series show what matters most; the worst one by relative error keeps the choice honest.
    shown = chosen[:HINDCASTS]
    rest = chosen[HINDCASTS:]
    pictures = []
    if rest:
        misses = {name: score for name, score in _relative_errors(report.oof).items() if name in rest}
        if misses:
            shown[-1] = max(sorted(misses), key=lambda name: misses[name])
    for name in shown:
        part = parts[name]
        origins = part.get_column(CUTOFF).n_unique()
        note = counted(origins, "origin")
        if rest and name == shown[-1] and name in rest:
            note += "; the largest relative error of all series that are not the largest ones"
        plot = charts.hindcast(name, part, histories.get(name, none), unit=report.unit)
        pictures.append(Picture("", name, plot, note=note))
    return tuple(pictures)


def _calibration(report: NightReport) -> tuple[pl.DataFrame | None, pl.DataFrame | None]:
    if not report.oof.height or not report.oof.drop_nulls(TARGET).height:
        return None, None
    return charts.level_shares(report.oof), charts.coverages(report.oof)


def _calibration_words(report: NightReport, table: pl.DataFrame | None) -> tuple[str, ...]:
    if table is None:
        return ()
    whole = table.filter(pl.col(HORIZON).is_null() & (pl.col("nominal") == charts.SHARES[0])).row(0, named=True)
    origins = report.oof.get_column(CUTOFF).n_unique()
    series = report.oof.get_column(ID).n_unique()
    gap = whole["coverage"] - whole["nominal"]
    verdict = "as wide as they say" if abs(gap) <= 0.03 else ("too wide" if gap > 0 else "too narrow")
    return (
        f"The central 80 % held {percent(whole['coverage'])} of {counted(whole['rows'], 'actual')} "
        f"({counted(series, 'series', 'series')}, {counted(origins, 'origin')}): the intervals are {verdict}. "
        "Rows of neighbouring origins and series overlap, so the count of independent ones is far smaller.",
    )


def _calibration_table(report: NightReport, table: pl.DataFrame | None) -> Table:
    rows: list[Row] = []
    if table is not None:
        shown = table.filter(pl.col("nominal") == charts.SHARES[0])
        by_step: dict[Any, dict[float, float]] = {}
        for entry in table.iter_rows(named=True):
            by_step.setdefault(entry[HORIZON], {})[entry["nominal"]] = entry["coverage"]
        for entry in shown.iter_rows(named=True):
            step = entry[HORIZON]
            rows.append(
                row(
                    Cell("all" if step is None else f"step {step}", "strong"),
                    Cell(count(entry["rows"])),
                    *(percent_cell(by_step[step][nominal]) for nominal in charts.SHARES),
                    number_cell(entry["width"]),
                )
            )
    columns = (
        Column("horizon"),
        Column("rows", True),
        *(Column(f"central {percent(nominal, digits=0)}", True) for nominal in charts.SHARES),
        Column(f"mean width of the 80 %{f' ({report.unit})' if report.unit else ''}", True),
    )
    return Table(
        "Measured coverage of the central intervals, out of fold",
        columns,
        tuple(rows),
        "There are no out-of-fold rows with a known actual, so calibration could not be measured.",
    )


def _changes(report: NightReport, form: str) -> tuple[tuple[str, ...], Table]:
    unit = f" ({report.unit})" if report.unit else ""
    columns = (
        Column("series"),
        Column("common steps", True),
        Column(f"before{unit}", True, "mean median over the steps both forecasts cover"),
        Column(f"now{unit}", True, "the same steps, this forecast"),
        Column("change", True),
        Column("change, %", True),
        Column("new actuals", True, "actuals that came in since, for steps the forecast before covered"),
        Column("missed by", True, "mean of new actuals minus their former median; + means they came in higher"),
        Column("model before"),
        Column("model now"),
    )
    table = Table("Largest changes of the median, per series", columns, (), "")
    if report.previous is None:
        return (), _with(table, (), "There is no earlier published forecast to compare with.")
    if not report.previous.height or not report.forecast.height:
        return (), _with(table, (), "One of the two forecasts has no rows, so they cannot be compared.")
    before = report.previous.select(ID, TIME, "q10", MEDIAN, "q90", pl.col(MODEL_USED).alias("model_before"))
    both = report.forecast.select(ID, TIME, pl.col(MEDIAN).alias("now"), MODEL_USED).join(before, on=[ID, TIME])
    moved = both.group_by(ID).agg(
        pl.len().alias("steps"),
        pl.col(MEDIAN).mean().alias("then"),
        pl.col("now").mean(),
        pl.col("model_before").first(),
        pl.col(MODEL_USED).first(),
    )
    arrived = _arrived(report, before)
    surprise = arrived.group_by(ID).agg(pl.len().alias("fresh"), (pl.col(TARGET) - pl.col(MEDIAN)).mean().alias("miss"))
    moved = (
        moved.join(surprise, on=ID, how="left")
        .with_columns((pl.col("now") - pl.col("then")).alias("change"))
        .with_columns((pl.col("change") / pl.col("then").abs()).alias("relative"))
        .sort(pl.col("change").abs(), ID, descending=[True, False])
    )
    rows = [
        row(
            Cell(str(entry[ID]), "strong"),
            Cell(count(entry["steps"])),
            number_cell(entry["then"]),
            number_cell(entry["now"]),
            number_cell(entry["change"], sign=True),
            percent_cell(entry["relative"], sign=True),
            Cell(count(entry["fresh"] or 0)),
            number_cell(entry["miss"], sign=True),
            Cell(str(entry["model_before"])),
            Cell(str(entry[MODEL_USED]), badge="" if entry[MODEL_USED] == entry["model_before"] else "changed"),
        )
        for entry in moved.head(CHANGES).iter_rows(named=True)
    ]
    empty = "The two forecasts share no series and step, so they cannot be compared."
    return _change_words(report, report.previous, moved, arrived, form), _with(table, tuple(rows), empty)


def _with(table: Table, rows: tuple[Row, ...], empty: str) -> Table:
    return Table(table.caption, table.columns, rows, empty, sortable=True)


def _arrived(report: NightReport, before: pl.DataFrame) -> pl.DataFrame:
    """Actuals for steps the forecast before covered."""
    if not report.history.height:
        return before.clear().with_columns(pl.lit(None, dtype=pl.Float64).alias(TARGET))
    return report.history.drop_nulls(TARGET).select(ID, TIME, TARGET).join(before, on=[ID, TIME])


def _change_words(
    report: NightReport, previous: pl.DataFrame, moved: pl.DataFrame, arrived: pl.DataFrame, form: str
) -> tuple[str, ...]:
    then, now = (charts.newest(frame, CUTOFF) for frame in (previous, report.forecast))
    words = [
        f"The forecast before was made from {then:{form}}, this one from {now:{form}}."
        if then is not None and now is not None
        else "The forecast before names no cutoff."
    ]
    if moved.height:
        up = moved.filter(pl.col("change") > 0).height
        switched = moved.filter(pl.col("model_before") != pl.col(MODEL_USED)).height
        typical = moved.get_column("relative").abs().median()
        words.append(
            f"Of {counted(moved.height, 'comparable series', 'comparable series')}, {up} went up and "
            f"{moved.filter(pl.col('change') < 0).height} down; the typical (median) size of a change is "
            f"{percent(typical if isinstance(typical, float) else None)}; {switched} changed the model."
        )
    if arrived.height:
        inside = arrived.select(pl.col(TARGET).is_between(pl.col("q10"), pl.col("q90")).mean()).item()
        error = arrived.select((pl.col(TARGET) - pl.col(MEDIAN)).abs().mean()).item()
        words.append(
            f"{counted(arrived.height, 'actual')} came in since for steps it covered: {percent(inside)} of them inside "
            f"its 80 % band, mean absolute error {number(error)} {report.unit}."
        )
    else:
        words.append("No actual has come in since for a step it covered.")
    gone, come = (
        sorted(set(a) - set(b))
        for a, b in (
            (previous[ID].unique(), report.forecast[ID].unique()),
            (report.forecast[ID].unique(), previous[ID].unique()),
        )
    )
    for names, verb in ((come, "New in the forecast"), (gone, "No longer in the forecast")):
        if names:
            more = f" and {len(names) - 12} more" if len(names) > 12 else ""
            words.append(f"{verb}: {', '.join(names[:12])}{more}.")
    return tuple(words)
