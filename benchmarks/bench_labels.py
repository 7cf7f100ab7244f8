"""Time for labels and sample weights, beside plain loops over the same bars in the same run.

    python -m benchmarks.bench_labels [--bars 281060] [--horizon 20] [--runs 5]

`labels` is triple_barrier for one horizon, the volatility included; `weights` is sample_weights of its known labels,
with return attribution and decay. The plain ones do the same by pandas' ewm, a Python loop over rows with a NumPy slice
each, and a NumPy slice a label. Compilation is timed apart. Both ways must agree before any ratio is printed.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from nightcast.contracts.schema import BarsSchema, LabelPlan
from nightcast.features.labels import triple_barrier
from nightcast.features.segments import segmented
from nightcast.features.weights import sample_weights

PLAN = LabelPlan()
DECAY = 0.5


def market(bars: int, seed: int) -> pl.DataFrame:
    """Two symbols of 5-minute bars, one after another, with a gap every thousand bars or so."""
    rng = np.random.default_rng(seed)
    parts = []
    for symbol, size in (("AAA", bars // 2), ("BBB", bars - bars // 2)):
        close = 100 * np.exp(np.cumsum(rng.normal(scale=6e-4, size=size)))
        open_ = np.append(100.0, close[:-1])
        wick = np.abs(rng.normal(scale=3e-4, size=(2, size)))
        steps = 1 + np.where(rng.random(size) < 1e-3, 12, 0)
        times = np.datetime64("2020-01-01", "us") + np.cumsum(steps) * np.timedelta64(5, "m")
        prices = {
            "open": open_,
            "high": np.maximum(open_, close) * (1 + wick[0]),
            "low": np.minimum(open_, close) * (1 - wick[1]),
            "close": close,
        }
        parts.append(pl.DataFrame({"unique_id": symbol, "ds": times, **prices, "volume": 1.0}))
    return pl.concat(parts)


def one_bar_returns(frame: pl.DataFrame) -> np.ndarray:
    """Log returns, 0 at the start of a segment."""
    return frame.select(pl.col("close").log().diff().over("segment").fill_null(0.0)).to_series().to_numpy()


def fast_weights(frame: pl.DataFrame, returns: np.ndarray, horizon: int) -> np.ndarray:
    rows = np.flatnonzero(frame[f"label_{horizon}_y"].is_not_null())
    hold = frame[f"label_{horizon}_hold"].drop_nulls().to_numpy()
    return sample_weights(rows, hold, returns, times=frame["ds"].to_numpy(), decay=DECAY)


def plain_labels(frame: pd.DataFrame, horizon: int) -> pd.DataFrame:
    """Class, hold and return of every row, by pandas and a loop; -1, 0 and nan where unknown."""
    segment = frame["segment"].to_numpy()
    r = np.log(frame["close"]).groupby(segment).diff()
    grouped = r.groupby(segment, group_keys=False)
    sigma = grouped.apply(lambda s: s.ewm(span=PLAN.span, ignore_na=True, min_periods=20).std()).to_numpy()
    open_, high, low, close = (frame[name].to_numpy() for name in ("open", "high", "low", "close"))
    y, hold, ret = np.full(len(frame), -1), np.zeros(len(frame), dtype=int), np.full(len(frame), np.nan)
    for t in range(len(frame) - horizon):
        if not sigma[t] > 0 or segment[t + horizon] != segment[t]:
            continue
        width = PLAN.multiplier * sigma[t] * math.sqrt(horizon)
        entry = open_[t + 1]
        path = slice(t + 1, t + 1 + horizon)
        up, down = high[path] >= entry * (1 + width), low[path] <= entry * (1 - width)
        touched = np.flatnonzero(up | down)
        if not len(touched):
            y[t], hold[t], ret[t] = 1, horizon, close[t + horizon] / entry - 1
            continue
        first = int(touched[0])
        hold[t] = first + 1
        beyond = open_[t + 1 + first] / entry - 1
        if first and abs(beyond) >= width:
            y[t], ret[t] = (2 if beyond > 0 else 0), beyond
        elif up[first] and down[first]:
            y[t], ret[t] = 1, np.clip(close[t + 1 + first] / entry - 1, -width, width)
        else:
            y[t], ret[t] = (2, width) if up[first] else (0, -width)
    return pd.DataFrame({"y": y, "hold": hold, "ret": ret})


def plain_weights(labels: pd.DataFrame, returns: np.ndarray, times: np.ndarray) -> np.ndarray:
    """As `sample_weights`, a slice a label."""
    known = labels[labels["y"] >= 0]
    rows, hold = known.index.to_numpy(), known["hold"].to_numpy()
    count = np.zeros(len(labels))
    for row, length in zip(rows, hold, strict=True):
        count[row + 1 : row + length + 1] += 1
    spans = [slice(row + 1, row + length + 1) for row, length in zip(rows, hold, strict=True)]
    unique = np.array([np.mean(1 / count[span]) for span in spans])
    owed = np.array([abs(np.sum(returns[span] / count[span])) for span in spans])
    grown = pd.Series(unique).groupby(times[rows]).sum().cumsum()
    age = (grown.iloc[-1] - grown) / (grown.iloc[-1] - grown.iloc[0])
    weight = unique * np.minimum(owed, np.quantile(owed, 0.99)) * (1 - (1 - DECAY) * age).loc[times[rows]].to_numpy()
    return np.asarray(weight / weight.mean())


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
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    schema = BarsSchema(freq="5min", horizons=(args.horizon,))
    frame, _ = segmented(market(args.bars, args.seed), schema)
    returns = one_bar_returns(frame)

    started = time.perf_counter()
    triple_barrier(frame, schema, PLAN)
    print(f"first call, compilation or its cache included: {time.perf_counter() - started:.2f} s")

    labels, labelled = timed(lambda: triple_barrier(frame, schema, PLAN), args.runs)
    weights, weight = timed(lambda: fast_weights(labelled, returns, args.horizon), args.runs)
    table, times = frame.to_pandas(), frame["ds"].to_numpy()
    slow_labels, plain = timed(lambda: plain_labels(table, args.horizon), args.runs)
    slow_weights, expected = timed(lambda: plain_weights(plain, returns, times), args.runs)

    if (labelled[f"label_{args.horizon}_y"].fill_null(-1).to_numpy() != plain["y"].to_numpy()).any():
        raise SystemExit("the plain loop and the compiled one disagree on labels")
    np.testing.assert_allclose(weight, expected, rtol=1e-9, atol=1e-12)

    print(f"{args.bars} bars, {len(weight)} known labels, horizon {args.horizon}, medians of {args.runs} runs")
    print(f"{'':10} {'ms':>9} {'plain, ms':>11} {'ratio':>7}")
    rows = {"labels": (labels, slow_labels), "weights": (weights, slow_weights)}
    rows["both"] = (labels + weights, slow_labels + slow_weights)
    for name, (fast, slow) in rows.items():
        print(f"{name:10} {1e3 * fast:9.1f} {1e3 * slow:11.0f} {slow / fast:7.0f}")


if __name__ == "__main__":
    main()
