"""Time for bar features, beside plain pandas over the same bars in the same run.

    python -m benchmarks.bench_bar_features [--bars 281060] [--runs 3]

Each set is timed alone. pandas makes `plain10`, and of `boosting_optimal` all but the slopes and the SuperTrend, by its
rolling and ewm within segments; both ways must agree before any ratio is printed. Our time is that of the whole set.
pandas' smoothers look back to the first bar and ours over a window, so those agree to a few parts in a thousand.
Compilation is timed apart.
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
DEFAULT_TOLERANCE = 1e-6
SMOOTHED = ("rsi_", "macd_", "adx_", "gap_ema_", "atr_ratio_", "kc_position")
"""Columns of smoothers, which pandas starts at the first bar and ours end after a window."""
TOLERANCE = {
    name: 3e-3 for name in FEATURE_SETS["boosting_optimal"].columns if any(name.startswith(its) for its in SMOOTHED)
}
"""Largest difference of a column from pandas, over its largest value."""


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
    up, down = wilder(step.clip(lower=0), 14), wilder((-step).clip(lower=0), 14)
    line = ema(close, 12) - ema(close, 26)
    middle, spread = close.rolling(20).mean(), close.rolling(20).std(ddof=0)
    hour = (bars["ds"].dt.hour + bars["ds"].dt.minute / 60) * (2 * np.pi / 24)
    return pd.DataFrame(
        {
            "return_1": close.pct_change(1),
            "return_5": close.pct_change(5),
            "return_20": close.pct_change(20),
            "rsi_14": 100 * up / (up + down),
            "macd_hist": (line - ema(line, 9)) / close,
            "bb_position": ((close - middle + 2 * spread) / (4 * spread)).clip(-1, 2),
            "hvol_20": np.log(close).diff().rolling(20).std(),
            "volume_zscore_20": (log_volume - log_volume.rolling(20).mean()) / log_volume.rolling(20).std(),
            "hour_sin": np.sin(hour),
            "hour_cos": np.cos(hour),
        }
    )


def wilder(x: pd.Series, n: int) -> pd.Series:
    """Wilder's average."""
    return x.ewm(alpha=1 / n, adjust=False).mean()


def ema(x: pd.Series, span: int) -> pd.Series:
    """Exponential average."""
    return x.ewm(span=span, adjust=False).mean()


