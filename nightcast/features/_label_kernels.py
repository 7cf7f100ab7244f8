"""Compiled loops of labels and weights; imported inside functions, because numba takes its time."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True)
def touch(
    open_: NDArray[np.float64],
    high: NDArray[np.float64],
    low: NDArray[np.float64],
    close: NDArray[np.float64],
    last: NDArray[np.int64],
    width: NDArray[np.float64],
    horizon: int,
    worst: bool,
) -> tuple[NDArray[np.int8], NDArray[np.int32], NDArray[np.float64], NDArray[np.bool_]]:
    """First touch of the barriers around the next bar's open; see `labels.triple_barrier`.

    `last[t]` is the last row of the session that `t` lies in.
    """
    n = len(close)
    y = np.full(n, -1, dtype=np.int8)
    hold = np.zeros(n, dtype=np.int32)
    ret = np.full(n, np.nan)
    ambiguous = np.zeros(n, dtype=np.bool_)
    for t in range(n):
        end = t + horizon
        w = width[t]
        if end > last[t] or not (w > 0.0) or not np.isfinite(w):
            continue
        entry = open_[t + 1]
        if not (entry > 0.0) or not np.isfinite(entry):
            continue
        upper, lower = entry * (1.0 + w), entry * (1.0 - w)
        found = False
        whole = True
        for i in range(t + 1, end + 1):
            if not (np.isfinite(open_[i]) and np.isfinite(high[i]) and np.isfinite(low[i]) and np.isfinite(close[i])):
                whole = False
                break
            up, down = high[i] >= upper, low[i] <= lower
            if not (up or down):
                continue
            found = True
            hold[t] = i - t
            if up and down:
                # a bar that opens beyond a barrier touched that one first; otherwise the order is unknown
                if open_[i] >= upper:
                    down = False
                elif open_[i] <= lower:
                    up = False
            if up and down:
                ambiguous[t] = True
                if worst:
                    y[t] = 0 if close[i] >= entry else 2
                    ret[t] = -w if close[i] >= entry else w
                else:
                    y[t] = 1
                    ret[t] = close[i] / entry - 1.0
            elif up:
                y[t] = 2
                ret[t] = max(w, open_[i] / entry - 1.0)
            else:
                y[t] = 0
                ret[t] = min(-w, open_[i] / entry - 1.0)
            break
        if not whole:
            y[t], hold[t], ret[t], ambiguous[t] = -1, 0, np.nan, False
        elif not found:
            y[t], hold[t], ret[t] = 1, horizon, close[end] / entry - 1.0
    return y, hold, ret, ambiguous


@numba.njit(cache=True)
def count_alive(rows: NDArray[np.int64], hold: NDArray[np.int32], total: int) -> NDArray[np.int64]:
    """Labels alive at each bar: label i covers the bars `rows[i] + 1 .. rows[i] + hold[i]`."""
    change = np.zeros(total + 1, dtype=np.int64)
    for i in range(len(rows)):
        change[rows[i] + 1] += 1
        change[min(rows[i] + hold[i] + 1, total)] -= 1
    return np.cumsum(change)[:total]


@numba.njit(cache=True)
def mean_over(
    rows: NDArray[np.int64], hold: NDArray[np.int32], values: NDArray[np.float64], divide: bool
) -> NDArray[np.float64]:
    """Sum (or mean) of `values` over each label's bars."""
    total = np.zeros(len(values) + 1)
    for i in range(len(values)):
        total[i + 1] = total[i] + values[i]
    out = np.empty(len(rows))
    for i in range(len(rows)):
        first, last = rows[i] + 1, min(rows[i] + hold[i], len(values) - 1)
        out[i] = total[last + 1] - total[first]
        if divide:
            out[i] /= max(1, last - first + 1)
    return out
