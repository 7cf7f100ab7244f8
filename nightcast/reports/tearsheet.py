"""The tearsheet of one backtest: a self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final, Protocol

import numpy as np
import polars as pl

from nightcast.contracts.columns import CLASSES
from nightcast.contracts.schema import BarsSchema, CostPlan
from nightcast.reports.night import policy_hash
from nightcast.reports.plot import Band, Key, Line, Plot, number_axis, seconds_of, time_axis
from nightcast.reports.table import (
    NOTHING,
    Cell,
    Column,
    Table,
    count,
    counted,
    number,
    number_cell,
    percent,
    percent_cell,
    row,
)

_WORDS: Final[dict[str, tuple[str, str, str]]] = {
    # metric: (label, kind, meaning)
    "sharpe": ("Sharpe, net", "number", "mean of daily returns after costs over their deviation, annualised"),
    "gross_sharpe": ("Sharpe, gross", "number", "the same before costs"),
    "annualized_return": ("return a year", "percent", "mean daily return after costs times the days of a year"),
    "volatility": ("volatility a year", "percent", "deviation of daily returns, annualised"),
    "max_drawdown": ("maximal drawdown", "percent", "largest fall of the sum of returns from its highest point"),
    "calmar": ("Calmar", "number", "return a year over maximal drawdown"),
    "sortino": ("Sortino", "number", "as Sharpe, with the deviation of losses alone"),
    "win_rate": ("win rate", "percent", "share of trades that made money after costs"),
    "profit_factor": ("profit factor", "number", "sum of gains over sum of losses of trades"),
    "trades": ("trades", "count", "positions opened"),
    "turnover": ("turnover a day", "number", "sum of position changes a day"),
    "exposure": ("exposure", "percent", "mean size of the position"),
    "mean_hold": ("mean hold", "number", "bars a trade was held"),
    "cost_share": ("costs / gross gain", "percent", "how much of the gain before costs they took"),
    "worst_month_share": ("best month", "percent", "share of the best month in the whole profit"),
}
_SCORES: Final[dict[str, tuple[str, str]]] = {
    # score: (label, meaning)
    "log_loss": ("log loss", "mean negative log of the probability of what came true; lower is better"),
    "brier": ("Brier score", "sum of squared errors of the three probabilities; lower is better"),
    "ece": ("ECE", "mean gap of stated and true probability; lower is better"),
    "accuracy": ("accuracy", "share of decisions whose most probable class came true"),
    "balanced_accuracy": ("balanced accuracy", "mean recall of the classes; 1/3 is chance"),
    "macro_f1": ("macro F1", "mean F1 of the three classes; rises with volatility alone"),
    **{f"f1_{name}": (f"F1, {name}", f"harmonic mean of precision and recall of {name}") for name in CLASSES},
    "mcc": ("MCC", "correlation of predicted and true class; 0 is chance"),
    "direction_auc": ("direction AUC", "ranks ups above downs among decisions that moved; 0.5 is chance"),
}


class Tested(Protocol):
    """What the page needs of a backtest."""

    @property
    def daily(self) -> pl.DataFrame:
        """`day, gross, cost, net`, mean over the symbols."""
        ...

    def metrics(self, *, days_per_year: float, bars_per_year: float) -> dict[str, Any]:
        """Named metrics; None where one does not exist."""
        ...


def render_tearsheet(
    test: Tested,
    *,
    title: str,
    schema: BarsSchema,
    costs: CostPlan,
    scores: Mapping[str, Any] | None = None,
    verdict: Mapping[str, Any] | None = None,
) -> str:
    """The backtest as one HTML page; nothing in it is fetched, equal backtests give equal bytes.

    Parameters
    ----------
    scores
        Classification scores of the rows behind the signals.
    verdict
        The model's row of the verdict table: named gates and why.
    """
    import jinja2
    from markupsafe import Markup

    from nightcast.reports import svg

    texts = {name: _text(name) for name in ("macros.html.j2", "tearsheet.html.j2")}
    style = f"{_text('page.css')}{svg.style()}\n"
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(texts),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["draw"] = lambda plot: Markup(svg.draw(plot))
    metrics = test.metrics(days_per_year=schema.days_per_year, bars_per_year=schema.bars_per_year)
    daily = test.daily.sort("day")
    page = environment.get_template("tearsheet.html.j2").render(
        title=title,
        style=Markup(style),
        style_hash=policy_hash(style),
        lead=_lead(metrics, verdict),
        facts=_facts(metrics, verdict, daily.height, schema),
        plots=_plots(daily) if metrics.get("trades") else (),
        numbers=_numbers(metrics),
        classes=_classes(scores),
        months=_months(daily),
        rules=_rules(schema, costs),
    )
    return page.strip() + "\n"


def _text(name: str) -> str:
    return resources.files("nightcast.reports").joinpath(name).read_text(encoding="utf-8")


def _lead(metrics: Mapping[str, Any], verdict: Mapping[str, Any] | None) -> str:
    if not metrics.get("trades"):
        words = "No position was ever taken: flat is what the signals asked for."
    else:
        words = (
            f"{count(int(metrics['trades']))} trades; Sharpe {number(metrics['sharpe'])} after costs, "
            f"{number(metrics['gross_sharpe'])} before."
        )
    if verdict is not None and verdict.get("why"):
        words += f" {verdict['why']}"
    return words


def _facts(
    metrics: Mapping[str, Any], verdict: Mapping[str, Any] | None, days: int, schema: BarsSchema
) -> list[tuple[str, str, str]]:
    """Name, value and a small addition; the Sharpe ratio stands beside what chance alone makes of it."""
    small = {
        "sharpe": ""
        if metrics.get("sharpe") is None
        else f"± {number(math.sqrt(schema.days_per_year / days))} by chance",
        "trades": f"on {counted(days, 'day')}" if days else "",
    }
    out = [
        (_WORDS[name][0], _show(name, metrics.get(name)), small.get(name, ""))
        for name in ("sharpe", "annualized_return", "max_drawdown", "trades")
    ]
    for name, value in (verdict or {}).items():
        if name.endswith("_gate") and value is not None:
            out.append((f"{name.removesuffix('_gate')} gate", "passed" if value else "failed", ""))
    return out


def _show(name: str, value: Any) -> str:
    if value is None:
        return NOTHING
    kind = _WORDS.get(name, ("", "number", ""))[1]
    if kind == "percent":
        return percent(float(value))
    return count(int(value)) if kind == "count" else number(float(value))


def _numbers(metrics: Mapping[str, Any]) -> Table:
    names = [name for name in _WORDS if name in metrics]
    rows = tuple(
        row(Cell(_WORDS[name][0], "strong"), _show(name, metrics[name]), Cell(_WORDS[name][2], "words"))
        for name in names
    )
    return Table("Trading", (Column("metric"), Column("value", True), Column("meaning")), rows, "")


def _classes(scores: Mapping[str, Any] | None) -> Table:
    columns = (Column("score"), Column("value", True), Column("meaning"))
    if scores is None:
        return Table("Classification", columns, (), "Signals alone were handed over, no probabilities.")
    rows = tuple(
        row(Cell(label, "strong"), number_cell(scores[name]), Cell(meaning, "words"))
        for name, (label, meaning) in _SCORES.items()
        if name in scores
    )
    return Table("Classification of the same decisions", columns, rows, "")


def _plots(daily: pl.DataFrame) -> tuple[Plot, ...]:
    times = tuple(seconds_of(day) for day in daily.get_column("day").cast(pl.Datetime("us")).to_list())
    gross, net = (np.cumsum(daily.get_column(name).to_numpy()) for name in ("gross", "net"))
    peak = np.maximum.accumulate(np.maximum(net, 0.0))
    fall = net - peak
    axis = time_axis(times[0], times[-1])
    equity = Plot(
        (
            Line((times[0], times[-1]), (0.0, 0.0), "rule", thin=True),
            Line(times, tuple(gross.tolist()), "naive"),
            Line(times, tuple(net.tolist()), "forecast"),
        ),
        axis,
        number_axis([*gross.tolist(), *net.tolist()], include=(0.0,), label="sum of returns", floor_at_zero=False),
        f"Sum of daily returns: {percent(float(net[-1]))} after costs, {percent(float(gross[-1]))} before.",
        (Key("after costs", "forecast"), Key("before costs", "naive")),
        size=(560, 280),
    )
    if not (fall < 0).any():
        return (equity,)
    drawdown = Plot(
        (Band(times, tuple(fall.tolist()), (0.0,) * len(times), "fallback"),),
        axis,
        number_axis(fall.tolist(), include=(0.0,), label="below the highest sum", floor_at_zero=False),
        f"Drawdown after costs, {percent(float(-fall.min()))} at most.",
        size=(560, 280),
    )
    return equity, drawdown


def _months(daily: pl.DataFrame) -> Table:
    columns = (
        Column("month"),
        Column("before costs", True),
        Column("costs", True),
        Column("after costs", True),
        Column("days", True),
    )
    monthly = (
        daily.group_by(pl.col("day").cast(pl.Datetime("us")).dt.strftime("%Y-%m").alias("month"))
        .agg(pl.sum("gross", "cost", "net"), pl.len().alias("days"))
        .sort("month")
    )
    rows = tuple(
        row(
            Cell(entry["month"], "strong"),
            percent_cell(entry["gross"], sign=True, digits=2),
            percent_cell(entry["cost"], digits=2),
            percent_cell(entry["net"], sign=True, digits=2),
            Cell(count(entry["days"])),
        )
        for entry in monthly.iter_rows(named=True)
    )
    return Table("Sum of returns by month", columns, rows, "No day was traded.")


def _rules(schema: BarsSchema, costs: CostPlan) -> tuple[str, ...]:
    return (
        "A decision falls at the close of a bar and is filled at the open of the next one; a signal is held for its "
        "horizon as one tranche of several that overlap, and nothing is held over a gap or a scheduled close.",
        f"Each side of a trade costs {costs.side * 1e4:.2f} basis points (fee {costs.fee_bps:g}, half the spread "
        f"{costs.half_spread_bps:g}, slippage {costs.slippage_bps:g}).",
        "A Sharpe ratio that is measured on so many days varies by chance alone with about the deviation that stands "
        "beside it, the root of the days of a year over the days measured (Lo 2002); the best of many trials is higher "
        "still.",
        f"A year has {schema.days_per_year:g} days of profit or loss and {count(round(schema.bars_per_year))} bars of "
        f"{schema.freq.word} ({schema.calendar.replace('_', ' ')}). Returns are sums, not compounded, and the mean "
        "over the symbols.",
    )
