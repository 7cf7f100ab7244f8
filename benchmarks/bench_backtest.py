"""Time of a backtest, beside a plain pandas loop over the same bars in the same run.

    python -m benchmarks.bench_backtest [--bars 281060] [--horizon 20] [--runs 7]

`engine` is run_backtest of one signal: matching, positions, costs, trades and days. The plain one does what the rules
say, row by row over a pandas frame. Compilation is timed apart. Both must agree to 1e-12 before any ratio is printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from nightcast.contracts.schema import CostPlan
from nightcast.evaluation.backtest import Backtest, run_backtest

COSTS = CostPlan()


def market(bars: int, seed: int) -> pl.DataFrame:
    """Two symbols of 5-minute bars in sessions of 276, one after another."""
    rng = np.random.default_rng(seed)
    parts, sessions = [], 0
    for symbol, size in (("AAA", bars // 2), ("BBB", bars - bars // 2)):
        step = np.arange(size)
        close = 100 * np.exp(np.cumsum(rng.normal(scale=6e-4, size=size)))
        open_ = np.append(100.0, close[:-1]) * np.exp(rng.normal(scale=1e-4, size=size))
        times = np.datetime64("2020-01-01", "us") + (step + 12 * (step // 276)) * np.timedelta64(5, "m")
        columns = {"session": sessions + step // 276, "open": open_, "close": close}
        parts.append(pl.DataFrame({"unique_id": symbol, "ds": times, **columns}))
        sessions += size // 276 + 1
    return pl.concat(parts)


def plain(bars: pd.DataFrame, signals: pd.DataFrame, horizon: int, side: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Position, gross, cost and net of every bar, and sums of days: tranches, one row after another."""
    rows = bars.merge(signals, on=["unique_id", "ds"], how="left").fillna({"signal": 0})
    signal, session = rows["signal"].to_list(), rows["session"].to_list()
    open_, close = rows["open"].to_list(), rows["close"].to_list()
    count = len(rows)
    position = [0.0] * count
    for t in range(count):
        if signal[t]:
            for i in range(t + 1, min(t + horizon, count - 1) + 1):
                if session[i] != session[t]:
                    break
                position[i] += signal[t] / horizon
    gross, cost = [0.0] * count, [0.0] * count
    for i in range(count):
        before = position[i - 1] if i and session[i - 1] == session[i] else 0.0
        cost[i] = abs(position[i] - before) * side
        if i + 1 < count and session[i + 1] == session[i]:
            gross[i] = position[i] * (open_[i + 1] / open_[i] - 1)
        else:
            gross[i] = position[i] * (close[i] / open_[i] - 1)
            cost[i] += abs(position[i]) * side
    rows["gross"], rows["cost"] = gross, cost
    rows["net"] = rows["gross"] - rows["cost"]
    days = rows.groupby(rows["ds"].dt.floor("D"))[["gross", "cost", "net"]].sum() / rows["unique_id"].nunique()
    return rows, days


def timed(call: Callable[[], Any], runs: int) -> tuple[float, Any]:
    """Median seconds, and the last answer."""
    seconds, answer = [], None
    for _ in range(runs):
        started = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - started)
    return median(seconds), answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bars", type=int, default=281_060)
    parser.add_argument("--horizon", type=int, default=20)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    bars = market(args.bars, args.seed)
    rng = np.random.default_rng(args.seed)
    values = pl.Series("signal", rng.integers(-1, 2, bars.height), dtype=pl.Int8)
    signals = bars.select("unique_id", "ds").with_columns(values)
    # the engine's stretch ends a horizon after the last signal; all bars have one here, so it trades them all

    def engine() -> Backtest:
        return run_backtest(bars, signals, horizon=args.horizon, costs=COSTS)

    started = time.perf_counter()
    engine()
    print(f"first call, compilation or its cache included: {time.perf_counter() - started:.2f} s")

    fast, test = timed(engine, args.runs)
    metrics, _ = timed(lambda: test.metrics(days_per_year=252.0, bars_per_year=69_552.0), args.runs)
    table, asked = bars.to_pandas(), signals.to_pandas()
    slow, (rows, days) = timed(lambda: plain(table, asked, args.horizon, COSTS.side), max(1, args.runs // 3))

    for name in ("gross", "cost", "net"):
        np.testing.assert_allclose(test.bars[name].to_numpy(), rows[name].to_numpy(), rtol=0, atol=1e-12)
        np.testing.assert_allclose(test.daily[name].to_numpy(), days[name].to_numpy(), rtol=0, atol=1e-12)

    print(f"{args.bars} bars, {test.trades.height} trades, horizon {args.horizon}, medians of {args.runs} runs")
    print(f"{'':10} {'ms':>9} {'plain, ms':>11} {'ratio':>7}")
    print(f"{'engine':10} {1e3 * fast:9.1f} {1e3 * slow:11.0f} {slow / fast:7.0f}")
    print(f"{'metrics':10} {1e3 * metrics:9.1f}")


if __name__ == "__main__":
    main()
