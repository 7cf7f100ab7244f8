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
_DAY_US: Final = 86_400_000_000


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
        itself, bar by bar on constant capital, not of its share of the capital. One at a time (`single`), they sum to
        what the bars earned; a tranche pays for both sides, although tranches that meet are netted in `bars`.
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

    def hit_rates(self) -> dict[str, float | None]:
        """Share of the trades of each side, `short` and `long`, whose price went its way; None without such a trade."""
        gross, side = (self.trades.get_column(name).to_numpy() for name in ("gross", "side"))
        rates = {name: gross[side == sign] > 0 for name, sign in (("short", -1), ("long", 1))}
        return {name: float(hits.mean()) if len(hits) else None for name, hits in rates.items()}


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
        If a signal repeats, is none of -1, 0, 1, or lies on no bar; if bars are not sorted, repeat, or lack a price
        where they are traded; or the horizon is below 1.
    """
    from nightcast.evaluation._backtest_kernels import decision_trades, settle, single_positions, tranche_positions

    if horizon < 1:
        raise ConfigError(f"horizon {horizon}", expected="bars to hold, 1 or more", remedy="correct the horizon")
    wrong = signals.filter(~pl.col(SIGNAL).is_in([-1, 0, 1]).fill_null(False))
    if wrong.height:
        raise ConfigError(
            f"signal {wrong[SIGNAL][0]!r} for {wrong[ID][0]!r} at {wrong[TIME][0]}",
            expected="-1, 0 or 1",
            remedy="turn probabilities into signals first",
        )
    times, symbol = _times(bars), bars.get_column(ID).rle_id().cast(pl.Int64).to_numpy()
    _check_order(bars, times, symbol)
    at = _rows_of(signals, bars, times, symbol)
    whole = np.zeros(bars.height)
    whole[at] = signals.get_column(SIGNAL).cast(pl.Float64).to_numpy()
    keep = np.ones(bars.height, dtype=bool)
    if len(at):
        later = np.unique(times[times >= times[at].max()])
        keep = (times >= times[at].min()) & (times <= later[min(horizon, len(later) - 1)])
    frame = bars.select(ID, TIME, SESSION, OPEN, CLOSE).filter(pl.Series(keep))
    s, times, symbol = whole[keep], times[keep], symbol[keep]
    open_, close = (_prices(frame, name) for name in (OPEN, CLOSE))
    last = _last_rows(frame.get_column(SESSION).to_numpy(), symbol)
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
    entry, leave, ret, sides = decision_trades(s, open_, close, last, horizon, policy == "single")
    stamps, names = frame.get_column(TIME), frame.get_column(ID)
    trades = pl.DataFrame(
        {
            ID: names.gather(entry),
            "entry": stamps.gather(entry),
            "exit": stamps.gather(leave),
            "side": s[entry - 1].astype(np.int8),
            "gross": ret,
            "net": ret - sides * side,
            "bars": (leave - entry + 1).astype(np.int32),
        }
    )
    return Backtest(per_bar, _daily(times, gross, cost, len(np.unique(symbol))), trades)


def sharpe(returns: NDArray[np.float64], periods: float) -> float | None:
    """Mean over deviation, annualised; None without variation."""
    if len(returns) < 2:
        return None
    spread = float(returns.std(ddof=1))
    return float(returns.mean() / spread * math.sqrt(periods)) if spread > 1e-15 else None


def _times(frame: pl.DataFrame) -> NDArray[np.int64]:
    """Microseconds since 1970."""
    return frame.get_column(TIME).cast(pl.Datetime("us")).to_physical().to_numpy()


def _check_order(bars: pl.DataFrame, times: NDArray[np.int64], symbol: NDArray[np.int64]) -> None:
    """Refuse bars that are not sorted by symbol and time, or that repeat: positions would be held over other bars."""
    if not len(times):
        return
    back = np.flatnonzero((np.diff(times) <= 0) & (np.diff(symbol) == 0))
    split = bars.get_column(ID).n_unique() != symbol[-1] + 1
    if len(back) or split:
        row = int(back[0]) + 1 if len(back) else 0
        where = f"at {bars[TIME][row]} of {bars[ID][row]!r}" if len(back) else "of one symbol lie in several places"
        raise ConfigError(
            f"bars {where} are not in order",
            expected="bars sorted by symbol and time, one per symbol and time",
            remedy="sort them by unique_id, ds and drop copies first",
        )


def _rows_of(
    signals: pl.DataFrame, bars: pl.DataFrame, times: NDArray[np.int64], symbol: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Row of each signal's bar; bars in order have rising keys of symbol and time."""
    asked = signals.select(ID, pl.col(TIME).cast(pl.Datetime("us"))).drop_nulls()
    names = bars.get_column(ID).gather(np.flatnonzero(np.diff(symbol, prepend=-1))).to_list()
    code = asked.get_column(ID).replace_strict(names, range(len(names)), default=None, return_dtype=pl.Int64)
    known = code.is_not_null().to_numpy()
    rows = np.empty(0, dtype=np.int64)
    if len(times):
        low, when = int(times.min()), _times(asked)
        reach = int(times.max()) - low + 1
        known &= (when >= low) & (when < low + reach)
        keys = symbol * reach + (times - low)
        wanted = code.to_numpy()[known].astype(np.int64) * reach + (when[known] - low)
        rows = np.searchsorted(keys, wanted)
        rows = rows[keys[np.minimum(rows, len(keys) - 1)] == wanted]
    if len(rows) != signals.height:
        raise ConfigError(
            f"{signals.height - len(rows)} of {signals.height} signals lie on no bar",
            expected="signals at the start times of bars",
            remedy="look at the times: a signal is dated by the bar at whose close it falls",
        )
    repeated = np.flatnonzero(np.bincount(rows, minlength=1) > 1)
    if len(repeated):
        first = int(repeated[0])
        raise ConfigError(
            f"two signals for {bars[ID][first]!r} at {bars[TIME][first]}",
            expected="one signal per symbol and bar",
            remedy="hand over one model and horizon at a time",
        )
    return rows