def plain_boosting(bars: pd.DataFrame) -> pd.DataFrame:
    """All of `boosting_optimal` but the slopes and the SuperTrend, for one segment, as a notebook has them."""
    o, h, low, c, v = (bars[name] for name in ("open", "high", "low", "close", "volume"))
    x, before, span = np.log(c), c.shift(1), h - low
    r, change, log_volume = x.diff(), c.diff(), np.log1p(v)
    true_range = pd.Series(np.maximum(h, before) - np.minimum(low, before))
    typical = (h + low + c) / 3
    hvol = {n: r.rolling(n).std() for n in (5, 10, 20, 60)}
    z = {
        n: ((log_volume - log_volume.rolling(n).mean()) / log_volume.rolling(n).std()).clip(-10, 10)
        for n in (10, 20, 50)
    }
    f: dict[str, Any] = {f"return_{n}": c.pct_change(n) for n in (1, 2, 3, 5, 10, 15, 20, 30, 60)}
    f |= {f"log_return_{n}": x.diff(n) for n in (1, 5, 20)}
    f |= {f"return_z_{n}": (x.diff(n) / np.sqrt(n) / hvol[60]).clip(-10, 10) for n in (1, 5, 20)}
    f |= {f"roc_{n}": 100 * c.pct_change(n) for n in (5, 10, 20)}
    for n in (7, 14, 21):
        up, down = wilder(change.clip(lower=0), n), wilder((-change).clip(lower=0), n)
        f[f"rsi_{n}"] = 100 * up / (up + down)
    line = ema(c, 12) - ema(c, 26)
    signal = ema(line, 9)
    f |= {"macd_line": line / c, "macd_signal": signal / c, "macd_hist": (line - signal) / c}
    place = {}
    for n in (10, 14, 20, 28, 60):
        bottom, top = low.rolling(n).min(), h.rolling(n).max()
        place[n] = (c - bottom) / (top - bottom)
    for n in (14, 28):
        f |= {f"stoch_k_{n}": 100 * place[n], f"stoch_d_{n}": 100 * place[n].rolling(3).mean()}
        f[f"williams_{n}"] = 100 * (place[n] - 1)
    f |= {f"range_place_{n}": place[n] for n in (10, 20, 60)}
    for n in (14, 20):
        centre = typical.rolling(n).mean()
        spread = sum((typical.shift(lag) - centre).abs() for lag in range(n)) / n
        f[f"cci_{n}"] = ((typical - centre) / (0.015 * spread)).clip(-500, 500)
    flow, rise = typical * v, typical.diff()
    inward, outward = flow.where(rise > 0, 0.0).rolling(14).sum(), flow.where(rise < 0, 0.0).rolling(14).sum()
    f["mfi_14"] = 100 * inward / (inward + outward)
    up, down = h.diff(), low.shift(1) - low
    atr = {n: wilder(true_range, n) for n in (7, 14, 20, 28)}
    plus = 100 * wilder(up.where((up > down) & (up > 0), 0.0), 14) / atr[14]
    minus = 100 * wilder(down.where((down > up) & (down > 0), 0.0), 14) / atr[14]
    f |= {"adx_plus_14": plus, "adx_minus_14": minus}
    f["adx_14"] = wilder(100 * (plus - minus).abs() / (plus + minus), 14)
    f |= {f"gap_ema_{n}": c / ema(c, n) - 1 for n in (10, 20, 50)}
    f |= {f"gap_mean_{n}": c / c.rolling(n).mean() - 1 for n in (20, 50)}
    f |= {f"atr_ratio_{n}": atr[n] / c for n in (7, 14, 28)} | {f"hvol_{n}": its for n, its in hvol.items()}
    high_low, open_close = np.log(h / low) ** 2, np.log(c / o) ** 2
    garman = 0.5 * high_low - (2 * np.log(2) - 1) * open_close
    for n in (10, 20):
        f[f"parkinson_{n}"] = np.sqrt((high_low / (4 * np.log(2))).rolling(n).mean())
        f[f"garman_{n}"] = np.sqrt(garman.rolling(n).mean().clip(lower=0))
    f |= {f"hvol_ratio_{n}_{m}": (hvol[n] / hvol[m]).clip(0, 10) for n, m in ((5, 20), (10, 60))}
    f["hvol_bar"] = np.log(h / low)
    middle, band = c.rolling(20).mean(), c.rolling(20).std(ddof=0)
    f |= {"bb_width": 4 * band / middle, "bb_position": ((c - middle + 2 * band) / (4 * band)).clip(-1, 2)}
    f["kc_position"] = ((c - ema(c, 20) + 2 * atr[20]) / (4 * atr[20])).clip(-1, 2)
    f |= {f"volume_ratio_{n}": (v / v.rolling(n).mean()).clip(0, 20) for n in (5, 20)}
    f |= {f"volume_zscore_{n}": its for n, its in z.items()}
    f |= {f"volume_zscore_50_lag_{lag}": z[50].shift(lag) for lag in (1, 2, 3, 5, 7, 10, 20, 40)}
    f |= {f"volume_trend_{n}": z[50].rolling(n).mean() for n in (5, 10, 20)}
    signed = np.sign(r) * v
    f |= {f"obv_{n}": signed.rolling(n).sum() / v.rolling(n).sum() for n in (10, 20)}
    location = (2 * c - h - low) / span
    f |= {"micro_clv": location, "micro_clv_10": location.rolling(10).mean(), "micro_body": (c - o) / span}
    f["micro_upper_shadow"] = (h - np.maximum(o, c)) / span
    f["micro_lower_shadow"] = (np.minimum(o, c) - low) / span
    f["micro_gap"] = o / before - 1
    beta = high_low + high_low.shift(1)
    two = np.log(np.maximum(h, h.shift(1)) / np.minimum(low, low.shift(1))) ** 2
    root = 3 - 2 * np.sqrt(2)
    alpha = (np.sqrt(2) - 1) * np.sqrt(beta) / root - np.sqrt(two / root)
    f["micro_corwin_schultz_20"] = (2 * (np.exp(alpha) - 1) / (1 + np.exp(alpha))).clip(lower=0).rolling(20).mean()
    f["micro_roll_20"] = 2 * np.sqrt((-r.rolling(20).cov(r.shift(1), ddof=0)).clip(lower=0))
    impact = r.abs() / v
    f["micro_amihud_20"] = np.log(impact / impact.rolling(20).mean()).clip(-5, 5)
    f["micro_kyle_20"] = r.rolling(20).corr(signed)
    # the covariance is divided by n and the deviations by n - 1, as ours are
    f["micro_autocorr_20"] = r.rolling(20).corr(r.shift(1)) * 19 / 20
    haar = [x, *(x.rolling(2**level).mean() for level in (1, 2, 3))]
    detail = {level: haar[level - 1] - haar[level] for level in (1, 2, 3)}
    energy = {level: (its**2).rolling(32).sum() for level, its in detail.items()}
    f["wavelet_close_approx"] = haar[0] - haar[3]
    for level, its in detail.items():
        f[f"wavelet_close_d{level}"] = its
        f[f"wavelet_close_energy_d{level}"] = energy[level] / sum(energy.values())
    steep = (haar[3] - haar[3].shift(8)).abs() / np.sqrt(8)
    f["wavelet_close_trend_strength"] = (steep / r.rolling(32).std()).clip(0, 10)
    hour = bars["ds"].dt.hour
    clock, week = (hour + bars["ds"].dt.minute / 60) * (2 * np.pi / 24), bars["ds"].dt.dayofweek * (2 * np.pi / 7)
    f |= {"hour_sin": np.sin(clock), "hour_cos": np.cos(clock)}
    f |= {"dayofweek_sin": np.sin(week), "dayofweek_cos": np.cos(week)}
    for name, first, last in (("asia", 0, 8), ("london", 7, 16), ("newyork", 13, 21)):
        f[f"session_{name}"] = ((hour >= first) & (hour < last)).astype(float)
    return pd.DataFrame(f)


