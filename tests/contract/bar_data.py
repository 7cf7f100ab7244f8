"""Small bars with a planted signal, labelled and ready for classifiers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.bars import BarColumn, BarDataset, label_columns
from nightcast.contracts.columns import CLOSE, HIGH, ID, LOW, OPEN, SEGMENT, SESSION, TIME, VOLUME
from nightcast.contracts.fold import Fold
from nightcast.contracts.schema import BarsSchema, CostPlan, LabelPlan

START = datetime(2024, 1, 1)
HORIZONS = (1, 4)
LEAD = 64
"""Bars before a segment's first decision; longer than any cheap model's window."""
COLUMNS = {
    "signal": "momentum",
    "return_1": "momentum",
    "return_4": "momentum",
    "hvol_10": "volatility",
    "hour_sin": "calendar",
    "hour_cos": "calendar",
    "noise_a": "microstructure",
    "noise_b": "microstructure",
    "patchy": "microstructure",
    "constant": "microstructure",
}


def bar_dataset(
    sets: Iterable[str], *, freq: str = "30min", bars: tuple[int, ...] = (760, 700), noise: float = 1.0, seed: int = 11
) -> BarDataset:
    """One symbol per entry of `bars`; the last one has a gap in its middle.

    The next bar's return follows `signal`; `patchy` has missing values, `constant` does not vary. Labels are those of
    triple barriers at one past standard deviation times the root of the horizon.
    """
    schema = BarsSchema(freq=freq, horizons=HORIZONS)
    rng = np.random.default_rng(seed)
    frames, segment = [], 0
    for index, count in enumerate(bars):
        step = np.arange(count)
        gap = count // 2 if index == len(bars) - 1 else count
        late = np.where(step >= gap, 30, 0)
        number = segment + (step >= gap)
        segment = int(number[-1]) + 1
        signal = np.zeros(count)
        for t in range(1, count):
            signal[t] = 0.9 * signal[t - 1] + np.sqrt(1 - 0.81) * rng.normal()
        shock = noise * rng.normal(size=count)
        sigma = 0.002 * (1 + 0.5 * np.sin(2 * np.pi * step / 48))
        r = np.append(0.0, sigma[1:] * (0.8 * signal[:-1] + shock[1:]))
        close = 100 * np.exp(np.cumsum(r))
        open_ = np.append(100.0, close[:-1])
        wick = sigma * close * 0.3
        high = np.maximum(open_, close) + wick * rng.random(count)
        low = np.minimum(open_, close) - wick * rng.random(count)
        hour = 2 * np.pi * (step % 48) / 48
        patchy = rng.normal(size=count)
        patchy[rng.random(count) < 0.2] = np.nan
        hvol = pl.Series(r).rolling_std(10, min_samples=2).fill_null(strategy="backward").to_numpy()
        values = {
            "signal": signal + 0.1 * rng.normal(size=count),
            "return_1": r,
            "return_4": np.append(np.zeros(4), np.log(close[4:] / close[:-4])),
            "hvol_10": hvol,
            "hour_sin": np.sin(hour),
            "hour_cos": np.cos(hour),
            "noise_a": rng.normal(size=count),
            "noise_b": rng.normal(size=count),
            "patchy": patchy,
            "constant": np.ones(count),
        }
        targets = [label_columns(horizon)["y"] for horizon in HORIZONS]
        labels: dict[str, NDArray[np.generic]] = {}
        for horizon in HORIZONS:
            labels |= _labels(open_, high, low, close, hvol, number, horizon)
        times = [schema.freq.shift(START, int(s + shift)) for s, shift in zip(step, late, strict=True)]
        frames.append(
            pl.DataFrame(
                {
                    ID: ["AAA", "BBB", "CCC"][index],
                    TIME: pl.Series(times, dtype=pl.Datetime("us")),
                    SEGMENT: number,
                    SESSION: number,
                    OPEN: open_,
                    HIGH: high,
                    LOW: low,
                    CLOSE: close,
                    VOLUME: rng.lognormal(5, 0.3, count),
                    **values,
                    **labels,
                }
            ).with_columns(pl.when(pl.col(name) >= 0).then(pl.col(name)).alias(name) for name in targets)
        )
    frame = pl.concat(frames).sort(ID, TIME)
    return BarDataset(
        frame=frame,
        schema=schema,
        columns={name: BarColumn(block=block, warmup=10) for name, block in COLUMNS.items()},
        sets=dict.fromkeys(sorted(sets), tuple(COLUMNS)),
        as_of=frame[TIME].max(),  # type: ignore[arg-type]
        lead=LEAD,
        labels=LabelPlan(),
        costs=CostPlan(),
    )


def _labels(
    open_: NDArray[np.float64],
    high: NDArray[np.float64],
    low: NDArray[np.float64],
    close: NDArray[np.float64],
    sigma: NDArray[np.float64],
    segment: NDArray[np.int64],
    horizon: int,
) -> dict[str, NDArray[np.generic]]:
    count, names = len(close), label_columns(horizon)
    y, hold = np.full(count, -1, dtype=np.int8), np.zeros(count, dtype=np.int32)
    ret, width = np.full(count, np.nan), sigma * np.sqrt(horizon)
    for t in range(count - horizon):
        if segment[t + horizon] != segment[t]:
            continue
        entry = open_[t + 1]
        y[t], hold[t] = 1, horizon
        for k in range(1, horizon + 1):
            up, down = high[t + k] >= entry * (1 + width[t]), low[t + k] <= entry * (1 - width[t])
            if up or down:
                y[t], hold[t] = (1 if up and down else 2 if up else 0), k
                break
        ret[t] = close[t + hold[t]] / entry - 1
    return {
        names["y"]: y,
        names["hold"]: hold,
        names["ret"]: ret,
        names["width"]: width,
        names["ambiguous"]: np.zeros(count, dtype=bool),
    }


def last_fold(data: BarDataset, *, share: float = 0.8) -> Fold:
    """Training on the oldest `share` of the bars' time, every later decision in the test span."""
    times = data.frame.get_column(TIME).unique().sort()
    end = times[int(share * len(times))]
    return Fold("fold-00", None, end, (data.schema.freq.shift(end, 1), times[-1]))