def _prices(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    """A price column; one missing price would make every sum over it nan."""
    values = frame.get_column(name).cast(pl.Float64).to_numpy()
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        row = int(bad[0])
        raise ConfigError(
            f"{name} {frame[name][row]} of {frame[ID][row]!r} at {frame[TIME][row]}",
            expected="positive, finite prices at every bar that is traded",
            remedy="leave such bars out; what is missing makes a gap",
        )
    return np.asarray(values)


def _daily(
    times: NDArray[np.int64], gross: NDArray[np.float64], cost: NDArray[np.float64], symbols: int
) -> pl.DataFrame:
    """Sums over each day's bars, mean over the symbols; added in the order of the rows, so that bits repeat."""
    number = times // _DAY_US
    first = int(number.min()) if len(number) else 0
    place = number - first
    there = np.flatnonzero(np.bincount(place))
    sums = [np.bincount(place, its)[there] / max(1, symbols) for its in (gross, cost, gross - cost)]
    days = pl.Series(DAY, (there + first) * _DAY_US, dtype=pl.Int64).cast(pl.Datetime("us"))
    return pl.DataFrame([days, *(pl.Series(n, v) for n, v in zip(("gross", "cost", "net"), sums, strict=True))])


def _last_rows(session: NDArray[np.int64], symbol: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row the last row of its run of one session of one symbol."""
    if not len(session):
        return np.empty(0, dtype=np.int64)
    ends = np.append(np.flatnonzero((np.diff(session) != 0) | (np.diff(symbol) != 0)), len(session) - 1)
    return np.repeat(ends, np.diff(np.append(-1, ends))).astype(np.int64)