PLAIN: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "plain10": plain_segment,
    "boosting_optimal": plain_boosting,
}
"""Feature set -> as much of it as pandas makes here, for one segment."""


def plain(bars: pd.DataFrame, name: str = "plain10") -> pd.DataFrame:
    """The columns of a set, segment by segment."""
    return pd.concat([PLAIN[name](part) for _, part in bars.groupby("segment", sort=False)])


def timed(run: Callable[[], Any], runs: int) -> float:
    """Median seconds of a call."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def check(frame: pl.DataFrame, bars: pd.DataFrame, name: str) -> int:
    """Stop unless both ways agree wherever smoothers have settled; returns the number of columns compared."""
    ours = build_bar_features(frame, [name], SCHEMA)[0]
    theirs = plain(bars, name)
    settled = frame.select(pl.int_range(pl.len()).over("segment") >= SETTLED).to_series().to_numpy()
    for column in theirs.columns:
        mine, other = ours[column].to_numpy()[settled], theirs[column].to_numpy()[settled]
        worst = float(np.abs(mine - other).max()) / max(1e-9, float(np.abs(mine).max()))
        if not worst <= TOLERANCE.get(column, DEFAULT_TOLERANCE):
            raise SystemExit(f"{column} differs from pandas by {worst:g} of its largest: no ratio is worth printing")
    return theirs.shape[1]


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
    compared = {name: check(frame, bars, name) for name in PLAIN}

    print(f"{args.bars:,} bars in {frame['segment'].n_unique()} segments, {pl.thread_pool_size()} threads")
    seconds = {name: timed(lambda name=name: build_bar_features(frame, [name], SCHEMA), args.runs) for name in SETS}
    for name, taken in seconds.items():
        print(f"{name:18} {len(FEATURE_SETS[name].columns):4} columns {taken:7.3f} s")
    for name, columns in compared.items():
        reference = timed(lambda name=name: plain(bars, name), args.runs)
        share = f"{columns} of {len(FEATURE_SETS[name].columns)} columns"
        print(f"{name} by pandas: {share} {reference:.3f} s, {reference / seconds[name]:.1f} times as long")


if __name__ == "__main__":
    main()
