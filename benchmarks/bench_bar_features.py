"""Time for bar features, beside plain pandas over the same bars in the same run.

    python -m benchmarks.bench_bar_features [--bars 281060] [--runs 3]

Each set is timed alone. The plain ones are the columns of `plain10`, by pandas' rolling and ewm within segments; both
ways must agree before any ratio is printed. pandas' smoothers look back to the first bar and ours over a window, so
those agree to a part in a thousand. Compilation is timed apart.
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

from nightcast.contracts.schema import BarsSchema
from nightcast.features.bars.catalog import FEATURE_SETS, build_bar_features
from nightcast.features.segments import segmented

SCHEMA = BarsSchema(freq="5min")
SETS = ("plain10", "volatility_time", "neural_optimal", "ensemble_base", "boosting_optimal")
SETTLED = 400
"""Bars of a segment after which pandas' smoothers have forgotten their seeds."""
TOLERANCE = {"rsi_14": 0.1, "macd_hist": 2e-5}


def market(bars: int, seed: int) -> pl.DataFrame:
    """Two symbols of 5-minute bars, one after another, with a gap every five thousand bars or so."""
    rng = np.random.default_rng(seed)
    parts = []
    for symbol, size in (("AAA", bars // 2), ("BBB", bars - bars // 2)):
        close = 100 * np.exp(np.cumsum(rng.normal(scale=6e-4, size=size)))
        open_ = np.append(100.0, close[:-1])
        wick = np.abs(rng.normal(scale=3e-4, size=(2, size)))
        steps = 1 + np.where(rng.random(size) < 2e-4, 12, 0)
        parts.append(
            pl.DataFrame(
                {
                    "unique_id": symbol,
                    "ds": np.datetime64("2020-01-01", "us") + np.cumsum(steps) * np.timedelta64(5, "m"),
                    "open": open_,
                    "high": np.maximum(open_, close) * (1 + wick[0]),
                    "low": np.minimum(open_, close) * (1 - wick[1]),
                    "close": close,
                    "volume": rng.exponential(1000, size),
                }
            )
        )
    return segmented(pl.concat(parts), SCHEMA)[0]


def plain_segment(bars: pd.DataFrame) -> pd.DataFrame:
    """The columns of `plain10` for one segment, as a notebook has them."""
    close, log_volume = bars["close"], np.log1p(bars["volume"])
    step = close.diff()
    up = step.clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    down = (-step).clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    line = close.ewm(span=12, adjust=False).mean() - close.ewm(span=26, adjust=False).mean()
    middle, spread = close.rolling(20).mean(), close.rolling(20).std(ddof=0)
    hour = (bars["ds"].dt.hour + bars["ds"].dt.minute / 60) * (2 * np.pi / 24)
    return pd.DataFrame(
        {
            "return_1": close.pct_change(1),
            "return_5": close.pct_change(5),
            "return_20": close.pct_change(20),
            "rsi_14": 100 * up / (up + down),
            "macd_hist": (line - line.ewm(span=9, adjust=False).mean()) / close,
            "bb_position": (close - middle + 2 * spread) / (4 * spread),
            "hvol_20": np.log(close).diff().rolling(20).std(),
            "volume_zscore_20": (log_volume - log_volume.rolling(20).mean()) / log_volume.rolling(20).std(),
            "hour_sin": np.sin(hour),
            "hour_cos": np.cos(hour),
        }
    )


def plain(bars: pd.DataFrame) -> pd.DataFrame:
    """The columns of `plain10`, segment by segment."""
    return pd.concat([plain_segment(part) for _, part in bars.groupby("segment", sort=False)])


def timed(run: Callable[[], Any], runs: int) -> float:
    """Median seconds of a call."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def check(frame: pl.DataFrame, bars: pd.DataFrame) -> None:
    """Stop unless both ways agree wherever smoothers have settled."""
    ours = build_bar_features(frame, ["plain10"], SCHEMA)[0]
    theirs = plain(bars)
    settled = frame.select(pl.int_range(pl.len()).over("segment") >= SETTLED).to_series().to_numpy()
    for name in FEATURE_SETS["plain10"].columns:
        worst = float(np.abs(ours[name].to_numpy()[settled] - theirs[name].to_numpy()[settled]).max())
        if not worst <= TOLERANCE.get(name, 1e-6):
            raise SystemExit(f"{name} differs from pandas by {worst:g}: no ratio is worth printing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bars", type=int, default=281_060)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()

    frame = market(args.bars, seed=5)
    bars = frame.to_pandas()
    started = time.perf_counter()
    build_bar_features(frame.head(500), SETS, SCHEMA)
    print(f"compilation, or reading it from the cache: {time.perf_counter() - started:.2f} s")
    check(frame, bars)

    print(f"{args.bars:,} bars in {frame['segment'].n_unique()} segments, {pl.thread_pool_size()} threads")
    seconds = {name: timed(lambda name=name: build_bar_features(frame, [name], SCHEMA), args.runs) for name in SETS}
    for name, taken in seconds.items():
        print(f"{name:18} {len(FEATURE_SETS[name].columns):4} columns {taken:7.3f} s")
    reference = timed(lambda: plain(bars), args.runs)
    print(f"plain10 by pandas  {len(FEATURE_SETS['plain10'].columns):4} columns {reference:7.3f} s")
    print(f"pandas takes {reference / seconds['plain10']:.1f} times as long")


if __name__ == "__main__":
    main()
