"""Backtest of signals on bars: filled at the next bar's open, with costs, flat at gaps and scheduled closes.

A decision at the close of bar t is filled at the open of bar t + 1 of the same session. `tranches`: each decision
opens a tranche of 1/h of the capital for h bars, so h of them overlap. `single`: one whole position for h bars;
signals that come meanwhile are ignored. Whatever is open when a session ends is closed at its last close.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.columns import CLOSE, ID, OPEN, SESSION, SIGNAL, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.schema import CostPlan

Policy = Literal["tranches", "single"]
DAY: Final = "day"


@dataclass(frozen=True)
class Backtest:
    """What became of the signals.

    Attributes
    ----------
    bars
        `unique_id, ds, position, gross, cost, net`: returns of each bar on the capital of its symbol.
    daily
        `day, gross, cost, net`: sums over a day's bars, mean over the symbols.
    trades
        `unique_id, entry, exit, side, gross, net, bars`: each decision that took a position; returns of the trade
        itself, not of its share of the capital.
    """

    bars: pl.DataFrame
    daily: pl.DataFrame
    trades: pl.DataFrame

    def metrics(self, *, days_per_year: float, bars_per_year: float) -> dict[str, Any]:
        """Named metrics on returns after costs; None where one does not exist, never nan.

        Parameters
        ----------
        days_per_year, bars_per_year
            Of the market's calendar, to annualise by.
        """
        count = self.trades.height
        names = (
            *("sharpe", "gross_sharpe", "annualized_return", "volatility", "max_drawdown", "calmar", "sortino"),
            *("win_rate", "profit_factor", "turnover", "exposure", "mean_hold", "cost_share", "worst_month_share"),
        )
        if not count:
            return {name: None for name in names} | {"trades": 0, "turnover": 0.0, "exposure": 0.0}
        net, gross = (self.daily.get_column(name).to_numpy() for name in ("net", "gross"))
        year = float(net.mean() * days_per_year)
        equity = np.cumsum(net)
        fall = float((np.maximum.accumulate(np.maximum(equity, 0.0)) - equity).max())
        losses = math.sqrt(float((np.minimum(net, 0.0) ** 2).mean()))
        made = self.trades.get_column("net").to_numpy()
        won, lost = float(made[made > 0].sum()), float(-made[made < 0].sum())
        months = (
            self.daily.group_by(pl.col(DAY).dt.truncate("1mo")).agg(pl.col("net").sum()).get_column("net").to_numpy()
        )
        total, paid = float(net.sum()), float(self.daily.get_column("cost").sum())
        position = self.bars.get_column("position").to_numpy()
        symbols = max(1, self.bars.get_column(ID).n_unique())
        change = self.bars.get_column("traded").sum() if "traded" in self.bars.columns else 0.0
        return {
            "sharpe": sharpe(net, days_per_year),
            "gross_sharpe": sharpe(gross, days_per_year),
            "annualized_return": year,
            "volatility": float(net.std(ddof=1) * math.sqrt(days_per_year)) if len(net) > 1 else None,
            "max_drawdown": fall,
            "calmar": year / fall if fall > 0 else None,
            "sortino": year / (losses * math.sqrt(days_per_year)) if losses > 0 else None,
            "win_rate": float((made > 0).mean()),
            "profit_factor": won / lost if lost > 0 else None,
            "trades": count,
            "turnover": float(change) / symbols / max(1, len(net)),
            "exposure": float(np.abs(position).mean()),
            "mean_hold": float(self.trades.get_column("bars").to_numpy().mean()),
            "cost_share": paid / float(gross.sum()) if gross.sum() > 0 else None,
            "worst_month_share": float(months.max() / total) if total > 0 else None,
        }


def run_backtest(
    bars: pl.DataFrame,
    signals: pl.DataFrame,
    *,
    horizon: int,
    costs: CostPlan,
    policy: Policy = "tranches",
    cost_factor: float = 1.0,
) -> Backtest:
    """Trade signals on bars.

    Parameters
    ----------
    bars
        `unique_id, ds, session, open, close`, sorted by symbol and time. Only the stretch from the first to the last
        signal (and `horizon` bars after it) is traded and counted.
    signals
        `unique_id, ds, signal` of -1, 0 or 1; bars without a row are 0.
    horizon
        Bars a signal is held.
    cost_factor
        Multiple of the declared costs.

    Raises
    ------
    ConfigError
        If a signal repeats, is none of -1, 0, 1, or lies on no bar; or the horizon is below 1.
    """
    from nightcast.evaluation._backtest_kernels import decision_trades, settle, single_positions, tranche_positions

    if horizon < 1:
        raise ConfigError(f"horizon {horizon}", expected="bars to hold, 1 or more", remedy="correct the horizon")
    if signals.select(ID, TIME).is_duplicated().any():
        twice = signals.filter(signals.select(ID, TIME).is_duplicated())
        raise ConfigError(
            f"two signals for {twice[ID][0]!r} at {twice[TIME][0]}",
            expected="one signal per symbol and bar",
            remedy="hand over one model and horizon at a time",
        )
    wrong = signals.filter(~pl.col(SIGNAL).is_in([-1, 0, 1]).fill_null(False))
    if wrong.height:
        raise ConfigError(
            f"signal {wrong[SIGNAL][0]!r} for {wrong[ID][0]!r} at {wrong[TIME][0]}",
            expected="-1, 0 or 1",
            remedy="turn probabilities into signals first",
        )
    span = bars.select(ID, TIME, SESSION, OPEN, CLOSE)
    if signals.height:
        asked = signals.get_column(TIME).sort()
        first, clock = asked[0], span.get_column(TIME).unique().sort()
        newest = int(np.searchsorted(clock.to_numpy(), asked.to_numpy()[-1], side="right")) - 1
        end = clock[min(len(clock) - 1, newest + horizon)]
        span = span.filter(pl.col(TIME).is_between(first, end))
    frame = span.join(signals.select(ID, TIME, SIGNAL), on=[ID, TIME], how="left", maintain_order="left")
    found = int(frame.get_column(SIGNAL).is_not_null().sum())
    if found != signals.height:
        raise ConfigError(
            f"{signals.height - found} of {signals.height} signals lie on no bar",
            expected="signals at the start times of bars",
            remedy="look at the times: a signal is dated by the bar at whose close it falls",
        )
    s = frame.get_column(SIGNAL).fill_null(0).cast(pl.Float64).to_numpy()
    open_, close = (frame.get_column(name).cast(pl.Float64).to_numpy() for name in (OPEN, CLOSE))
    last = _last_rows(frame.get_column(SESSION).to_numpy())
    position = (tranche_positions if policy == "tranches" else single_positions)(s, last, horizon)
    side = costs.side * cost_factor
    gross, cost = settle(position, open_, close, last, side)
    traded = cost / side if side > 0 else settle(position, open_, close, last, 1.0)[1]
    per_bar = frame.select(ID, TIME).with_columns(
        pl.Series("position", position),
        pl.Series("gross", gross),
        pl.Series("cost", cost),
        pl.Series("net", gross - cost),
        pl.Series("traded", traded),
    )
    entry, leave, ret = decision_trades(s, open_, close, last, horizon, policy == "single")
    times, names = frame.get_column(TIME), frame.get_column(ID)
    trades = pl.DataFrame(
        {
            ID: names.gather(entry),
            "entry": times.gather(entry),
            "exit": times.gather(leave),
            "side": s[entry - 1].astype(np.int8),
            "gross": ret,
            "net": ret - 2 * side,
            "bars": (leave - entry + 1).astype(np.int32),
        }
    )
    symbols = max(1, per_bar.get_column(ID).n_unique())
    daily = (
        per_bar.group_by(pl.col(TIME).dt.truncate("1d").alias(DAY))
        .agg(pl.col("gross", "cost", "net").sum() / symbols)
        .sort(DAY)
    )
    return Backtest(per_bar, daily, trades)


def sharpe(returns: NDArray[np.float64], periods: float) -> float | None:
    """Mean over deviation, annualised; None without variation."""
    if len(returns) < 2:
        return None
    spread = float(returns.std(ddof=1))
    return float(returns.mean() / spread * math.sqrt(periods)) if spread > 1e-15 else None


def _last_rows(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row the last row of its run of equal codes."""
    if not len(codes):
        return np.empty(0, dtype=np.int64)
    ends = np.append(np.flatnonzero(np.diff(codes)), len(codes) - 1)
    return np.repeat(ends, np.diff(np.append(-1, ends))).astype(np.int64)
